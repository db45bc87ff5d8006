"""The card of a backup: what it holds, by digest. Written last, so a place without one holds no backup.

Everything here comes from outside when a backup is read: names are matched, never joined as they are.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import InvalidInput

FORMAT = 2
CARD = "backup.json"
MAX_CARD_BYTES = 64 * 2**20
"""It names tables and files of adapters: some hundred bytes each."""
BLOB_LIST = "blobs.txt"
"""Digests of all blobs, one a line, sorted: the card stays small however many there are."""
KEY = "admin.key"
SQLITE = "tsumugi.sqlite3"
"""The database in a backup of format 1."""

_DIGEST = r"[0-9a-f]{64}"
_PART = r"(?!\.{1,2}(?:/|$))[^/\\\x00-\x1f]{1,200}"
"""One name in an adapter's folder: whatever its maker called it, but no step up."""
FILE_NAME = re.compile(
    rf"(tables/[a-z][a-z0-9_]{{0,62}}\.jsonl|index/[0-9a-f]{{16}}\.jsonl|blobs\.txt|admin\.key|tsumugi\.sqlite3"
    rf"|adapters/{_DIGEST}(/{_PART}){{1,4}})"
)
BLOB_NAME = re.compile(r"blobs/[0-9a-f]{2}/[0-9a-f]{62}")


class Strict(BaseModel):
    """Nothing but what is named."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(Strict):
    """One file: its digest and size."""

    sha256: str = Field(pattern=f"^{_DIGEST}$")
    bytes: int = Field(ge=0)


class TableEntry(Strict):
    """One table: the columns of its rows, in their order."""

    columns: list[str] = Field(min_length=1, max_length=200)
    rows: int = Field(ge=0)


class Card(Strict):
    """What a backup holds."""

    format: Literal[2] = 2
    version: str = Field(max_length=100)
    """Of the program that wrote it."""
    created_at: str = Field(max_length=40)
    revision: str = Field(max_length=100)
    """Of the database's schema."""
    topology: Literal["embedded", "server"]
    tables: dict[str, TableEntry] = Field(max_length=500)
    files: dict[str, FileEntry]
    """Every file but the blobs."""
    blob_count: int = Field(ge=0)
    blob_bytes: int = Field(ge=0)
    missing: list[str]
    """Blobs that rows name and that were gone or damaged when the backup was taken."""
    points: dict[str, int]
    """{index version: points whose vectors are kept}."""


class FirstCard(BaseModel):
    """The card of format 1, an archive of a data dir's files."""

    format: Literal[1]
    version: str = ""
    created_at: str
    files: dict[str, str]


def read_card(folder: Path) -> Card | FirstCard:
    """The card of a backup in a folder.

    Raises:
        InvalidInput: `backup_unreadable`: there is none, or it is none of ours; `backup_newer`: a later format.
    """
    path = folder / CARD
    try:
        if path.is_symlink() or path.stat().st_size > MAX_CARD_BYTES:
            raise InvalidInput("the backup's card is none of ours", code="backup_unreadable")
        text = path.read_bytes()
        number = _Format.model_validate_json(text).format
        if number > FORMAT:
            raise InvalidInput(f"the backup has format {number}; this version reads {FORMAT}", code="backup_newer")
        card = (Card if number == FORMAT else FirstCard).model_validate_json(text)
    except (OSError, ValidationError) as error:
        raise InvalidInput(f"there is no backup of ours: {error}", code="backup_unreadable") from error
    for name in card.files:
        if not (FILE_NAME.fullmatch(name) or (number == 1 and BLOB_NAME.fullmatch(name))):
            raise InvalidInput(f"the backup names a file '{name[:100]}'", code="backup_unreadable")
    return card


class _Format(BaseModel):
    format: int


def blob_path(digest: str) -> str:
    """Name of a blob in a backup."""
    return f"blobs/{digest[:2]}/{digest[2:]}"


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def entry_of(path: Path) -> FileEntry:
    """Digest and size of a file."""
    return FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)
