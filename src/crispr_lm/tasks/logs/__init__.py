"""Logs of evaluation tools, read for the prompts that failed there. One file per tool, one form of what they find."""
