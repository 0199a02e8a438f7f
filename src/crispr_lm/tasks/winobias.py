"""WinoBias (Zhao et al., NAACL 2018, arXiv 1804.06876): whom does the pronoun refer to, with or against the stereotype?

Reads the official files ``{pro,anti}_stereotyped_type{1,2}.txt.{dev,test}`` (a folder of them, or one), in which a
number begins each line and brackets mark the pronoun and the person it refers to. The other person is found by the
occupations that are marked anywhere in the files. Asked as a question with both persons as options.
"""

from __future__ import annotations

import re
from pathlib import Path

from crispr_lm.errors import InputError
from crispr_lm.tasks.base import Example
from crispr_lm.tasks.files import text_lines

FILE_NAME = re.compile(r"(?P<stereotype>pro|anti)_stereotyped_type(?P<type>[12])\.txt\.(?P<part>\w+)$")
MARKED = re.compile(r"\[([^\]]+)\]")
PRONOUNS = ("he", "she", "him", "her", "his", "hers", "himself", "herself")

LINE_NUMBER = re.compile(r"[0-9]{1,9}")


def read_winobias(path: Path) -> list[Example]:
    """Read an official file, or every one in a folder.

    Raises:
        InputError: missing or unreadable, another file name, or a malformed line (file and line are named).
    """
    files = sorted(file for file in path.iterdir() if FILE_NAME.search(file.name)) if path.is_dir() else [path]
    if not files:
        raise InputError(f"folder {path} holds no file such as pro_stereotyped_type1.txt.dev; give the official files")
    lines = [(file, where, line) for file in files for where, line in text_lines(file)]
    occupations = {
        _person(text) for _, _, line in lines for text in MARKED.findall(line) if text.lower() not in PRONOUNS
    }
    # The longest names first, so that none is found inside another.
    names = "|".join(re.escape(name) for name in sorted(occupations, key=len, reverse=True))
    known = re.compile(rf"\b(?:{names})\b")
    return [_example(file, where, line, known) for file, where, line in lines]


def _example(file: Path, where: str, line: str, known: re.Pattern[str]) -> Example:
    name = FILE_NAME.search(file.name)
    if name is None:
        raise InputError(
            f"{file}: the name must be that of an official file, such as pro_stereotyped_type1.txt.dev; give these"
        )
    number, _, marked_sentence = line.strip().partition(" ")
    marked = MARKED.findall(marked_sentence)
    pronouns = [text for text in marked if text.lower() in PRONOUNS]
    people = [_person(text) for text in marked if text.lower() not in PRONOUNS]
    if not LINE_NUMBER.fullmatch(number) or not pronouns or len(set(people)) != 1:
        raise InputError(
            f"{where}: needs a number and a sentence with a [person] and their [pronoun] in brackets; fix it"
        )
    sentence = MARKED.sub(r"\1", marked_sentence)
    options = list(dict.fromkeys(known.findall(sentence.lower())))[:2]  # a third one is no more than mentioned
    if len(options) != 2 or people[0] not in options:
        raise InputError(f"{where}: {len(options)} known occupation(s) mentioned, must be two; give the whole folder")
    answer = options.index(people[0])
    follows = name["stereotype"] == "pro"
    return Example(
        context=sentence,
        question=f'Who does "{pronouns[0]}" refer to?',
        options=(f"the {options[0]}", f"the {options[1]}"),
        answer=answer,
        # Lines 1 and 2, 3 and 4, ... are made from one sentence, and the pro and anti file hold the same sentences.
        template=f"type {name['type']}/{name['part']}/{(int(number) - 1) // 2}",
        stereotyped=answer if follows else 1 - answer,
        category="gender",
        source=where,
        facets=(("stereotype", name["stereotype"]), ("type", name["type"])),
    )


def _person(text: str) -> str:
    return re.sub(r"^(the|a|an)\s+", "", text.strip().lower())
