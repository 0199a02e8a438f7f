"""The command line: parse, call a job, print. Nothing is imported here, so that ``crispr-lm --help`` stays fast."""
