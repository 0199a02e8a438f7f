"""MBBQ: BBQ in English, Spanish, Dutch and Turkish (Neplenbroek et al., COLM 2024, arXiv 2406.07243).

Rows have the form of BBQ's, with persons in the file's language. In Gender_identity the stereotyped group is "F" or "M"
while persons are "mujer", "vrouw", "kadın", so a map of words is needed. The control set asks the same of first names
that stand for no group: a model that fails there has not understood, which is no bias. Its rows have no stereotyped
option. Templates are numbered as in BBQ, in all languages, so that translations are always in the same split.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

from crispr_lm.errors import InputError
from crispr_lm.tasks.base import Example
from crispr_lm.tasks.bbq import examples_from_rows
from crispr_lm.tasks.groups import NOT_FOUND, GroupMap, plain_name
from crispr_lm.tasks.jsonl import json_rows

NAME = re.compile(r"(?P<category>.+?)(?P<control>_control)?_(?P<language>en|es|nl|tr)\.jsonl")
"""Published names of files: Gender_identity_es.jsonl, Gender_identity_control_es.jsonl."""

WORDS = {
    "f": "woman women girl female mujer chica niña maestra vrouw meisje kadın kız",
    "m": "man men boy male hombre chico niño maestro jongen adam erkek",
}
"""Words of the four languages that say a person's gender; no word means both."""

GENDERS: GroupMap = {plain_name(word): group for group, words in WORDS.items() for word in words.split()} | {
    plain_name("erkek çocuk"): "m",
    plain_name("kız çocuk"): "f",
}


def read_mbbq(path: Path, groups: GroupMap | None = None, *, control: bool = False) -> list[Example]:
    """Read a published file, or the files of a folder that are in one language.

    Args:
        path: A file with its published name, which says the language; of a folder those of the set asked for.
        groups: Names of persons to groups, beside those known here.
        control: Whether to read the control set.

    Raises:
        InputError: a file is missing or unreadable, has another name, is of the other set, or a row is malformed; or a
            folder holds files of several languages.
    """
    examples = []
    for file, match in _files(path, control):
        read = examples_from_rows(json_rows(file), {**GENDERS, **(groups or {})}, words=True)
        for example in read:
            # BBQ's own facet ("persons") is told from English words.
            facets = () if control else tuple(pair for pair in example.facets if pair[0] == NOT_FOUND)
            stereotyped = None if control else example.stereotyped
            examples.append(replace(example, language=match["language"], stereotyped=stereotyped, facets=facets))
    return examples


read_control = partial(read_mbbq, control=True)


def _files(path: Path, control: bool) -> list[tuple[Path, re.Match[str]]]:
    there = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    named = [(file, match) for file in there if (match := NAME.fullmatch(file.name))]
    wanted = [(file, match) for file, match in named if bool(match["control"]) == control]
    if not wanted:
        kind, other = ("mbbq_control", "mbbq") if control else ("mbbq", "mbbq_control")
        what = f"folder {path} holds no file" if path.is_dir() else f"{path} is by its name no file"
        advice = f"read it with {other}:" if named else "give a file with its published name, such as Age_es.jsonl"
        raise InputError(f"{what} for {kind}:; {advice}")
    if len(languages := sorted({match["language"] for _, match in wanted})) > 1:
        raise InputError(
            f"folder {path} holds files in {', '.join(languages)}; give one file, or a folder of one language"
        )
    return wanted
