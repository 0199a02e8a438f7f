"""The Hugging Face hub: a folder is uploaded, an edit is fetched. Everything goes through ``huggingface_hub``.

The token is the library's own (``hf auth login`` or HF_TOKEN): it is never read, kept or printed here. Knows folders;
knows no model.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from crispr_lm.errors import CrisprError, InputError

EDIT = "edit.json"
"""Name of an edit in a folder or repository."""

EDIT_PREFIX = "hf:"
"""Before a repository's id, where a file's path would stand."""


@dataclass(frozen=True)
class Upload:
    """What goes where.

    Attributes:
        repository: Id on the hub.
        private: Whether only its owner sees it.
        files: Path in the repository and size in bytes of every file, by name.
        url: Where it is; None where nothing was uploaded.
    """

    repository: str
    private: bool
    files: tuple[tuple[str, int], ...]
    url: str | None = None


def check_upload(repository: str, *, dry_run: bool = False) -> None:
    """Check, before any long work, that something can be uploaded.

    Raises:
        InputError: no proper id; or, if not a dry run, no token or no connection.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"{repository!r} is no repository id; write OWNER/NAME") from error
    if "/" not in repository:
        raise InputError(f"{repository!r} names no owner; write OWNER/NAME")
    if dry_run:
        return
    try:
        HfApi().whoami()
    except Exception as error:  # no token, an invalid one, no connection: of many types
        raise InputError(
            f"can't upload to {repository}: the hub does not know who you are ({_one_line(error)}); log in with "
            "'hf auth login', or see what would be uploaded with --dry-run"
        ) from error


def upload(folder: Path, repository: str, *, private: bool = True, dry_run: bool = False, kept: bool = True) -> Upload:
    """Upload a folder, as a repository of models.

    Args:
        folder: What to upload; hidden files stay here.
        repository: Id; made if there is none.
        private: Of a new repository; one that exists stays as it is.
        dry_run: Only say what would be uploaded.
        kept: Whether the folder stays, so that the user can upload it.

    Raises:
        CrisprError: the hub refuses, or can't be reached.
    """
    files = tuple(
        (str(file.relative_to(folder)), file.stat().st_size)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    if dry_run:
        return Upload(repository, private, files)
    api = HfApi()
    try:
        url = api.create_repo(repository, private=private, exist_ok=True, repo_type="model")
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[name for name, _ in files],
            commit_message="Upload with crispr-lm",
        )
    except Exception as error:  # of many types
        failed = f"the upload to {repository} failed ({_one_line(error)}); try it again"
        if kept:
            failed = f"{folder} is complete, but {failed} with {shlex.join(['hf', 'upload', repository, str(folder)])}"
        raise CrisprError(failed) from error
    return Upload(repository, private, files, str(url))


def local_edit(source: Path) -> Path:
    """The file of an edit: as given, or fetched from the hub for ``hf:OWNER/NAME``.

    Raises:
        InputError: the repository has no edit, or can't be reached.
    """
    text = str(source)
    if not text.startswith(EDIT_PREFIX):
        return source
    return _from_hub(text.removeprefix(EDIT_PREFIX))


def edit_file(source: str | Path) -> Path:
    """The file of an edit: itself, the one in a folder, or fetched from the hub where nothing of this name is here.

    Raises:
        InputError: there is none; or the repository has no edit, or can't be reached.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / EDIT).is_file():
            raise InputError(f"folder {path} holds no {EDIT}; give a folder of Edit.save_pretrained, or of a run")
        return path / EDIT
    if path.exists() or path.suffix == ".json":  # of one that is missing `Edit.load` says so
        return path
    try:
        return _from_hub(str(source).removeprefix(EDIT_PREFIX))
    except InputError as error:
        raise InputError(f"edit {source}: no such file or folder here, and {error}") from error


def _from_hub(repository: str) -> Path:
    try:
        return Path(hf_hub_download(repository, EDIT))
    except Exception as error:  # of many types
        raise InputError(f"no {EDIT} can be had from {repository} on the hub ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
