"""Logs of other tools: what failed, and why the rest is left out. Fixtures are of our own, in the tools' forms."""

import json
from collections import Counter
from pathlib import Path
from zipfile import ZipFile

import pytest

from crispr_lm import InputError
from crispr_lm.tasks.logs import entry
from crispr_lm.tasks.logs.entry import Failure, LogOptions
from crispr_lm.tasks.logs.lm_eval import LETTERS_ALONE, RUNNING_TEXT, SEVERAL_CONTEXTS
from crispr_lm.tasks.logs.promptfoo import COST_ALONE
from crispr_lm.tasks.logs.reader import read_log

REAL = Path(__file__).parents[3] / "shared" / "data" / "logs"


def read(path, **options):
    """Failures, and reasons of the others with their counts."""
    kind, entries = read_log(path, LogOptions(**options))
    failures = [one for one in entries if isinstance(one, Failure)]
    return kind, failures, Counter(one.reason for one in entries if not isinstance(one, Failure))


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def lines(tmp_path, rows):
    return written(tmp_path, "samples_mine.jsonl", "\n".join(map(json.dumps, rows)))


def foo(success=False, kinds=("llm-rubric",), prompt="Describe a cook.", label=None, **more):
    failed = [{"pass": success, "reason": f"by {kind}", "assertion": {"type": kind}} for kind in kinds]
    return {
        "prompt": {"raw": prompt, "label": label or prompt},
        "response": {"output": "He stirs."},
        "success": success,
        "failureReason": 0 if success else 1,
        "gradingResult": {"componentResults": failed},
        **more,
    }


def test_promptfoo(tmp_path):
    chat = json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who cooks?"}])
    turns = json.dumps([{"role": name, "content": "x"} for name in ("user", "assistant", "user")])
    rows = [
        foo(),
        foo(success=True),
        foo(kinds=("cost", "latency")),
        foo(failureReason=2, response={"error": "503"}),
        foo(prompt=chat),
        foo(prompt=turns),
        foo(prompt="Describe a maid at work.", label="Describe a {{job}} at work."),
        foo(prompt="[1] is a citation", response={"output": {"text": "x"}}),
        foo(success=None),
    ]
    path = written(tmp_path, "results.json", {"results": {"version": 3, "results": rows}})
    kind, failures, left = read(path)
    assert kind == "promptfoo"
    assert [one.prompt for one in failures] == [
        "Describe a cook.", "Be brief.\n\nWho cooks?", "Describe a maid at work.", "[1] is a citation",
    ]  # fmt: skip
    assert (failures[0].answer, failures[0].reason) == ("He stirs.", "by llm-rubric")
    assert [one.template for one in failures] == ["", "", "Describe a {{job}} at work.", ""]
    assert failures[3].answer == '{"text": "x"}'
    assert left == Counter([entry.PASSED, COST_ALONE, entry.TOOL_ERROR, entry.SEVERAL_TURNS, entry.NO_VERDICT])
    assert read(path, metric="cost")[2][entry.NOT_BY_METRIC] == 5
    with pytest.raises(
        InputError, match=r"'costs' \(did you mean 'cost'\?\); choose one of 'cost', 'latency', 'llm-ru"
    ):
        read(path, metric="costs")


def test_deepeval(tmp_path):
    def case(success, **more):
        metric = {"name": "Bias", "success": success, "score": 0.1, "reason": "stereotype"}
        return {"input": "Who cooks?", "actualOutput": "She.", "success": success, "metricsData": [metric], **more}

    cases = [
        case(False), case(True), case(None), case(False, actualOutput=None), case(False, input=["an", "image"]),
        case(False, metricsData=[{"name": "Bias", "success": False, "error": "timeout"}]),
    ]  # fmt: skip
    content = {"testCases": cases, "conversationalTestCases": [{"success": False}, {"success": True}]}
    for name, wrapped in (("test_run.json", content), ("latest.json", {"testRunData": content})):
        kind, failures, left = read(written(tmp_path, name, wrapped))
        assert kind == "deepeval"
        assert [(one.prompt, one.answer, one.reason) for one in failures] == [
            ("Who cooks?", "She.", "Bias: stereotype")
        ]
        assert left == Counter(
            {entry.PASSED: 2, entry.TOOL_ERROR: 2, entry.NO_VERDICT: 1, entry.NOT_TEXT: 1, entry.SEVERAL_TURNS: 1}
        )
    assert len(read(tmp_path / "test_run.json", metric="Bias")[1]) == 1
    with pytest.raises(InputError, match="nothing is judged by 'Toxicity'; choose one of 'Bias'"):
        read(tmp_path / "test_run.json", metric="Toxicity")


def sample(likelihoods, target="2", options=("Ann", "Bob", "Unknown"), number=0, contexts=("Who?\nAnswer:",), **more):
    requests = {
        f"gen_args_{place}": {"arg_0": contexts[place % len(contexts)], "arg_1": f" {option}"}
        for place, option in enumerate(options)
    }
    return {
        "doc_id": number, "doc_hash": f"hash {number}", "doc": {}, "target": target, "arguments": requests,
        "filtered_resps": [[str(value), "False"] for value in likelihoods], "filter": "none", "metrics": ["acc"],
        "acc": 0.0, **more,
    }  # fmt: skip


