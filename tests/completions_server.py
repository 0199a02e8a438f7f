"""A completions endpoint as vLLM has it, around a tiny model, on a port of this machine; and its faults."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import torch

from crispr_lm.model.language_model import LanguageModel


@dataclass
class Served:
    """What is served, and how.

    Attributes:
        lm: The model.
        form: How log-probabilities of a prompt are given: vLLM's own way, by echo, or not at all.
        forgetful: Whether prompts that are sent again are scored as if their first token were another.
        requests: All that were received.
    """

    lm: LanguageModel
    form: Literal["prompt_logprobs", "echo", "none"] = "prompt_logprobs"
    forgetful: bool = False
    requests: list[dict[str, Any]] = field(default_factory=list)
    seen: set[tuple[int, ...]] = field(default_factory=set)

    @torch.inference_mode()
    def answer(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and answer to a request."""
        self.requests.append(request)
        if self.form != "prompt_logprobs" and "prompt_logprobs" in request:
            return 400, {"error": "Unrecognized request argument supplied: prompt_logprobs"}
        choices = [self._choice(ids, number, request) for number, ids in enumerate(request["prompt"])]
        return 200, {"choices": choices[::-1]}  # in any order: their numbers count

    def _choice(self, ids: list[int], number: int, request: dict[str, Any]) -> dict[str, Any]:
        read = [7, *ids[1:]] if self.forgetful and tuple(ids) in self.seen else ids
        self.seen.add(tuple(ids))
        logits = self.lm.model(input_ids=torch.tensor([read])).logits[0].log_softmax(-1)
        values = [float(logits[at, token]) for at, token in enumerate(ids[1:])]
        choice: dict[str, Any] = {"index": number, "text": self._written(ids, request["max_tokens"])}
        if "prompt_logprobs" in request:
            likeliest = logits.argmax(-1).tolist()
            entries = [
                {str(token): {"logprob": value, "rank": 9}, str(best): {"logprob": float(logits[at, best]), "rank": 1}}
                for at, (token, value, best) in enumerate(zip(ids[1:], values, likeliest, strict=False))
            ]
            choice["prompt_logprobs"] = [None, *entries]
        if self.form == "echo" and request.get("echo"):
            choice["logprobs"] = {"token_logprobs": [None, *values, -1.0]}
        return choice

    def _written(self, ids: list[int], tokens: int) -> str:
        if tokens == 1:
            return "x"
        output = self.lm.model.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False)[0, len(ids) :]
        return str(self.lm.tokenizer.decode(output, skip_special_tokens=True))


@contextmanager
def serving(served: Served) -> Iterator[str]:
    """The address of an endpoint, as crispr-lm takes it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"data": [{"id": "tiny"}]})

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(*served.answer(request))

        def _send(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"openai:http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
