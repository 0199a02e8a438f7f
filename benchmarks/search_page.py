"""The page of `search.py`: what its files say, as docs/results/search.md.

    python benchmarks/search.py table out/*.json --output docs/results/search.md

Targets first, then which rankings brought it about, then every category with all rows. What people have written into
the page stays where the page is written anew: before the targets, and at the end. Knows the files alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crispr_lm.search.trial import TOLERANCE, Figures, Limits

LOSSES = (0.05, 0.15)
"""Limits on the loss of disambiguated accuracy that the search is asked to keep."""
TARGETS = {0.05: 0.25, 0.15: 0.50}
"""Gain in ambiguous accuracy that is aimed at, by limit on the loss of disambiguated accuracy."""
GAP, SURE_GAP = 0.15, 0.05
"""Rise of the abstention gap that is aimed at, and what its 95 % interval should be above."""
MOST_KL, MOST_KNOWLEDGE = 0.1, 0.01
"""What an edit may cost elsewhere: nats per token on neutral prompts, accuracy of common knowledge."""

FIGURES = ("accuracy_ambiguous", "accuracy_disambiguated", "abstention_gap", "answered_accuracy")
RANKINGS = ("published", "contrast", "pursuit", "pursuit in passes")
GOLDEN_SECTION, RANDOM = "golden section (authors')", "random neurons"
TRAINED = "LoRA adapter, trained"


def of_limit(loss: float) -> str:
    """The name of the row of the edit that was found within a limit."""
    return f"search, loss at most {loss:g}"


OPTIONS = (
    *("dtype", "examples", "effect_examples", "validation_examples", "reevaluation_examples", "rounds", "trials"),
    *("refinements", "neutral_prompts", "max_neurons", "instructions", "report", "knowledge", "seed"),
)
"""Of `search.py run`, in the order of the page's command."""

OF_RUN = ("original", *map(of_limit, LOSSES), GOLDEN_SECTION, RANDOM)
"""Rows that `search.py run` writes, in the order of the tables."""

BY_HAND = ("<!-- written by hand -->", "<!-- end of what is written by hand -->")
"""What stands before and behind each of the texts of people, of which a page has two."""

Content = Mapping[str, Any]
"""A category's file."""


def page(found: Sequence[Content], before: str = "") -> str:
    """The page from the files of all categories, in the order of their names.

    In full of the split of the lowest seed; of others, which confirm it or do not, the targets, and the mean of all.

    Args:
        found: The files.
        before: The page as it is, whose texts of people are taken over.
    """
    splits: dict[int, list[Content]] = {}
    for content in sorted(found, key=lambda content: str(content["category"])):
        splits.setdefault(int(content["command"]["seed"]), []).append(content)
    first, *others = sorted(splits)
    of_first, (told, since) = splits[first], by_hand(before)
    lines = [*_head(of_first), *told, *_targets(of_first)]
    for seed in others:
        lines += _other_split(splits[seed], seed)
    if others:
        lines += _over_splits(splits)
    lines += [*_ceilings(of_first), *_ahead(of_first), *_rankings(of_first)]
    for content in of_first:
        lines += _category(content)
    return "\n".join([*lines, *since]).rstrip("\n") + "\n"


def by_hand(before: str) -> list[list[str]]:
    """The two texts of people in a page, with what marks them; empty where there are none yet."""
    first, last = BY_HAND
    texts = re.findall(f"{re.escape(first)}\n(.*?){re.escape(last)}", before, flags=re.DOTALL)
    return [[first, *text.splitlines(), last, ""] for text in [*texts, "", ""][:2]]


def _head(found: Sequence[Content]) -> list[str]:
    given = found[0]["command"]
    minutes = sum(content["seconds"] for content in found) / 60
    given_options = " ".join(f"--{name.replace('_', '-')} {given[name]}" for name in OPTIONS)
    rows = {name for content in found for name in content["rows"]}
    further = ["  python benchmarks/search.py methods out/$category.json"] if rows - {*OF_RUN, TRAINED} else []
    further += ["  python benchmarks/trained.py out/$category.json"] if TRAINED in rows else []
    return [
        "# What the search finds",
        "",
        f"`{given['model']}` in {given['dtype']}, official BBQ, each category alone: fitted on its attribution split, "
        "chosen on its validation split, told on its test split, whose templates neither has seen (about a third of "
        "the templates each). What is recommended is told on the whole test split; what the search tried, and all "
        f"other methods, on {given['report']} questions of it. Intervals are 95 %, paired, drawn again by template; "
        "there are few templates, so they are wide.",
        "",
        "```bash",
        "for category in " + " ".join(content["category"] for content in found) + "; do",
        f"  python benchmarks/search.py run {given['model']} ../shared/data/bbq/$category.jsonl {given_options} \\",
        "    --output out/$category.json",
        *further,
        "done",
        "python benchmarks/search.py table out/*.json --output docs/results/search.md",
        "```",
        "",
        f"The searches took {minutes:.0f} minutes together, each on "
        + " or ".join(sorted({content["machine"] for content in found}))
        + ".",
        "",
    ]


