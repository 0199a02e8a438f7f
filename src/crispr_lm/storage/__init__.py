"""What is kept and read: whole files, folders of a run, locks, and untrusted input.

Nothing is re-exported: these are no part of the public API.
"""
