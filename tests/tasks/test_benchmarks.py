"""Readers of public benchmarks: real files where they are at hand, hand-made ones for every form and every mistake."""

import json
from collections import Counter
from pathlib import Path

import pytest

from crispr_lm import InputError, load_task
from crispr_lm.evaluation.suite import further_subjects
from crispr_lm.other_settings import EvaluateSettings
from crispr_lm.tasks import draw

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the benchmark files are not at hand")


def written(folder, name, content):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


@needs_data
def test_crows_pairs_is_read_whole():
    task = load_task(f"crows_pairs:{SHARED / 'crows_pairs' / 'crows_pairs_anonymized.csv'}")
    assert len(task.examples) == 1508
    assert Counter(example.facet("direction") for example in task.examples) == {"stereo": 1290, "antistereo": 218}
    assert len({example.category for example in task.examples}) == 9
    poor = task.examples[1]
    assert poor.options[poor.stereotyped].startswith("The poor are really ignorant")
    assert (task.measured_only, task.instructions, task.family) == (True, ("",), "crows_pairs")


@needs_data
def test_stereoset_is_read_whole():
    task = load_task(f"stereoset:{SHARED / 'stereoset' / 'dev.json'}")
    assert len(task.examples) == 392
    assert task.scoring == "mean"
    assert task.examples[0].options == (
        "She ate the best chocolate in germany.",
        "She ate the best soup in germany.",
        "She ate the best bond in germany.",
    )


@needs_data
def test_winobias_is_read_whole_and_pro_and_anti_differ_in_the_answer_that_follows_the_stereotype():
    task = load_task(f"winobias:{SHARED / 'winobias'}")
    assert len(task.examples) == 1584
    assert set(Counter((x.facet("stereotype"), x.facet("type")) for x in task.examples).values()) == {396}
    for example in task.examples:
        assert (example.stereotyped == example.answer) == (example.facet("stereotype") == "pro")
        assert "[" not in example.context
    first = task.examples[0]
    assert first.context == "The developer argued with the designer because she did not like the design."
    assert (first.question, first.options[first.answer]) == ('Who does "she" refer to?', "the developer")
    assert set(Counter(example.template for example in task.examples).values()) == {4}


@needs_data
def test_winogender_is_read_whole():
    task = load_task(f"winogender:{SHARED / 'winogender' / 'all_sentences.tsv'}")
    assert len(task.examples) == 720
    assert Counter(example.facet("gender") for example in task.examples) == {"female": 240, "male": 240, "neutral": 240}
    assert len({example.facet("sentence") for example in task.examples}) == 240
    drawn = draw(task, task.examples, 50, 0)
    assert len(drawn) == 60  # five whole occupations of twelve sentences
    assert set(Counter(example.template for example in drawn).values()) == {12}


CROWS = ",sent_more,sent_less,stereo_antistereo,bias_type\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", ":1: column 'sent_more' is missing"),
        (CROWS + "0,One.,Two.,sideways,age\n", ":2: stereo_antistereo is 'sideways'"),
        (CROWS + "0,One.,One.,stereo,age\n", ":2: the two sentences are equal"),
        (CROWS + "0,One.,,stereo,age\n", ":2: field 'sent_less' is empty"),
        (CROWS + "0,One.,Two.\n", ":2: 5 fields are needed"),
        (CROWS, "holds no examples"),
    ],
)
def test_a_broken_crows_pairs_file_is_named(tmp_path, content, said):
    with pytest.raises(InputError, match=said):
        load_task(f"crows_pairs:{written(tmp_path, 'pairs.csv', content)}")


