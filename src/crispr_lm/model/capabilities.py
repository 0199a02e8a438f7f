"""What a model can be run with, as found out by running it.

`inference.layouts` finds it out, and `attribution` adds what it meets. The value stands here, below both, because the
model carries it: what is known of a model is known once, for scoring, attribution and search alike. Which number format
answers are measured in is no capability: that is chosen, by the user or from the hardware.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Capabilities:
    """Ways of batching that leave a model's scores alone, and what its activations allow. Replaced as a whole.

    Attributes:
        branches: A prompt's options can share one sequence.
        padding: Sequences can be padded to one length.
        cache: Sequences can go on from the model's cache of keys and values.
        tokens_by_shape: In a batch, an activation's shape shows which token of which prompt each row belongs to.
        writes_in_place: The model writes into its layers' outputs after they are computed.
        left_padding: Prompts that are continued can be padded on the left; None until `inference.generation` has tried.
    """

    branches: bool = False
    padding: bool = True
    cache: bool = False
    tokens_by_shape: bool = True
    writes_in_place: bool = False
    left_padding: bool | None = None
