"""Where a model comes from: its id on the hub, and the licence and tags that its own card gives.

Nothing is guessed: what no card says is unknown. Knows names and cards; reads no weights.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from crispr_lm.model.load import BUILTIN

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
        readme = (path if path.is_dir() else path.parent) / "README.md"
        return _of_card(readme, None) if readme.is_file() else ModelOrigin()
    return _of_card(name, name)


def _of_card(source: str | Path, hub_id: str | None) -> ModelOrigin:
    try:
        data = ModelCard.load(source, ignore_metadata_errors=True).data
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


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()
