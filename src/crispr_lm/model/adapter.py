"""A PEFT adapter given as the model: its base model is loaded, and the adapter merged into the weights.

An adapter's folder has ``adapter_config.json``, which names the base model, and no ``config.json``. Merged, every
weight is what the two compute together, so that a neuron is eliminated with all that the adapter adds to it. Knows
folders and weights; knows no edit.
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError, first_line
from crispr_lm.model.trust import check_links
from crispr_lm.storage.untrusted import parse_json, read_bytes

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

HIGHEST_RANK = 2**14
"""Of LoRA matrices, which are made before the weights are read; published ones are below 1,024."""


@dataclass(frozen=True)
class Adapter:
    """An adapter on this machine.

    Attributes:
        name: As the user gave it.
        folder: Where its files are.
        base: The base model, as its configuration names it.
    """

    name: str
    folder: Path
    base: str

    @property
    def sha256(self) -> str:
        """Hash of its weights, for the record of an edit."""
        file = next(file for file in (self.folder / WEIGHTS, self.folder / PICKLE) if file.is_file())
        return hashlib.sha256(file.read_bytes()).hexdigest()


def adapter_named(name: str, location: str) -> Adapter | None:
    """The adapter that a model's name stands for, None if it stands for a whole model.

    Args:
        name: As the user gave it.
        location: Its folder or hub id.

    Raises:
        InputError: PEFT is missing, or its configuration can't be read, names no base model, or asks for too much.
    """
    folder = Path(location)
    if not folder.is_dir():
        found = _from_hub(location)
        if found is None:
            return None
        folder = found
    if not (folder / CONFIG).is_file() or (folder / "config.json").exists():
        return None
    if importlib.util.find_spec("peft") is None:
        raise InputError(f"model {name} is a PEFT adapter; pip install 'crispr-lm[lora]' to merge it")
    check_links(folder, name)
    try:
        content = parse_json(read_bytes(folder / CONFIG))
    except (OSError, ValueError) as error:
        raise InputError(f"model {name}: {CONFIG} can't be read: {first_line(error)}") from error
    base = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    if not isinstance(base, str) or not base.strip():
        raise InputError(f"model {name}: {CONFIG} names no base model; fill in base_model_name_or_path")
    _check_ranks(content, name)
    return Adapter(name, folder, base)


def _check_ranks(content: dict[str, Any], name: str) -> None:
    patterns = content.get("rank_pattern")
    ranks = [content.get("r"), *(patterns.values() if isinstance(patterns, dict) else ())]
    if any(isinstance(rank, (int, float)) and not 0 < rank <= HIGHEST_RANK for rank in ranks):
        raise InputError(f"model {name}: {CONFIG} has a rank outside 1 to {HIGHEST_RANK:,}; it is damaged")
    if content.get("megatron_config") is not None:  # with it PEFT imports a module that the file names
        raise InputError(f"model {name}: {CONFIG} is for Megatron, which can't be loaded here; merge it where it is")


def _from_hub(hub_id: str) -> Path | None:
    """The folder of an adapter on the hub, or in its cache; None if the hub id is a whole model's, or not reached.

    What is wrong with a hub id is said where the model itself is looked for.
    """
    from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if isinstance(try_to_load_from_cache(hub_id, "config.json"), str):
            return None
        cached = try_to_load_from_cache(hub_id, CONFIG)
        if constants.HF_HUB_OFFLINE:
            return Path(cached).parent if isinstance(cached, str) else None
        names = {file.rfilename for file in HfApi().model_info(hub_id, timeout=10).siblings or ()}
        if CONFIG not in names or "config.json" in names:
            return None
        wanted = ["adapter_*", "*.json", "*.jinja", "*.model", "*.txt", "README.md"]
        return Path(snapshot_download(hub_id, allow_patterns=wanted))
    except HFValidationError:
        return None
    except Exception:  # the hub's client has changed its network errors' types more than once
        return Path(cached).parent if isinstance(cached, str) else None


def check_mergeable(adapter: Adapter, quantize: str, *, allow_pickle: bool) -> None:
    """Check, before the base model is loaded, that an adapter has weights, and that they may be merged into it.

    Raises:
        InputError: it has none, only pickled ones (which could run code) without permission, or the base model is to be
            loaded with shortened weights.
    """
    if quantize != "none":
        raise InputError(
            f"model {adapter.name}: an adapter can't be merged into shortened weights; leave --quantize away"
        )
    if (adapter.folder / WEIGHTS).is_file():
        return
    if not (adapter.folder / PICKLE).is_file():
        raise InputError(f"model {adapter.name}: the adapter has no {WEIGHTS}; put its weights into the folder")
    if not allow_pickle:
        raise InputError(
            f"model {adapter.name}: the adapter's weights are stored as pickle, which can run code; give "
            "--allow-pickle if you trust it"
        )


def merged(model: Any, adapter: Adapter) -> Any:
    """The base model with the adapter's changes in its weights.

    Args:
        model: The loaded base model; its weights are changed.
        adapter: What is merged.

    Raises:
        InputError: it is for another model, lacks weights, or is of a kind that can't be merged.
    """
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            # What is missing would be left as it was initialised, without an effect.
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            carrying = PeftModel.from_pretrained(model, str(adapter.folder))
        if not hasattr(carrying.base_model, "merge_and_unload"):
            kind = next(iter(carrying.peft_config.values())).peft_type
            raise InputError(
                f"model {adapter.name}: an adapter of kind {kind} adds no weights that could be merged; give a merged "
                "model"
            )
        base = carrying.merge_and_unload(safe_merge=True)
    except InputError:
        raise
    except Exception as error:  # of many types: other shapes, other names of modules, not finite
        raise InputError(
            f"model {adapter.name}: the adapter can't be merged into {adapter.base}: {first_line(error)}"
        ) from error
    if hasattr(base, "peft_config"):
        del base.peft_config
    return base
