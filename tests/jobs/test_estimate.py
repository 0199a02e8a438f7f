"""What a run says before it begins, against what it then does."""

from dataclasses import replace

import pytest

from crispr_lm import Limits, SearchOptions, load_model, load_task, search_edit
from crispr_lm.attribution.gate_gradients import Gates
from crispr_lm.inference import scoring
from crispr_lm.jobs import edit_search
from crispr_lm.jobs.run import dry_run, run
from crispr_lm.runtime.progress import SilentProgress
from crispr_lm.search.cost import search_passes
from crispr_lm.search.options import search_parts
from crispr_lm.search.side_effects import asked_aside

from .test_run import questions, settings_for

__all__ = ["questions"]


def test_a_search_takes_the_passes_that_were_counted(saved_model, questions, monkeypatch):
    lm = load_model(saved_model("llama"), device="cpu")
    task = load_task(f"choices:{questions / 'questions.jsonl'}", str(questions / "instructions.txt"))
    options = SearchOptions(rounds=4, examples=4, validation_examples=8, neutral_prompts=3)
    limits = Limits(kl=9.0, accuracy_loss=1.0, overabstention=1.0, neurons=5)
    aside = asked_aside([task], limits, options.seed)
    counted = search_passes([search_parts(task, options)], options, aside)
    taken = {"forward": 0, "both": 0}
    forward, both = scoring.scores_of, Gates.gradient

    def scored(lm, prompts, *others):
        taken["forward"] += len(prompts)
        return forward(lm, prompts, *others)

    def differentiated(gates, openness, prompts, *others, **named):
        taken["both"] += len(prompts)
        return both(gates, openness, prompts, *others, **named)

    monkeypatch.setattr(scoring, "scores_of", scored)
    monkeypatch.setattr(Gates, "gradient", differentiated)
    search_edit(lm, task, limits, options)
    expected = sum(of.both for of in counted.values())
    # Few templates: a step has as many questions of either condition as there are, at most 8 and 12.
    assert expected / 2 < taken["both"] <= expected
    assert taken["forward"] <= sum(of.forward for of in counted.values())


def test_a_dry_run_writes_nothing_and_says_how_long_and_how_much(saved_model, questions, tmp_path):
    settings = settings_for(questions, tmp_path / "out", search="tuned", rounds=2)
    found = dry_run(str(saved_model("llama")), settings)
    assert not (tmp_path / "out").exists()
    assert set(found.minutes) == {"attribution", "search", "measuring"}
    total = sum(found.passes.values()) * found.seconds_per_pass / 60
    assert sum(found.minutes.values()) == pytest.approx(total, abs=0.05)
    more = dry_run(str(saved_model("llama")), settings.model_copy(update={"rounds": 8}))
    assert more.passes["search"] > found.passes["search"]
    assert more.passes["measuring"] == found.passes["measuring"]
    assert 0 < more.least < sum(more.minutes.values()) + 0.05
    assert more.within(None) == more.within(1e6) == more.text
    assert "leaves out rounds" in replace(more, minutes={"search": 9.0}, least=2.0).within(5)
    assert "about 2 minutes, more than the time budget of 1" in replace(
        more, minutes={"search": 9.0}, least=2.0
    ).within(1)
    short = replace(more, minutes={"search": 1.2}, least=0.6)
    assert short.text.startswith("About 1 minute at")
    assert "the time budget of 1 minute leaves out" in short.within(1)
    assert "makes about 1 minute, more" in replace(short, least=1.1).within(1)
    assert "the time budget of 0.75 minutes leaves out" in short.within(0.75)
    assert "passes of a prompt" in found.text
    assert found.gigabytes > 0


def test_a_time_budget_is_of_the_whole_run(saved_model, questions, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(edit_search, "search_edit", lambda *arguments: given.append(arguments[3]) or _stop())
    settings = settings_for(questions, tmp_path / "out", search="tuned", rounds=8, time_budget=0.001)
    progress, said = SilentProgress(), []
    monkeypatch.setattr(progress, "say", said.append)
    with pytest.raises(KeyboardInterrupt):
        run(str(saved_model("llama")), settings, progress)
    assert 0 <= given[0].time_budget < 0.001  # loading and what comes after the search are off
    assert any("the time budget of 0.001" in sentence or "leaves out" in sentence for sentence in said)


def _stop():
    raise KeyboardInterrupt
