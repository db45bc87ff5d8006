"""`tsumugi backup` and `tsumugi restore`: one archive of everything that cannot be made again.

In it: the database, blobs, adapters and the admin key. Not in it: the index (built anew from stored chunks), the
prepared base model, the broker's file and work folders of tuning runs.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.data_dir import LOCK_NAME, exclusive
from cli.output import CommandFailed, DataDirOption, JsonOption, console, print_json
from core.errors import InvalidInput
from core.settings import Settings, load_settings

FORMAT = 1
CARD = "backup.json"
DATABASE = "tsumugi.sqlite3"
FOLDERS = ("blobs", "adapters")
KEY = "admin.key"


def backup(
    archive: Annotated[Path, typer.Argument(help="File to write: .tar, or .tar.gz to compress.", dir_okay=False)],
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Write everything that cannot be made again into one archive. The service must be stopped.

    The archive holds the admin key and all documents: keep it as you keep them.
    """
    settings = load_settings(**({"data_dir": data_dir} if data_dir is not None else {}))
    if not (settings.data_dir / DATABASE).is_file():
        raise CommandFailed(f"{settings.data_dir} holds no database of ours", exit_code=2)
    with exclusive(settings.data_dir, "tsumugi backup"):
        card = write_archive(settings, archive)
    if json_output:
        print_json({"archive": str(archive), **card})
    else:
        console.print(f"{archive}: {len(card['files'])} files, {archive.stat().st_size / 2**20:.1f} MiB")


def restore(
    archive: Annotated[Path, typer.Argument(help="An archive written by backup.", exists=True, dir_okay=False)],
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Bring an archive back into an empty data dir and build the index from it."""
    settings = load_settings(**({"data_dir": data_dir} if data_dir is not None else {}))
    with exclusive(settings.data_dir, "tsumugi restore"):
        card = read_archive(archive, settings.data_dir)
        points = _build_index(settings)
    if json_output:
        print_json({"data_dir": str(settings.data_dir), "points": points, "created_at": card["created_at"]})
    else:
        console.print(
            f"{settings.data_dir}: {len(card['files'])} files of {card['created_at']}, {points} points indexed"
        )


def write_archive(settings: Settings, archive: Path) -> dict[str, Any]:
    """Write the archive, whole or not at all; returns its card. The caller holds the data dir's lock."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=archive.parent, prefix=f".{archive.name}.")  # mode 0600
    os.close(handle)
    try:
        with tempfile.TemporaryDirectory(dir=settings.data_dir, prefix=".backup-") as work:
            copy = Path(work) / DATABASE
            _copy_database(settings.data_dir / DATABASE, copy)
            files = {DATABASE: copy, **dict(_files(settings.data_dir))}
            card = {
                "format": FORMAT,
                "version": package_version("tsumugi"),
                "created_at": datetime.now(UTC).isoformat(),
                "files": {name: _sha256(path) for name, path in files.items()},
            }
            with tarfile.open(temporary, "w:gz" if archive.suffix in {".gz", ".tgz"} else "w") as tar:
                data = json.dumps(card, indent=2).encode()
                entry = tarfile.TarInfo(CARD)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
                for name, path in files.items():
                    tar.add(path, arcname=name, recursive=False)
        Path(temporary).replace(archive)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return card


def read_archive(archive: Path, data_dir: Path) -> dict[str, Any]:
    """Unpack into an empty data dir, every file checked by its digest before any takes its place; returns the card.

    Raises:
        InvalidInput: the data dir is in use, or the archive is not one of ours or damaged.
    """
    present = [path.name for path in data_dir.iterdir() if path.name not in {LOCK_NAME, "models", "logs"}]
    if present:
        raise InvalidInput(f"{data_dir} is not empty ({', '.join(sorted(present)[:5])}); restore into a new one")
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".restore-") as work:
        folder = Path(work)
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
            card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
        except (tarfile.TarError, OSError, ValueError) as error:
            raise InvalidInput(f"{archive} is no readable archive of ours: {error}") from error
        if card.get("format") != FORMAT:
            raise InvalidInput(f"{archive} has format {card.get('format')}; this version reads {FORMAT}")
        for name, digest in card["files"].items():
            path = folder / name
            if not path.is_file() or _sha256(path) != digest:
                raise InvalidInput(f"{archive}: {name} is missing or damaged; nothing was restored")
        for name in (*FOLDERS, KEY, DATABASE):  # the database last: without it the data dir counts as empty
            if (folder / name).exists():
                (folder / name).replace(data_dir / name)
    return card


def _build_index(settings: Settings) -> int:
    from core.database import Database
    from core.migrate import upgrade
    from ingest.vectors import passage_vectors
    from retrieval.build import build_retrieval
    from retrieval.reconcile import reconcile

    db = Database(settings.database_url, busy_timeout_s=settings.database.busy_timeout_s)
    try:
        upgrade(db)
        retrieval = build_retrieval(settings, db)
        try:
            reconcile(db, retrieval, repair=True, embed=passage_vectors)
            return retrieval.index.count()
        finally:
            retrieval.close()
    finally:
        db.close()


def _files(data_dir: Path) -> Iterator[tuple[str, Path]]:
    for folder in FOLDERS:
        for path in sorted((data_dir / folder).rglob("*")):
            relative = path.relative_to(data_dir)
            if path.is_file() and not any(part.startswith(".") for part in relative.parts):
                yield relative.as_posix(), path
    if (data_dir / KEY).is_file():
        yield KEY, data_dir / KEY


def _copy_database(source: Path, target: Path) -> None:
    reader, writer = sqlite3.connect(source), sqlite3.connect(target)
    try:
        reader.backup(writer)  # takes the write-ahead log along
    finally:
        writer.close()
        reader.close()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
