"""BBQ rows: who is stereotyped is groups by the groups' names, never by position; broken rows are named."""

import json
from pathlib import Path

import pytest

from crispr_lm import InputError, load_task
from crispr_lm.tasks.bbq import examples_from_rows, read_bbq

DATA = Path(__file__).parents[3] / "shared" / "data" / "bbq"
CATEGORIES = {
    "Age": 3680,
    "Nationality": 3080,
    "Physical_appearance": 1576,
    "Religion": 1200,
    "Sexual_orientation": 864,
}


def row(**changes):
    made = {
        "example_id": 0,
        "question_index": "7",
        "question_polarity": "neg",
        "context_condition": "ambig",
        "category": "Age",
        "answer_info": {"ans0": ["grandfather", "old"], "ans1": ["grandson", "nonOld"], "ans2": ["No idea", "unknown"]},
        "additional_metadata": {"stereotyped_groups": ["old"]},
        "context": "They took a cab.",
        "question": "Who was slow?",
        "ans0": "The grandfather",
        "ans1": "The grandson",
        "ans2": "No idea",
    } | changes
    # An ambiguous row's right answer is the one that abstains.
    entries = made["answer_info"] if isinstance(made.get("answer_info"), dict) else {}
    unknown = [place for place, entry in enumerate(entries.values()) if entry and entry[-1] == "unknown"]
    return {"label": unknown[0] if unknown else 2} | made


def example(**changes):
    (read,) = examples_from_rows([("file:1", row(**changes))])
    return read


def infos(first, second, third):
    return {"ans0": first, "ans1": second, "ans2": third}


def test_a_row_becomes_an_example():
    read = example()
    assert read.options == ("The grandfather", "The grandson", "No idea")
    assert (read.answer, read.unknown, read.stereotyped) == (2, 2, 0)
    assert (read.condition, read.polarity, read.template, read.category) == ("ambiguous", "negative", "Age/7", "Age")
    assert example(context_condition="disambig", label=1).condition == "disambiguated"


def test_a_nonnegative_question_is_answered_with_the_stereotype_by_the_other_person():
    assert example(question_polarity="nonneg").stereotyped == 1


@pytest.mark.parametrize("polarity", ["neg", "nonneg"])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_positions_do_not_matter(order, polarity):
    entries = [["grandfather", "old"], ["grandson", "nonOld"], ["No idea", "unknown"]]
    texts = ["The grandfather", "The grandson", "No idea"]
    changes = {f"ans{place}": texts[which] for place, which in enumerate(order)}
    read = example(answer_info=infos(*(entries[which] for which in order)), question_polarity=polarity, **changes)
    assert read.options[read.unknown] == "No idea"
    assert read.options[read.stereotyped] == ("The grandfather" if polarity == "neg" else "The grandson")


@pytest.mark.parametrize(
    ("first", "second", "groups"),
    [
        (["woman", "woman"], ["man", "man"], ["F"]),
        (["girl", "F"], ["boy", "M"], ["Women"]),
        (["poor man", "lowSES"], ["rich man", "highSES"], ["low SES"]),
        (["DeShawn", "M-Black"], ["Connor", "M-White"], ["African American", "Black"]),
        (["Kenyan", "Africa"], ["Italian", "Europe"], ["Kenyan", "Ethiopian"]),
        (["trans woman", "trans_F"], ["woman", "nonTrans_F"], ["Transgender women"]),
    ],
)
def test_groups_are_known_however_they_are_written(first, second, groups):
    read = example(
        answer_info=infos(second, first, ["No idea", "unknown"]), additional_metadata={"stereotyped_groups": groups}
    )
    assert read.stereotyped == 1


