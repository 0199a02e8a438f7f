"""The table of `make robust`: counts are what tests have reported, and nothing that failed looks like a success."""

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
    changes = ["# crispr_lm.edits.edit.x__mutmut_1: survived\n-    a + b\n+    a - b"]
    page = robust.page({"mutants": robust.section("mutants", rows, changes, ["--sample", "40"], 90)})
    assert "`python benchmarks/robust.py --sample 40`" in page
    assert "| edit, of 376 | 40 | killed 39, survived 1 |" in page
    assert "+    a - b" in page


def test_a_part_by_itself_leaves_what_the_page_says_of_the_other():
    row = robust.Row("inputs", "files: edit", 10_000, "read 12", passed=True)
    mutants = robust.section(
        "mutants", [robust.Row("mutants", "edit", 40, "killed 40", passed=True)], [], ["--only", "m"], 60
    )
    first = robust.page({"mutants": mutants})
    both = robust.page({"inputs": robust.section("inputs", [row], [], ["--only", "inputs"], 1)}, first)
    assert both.index("| files: edit | 10,000 | read 12 |") < both.index("| edit | 40 | killed 40 |")
    again = robust.section("inputs", [robust.Row("inputs", "files: task", 7, "read 7", passed=True)], [], [], 1)
    changed = robust.page({"inputs": again}, both)
    assert "files: edit" not in changed
    assert "| files: task | 7 | read 7 |" in changed
    assert changed.count("| edit | 40 | killed 40 |") == 1


def test_tests_that_fail_fail_the_whole(tmp_path, monkeypatch):
    failing = tmp_path / "tests" / "robustness"
    failing.mkdir(parents=True)
    (failing / "test_it.py").write_text("def test_it(): assert False")
    monkeypatch.setattr(robust, "ROOT", tmp_path)
    monkeypatch.setattr(robust, "ROBUSTNESS", failing)
    (row,) = robust.run_tests("inputs", cases=1, kills=1)
    assert not row.passed
    assert row.tried == 1
    assert row.ends == "pytest ended with 1"


def test_every_robustness_test_belongs_to_one_part():
    parts = [name for part in robust.PARTS if part != "mutants" for name in robust.test_files(part)]
    assert sorted(parts) == sorted(f"tests/robustness/{path.name}" for path in robust.ROBUSTNESS.glob("test_*.py"))
