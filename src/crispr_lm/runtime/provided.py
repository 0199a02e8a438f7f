"""Functions of higher layers that a lower one calls without knowing them.

An edit is saved with its card, and cards stand above edits; a task is made of rows, which are read into tasks. The
package's root, which knows all layers, says where such a function is; it is imported when it is first called.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

_places: dict[str, tuple[str, str]] = {}


def provide(name: str, module: str, function: str) -> None:
    """Say where a function is.

    Args:
        name: That lower layers call it by.
        module: It is in, imported when it is first called.
        function: Its name there.
    """
    _places[name] = (module, function)


def provided(name: str) -> Callable[..., Any]:
    """The function of this name."""
    module, function = _places[name]
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found
