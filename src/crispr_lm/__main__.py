"""``python -m crispr_lm`` is ``crispr-lm``."""

from crispr_lm.cli import main

main()
