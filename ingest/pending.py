"""What a document will be once its newest generation serves, and what it may be until then.

Groups and metadata of a replacement wait with its job; groups that it takes away are gone at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.access import PUBLIC_GROUP
from core.database import WriteSession
from core.repositories.documents import groups_of
from core.tables.base import utc_now
from core.tables.documents import Document
from core.tables.jobs import Job
from ingest.validity import NOTHING_SAID, Validity, give_validity


def groups_to_be(session: WriteSession, document: Document, job: Job | None) -> tuple[str, ...]:
    """Groups that the newest generation asked for: with its job while that has not switched, else as stored."""
    if job is not None and document.active_generation != document.latest_generation and "groups" in job.arguments:
        return tuple(job.arguments["groups"])
    return groups_of(session, document.id)


def metadata_to_be(document: Document, job: Job | None) -> dict[str, Any]:
    """Metadata likewise."""
    if job is not None and document.active_generation != document.latest_generation and "metadata" in job.arguments:
        return dict(job.arguments["metadata"])
    return dict(document.metadata_)


def validity_to_be(document: Document, job: Job | None) -> dict[str, Any]:
    """What its upload says of when it holds, where that is not in force yet; given days stay with the document."""
    if job is not None and document.active_generation != document.latest_generation:
        return dict(job.arguments.get("validity") or {})
    return {}


def set_metadata(document: Document, job: Job | None, metadata: Mapping[str, Any]) -> None:
    """Change the metadata without a new generation: of what serves, of what will, or both where they are one."""
    if job is not None and document.active_generation != document.latest_generation:
        job.arguments = {**job.arguments, "metadata": dict(metadata)}
    if document.active_generation is None or document.active_generation == document.latest_generation:
        document.metadata_ = dict(metadata)
    document.updated_at = utc_now()


def say_validity(document: Document, job: Job | None, said: Validity) -> bool:
    """Put in force what an upload of the same bytes says of when they hold; whether that changed anything."""
    if said == NOTHING_SAID:
        return False
    if job is not None and document.active_generation != document.latest_generation:
        changed = dict(job.arguments.get("validity") or {}) != said.as_json()
        job.arguments = {**job.arguments, "validity": said.as_json()}
        return changed
    changed = give_validity(document, said)
    if changed:
        document.updated_at = utc_now()
    return changed


def narrowed(present: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """Groups that may read both the version that serves and the one that is coming."""
    if PUBLIC_GROUP in wanted:
        return tuple(present)
    if PUBLIC_GROUP in present:
        return tuple(wanted)
    return tuple(sorted(set(present) & set(wanted)))
