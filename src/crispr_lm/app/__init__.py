"""Trying an edit: a chat in the terminal, a local page. All method and all figures come from the library."""

from __future__ import annotations

from importlib.util import find_spec

from crispr_lm.errors import InputError


def check_installed() -> None:
    """Check that the page can be made.

    Raises:
        InputError: the extra is not installed.
    """
    if find_spec("gradio") is None:
        raise InputError("the page needs gradio, which is not installed; install it with pip install 'crispr-lm[app]'")
