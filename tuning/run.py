"""What the stages of a tuning run need of it, and the folder that its files lie in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.access import Principal, in_the_name_of
from core.database import Database
from core.errors import NotFound
from core.jobs import JobLease
from core.ports import BlobStore
from core.tables.adapters import AdapterFamily
from core.tables.tuning import TuningRun
from tuning.chain import Parent, load_parent
from tuning.child import ChildFailed
from tuning.prepare import BUNDLE


@dataclass(frozen=True, slots=True)
class Run:
    """A run, read once per attempt."""

    id: str
    tenant_id: str
    family_id: str
    family: str
    recipe: Mapping[str, Any]
    dataset_ids: list[str]
    dataset_version: str | None
    parent: Parent | None
    progress: Mapping[str, Any]
    loss_curve: list[dict[str, Any]]
    adapter_version_id: str | None
    reader: Principal
    """Whose rows it may take."""


def load_run(db: Database, lease: JobLease) -> Run:
    """The run that a job works on.

    Raises:
        NotFound: there is none in the tenant of the job.
    """
    with db.read() as session:
        run = session.get(TuningRun, lease.subject_id)
        if run is None or run.tenant_id != lease.tenant_id:
            raise NotFound(f"no tuning run '{lease.subject_id}'")
        family = session.get_one(AdapterFamily, run.family_id)
        return Run(
            id=run.id,
            tenant_id=run.tenant_id,
            family_id=run.family_id,
            family=family.name,
            recipe=run.recipe,
            dataset_ids=list(run.dataset_ids),
            dataset_version=run.dataset_version,
            parent=load_parent(session, run.parent_version_id) if run.parent_version_id else None,
            progress=run.progress,
            loss_curve=list(run.loss_curve),
            adapter_version_id=run.adapter_version_id,
            reader=in_the_name_of(run.tenant_id, run.reader_groups),
        )


def folder_of(run: Run, runs_dir: Path) -> Path:
    """The run's work folder, made when it is not there."""
    folder = runs_dir / run.id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fetch_files(run: Run, runs_dir: Path, blobs: BlobStore) -> Path:
    """The run's folder with the prepared files in it.

    Raises:
        NotFound: `run_files_gone`: they were erased, or are past their time.
    """
    if "files" not in run.progress:
        raise NotFound(f"the files of run '{run.id}' are gone; ask for a new run", code="run_files_gone")
    folder = folder_of(run, runs_dir)
    for name, digest in run.progress["files"].items():
        if name in BUNDLE and not (folder / name).exists():
            (folder / f".{name}.new").write_bytes(blobs.get(digest))
            (folder / f".{name}.new").replace(folder / name)
    return folder


def keep_error(lease: JobLease, run: Run, stage: str, failure: ChildFailed) -> None:
    """Show with the run how a child ended; the job keeps the code only."""
    with lease.write() as session:
        row = session.get_one(TuningRun, run.id)
        row.progress = {
            **row.progress,
            "error": {"stage": stage, "attempt": lease.attempt, "code": failure.code, **failure.extra},
        }
