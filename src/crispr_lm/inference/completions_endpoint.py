"""A completions endpoint of OpenAI's form, as vLLM serves it: token ids in, log-probabilities of the prompt out.

Each option is sent as the end of a prompt. Two forms of asking for a prompt's log-probabilities are known: vLLM's
``prompt_logprobs``, by token id, and ``echo`` with ``logprobs``, by place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from crispr_lm.errors import CrisprError, InputError, first_line
from crispr_lm.inference.prompts import EncodedPrompt
from crispr_lm.storage.sanitize import printable

AT_ONCE = 16
"""Sequences in one request: enough for a server to batch, few enough that progress shows."""

PATIENCE = 600
"""Seconds: a busy server may take minutes for a batch of long prompts."""

KEY = "OPENAI_API_KEY"
"""Environment variable with the endpoint's key, if it asks for one."""

NO_LOGPROBS = (
    "gives no log-probabilities of a prompt's tokens (vLLM does); give --scoring generate, which matches what it "
    "writes to the options"
)


MOST_SAID = 300
"""Bytes of an error's text that are shown."""

UNKNOWN_OPTION = (400, 422)
"""Status of an answer to a request with options that the endpoint does not know."""


class _NotGivenError(CrisprError):
    """An endpoint does not give the log-probabilities that it was asked for."""


class CompletionsEndpoint:
    """A model behind ``URL/completions``."""

    def __init__(self, address: str) -> None:
        """Ask the endpoint which models it has.

        Args:
            address: Such as ``http://localhost:8000/v1``; with ``#MODEL`` where it serves several.

        Raises:
            InputError: no address, nothing answers there, or it serves several models or not the one named.
        """
        url, _, named = address.partition("#")
        self.url = url.rstrip("/")
        try:
            if not url.startswith(("http://", "https://")):
                raise ValueError("it begins with neither http:// nor https://")
            served = [str(model["id"]) for model in self._answer("models")["data"]]
        except _BROKEN as error:
            raise InputError(
                f"openai:{address}: no completions endpoint answers at {self.url}/models ({first_line(error)}); give "
                "an address such as openai:http://localhost:8000/v1, and its key, if it has one, in " + KEY
            ) from error
        if named not in served and (named or len(served) != 1):
            raise InputError(
                f"openai:{address}: the endpoint serves {', '.join(map(printable, served)) or 'no model'}; name one as "
                f"openai:{self.url}#MODEL"
            )
        self.model = named or served[0]
        self._form: tuple[dict[str, Any], _Reader] | None = None

    @property
    def name(self) -> str:
        """The model's name and the address."""
        return f"{self.model} at {self.url}"

    def scores(self, prompts: Sequence[EncodedPrompt]) -> list[list[float]]:
        """As `crispr_lm.inference.runtimes.Runtime`."""
        sequences = [(prompt.prompt_ids, option) for prompt in prompts for option in prompt.option_ids]
        found: list[float] = []
        for start in range(0, len(sequences), AT_ONCE):
            found += self._scores(sequences[start : start + AT_ONCE])
        values = iter(found)
        return [[next(values) for _ in prompt.option_ids] for prompt in prompts]

    def written(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[str]:
        """As `crispr_lm.inference.runtimes.Runtime`."""
        texts: list[str] = []
        for start in range(0, len(prompts), AT_ONCE):
            some = [list(ids) for ids in prompts[start : start + AT_ONCE]]
            texts += [str(choice["text"]) for choice in self._complete(some, {"max_tokens": tokens})]
        return texts

    def _scores(self, sequences: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        joined = [[*prompt, *option] for prompt, option in sequences]
        if self._form is None:
            self._form = self._form_of(joined[0])
        options, read = self._form
        choices = self._complete(joined, options)
        return [
            sum(read(choice, ids)[len(prompt) :])
            for choice, ids, (prompt, _) in zip(choices, joined, sequences, strict=True)
        ]

    def _form_of(self, ids: list[int]) -> tuple[dict[str, Any], _Reader]:
        """How this endpoint is asked for a prompt's log-probabilities.

        Raises:
            InputError: it gives none.
        """
        for options, read in _FORMS:
            try:
                read(self._complete([ids], options)[0], ids)
            except _NotGivenError:
                continue
            return options, read
        raise InputError(f"{self.name} {NO_LOGPROBS}")

    def _complete(self, prompts: list[list[int]], options: dict[str, Any]) -> list[dict[str, Any]]:
        """Send prompts, and return what came of each."""
        request = {"model": self.model, "prompt": prompts, "temperature": 0, "max_tokens": 1, **options}
        try:
            choices: list[dict[str, Any]] = sorted(
                self._answer("completions", request)["choices"], key=lambda choice: choice["index"]
            )
        except HTTPError as error:
            kind = _NotGivenError if error.code in UNKNOWN_OPTION else CrisprError
            said = printable(error.read(MOST_SAID).decode(errors="replace"))
            raise kind(f"{self.name} refuses a request (status {error.code}: {said})") from error
        except _BROKEN as error:
            raise CrisprError(f"{self.name} does not answer as an endpoint does ({first_line(error)})") from error
        if len(choices) != len(prompts):
            raise CrisprError(f"{self.name} gives {len(choices)} answers to {len(prompts)} prompts")
        return choices

    def _answer(self, path: str, content: dict[str, Any] | None = None) -> Any:
        """What the endpoint says, from JSON to JSON; raises what `_BROKEN` lists."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        body = None if content is None else json.dumps(content).encode()
        with _OPENER.open(Request(f"{self.url}/{path}", body, headers), timeout=PATIENCE) as answer:
            return json.load(answer)


class _NoRedirect(HTTPRedirectHandler):
    """An address that sends on to another one is refused: the key is for the first alone."""

    def redirect_request(self, *_arguments: Any) -> None:
        """Follow none."""


_OPENER = build_opener(_NoRedirect)
_BROKEN = (OSError, HTTPException, ValueError, KeyError, TypeError)
"""What comes of an endpoint that is not there, ends in the middle, or answers something else; HTTPError among them."""


_Reader = Callable[[dict[str, Any], Sequence[int]], "list[float]"]
"""Makes of an answer the log-probability of each token of the prompt; the first one's is not used."""


def _by_token(choice: dict[str, Any], ids: Sequence[int]) -> list[float]:
    return _checked(
        choice,
        lambda: [
            0.0 if number == 0 else float(entry[str(token)]["logprob"])
            for number, (token, entry) in enumerate(zip(ids, choice["prompt_logprobs"], strict=True))
        ],
    )


def _by_place(choice: dict[str, Any], ids: Sequence[int]) -> list[float]:
    def read() -> list[float]:
        values = choice["logprobs"]["token_logprobs"]
        if len(values) < len(ids) or len(values) > len(ids) + 1:  # with the token that was written, or without
            raise ValueError("other tokens than those sent")
        return [0.0, *map(float, values[1 : len(ids)])]

    return _checked(choice, read)


def _checked(choice: dict[str, Any], read: Callable[[], list[float]]) -> list[float]:
    try:
        return read()
    except (KeyError, TypeError, ValueError) as error:
        raise _NotGivenError(f"an endpoint's answer lacks log-probabilities of the tokens sent ({error!r})") from error


_FORMS: tuple[tuple[dict[str, Any], _Reader], ...] = (
    ({"prompt_logprobs": 1}, _by_token),
    ({"echo": True, "logprobs": 1}, _by_place),
)
