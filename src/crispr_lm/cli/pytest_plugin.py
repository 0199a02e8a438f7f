"""Plugin for pytest: every rule of a file is a test, and the model is asked once for all of them.

    pytest --crispr-rules rules.toml --crispr-model MODEL --junitxml report.xml

pytest loads this wherever crispr-lm is installed, so nothing heavy is imported before a rule is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

NAME = "crispr-rules"
MARKER = "crispr_rules"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("crispr-lm", "rules that a language model must keep to (crispr-lm)")
    group.addoption("--crispr-rules", metavar="FILE", help="TOML file of rules, or builtin:bbq and the like")
    group.addoption("--crispr-model", metavar="MODEL", help="hub id, local folder, .gguf file or builtin:smollm2")
    group.addoption(
        "--crispr-baseline", metavar="MODEL", help="model or stored answers that losses are measured against"
    )
    group.addoption(
        "--crispr-task", metavar="KIND:PATH", action="append", default=[], help="data for a task that names none"
    )
    group.addoption(
        "--crispr-option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="any other option of crispr-lm check, such as dtype=bfloat16 or questions=100",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and refuse rules without a model."""
    config.addinivalue_line("markers", f"{MARKER}: a rule of --crispr-rules (select these alone with -m {MARKER})")
    if config.getoption("--crispr-rules") and not config.getoption("--crispr-model"):
        raise pytest.UsageError("--crispr-rules needs --crispr-model")
    if config.getoption("--crispr-model") and not config.getoption("--crispr-rules"):
        raise pytest.UsageError("--crispr-model needs --crispr-rules")


@pytest.hookimpl(tryfirst=True)  # before tests are deselected by -m and -k
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add a test for each rule."""
    if config.getoption("--crispr-rules"):
        collector = RuleCollector.from_parent(session, name=NAME, nodeid=NAME)
        items.extend(collector.collect())


class RuleCollector(pytest.Collector):
    """The rules of the file, and what became of them."""

    _result: dict[str, Any] | None = None
    _error: Exception | None = None

    def collect(self) -> Iterator[RuleItem]:
        """A test for each rule.

        Raises:
            pytest.UsageError: the file can't be used.
        """
        from crispr_lm.errors import InputError
        from crispr_lm.evaluation.rules import read_rules

        try:
            rules = read_rules(self.config.getoption("--crispr-rules")).rules.rules
        except InputError as error:
            raise pytest.UsageError(str(error)) from error
        for number, rule in enumerate(rules):
            yield RuleItem.from_parent(self, name=f"{rule.metric} {rule.form} {rule.limit:g}", number=number)

    def result(self) -> dict[str, Any]:
        """The result of `crispr_lm.jobs.check.check`; the model is asked the first time.

        Raises:
            CrisprError: it can't be checked; every rule says so.
        """
        from crispr_lm.errors import CrisprError

        if self._error is not None:
            raise self._error
        if self._result is None:
            given = self.config.getoption
            options = dict(one.partition("=")[::2] for one in given("--crispr-option"))
            options |= {"baseline": given("--crispr-baseline"), "task": tuple(given("--crispr-task"))}
            try:
                self._result = checked(given("--crispr-model"), given("--crispr-rules"), **options)
            except CrisprError as error:
                self._error = error
                raise
        return self._result


class RuleItem(pytest.Item):
    """One rule."""

    def __init__(self, number: int, **more: Any) -> None:
        super().__init__(**more)
        self.number = number
        self.add_marker(MARKER)

    def runtest(self) -> None:
        """Fail unless the rule holds; the figures go into the JUnit report."""
        from crispr_lm.report.check import outcome_line

        assert isinstance(self.parent, RuleCollector)
        result = self.parent.result()
        rule = result["rules"][self.number]
        for name in ("outcome", "value", "baseline", "low", "high", "confidence", "templates", "templates_needed"):
            self.user_properties.append((name, rule[name]))
        if rule["outcome"] != "holds":
            raise RuleNotKeptError(outcome_line(rule, result["tasks"]))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *more: Any, **options: Any) -> Any:
        """One sentence, without a traceback, for a rule and for a mistake of the user."""
        from crispr_lm.errors import CrisprError

        if isinstance(excinfo.value, (RuleNotKeptError, CrisprError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, *more, **options)

    def reportinfo(self) -> tuple[Any, None, str]:
        """Where it stands."""
        return self.config.rootpath / NAME, None, self.name


class RuleNotKeptError(Exception):
    """A rule fails, or there are too few questions to tell."""


def checked(model: str, rules: str, **options: Any) -> dict[str, Any]:
    """Check a model against rules; options are those of ``crispr-lm check``.

    Raises:
        InputError: the model, the rules or an option can't be used.
    """
    from pydantic import ValidationError

    from crispr_lm.cli.mistakes import settings_sentence
    from crispr_lm.cli.output import quiet_libraries
    from crispr_lm.errors import InputError
    from crispr_lm.jobs.check import check
    from crispr_lm.other_settings import CheckSettings

    quiet_libraries()
    try:
        settings = CheckSettings(rules=str(rules), **options)
    except ValidationError as error:
        raise InputError(settings_sentence(error)) from error
    return check(model, settings)


@pytest.fixture(scope="session")
def crispr_check() -> Callable[..., dict[str, Any]]:
    """A function that checks a model: ``crispr_check("MODEL", "rules.toml")["outcome"] == "holds"``."""
    return checked