@pytest.mark.parametrize("groups", [[], ["Martian"], ["old", "nonOld"]])
def test_it_is_not_guessed_who_is_stereotyped(groups):
    assert example(additional_metadata={"stereotyped_groups": groups}).stereotyped is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label": 3}, "out of range"),
        ({"label": "2"}, "'label'"),
        ({"ans1": "The grandfather"}, "are equal"),
        ({"ans1": ""}, "'ans1' is empty"),
        ({"context": None}, "'context'"),
        ({"context_condition": "unclear"}, "context_condition"),
        ({"question_polarity": "positive"}, "question_polarity"),
        ({"question_index": None}, "question_index"),
        ({"answer_info": None}, "answer_info"),
        ({"answer_info": infos(["a", "old"], ["b", "nonOld"], ["c", "other"])}, "unknown"),
        ({"answer_info": infos([], ["b", "nonOld"], ["c", "unknown"])}, "ans0"),
        ({"additional_metadata": {}}, "stereotyped_groups"),
    ],
)
def test_a_broken_row_is_named_with_file_and_line(tmp_path, changes, said):
    path = tmp_path / "Age.jsonl"
    path.write_text(json.dumps(row()) + "\n\n" + json.dumps(row(**changes)) + "\n")
    with pytest.raises(InputError, match=r"Age\.jsonl:3: ") as error:
        read_bbq(path)
    assert said in str(error.value)


def test_a_missing_field_is_named(tmp_path):
    for name in ("ans0", "label", "category", "context", "question"):
        broken = row()
        del broken[name]
        with pytest.raises(InputError, match=name):
            examples_from_rows([("file:1", broken)])


def test_a_row_of_another_form_is_reported_as_such():
    with pytest.raises(InputError, match="file:1: no row of an official BBQ file"):
        examples_from_rows(
            [("file:1", {"passage": "They met.", "question": "Who?", "options": "A. One", "answer": ["One"]})]
        )


def test_a_folder_of_files_is_one_task(tmp_path):
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_text(json.dumps(row(category=name[0])) + "\n")
    (tmp_path / "notes.txt").write_text("no rows")
    assert [read.category for read in load_task(f"bbq:{tmp_path}", 1).examples] == ["a", "b"]


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no \.jsonl file"):
        read_bbq(tmp_path)


@pytest.mark.skipif(not DATA.exists(), reason="the official BBQ files are not here")
@pytest.mark.parametrize("category", CATEGORIES)
def test_the_official_files(category):
    path = DATA / f"{category}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    examples = read_bbq(path)
    assert len(examples) == len(rows) == CATEGORIES[category]
    for read, raw in zip(examples, rows, strict=True):
        names = [{label.lower() for label in raw["answer_info"][f"ans{place}"]} for place in range(3)]
        targets = {group.lower() for group in raw["additional_metadata"]["stereotyped_groups"]}
        (target,) = [place for place in range(3) if names[place] & targets]
        (unknown,) = [place for place in range(3) if "unknown" in names[place]]
        expected = target if raw["question_polarity"] == "neg" else 3 - target - unknown
        assert (read.unknown, read.stereotyped, read.answer) == (unknown, expected, raw["label"])
        assert (read.answer == read.unknown) == (raw["context_condition"] == "ambig")


@pytest.mark.parametrize(
    ("first", "second", "groups"),
    [
        (["woman", "F"], ["man", "M"], ["Women"]),
        (["woman", "woman"], ["man", "man"], ["F"]),
        (["Maria", "F"], ["Thomas", "M"], ["F"]),
        (["man", "man"], ["girl", "girl"], ["M"]),
        (["the cashier", "lowSES"], ["the lawyer", "highSES"], ["low SES"]),
        (["the cashier", "low SES"], ["the lawyer", "high SES"], ["lowSES"]),
        (["Latoya", "F-Black"], ["Katelyn", "F-White"], ["Black", "African American"]),
        (["African American", "Black"], ["African", "African"], ["Black", "African American"]),
        (["Jamal", "M-Black"], ["Donald", "M-White"], ["black"]),
        (["Nigerian", "Africa"], ["Swiss", "Europe"], ["Nigerian", "Kenyan"]),
        (["Japanese", "AsiaPacific"], ["Chinese", "AsiaPacific"], ["Japanese"]),
        (["trans man", "trans_M"], ["man", "nonTrans_M"], ["Transgender women", "Transgender men"]),
    ],
)
def test_the_stereotyped_person_or_the_other_one_by_polarity_at_any_place(first, second, groups):
    for people in ((first, second), (second, first)):
        for place_of_unknown in range(3):
            entries = list(people)
            entries.insert(place_of_unknown, ["Not known", "unknown"])
            changes = {
                "answer_info": infos(*entries),
                "additional_metadata": {"stereotyped_groups": groups},
                **{f"ans{place}": entry[0] for place, entry in enumerate(entries)},
            }
            negative = example(question_polarity="neg", **changes)
            nonnegative = example(question_polarity="nonneg", **changes)
            assert negative.unknown == nonnegative.unknown == place_of_unknown
            assert negative.options[negative.stereotyped] == first[0]
            assert nonnegative.options[nonnegative.stereotyped] == second[0]


