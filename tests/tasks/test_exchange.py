"""Exchanging groups in texts."""

import pytest

from crispr_lm import InputError
from crispr_lm.tasks.exchange import builtin_exchanges, exchange_of, read_exchanges

(GENDER,) = builtin_exchanges()


@pytest.mark.parametrize(
    ("text", "twin"),
    [
        ("She lost her key.", "He lost his key."),
        ("I saw her and asked her to wait.", "I saw him and asked him to wait."),
        ("He took his coat; it was his.", "She took her coat; it was hers."),
        ("He hurt himself. HE left.", "She hurt herself. SHE left."),
        ("Mary met Bob, an actor.", "John met Ann, an actress."),
        ("A heroine and a hero", "A hero and a heroine"),
        ("My mother's sister is a woman.", "My father's brother is a man."),
        ("Mr. Smith is here.", "Ms. Smith is here."),
        ("Does he or she know?  The man asked.", "Does he or she know?  The woman asked."),
    ],
)
def test_women_and_men_change_places_and_nothing_else_does(text, twin):
    assert GENDER.exchanged(text).text == twin


@pytest.mark.parametrize("either", ["s/he", "(s)he", "S/he", "she/he", "his/her"])
def test_a_pronoun_of_both_groups_stays(either):
    assert GENDER.exchanged(f"Does {either} know the man?").text == f"Does {either} know the woman?"


def test_plurals_that_are_not_exchanged_are_named():
    exchange = exchange_of(["nurse=engineer", "lady=boss", "Muslim=Christian", "Muslims=Christians"])
    assert exchange.plurals_left("The Nurses' union: ladies, BOSSES, Muslims, a nurse.") == [
        "nurses",
        "ladies",
        "bosses",
    ]
    assert GENDER.plurals_left("The Adams met.") == []


@pytest.mark.parametrize("text", ["The shepherd sheds heat.", "mary is no name in lower case", "his/her choice", ""])
def test_no_group_no_twin(text):
    assert GENDER.exchanged(text) is None


def test_the_twin_of_a_twin_is_the_text_where_no_word_has_two_meanings():
    for text in ("The woman and her son met Emma.", "Ahmed told the boys himself."):
        twin = GENDER.exchanged(text)
        assert GENDER.exchanged(twin.text).text == text
        assert GENDER.without_groups(twin.text) == GENDER.without_groups(text) != text


def test_the_side_is_that_of_the_first_word_and_her_is_doubtful():
    assert (GENDER.exchanged("A man met her.").side, GENDER.exchanged("A woman left.").side) == (1, 0)
    assert GENDER.exchanged("A man met her.").doubtful
    assert not GENDER.exchanged("He lost his key.").doubtful


def test_pairs_of_ones_own_are_exchanged_at_once_with_the_article_that_is_due():
    exchange = exchange_of(["Muslim=atheist", "old=young", "Muslims=atheists"])
    assert exchange.groups == ("Muslim", "atheist")
    assert exchange.exchanged("A Muslim and an old man").text == "An Atheist and a young man"
    # A word with a capital letter is found as it is written, and in capitals.
    assert exchange.exchanged("OLD and old, muslim").text == "YOUNG and young, muslim"


@pytest.mark.parametrize("pair", ["old", "old=", "old=old", "a=b=c"])
def test_a_pair_that_is_none(pair):
    with pytest.raises(InputError, match="--swap"):
        exchange_of([pair])


@pytest.mark.parametrize("other", ["engineer=pilot", "pilot=nurse", "nurse=engineer"])
def test_a_word_in_two_pairs_is_refused(other):
    with pytest.raises(InputError, match="is in two pairs"):
        exchange_of(["nurse=engineer", other])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = ", "not valid TOML"),
        ("[exchanges]", "no table"),
        ('[[exchange]]\ngroups = ["a"]', "two different groups"),
        ('[[exchange]]\ngroups = ["a", "b"]', "list of pairs"),
        ('[[exchange]]\ngroups = ["a", "b"]\npairs = [["x", "x"]]', "no pair of two different words"),
        ('[[exchange]]\ngroups = ["a", "b"]\npairs = [["x", "y"], ["y", "z"]]', "'y' in 'pairs' stands for both"),
        ('[[exchange]]\ngroups = ["a", "b"]\npair = []', "did you mean 'pairs'"),
    ],
)
def test_a_file_of_exchanges_that_is_malformed(tmp_path, content, message):
    path = tmp_path / "groups.toml"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_exchanges(path)
