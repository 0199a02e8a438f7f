"""Does it work on my model? Walks a tiny random model of every text architecture of the installed transformers.

    python benchmarks/architectures.py                        # all; writes docs/architectures.md
    python benchmarks/architectures.py --only llama t5        # some; prints only

For each architecture and each kind of neuron the five checks of `crispr_lm.jobs.self_check` are run.

Knows the tests' tiny models (`tests/tiny_models.py`) and the library's public functions; knows no benchmark data.
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import tiny_models
from crispr_lm.errors import CrisprError
from crispr_lm.jobs.self_check import TOLERANCE, KindResult, check_kind, saved_and_loaded
from crispr_lm.model.classes import TEXT_PARTS
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import NEURON_KINDS

CONFIG_FIXES: dict[str, dict[str, Any]] = {
    # Real checkpoints of these say it in their config.json; configurations made from scratch don't.
    model_type: {"decoder_start_token_id": 0}
    for model_type in ("t5", "longt5", "switch_transformers", "mt5", "umt5", "encoder-decoder")
}


class WordTokenizer:
    """Words to numbers by their checksum: a tokenizer that needs no files."""

    chat_template = None
    eos_token_id = 1
    pad_token_id = 0

    def __call__(
        self,
        text: str | list[str] | None = None,
        text_target: str | list[str] | None = None,
        add_special_tokens: bool = True,
    ) -> SimpleNamespace:
        """Tokenize; targets end with the end token."""
        given = text if text is not None else text_target
        assert given is not None
        end = [self.eos_token_id] if text_target is not None else []
        ids = [self._ids(one) + end for one in ([given] if isinstance(given, str) else given)]
        return SimpleNamespace(input_ids=ids[0] if isinstance(given, str) else ids)

    def _ids(self, text: str) -> list[int]:
        return [3 + zlib.crc32(word.encode()) % (tiny_models.VOCABULARY - 10) for word in text.split()]


@dataclass
class Result:
    """What came out for one architecture."""

    class_name: str
    model_type: str
    layout: str = ""
    kinds: dict[str, KindResult] = field(default_factory=dict)
    silent: str = ""
    log: list[str] = field(default_factory=list)

    @property
    def has_feed_forward(self) -> bool:
        """Whether there are feed-forward neurons to find."""
        return self.kinds["ffn"].neurons > 0 or "no 'ffn' neurons" not in self.kinds["ffn"].reason

    @property
    def passed(self) -> bool:
        """All five checks for both kinds; an architecture without feed-forward layers needs only the linear kind."""
        return self.kinds["linear"].passed and (self.kinds["ffn"].passed or not self.has_feed_forward)


def walked() -> list[tiny_models.Architecture]:
    """Every text architecture, and the vision-language ones that the library uses through their text part."""
    return [
        *tiny_models.architectures(),
        *(entry for entry in tiny_models.vision_language() if entry.model_type in TEXT_PARTS),
    ]


def check(architecture: tiny_models.Architecture) -> Result:
    """Run the five checks on one architecture."""
    result = Result(architecture.class_name, architecture.model_type)
    # Loaded once before anything is checked: some weights (sinusoidal positions) are computed, never saved.
    model = saved_and_loaded(tiny_models.build(architecture)).requires_grad_(False)
    for name, value in CONFIG_FIXES.get(architecture.model_type, {}).items():
        setattr(model.config, name, value)
    lm = LanguageModel(
        model, WordTokenizer(), architecture.class_name, is_encoder_decoder=architecture.is_encoder_decoder
    )
    handler = logging.Handler()
    handler.emit = lambda record: result.log.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("crispr_lm").addHandler(handler)
    logging.getLogger("crispr_lm").setLevel(logging.INFO)
    for kind in NEURON_KINDS:
        kind_result = result.kinds[kind] = KindResult()
        try:
            check_kind(lm, kind, kind_result)
        except CrisprError as error:  # refused, with a reason: said, not silent
            kind_result.reason = str(error)
        except Exception as error:
            kind_result.reason = result.silent = (
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
            traceback.print_exc()
    logging.getLogger("crispr_lm").removeHandler(handler)
    if lm.is_encoder_decoder:
        result.layout = "encoder-decoder"
    else:
        result.layout = "branches" if lm.capabilities and lm.capabilities.branches else "sequences"
    return result


def table(results: Sequence[Result]) -> str:
    """The page ``docs/architectures.md``: text architectures, then vision-language ones."""
    with_images = {(entry.model_type, entry.class_name) for entry in tiny_models.vision_language()}
    of_images = [result for result in results if (result.model_type, result.class_name) in with_images]
    results = [result for result in results if result not in of_images]
    passed = sum(result.passed for result in results)
    silent = sum(bool(result.silent) for result in results)
    layouts = Counter(result.layout for result in results)
    versions = f"transformers {transformers.__version__} and torch {torch.__version__}"
    text = f"""# Architectures

