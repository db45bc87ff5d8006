"""Where a model's files are, and what they are: a folder, or a name on the Hugging Face hub; and their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from core.errors import Unavailable


def find_checkpoint(model: str, patterns: Sequence[str]) -> Path:
    """Folder of a model: `model` itself when it is one, else the hub's local copy, fetched where that is allowed.

    patterns: files that are wanted; no code is ever among them.

    Raises:
        Unavailable: `embedder_not_found`: neither there nor to be had (`HF_HUB_OFFLINE` forbids fetching).
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise Unavailable(f"there is no model folder '{model}'", code="embedder_not_found", retryable=False)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=list(patterns)))
    except Exception as error:
        raise Unavailable(
            f"the model '{model}' is not in the local cache and cannot be fetched ({type(error).__name__}); give the"
            " path of a folder with its files",
            code="embedder_not_found",
            retryable=False,
        ) from error


def digest_of(folder: Path, names: Sequence[str], *more: str) -> str:
    """sha256 over the named files that are there, with their names, and over what else changes the vectors."""
    digest = hashlib.sha256()
    for part in more:
        digest.update(part.encode() + b"\0")
    for name in names:
        path = folder / name
        if path.is_file():
            digest.update(name.encode() + b"\0")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def digest_text(*parts: str) -> str:
    """sha256 over some texts, each of them ended by a zero."""
    return hashlib.sha256(b"".join(part.encode() + b"\0" for part in parts)).hexdigest()
