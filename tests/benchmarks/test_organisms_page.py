"""The page of `benchmarks/organisms.py`: what people have written into it stays."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import organisms
import search_page


def results(seconds):
    figures = dict.fromkeys([*organisms.FIGURES, "accuracy"], 0.5)
    told = {figure: {"value": 0.25, "low": 0.125, "high": 0.375} for figure in figures}
    task = {"before": figures, "after": figures, "statistics": told}
    return {
        "tasks": {"bias": task, "other": task},
        "neurons": [{}] * 3,
        "verdict": "recommended",
        "reason": "3 neurons",
        "seconds": seconds,
    }


def test_what_people_have_written_stays_behind_the_table():
    grown = {"decoder-only": {"parameters": 9, "lessons": {}}}
    begins, ends = search_page.BY_HAND
    pages = []
    for seconds in (1, 2):
        edited = {"decoder-only": {"search": results(seconds)}}
        pages.append(organisms.page(grown, edited, ["--work", "DIR"], pages[0] if pages else ""))
        pages[0] = pages[0].replace(f"{begins}\n{ends}", f"{begins}\n**Written.** By somebody.\n{ends}")
    assert "search 2 s" in pages[1]
    assert "search 1 s" not in pages[1]
    written = pages[1].index("**Written.** By somebody.")
    assert pages[1].index("| decoder-only | search | 3 |") < written < pages[1].index("In brackets")
