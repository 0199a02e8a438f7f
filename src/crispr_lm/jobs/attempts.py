"""What comes after the work (a page, a card, an upload, a second check): where it fails, the work stays.

A job writes its results first. Each later step is an attempt: its failure becomes a sentence in the results, on the
page and in the terminal, and the exit status is 1.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from crispr_lm.errors import CrisprError, on_one_line
from crispr_lm.runtime.distributed import on_first, with_model

logger = logging.getLogger(__name__)


def attempt(work: Callable[[], object], *, runs_model: bool = False) -> str | None:
    """Do something on rank 0 that may fail; why it did, in a sentence, or None.

    What runs the model is done by all ranks where each holds a part of it (`with_model`). Errors of every type are
    caught, defects of ours among them (the log's debug level has their trace); Ctrl-C and the like are not.
    """

    def tried() -> str | None:
        try:
            work()
        except Exception as error:
            logger.debug("a step after the work has failed", exc_info=True)
            return reason_of(error)
        return None

    return with_model(tried) if runs_model else on_first(tried)


def reason_of(error: Exception) -> str:
    """What an error says, in a sentence: our own ones as they are, others with their type."""
    return str(error) if isinstance(error, CrisprError) else on_one_line(error)
