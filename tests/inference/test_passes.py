"""What work on a model costs, in forward passes of a prompt."""

import torch

from crispr_lm.inference.passes import counted_passes

from ..helpers import hook_count


def test_forward_and_backward_passes_are_counted_by_row(llama):
    prompts = torch.tensor([[5, 6, 7], [8, 9, 10]])
    with counted_passes(llama) as passes:
        with torch.no_grad():
            llama.model(input_ids=prompts)
        assert passes.count == 2
        llama.model.requires_grad_(True)
        logits = llama.model(input_ids=prompts).logits
        assert passes.count == 4
        logits.sum().backward()
        assert passes.count == 8  # a backward pass takes as long as two forward passes
    llama.model(input_ids=prompts)
    assert passes.count == 8
    assert hook_count(llama.model) == 0
