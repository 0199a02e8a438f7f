"""KL divergence against plain forward passes, one prompt at a time."""

import pytest
import torch

from crispr_lm import Edit, InputError, Neuron
from crispr_lm.evaluation.kl_divergence import divergence, reference_distribution
from crispr_lm.inference.prompts import encode_text
from crispr_lm.model.neuron_sites import find_sites

from ..helpers import build_model

TEXTS = ("How do I boil an egg?", "Write a line about rain.", "Hi")


def some_edit(lm):
    sites = find_sites(lm.model, "ffn")
    return Edit.from_neurons(lm, [Neuron(site.name, index, "ffn") for site in sites for index in range(4)])


def greedy(lm, prompt, tokens):
    """Continue one prompt, the whole sequence again for every token."""
    ids = []
    for _ in range(tokens):
        if lm.is_encoder_decoder:
            start = lm.model.config.decoder_start_token_id
            logits = lm.model(
                input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[start, *ids]]), use_cache=False
            ).logits
        else:
            logits = lm.model(input_ids=torch.tensor([prompt + ids]), use_cache=False).logits
        token = int(logits[0, -1].argmax())
        if token == lm.model.generation_config.eos_token_id:
            break
        ids.append(token)
    return ids


def log_probabilities(lm, prompt, ids):
    if lm.is_encoder_decoder:
        start = lm.model.config.decoder_start_token_id
        decoder = torch.tensor([[start, *ids[:-1]]])
        logits = lm.model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder, use_cache=False).logits[0]
    else:
        logits = lm.model(input_ids=torch.tensor([prompt + ids[:-1]]), use_cache=False).logits[0, len(prompt) - 1 :]
    return logits.double().log_softmax(dim=-1)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5-gated"])
@torch.no_grad()
def test_divergence_is_that_of_single_sequences(name):
    lm = build_model(name)
    reference = reference_distribution(lm, TEXTS, tokens=5)
    edit = some_edit(lm)
    total, tokens = 0.0, 0
    for text in TEXTS:
        prompt = encode_text(lm, text)
        ids = greedy(lm, prompt, 5)
        if not ids:
            continue
        before = log_probabilities(lm, prompt, ids)
        with edit.applied(lm):
            after = log_probabilities(lm, prompt, ids)
        total += float((before.exp() * (before - after)).sum())
        tokens += len(ids)
    with edit.applied(lm):
        found = divergence(lm, reference, batch_size=2)
    assert found["kl"] > 0
    assert found["kl"] == pytest.approx(total / tokens, rel=1e-3)


def test_the_unedited_model_does_not_diverge_from_itself(llama):
    reference = reference_distribution(llama, TEXTS)
    assert divergence(llama, reference, batch_size=1)["kl"] == pytest.approx(0, abs=1e-6)


def test_the_interval_is_over_prompts(llama):
    reference = reference_distribution(llama, TEXTS)
    with some_edit(llama).applied(llama):
        found = divergence(llama, reference)
    low, high = found.interval("kl")
    assert 0 < low < found["kl"] < high


def test_no_prompts_are_refused(llama):
    with pytest.raises(InputError, match="at least one neutral prompt"):
        reference_distribution(llama, [])
