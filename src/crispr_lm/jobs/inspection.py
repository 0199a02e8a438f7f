"""Looking into files and models, and combining edits: the small jobs that measure nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.edits.edit import Edit
from crispr_lm.edits.fingerprint import weights_fingerprint
from crispr_lm.edits.set_operations import intersection, overlap, union
from crispr_lm.errors import InputError
from crispr_lm.inference.prompts import seen_prompt
from crispr_lm.inference.reader import PromptFormat
from crispr_lm.model.language_model import count_parameters
from crispr_lm.model.load import open_model
from crispr_lm.model.neuron_sites import NEURON_KINDS, find_sites
from crispr_lm.storage.output_path import check_output_file
from crispr_lm.tasks.registry import load_task


def combine_edits(how: Literal["union", "intersection"], files: Sequence[Path], output: Path) -> Edit:
    """Write the union or intersection of edits.

    Raises:
        InputError: a file is no edit, the edits are of different scales, or the output can't be written.
        EditMismatchError: the edits are of different models.
    """
    check_output_file(output)
    edits = [Edit.load(file) for file in files]
    combined = union(edits) if how == "union" else intersection(edits)
    combined.save(output)
    return combined


def compare_edits(first: Path, second: Path) -> dict[str, Any]:
    """Report what two edits have in common, in all and per module, as JSON types.

    Raises:
        InputError: a file is no edit.
        EditMismatchError: the edits are of different models.
    """
    total, per_module = overlap(Edit.load(first), Edit.load(second))
    return {
        "total": asdict(total) | {"jaccard": total.jaccard},
        "per_module": {module: asdict(part) | {"jaccard": part.jaccard} for module, part in per_module.items()},
    }


def describe_scores(scores: NeuronScores, top: int = 10) -> dict[str, Any]:
    """Report what scores there are, and the highest, as JSON types."""
    best = scores.top(min(top, len(scores)))
    return {
        "type": "scores",
        "kind": scores.kind,
        "neurons": len(scores),
        "per_module": {module: len(values) for module, values in scores.values.items()},
        "top": [{**asdict(neuron), "score": scores.score_of(neuron)} for neuron in best],
        "origin": scores.origin,
    }


def inspect_prompt(model: str, task: str, prompt_format: PromptFormat = "chat") -> dict[str, Any]:
    """Show the first question of a task as the model sees it; reads the tokenizer and no weights.

    Args:
        model: Hub id, local folder, ``.gguf`` file or ``builtin:smollm2``.
        task: Such as ``builtin:everyday``.
        prompt_format: Whether prompts go through the model's chat template.

    Returns:
        As `crispr_lm.inference.prompts.seen_prompt`.

    Raises:
        InputError: model or task can't be read, or no option can be scored behind the model's chat template.
    """
    loaded = load_task(task, groups={})  # no bias is measured
    return seen_prompt(open_model(model, prompt_format=prompt_format), loaded.examples[0], loaded.instructions[0])


def inspect(source: str, top: int = 10) -> dict[str, Any]:
    """Report what is in a model, a scores file or an edit, as JSON types.

    Raises:
        InputError: it is none of these, or can't be read.
    """
    try:
        path = Path(source).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, an unknown user's home
        raise InputError(f"{source[:80]!r} is no name that can be used ({error}); check it") from error
    if path.suffix == ".json":
        edit = Edit.load(path)
        per_module: dict[str, int] = {}
        for neuron in edit.neurons:
            per_module[neuron.module] = per_module.get(neuron.module, 0) + 1
        return {
            "type": "edit",
            "base_model": dict(edit.base_model),
            "scale": edit.scale,
            "neurons": len(edit.neurons),
            "per_module": per_module,
            "top": [asdict(neuron) for neuron in edit.neurons[:top]],
            "fingerprint": {module: dict(hashes) for module, hashes in edit.fingerprint.items()},
            "origin": dict(edit.origin),
        }
    if path.suffix == ".safetensors":
        return describe_scores(NeuronScores.load(path), top)
    if path.is_file() and path.suffix != ".gguf":
        raise InputError(f"{source} is no model, scores file (.safetensors) or edit (.json)")
    lm = open_model(source).load("float32", "cpu")
    per_kind: dict[str, dict[str, int]] = {}
    for kind in NEURON_KINDS:
        try:
            per_kind[kind] = {site.name: site.width for site in find_sites(lm.model, kind)}
        except InputError:
            per_kind[kind] = {}
    return {
        "type": "model",
        "name": lm.name,
        "architecture": type(lm.model).__name__,
        "parameters": count_parameters(lm.model),
        "context_length": lm.context_length,
        "neurons": {kind: sum(modules.values()) for kind, modules in per_kind.items()},
        "per_module": per_kind,
        "fingerprint": weights_fingerprint(lm.model),
    }
