"""The table of `make robust`: counts are what tests have reported, and nothing that failed looks like a success."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import robust


def test_counts_are_told_as_tests_report_them():
    reports = [
        {"what": "kills of run", "kills": 20, "steps": 9, "lost": 0},
        {"parser": "edit", "read": 12, "refused": 9988},
    ]
    rows = {row.what: (row.tried, row.ends) for row in robust.tried_rows(reports)}
    assert rows == {
        "kills of run": (20, "steps 9, lost 0"),
        "files: edit": (10_000, "read 12, refused 9,988"),
    }


def test_the_page_names_the_command_and_every_mutant_that_went_unnoticed():
    rows = [robust.Row("mutants", "edit, of 376", 40, "killed 39, survived 1", passed=True)]
    page = robust.page(rows, ["# crispr_lm.edit.x__mutmut_1: survived\n-    a + b\n+    a - b"], ["--sample", "40"])
    assert "`python benchmarks/robust.py --sample 40`" in page
    assert "| mutants | edit, of 376 | 40 | killed 39, survived 1 |" in page
    assert "+    a - b" in page


def test_tests_that_fail_fail_the_whole(tmp_path, monkeypatch):
    failing = tmp_path / "tests" / "robustness"
    failing.mkdir(parents=True)
    (failing / "test_it.py").write_text("def test_it(): assert False")
    monkeypatch.setattr(robust, "ROOT", tmp_path)
    (row,) = robust.run_tests(cases=1, kills=1)
    assert not row.passed
    assert row.ends == "pytest ended with 1"
