"""llama.cpp in this process, through the package xllamacpp. Token ids go in, log-probabilities come out.

llama.cpp gives the probabilities of the next token, before sampling and over the whole vocabulary. So an option of k
tokens takes k requests; llama.cpp keeps what it has read of a prompt, so that each reads one more token.
"""

from __future__ import annotations

import importlib.util
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crispr_lm.errors import CrisprError, InputError, first_line
from crispr_lm.inference.prompts import EncodedPrompt

MOST_LIKELY = 1024
"""Tokens whose probabilities are asked for at first, which nearly always are enough. All 49,152 of SmolLM2 take 0.5 s
of a core to be written and read as JSON; these take 0.01 s."""

ALL = 2**24
"""More tokens than any vocabulary has; llama.cpp then gives all of them."""

CONTEXT_STEP = 1024
"""Room for tokens is made in steps of so many: for more of them llama.cpp loads the model again."""


class LlamaCpp:
    """A GGUF file in llama.cpp, loaded when the first prompt comes, with room for the longest one."""

    def __init__(self, files: str, threads: int = 1) -> None:
        """Check what can be known before the model is loaded.

        Args:
            files: The model's file; with ``#FILE`` a LoRA adapter's, which is applied to it.
            threads: How many to compute with.

        Raises:
            InputError: no such file, or xllamacpp is not installed.
        """
        file, *adapters = (Path(name).expanduser() for name in files.split("#"))
        for given in (file, *adapters):
            if not given.is_file():
                raise InputError(f"model {given}: no such file; check the path")
        if importlib.util.find_spec("xllamacpp") is None:
            raise InputError("gguf-runtime: needs llama.cpp; pip install 'crispr-lm[llama-cpp]'")
        self.file, self.adapters, self.threads = file, adapters, threads
        self._server: Any = None
        self._context = 0

    @property
    def name(self) -> str:
        """llama.cpp and the files' names."""
        return "llama.cpp with " + " and ".join(file.name for file in (self.file, *self.adapters))

    def scores(self, prompts: Sequence[EncodedPrompt]) -> list[list[float]]:
        """As `crispr_lm.inference.runtimes.Runtime`."""
        self._load(max(len(prompt.prompt_ids) + max(map(len, prompt.option_ids)) for prompt in prompts))
        return [self._scores(prompt) for prompt in prompts]

    def written(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[str]:
        """As `crispr_lm.inference.runtimes.Runtime`."""
        self._load(max(map(len, prompts)) + tokens)
        return [self._complete(ids, n_predict=tokens)["text"] for ids in prompts]

    def _scores(self, prompt: EncodedPrompt) -> list[float]:
        wanted: dict[tuple[int, ...], set[int]] = {}
        for option in prompt.option_ids:
            for end, token in enumerate(option):
                wanted.setdefault(tuple(option[:end]), set()).add(token)
        # In this order most of what one request has read is what the next one begins with.
        following = {
            before: self._next([*prompt.prompt_ids, *before], tokens) for before, tokens in sorted(wanted.items())
        }
        return [
            sum(following[tuple(option[:end])][token] for end, token in enumerate(option))
            for option in prompt.option_ids
        ]

    def _next(self, ids: Sequence[int], wanted: set[int]) -> Mapping[int, float]:
        """Log-probabilities of some tokens after others."""
        for most in (MOST_LIKELY, ALL):
            # An end token has probabilities too, but llama.cpp would not report on a text that ends at once.
            answer = self._complete(ids, n_predict=1, n_probs=most, ignore_eos=True)
            entries = answer["logprobs"]["content"][0]["top_logprobs"]
            found = {entry["id"]: float(entry["logprob"]) for entry in entries}
            if wanted <= found.keys():
                return found
        missing = min(wanted - found.keys())
        raise CrisprError(f"{self.name} has no token {missing}; the prompts are encoded for another model")

    def _complete(self, ids: Sequence[int], **options: Any) -> dict[str, Any]:
        try:
            answer = self._server.handle_completions({"prompt": list(ids), "temperature": 0, **options})
            choice: dict[str, Any] = answer["choices"][0]
        except Exception as error:  # of many types; an answer without choices is one that says what was wrong
            raise CrisprError(f"{self.name} does not answer ({first_line(error)})") from error
        return choice

    def _load(self, tokens: int) -> None:
        """Have the model loaded with room for so many tokens."""
        if tokens < self._context:
            return
        import xllamacpp

        self._server, self._context = None, 0  # before the next one takes as much memory
        context = (1 + tokens // CONTEXT_STEP) * CONTEXT_STEP
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(self.file)
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(path), 1.0) for path in self.adapters]
        parameters.n_ctx = context
        parameters.n_parallel = 1
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = self.threads
        parameters.warmup = False
        parameters.verbosity = -1  # errors come as exceptions
        parameters.api_keys = [secrets.token_hex()]  # it also listens on a port of this machine, for nobody here
        try:
            self._server = xllamacpp.Server(parameters)
        except Exception as error:  # whatever llama.cpp finds wrong with the file
            raise InputError(f"llama.cpp can't load {self.file} ({first_line(error)})") from error
        self._context = context
