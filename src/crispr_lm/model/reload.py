"""Run as a script in a fresh process: load a saved folder with plain transformers, hash its weights, score options.

Imports nothing of crispr-lm, so that what it computes is what any user of the folder gets. Reads a JSON request from
standard input, writes a JSON answer to standard output. `crispr_lm.edits.verification` calls `hashes`, `settings` and
`scores` on the model in memory too, so that both sides are computed by the same lines.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer


def main() -> None:
    """Answer one request; its fields are those that `crispr_lm.edits.verification` sends."""
    request = json.load(sys.stdin)
    auto_class: Any = getattr(transformers, request["auto_class"])
    options: dict[str, Any] = {"trust_remote_code": request["trust_remote_code"]}
    if request["gguf_file"]:
        options["gguf_file"] = request["gguf_file"]
        if hasattr(transformers, "GgufConfig"):
            options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = auto_class.from_pretrained(request["base"], dtype=getattr(torch, request["dtype"]), **options)
    answer: dict[str, Any] = {"hashes": hashes(model), "settings": settings(model.config)}
    of_gguf = {"gguf_file": request["tokenizer_gguf_file"]} if request["tokenizer_gguf_file"] else {}
    tokenizer = AutoTokenizer.from_pretrained(
        request["folder"], trust_remote_code=request["trust_remote_code"], **of_gguf
    )
    answer["tokens"] = [list(tokenizer(text, add_special_tokens=False).input_ids) for text in request["texts"]]
    if request["device"] is not None:
        model.to(request["device"], torch.float32)
        if request["adapter"]:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, request["folder"])
        model.eval()
        prompts = [(prompt["prompt_ids"], prompt["option_ids"]) for prompt in request["prompts"]]
        answer["scores"] = scores(model, prompts)
    json.dump(answer, sys.stdout)


def hashes(model: Any) -> dict[str, str]:
    """A hash of every tensor in a model's state, of its shape and its bytes; name to hash.

    Shorter formats are hashed as the float32 numbers that they are: some layers transformers holds wider than the rest.
    """
    found = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            continue  # what a layer keeps beside its tensors
        digest = hashlib.blake2b(f"{tuple(tensor.shape)}".encode(), digest_size=16)
        content = tensor.detach().cpu().contiguous().reshape(-1)
        content = content.float() if content.dtype in (torch.bfloat16, torch.float16) else content
        digest.update(content.view(torch.uint8).numpy().data)
        found[name] = digest.hexdigest()
    return found


def settings(configuration: Any) -> dict[str, Any]:
    """All that a configuration says, as JSON types."""
    content: dict[str, Any] = json.loads(configuration.to_json_string(use_diff=False))
    return content


def scores(model: Any, prompts: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]) -> list[list[float]]:
    """Score every prompt's options, each as a sequence of its own, neither padded nor packed.

    Args:
        model: In evaluation mode.
        prompts: A prompt's tokens with those of each option.

    Returns:
        Summed log-probabilities of the options' tokens, in nats.
    """
    return [[_score(model, [*prompt], [*option]) for option in options] for prompt, options in prompts]


@torch.inference_mode()
def _score(model: Any, prompt: list[int], option: list[int]) -> float:
    target = torch.tensor(option, device=model.device)
    if model.config.is_encoder_decoder:
        source = torch.tensor([prompt], device=model.device)
        logits = model(input_ids=source, labels=target[None]).logits[0]
    else:
        sequence = torch.tensor([prompt + option[:-1]], device=model.device)
        logits = model(input_ids=sequence).logits[0, len(prompt) - 1 :]
    return float(torch.log_softmax(logits.float(), dim=-1).gather(1, target[:, None]).sum())


if __name__ == "__main__":
    main()
