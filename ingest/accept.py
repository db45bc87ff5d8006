"""Uploads in, documents out: what the API, the command line and the demo call.

Bytes go to the blob store first, then document, generation and job are one transaction. Cheap checks (empty, too
large) refuse at once; whether the bytes can be read is the job's business, and a document that cannot be read is
`failed` with a code, so nothing that was accepted is ever lost.

Access while a document is being replaced: groups that the new version takes away lose it at once, groups that it adds
get it with the switch. So neither version is ever read by someone it was not meant for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from core import audit
from core.access import Principal, access_filter, documents_visible, stored_groups
from core.archives import Member, Unpack, Wanted
from core.contents import Content, sha256_of, size_of, work_folder
from core.database import Database, WriteSession
from core.errors import Conflict, NotFound, TooLarge
from core.jobs import JobStore
from core.ports import BlobStore
from core.repositories.blob_use import storing
from core.repositories.documents import (
    collection_to_fill,
    follow_jobs,
    groups_of,
    lock_document,
    set_groups,
    visible_document,
)
from core.settings import Settings
from core.storage import require_room, room_for
from core.tables.base import utc_now
from core.tables.documents import Collection, Document, DocumentGeneration
from core.tables.jobs import Job
from core.turns import Turns
from core.types import DocumentStatus, JobKind, JobStatus, Scope
from ingest.access import PointAccess
from ingest.batch import Budget, unpacked
from ingest.catalogue import DocumentCatalogue
from ingest.collections import Collections
from ingest.keyring import Keyring
from ingest.pending import groups_to_be, metadata_to_be, narrowed, say_validity, set_metadata
from ingest.removal import hide, retire_uses
from ingest.reread import Rereading
from ingest.sandbox import Sandbox
from ingest.update import DocumentUpdates
from ingest.upload import Upload, checked_upload
from ingest.validity import give_validity

if TYPE_CHECKING:
    from retrieval.live import Retrieval

_UNFINISHED = {JobStatus.QUEUED.value, JobStatus.RUNNING.value}
_ACCEPT_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of one upload. `job` is None when nothing had to be done."""

    document: Document
    job: Job | None
    unchanged: bool


