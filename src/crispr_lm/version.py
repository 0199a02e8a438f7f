"""The version, in one place: read by the build, the command line and ``run.json``."""

__version__ = "0.1.0"
