"""``python -m crispr_lm`` is ``crispr-lm``."""

import sys


def main() -> None:
    """Entry point of both; Ctrl-C while the command line itself is being imported ends without a traceback."""
    try:
        from crispr_lm.cli.commands import main as command
    except KeyboardInterrupt:
        print("crispr-lm: interrupted before anything was done", file=sys.stderr)
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
