"""`tsumugi doctor`: is a system whole, and can it be made whole again? For a stopped service of either topology."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Annotated

import structlog
import typer
from rich.markup import escape

from cli.data_dir import exclusive
from cli.output import CommandFailed, DataDirOption, JsonOption, console, print_json, print_rows
from core.errors import DataDirBusy
from core.settings import Settings, load_settings

if TYPE_CHECKING:
    from cli.checkup import Examination, Finding
    from core.database import Database
    from generation.models import BaseModelInfo

log = structlog.stdlib.get_logger(__name__)


def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended, then look again.")] = False,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Check database, documents, blobs, index, adapters and jobs against each other. The service must be stopped.

    Exit 0 when nothing is wrong (any more), 1 when something is. Documents that --repair queues are ingested again by
    the next start. With a PostgreSQL URL in the settings it is the server topology that is looked at.
    """
    settings = load_settings(**({"data_dir": data_dir} if data_dir is not None else {}))
    embedded = settings.database_url.startswith("sqlite")
    if embedded and not (settings.data_dir / "tsumugi.sqlite3").is_file():
        raise CommandFailed(f"{settings.data_dir} holds no database of ours", exit_code=2)
    from core.log import configure

    configure("WARNING")
    with exclusive(settings.data_dir, "tsumugi doctor"):
        found, mended = examine(settings, repair=repair)
    left = [finding for finding in found if finding not in mended]
    if json_output:
        rows = [
            {"check": f.check, "object": f.object_id, "problem": f.problem, "repairable": f.repair is not None}
            for f in found
        ]
        for row, finding in zip(rows, found, strict=True):
            row["repaired"] = finding in mended
        print_json({"ok": not left, "problems": rows, "left": len(left)})
    else:
        _print(found, mended)
    if left:
        raise CommandFailed()


def examine(settings: Settings, *, repair: bool) -> tuple[Sequence[Finding], Sequence[Finding]]:
    """All findings, and those of them that are mended now. The caller holds the data dir's lock."""
    from cli.checkup import BROKEN, finding_of, told
    from cli.checkup.adapters import check_adapters, check_aliases
    from cli.checkup.documents import check_blobs, check_deletions, check_generations
    from cli.checkup.service import (
        check_collections,
        check_database,
        check_folders,
        check_index,
        check_jobs,
        check_leftovers,
        check_recall,
        check_tenant_shards,
        connected_processes,
    )
    from core.database import open_database

    checks = (
        *(check_jobs, check_deletions, check_generations, check_blobs),
        *(check_tenant_shards, check_index, check_collections, check_recall),
        *(check_adapters, check_aliases, check_leftovers),
    )
    db = open_database(settings)
    try:
        others = 0 if db.is_sqlite else connected_processes(db)
        if others and repair:
            job_id = _queue_index_repair(settings, db)
            raise CommandFailed(
                f"{others} connections of our processes to the database: job '{job_id}' mends the index while they run;"
                " stop them first for everything else",
                exit_code=2,
            )
        if others:
            raise CommandFailed(f"{others} connections of our processes to the database: stop them first", exit_code=2)
        broken = [*told(check_folders, settings), *told(check_database, db)]
        mended = [finding for finding in broken if repair and _mend(finding)]
        if any(finding not in mended for finding in broken):
            return broken, mended  # nothing else can be trusted
        try:
            with _opened(settings, db) as examination:
                found = [finding for check in checks for finding in told(check, examination)]
                if not repair:
                    return [*broken, *found], mended
                for check in checks:  # one after the other: mending rows changes what the index should hold
                    for finding in told(check, examination):
                        _mend(finding)
                still = {(f.check, f.object_id, f.problem) for check in checks for f in told(check, examination)}
                mended += [f for f in found if (f.check, f.object_id, f.problem) not in still]
                return [*broken, *found], mended
        except DataDirBusy:
            raise
        except BROKEN as error:  # index or models, which everything else is compared with, cannot be opened
            return [*broken, finding_of("index", error)], mended
    finally:
        db.close()


def _queue_index_repair(settings: Settings, db: Database) -> str:
    """Queue the job that compares the serving index with the database and mends it; its id."""
    from core.jobs import JobStore
    from core.keys import default_tenant_id
    from core.repositories.index_versions import active_version
    from core.types import JobKind

    jobs = JobStore(db, settings, None)  # the clock of the running service sends its message
    tenant_id = default_tenant_id(db)
    with db.write() as session:
        serving = active_version(session)
        if serving is None:
            raise CommandFailed("no index version serves", exit_code=2)
        return jobs.create(session, tenant_id=tenant_id, kind=JobKind.INDEX, subject_id=serving.id, priority=3).id


@contextmanager
def _opened(settings: Settings, db: Database) -> Iterator[Examination]:
    from cli.checkup import Examination
    from core.blobs import open_blobs
    from core.jobs import JobStore
    from core.repositories.documents import follow_jobs
    from generation.build import build_base, remote_base
    from retrieval.build import build_retrieval

    retrieval = build_retrieval(settings, db)
    try:
        blobs = open_blobs(settings)
        jobs = JobStore(db, settings, None)
        follow_jobs(jobs)  # a document's status follows the jobs that repairs move

        @cache
        def base() -> BaseModelInfo | None:
            if settings.generation.engine == "transformers":
                return build_base(settings)
            return remote_base(settings) if settings.generation.engine == "vllm" else None

        yield Examination(settings, db, blobs, jobs, retrieval, base)
    finally:
        retrieval.close()


def _mend(finding: Finding) -> bool:
    from cli.checkup import BROKEN

    if finding.repair is None:
        return False
    try:
        finding.repair()
    except BROKEN as error:
        log.warning("doctor.not_mended", check=finding.check, object=finding.object_id, error=str(error))
        return False
    return True


def _print(found: Sequence[Finding], mended: Sequence[Finding]) -> None:
    if not found:
        console.print("[green]nothing is wrong[/green]")
        return
    rows = [
        {
            "check": finding.check,
            "object": finding.object_id,
            "problem": finding.problem,
            "state": "mended" if finding in mended else "can be mended" if finding.repair else "needs you",
        }
        for finding in found
    ]
    print_rows(rows, ["check", "object", "problem", "state"], empty="")
    left = len(found) - len(mended)
    hint = "; run again with --repair" if not mended and any(finding.repair for finding in found) else ""
    console.print(escape(f"{len(found)} found, {len(mended)} mended, {left} left{hint}"))
