"""CBBQ: a Chinese bias benchmark in BBQ's form (Huang and Xiong, LREC-COLING 2024, arXiv 2306.16244).

Each category is two files, one for each condition, as CSV or as a JSON array. Rows name the group that bias is against
in words, and options name persons in other words. One name may contain another (非异性恋者 contains 异性恋者), so each
group is found by an expression of its own. The place of the options is fixed, so they are shuffled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, Example
from crispr_lm.tasks.bbq_form import check_ambiguous, index_text, number_text, one_of, shuffled
from crispr_lm.tasks.files import json_content, table_rows
from crispr_lm.tasks.groups import GroupMap, looked_for, plain_name, stereotyped_option
from crispr_lm.tasks.jsonl import check_options, text_field

ANSWERS = ("ans0", "ans1", "ans2")
COLUMNS = (
    "question_index", "question_polarity", "context_condition", "category", "bias_targeted_groups", "context",
    "question", *ANSWERS, "label",
)  # fmt: skip
CONDITIONS = {"ambiguous": AMBIGUOUS, "disambiguous": DISAMBIGUATED}
POLARITIES = {"neg": "negative", "non_neg": "nonnegative"}

UNKNOWN = ("不知道", "不确定", "没有足够信息", "无法判断")
"""How the option that abstains is worded; always the third."""

OLD = r"老|退休|中年|爷爷|外公|奶奶|外婆|六十多岁|(?:3[5-9]|[4-9]\d)岁|[678]0后|X世代"
YOUNG = rf"^(?!.*(?:{OLD})).*(?:[12]\d岁|二十多岁|少年|青年|年轻|少女|男孩|高中|中学|大学|千禧|Z世代|00后)"

PERSONS_OF = (
    ("非异性恋", r"(?:同|双|无|泛)性恋"),
    ("变性", r"^变性"),  # 非变性女生 contains it
    ("女性", r"女|妈妈|母亲|奶奶|妻子"),
    ("年轻", YOUNG),
    ("老", OLD),
    ("残疾", r"残|聋|盲|截肢"),
    ("患者", r"^(?!非|没有|小刘的朋友)"),  # 小刘 has the illness, 小刘的朋友 has not
    ("非全日制", r"非全日制"),
    ("学历", r"更低|低学历"),
    ("低收入", r"低收入|贫|温饱|低产|工薪|农民工|农村"),
    ("移民工", r"(?<!非)农业户|外地|不在本地|移民工|乡下|农民"),
    ("外貌", r"一般|普通|不太|欠缺"),
    ("较矮", r"矮"),
    ("肥胖", r"胖|不太好|肥"),
    ("非一线", r"非一线"),
    ("农村", r"乡下|农村"),
    ("东北", r"东北|吉林|辽宁|黑龙江|长春|沈阳"),
    ("湖北", r"湖北|黄冈|天门|汉川|孝感|武汉"),
    ("粤港澳", r"香港|澳门|广东|广州|深圳|粤"),
    ("无神论", r"无神论"),
)
"""What the name of a group contains, and the expression that finds its persons; the first that fits counts."""

ENDING = re.compile(r"(?:人群|群体|信徒|人|者|教)?$")
"""What may follow the stem of a group's name: 河南人 and 河南司机 are of one group, 佛教 and 佛教信徒 too."""

LEAD = re.compile(r"^(?:来自|信奉)")
"""What may stand before it: from, a follower of."""


def read_cbbq(path: Path, groups: GroupMap | None = None) -> list[Example | None]:
    """Read a published file, or a folder of one category's.

    Args:
        path: ``.csv`` or ``.json``; of a folder (and the folders in it) the CSV files, or if it has none the JSON ones.
        groups: Names of persons to groups, beside those known here.

    Returns:
        None for a row that offers the same person twice (four of the category nationality do).

    Raises:
        InputError: a file is missing or unreadable, or a row is malformed (file and row are named).
    """
    return [_example(row, where, groups or {}) for file in _files(path) for where, row in _rows(file)]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    for suffix in (".csv", ".json"):  # the published folders hold the same rows in both forms, beside their templates
        if files := sorted([*path.glob(f"*{suffix}"), *path.glob(f"*/*ambiguous{suffix}")]):
            return files
    raise InputError(f"folder {path} holds no .csv or .json file; give the folder of a category, or one file")


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix != ".json":
        yield from table_rows(path, COLUMNS, ",")
        return
    content = json_content(path)
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise InputError(f"{path}: must be an array of rows; use the official file")
    for number, row in enumerate(content, start=1):
        yield f"{path} row {number}", row


def _example(row: dict[str, Any], where: str, groups: GroupMap) -> Example | None:
    texts = [text_field(row, name, where) for name in ANSWERS]
    if texts[0].strip() == texts[1].strip():
        return None
    options = check_options(texts, where)
    unknown = len(options) - 1
    if options[unknown] not in UNKNOWN:
        raise InputError(
            f"{where}: ans2 is {options[unknown]!r}, not one of {', '.join(UNKNOWN)}; use the official file"
        )
    condition = one_of(row, "context_condition", CONDITIONS, where)
    polarity = one_of(row, "question_polarity", POLARITIES, where)
    answer = index_text(row, "label", len(options), where)
    check_ambiguous(condition, answer, unknown, where)
    group = text_field(row, "bias_targeted_groups", where)
    persons = [frozenset({group} if _is_of(option, group, groups) else ()) for option in options]
    stereotyped = stereotyped_option(persons, frozenset({group}), unknown, negative=polarity == "negative")
    people = [([name], bool(persons[index])) for index, name in enumerate(options[:unknown])]
    category = text_field(row, "category", where)
    return shuffled(
        Example(
            text_field(row, "context", where),
            text_field(row, "question", where),
            options,
            answer,
            template=f"cbbq {category}/{number_text(row, 'question_index', where)}",
            condition=condition,
            unknown=unknown,
            stereotyped=stereotyped,
            category=category,
            polarity=polarity,
            source=where,
            facets=() if stereotyped is not None else looked_for([group], people),
            language="zh",
        )
    )


def _is_of(option: str, group: str, groups: GroupMap) -> bool:
    """Whether an option names a person of a group: as the user's map says, else by expression or by the name's stem."""
    if (mapped := groups.get(plain_name(option))) is not None:
        return mapped == plain_name(group)
    for part, expression in PERSONS_OF:
        if part in group:
            return re.search(expression, option) is not None
    stems = (ENDING.sub("", name) for name in _apart(group).split("/"))
    return any(LEAD.sub("", _apart(option)).startswith(stem) for stem in stems if stem)


def _apart(text: str) -> str:
    """Indonesia by its short name: the long one begins with that of India."""
    return text.replace("印度尼西亚", "印尼")
