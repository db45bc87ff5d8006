"""Bringing a backup back into an empty system of either topology.

Everything is checked before anything is changed: the card, every digest, the schema's revision, tables and columns,
and that the target is empty. Then blobs and adapters come first and all rows in one transaction, so what breaks off
leaves no half of a system; the index is filled last, from rows and kept vectors, and can always be made again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, select

from cli.backup.card import BLOB_LIST, KEY, SQLITE, Card, FirstCard, blob_path, entry_of, read_card, sha256_of
from cli.backup.places import opened
from cli.backup.points import load_vectors
from cli.backup.rows import check_schema, dump_rows, filled_tables, load_rows, schema_of
from cli.data_dir import LOCK_NAME
from core import audit
from core.blobs import is_digest, open_blobs
from core.database import Database, open_database
from core.errors import Conflict, InvalidInput, Unavailable
from core.migrate import current_revision, downgrade, known_revisions, upgrade
from core.repositories.blobs import named_blobs
from core.settings import Settings
from core.tables import IdempotencyRecord, Tenant
from core.tenants import DEFAULT_TENANT
from retrieval.stored import filled_indexes

PREPARED = frozenset({LOCK_NAME, "models", "logs"})
"""What may stand in a data dir that counts as empty."""

WORK = ".restore-"
"""Begins the names of work folders in a data dir; one is left behind when a restore is killed."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back."""

    card: Card
    rows: int
    blobs: int
    points: int
    """Points that the serving index holds now."""
    embedded: int
    """How many of them had to be embedded, as the backup has no vectors for them that fit."""


def bring_back(settings: Settings, place: str, *, with_vectors: bool, say: Say) -> Restored:
    """Restore a backup into the empty system that the settings name.

    Raises:
        Conflict: `target_not_empty`.
        InvalidInput: `backup_unreadable`, `backup_damaged`, `backup_newer`, `backup_schema_unknown`,
            `backup_rows_refused`. Nothing was changed.
        Unavailable: the place, the database or the blobs do not answer; nothing was changed. Or the index does not:
            `detail` says then that the rest is restored.
    """
    require_empty(settings)
    with tempfile.TemporaryDirectory(dir=settings.data_dir, prefix=WORK) as work:
        unpacked, staged = Path(work) / "unpacked", Path(work) / "staged"
        unpacked.mkdir()
        staged.mkdir()
        with opened(place, settings, unpacked) as folder:
            card = read_card(folder)
            say(f"backup of {card.created_at}, written by {card.version or 'an early version'}")
            digests = _verify(folder, card)
            tables = folder / "tables"
            if isinstance(card, FirstCard):
                tables = staged / "tables"
                card = _from_first(folder, tables, card, digests)
            _check_revision(card, staged)
            say(f"{len(card.files)} files and {len(digests)} blobs are whole")
            with open_target(settings) as db:
                rows, blobs = _load(settings, db, folder, tables, card, digests, say)
                try:
                    points, embedded = _fill_index(settings, db, folder, card if with_vectors else None, say)
                except Unavailable as error:  # the rest is whole: nothing is taken back for what can be made again
                    raise Unavailable(
                        f"everything is restored but the index: {error.detail}; `tsumugi doctor --repair` fills it",
                        code=error.code,
                        retryable=error.retryable,
                    ) from error
    return Restored(card, rows, blobs, points, embedded)


def require_empty(settings: Settings) -> None:
    """Refuse a system that holds something.

    Raises:
        Conflict: `target_not_empty`; `detail` says what.
    """
    found = []
    if settings.database_url.startswith("sqlite"):
        # The data dir as a whole: there is no service beside it whose files these could be.
        found = sorted(
            path.name
            for path in settings.data_dir.iterdir()
            if path.name not in PREPARED and not path.name.startswith(WORK) and _holds_files(path)
        )
    else:
        with open_target(settings) as db:
            found += [f"rows in '{name}'" for name in filled_tables(db)]
        found += [path.name for path in (settings.adapters_dir, settings.admin_key_file) if _holds_files(path)]
    if settings.blobs.store == "s3" or _holds_files(settings.blobs_dir):
        found += [f"blob {digest[:12]}" for digest, _ in _first(open_blobs(settings).list())]
    if settings.retrieval.index == "qdrant":
        found += [f"points in '{name}'" for name in filled_indexes(settings)]
    if found:
        raise Conflict(
            f"the system is not empty ({', '.join(found[:5])}); restore into a new one", code="target_not_empty"
        )


@contextmanager
def open_target(settings: Settings) -> Iterator[Database]:
    """The database of the settings."""
    db = open_database(settings)
    try:
        yield db
    finally:
        db.close()


def _verify(folder: Path, card: Card | FirstCard) -> list[str]:
    """Compare every file with its digest; returns the digests of the blobs."""
    for name, entry in card.files.items():
        path = folder / name
        digest = entry if isinstance(entry, str) else entry.sha256
        if path.is_symlink() or not path.is_file() or sha256_of(path) != digest:
            raise InvalidInput(f"'{name}' is missing or damaged; nothing was restored", code="backup_damaged")
    if isinstance(card, FirstCard):
        parts = (Path(name).parts for name in card.files if name.startswith("blobs/"))
        return ["".join(one[1:]) for one in parts]
    if BLOB_LIST not in card.files or {f"tables/{name}.jsonl" for name in card.tables} - set(card.files):
        raise InvalidInput("the card names not all of its files; nothing was restored", code="backup_damaged")
    digests = (folder / BLOB_LIST).read_text("ascii", errors="replace").split()
    for digest in digests:
        path = folder / blob_path(digest)
        if not is_digest(digest) or path.is_symlink() or not path.is_file() or sha256_of(path) != digest:
            raise InvalidInput(
                f"blob '{digest[:64]}' is missing or damaged; nothing was restored", code="backup_damaged"
            )
    return digests


