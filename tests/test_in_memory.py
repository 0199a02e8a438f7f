"""Model, edit and questions that the user has in memory: used as those that are loaded, or refused in a sentence."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaModel

import crispr_lm
from crispr_lm import Edit, EditMismatchError, Example, InputError, LanguageModel, Neuron, Task

from .helpers import (
    DOWN_PROJECTIONS,
    EXAMPLES,
    INSTRUCTIONS,
    TOKENIZERS,
    assert_same_weights,
    build_model,
    build_network,
    hook_count,
    plain_tokenizer,
    snapshot,
)

ROW = {"context": "Ann met Bob.", "question": "Who was late?", "options": ["Ann", "Bob", "Unknown"], "answer": 2}
GIVEN = ("llama", "bart", "t5-gated")


def own_model(architecture):
    """What a user has: a model of transformers as training leaves it, and its tokenizer."""
    model = copy.deepcopy(build_model(architecture).model).requires_grad_(True)
    return model.train(), TOKENIZERS[architecture]()


@pytest.mark.parametrize("architecture", GIVEN)
def test_a_model_object_gives_the_figures_of_a_loaded_one(architecture):
    expected = build_model(architecture)
    model, tokenizer = own_model(architecture)
    lm = LanguageModel.from_transformers(model, tokenizer, name="mine")
    assert lm.model is model
    assert (lm.name, lm.is_encoder_decoder, lm.context_length, lm.quantized) == (
        "mine", expected.is_encoder_decoder, expected.context_length, False,
    )  # fmt: skip
    assert torch.equal(
        crispr_lm.option_scores(lm, EXAMPLES, INSTRUCTIONS[0]),
        crispr_lm.option_scores(expected, EXAMPLES, INSTRUCTIONS[0]),
    )
    found = crispr_lm.score_neurons(lm, EXAMPLES, INSTRUCTIONS, crispr_lm.BiasInfluence("ffn"))
    same = crispr_lm.score_neurons(expected, EXAMPLES, INSTRUCTIONS, crispr_lm.BiasInfluence("ffn"))
    assert all(torch.equal(found.values[name], same.values[name]) for name in same.values)
    edit = Edit.from_neurons(lm, found.top(3))
    with edit.applied(lm):
        edited = crispr_lm.evaluate(lm, EXAMPLES, INSTRUCTIONS)
    edit.bake(expected)  # another object of the same weights
    for one, other in zip(
        edited.option_scores, crispr_lm.evaluate(expected, EXAMPLES, INSTRUCTIONS).option_scores, strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_users_object_is_changed_in_nothing_but_its_mode():
    model, tokenizer = own_model("llama")
    model.model.embed_tokens.requires_grad_(False)
    before, needed = snapshot(model), {name: weight.requires_grad for name, weight in model.named_parameters()}
    lm = LanguageModel.from_transformers(model, tokenizer)
    assert not model.training
    crispr_lm.score_neurons(lm, EXAMPLES, INSTRUCTIONS)
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == needed
    assert all(weight.grad is None for weight in model.parameters())
    assert hook_count(model) == 0
    assert_same_weights(model, before)


def test_scoring_in_training_mode_is_refused():
    model, tokenizer = own_model("llama")
    lm = LanguageModel.from_transformers(model, tokenizer)
    crispr_lm.option_scores(lm, EXAMPLES, INSTRUCTIONS[0])
    model.train()
    for score in (crispr_lm.option_scores, lambda *given: crispr_lm.score_neurons(*given[:2], [given[2]])):
        with pytest.raises(InputError, match=r"training mode.*call model\.eval\(\)"):
            score(lm, EXAMPLES, INSTRUCTIONS[0])


def test_an_object_without_a_name_is_called_after_where_it_was_loaded_from(saved_model):
    folder = str(saved_model("llama"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    lm = LanguageModel.from_transformers(model, tokenizer)
    assert (lm.name, lm.given) == (Path(folder).name, folder)  # as of a loaded one
    assert LanguageModel.from_transformers(*own_model("llama")).name == "LlamaForCausalLM (in memory)"


class Processor:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer


def test_what_can_not_be_used_is_refused_with_what_to_give_instead():
    model, tokenizer = own_model("llama")
    with torch.device("meta"):
        absent = build_network("llama")
    adapted = copy.deepcopy(model)
    adapted.peft_config = {}
    larger = plain_tokenizer()
    larger.add_tokens([f"<more{number}>" for number in range(9)])
    for given, message in (
        ((nn.Linear(2, 2), tokenizer), "a Linear is no transformers model; give what from_pretrained returns"),
        ((LlamaModel(model.config), tokenizer), "a LlamaModel writes no text; load .* AutoModelForCausalLM"),
        ((absent, tokenizer), r"not in memory \(first: model.embed_tokens.weight\)"),
        ((adapted, tokenizer), r"carries an adapter \(PEFT\); give what its merge_and_unload\(\) returns"),
        ((model, None), "a NoneType is no transformers tokenizer; give what AutoTokenizer.from_pretrained returns"),
        ((model, tokenizer.backend_tokenizer), "is no transformers tokenizer"),
        ((model, Processor(tokenizer)), r"a Processor is a processor; give its \.tokenizer"),
        ((model, larger), "the tokenizer has 229 tokens, but the LlamaForCausalLM embeds 220; give the model's own"),
    ):
        with pytest.raises(InputError, match=message):
            LanguageModel.from_transformers(*given)
    assert model.training  # a refused object stays as it was


@pytest.mark.parametrize("architecture", GIVEN)
@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_an_edit_changes_a_plain_module_as_it_does_a_loaded_model(architecture, scale, tmp_path):
    lm = build_model(architecture)
    edit = Edit.from_neurons(lm, [Neuron(name, 3, "ffn") for name in DOWN_PROJECTIONS[architecture]], scale)
    module = copy.deepcopy(lm.model)
    before = snapshot(module)
    edit.check(module)
    ids = torch.arange(5, 15)[None]
    given = {"input_ids": ids} | ({"decoder_input_ids": ids} if lm.is_encoder_decoder else {})
    with torch.no_grad():
        original = module(**given).logits
        with edit.applied(lm):
            expected = lm.model(**given).logits
        with edit.applied(module):
            assert torch.equal(module(**given).logits, expected)
        edit.bake(module)
        torch.testing.assert_close(module(**given).logits, expected)
        assert not torch.equal(expected, original)
    with pytest.raises(EditMismatchError, match="carries a baked edit already"), edit.applied(module):
        pass
    edit.undo(module)
    assert_same_weights(module, before)
    with pytest.raises(EditMismatchError, match="nothing to undo"):
        edit.undo(module)


def test_a_plain_module_of_other_weights_is_refused_by_the_same_check():
    lm = build_model("llama")
    edit = Edit.from_neurons(lm, [Neuron(DOWN_PROJECTIONS["llama"][0], 3, "ffn")])
    other = build_model("llama", seed=1).model
    for use in (edit.check, edit.bake, lambda module: edit.applied(module).__enter__()):
        with pytest.raises(
            EditMismatchError, match=r"weights of module model\.layers\.0\.mlp\.down_proj differ in a Llama"
        ):
            use(other)
        with pytest.raises(EditMismatchError, match="made for another model than a Linear"):
            use(nn.Linear(2, 2))
    # Baked through one and undone through the other: it is one model.
    edit.bake(lm)
    edit.undo(lm.model)


def test_a_task_of_examples_and_rows():
    task = Task.from_examples(
        [EXAMPLES[0], {**ROW, "group": "late", "unknown": 2}], name="mine", instructions=["Choose."]
    )
    assert task.name == "mine"
    assert task.examples[0] is EXAMPLES[0]
    second = task.examples[1]
    assert (second.options, second.answer, second.unknown, second.template, second.source) == (
        ("Ann", "Bob", "Unknown"), 2, 2, "group late", "mine row 1",
    )  # fmt: skip
    assert (task.instructions, task.family) == (("Choose.",), "question_answering")
    assert len(Task.from_examples(EXAMPLES).instructions) == 10
    assert len(Task.from_examples(EXAMPLES, instructions=3).instructions) == 3
    labels = [{"context": text, "options": ["good", "bad"], "answer": n % 2} for n, text in enumerate("abcd")]
    assert Task.from_examples(labels).family == "classification"  # as for a file
    assert Task.from_examples(EXAMPLES, family="winobias").family == "winobias"
    sentences = [Example("", "", ("She cooks.", "He cooks."), 1, "cooks", form="sentences")]
    assert Task.from_examples(sentences).instructions == ("",)


def test_a_task_of_examples_runs_like_any_other():
    lm = LanguageModel.from_transformers(*own_model("llama"))
    rows = [{**ROW, "context": f"Ann met Bob at {hour}.", "group": hour} for hour in range(9)]
    task = Task.from_examples(rows, instructions=["Choose."])
    attribution, _, test = task.split()
    assert crispr_lm.score_neurons(lm, attribution, task.instructions).top(1)
    assert crispr_lm.evaluate(lm, test, task.instructions, family=task.family)["accuracy"] is not None


def test_a_task_is_evaluated_as_it_says_with_and_without_an_edit():
    lm = build_model("llama")
    labels = [{"context": text, "options": ["good", "bad"], "answer": n % 2} for n, text in enumerate("abcd")]
    task = replace(Task.from_examples(labels, instructions=["Choose.", "Say which."]), scoring="mean")
    edit = Edit.from_neurons(lm, [Neuron(DOWN_PROJECTIONS["llama"][1], index, "ffn") for index in range(20)])
    whole = {"family": "classification", "scoring": "mean"}
    expected = crispr_lm.evaluate(lm, task.examples, task.instructions, **whole)
    found = crispr_lm.evaluate(lm, task)
    assert found.metrics == expected.metrics
    assert found.family.name == "classification"
    with edit.applied(lm):
        inside = crispr_lm.evaluate(lm, task)
    edited = crispr_lm.evaluate(lm, task, edit=edit)
    assert all(torch.equal(*pair) for pair in zip(edited.option_scores, inside.option_scores, strict=True))
    assert not torch.equal(edited.option_scores[0], found.option_scores[0])
    assert len(crispr_lm.evaluate(lm, task, ["Choose."], family="winobias").option_scores) == 1
    with pytest.raises(InputError, match="at least one example and one instruction"):
        crispr_lm.evaluate(lm, task.examples)


@pytest.mark.parametrize(
    ("given", "settings", "message"),
    [
        ([], {}, "task own holds no examples"),
        ("text", {}, "must be a list of examples or rows, not a str"),
        (ROW, {}, "must be a list of examples or rows, not a dict"),
        ([ROW, 3], {}, "own row 1: a int, but every row must be a mapping of fields"),
        ([ROW, {**ROW, "answer": 3}], {"name": "mine"}, "mine row 1: field 'answer' is 3, out of range for 3 options"),
        ([{**ROW, "option": []}], {}, "own row 0: unknown field 'option'.*'options'"),
        ([{1: 2}], {}, "own row 0: the names of its fields must be strings"),
        ([ROW], {"instructions": "Choose."}, "put a single one into a list"),
        ([ROW], {"instructions": []}, "instructions must be texts that are not empty"),
        ([ROW], {"instructions": ["a", "a"]}, "the instruction 'a' twice"),
        ([ROW], {"instructions": 11}, "11 instructions asked for"),
    ],
)
def test_what_makes_no_task_is_refused(given, settings, message):
    with pytest.raises(InputError, match=message):
        Task.from_examples(given, **settings)


TABLE = [
    {
        "id": 7,
        "passage": "Ann met Bob.",
        "question": "Who was late?",
        "choices": ["Ann", "Bob"],
        "label": 1,
        "group": None,
    },
    {
        "id": 8,
        "passage": "Bob ran.",
        "question": "Who ran?",
        "choices": ("Ann", "Bob", "None"),
        "label": 1,
        "group": "b",
    },
]
COLUMNS = {"context": "passage", "options": "choices", "answer": "label"}


@pytest.mark.parametrize("kind", ["rows", "datasets"])
def test_a_task_of_a_table(kind):
    table = TABLE
    if kind == "datasets":
        datasets = pytest.importorskip("datasets")
        table = datasets.Dataset.from_list([{**row, "choices": list(row["choices"])} for row in TABLE])
    task = Task.from_dataset(table, COLUMNS, name="table", instructions=["Choose."])
    assert [(e.context, e.question, e.options, e.answer, e.template, e.source) for e in task.examples] == [
        ("Ann met Bob.", "Who was late?", ("Ann", "Bob"), 1, "ann met bob. who was late?", "table row 0"),
        ("Bob ran.", "Who ran?", ("Ann", "Bob", "None"), 1, "group b", "table row 1"),
    ]


def test_columns_may_change_places():
    swapped = [{**ROW, "context": ROW["question"], "question": ROW["context"]}]
    (read,) = Task.from_dataset(swapped, {"context": "question", "question": "context"}).examples
    assert (read.context, read.question) == ("Ann met Bob.", "Who was late?")


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        (TABLE, {"contxt": "passage"}, r"columns: unknown field 'contxt' \(did you mean 'context'\?\)"),
        (TABLE, {**COLUMNS, "answer": "lable"}, r"own row 0: there is no column 'lable' \(did you mean 'label'\?\)"),
        ([TABLE[0], {**TABLE[1], "label": "B"}], COLUMNS, "own row 1: field 'answer' must be the index of an option"),
        ({"train": TABLE}, COLUMNS, "own row 0: a str.*of a dataset with several splits give one of them"),
        ([], COLUMNS, "holds no examples"),
    ],
)
def test_what_is_wrong_in_a_table_is_named_with_its_row(table, columns, message):
    with pytest.raises(InputError, match=message):
        Task.from_dataset(table, columns)


def test_a_model_split_by_tensor_parallelism_is_refused(llama: crispr_lm.LanguageModel) -> None:
    llama.model._tp_size = 2
    with pytest.raises(InputError, match="tensor parallelism"):
        crispr_lm.LanguageModel.from_transformers(llama.model, llama.tokenizer)