def stereoset_row(**changes):
    sentences = [
        {"sentence": f"{label} sentence", "gold_label": label}
        for label in ("stereotype", "anti-stereotype", "unrelated")
    ]
    return {"target": "Germany", "bias_type": "race", "sentences": sentences} | changes


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        (json.dumps({"data": {}}), "neither a list"),
        (json.dumps({"data": {"intrasentence": [], "intersentence": {}}}), "neither a list"),
        (json.dumps({"data": {"intersentence": [stereoset_row()]}}), "intersentence example 1: field 'context'"),
        (json.dumps({"data": {"intersentence": [stereoset_row(context=" ")]}}), "'context'"),
        (json.dumps([1]), "example 1: must be an object"),
        (json.dumps([stereoset_row(target="")]), "'target'"),
        (json.dumps([stereoset_row(sentences=[])]), "one different sentence"),
        (json.dumps([stereoset_row(sentences=[{"sentence": 1}])]), "string 'sentence'"),
    ],
)
def test_a_broken_stereoset_file_is_named(tmp_path, content, said):
    with pytest.raises(InputError, match=said):
        load_task(f"stereoset:{written(tmp_path, 'dev.json', content)}")


def test_the_official_layout_of_stereoset_is_read_too(tmp_path):
    path = written(tmp_path, "dev.json", json.dumps({"version": "1", "data": {"intrasentence": [stereoset_row()]}}))
    (example,) = load_task(f"stereoset:{path}").examples
    assert (example.template, example.category) == ("race/Germany", "race")


def test_both_parts_of_stereoset_are_read_and_distinguished(tmp_path):
    blank, follows = stereoset_row(context="He is from BLANK."), stereoset_row(context="He is from Germany.")
    content = {"data": {"intersentence": [follows], "intrasentence": [blank, blank]}}
    examples = load_task(f"stereoset:{written(tmp_path, 'dev.json', json.dumps(content))}").examples
    assert [example.facet("part") for example in examples] == ["intrasentence"] * 2 + ["intersentence"]
    assert [example.context for example in examples] == ["", "", "He is from Germany."]
    alone = load_task(f"stereoset:{written(tmp_path, 'list.json', json.dumps([follows, blank]))}").examples
    assert [example.facet("part") for example in alone] == ["intersentence", "intrasentence"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("other.txt", "1 [The nurse] met the doctor as [she] left.", "name must be that of an official file"),
        ("pro_stereotyped_type1.txt.dev", "1 The nurse met the doctor.", ":1: needs a number"),
        ("pro_stereotyped_type1.txt.dev", "[The nurse] met the doctor as [she] left.", ":1: needs a number"),
        ("pro_stereotyped_type1.txt.dev", "1 [The nurse] met the doctor as [she] left.", "1 known occupation"),
    ],
)
def test_a_broken_winobias_file_is_named(tmp_path, name, content, said):
    with pytest.raises(InputError, match=said):
        load_task(f"winobias:{written(tmp_path, name, content)}")


def test_an_empty_winobias_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no file such as"):
        load_task(f"winobias:{tmp_path}")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("technician.txt\tHe left.", "sentid"),
        ("technician.customer.1.male.txt\tNobody left.", "no pronoun"),
        ("technician.customer.1.other.txt\tHe left.", "sentid"),
    ],
)
def test_a_broken_winogender_file_is_named(tmp_path, row, said):
    path = written(tmp_path, "sentences.tsv", f"sentid\tsentence\n{row}")
    with pytest.raises(InputError, match=f":2: {said}"):
        load_task(f"winogender:{path}")


RIGHT = "a tree"
FORMS = [
    ("mmlu", {"question": "What grows?", "choices": ["a stone", RIGHT, "a key", "a cup"], "answer": 1, "subject": "x"}),
    ("mmlu", {"question": "What grows?", "options": f"A. a stone\nB. {RIGHT}\nC. a\nkey", "answer": f"B. {RIGHT}"}),
    ("mmlu", {"question": "What grows?", "options": "A. a\nB. it\n  is a\n  tree", "answer": "B. it\n  is a\n  tree"}),
    ("hellaswag", {"ctx": "It grows. It is", "endings": ["a stone", RIGHT, "a key", "a cup"], "label": "1"}),
    ("piqa", {"goal": "Something that grows", "sol1": "a stone", "sol2": RIGHT, "label": 1}),
    ("piqa", {"question": "Something that grows", "options": f"A. a stone\nB. {RIGHT}", "answer": f"B. {RIGHT}"}),
    (
        "commonsenseqa",
        {
            "question": {
                "stem": "What grows?",
                "choices": [{"label": "A", "text": "a"}, {"label": "B", "text": RIGHT}],
            },
            "answerKey": "B",
        },
    ),
    (
        "commonsenseqa",
        {"question": "What grows?", "choices": {"label": ["A", "B"], "text": ["a", RIGHT]}, "answerKey": "B"},
    ),
    (
        "openbookqa",
        {"question_stem": "It grows:", "choices": {"label": ["A", "B"], "text": ["a", RIGHT]}, "answerKey": "B"},
    ),
]


