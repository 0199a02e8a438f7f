"""Where a model comes from: its id on the hub, and the licence and tags that its own card gives.

Nothing is guessed: what no card says is unknown. Knows names and cards; reads no weights.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, metadata_load, try_to_load_from_cache
from huggingface_hub.constants import REPOCARD_NAME
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from crispr_lm.model.locate import BUILTIN

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelOrigin:
    """What is known of a base model.

    Attributes:
        hub_id: As other users find it; None for a local model.
        license: The identifier of its card, None if unknown.
        license_name: Name of a licence that has no identifier of its own ("other").
        license_link: Where that licence is.
        languages: Language codes of its card.
        tags: Tags of its card.
    """

    hub_id: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


def origin_of(name: str) -> ModelOrigin:
    """Read what a model's own card says.

    Args:
        name: As given to `load_model`: a hub id, a local folder, a ``.gguf`` file or ``builtin:NAME``. Of a local model
            the README.md beside it is read; a hub that can't be reached leaves everything but the id unknown.
    """
    builtin = BUILTIN.get(name.removeprefix("builtin:")) if name.startswith("builtin:") else None
    if builtin is not None:
        return ModelOrigin(builtin.hub_id, builtin.license, languages=("en",))
    path = Path(name).expanduser()
    if path.exists():
        readme = (path if path.is_dir() else path.parent) / REPOCARD_NAME
        return _of_card(readme, None) if readme.is_file() else ModelOrigin()
    try:
        validate_repo_id(name)
    except HFValidationError:  # a folder of another machine, a model that was never loaded from anywhere
        return ModelOrigin()
    return _of_card(name, name)


def _of_card(source: str | Path, hub_id: str | None) -> ModelOrigin:
    try:
        file = source if hub_id is None else _from_hub(hub_id)
        data = metadata_load(file) or {}
    except Exception as error:  # no network, no such card, or one that is no YAML: many types
        logger.info("the card of %s can't be read (%s); its licence is unknown", source, str(error).split("\n")[0])
        return ModelOrigin(hub_id)
    return ModelOrigin(
        hub_id,
        _text(data.get("license")),
        _text(data.get("license_name")),
        _text(data.get("license_link")),
        _texts(data.get("language")),
        _texts(data.get("tags")),
    )


def _from_hub(hub_id: str) -> str:
    """The file of a card on the hub.

    It is asked first whether it is there: a download that finds no hub tries again for half a minute, which nobody who
    works offline should wait for at the end of a run.
    """
    kept = try_to_load_from_cache(hub_id, REPOCARD_NAME)
    if isinstance(kept, str):
        return kept
    get_hf_file_metadata(hf_hub_url(hub_id, REPOCARD_NAME))
    return hf_hub_download(hub_id, REPOCARD_NAME)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()
