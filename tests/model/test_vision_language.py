"""Vision-language models: used through their text part, the vision tower left alone; or refused with the reason."""

import json
from dataclasses import is_dataclass

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig

import tiny_models
from crispr_lm import Edit, InputError, load_model, option_scores, score_neurons
from crispr_lm.attribution.bias_influence import BiasInfluence
from crispr_lm.cli.commands import main
from crispr_lm.edits.export import export_folder
from crispr_lm.edits.verification import Saved, verify_saved
from crispr_lm.inference.prompts import encode
from crispr_lm.model.classes import TEXT_PARTS
from crispr_lm.model.neuron_sites import NEURON_KINDS, find_sites

from ..helpers import EXAMPLES, INSTRUCTIONS, VOCABULARY, assert_same_weights, fill, plain_tokenizer, snapshot

# As of the walk over all architectures: older releases' configurations can't be made small by it.
pytestmark = pytest.mark.skipif(
    not is_dataclass(PretrainedConfig), reason="transformers' configurations are no dataclasses"
)

FAMILIES = {entry.model_type: entry for entry in tiny_models.vision_language()}
USED = ("qwen2_vl", "mistral3", "smolvlm", "llava")
WALKED = (
    # plain, multimodal positions, cross-attention, parallel blocks, hybrids, latent attention, experts of several kinds
    "llava", "qwen2_vl", "mllama", "cohere2_vision", "lfm2_vl", "kimi_k25", "aria", "minimax_m3_vl", "qwen3_vl_moe",
    "qwen3_5_moe", "glm4v",
)  # fmt: skip
"""One of each kind of language model that families have; `benchmarks/architectures.py` walks all of them."""
PROCESSOR = json.dumps({"image_processor_type": "CLIPImageProcessor"})


def folder_of(model_type, tmp_path):
    """A tiny checkpoint as it lies on the hub: model, tokenizer, and what prepares images."""
    config = tiny_models.tiny_config(FAMILIES[model_type])
    config.text_config.vocab_size = VOCABULARY
    model = getattr(transformers, FAMILIES[model_type].class_name)(config)
    fill(model, seed=3)
    model.save_pretrained(tmp_path)
    plain_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(PROCESSOR)
    return tmp_path


@pytest.mark.parametrize("model_type", USED)
def test_options_score_as_transformers_own_model_says(model_type, tmp_path):
    lm = load_model(folder_of(model_type, tmp_path), device="cpu")
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    scores = option_scores(lm, EXAMPLES, INSTRUCTIONS[0])
    for row, example in zip(scores, EXAMPLES, strict=True):
        prompt = encode(lm, example, INSTRUCTIONS[0])
        for score, option in zip(row, prompt.option_ids, strict=False):
            ids = torch.tensor([[*prompt.prompt_ids, *option]])
            with torch.no_grad():
                rows = plain(input_ids=ids).logits[0, len(prompt.prompt_ids) - 1 : -1].log_softmax(-1)
            expected = rows.gather(1, torch.tensor(option)[:, None]).sum()
            torch.testing.assert_close(torch.as_tensor(score), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", USED)
def test_neurons_are_those_of_the_language_model_and_an_edit_leaves_the_rest_alone(model_type, tmp_path):
    lm = load_model(folder_of(model_type, tmp_path / "base"), device="cpu")
    name = next(name for name, module in lm.model.named_modules() if module is lm.model.get_decoder())
    for kind in NEURON_KINDS:
        assert all(site.name.startswith(f"{name}.layers.") for site in find_sites(lm.model, kind))
    scores = score_neurons(lm, EXAMPLES, INSTRUCTIONS[:1], BiasInfluence("ffn"))
    edit = Edit.from_neurons(lm, scores.top(6))
    before = snapshot(lm.model)
    export_folder(lm, edit, tmp_path / "edited")
    assert_same_weights(lm.model, before)
    edit.bake(lm)
    assert verify_saved(lm, Saved(tmp_path / "edited"), EXAMPLES, INSTRUCTIONS[0])["largest_difference"] < 1e-3
    saved = AutoModelForImageTextToText.from_pretrained(tmp_path / "edited", dtype=torch.float32)
    changed = {key for key, tensor in saved.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed
    assert all(key.startswith(f"{name}.layers.") and "down_proj" in key for key in changed)
    assert (tmp_path / "edited" / "preprocessor_config.json").read_text() == PROCESSOR


def test_a_vision_language_model_that_can_not_be_used_is_called_what_it_is(tmp_path, capsys):
    folder = folder_of("llama4", tmp_path / "model")
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(folder)])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "a 'llama4' model is a vision-language model that transformers does not run on text alone" in message
    assert "not a language model" not in message
    # What the error advises: the language model saved by itself.
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "text")
    plain_tokenizer().save_pretrained(tmp_path / "text")
    assert option_scores(load_model(tmp_path / "text", device="cpu"), EXAMPLES[:1], INSTRUCTIONS[0]).isfinite().all()


def test_others_are_refused_with_those_that_work(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "paligemma"}))
    with pytest.raises(InputError, match=r"'paligemma' model is a vision-language model whose text part .*qwen2_vl"):
        load_model(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", WALKED)
def test_families_that_are_used_pass_the_walk(model_type):
    import architectures

    assert model_type in TEXT_PARTS
    if model_type not in FAMILIES:
        pytest.skip(f"this release of transformers has no {model_type}")

    result = architectures.check(FAMILIES[model_type])
    assert result.passed, result