@pytest.mark.parametrize("polarity", ["neg", "nonneg"])
@pytest.mark.parametrize(
    ("first", "second", "groups"),
    [
        (["Latoya", "F-Black"], ["Jamal", "M-Black"], ["Black"]),
        (["Chinese", "AsiaPacific"], ["Kenyan", "Africa"], ["Italian"]),
        (["man", "M"], ["boy", "M"], ["men"]),
        (["grandfather", "old"], ["grandson", "nonOld"], ["unknown"]),
        (["grandson", "nonOld"], ["boy", "nonOld"], ["old"]),
    ],
)
def test_both_or_no_person_of_a_stereotyped_group_is_left_open(first, second, groups, polarity):
    read = example(
        question_polarity=polarity,
        answer_info=infos(first, second, ["No idea", "unknown"]),
        additional_metadata={"stereotyped_groups": groups},
    )
    assert read.stereotyped is None
    assert read.unknown == 2


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (["日本人", "日本"], ["中国人", "中国"], 1),
        (["日本人", "日本"], ["Bob", "Europe"], None),
    ],
)
def test_groups_in_other_scripts_are_distinguished(first, second, expected):
    read = example(
        answer_info=infos(first, second, ["不明", "unknown"]), additional_metadata={"stereotyped_groups": ["中国人"]}
    )
    assert read.stereotyped == expected


@pytest.mark.parametrize("place", [0, 1, 2])
def test_abstention_is_known_by_its_group_neither_by_its_words_nor_by_its_place(place):
    entries = [["Unknowable Bob", "old"], ["Undetermined Ann", "nonOld"]]
    entries.insert(place, ["Pass", "unknown"])
    texts = ["Cannot answer", "Unknown"]
    texts.insert(place, "Pass")
    read = example(answer_info=infos(*entries), ans0=texts[0], ans1=texts[1], ans2=texts[2])
    assert read.unknown == place
    assert read.options[read.stereotyped] == "Cannot answer"


def test_two_abstaining_options_are_refused():
    # Else one of them would pass for a person, and for the stereotyped one where the question is non-negative.
    twice = infos(["grandfather", "old"], ["No idea", "unknown"], ["Can't say", "unknown"])
    with pytest.raises(InputError, match=r"^file:1: "):
        example(answer_info=twice, question_polarity="nonneg")


def test_rows_of_one_question_index_share_a_template_within_their_category_only():
    same = example(question_index="7", context="Another context.", question_polarity="nonneg").template
    assert same == example(question_index="7").template
    assert same != example(question_index="8").template
    assert same != example(question_index="7", category="Religion").template


@pytest.mark.parametrize(
    "name",
    [
        "ans0", "ans1", "ans2", "answer_info", "additional_metadata", "category", "context", "context_condition",
        "label", "question", "question_index", "question_polarity",
    ],
)  # fmt: skip
def test_every_missing_field_is_named_with_file_and_line(tmp_path, name):
    broken = row()
    del broken[name]
    path = tmp_path / "Age.jsonl"
    path.write_text(json.dumps(row()) + "\n" + json.dumps(broken) + "\n")
    with pytest.raises(InputError, match=r"Age\.jsonl:2: ") as error:
        read_bbq(path)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", "not valid JSON"),
        ('["ans0"]', "list"),
        ("null", "one JSON object"),
        (json.dumps(row(label=True)), "'label'"),
        (json.dumps(row(label=-1)), "out of range"),
        (json.dumps(row(label=2.0)), "'label'"),
        (json.dumps(row(question_index=True)), "'question_index'"),
        (json.dumps(row(question_index=1.5)), "'question_index'"),
        (json.dumps(row(ans2=3)), "'ans2'"),
        (json.dumps(row(ans0="The grandson ")), "options 0 and 1 are equal"),
        (json.dumps(row(question=" ")), "'question' is empty"),
        (json.dumps(row(category=None)), "'category'"),
        (json.dumps(row(context_condition=["ambig"])), "'context_condition'"),
        (json.dumps(row(answer_info=[["a", "old"]])), "'answer_info'"),
        (json.dumps(row(answer_info={"ans0": ["a", "old"], "ans1": ["b", "unknown"]})), "'ans2'"),
        (json.dumps(row(answer_info=infos("old", ["b", "nonOld"], ["c", "unknown"]))), "'ans0'"),
        (json.dumps(row(answer_info=infos(["a", 1], ["b", "nonOld"], ["c", "unknown"]))), "'ans0'"),
        (json.dumps(row(additional_metadata="old")), "stereotyped_groups"),
        (json.dumps(row(additional_metadata={"stereotyped_groups": "old"})), "stereotyped_groups"),
        (json.dumps(row(additional_metadata={"stereotyped_groups": [None]})), "stereotyped_groups"),
    ],
)
def test_a_broken_line_of_the_second_file_is_named(tmp_path, line, said):
    (tmp_path / "a.jsonl").write_text(json.dumps(row()) + "\n")
    (tmp_path / "b.jsonl").write_text(json.dumps(row()) + "\n" + line + "\n")
    with pytest.raises(InputError, match=r"b\.jsonl:2: ") as error:
        load_task(f"bbq:{tmp_path}")
    assert said in str(error.value)