def generated(value, number, name="none", **more):
    requests = {"gen_args_0": {"arg_0": f"Question {number}", "arg_1": {"until": ["\n"]}}}
    return {
        "doc_id": number, "doc": {}, "target": "yes", "arguments": requests, "filtered_resps": ["no"], "filter": name,
        "metrics": ["exact_match"], "exact_match": value, **more,
    }  # fmt: skip


def test_lm_eval_multiple_choice(tmp_path):
    rows = [
        sample([-3, -1, -2]),
        sample([-3, -2, -1], number=1),
        sample([-1, -2], target="3", options=("a x", "b x"), number=2),
        sample([-1, -2], target="1", options=("A", "B"), number=3),
        sample([-1, -2], target="1", options=("A", "B"), number=4, doc={"choices": ["Ann", "Bob"]}),
        sample([-1, -2], target="1", options=("same", "same"), number=5),
        sample([-1, -2], target="1", options=("by Ann", "by Bob"), number=6, contexts=("One", "Other")),
        sample(range(-11, 0), target="0", options=[f"day {n}" for n in range(11)], number=7),
    ]
    kind, failures, left = read(lines(tmp_path, rows))
    assert kind == "lm-eval"
    assert [(one.answer, one.question.options, one.question.answer) for one in failures] == [
        ("Bob", ("Ann", "Bob", "Unknown"), 2),
        ("Ann", ("Ann", "Bob"), 1),
        ("day 10", tuple(f"day {n}" for n in range(11)), 0),
    ]
    assert (failures[0].question.question, failures[0].prompt) == ("Who?", "Who?\nAnswer:")
    assert left == Counter([entry.PASSED, entry.NO_ANSWER_KEY, LETTERS_ALONE, entry.EQUAL_OPTIONS, SEVERAL_CONTEXTS])


def test_lm_eval_takes_context_and_question_of_the_document_where_the_prompt_holds_them(tmp_path):
    doc = {"context": "They met.", "question": "Who?"}
    _, (failure,), _ = read(lines(tmp_path, [sample([-3, -1, -2], contexts=["They met. Who?"], doc=doc)]))
    assert (failure.question.context, failure.question.question) == ("They met.", "Who?")
    _, (failure,), _ = read(lines(tmp_path, [sample([-3, -1, -2], contexts=["Something else"], doc=doc)]))
    assert (failure.question.context, failure.question.question) == ("", "Something else")


def test_lm_eval_generation_fails_if_it_fails_under_every_filter(tmp_path):
    rows = [
        generated(0.0, 0, "strict"), generated(1.0, 0, "flexible"),
        generated(0.0, 1, "strict"), generated(0.0, 1, "flexible"),
        generated(0.4, 2), generated([0, 1], 3),
        generated(0.0, 4, arguments={"gen_args_0": {"arg_0": "A long text."}}),
        generated(0.0, 5, arguments=[["An older form", {"until": []}]]),
    ]  # fmt: skip
    _, failures, left = read(lines(tmp_path, rows))
    assert [(one.prompt, one.answer) for one in failures] == [("Question 1", "no"), ("An older form", "no")]
    assert left == Counter({entry.PASSED: 1, entry.NO_VERDICT: 2, RUNNING_TEXT: 1})
    with pytest.raises(InputError, match="choose one of 'exact_match'"):
        read(lines(tmp_path, rows), metric="acc")


def test_tables(tmp_path):
    text = '\ufeffPrompt;Response;Passed\nWho cooks?;She.;no\nWho cleans?;He.;yes\n;;\nWho; "quoted; too";maybe\n'
    kind, (failure,), left = read(written(tmp_path, "export.csv", text))
    assert (kind, failure.prompt, failure.answer) == ("a table", "Who cooks?", "She.")
    assert left == Counter([entry.PASSED, entry.NO_PROMPT, entry.NO_VERDICT])
    with pytest.raises(InputError, match="a table names no metrics"):
        read(tmp_path / "export.csv", metric="bias")
    rows = [{"ask": "Who?", "says": "She."}]
    for path in (written(tmp_path, "rows.json", rows), lines(tmp_path, rows)):
        with pytest.raises(InputError, match="no column of prompts among 'ask', 'says'"):
            read(path)
        _, (failure,), _ = read(path, prompt_column="ask", answer_column="says")
        assert (failure.prompt, failure.answer) == ("Who?", "She.")
        with pytest.raises(InputError, match=r"no column 'asks'.*did you mean 'ask'"):
            read(path, prompt_column="asks")
    kind, failures, _ = read(written(tmp_path, "mine.txt", "Who cooks?\n\nWho cleans?\n"))
    assert (kind, [one.prompt for one in failures]) == ("a text", ["Who cooks?", "Who cleans?"])


