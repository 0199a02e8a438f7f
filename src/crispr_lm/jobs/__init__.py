"""Jobs: where settings, folders and the library meet. One file each, with a function for the job: `run.run`.

Nothing is re-exported: a function that has the name of its file would hide the file.
"""
