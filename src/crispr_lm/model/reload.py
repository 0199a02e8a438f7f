"""Run as a script in a fresh process: load a saved folder with plain transformers and score options one by one.

Imports nothing of crispr-lm, so that what it computes is what any user of the folder gets. Reads a JSON request from
standard input, writes a JSON answer to standard output.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer


def main() -> None:
    """Answer one request; its fields are those that `crispr_lm.verification` sends."""
    request = json.load(sys.stdin)
    auto_class: Any = getattr(transformers, request["auto_class"])
    options: dict[str, Any] = {"trust_remote_code": request["trust_remote_code"]}
    if request["gguf_file"]:
        options["gguf_file"] = request["gguf_file"]
        if hasattr(transformers, "GgufConfig"):
            options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = auto_class.from_pretrained(request["base"], dtype=getattr(torch, request["dtype"]), **options)
    if request["adapter"]:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, request["folder"])
    model = model.to(request["device"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(request["folder"], trust_remote_code=request["trust_remote_code"])
    answer = {
        "tokens": [list(tokenizer(text, add_special_tokens=False).input_ids) for text in request["texts"]],
        "scores": [
            [
                _score(model, prompt["prompt_ids"], option, request["is_encoder_decoder"])
                for option in prompt["option_ids"]
            ]
            for prompt in request["prompts"]
        ],
    }
    json.dump(answer, sys.stdout)


@torch.inference_mode()
def _score(model: Any, prompt: list[int], option: list[int], is_encoder_decoder: bool) -> float:
    target = torch.tensor(option, device=model.device)
    if is_encoder_decoder:
        source = torch.tensor([prompt], device=model.device)
        logits = model(input_ids=source, labels=target[None]).logits[0]
    else:
        sequence = torch.tensor([prompt + option[:-1]], device=model.device)
        logits = model(input_ids=sequence).logits[0, len(prompt) - 1 :]
    return float(torch.log_softmax(logits.float(), dim=-1).gather(1, target[:, None]).sum())


if __name__ == "__main__":
    main()
