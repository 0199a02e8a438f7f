"""``report.html``: a run's folder as one self-contained page. Reads result files only, never a model.

Everything that comes from data or model is escaped: text by Jinja's autoescape, figures and examples as JSON in which
no "<" is left, set by the script as text.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.errors import InputError, on_one_line
from crispr_lm.metrics.registry import ordered_metrics
from crispr_lm.metrics.statistics import p_value_text
from crispr_lm.report import figures, words
from crispr_lm.report.changed import changed_answers, spread
from crispr_lm.report.glossary import glossary_of
from crispr_lm.report.neuron_map import LONGEST_LINE, NeuronLines, neuron_map
from crispr_lm.report.no_edit import no_edit, tried
from crispr_lm.report.search_figures import curve, front, front_of_one
from crispr_lm.report.shared import shared_record
from crispr_lm.report.side_effects import facts_sentence, other_kinds_sentence
from crispr_lm.report.statement import statement
from crispr_lm.report.summary import certain_losses, checks, headline
from crispr_lm.report.transfer import columns_of, rows_of, transfer_figure
from crispr_lm.report.validation_rows import PUBLISHED_NOTE, trials_of, validation_rows
from crispr_lm.storage.answers import read_answers
from crispr_lm.storage.files import write_bytes
from crispr_lm.storage.records import MALFORMED, read_object
from crispr_lm.storage.run_folder import RunFolder, failures
from crispr_lm.storage.sanitize import all_visible, visible
from crispr_lm.storage.stages import JUDGING

PUBLISHED = "published"
"""The paper's ranking in the recipe of a trial."""

MOST_EXAMPLES = 5000
"""Changed answers that the page carries (some 3 MB of text, shown forty at a time); all are in answers.jsonl."""


def write_report(path: Path, results: Mapping[str, Any] | None = None) -> Path:
    """Write ``report.html`` into a finished run's folder.

    Args:
        path: The folder.
        results: The content of ``results.json``; None to read it.

    Raises:
        InputError: the folder holds no finished run, or one of another version.
    """
    folder = RunFolder(path)
    run, edit = read_object(folder.run), read_object(folder.edit)
    content_read = read_object(folder.results) if results is None else json.loads(json.dumps(results))
    answers, scores = read_answers(folder.answers), NeuronScores.load(folder.scores)
    try:
        content = render_report(run, content_read, edit, answers, scores)
    except (jinja2.TemplateError, *MALFORMED) as error:
        raise InputError(
            f"{path} is not what this version's crispr-lm run writes ({on_one_line(error)}); run it anew"
        ) from error
    write_bytes(folder.report, content.encode("utf-8"))
    return folder.report


def render_report(
    run: Mapping[str, Any],
    results: Mapping[str, Any],
    edit: Mapping[str, Any],
    answers: Sequence[Mapping[str, Any]],
    scores: NeuronScores,
) -> str:
    """The page as text."""
    run = shared_record(run)
    halves = words.has_halves(results)
    described = _described(results.get("neurons", []), results.get("strongest", []))
    categories = _categories(results)
    columns = columns_of(results, list(run["parts"]))
    changed = changed_answers(answers)
    on_trial = [row for row in results["search"] if row.get("stage") not in JUDGING]  # asked the same questions
    pareto = partial(front, on_trial, results["edit"]["neurons"]) if halves else partial(front_of_one, on_trial)
    drawn = {
        "tasks": figures.before_after(list(results["tasks"].items())),
        **{f"categories-{number}": figures.before_after(rows) for number, rows in enumerate(categories.values())},
        "front": pareto(results.get("choice")),
        "curve": curve(on_trial, halves=halves),
        "neurons": neuron_map(scores, edit["neurons"], described),
        "transfer": transfer_figure(results, columns),
    }
    template = page_environment().get_template("report.html.j2")
    return template.render(
        **shared_assets(),
        controls=validation_rows(results),
        published_note=PUBLISHED_NOTE,
        reevaluated=reevaluated(results),
        categories=list(categories),
        found_on=list(run["parts"]),
        elsewhere=[name for name in dict(rows_of(results)) if name not in run["parts"]],
        columns=columns,
        tried=tried(results["search"]),
        halves=halves,
        figures={name: figure_data(figure) for name, figure in drawn.items() if figure is not None},
        examples=_json(spread(changed, MOST_EXAMPLES)),
        changed=len(changed),
        carried=min(len(changed), MOST_EXAMPLES),
        headline=headline(results),
        why=no_edit(results) if results["verdict"] == "none" else None,
        checks=checks(results),
        losses=certain_losses(results),
        glossary=glossary_of(results),
        statement=statement(results),
        failures=[words.sentence(failure) for failure in failures(results)],
        side_effects=[found for found in (facts_sentence(results), other_kinds_sentence(results)) if found],
        saved=words.saved(results["saved_model"]),
        scored=[neuron for neuron in results["neurons"] if neuron["score"] is not None],
        promoting=[neuron for neuron in results["neurons"] if neuron["promotes"]],
        score_kind=scores.kind,
        results=results,
        breakdowns={name: _breakdowns(task) for name, task in results["tasks"].items()},
        tables={name: _table(task) for name, task in results["tasks"].items()},
        run=run,
        edit=edit,
        settings=sorted(run["identity"]["settings"].items()),
    )


