"""The pages that `make pictures` writes into have a place for everything, and nothing else of them is touched."""

from pathlib import Path

import pytest

import pictures

ROOT = Path(__file__).parents[2]


def test_each_text_has_its_place_and_the_rest_of_the_page_stays():
    for name, places in (("tutorial.md", ("search", "result")), ("try-it.md", ("chat", "paint"))):
        page = (ROOT / "docs" / name).read_text(encoding="utf-8")
        for place in places:
            filled = pictures.filled(page, place, "new text")
            before, _, after = filled.partition("```text\nnew text\n```\n")
            assert page.startswith(before)
            assert page.endswith(after)
    with pytest.raises(ValueError, match="0 places for 'no such'"):
        pictures.filled("a page", "no such", "")


def test_the_lines_of_trials_are_wrapped_at_words():
    line = "trial 1: published, 100 neurons: " + "a long reason " * 10
    lines = pictures.search_lines(f"Loading\n{line}\nDone").splitlines()
    assert max(map(len, lines)) <= pictures.WIDTH
    assert " ".join(" ".join(lines).split()) == line.strip()