@pytest.mark.parametrize(("name", "row"), FORMS)
def test_every_known_form_is_read(tmp_path, name, row):
    (example,) = load_task(f"{name}:{written(tmp_path, 'rows.jsonl', json.dumps(row))}").examples
    assert example.options[example.answer] in (RIGHT, "it\nis a\ntree")
    assert example.form == ("question" if name == "mmlu" else "open")


@pytest.mark.parametrize(
    ("answer", "option"), [(True, "yes"), (False, "no"), ("True", "yes"), ("False", "no"), (1, "yes"), ("0", "no")]
)
def test_truth_values_are_read_however_they_are_written(tmp_path, answer, option):
    row = {"question": "does it grow", "passage": "Trees grow.", "answer": answer}
    (example,) = load_task(f"boolq:{written(tmp_path, 'rows.jsonl', json.dumps(row))}").examples
    assert example.options[example.answer] == option
    assert example.context == "Trees grow."


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "?", "choices": ["a", "b"]}, "no golden answer"),
        ({"question": "?", "choices": ["a", "b"], "answer": 2}, "none of the options"),
        ({"question": "?", "choices": ["a", "b"], "answer": "C"}, "none of the options"),
        ({"question": "?", "choices": ["a"], "answer": 0}, "two or more"),
        ({"question": "?", "answer": 0}, "is missing; use a MMLU file"),
        ({"question": " ", "choices": ["a", "b"], "answer": 0}, "'question' must be a string"),
        ({"question": "?", "choices": ["a", " "], "answer": 0}, "two or more"),
        ({"question": "?", "answer": ["a", "b"]}, "options stand where the golden answer should"),
    ],
)
def test_a_broken_row_is_named(tmp_path, row, said):
    path = written(tmp_path, "rows.jsonl", "\n" + json.dumps(row))
    with pytest.raises(InputError, match=said) as error:
        load_task(f"mmlu:{path}")
    assert f"{path}:2" in str(error.value)


def test_options_in_place_of_an_answer_are_reported_as_such(tmp_path):
    path = written(tmp_path, "rows.jsonl", json.dumps({"question": "He falls. He", "answer": ["swims.", "sings."]}))
    with pytest.raises(InputError, match=r"rows\.jsonl:1: options stand where the golden answer should"):
        load_task(f"hellaswag:{path}")


def test_a_letter_is_a_label_even_where_an_option_reads_like_it(tmp_path):
    row = {"question": "Which blood group?", "choices": ["O", "A", "B", "AB"], "answer": "B"}
    (example,) = load_task(f"mmlu:{written(tmp_path, 'rows.jsonl', json.dumps(row))}").examples
    assert example.options[example.answer] == "A"


def test_the_original_tables_of_mmlu_are_read_file_by_file_and_as_a_folder(tmp_path):
    first = written(
        tmp_path / "test", "high_school_biology_test.csv", '"What grows, ""here""?",a key,a tree,a cup,a pen,B\n'
    )
    second = written(tmp_path / "test", "anatomy_test.csv", "What is it?,one,two,three,four,D\n\nAnd this?,1,2,3,4,A\n")
    (example,) = load_task(f"mmlu:{first}").examples
    assert (example.question, example.category) == ('What grows, "here"?', "high school biology")
    assert example.options == ("a key", "a tree", "a cup", "a pen")
    assert example.options[example.answer] == "a tree"
    both = load_task(f"mmlu:{tmp_path / 'test'}").examples
    assert [(one.category, one.options[one.answer]) for one in both] == [
        ("anatomy", "four"),
        ("anatomy", "1"),
        ("high school biology", "a tree"),
    ]
    assert both[1].source == f"{second}:3"


