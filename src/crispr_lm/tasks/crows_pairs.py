"""CrowS-Pairs (Nangia et al., EMNLP 2020, arXiv 2010.00133): which of two sentences is likelier.

Reads the official ``crows_pairs_anonymized.csv``. Each example's options are the more and the less stereotyping
sentence. The paper scores masked models by pseudo-likelihood; here the likelihood of the whole sentence is compared,
as evaluation harnesses do for models that write from left to right.
"""

from __future__ import annotations

from pathlib import Path

from crispr_lm.errors import InputError
from crispr_lm.tasks.files import table_rows
from crispr_lm.tasks.task import SENTENCES, Example

COLUMNS = ("sent_more", "sent_less", "stereo_antistereo", "bias_type")
DIRECTIONS = ("stereo", "antistereo")
MORE, LESS = 0, 1


def read_crows_pairs(path: Path) -> list[Example]:
    """Read the official file.

    Raises:
        InputError: missing, unreadable or malformed (file and line are named).
    """
    examples: list[Example] = []
    for where, row in table_rows(path, COLUMNS, delimiter=","):
        if row["stereo_antistereo"] not in DIRECTIONS:
            raise InputError(
                f"{where}: stereo_antistereo is {row['stereo_antistereo']!r}, must be 'stereo' or 'antistereo'"
            )
        more, less = row["sent_more"].strip(), row["sent_less"].strip()
        if more == less:
            raise InputError(f"{where}: the two sentences are equal; make them differ")
        examples.append(
            Example(
                context="",
                question="",
                options=(more, less),
                answer=LESS,
                template=f"pair {len(examples)}",
                stereotyped=MORE,
                category=row["bias_type"].strip(),
                source=where,
                form=SENTENCES,
                facets=(("direction", row["stereo_antistereo"]),),
            )
        )
    return examples