def _targets(found: Sequence[Content]) -> list[str]:
    return [
        "## Targets",
        "",
        "On the whole test split. *Trade*: ambiguous accuracy up by "
        + ", ".join(f"{TARGETS[loss]:g} at a loss of at most {loss:g}" for loss in LOSSES)
        + f". *Gap*: abstention gap up by {GAP:g}, its interval above {SURE_GAP:g}, and answered accuracy not lower. "
        f"*Price*: KL at most {MOST_KL:g}, and common knowledge not lower by more than {MOST_KNOWLEDGE:g}.",
        "",
        *_reached(found),
    ]


def _other_split(found: Sequence[Content], seed: int) -> list[str]:
    return [
        f"## Another split, seed {seed}",
        "",
        f"The same command with `--seed {seed}`: other templates to fit, to choose and to report on. The same targets.",
        "",
        *_reached(found),
    ]


def _over_splits(splits: Mapping[int, Sequence[Content]]) -> list[str]:
    """What the recommended edits change on the mean over the splits that a category was searched in."""
    lines = [
        "## Over the splits",
        "",
        f"The mean over splits of seed {', '.join(map(str, sorted(splits)))}, in brackets the lowest and the highest. "
        "Each search is an edit of its own, told on templates of its own; what one split's few templates add and take "
        "by chance falls away in the mean. The same targets, of the means; the interval of the abstention gap is taken "
        "to begin at the mean of where the splits' intervals begin, which is lower than where one of the mean would.",
        "",
        "| category | limit on loss | splits | gain in ambiguous accuracy | change in disambiguated | trade "
        "| change in abstention gap | interval from | change in answered accuracy | gap | KL | change in knowledge "
        "| price |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    of_category: dict[str, list[Content]] = {}
    for found in splits.values():
        for content in found:
            of_category.setdefault(content["category"], []).append(content)
    reached: Counter[str] = Counter()
    for category, contents in sorted(of_category.items()):
        for loss in LOSSES:
            rows = [content["whole"]["rows"][of_limit(loss)] for content in contents]
            judged = _judged(_mean_row(rows), loss)
            reached.update({f"{name} {loss:g}": int(is_reached) for name, is_reached in judged.items()})
            gain, change, gap, answered, knowledge = (_span(rows, name) for name in (*FIGURES, "knowledge"))
            begins, kl = _mean(rows, "abstention_gap", "low"), sum(row["kl"] for row in rows) / len(rows)
            told: list[str | bool] = [gain, change, judged["trade"], gap, f"{begins:+.3f}", answered, judged["gap"]]
            told += [f"{kl:.3f}", knowledge, judged["price"]]
            lines.append(f"| {category} | {loss:g} | {len(rows)} | {' | '.join(map(_cell, told))} |")
    counts = [
        f"- loss at most {loss:g}: of {len(of_category)} categories, reached: "
        + ", ".join(f"{name} in {reached[f'{name} {loss:g}']}" for name in ("trade", "gap", "price"))
        + "."
        for loss in LOSSES
    ]
    return [*lines, "", *counts, ""]


def _mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row for several: the means of their differences and of where the intervals begin and end, the largest KL."""
    names = (*FIGURES, "knowledge")
    means = {name: {side: _mean(rows, name, side) for side in ("value", "low", "high")} for name in names}
    return {"kl": max(row["kl"] for row in rows), "differences": means}


def _mean(rows: Sequence[Mapping[str, Any]], name: str, side: str) -> float | None:
    """Of a difference, or an end of its interval; None where a row has none."""
    values = [row["differences"][name][side] for row in rows]
    return None if None in values else sum(values) / len(values)


def _span(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [row["differences"][name]["value"] for row in rows]
    return f"{_mean(rows, name, 'value'):+.3f} ({min(values):+.3f} to {max(values):+.3f})"


def _judged(row: Mapping[str, Any], loss: float) -> dict[str, bool]:
    """Which targets a row reaches; the gap by the sign of answered accuracy's change, and by its interval."""
    gain, change, gap, answered = (row["differences"][name] for name in FIGURES)
    wide = gap["value"] >= GAP and gap["low"] > SURE_GAP
    knowledge = row["differences"]["knowledge"]["value"]
    return {
        "trade": gain["value"] >= TARGETS[loss] - TOLERANCE and _keeps(change["value"], loss),
        "gap": wide and answered["value"] > -TOLERANCE,
        "by interval": wide and (answered["high"] is None or answered["high"] > -TOLERANCE),
        "price": row["kl"] <= MOST_KL and knowledge >= -MOST_KNOWLEDGE - TOLERANCE,
    }


def _reached(found: Sequence[Content]) -> list[str]:
    """What the recommended edits change on the whole test split, which targets that reaches, and in how many."""
    lines = [
        "| category | limit on loss | gain in ambiguous accuracy | change in disambiguated | trade | change in "
        "abstention gap | change in answered accuracy | gap | KL | change in knowledge | price |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    reached: Counter[str] = Counter()
    for content in found:
        for loss in LOSSES:
            row = content["whole"]["rows"][of_limit(loss)]
            gain, change, gap, answered = (row["differences"][name] for name in FIGURES)
            knowledge = row["differences"]["knowledge"]
            judged = _judged(row, loss)
            reached.update({f"{name} {loss:g}": int(is_reached) for name, is_reached in judged.items()})
            cells = (gain, change, judged["trade"], gap, answered, judged["gap"], f"{row['kl']:.3f}", knowledge)
            lines.append(f"| {content['category']} | {loss:g} | {' | '.join(map(_cell, (*cells, judged['price'])))} |")
    lines.append("")
    for loss in LOSSES:
        trade, gap, by_interval, price = (
            reached[f"{name} {loss:g}"] for name in ("trade", "gap", "by interval", "price")
        )
        lines.append(
            f"- loss at most {loss:g}: of {len(found)} categories, reached: trade in {trade}, gap in {gap} (in "
            f"{by_interval} where answered accuracy counts as lower only if its interval says so), price in {price}."
        )
    return [*lines, ""]


def _ceilings(found: Sequence[Content]) -> list[str]:
    """What would bound the gain: the best of all trials had it been chosen on the test split, training, a constant."""
    lines = [
        "## Ceilings",
        "",
        f"On {_sample(found)}: how much of a missed target is the choice's fault, and how much the model's. *In "
        "hindsight*: the highest gain "
        "of all the edits that the search tried, had it been known what each does on the test split: no way of "
        "choosing among them could exceed it. *Trained*: a LoRA adapter, which may change every linear layer, fitted "
        'and chosen on the same parts. *Moved*: with the best constant added to every score of "unknown", in hindsight '
        "too: what the model would gain if it were only a matter of how readily it abstains. In italics what loses "
        "more than the limit.",
        "",
        "| category | limit on loss | target | search | in hindsight | original, moved | search, moved | trained "
        "| trained, moved | gap: search | gap: in hindsight | gap: trained |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for content in found:
        for loss in LOSSES:
            own, trained = content["rows"][of_limit(loss)], content["rows"].get(TRAINED)
            tried = [of for of in content.get("in_hindsight", ()) if _keeps(of["accuracy_disambiguated"], loss)]
            cells = [content["category"], f"{loss:g}", f"+{TARGETS[loss]:g}"]
            for figure in ("accuracy_ambiguous", "abstention_gap"):
                best = max((of[figure] for of in tried), default=None)
                cells += [_priced(own, figure, loss), "-" if best is None else f"{best:+.3f}"]
                if figure == "accuracy_ambiguous":
                    cells += [_moved(content["rows"]["original"], loss), _moved(own, loss)]
                cells.append("-" if trained is None else _priced(trained, figure, loss))
                if figure == "accuracy_ambiguous":
                    cells.append(_moved(trained or {}, loss))
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _sample(found: Sequence[Content]) -> str:
    return f"{found[0]['command']['report']} questions of each test split"


def _keeps(change: float, loss: float) -> bool:
    """Whether a change in disambiguated accuracy is no larger a loss than the limit."""
    return -change <= loss + TOLERANCE


def _moved(row: Mapping[str, Any], loss: float) -> str:
    """A row's gain with the best constant added to the score of "unknown", where it was measured."""
    return f"{row['shifted'][f'{loss:g}']:+.3f}" if "shifted" in row else "-"


def _priced(row: Mapping[str, Any], figure: str, loss: float) -> str:
    """A row's change, in italics where it exceeds the limit."""
    value = _change(row, figure)
    return f"{value:+.3f}" if _affordable(row, loss) else f"*{value:+.3f}*"


def _ahead(found: Sequence[Content]) -> list[str]:
    """What the best of all other rows reaches at the same price."""
    lines = [
        "## Beside every other method",
        "",
        f"On {_sample(found)}: what the best control or other method gains at a loss that does not exceed the limit, "
        f"and a KL divergence of at most {MOST_KL:g}; an edit of the search that exceeds it is told in italics:",
        "",
        "| category | limit on loss | search: ambiguous | best other: ambiguous | search: gap | best other: gap |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for content in found:
        for loss in LOSSES:
            own = content["rows"][of_limit(loss)]
            cells = [content["category"], f"{loss:g}"]
            for figure in ("accuracy_ambiguous", "abstention_gap"):
                cells.append(_priced(own, figure, loss))
                rivals = [(_change(row, figure), name) for name, row in _others(content) if _affordable(row, loss)]
                best = max(rivals, default=None)
                cells.append("-" if best is None else f"{best[0]:+.3f} ({best[1]})")
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _others(content: Content) -> Iterator[tuple[str, Any]]:
    for name, row in content["rows"].items():
        if "differences" in row and name not in (*map(of_limit, LOSSES), TRAINED):
            yield name, row


def _change(row: Mapping[str, Any], figure: str) -> float:
    return float(row["differences"][figure]["value"])


def _affordable(row: Mapping[str, Any], loss: float) -> bool:
    return _keeps(_change(row, "accuracy_disambiguated"), loss) and row["kl"] <= MOST_KL


def _rankings(found: Sequence[Content]) -> list[str]:
    lines = [
        "## Which ranking",
        "",
        "The highest gain in ambiguous accuracy on the **choose** part among complete trials of each ranking within "
        "the limits, before refinement; - where none was. The first three rank once, with the recipes that the search "
        "begins with; `pursuit in passes` measures effects anew every few neurons.",
        "",
        f"| category | limit on loss | {' | '.join(RANKINGS)} |",
        "| --- | --- |" + " --- |" * len(RANKINGS),
    ]
    for content in found:
        for loss in LOSSES:
            limits = Limits(accuracy_loss=loss)
            cells = []
            for ranking in RANKINGS:
                gains = [
                    trial["figures"]["gain"]
                    for trial in content["trials"][of_limit(loss)]
                    if trial["complete"]
                    and trial["recipe"].get("ranking") == ranking
                    and Figures(**trial["figures"]).within(limits)
                ]
                cells.append(f"{max(gains):+.3f}" if gains else "-")
            lines.append(f"| {content['category']} | {loss:g} | {' | '.join(cells)} |")
    return [*lines, ""]


def _category(content: Content) -> list[str]:
    whole = content["whole"]
    lines = [f"## {content['category']}", "", f"The whole test split, {whole['questions']} questions:", ""]
    known, trained = content["rows"], [TRAINED] if TRAINED in content["rows"] else []
    others = [name for name in known if name not in (*OF_RUN, TRAINED)]
    rows = {name: known[name] for name in (*OF_RUN, *others, *trained) if name in known}
    lines += [*_rows(whole["rows"]), "", f"{content['command']['report']} of them:", "", *_rows(rows)]
    shifted = content["rows"]["original"]["shifted"]
    bound = ", ".join(f"{gain:+.3f} at a loss of at most {loss}" for loss, gain in shifted.items())
    lines += [
        "",
        f'A constant added to the score of "unknown", chosen on the test split itself, gains at most {bound}.',
    ]
    if "trained" in content:
        lines += ["", content["trained"]["told"]]
    for name, decision in content["decisions"].items():
        lines += ["", f"{name[0].upper()}{name[1:]}: {decision['verdict']}. {decision['reason']}."]
    return [*lines, ""]


def _rows(rows: Mapping[str, Any]) -> list[str]:
    lines = [
        "| | neurons | ambiguous | disambiguated | abstention gap | answered accuracy | tells apart (AUC) | KL "
        "| knowledge |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        differences = row.get("differences", {})
        cells = []
        for figure, value in [
            *((figure, row["metrics"][figure]) for figure in FIGURES),
            ("knowledge", row["knowledge"]),
        ]:
            cell = "-" if value is None else f"{value:.3f}"
            if figure in differences and differences[figure]["value"] is not None:
                cell += f" ({_cell(differences[figure])})"
            cells.append(cell)
        cells[-1:-1] = [f"{row['parts_conditions']:.2f}", f"{row['kl']:.3f}"]
        lines.append(f"| {name} | {row['neurons']} | {' | '.join(cells)} |")
    return lines


def _cell(value: Mapping[str, float | None] | str | bool) -> str:
    """A cell of a table: whether a target was reached, or a difference with its interval."""
    if isinstance(value, bool):
        return ("missed", "reached")[value]
    if isinstance(value, str):
        return value
    of, low, high = (value[name] for name in ("value", "low", "high"))
    if of is None:
        return "-"
    return f"{of:+.3f}" if low is None or high is None else f"{of:+.3f}, {low:+.3f} to {high:+.3f}"
