"""Two answers of one model, token by token: its own, and beside it the one it gives with an edit.

They grow in turn: an edit is applied while a token of the edited answer is computed and gone before the next token of
the other, so that nothing is held twice. Knows conversations, an edit and a model; knows no terminal and no page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from crispr_lm.edits.edit import Edit
from crispr_lm.inference.streaming import Decoding, stream_answer

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel


def stream_both(
    lm: LanguageModel, edit: Edit, original: Sequence[str], edited: Sequence[str], decoding: Decoding
) -> Iterator[tuple[str, str]]:
    """Answer with and without an edit at once.

    Args:
        lm: The model, unedited.
        edit: Made for it.
        original: The conversation with the original model: user and model in turn, the user first and last.
        edited: The one with the edited model.
        decoding: How answers are written.

    Yields:
        Both answers so far, each time either has grown; the last pair is complete.

    Raises:
        EditMismatchError: the edit was made for another model.
        InputError: a conversation does not fit the model's context.
    """
    sides = [stream_answer(lm, original, decoding), stream_answer(lm, edited, decoding, edit.checked(lm))]
    answers, going = ["", ""], [True, True]
    while any(going):
        for index, side in enumerate(sides):
            if going[index]:
                grown = next(side, None)
                going[index] = grown is not None
                if grown is not None:
                    answers[index] = grown
                    yield answers[0], answers[1]
