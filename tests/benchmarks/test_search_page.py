"""The page of the search benchmark: targets reached or missed as the figures say, rivals told at the same price."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import search_page


def difference(value, low=None, high=None):
    return {"value": value, "low": value - 0.05 if low is None else low, "high": value + 0.05 if high is None else high}


def row(ambiguous, disambiguated, gap=0.0, answered=0.0, knowledge=0.0, kl=0.02):
    changes = dict(zip(search_page.FIGURES, (ambiguous, disambiguated, gap, answered), strict=True))
    return {
        "neurons": 9,
        "kl": kl,
        "knowledge": 0.7,
        "parts_conditions": 0.6,
        "metrics": dict.fromkeys(search_page.FIGURES, 0.5),
        "differences": {name: difference(value) for name, value in {**changes, "knowledge": knowledge}.items()},
        "shifted": {"0.05": ambiguous + 0.01, "0.15": ambiguous + 0.02},
    }


LIMITS = ((0.05, 25), (0.15, 5))


def trial(ranking, gain, loss, complete=True):
    figures = {"gain": gain, "loss": loss, "overabstention": 0.0, "kl": 0.01, "doubt": 0.0}
    return {"recipe": {"ranking": ranking}, "figures": figures, "complete": complete}


def content(small, large, others=(), trials=(), whole=None, seed=0):
    original = {**row(0.0, 0.0), "shifted": {"0.05": 0.1, "0.15": 0.2}}
    del original["differences"]
    decided = {"search, loss at most 0.05": small, "search, loss at most 0.15": large}
    return {
        "category": "Age",
        "command": {**dict.fromkeys((*search_page.OPTIONS, "model"), "1"), "seed": str(seed)},
        "machine": "one core",
        "seconds": 60,
        "rows": {"original": original, **decided, **dict(others)},
        "whole": {"questions": 300, "rows": {"original": original, **(decided if whole is None else whole)}},
        "decisions": {},
        "trials": {limit: list(trials) for limit in decided},
    }


def cells(page, beginning):
    line = next(line for line in page.splitlines() if line.startswith(beginning))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_targets_are_reached_at_their_limits_and_missed_beyond():
    page = search_page.page(
        [content(row(0.25, -0.05, gap=0.15, answered=0.0, knowledge=-0.01), row(0.49, -0.15, gap=0.14))]
    )
    small, large = cells(page, "| Age | 0.05 | +0.250,"), cells(page, "| Age | 0.15 | +0.490,")
    assert [small[place] for place in (4, 7, 10)] == ["reached"] * 3
    assert [large[place] for place in (4, 7, 10)] == ["missed", "missed", "reached"]


def test_another_split_is_judged_by_itself_and_told_behind_the_first():
    reached, missed = (
        content(row(gain, 0.0, gap=gain), row(gain, 0.0), seed=seed) for gain, seed in ((0.3, 1), (0, 0))
    )
    page = search_page.page([reached, missed])
    first, other = page.index("## Targets"), page.index("## Another split, seed 1")
    assert first < page.index("reached: trade in 0, gap in 0") < other < page.index("reached: trade in 1, gap in 1")
    assert page.count("\n## Age\n") == 1


def test_over_splits_the_mean_is_judged():
    """Each split misses one half of the trade, and their mean reaches it."""
    dear, cheap = (
        content(row(gain, -loss, gap=gap, answered=answered), row(0.4, -0.1, knowledge=-0.03 * seed), seed=seed)
        for gain, loss, gap, answered, seed in ((0.4, 0.07, 0.3, 0.01, 0), (0.2, 0.02, 0.1, -0.01, 1))
    )
    page = search_page.page([dear, cheap])
    small, large = (cells(page, f"| Age | {loss} | 2 |") for loss in (0.05, 0.15))
    assert small[3:6] == ["+0.300 (+0.200 to +0.400)", "-0.045 (-0.070 to -0.020)", "reached"]
    assert small[6:10] == ["+0.200 (+0.100 to +0.300)", "+0.150", "+0.000 (-0.010 to +0.010)", "reached"]
    assert [large[place] for place in (5, 9, 12)] == ["missed"] * 3
    assert small[12] == "reached"
    assert "- loss at most 0.05: of 1 categories, reached: trade in 1," in page
    assert "## Over the splits" not in search_page.page([dear])
    for found in (dear, cheap):  # where nothing was answered in some draws
        found["whole"]["rows"][search_page.of_limit(0.05)]["differences"]["answered_accuracy"] |= {
            "low": None,
            "high": None,
        }
    assert cells(search_page.page([dear, cheap]), "| Age | 0.05 | 2 |") == small


def test_answered_accuracy_is_judged_by_its_value_and_told_by_its_interval_too():
    lower, unsure = row(0.3, 0.0, gap=0.2, answered=-0.06), row(0.5, 0.0, gap=0.2, answered=-0.04)  # +- 0.05 each
    page = search_page.page([content(lower, unsure)])
    assert "reached: trade in 1, gap in 0 (in 0 where" in next(x for x in page.splitlines() if "most 0.05: of 1" in x)
    assert "reached: trade in 1, gap in 0 (in 1 where" in next(x for x in page.splitlines() if "most 0.15: of 1" in x)


def test_a_gain_that_costs_more_than_the_limit_is_missed():
    dear = row(0.9, -0.06, gap=0.5, answered=-0.01, knowledge=-0.02, kl=0.2)
    missed = cells(search_page.page([content(dear, dear)]), "| Age | 0.05 | +0.900,")
    assert [missed[place] for place in (4, 7, 10)] == ["missed"] * 3


def test_targets_are_judged_on_the_whole_report_part():
    whole = {name: row(0.3, -0.05) for name in ("search, loss at most 0.05", "search, loss at most 0.15")}
    page = search_page.page([content(row(0.2, -0.05), row(0.6, 0.0), whole=whole)])
    assert cells(page, "| Age | 0.05 | +0.300,")[4] == "reached"
    assert cells(page, "| Age | 0.15 | +0.300,")[4] == "missed"
    assert "The whole test split, 300 questions:" in page.splitlines()


def test_rivals_are_told_at_the_same_price():
    others = {
        "cheap": row(0.10, -0.05, gap=0.02),
        "dear": row(0.90, -0.06, gap=0.30),
        "broken": row(0.95, 0.0, gap=0.90, kl=3.0),
    }
    page = search_page.page([content(row(0.3, 0.0, gap=0.2), row(0.5, -0.16, gap=0.4), others.items())])
    lines = [line for line in page.splitlines() if line.startswith("| Age |")]
    assert "| Age | 0.05 | +0.300 | +0.100 (cheap) | +0.200 | +0.020 (cheap) |" in lines
    assert "| Age | 0.15 | *+0.500* | +0.900 (dear) | *+0.400* | +0.300 (dear) |" in lines


def test_ceilings_are_those_of_edits_that_keep_the_limit():
    found = content(
        row(0.3, 0.0, gap=0.2), row(0.5, -0.16, gap=0.4), {search_page.TRAINED: row(0.6, -0.1, gap=0.1)}.items()
    )
    changes = [(0.35, -0.05, 0.10, 0.0), (0.30, 0.0, 0.25, 0.0), (0.70, -0.15, 0.20, 0.0), (0.99, -0.16, 0.90, 0.0)]
    found["in_hindsight"] = [dict(zip(search_page.FIGURES, of_trial, strict=True)) for of_trial in changes]
    lines = search_page.page([found]).splitlines()
    small, large = (cells("\n".join(lines), f"| Age | {limit} | +0.{target} |")[3:] for limit, target in LIMITS)
    assert small == ["+0.300", "+0.350", "+0.100", "+0.310", "*+0.600*", "+0.610", "+0.200", "+0.250", "*+0.100*"]
    assert large == ["*+0.500*", "+0.700", "+0.200", "+0.520", "+0.600", "+0.620", "*+0.400*", "+0.250", "+0.100"]


def test_rankings_are_compared_within_the_limits():
    tried = [
        trial("published", 0.9, 0.2),
        trial("pursuit", 0.4, 0.1),
        trial("pursuit", 0.2, 0.0),
        trial("pursuit in passes", 0.5, 0.01, complete=False),
    ]
    page = search_page.page([content(row(0, 0), row(0, 0), trials=tried)])
    lines = page.splitlines()
    assert "| Age | 0.05 | - | - | +0.200 | - |" in lines
    assert "| Age | 0.15 | - | - | +0.400 | - |" in lines


def test_what_people_have_written_stays_where_the_page_is_written_anew():
    found = [content(row(0.3, 0.0), row(0.5, 0.0))]
    first = search_page.page(found)
    beginning, end = search_page.BY_HAND
    assert first.count(beginning) == first.count(end) == 2
    told = first.replace(beginning, beginning + "\n\n**What it says.** Much.\n", 1)
    place = told.rindex(end)
    told = told[:place] + "\n## Since\n\n| a |\n\n" + told[place:]
    again = search_page.page([content(row(0.4, 0.0), row(0.5, 0.0))], told)
    assert again == told.replace("+0.300", "+0.400").replace("+0.250 to +0.350", "+0.350 to +0.450").replace(
        "+0.310", "+0.410"
    )
    assert search_page.page(found, told) == told


def test_rows_of_the_run_come_first_and_the_adapter_last():
    found = content(
        row(0.3, 0.0), row(0.5, 0.0), {search_page.TRAINED: row(0.6, 0.0), "Steering": row(0.1, 0.0)}.items()
    )
    found["rows"][search_page.RANDOM] = row(0.0, 0.0)
    lines = [line.split("|")[1].strip() for line in search_page.page([found]).splitlines() if line.startswith("| ")]
    expected = [*search_page.OF_RUN, "Steering", search_page.TRAINED]
    assert lines[-len(expected) + 1 :] == [name for name in expected if name != search_page.GOLDEN_SECTION]
