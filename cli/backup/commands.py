"""The two commands. Which topology they work on is what the settings say: a PostgreSQL URL means the server's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cli.client import Client
from cli.data_dir import exclusive, running_service
from cli.output import CommandFailed, DataDirOption, JsonOption, console, errors, print_json
from core.errors import DataDirBusy
from core.settings import Settings, load_settings

DATABASE = "tsumugi.sqlite3"

VectorsOption = Annotated[
    bool, typer.Option("--vectors/--no-vectors", help="With the index's vectors, so that a restore need not embed.")
]


def backup(
    place: Annotated[str, typer.Argument(help="A .tar or .tar.gz to write, a new folder, or s3://BUCKET/PREFIX.")],
    vectors: VectorsOption = True,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Write everything that cannot be made again to one place. The service may run meanwhile.

    While an embedded service runs, it owns the index and is asked for the vectors. The backup holds the admin key and
    all documents: keep it as you keep them.
    """
    from cli.backup.take import DumpVectors, from_index, from_service, take_backup

    settings = _settings(data_dir)
    if settings.database_url.startswith("sqlite") and not (settings.data_dir / DATABASE).is_file():
        raise CommandFailed(f"{settings.data_dir} holds no database of ours", exit_code=2)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    started = time.monotonic()
    with _owning(settings) as alone:
        dump: DumpVectors | None = None
        client = None if alone or not vectors else _service(settings)
        if vectors and alone:
            dump = from_index(settings)
        elif client is not None:
            dump = from_service(client)
        elif vectors:
            errors.print("the running service cannot be asked for its vectors: left out, a restore embeds")
        card = take_backup(settings, place, vectors=dump, say=_say)
    seconds = time.monotonic() - started
    if card.missing:
        errors.print(f"{len(card.missing)} blobs that rows name are gone or damaged: run `tsumugi doctor`")
    size = card.blob_bytes + sum(entry.bytes for entry in card.files.values())
    rows = sum(entry.rows for entry in card.tables.values())
    if json_output:
        whole = card.model_dump(exclude={"files", "tables"})
        print_json({"place": place, **whole, "rows": rows, "bytes": size, "seconds": round(seconds, 2)})
    else:
        console.print(
            f"{place}: {rows} rows, {card.blob_count} blobs, {sum(card.points.values())} points, "
            f"{size / 2**20:.1f} MiB in {seconds:.1f} s",
            markup=False,
        )


def restore(
    place: Annotated[str, typer.Argument(help="What backup wrote: a file, a folder, or s3://BUCKET/PREFIX.")],
    vectors: VectorsOption = True,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Bring a backup back into an empty system, of this or the other topology, and fill its index.

    The target is what the settings name: a data dir, or database, blobs and index of a server. It must be stopped.
    """
    from cli.backup.bring import bring_back
    from core.log import configure

    configure("WARNING")
    settings = _settings(data_dir)
    started = time.monotonic()
    with exclusive(settings.data_dir, "tsumugi restore"):
        done = bring_back(settings, place, with_vectors=vectors, say=_say)
    seconds = time.monotonic() - started
    if json_output:
        counts = {"rows": done.rows, "blobs": done.blobs, "points": done.points, "embedded": done.embedded}
        print_json(
            {
                "data_dir": str(settings.data_dir), **counts, "created_at": done.card.created_at,
                "missing": done.card.missing, "seconds": round(seconds, 2),
            }
        )  # fmt: skip
    else:
        console.print(
            f"{settings.data_dir}: {done.rows} rows and {done.blobs} blobs of {done.card.created_at}, {done.points} "
            f"points indexed, {done.embedded} of them embedded anew, in {seconds:.1f} s",
            markup=False,
        )


@contextmanager
def _owning(settings: Settings) -> Iterator[bool]:
    """Own what only one process may read; False where an embedded service runs and owns it.

    A server's parts may all be read beside its processes.
    """
    if not settings.database_url.startswith("sqlite"):
        yield True
        return
    lock = exclusive(settings.data_dir, "tsumugi backup")
    try:
        lock.__enter__()
    except DataDirBusy as error:
        if error.extra.get("purpose") != "tsumugi up":
            raise  # a restore or a repair: what it writes is not whole yet
        yield False
        return
    try:
        yield True
    finally:
        lock.__exit__(None, None, None)


def _service(settings: Settings) -> Client | None:
    """A client of the service that runs on the data dir; None while it starts, or where its key file was moved."""
    note = running_service(settings.data_dir)
    if note is None or not settings.admin_key_file.is_file():
        return None
    return Client(note.url, settings.admin_key_file.read_text(encoding="ascii").strip())


def _settings(data_dir: Path | None) -> Settings:
    return load_settings(**({"data_dir": data_dir} if data_dir is not None else {}))


def _say(line: str) -> None:
    errors.print(line, markup=False, soft_wrap=True, style="dim")