`python benchmarks/architectures.py` with {versions}: **{passed} of {len(results)}** text architectures
({passed / len(results):.1%}) pass all five checks; {silent} fail without a reason of ours.

Each is a tiny random model made from its configuration. Checked for both kinds of neuron: neurons are found; scores
equal the brute-force definition (one unpadded sequence per answer); hooks and baked weights give the same logits; undo
is exact to the bit; the saved folder gives the same logits when loaded with plain transformers. Figures are largest
differences relative to the largest value; more than {TOLERANCE:g} is a failure.

Options are scored as branches of one sequence in {layouts["branches"]} architectures, as sequences of their own in
{layouts["sequences"]} (whose attention can't take branches), by a decoder in {layouts["encoder-decoder"]}.

Not walked are classes that need an image or sound to say anything, or another model's states (`LEFT_OUT` in
`tests/tiny_models.py` lists them with reasons).
"""
    vision_language = f"""
## Vision-language models

{sum(result.passed for result in of_images)} of {len(of_images)} that are used pass all five checks. Prompts are text
alone, neurons are those of the language model, and the vision tower is kept as it is. Other vision-language models are
refused by name.
"""
    return "\n".join([text, *_rows(results), vision_language, *_rows(of_images)]) + "\n"


def _rows(results: Sequence[Result]) -> list[str]:
    return [
        "| architecture | type | passes | options as | linear | ffn | scores | hook = baked | reloaded | remark |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_row(result) for result in sorted(results, key=lambda each: (each.class_name.lower(), each.model_type))),
    ]


def _row(result: Result) -> str:
    def largest(name: str) -> str:
        values = [value for kind in result.kinds.values() if (value := getattr(kind, name)) is not None]
        return f"{max(values):.0e}" if values else "-"

    reasons = dict.fromkeys(kind.reason for kind in result.kinds.values() if kind.reason)
    reasons |= dict.fromkeys(message for message in result.log if message.startswith("no neurons are looked for"))
    cells = [
        f"`{result.class_name}`",
        f"`{result.model_type}`",
        "yes" if result.passed else "**no**",
        result.layout,
        str(result.kinds["linear"].neurons or "-"),
        str(result.kinds["ffn"].neurons or "-"),
        largest("scores"),
        largest("baked"),
        largest("reloaded"),
        "; ".join(reasons).replace("|", "\\|"),
    ]
    return "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Walk, print a line for each architecture, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", metavar="MODEL_TYPE", help="check these model types and write no page")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "architectures.md")
    given = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)  # tiny models are slower on several
    results = []
    for architecture in walked():
        if given.only and architecture.model_type not in given.only:
            continue
        result = check(architecture)
        results.append(result)
        reasons = "; ".join(dict.fromkeys(kind.reason for kind in result.kinds.values() if kind.reason))
        verdict = "rounds" if result.passed else "FAILS"
        details = " ".join(
            f"{name}: {kind.neurons} neurons, scores {kind.scores}, baked {kind.baked}, undone {kind.undone}, "
            f"reloaded {kind.reloaded};"
            for name, kind in result.kinds.items()
        )
        print(verdict, result.class_name, result.layout, reasons, "" if result.passed else details, flush=True)
    print(f"{sum(result.passed for result in results)} of {len(results)} pass")
    if not given.only:
        given.output.write_text(table(results), encoding="utf-8")
        print(f"written: {given.output}")


if __name__ == "__main__":
    main()
