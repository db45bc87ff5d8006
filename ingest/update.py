"""Changes to a document that need no new reading: who may read it, where it is filed, when it holds.

All of it is in force with the transaction; a job, and this process where it reaches the index, carry groups and
collection into the index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from core import audit
from core.access import PUBLIC_GROUP, Principal, access_filter, documents_visible, stored_groups
from core.database import Database, WriteSession
from core.errors import Conflict, FieldError, Forbidden, InvalidInput, NotFound, Unavailable
from core.jobs import JobStore
from core.repositories.documents import collection_to_fill, groups_of, lock_document, set_groups, visible_document
from core.tables.base import utc_now
from core.tables.documents import Document
from core.tables.jobs import Job
from core.types import DocumentStatus, JobKind, JobStatus, Scope
from ingest.access import PointAccess
from ingest.upload import checked_collection, checked_groups, checked_metadata, checked_supersedes
from ingest.validity import GIVEN, take_found

log = structlog.stdlib.get_logger(__name__)

_UNFINISHED = (JobStatus.QUEUED.value, JobStatus.RUNNING.value)


class _Keep:
    """A field that is left as it is."""


KEEP = _Keep()


@dataclass(frozen=True, slots=True)
class DocumentChange:
    """What to change; KEEP leaves a field alone.

    groups: an empty list opens it to the whole tenant. valid_from, valid_until, supersedes: None takes them away.
    found_validity: the days that were found in the text take the place of given ones.
    """

    groups: Sequence[str] | _Keep = KEEP
    metadata: Mapping[str, Any] | _Keep = KEEP
    collection: str | _Keep = KEEP
    valid_from: date | _Keep | None = KEEP
    valid_until: date | _Keep | None = KEEP
    supersedes: str | _Keep | None = KEEP
    found_validity: bool = False


class DocumentUpdates:
    """Changes documents for one process. Thread-safe."""

    def __init__(self, db: Database, jobs: JobStore, points: PointAccess | None) -> None:
        """points: None in a process that does not reach the index; the job alone then brings it in line."""
        self._db = db
        self._jobs = jobs
        self._points = points

    def update(
        self, principal: Principal, document_id: str, change: DocumentChange, *, request_id: str | None = None
    ) -> Document:
        """Change a document; the row as it is then.

        Raises:
            Forbidden: the key lacks `ingest`; `group_not_held`: it adds a group that it does not hold itself.
            NotFound: there is no such document for this principal.
            InvalidInput: a field cannot be used; nothing was changed.
            Conflict: `external_id_taken` in the new collection; `document_deleting`.
        """
        principal.require(Scope.INGEST)
        try:
            with self._db.write() as session:
                document, moved = self._change(session, principal, document_id, change, request_id)
        except IntegrityError as error:  # the same name came into the new collection, or the collection, at once
            raise Conflict(
                "another document took this external_id in that collection", code="external_id_taken", retryable=True
            ) from error
        if moved and self._points is not None:
            try:
                self._points.bring(document.id)
            except Unavailable as error:
                log.warning("document.access_waits", document_id=document.id, code=error.code)  # its job does it
        return document

    def _change(
        self,
        session: WriteSession,
        principal: Principal,
        document_id: str,
        change: DocumentChange,
        request_id: str | None,
    ) -> tuple[Document, bool]:
        visible_document(session, access_filter(principal), document_id)
        document = lock_document(session, document_id)
        if document is None:
            raise NotFound(f"no document '{document_id}'")
        if document.status == DocumentStatus.DELETING.value:
            raise Conflict(f"document '{document_id}' is being deleted", code="document_deleting")
        pending = session.scalars(
            select(Job)
            .where(Job.subject_id == document.id, Job.kind == JobKind.INGEST.value, Job.status.in_(_UNFINISHED))
            .order_by(Job.created_at.desc(), Job.id.desc())
        ).first()
        detail: dict[str, Any] = {}
        moved = self._groups(session, principal, document, pending, change, detail)
        moved |= self._collection(session, document, change, detail)
        if not isinstance(change.metadata, _Keep):
            document.metadata_ = dict(checked_metadata(change.metadata))
            _for_its_job(pending, "metadata", document.metadata_)
            detail["metadata"] = sorted(document.metadata_)
        self._validity(session, principal, document, pending, change, detail)
        document.updated_at = utc_now()
        if moved:
            self._jobs.create(
                session, tenant_id=document.tenant_id, kind=JobKind.ACCESS, subject_id=document.id, priority=3
            )
        audit.record(
            session,
            tenant_id=document.tenant_id,
            actor=principal.actor,
            action="document.update",
            object_id=document.id,
            detail=detail,
            request_id=request_id,
        )
        session.flush()
        return document, moved

    def _groups(
        self,
        session: WriteSession,
        principal: Principal,
        document: Document,
        pending: Job | None,
        change: DocumentChange,
        detail: dict[str, Any],
    ) -> bool:
        if isinstance(change.groups, _Keep):
            return False
        present = groups_of(session, document.id)
        wanted = stored_groups(list(checked_groups(change.groups)))
        added = set(wanted) - set(present) - set(principal.groups) - {PUBLIC_GROUP}
        if added and not principal.allows(Scope.ADMIN):
            names = ", ".join(sorted(added))
            raise Forbidden(f"this key is not in {names}, so it cannot add it", code="group_not_held")
        _for_its_job(pending, "groups", list(wanted))
        detail["groups"] = {"before": list(present), "after": list(wanted)}
        set_groups(session, document.id, wanted)
        return wanted != present

    def _collection(
        self, session: WriteSession, document: Document, change: DocumentChange, detail: dict[str, Any]
    ) -> bool:
        if isinstance(change.collection, _Keep):
            return False
        collection = collection_to_fill(session, document.tenant_id, checked_collection(change.collection))
        if collection.id == document.collection_id:
            return False
        if document.external_id is not None:
            taken = select(Document.id).where(
                Document.tenant_id == document.tenant_id,
                Document.collection_id == collection.id,
                Document.external_id == document.external_id,
            )
            if session.scalars(taken).first() is not None:
                raise Conflict(
                    f"external_id '{document.external_id}' cannot be used in collection '{collection.name}'",
                    code="external_id_taken",
                )
        document.collection_id = collection.id
        detail["collection"] = collection.name
        return True

    def _validity(
        self,
        session: WriteSession,
        principal: Principal,
        document: Document,
        pending: Job | None,
        change: DocumentChange,
        detail: dict[str, Any],
    ) -> None:
        if not isinstance(change.supersedes, _Keep):
            document.supersedes = self._superseded(session, principal, document, change.supersedes)
            detail["supersedes"] = document.supersedes
        given = {
            name: value
            for name, value in (("valid_from", change.valid_from), ("valid_until", change.valid_until))
            if not isinstance(value, _Keep)
        }
        for name, value in given.items():
            setattr(document, name, value)
        if given:
            document.validity_source = GIVEN
            check_days(document.valid_from, document.valid_until)
        elif change.found_validity:
            take_found(document)
        if given or change.found_validity or not isinstance(change.supersedes, _Keep):
            # What the upload under way said is older than this.
            _for_its_job(pending, "validity", {})
            detail["validity"] = [str(document.valid_from), str(document.valid_until), document.validity_source]

    def _superseded(
        self, session: WriteSession, principal: Principal, document: Document, named: str | None
    ) -> str | None:
        if named is None:
            return None
        named = checked_supersedes(named)
        if named in {document.id, document.external_id}:
            raise _refused("supersedes", "a document cannot take its own place", "invalid_supersedes")
        seen = select(Document.id).where(Document.id == named, documents_visible(access_filter(principal)))
        if named.startswith("doc_") and session.scalars(seen).first() is None:
            raise _refused("supersedes", f"no document '{named[:80]}'", "invalid_supersedes")
        return named


def check_days(valid_from: date | None, valid_until: date | None) -> None:
    """Raise InvalidInput `invalid_validity` where the last day is before the first."""
    if valid_from is not None and valid_until is not None and valid_until < valid_from:
        raise _refused("valid_until", f"{valid_until} is before valid_from {valid_from}", "invalid_validity")


def _for_its_job(pending: Job | None, name: str, value: Any) -> None:
    """A replacement under way comes into force with what is said now, not with what was said when it was sent."""
    if pending is not None:
        pending.arguments = {**pending.arguments, name: value}


def _refused(field: str, detail: str, code: str) -> InvalidInput:
    return InvalidInput(f"{field}: {detail}", code=code, errors=[FieldError(f"body.{field}", detail, code)])
