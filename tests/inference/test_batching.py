"""Batches: sizes that fit the memory there is, and do not change what is computed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil
import pytest
import torch

from crispr_lm import EncodedPrompt, LanguageModel, score_neurons
from crispr_lm.inference import batching
from crispr_lm.inference.batching import batch_sizes, batches, gradient_bytes_per_token
from crispr_lm.model import memory
from crispr_lm.model.memory import free_memory

from ..helpers import EXAMPLES, INSTRUCTIONS, assert_values_close


def prompts_of(lengths: Sequence[int]) -> list[EncodedPrompt]:
    """Prompts of these lengths, each with an option of one token."""
    return [EncodedPrompt(list(range(length)), [[1]]) for length in lengths]


def sizes_of(lm: LanguageModel, prompts: Sequence[EncodedPrompt], bytes_per_token: float = 0.0) -> list[int]:
    """How many prompts are in each batch."""
    return [len(batch) for batch in batches(lm, prompts, "auto", lambda _: None, bytes_per_token=bytes_per_token)]


@pytest.mark.parametrize("overhead", [0, 7, 30, 1000])
def test_batches_are_the_cheapest_of_all_ways_to_cut(overhead: int) -> None:
    lengths = [40, 21, 20, 12, 11, 11, 10, 3]
    ways = []
    for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
        batches_of_way = [[lengths[0]]]
        for cut, length in zip(cuts, lengths[1:], strict=True):
            if cut:
                batches_of_way.append([])
            batches_of_way[-1].append(length)
        if all(len(batch) <= 3 and len(batch) * batch[0] <= 50 for batch in batches_of_way):
            ways.append(sum(len(batch) * batch[0] + overhead for batch in batches_of_way))
    sizes = batch_sizes(lengths, tokens=50, most=3, overhead=overhead)
    assert sum(sizes) == len(lengths)
    cost, start = 0, 0
    for size in sizes:
        assert size <= 3
        assert size * lengths[start] <= 50
        cost += size * lengths[start] + overhead
        start += size
    assert cost == min(ways)


def test_a_prompt_longer_than_the_budget_is_a_batch_of_its_own(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(batching.AUTO_TOKENS, "cpu", 100)
    monkeypatch.setitem(batching.OVERHEAD_TOKENS, "cpu", 1000)
    assert sizes_of(llama, prompts_of([50, 200, 100, 50])) == [1, 1, 2]


def test_a_batch_takes_no_more_than_half_of_the_free_memory(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "free_memory", lambda _device: 8000)
    sizes = sizes_of(llama, prompts_of([10] * 9), bytes_per_token=100)  # 40 tokens
    assert sum(sizes) == 9
    assert max(sizes) == 4
    assert sizes_of(llama, prompts_of([10] * 3), bytes_per_token=1e9) == [1, 1, 1]
    assert sizes_of(llama, prompts_of([10] * 9)) == [9]


def test_on_an_accelerator_a_small_batch_is_measured_and_later_ones_fill_the_memory(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(batching.AUTO_TOKENS, "cpu", 20)
    monkeypatch.setattr(batching, "measures_allocation", lambda _device: True)
    monkeypatch.setattr(batching, "free_memory", lambda _device: 16_000)
    bytes_of_token, sizes = 100, []

    @contextmanager
    def peak(_devices: object) -> Iterator[list[int]]:
        found: list[int] = []
        yield found
        found.append(bytes_of_token * 10 * sizes[-1])

    monkeypatch.setattr(batching, "peak_allocation", peak)

    def sizes_of(count: int, **more: float) -> list[int]:
        sizes.clear()
        for _ in batches(llama, prompts_of([10] * count), "auto", lambda batch: sizes.append(len(batch)), **more):
            pass
        return list(sizes)

    assert sizes_of(26) == [2, 8, 8, 8]  # 20 tokens, then those of half the memory: 80
    assert sizes_of(24) == [8, 8, 8]  # it is known now
    bytes_of_token = 200
    assert sizes_of(24) == [8, 4, 4, 4, 4]  # a batch took more than was known
    assert sizes_of(10, bytes_per_token=1.0) == [2, 4, 4]  # gradients are measured by themselves
    assert llama.bytes_per_token == {"scores": 200.0, "gradients": 200.0}


def test_scores_do_not_depend_on_the_memory_there_is(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = score_neurons(llama, EXAMPLES, INSTRUCTIONS[:1])
    counts: list[int] = []
    monkeypatch.setattr(batching, "free_memory", lambda _device: 1000)
    scores = score_neurons(llama, EXAMPLES, INSTRUCTIONS[:1], progress=counts.append)
    assert counts == [1, 1, 1, 1]
    assert_values_close(scores.values, expected.values)


def test_prompts_of_different_groups_share_no_batch(llama: LanguageModel) -> None:
    prompts = prompts_of([9, 8, 7, 6, 5])
    found = list(batches(llama, prompts, 3, lambda _: None, apart=[0, 1, 0, 1, 0]))
    assert sorted(map(sorted, found)) == [[0, 2, 4], [1, 3]]


def test_the_estimate_counts_what_linear_layers_put_out(llama: LanguageModel) -> None:
    """Two layers put out 32 + 16 + 16 + 32 numbers in attention, 48 + 48 + 32 in the feed-forward block."""
    assert gradient_bytes_per_token(llama) == pytest.approx(batching.ACTIVATIONS_PER_NEURON * 2 * 224 * 4)
    llama.model.to(torch.bfloat16)
    assert gradient_bytes_per_token(llama) == pytest.approx(batching.ACTIVATIONS_PER_NEURON * 2 * 224 * 2)


def test_free_memory_is_what_the_system_and_the_control_group_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    available = psutil.virtual_memory().available
    assert 0 < free_memory(torch.device("cpu")) <= 2 * available
    texts = {"memory.max": "1000\n", "memory.current": "400\n"}
    monkeypatch.setattr(memory.Path, "read_text", lambda path: texts[path.name])
    assert free_memory(torch.device("cpu")) == 600
    texts["memory.max"] = "max\n"
    assert free_memory(torch.device("cpu")) > 600