def page_environment() -> jinja2.Environment:
    """How pages are made: every text is escaped unless it is marked as markup."""
    environment = jinja2.Environment(
        autoescape=True, loader=jinja2.FunctionLoader(_asset), trim_blocks=True, lstrip_blocks=True, finalize=_finalized
    )
    filters: dict[str, Callable[..., Any]] = {
        "spoken": words.spoken,
        "figure": lambda value: "-" if value is None else f"{value:.3f}",
        "signed": lambda value: "-" if value is None else words.signed(value),
        "percent": lambda value: "-" if value is None else f"{value:.1%}",
        "p": p_value_text,
        "left_out": words.left_out,
        "short": words.short,
        "sentence": words.sentence,
        "setting": _setting,
        "token": lambda text: text.replace("\n", "⏎\n") if text.strip("\n") else "⏎" * len(text) + "\n" * len(text),
        "quoted": shlex.quote,
    }
    environment.filters |= filters
    return environment


def shared_assets() -> dict[str, Markup]:
    """What every page carries within itself: style, script and the plotting library."""
    from plotly.offline import get_plotlyjs

    return {
        "style": Markup(_asset("report.css")),
        "script": Markup(_asset("report.js")),
        "plotly": Markup(get_plotlyjs()),
    }


def figure_data(figure: Any) -> Markup:
    """A Plotly figure as JSON in which nothing can end the script element."""
    return _json(json.loads(figure.to_json()))


def reevaluated(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Trials that were re-evaluated: ``tried`` on the first examples, ``again`` on further ones too."""
    trials = trials_of(results)
    rows = [trials[number] for number in (results.get("choice") or {}).get("finals", [])[1:]]  # behind the original
    return [{"tried": trials[row["recipe"]["of"]], "again": row} for row in rows]


def _categories(results: Mapping[str, Any]) -> dict[str, list[tuple[str, Mapping[str, Any]]]]:
    """Bias task to the figures of each of its categories (or types, or other parts that its benchmark has)."""
    by_task: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for name, task in results["tasks"].items():
        rows: list[tuple[str, Mapping[str, Any]]] = [
            (words.spoken(value if facet == "category" else f"{facet} {value}"), {"family": task["family"], **part})
            for facet, values in task.get("breakdown", {}).items()
            for value, part in values.items()
        ]
        if task["role"] == "bias" and rows:
            by_task[name] = rows
    return by_task


def _described(
    neurons: Sequence[Mapping[str, Any]], strongest: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str], NeuronLines]:
    """Kind and module to descriptions of its strongest and its edited neurons: unit, score, promoted tokens."""
    described: dict[tuple[str, str], NeuronLines] = {}
    for name, rows in (("strongest", strongest), ("edited", neurons)):
        for neuron in rows:
            tokens = ", ".join(repr(token) for token in neuron["promotes"])
            score = "" if neuron["score"] is None else f": score {neuron['score']:.3g}"
            line = f"unit {neuron['index']}{score}" + (f", promotes {tokens}" if tokens else "")
            lines = described.setdefault((neuron["kind"], neuron["module"]), NeuronLines())
            getattr(lines, name).append(figures.plain(figures.clipped(line, LONGEST_LINE)))
    return described


def _table(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for metric in ordered_metrics(task["family"], task["before"]):
        found = task["statistics"][metric.name]
        before, after = task["before"][metric.name], task["after"][metric.name]
        gain = 0.0 if before is None or after is None else metric.gain(before, after)
        rows.append(
            {
                "label": metric.label,
                "before": before,
                "after": after,
                "class": "good" if gain > 5e-4 else "bad" if gain < -5e-4 else "",
                **{
                    f"{figure}_{when}": task["spread"][when][metric.name][figure]
                    for figure in ("std", "worst")
                    for when in ("before", "after")
                },
                **found,
            }
        )
    return rows


def _breakdowns(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What leads a task's metrics, apart for every value of a facet: name of the facet, heads of columns, rows."""
    tables = []
    for facet, values in (task.get("breakdown") or {}).items():
        metrics = {
            metric.name: metric for part in values.values() for metric in words.leading(task["family"], part["before"])
        }
        rows = [
            {
                "value": words.spoken(value),
                "examples": part["examples"],
                "cells": [
                    {
                        "before": part["before"].get(name),
                        "after": part["after"].get(name),
                        **{f"std_{when}": _deviation(part, when, name) for when in ("before", "after")},
                        **(part["statistics"].get(name) or {"low": None, "high": None, "p_value_holm": None}),
                    }
                    for name in metrics
                ],
            }
            for value, part in values.items()
        ]
        tables.append(
            {"facet": facet, "heads": [words.column_name(metric) for metric in metrics.values()], "rows": rows}
        )
    return tables


def _deviation(part: Mapping[str, Any], when: str, metric: str) -> float | None:
    """Of a part of a task over instructions; None where the part has no such figure."""
    found: float | None = part["spread"][when].get(metric, {}).get("std")
    return found


def _setting(value: Any) -> str:
    """A setting as people write it."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_setting, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _finalized(value: Any) -> Any:
    """A text with what would turn its direction written out; markup of our own as it is."""
    return visible(value, keep_lines=True) if isinstance(value, str) and not isinstance(value, Markup) else value


def _json(content: Any) -> Markup:
    """JSON that can stand inside a script element: no "<" in it can end one, and no text in it is turned round."""
    content = all_visible(content)
    return Markup(json.dumps(content, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))


def _asset(name: str) -> str:
    return (resources.files("crispr_lm.report") / "assets" / name).read_text(encoding="utf-8")
