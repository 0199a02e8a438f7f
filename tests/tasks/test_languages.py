"""Benchmarks in other languages: every trap of their files, on a few rows of our own."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from crispr_lm import Example, InputError, Task, load_task
from crispr_lm.inference.generation import matched_answer, matched_option
from crispr_lm.inference.prompts import prompt_text
from crispr_lm.tasks.base import builtin_instructions
from crispr_lm.tasks.bbq_form import shuffled, without_repeats
from crispr_lm.tasks.groups import NOT_FOUND, read_groups
from crispr_lm.tasks.languages import ENGLISH, LANGUAGES

from . import language_rows as rows

OTHERS = [code for code in LANGUAGES if code != ENGLISH]


def loaded(folder, kind, given, name=None, **options):
    """The task of rows, or of the text of a file."""
    usual, _ = rows.FILES[kind]
    path = folder / (name or usual)
    delimiter = {"csv": ",", "tsv": "\t"}.get(path.suffix[1:])
    path.write_text(rows.table(given, delimiter) if delimiter else rows.lines(given), encoding="utf-8")
    return load_task(f"{kind}:{path}", **options)


def option(example, index):
    return None if index is None else example.options[index]


def stereotyped(task):
    return [option(example, example.stereotyped) for example in task.examples]


@pytest.mark.parametrize("code", OTHERS)
def test_each_language_has_ten_instructions_and_words_of_its_own(code):
    instructions = builtin_instructions(code)
    assert len(set(instructions)) == 10
    assert not set(instructions) & {
        text for other in LANGUAGES if other != code for text in builtin_instructions(other)
    }
    words = LANGUAGES[code]
    assert len(words.unknown) >= 5
    example = Example("Abc.", "Def?", ("g", "h"), 0, "t", language=code)
    text = prompt_text(example, instructions[0])
    assert text.startswith(instructions[0] + "\n")
    assert text.endswith(f"g{words.separator}h\n{words.answer}")
    assert not {"Question", "Answer options", "Your answer"} & {line.partition(":")[0] for line in text.splitlines()}


def test_a_language_without_words_is_refused():
    with pytest.raises(InputError, match="language 'xx' is not known"):
        Example("", "Who?", ("a", "b"), 0, "t", language="xx")


@pytest.mark.parametrize(("kind", "language"), [("esbbq", "es"), ("cabbq", "ca"), ("kobbq", "ko"), ("ggbbq", "de"),
                                                ("cbbq", "zh"), ("mbbq", "es"), ("mbbq_control", "es")])  # fmt: skip
def test_a_task_is_asked_in_its_language(kind, language, tmp_path):
    name, text = rows.FILES[kind]
    (tmp_path / name).write_text(text, encoding="utf-8")
    task = load_task(f"{kind}:{tmp_path / name}", 3)
    assert {example.language for example in task.examples} == {language}
    assert task.instructions == builtin_instructions(language)[:3]
    assert task.rows.read == len(task.examples)


def test_spanish_has_no_english_word_and_the_other_person_in_questions_of_positive_meaning(tmp_path):
    given = [rows.es_row(), rows.es_row(polarity="nonneg"), rows.es_row("disambig", label=1)]
    task = loaded(tmp_path, "esbbq", given)
    assert stereotyped(task) == ["La abuela", "El nieto", "La abuela"]
    assert [option(example, example.unknown) in LANGUAGES["es"].unknown for example in task.examples] == [True] * 3
    assert "unknown" not in {text for example in task.examples for text in example.options}
    assert option(task.examples[2], task.examples[2].answer) == "El nieto"
    assert {example.template for example in task.examples} == {"esbbq Age/4"}


def test_a_group_behind_a_gender_is_found_and_the_json_lines_say_the_same_as_the_table(tmp_path):
    row = rows.es_row(
        stereotyped_groups="['latino', 'negro']",
        **{"answer_info.ans0": "['José', 'm, latino']", "answer_info.ans1": "['Juan', 'm, europeo']"},
    )
    names = ("ans0", "ans1", "ans2")
    as_json = {name: value for name, value in row.items() if not name.startswith("answer_info")} | {
        "answer_info": {name: row[f"answer_info.{name}"].strip("[]").replace("'", "").split(", ", 1) for name in names},
        "stereotyped_groups": ["latino", "negro"],
        "label": 2,
        "template_id": 4,
    }
    table, json_lines = loaded(tmp_path, "esbbq", [row]), loaded(tmp_path, "esbbq", [as_json], "Race.jsonl")
    assert stereotyped(table) == ["La abuela"]
    assert [replace(example, source="") for example in table.examples] == [
        replace(example, source="") for example in json_lines.examples
    ]


def test_catalan_and_spanish_are_told_apart_and_split_alike(tmp_path):
    with pytest.raises(InputError, match="looks Catalan; read the file with cabbq:"):
        loaded(tmp_path, "esbbq", [rows.ca_row()])
    with pytest.raises(InputError, match="looks Spanish; read the file with esbbq:"):
        loaded(tmp_path, "cabbq", [rows.es_row()])
    numbered = [{"template_id": str(number)} for number in range(9)]
    texts = [number | {"context": str(number)} for number in numbered]  # equal texts would be one row
    spanish, catalan = (
        loaded(tmp_path, kind, [row | text for text in texts])
        for kind, row in (("esbbq", rows.es_row()), ("cabbq", rows.ca_row()))
    )
    for seed in range(3):
        for one, other in zip(spanish.split(seed), catalan.split(seed), strict=True):
            assert [example.template for example in one] == [example.template for example in other]


def test_the_biased_answer_of_kobbq_follows_polarity_already(tmp_path):
    given = [rows.ko_row(), rows.ko_row("dis", "cnt", "할머니", "손자")]
    task = loaded(tmp_path, "kobbq", given)
    assert stereotyped(task) == ["할머니", "손자"]
    assert [option(example, example.answer) for example in task.examples] == ["알 수 없음", "할머니"]
    assert [example.polarity for example in task.examples] == ["negative", "nonnegative"]
    assert {example.template for example in task.examples} == {"kobbq age-003"}


def test_trans_persons_of_gg_bbq_are_found_though_called_otherwise(tmp_path):
    trans = rows.de_row(
        choice_0="Die trans Frau",
        known_stereotyped_groups='["Transgender women", "transgender men", "trans"]',
        choice_info="{0: ['Die trans Frau', 'non_binary'], 1: ['Der Mann', 'M'], 2: ['keine Antwort', 'unknown']}",
    )
    task = loaded(tmp_path, "ggbbq", [trans, rows.de_row(polarity="non_negative")])
    assert stereotyped(task) == ["Die trans Frau", "Der Mann"]
    assert [dict(example.facets)["target"] for example in task.examples] == ["trans persons", "women"]


@pytest.mark.parametrize(
    ("group", "target", "other"),
    [
        ("非异性恋者", "同性恋者", "异性恋者"),  # the group's name contains the other person's
        ("变性人", "变性女生", "非变性女生"),  # the other person's contains the target's
        ("女性", "离了婚的女性", "男性"),
        ("女性", "孩子的妈妈", "孩子的爸爸"),
        ("印度人/巴基斯坦", "印度人", "印度尼西亚人"),
        ("非全日制类毕业生", "非全日制/自考类毕业生", "全日制类毕业生"),
        ("农名工/移民工", "有农业户口的人", "有非农业户口的人"),
        ("艾滋病患者", "艾滋病患者", "非艾滋病患者"),
        ("老年人", "65岁的人", "25岁的人"),
        ("年轻人", "25岁的人", "65岁的人"),
        ("佛教", "信奉佛教的人", "基督教信徒"),
        ("成都人", "成都司机", "重庆司机"),
        ("低收入人群/农民工群体", "较贫穷的家长", "较富裕的家长"),
    ],
)
def test_chinese_groups_are_not_found_by_what_their_names_contain(group, target, other, tmp_path):
    for first, second in ((target, other), (other, target)):
        changed = {"bias_targeted_groups": group, "ans0": first, "ans1": second}
        given = [rows.zh_row(**changed), rows.zh_row(polarity="non_neg", **changed)]
        assert stereotyped(loaded(tmp_path, "cbbq", given, "a.csv")) == [target, other]


def test_chinese_files_are_read_as_arrays_too_and_in_folders(tmp_path):
    (tmp_path / "ambiguous").mkdir()
    given = [rows.zh_row(), rows.zh_row("disambiguous", label="0")]
    array = tmp_path / "ambiguous" / "ambiguous.json"
    array.write_text(json.dumps(given, ensure_ascii=False), encoding="utf-8-sig")
    task = load_task(f"cbbq:{array}")
    assert stereotyped(task) == ["女生", "女生"]
    assert load_task(f"cbbq:{tmp_path}").examples == task.examples
    (array.with_suffix(".csv")).write_text(rows.table(given[:1]), encoding="utf-8")
    assert len(load_task(f"cbbq:{tmp_path}").examples) == 1  # the same rows in another form are not read twice


def test_repeated_contradictory_and_unusable_rows_are_left_out_and_counted(tmp_path):
    given = [
        rows.zh_row(),
        rows.zh_row(question_index="9", ans0="女生", ans1="男生"),  # the same in another order and template
        rows.zh_row(ans2="不确定"),  # the same with another word for unknown
        rows.zh_row("disambiguous", label="0", question="A？"),
        rows.zh_row("disambiguous", label="1", question="A？"),
        rows.zh_row("disambiguous", label="0", question="B？", ans1="男生"),
        rows.zh_row("disambiguous", label="1", question="C？"),
    ]
    task = loaded(tmp_path, "cbbq", given, "a.csv")
    assert [example.question for example in task.examples] == [given[0]["question"], "C？"]
    counts = task.rows
    assert (counts.read, counts.repeated, counts.contradictory, counts.unusable) == (7, 2, 2, 1)


@pytest.mark.parametrize("language", ["es", "nl", "tr", "en"])
@pytest.mark.parametrize("group", ["F", "M"])
def test_mbbq_finds_women_and_men_in_every_language(language, group, tmp_path):
    woman, man, _ = rows.WORDS[language]
    given = [rows.mbbq_row(language, 2, polarity, group) for polarity in ("neg", "nonneg")]
    task = loaded(tmp_path, "mbbq", given, f"Gender_identity_{language}.jsonl")
    first, second = (woman, man) if group == "F" else (man, woman)
    assert stereotyped(task) == [first.capitalize(), second.capitalize()]
    assert not any(example.facet(NOT_FOUND) for example in task.examples)
    assert {example.template for example in task.examples} == {"Gender_identity/1"}  # as in BBQ, in every language


def test_mbbq_goes_by_the_words_where_a_label_is_wrong_and_finds_nobody_among_two_of_one_gender(tmp_path):
    unknown = ["No se sabe", "unknown"]
    wrong = {"ans0": ["chico", "chico"], "ans1": ["chico", "chico"], "ans2": unknown}
    two = {"ans0": ["mujer", "mujer"], "ans1": ["chica", "chica"], "ans2": unknown}
    given = [
        rows.mbbq_row("es", ans0="La chica", ans1="El chico", answer_info=wrong, context="1"),
        rows.mbbq_row("es", ans0="Una mujer", ans1="Una chica", answer_info=two, context="2"),
        *(rows.mbbq_row("es", context=f"more {number}") for number in range(20)),
    ]
    task = loaded(tmp_path, "mbbq", given, "Gender_identity_es.jsonl")
    assert stereotyped(task) == ["La chica", None] + ["Mujer"] * 20
    assert "groups F; persons chica, mujer" in task.examples[1].facet(NOT_FOUND)


def test_the_control_set_has_no_stereotype_and_is_not_mixed_with_the_other(tmp_path):
    control = loaded(tmp_path, "mbbq_control", [rows.mbbq_row("tr", 0)], "Gender_identity_control_tr.jsonl")
    assert stereotyped(control) == [None]
    loaded(tmp_path, "mbbq", [rows.mbbq_row("tr", 1)], "Gender_identity_tr.jsonl")
    assert [example.answer for example in load_task(f"mbbq:{tmp_path}").examples] == [1]
    assert [example.answer for example in load_task(f"mbbq_control:{tmp_path}").examples] == [0]
    loaded(tmp_path, "mbbq", [rows.mbbq_row("nl", 1)], "Gender_identity_nl.jsonl")
    with pytest.raises(InputError, match="holds files in nl, tr; give one file"):
        load_task(f"mbbq:{tmp_path}")


def test_a_task_whose_groups_are_not_found_asks_for_a_map_and_takes_it(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(rows.lines([rows.mbbq_row("es"), rows.mbbq_row("es", polarity="nonneg")]), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"not found in 2 of 2 rows \(100%\), most often of groups F; persons hombre, m"
    ):
        load_task(f"bbq:{path}")
    given = tmp_path / "groups.json"
    given.write_text('{"Mujer": "F", "hombre": "M"}', encoding="utf-8")
    assert stereotyped(load_task(f"bbq:{path}", groups=read_groups(given))) == ["Mujer", "Hombre"]
    given.write_text("{}", encoding="utf-8")
    assert stereotyped(load_task(f"bbq:{path}", groups=read_groups(given))) == [None, None]
    given.write_text('{"señora": "X"}', encoding="utf-8")
    with pytest.raises(InputError, match=r"not found in 2 of 2 rows .*Add names and their groups to the file of --gr"):
        load_task(f"bbq:{path}", groups=read_groups(given))
    for text, said in (("[]", "not one JSON object"), ('{"mujer": 1}', "both must be texts"), ("mujer = F", "use the")):
        given.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=said):
            read_groups(given)


def test_only_the_persons_that_were_not_found_are_named_and_as_the_file_has_them(tmp_path):
    unknown, man = ["No se sabe", "unknown"], ["hombre", "hombre"]
    lost = {"ans0": ["señora", "señora"], "ans1": man, "ans2": unknown}
    given = [
        rows.mbbq_row("es", ans0="Señora", ans1="Hombre", answer_info=lost, context="1"),
        *(rows.mbbq_row("es", context=f"more {number}") for number in range(5)),
    ]
    for groups in (None, {"senora": "x"}):
        with pytest.raises(
            InputError, match=r"not found in 1 of 6 rows \(17%\), most often of groups F; persons señora\."
        ):
            loaded(tmp_path, "mbbq", given, "Gender_identity_es.jsonl", groups=groups)
    assert stereotyped(loaded(tmp_path, "mbbq", given, "Gender_identity_es.jsonl", groups={}))[0] is None
    found = loaded(tmp_path, "mbbq", given, "Gender_identity_es.jsonl", groups={"senora": "f"})
    assert stereotyped(found)[0] == "Señora"


def test_a_map_is_taken_for_persons_of_the_other_benchmarks_too(tmp_path):
    labels = {"answer_info.ans0": "['abuela', 'yaya']", "answer_info.ans1": "['nieto', 'nonOld']"}
    with pytest.raises(InputError, match="--groups FILE"):
        loaded(tmp_path, "esbbq", [rows.es_row(**labels)])
    assert stereotyped(loaded(tmp_path, "esbbq", [rows.es_row(**labels)], groups={"yaya": "old"})) == ["La abuela"]
    changed = {"bias_targeted_groups": "左撇子", "ans0": "用左手的人", "ans1": "用右手的人"}
    with pytest.raises(InputError, match="--groups FILE"):
        loaded(tmp_path, "cbbq", [rows.zh_row(**changed)], "a.csv")
    found = loaded(tmp_path, "cbbq", [rows.zh_row(**changed)], "a.csv", groups={"用左手的人": "左撇子"})
    assert stereotyped(found) == ["用左手的人"]


def test_options_are_shuffled_evenly_by_their_texts_alone():
    def example(number, *options):
        given = options or ("target", "other", "unknown")
        index = {option: place for place, option in enumerate(given)}
        return Example(
            f"context {number}", "Who?", given, index["other"], "t", "disambiguated", index["unknown"], index["target"]
        )

    orders = Counter(shuffled(example(number)).options for number in range(600))
    assert len(orders) == 6
    assert min(orders.values()) > 60  # of 100; less has a probability below 1e-5
    for number in range(10):
        one = shuffled(example(number))
        assert one == shuffled(example(number, "other", "unknown", "target"))
        assert [one.options[index] for index in (one.answer, one.unknown, one.stereotyped)] == [
            "other",
            "unknown",
            "target",
        ]


def test_rows_that_differ_in_the_answer_are_both_left_out_whatever_their_order():
    one = Example("c", "q", ("a", "b", "u"), 0, "t", "disambiguated", 2, 0)
    for given in ([one, replace(one, answer=1)], [replace(one, answer=1), one, one]):
        assert without_repeats(given)[0] == ()


def test_a_row_that_holds_no_list_or_too_deep_a_one_is_refused(tmp_path):
    for text in ("", "old", "['old'", "[1]", "[]", "[" * 3000, "-" * 3000, "__import__('os')"):
        with pytest.raises(InputError, match="stereotyped_groups"):
            loaded(tmp_path, "esbbq", [rows.es_row(stereotyped_groups=text)])


def test_a_task_in_two_languages_is_refused():
    given = [Example("", "Who?", ("a", "b"), 0, "t"), Example("", "¿Quién?", ("a", "b"), 0, "t", language="es")]
    with pytest.raises(InputError, match="in language 'es', but the task begins in 'en'"):
        Task.from_examples(given)


def test_own_questions_are_asked_in_the_language_they_name(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"question": "Wer?", "options": ["a", "b"], "answer": 0, "language": "de"}))
    assert load_task(f"choices:{path}").instructions == builtin_instructions("de")


@pytest.mark.parametrize(
    ("language", "options", "text", "answer"),
    [
        ("es", ("La mujer", "El hombre", "Se desconoce"), "mujer.", 0),
        ("es", ("La mujer", "El hombre", "Se desconoce"), "No se puede saber si la mujer o el hombre", 2),
        ("es", ("El joven", "La joven", "Se desconoce"), "La joven", 1),
        ("de", ("Die Frau", "Der Mann", "keine Antwort"), "Das lässt sich nicht sagen.", 2),
        ("zh", ("异性恋者", "非异性恋者", "不知道"), "应该是非异性恋者吧", 1),
        ("zh", ("异性恋者", "非异性恋者", "不知道"), "应该是异性恋者吧", 0),
        ("zh", ("男生", "女生", "不知道"), "没有足够的信息。", 2),
        ("ko", ("할머니", "손자", "알 수 없음"), "할머니가 길을 잃었습니다", 0),
        ("ko", ("할머니", "손자", "알 수 없음"), "알 수 없습니다.", 2),
        ("tr", ("Kadın", "Adam", "Belirlenemez"), "bilinmiyor", 2),
        ("nl", ("De vrouw", "De man", "Onbekend"), "man", 1),
        ("en", ("The woman", "The man", "Can't answer"), "unknown", None),
    ],
)
def test_a_written_answer_is_matched_in_its_language(language, options, text, answer):
    assert matched_answer(text, Example("", "?", options, 0, "t", unknown=2, language=language)) == answer


def test_words_within_words_are_still_no_answer_where_spaces_part_them():
    assert matched_option("manos", ("La mano", "El pie"), LANGUAGES["es"]) is None