def _from_first(folder: Path, tables: Path, card: FirstCard, digests: list[str]) -> Card:
    """What format 1 holds, as format 2 would say it: the rows of its SQLite file, and no vectors."""
    if SQLITE not in card.files:
        raise InvalidInput("the archive holds no database", code="backup_damaged")
    tables.mkdir()
    copy = shutil.copyfile(folder / SQLITE, tables.parent / SQLITE)
    db = Database(f"sqlite:///{copy}")
    try:
        revision = current_revision(db)
        with db.read() as session:
            found = dump_rows(session, tables)
    finally:
        db.close()
    return Card(
        version=card.version,
        created_at=card.created_at,
        revision=revision or "",
        topology="embedded",
        tables=found,
        files={name: entry_of(folder / name) for name in card.files if not name.startswith("blobs/")},
        blob_count=len(digests),
        blob_bytes=0,
        missing=[],
        points={},
    )


def _check_revision(card: Card, work: Path) -> None:
    """Whether this code can load the rows, tried against an empty schema of the backup's revision."""
    if card.revision not in known_revisions():
        raise InvalidInput(
            f"the backup's database is at revision '{card.revision}', which this version does not know; "
            "restore it with the version that wrote it, or a newer one",
            code="backup_newer",
        )
    db = Database(f"sqlite:///{work / 'schema.sqlite3'}")
    try:
        upgrade(db, card.revision)
        check_schema(card.tables, schema_of(db.engine))
    finally:
        db.close()


def _load(
    settings: Settings, db: Database, folder: Path, tables: Path, card: Card, digests: list[str], say: Say
) -> tuple[int, int]:
    """Blobs, adapters and rows; what was written is taken back when something fails."""
    store = open_blobs(settings)
    with ExitStack() as undo:
        if db.is_sqlite:
            undo.callback(_drop_sqlite, db, settings)
        revision = current_revision(db)
        if revision not in {None, card.revision}:
            downgrade(db, "base")  # an empty schema of another revision
        upgrade(db, card.revision)
        for done, digest in enumerate(digests, start=1):
            store.put_file(folder / blob_path(digest))
            undo.callback(store.delete, digest)
            if done % 1000 == 0:
                say(f"{done} of {len(digests)} blobs")
        for name in card.files:
            if name.startswith("adapters/") or name == KEY:
                _place(folder / name, settings.data_dir / name, undo)
        rows = load_rows(db, card.tables, tables)
        undo.pop_all()
    upgrade(db)
    say(f"{rows} rows loaded")
    kept = _settle(settings, db, card)
    for digest in set(digests) - kept:  # copied for an earlier snapshot than the one whose rows these are
        store.delete(digest)
    return rows, len(kept & set(digests))


def _settle(settings: Settings, db: Database, card: Card) -> set[str]:
    """What ran when the backup was taken runs no more; returns the blobs that rows name."""
    from core.jobs import JobStore
    from core.repositories.documents import follow_jobs

    jobs = JobStore(db, settings, None)
    follow_jobs(jobs)
    jobs.recover_orphans()
    with db.read() as session:
        tenant = session.scalars(select(Tenant.id).where(Tenant.name == DEFAULT_TENANT)).first()
    with db.write() as session:
        # A request that was being answered will never be: its key must not stay taken.
        session.execute(delete(IdempotencyRecord).where(IdempotencyRecord.status.is_(None)))
        if tenant is not None:
            audit.record(
                session,
                tenant_id=tenant,
                actor=audit.SYSTEM,
                action="system.restore",
                detail={"created_at": card.created_at, "revision": card.revision, "topology": card.topology},
            )
    with db.read() as session:
        return {digest for digest, _ in named_blobs(session)}


def _fill_index(settings: Settings, db: Database, folder: Path, card: Card | None, say: Say) -> tuple[int, int]:
    """Kept vectors first, then what is missing by embedding it; (points of the serving version, embedded ones)."""
    from ingest.build import build_ingest
    from ingest.vectors import passage_vectors
    from retrieval.build import build_retrieval
    from retrieval.reconcile import reconcile

    retrieval = build_retrieval(settings, db)
    try:
        for version in retrieval.live() if card is not None else ():
            path = folder / "index" / f"{version.id}.jsonl"
            if card is not None and f"index/{version.id}.jsonl" in card.files:
                say(f"{load_vectors(db, version, path)} points of index version {version.id} loaded")
        report = reconcile(db, retrieval, repair=True, embed=passage_vectors)
        if report.missing:
            say(f"{len(report.missing)} points embedded")
        from core.jobs import JobStore

        ingest = build_ingest(settings, db, open_blobs(settings), JobStore(db, settings, None), retrieval)
        try:
            if ingest.builder.lacks(retrieval.active):
                say("this system makes another index than the backup's: building it")
                ingest.builder.fill(retrieval.active, lambda done: say(f"{done:.0%} of the documents"))
        finally:
            ingest.close()
        retrieval.index.flush()
        return retrieval.count(), len(report.missing)
    finally:
        retrieval.close()


def _place(source: Path, target: Path, undo: ExitStack) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    undo.callback(target.unlink, missing_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o600)


def _drop_sqlite(db: Database, settings: Settings) -> None:
    db.close()
    for path in settings.data_dir.glob(f"{SQLITE}*"):
        path.unlink()


def _holds_files(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(one.is_file() for one in path.rglob("*")))


def _first(found: Iterator[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    for one in found:
        yield one
        return