class IngestService(DocumentCatalogue):
    """Takes documents in and deletes them, for one process. Thread-safe."""

    def __init__(
        self,
        db: Database,
        blobs: BlobStore,
        jobs: JobStore,
        settings: Settings,
        retrieval: Retrieval | None = None,
        sandbox: Sandbox | None = None,
    ) -> None:
        """retrieval: where this process reaches the index, so that changes of access are in it at once.

        sandbox: where archives are taken apart, closed by its owner; one of its own where there is none.
        """
        super().__init__(db, blobs)
        self._jobs = jobs
        self._settings = settings
        self._sandbox = sandbox or Sandbox(settings.ingest, settings.data_dir / "tmp" / "unpack")
        self._turns = Turns()
        self.updates = DocumentUpdates(db, jobs, None if retrieval is None else PointAccess(db, retrieval))
        self.collections = Collections(db, jobs)
        self.rereading = Rereading(db, jobs)
        follow_jobs(jobs)

    def accept(
        self, principal: Principal, uploads: Sequence[Upload], *, request_id: str | None = None
    ) -> list[Accepted]:
        """Take uploads, all or none; answers in their order. A ZIP or TAR is taken as its files.

        Raises:
            Forbidden: the key lacks `ingest`.
            InvalidInput: `empty_file`, `invalid_filename`, `invalid_metadata`, ...; nothing was stored.
            TooLarge: one file passes the limit, or the archives together what they may unpack to.
            InvalidInput: `wrong_password`, which does not open a file that needs one; nothing was stored.
            Conflict: `external_id_taken`, by a document that this key cannot see.
            Unavailable: `storage_full`, `uploads_busy`; nothing was stored.
        """
        principal.require(Scope.INGEST)
        limit = self._settings.http.max_upload_bytes
        checked = [checked_upload(upload, max_bytes=limit) for upload in uploads]
        total = sum(size_of(upload.data) for upload in checked)
        if total > limit:
            raise TooLarge(
                f"the files have {total} bytes together, the limit is {limit}", extra={"limit": limit, "actual": total}
            )
        budget = Budget(room=lambda size: room_for(self._settings, size))
        unpack = self.unpack_for(principal)
        with work_folder(self._settings) as folder:
            with Keyring(self._settings, principal.tenant_id, folder) as keyring:
                checked = [keyring.unlocked(upload) for upload in checked]
                checked = [
                    keyring.unlocked(part, or_as_it_is=part is not upload)
                    for upload in checked
                    for part in unpacked(upload, folder, unpack, max_bytes=limit, budget=budget)
                ]
            require_room(self._settings, sum(size_of(upload.data) for upload in checked))
            return self._stored(principal, checked, request_id)

    def unpack_for(self, principal: Principal) -> Unpack:
        """What takes archives apart in a child process, one of a tenant at a time.

        Raises, when called:
            ExtractionFailed, Unavailable: as `Sandbox.unpack`; `uploads_busy`.
        """

        def unpack(archive: Content, folder: Path, wanted: Wanted) -> list[Member]:
            with self._turns.turn(principal.tenant_id, self._settings.ingest.extract_timeout_s):
                return self._sandbox.unpack(archive, folder, wanted)

        return unpack

    def _stored(self, principal: Principal, checked: Sequence[Upload], request_id: str | None) -> list[Accepted]:
        with storing(self._db, self._blobs, (upload.data for upload in checked)) as still_held:
            for attempt in range(1, _ACCEPT_ATTEMPTS + 1):
                try:
                    with self._db.write() as session:
                        accepted = [self._accept_one(session, principal, upload, request_id) for upload in checked]
                        still_held()
                        return accepted
                except IntegrityError:
                    # Two uploads made one collection or external_id at once. The loser now finds the winner's row.
                    if attempt == _ACCEPT_ATTEMPTS:
                        raise
        raise AssertionError("unreachable")

    def delete(self, principal: Principal, document_id: str, *, request_id: str | None = None) -> Accepted:
        """Make a document invisible now, and have a job remove all of it. Deleting twice gives the same job.

        Raises:
            Forbidden: the key lacks `ingest`.
            NotFound: there is none for this principal.
        """
        principal.require(Scope.INGEST)
        with self._db.write() as session:
            visible_document(session, access_filter(principal), document_id)  # before anything is cancelled
            document = lock_document(session, document_id)
            if document is None:
                raise NotFound(f"no document '{document_id}'")
            known = document.status == DocumentStatus.DELETING.value
            hide(session, self._jobs, document)
            if not known:
                job = self._jobs.create(
                    session, tenant_id=document.tenant_id, kind=JobKind.DELETE, subject_id=document.id, priority=3
                )
                retire_uses(session, document, principal.actor, request_id)
                return Accepted(document, job, unchanged=False)
            latest = self._latest_job(session, document, JobKind.DELETE)
            if latest is not None and latest.status in {JobStatus.FAILED.value, JobStatus.CANCELLED.value}:
                latest = self._jobs.retry(latest.id, principal.tenant_id, session=session)
            return Accepted(document, latest, unchanged=True)

    def _accept_one(
        self, session: WriteSession, principal: Principal, upload: Upload, request_id: str | None
    ) -> Accepted:
        digest = sha256_of(upload.data)
        collection = collection_to_fill(session, principal.tenant_id, upload.collection_name)
        found = self._existing(session, principal, collection, upload, digest)
        if found is None:
            return self._create(session, principal, collection, upload, digest)
        newest = session.get(DocumentGeneration, (found.id, found.latest_generation))
        assert newest is not None
        pending = self._latest_job(session, found, JobKind.INGEST)
        groups, metadata = groups_to_be(session, found, pending), metadata_to_be(found, pending)
        upload = replace(
            upload,
            groups=groups if upload.groups is None else stored_groups(list(upload.groups)),
            metadata=metadata if upload.metadata is None else upload.metadata,
        )
        if upload.encoding is None and newest.source_sha256 == digest:
            upload = replace(upload, encoding=newest.given_encoding)
        stands = (newest.source_sha256, newest.filename, newest.given_encoding, groups)
        if stands != (digest, upload.filename, upload.encoding, upload.groups):
            return self._replace(session, principal, found, upload, digest, request_id)
        changed = metadata != upload.metadata
        if changed:  # in no vector and no point: the row is all of it
            set_metadata(found, pending, upload.metadata or {})
        changed |= say_validity(found, pending, upload.validity)
        retried = self._retry_failed(session, found, pending)
        job = pending if pending is not None and pending.status in _UNFINISHED else None
        return Accepted(found, job, unchanged=not changed and not retried)

    def _existing(
        self, session: WriteSession, principal: Principal, collection: Collection, upload: Upload, digest: str
    ) -> Document | None:
        here = (
            Document.tenant_id == principal.tenant_id,
            Document.collection_id == collection.id,
        )
        visible = documents_visible(access_filter(principal))
        if upload.external_id is not None:
            found = session.scalars(
                select(Document).where(*here, Document.external_id == upload.external_id)
            ).one_or_none()
            found = None if found is None else lock_document(session, found.id)
            if found is None or found.external_id != upload.external_id or found.collection_id != collection.id:
                return None
            if session.scalars(select(Document.id).where(Document.id == found.id, visible)).one_or_none() is None:
                raise Conflict(
                    f"external_id '{upload.external_id}' cannot be used in collection '{collection.name}'",
                    code="external_id_taken",
                )
            if found.status == DocumentStatus.DELETING.value:
                # Its row goes when the index is clean; until then it gives up its name to the new document.
                found.external_id = None
                session.flush()
                return None
            return found
        groups = stored_groups(list(upload.groups or ()))
        twins = session.scalars(
            select(Document)
            .join(
                DocumentGeneration,
                (DocumentGeneration.document_id == Document.id)
                & (DocumentGeneration.generation == Document.latest_generation),
            )
            .where(
                *here,
                visible,
                Document.status != DocumentStatus.DELETING.value,
                DocumentGeneration.source_sha256 == digest,
                DocumentGeneration.filename == upload.filename,
            )
            .order_by(Document.created_at, Document.id)
        ).all()
        twin = next((twin for twin in twins if groups_of(session, twin.id) == groups), None)
        locked = None if twin is None else lock_document(session, twin.id)
        return None if locked is None or locked.status == DocumentStatus.DELETING.value else locked

    def _create(
        self, session: WriteSession, principal: Principal, collection: Collection, upload: Upload, digest: str
    ) -> Accepted:
        document = Document(
            tenant_id=principal.tenant_id,
            collection_id=collection.id,
            external_id=upload.external_id,
            filename=upload.filename,
            status=DocumentStatus.QUEUED.value,
            metadata_=dict(upload.metadata or {}),
            latest_generation=1,
        )
        give_validity(document, upload.validity)
        session.add(document)
        session.flush()
        set_groups(session, document.id, stored_groups(list(upload.groups or ())))
        return self._enqueue(session, document, upload, digest)

    def _replace(
        self,
        session: WriteSession,
        principal: Principal,
        document: Document,
        upload: Upload,
        digest: str,
        request_id: str | None,
    ) -> Accepted:
        document.latest_generation += 1
        document.updated_at = utc_now()
        if document.active_generation is None:
            set_groups(session, document.id, upload.groups or ())
            document.filename = upload.filename
            document.metadata_ = dict(upload.metadata or {})
            give_validity(document, upload.validity)
        else:
            set_groups(session, document.id, narrowed(groups_of(session, document.id), upload.groups or ()))
        audit.record(
            session,
            tenant_id=document.tenant_id,
            actor=principal.actor,
            action="document.replace",
            object_id=document.id,
            detail={"generation": document.latest_generation, "filename": upload.filename},
            request_id=request_id,
        )
        return self._enqueue(session, document, upload, digest)

    def _enqueue(self, session: WriteSession, document: Document, upload: Upload, digest: str) -> Accepted:
        session.add(
            DocumentGeneration(
                document_id=document.id,
                generation=document.latest_generation,
                tenant_id=document.tenant_id,
                source_sha256=digest,
                filename=upload.filename,
                byte_size=size_of(upload.data),
                given_encoding=upload.encoding,
            )
        )
        session.flush()
        job = self._jobs.create(
            session,
            tenant_id=document.tenant_id,
            kind=JobKind.INGEST,
            subject_id=document.id,
            arguments={
                "generation": document.latest_generation,
                "groups": list(stored_groups(list(upload.groups or ()))),
                "filename": upload.filename,
                "metadata": dict(upload.metadata or {}),
                "validity": upload.validity.as_json(),
            },
        )
        return Accepted(document, job, unchanged=False)

    def _retry_failed(self, session: WriteSession, document: Document, job: Job | None) -> bool:
        """The same bytes again after a failure that may pass: the old job runs again, no second copy is made."""
        if job is None or document.error is None or not document.error.get("retryable"):
            return False
        if job.status not in {JobStatus.FAILED.value, JobStatus.CANCELLED.value}:
            return False
        self._jobs.retry(job.id, document.tenant_id, session=session)
        return True

    @staticmethod
    def _latest_job(session: WriteSession, document: Document, kind: JobKind) -> Job | None:
        return session.scalars(
            select(Job)
            .where(Job.subject_id == document.id, Job.tenant_id == document.tenant_id, Job.kind == kind.value)
            .order_by(Job.created_at.desc(), Job.id.desc())
            .limit(1)
        ).one_or_none()