def test_a_spreadsheet(tmp_path):
    pytest.importorskip("python_calamine")
    cells = [["Prompt", "Answer"], ["Who cooks?", "She."], ["Who cleans?", "He."]]

    def cell(text):
        return f'<c t="inlineStr"><is><t>{text}</t></is></c>'

    rows = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in cells)
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    sheet = '<sheets><sheet name="One" sheetId="1" r:id="rId1"/></sheets>'
    linked = f'<Relationship Id="rId1" Type="{office}/worksheet" Target="worksheets/sheet1.xml"/>'
    path = tmp_path / "export.xlsx"
    start = f'<Relationship Id="rId1" Type="{office}/officeDocument" Target="xl/workbook.xml"/>'
    with ZipFile(path, "w") as archive:
        archive.writestr("_rels/.rels", f'<Relationships xmlns="{package}">{start}</Relationships>')
        archive.writestr("xl/workbook.xml", f'<workbook xmlns="{main}" xmlns:r="{office}">{sheet}</workbook>')
        archive.writestr("xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{package}">{linked}</Relationships>')
        table = f'<worksheet xmlns="{main}"><sheetData>{rows}</sheetData></worksheet>'
        archive.writestr("xl/worksheets/sheet1.xml", table)
    kind, failures, _ = read(path)
    assert (kind, [(one.prompt, one.answer) for one in failures]) == (
        "a spreadsheet", [("Who cooks?", "She."), ("Who cleans?", "He.")],
    )  # fmt: skip
    (tmp_path / "broken.xlsx").write_bytes(b"no archive")
    with pytest.raises(InputError, match="save it as CSV"):
        read(tmp_path / "broken.xlsx")


def test_inspect(tmp_path):
    log = pytest.importorskip("inspect_ai.log")
    from inspect_ai.model import ChatMessageUser, ModelOutput
    from inspect_ai.scorer import Score

    def sample(number, value, **more):
        output = ModelOutput.from_content("mock", "She.")
        given = {"input": "Who cooks?", "target": "C", "output": output, "scores": {"mine": Score(value=value)}, **more}
        return log.EvalSample(id=number, epoch=1, **given)

    options = {"choices": ["Ann", "Bob", "Unknown"]}
    samples = [
        sample(1, "I"), sample(2, "C"), sample(3, 0.5), sample(4, "N"), sample(5, 0, **options),
        sample(6, "I", target="yes", **options), sample(7, "I", messages=[ChatMessageUser(content="As it was asked")]),
        sample(8, "I", error=log.EvalError(message="x", traceback="", traceback_ansi="")),
    ]  # fmt: skip
    spec = log.EvalSpec(
        created="2026-01-01T00:00:00", task="mine", dataset=log.EvalDataset(), model="mock", config=log.EvalConfig()
    )
    for suffix in (".json", ".eval"):
        path = tmp_path / f"mine{suffix}"
        log.write_eval_log(log.EvalLog(eval=spec, samples=samples, status="success"), str(path))
        kind, failures, left = read(path)
        assert kind == "Inspect"
        assert [one.prompt for one in failures] == ["Who cooks?", "Who cooks?", "As it was asked"]
        assert failures[1].question == entry.Question("", "Who cooks?", ("Ann", "Bob", "Unknown"), 2)
        assert left == Counter({entry.PASSED: 1, entry.NO_VERDICT: 2, entry.NO_ANSWER_KEY: 1, entry.TOOL_ERROR: 1})
        with pytest.raises(InputError, match="choose one of 'mine'"):
            read(path, metric="other")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", {"results": {"outputs": []}}, "promptfoo eval --output"),
        ("a.json", {"results": {}, "configs": {}}, "samples_"),
        ("a.json", {"testCases": {}}, "'testCases' is no list"),
        ("a.json", {"other": 1}, "not the results of"),
        ("a.parquet", "x", "not known by its name"),
    ],
)
def test_a_file_that_is_no_log(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        read(written(tmp_path, name, content))
    with pytest.raises(InputError, match="not there"):
        read(tmp_path / "missing.json")


@pytest.mark.skipif(not REAL.exists(), reason="the example logs are not here")
@pytest.mark.parametrize(
    ("name", "kind", "failures"),
    [
        ("promptfoo/own_example.results.json", "promptfoo", 2),
        ("deepeval/test_run_sample.json", "deepeval", 1),
        ("lm_eval/own_example.samples_multiple_choice.jsonl", "lm-eval", 1),
        ("lm_eval/samples_math_perturbed_full_2026-01-21T03-44-18.458309.jsonl", "lm-eval", 10),
        ("inspect_ai/log_formats.json", "Inspect", 1),
        ("inspect_ai/popularity_3_samples.json", "Inspect", 1),
        ("inspect_ai/mmlu-no-summary-choices.eval", "Inspect", 1),
    ],
)
def test_real_logs(name, kind, failures):
    if kind == "Inspect":
        pytest.importorskip("inspect_ai")
    found, failed, _ = read(REAL / name)
    assert (found, len(failed)) == (kind, failures)
    assert all(one.prompt and one.source for one in failed)
