"""The commands on the page of model organisms are those that the benchmark gives, and a run takes them."""

import shlex
from pathlib import Path

import organisms
from crispr_lm.cli.commands import app
from crispr_lm.jobs.search_settings import check_search
from crispr_lm.runtime.progress import SilentProgress

PAGE = Path(__file__).parents[2] / "docs" / "results" / "organisms.md"


def test_the_page_gives_the_command_of_every_row_and_a_run_takes_it():
    text = PAGE.read_text(encoding="utf-8")
    for way in organisms.WAYS:
        command = organisms.command(Path("MODEL"), Path(), way, Path("DIR"))
        assert shlex.join(command) in text
        _, bound, _ = app.parse_args(command[1:], exit_on_error=False, print_error=False)
        check_search(bound.arguments["settings"], SilentProgress())
