"""Which blobs the rows of all tenants name. A blob that none names may be dropped; one that is named must be kept."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.blobs import is_digest
from core.database import Database
from core.ports import BlobStore
from core.repositories.blob_use import drop_unused
from core.tables import Dataset, DocumentGeneration, TuningRun


def named_blobs(session: Session) -> Iterator[tuple[str, str]]:
    """(digest, what it is) of every blob that a row names; a blob with several users comes several times."""
    generations = select(
        DocumentGeneration.document_id, DocumentGeneration.source_sha256, DocumentGeneration.text_sha256
    )
    for document_id, source, text in session.execute(generations.execution_options(yield_per=10_000)):
        yield source, f"the source of {document_id}"
        if text is not None:
            yield text, f"the text of {document_id}"
    for dataset_id, uploaded in session.execute(select(Dataset.id, Dataset.source_sha256)):
        if uploaded is not None:
            yield uploaded, f"the source of {dataset_id}"
    for run_id, digest in run_blobs(session):
        yield digest, f"a file of {run_id}"


def run_blobs(session: Session) -> Iterator[tuple[str, str]]:
    """(run, digest) of every blob that a tuning run names."""
    for run_id, progress in session.execute(select(TuningRun.id, TuningRun.progress)):
        for digest in _of_run(progress):
            yield run_id, digest


def drop_unnamed(db: Database, blobs: BlobStore, digests: Collection[str]) -> list[str]:
    """`blob_use.drop_unused` of those that no run names either; returns them. Call outside any transaction."""
    if not digests:
        return []
    with db.read() as session:
        kept = {digest for _, digest in run_blobs(session)}
    return drop_unused(db, blobs, set(digests) - kept)


def _of_run(progress: Mapping[str, Any]) -> Iterator[str]:
    """The prepared rows of a run, which may still train, and what it made that no version serves."""
    named = [*(progress.get("files") or {}).values(), (progress.get("artefact") or {}).get("digest")]
    yield from (digest for digest in named if isinstance(digest, str) and is_digest(digest))