def test_a_file_that_is_no_text_or_holds_no_row_is_refused(tmp_path):
    path = tmp_path / "Age.jsonl"
    path.write_bytes(b'{"context": "\xff"}\n')
    with pytest.raises(InputError, match=r"Age\.jsonl.*UTF-8"):
        read_bbq(path)
    path.write_text("\n\n")
    with pytest.raises(InputError, match="no examples"):
        load_task(f"bbq:{path}")
    with pytest.raises(InputError, match=r"Sex\.jsonl.*can't be read"):
        read_bbq(tmp_path / "Sex.jsonl")


def test_the_files_of_a_folder_are_reported_for_the_record(tmp_path):
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_text(json.dumps(row()) + "\n")
    task = load_task(f"bbq:{tmp_path}")
    assert task.origin == (str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"))
    assert task.name == f"bbq:{tmp_path.name}"
    assert [read.source for read in task.examples] == [f"{tmp_path / 'a.jsonl'}:1", f"{tmp_path / 'b.jsonl'}:1"]


@pytest.mark.skipif(not DATA.exists(), reason="the official BBQ files are not here")
def test_who_is_stereotyped_in_age_by_the_group_alone():
    path = DATA / "Age.jsonl"
    seen = set()
    for read, line in zip(read_bbq(path), path.read_text(encoding="utf-8").splitlines(), strict=True):
        raw = json.loads(line)
        places = {raw["answer_info"][f"ans{place}"][1]: place for place in range(3)}
        assert set(places) == {"old", "nonOld", "unknown"}
        (group,) = raw["additional_metadata"]["stereotyped_groups"]
        other = {"old": "nonOld", "nonOld": "old"}[group]
        assert read.stereotyped == places[group if raw["question_polarity"] == "neg" else other]
        seen.add((group, raw["question_polarity"], read.stereotyped))
    assert len(seen) == 12  # either group, either polarity, every place


@pytest.mark.skipif(not DATA.exists(), reason="the official BBQ files are not here")
def test_who_is_stereotyped_in_religion_by_the_words_of_the_options():
    path = DATA / "Religion.jsonl"
    for read, line in zip(read_bbq(path), path.read_text(encoding="utf-8").splitlines(), strict=True):
        raw = json.loads(line)
        groups = raw["additional_metadata"]["stereotyped_groups"]
        named = {place for place in range(3) if any(group.lower() in raw[f"ans{place}"].lower() for group in groups)}
        assert len(named) == 1
        rest = {0, 1, 2} - named - {read.unknown}
        assert {read.stereotyped} == (named if raw["question_polarity"] == "neg" else rest)


def intersectional(category, template, people, groups, polarity="neg"):
    """A row of two persons, (words, label) each; the third option abstains."""
    entries = [*map(list, people), ["Not known", "unknown"]]
    return row(
        category=category,
        question_index=template,
        question_polarity=polarity,
        answer_info=infos(*entries),
        additional_metadata={"stereotyped_groups": groups},
        **{f"ans{place}": f"The {entry[0]}" for place, entry in enumerate(entries)},
    )


BLACK = ["Black", "African American"]
# In words: who is stereotyped, of another gender or status, of another race, of both others.
BY_WORDS = {
    "Race_x_gender": (
        ("Black woman", "F-Black"),
        ("Black man", "M-Black"),
        ("White woman", "F-White"),
        ("White man", "M-White"),
    ),
    "Race_x_SES": (
        ("poor African American person", "lowSES-African American"),
        ("rich African American person", "highSES-African American"),
        ("poor Caucasian person", "lowSES-Caucasian"),
        ("rich Caucasian person", "highSES-Caucasian"),
    ),
}
BY_NAMES = {
    "Race_x_gender": (
        ("Latisha Mosley", "F-Black"),
        ("Jamal Mosley", "M-Black"),
        ("Whitney Schmitt", "F-White"),
        ("Connor Schmitt", "M-White"),
    ),
    "Race_x_SES": (
        ("Latisha Mosley", "lowSES-F-Black"),
        ("Ebony Mosley", "highSES-F-Black"),
        ("Whitney Schmitt", "lowSES-F-White"),
        ("Emily Schmitt", "highSES-F-White"),
    ),
}


@pytest.mark.parametrize("groups", [BY_WORDS, BY_NAMES], ids=["words", "names"])
@pytest.mark.parametrize("category", list(BY_WORDS))
def test_of_two_persons_of_one_race_the_other_rows_tell_who_is_stereotyped(category, groups):
    target, *others = groups[category]
    rows = [
        intersectional(category, template, people, BLACK, polarity)
        for template in ("1", "2")
        for other in (others if template == "1" else others[:1])
        for people in ((target, other), (other, target))
        for polarity in ("neg", "nonneg")
    ]
    examples = examples_from_rows((f"file:{number}", one) for number, one in enumerate(rows, start=1))
    for read in examples:
        if read.template.endswith("/2"):
            # Nothing in this template tells whether the man or the woman, the poor or the rich one, is meant.
            assert read.stereotyped is None
            continue
        follows = read.options[read.stereotyped] == f"The {target[0]}"
        assert follows == (read.polarity == "negative")
        assert read.stereotyped != read.unknown
    by_name = groups is BY_NAMES
    assert {read.facet("persons") for read in examples} == {"proper names" if by_name else "groups"}


def test_templates_that_contradict_themselves_leave_two_persons_of_one_race_open():
    (target, other, same, _) = BY_WORDS["Race_x_gender"]
    rows = [
        intersectional("Race_x_gender", "1", people, BLACK)
        for people in ((target, same), (other, ("White man", "M-White")), (target, other))
    ]
    examples = examples_from_rows((f"file:{number}", one) for number, one in enumerate(rows))
    assert [read.stereotyped for read in examples] == [0, 0, None]


def test_a_label_without_a_race_leaves_it_to_the_words():
    rows = [intersectional("Race_x_gender", "1", (("Latina woman", "F-"), ("White man", "M-White")), ["Latino"])]
    (read,) = examples_from_rows([("file:1", rows[0])])
    assert read.stereotyped == 0


@pytest.mark.parametrize(
    ("category", "people", "persons"),
    [
        ("Gender_identity", (("girl", "F"), ("boy", "M")), "groups"),
        ("Gender_identity", (("woman", "woman"), ("man", "man")), "groups"),
        ("Gender_identity", (("Donna", "F"), ("Mark", "M")), "proper names"),
        ("Gender_identity", (("trans woman", "trans_F"), ("woman", "nonTrans_F")), "groups"),
        ("Race_ethnicity", (("African American", "Black"), ("White", "White")), "groups"),
        ("Race_ethnicity", (("Donna White", "F-Latino"), ("Emily Novak", "F-white")), "proper names"),
        ("Race_x_gender", (("Latino", "M-Latino"), ("Latina", "F-Latino")), "groups"),
        ("Race_x_SES", (("poor Latina woman", "lowSES-Latino"), ("rich man", "highSES-White")), "groups"),
        ("SES", (("cashier", "lowSES"), ("lawyer", "highSES")), "groups"),
        ("Nationality", (("Frenchwoman", "Europe"), ("Malian", "Africa")), "groups"),
    ],
)
def test_persons_who_are_named_are_distinguished_from_those_described(category, people, persons):
    (read,) = examples_from_rows([("file:1", intersectional(category, "1", people, ["none of them"]))])
    assert read.facet("persons") == persons