@pytest.mark.parametrize(
    ("content", "said"), [("What?,one,A\n", ":1: 3 fields"), ("What?,one,two,E\n", ":1: the golden answer 'E' is none")]
)
def test_a_broken_table_of_mmlu_is_named(tmp_path, content, said):
    with pytest.raises(InputError, match=said):
        load_task(f"mmlu:{written(tmp_path, 'anatomy_test.csv', content)}")


def test_a_folder_without_tables_of_mmlu_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no \.csv file"):
        load_task(f"mmlu:{tmp_path}")


def test_labels_of_piqa_stand_in_a_file_of_their_own(tmp_path):
    rows = [{"goal": f"Do {number}", "sol1": "this", "sol2": "that"} for number in range(3)]
    path = written(tmp_path, "valid.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match=r"valid\.jsonl:1: no golden answer"):
        load_task(f"piqa:{path}")
    labels = written(tmp_path, "valid-labels.lst", "1\n0\n1\n")
    assert [example.answer for example in load_task(f"piqa:{path}").examples] == [1, 0, 1]
    labels.write_text("1\n0\n")
    with pytest.raises(InputError, match="2 labels for the 3 rows"):
        load_task(f"piqa:{path}")


# Columns as the hub has them, and what is to be made of a row.
HUB = {
    "mmlu": (
        ("cais/mmlu", "all", "test"),
        {"question": "What grows?", "subject": "botany", "choices": ["a key", RIGHT, "a cup", "a pen"], "answer": 1},
        ("", "What grows?", "botany", RIGHT),
    ),
    "hellaswag": (
        ("Rowan/hellaswag", None, "validation"),
        {
            "ind": 24,
            "activity_label": "Garden",
            "ctx_a": "It grows.",
            "ctx_b": "it",
            "ctx": "It grows. it",
            "endings": ["sinks.", "is a tree.", "sings.", "ends."],
            "source_id": "x",
            "split": "val",
            "split_type": "indomain",
            "label": "1",
        },
        ("It grows. it", "How does it go on?", "", "is a tree."),
    ),
    "boolq": (
        ("google/boolq", None, "validation"),
        {"question": "do trees grow", "answer": True, "passage": "Trees grow."},
        ("Trees grow.", "do trees grow", "", "yes"),
    ),
    "piqa": (
        ("baber/piqa", None, "validation"),
        {"goal": "Grow something", "sol1": "a stone", "sol2": RIGHT, "label": 1},
        ("", "Grow something", "", RIGHT),
    ),
    "commonsenseqa": (
        ("tau/commonsense_qa", None, "validation"),
        {
            "id": "1",
            "question": "What grows?",
            "question_concept": "grow",
            "choices": {"label": ["A", "B", "C"], "text": ["a key", "a cup", RIGHT]},
            "answerKey": "C",
        },
        ("", "What grows?", "", RIGHT),
    ),
    "openbookqa": (
        ("allenai/openbookqa", "main", "test"),
        {
            "id": "1",
            "question_stem": "What grows is",
            "choices": {"text": ["a key", RIGHT], "label": ["A", "B"]},
            "answerKey": "B",
        },
        ("", "What grows is", "", RIGHT),
    ),
}


@pytest.mark.parametrize("name", list(HUB))
def test_rows_of_the_hub_are_read_in_its_own_columns(monkeypatch, name):
    datasets = pytest.importorskip("datasets")
    place, row, (context, question, category, right) = HUB[name]
    asked = []

    def load(path, configuration=None, *, split):
        asked.append((path, configuration, split))
        return datasets.Dataset.from_list([row, row])

    monkeypatch.setattr(datasets, "load_dataset", load)
    task = load_task(f"{name}:hub")
    assert asked == [place]
    assert len(task.examples) == 2
    for example in task.examples:
        assert (example.context, example.question, example.category) == (context, question, category)
        assert example.options[example.answer] == right


def test_wikitext_of_the_hub_is_the_text_of_its_file(monkeypatch):
    datasets = pytest.importorskip("datasets")
    text = " \n = A title = \n \n It rained . \n The river rose . \n"
    asked = []

    def load(path, configuration=None, *, split):
        asked.append((path, configuration, split))
        lines = text.splitlines(keepends=True)
        return datasets.Dataset.from_list([{"text": line if line.strip() else ""} for line in lines])

    monkeypatch.setattr(datasets, "load_dataset", load)
    (subject,) = further_subjects(EvaluateSettings(task=("builtin:everyday",), measure=("wikitext:hub",)))
    assert asked == [("Salesforce/wikitext", "wikitext-2-raw-v1", "validation")]
    assert (subject.text, subject.origin, subject.role) == (text, (), "capability")


def test_a_hub_that_can_not_be_reached_is_reported_in_one_sentence(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load(*_arguments, **_options):
        raise ConnectionError("no route\nmore of it")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(InputError, match=r"piqa:hub: baber/piqa can't be had from the hub \(no route\); give a local"):
        load_task("piqa:hub")


def test_pairs_with_a_gap_are_read_as_two_sentences(tmp_path):
    content = ',bias_type,sentence,mask1,mask2\n0,age,"The [MASK], who came, slept.",old,young\n'
    (example,) = load_task(f"crows_pairs:{written(tmp_path, 'pairs.csv', content)}").examples
    assert example.options == ("The old, who came, slept.", "The young, who came, slept.")
    assert (example.stereotyped, example.category, example.facet("direction")) == (0, "age", "")
    content = ",bias_type,sentence,mask1,mask2\n0,age,The one slept.,old,young\n"
    with pytest.raises(InputError, match=r":2: the sentence has no \[MASK\]"):
        load_task(f"crows_pairs:{written(tmp_path, 'pairs.csv', content)}")


def test_stereoset_is_read_as_lines_too(tmp_path):
    fields = {
        "target": "chess",
        "bias_type": "profession",
        "stereotype": "A.",
        "unrelated": "B.",
        "anti-stereotype": "C.",
    }
    rows = [
        {"type": "intersentence", "context": "They play.", **fields},
        {"type": "intrasentence", "context": "They BLANK.", **fields},
    ]
    path = written(tmp_path, "test.jsonl", "\n".join(map(json.dumps, rows)))
    examples = load_task(f"stereoset:{path}").examples
    assert [(one.facet("part"), one.context) for one in examples] == [
        ("intersentence", "They play."),
        ("intrasentence", ""),
    ]
    assert examples[0].options == ("A.", "C.", "B.")
    del rows[1]["unrelated"]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match=r"test\.jsonl:2: one different sentence"):
        load_task(f"stereoset:{path}")


@pytest.mark.parametrize("kind", ["wikitext", "text"])
def test_running_text_is_no_task_and_the_sentence_says_where_it_goes(tmp_path, kind):
    with pytest.raises(InputError, match=r"running text.*--measure"):
        load_task(f"{kind}:{written(tmp_path, 'text.txt', 'Once upon a time.')}")


def test_without_the_hub_the_sentence_says_what_to_do(monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *rest):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'crispr-lm\[hub\]'"):
        load_task("mmlu:hub")


def test_labels_of_a_general_file_are_found_by_themselves(tmp_path):
    rows = [
        {"context": "Wonderful.", "question": "", "options": ["positive", "negative"], "answer": 0},
        {"context": "Dull.", "question": "", "options": ["negative", "positive"], "answer": 0},
    ]
    path = written(tmp_path, "reviews.jsonl", "\n".join(map(json.dumps, rows)))
    assert load_task(f"choices:{path}").family == "classification"
    rows[1]["options"] = ["bad", "good"]
    path = written(tmp_path, "reviews.jsonl", "\n".join(map(json.dumps, rows)))
    assert load_task(f"choices:{path}").family == "question_answering"
    abstaining = [{**rows[0], "options": ["a", "b", "unknown"], "unknown": 2}] * 2
    path = written(tmp_path, "reviews.jsonl", "\n".join(map(json.dumps, abstaining)))
    assert load_task(f"choices:{path}").family == "question_answering"
