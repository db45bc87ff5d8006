"""Taking a backup of a system that may be busy.

Rows come from one snapshot. A blob is stored before any row names it, so whatever the snapshot names is there, unless
its document was replaced or deleted meanwhile. Then the snapshot is taken anew and only what is new since is copied, so
a busy system is caught up with after a few rounds. What is gone in two rounds was gone before, and is reported.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path

from sqlalchemy import select

from cli.backup.card import BLOB_LIST, CARD, KEY, Card, TableEntry, blob_path, entry_of
from cli.backup.places import Target, written
from cli.backup.points import dump_vectors
from cli.backup.rows import dump_rows
from cli.client import Client
from core.blobs import open_blobs
from core.database import Database, open_database
from core.errors import Conflict, NotFound, Unavailable
from core.migrate import current_revision, newest_revision
from core.ports import BlobStore
from core.repositories.blobs import named_blobs
from core.repositories.index_versions import live_versions
from core.settings import Settings
from core.tables import AdapterVersion, IndexVersion
from retrieval.stored import read_vectors

MAX_ROUNDS = 8

Say = Callable[[str], None]


@dataclass
class _Copied:
    """Blobs that the backup holds, and those that could not be had. Digests as bytes: half of what text takes."""

    held: set[bytes] = field(default_factory=set)
    gone: set[bytes] = field(default_factory=set)
    size: int = 0


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What the rows of one snapshot name."""

    tables: dict[str, TableEntry]
    blobs: set[bytes]
    adapters: list[str]
    versions: list[IndexVersion]


DumpVectors = Callable[[IndexVersion, Path], int]
"""Writes the vectors of an index version into a file; returns how many points."""


def from_index(settings: Settings) -> DumpVectors:
    """Vectors read from the index itself: a server's, or that of a data dir whose service is stopped."""
    return lambda row, path: dump_vectors(read_vectors(settings, row), path)


def from_service(client: Client) -> DumpVectors:
    """Vectors asked from the embedded service, which owns its index while it runs."""

    def dump(row: IndexVersion, path: Path) -> int:
        client.download(f"/v1/admin/index/{row.id}/vectors", path)
        with path.open("rb") as file:
            return sum(1 for _ in file)

    return dump


def take_backup(settings: Settings, place: str, *, vectors: DumpVectors | None, say: Say) -> Card:
    """Write a backup of the system that the settings name, whole or not at all; returns its card.

    vectors: None to leave them out; a restore embeds then.

    Raises:
        Conflict: `schema_outdated`: the database is not at the newest revision.
        InvalidInput, Unavailable: as `places.written`; the database, the blobs or the index do not answer.
    """
    db = open_database(settings)
    try:
        blobs = open_blobs(settings)
        revision = current_revision(db)
        if revision is None or revision != newest_revision():
            raise Conflict(
                f"the database is at revision {revision}, this version needs {newest_revision()}; start it once",
                code="schema_outdated",
            )
        with (
            tempfile.TemporaryDirectory(dir=settings.data_dir, prefix=".backup-") as folder,
            written(place, settings) as target,
        ):
            return _write(settings, db, blobs, Path(folder), target, revision, vectors, say)
    finally:
        db.close()


def _write(
    settings: Settings,
    db: Database,
    blobs: BlobStore,
    work: Path,
    target: Target,
    revision: str,
    vectors: DumpVectors | None,
    say: Say,
) -> Card:
    (work / "tables").mkdir()
    (work / "index").mkdir()
    copied = _Copied()
    for turn in range(1, MAX_ROUNDS + 1):
        snapshot = _snapshot(db, work / "tables")
        say(f"{sum(one.rows for one in snapshot.tables.values())} rows, {len(snapshot.blobs)} blobs named")
        lacking = _copy_blobs(blobs, snapshot.blobs, copied, target, work / "blob", say)
        if not lacking - copied.gone:
            break
        copied.gone |= lacking
        say(f"round {turn}: {len(lacking)} blobs went while they were copied; looking again")
    else:
        raise Unavailable(f"documents went faster than they were copied, {MAX_ROUNDS} times", code="backup_overtaken")
    missing = sorted(digest.hex() for digest in snapshot.blobs - copied.held)
    files = {f"tables/{name}.jsonl": work / "tables" / f"{name}.jsonl" for name in snapshot.tables}
    (work / BLOB_LIST).write_text("".join(f"{digest.hex()}\n" for digest in sorted(copied.held)), encoding="ascii")
    files[BLOB_LIST] = work / BLOB_LIST
    files |= dict(_adapters(settings, snapshot.adapters))
    if settings.admin_key_file.is_file():
        files[KEY] = settings.admin_key_file
    points: dict[str, int] = {}
    for row in snapshot.versions if vectors is not None else ():
        path = work / "index" / f"{row.id}.jsonl"
        points[row.id] = vectors(row, path) if vectors is not None else 0
        files[f"index/{row.id}.jsonl"] = path
        say(f"{points[row.id]} points of index version {row.id}")
    for name, path in files.items():
        target.add(name, path)
    card = Card(
        version=package_version("tsumugi"),
        created_at=datetime.now(UTC).isoformat(),
        revision=revision,
        topology="embedded" if db.is_sqlite else "server",
        tables=snapshot.tables,
        files={name: entry_of(path) for name, path in files.items()},
        blob_count=len(copied.held),
        blob_bytes=copied.size,
        missing=missing,
        points=points,
    )
    (work / CARD).write_text(card.model_dump_json(indent=2), encoding="utf-8")
    target.add(CARD, work / CARD)  # last: a place without it holds no backup
    return card


def _snapshot(db: Database, folder: Path) -> _Snapshot:
    with db.read() as session:
        tables = dump_rows(session, folder)
        named = {bytes.fromhex(digest) for digest, _ in named_blobs(session)}
        adapters = [version.digest for version in session.scalars(select(AdapterVersion).order_by(AdapterVersion.id))]
        return _Snapshot(tables, named, adapters, list(live_versions(session)))


def _copy_blobs(
    blobs: BlobStore, named: set[bytes], copied: _Copied, target: Target, staged: Path, say: Say
) -> set[bytes]:
    """Copy what is named and not yet held; returns what could not be had."""
    lacking = set()
    for done, digest in enumerate(sorted(named - copied.held), start=1):
        try:
            size = blobs.copy_to(digest.hex(), staged)
        except NotFound:
            lacking.add(digest)
            continue
        except Unavailable as error:
            if error.code != "blob_damaged":
                raise
            lacking.add(digest)
            continue
        target.add(blob_path(digest.hex()), staged)
        copied.held.add(digest)
        copied.size += size
        if done % 1000 == 0:
            say(f"{len(copied.held)} of {len(named)} blobs, {copied.size / 2**20:.0f} MiB")
    staged.unlink(missing_ok=True)
    return lacking


def _adapters(settings: Settings, digests: list[str]) -> Iterator[tuple[str, Path]]:
    for digest in dict.fromkeys(digests):
        for path in sorted((settings.adapters_dir / digest).rglob("*")):
            if path.is_file():
                yield f"adapters/{digest}/{path.relative_to(settings.adapters_dir / digest).as_posix()}", path
