"""Collections: made, renamed, deleted with all that is in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from core import audit
from core.access import Principal, access_filter, documents_visible
from core.database import Database, WriteSession
from core.errors import Conflict, NotFound
from core.jobs import JobStore
from core.paging import Page, cut_page, newest_page
from core.repositories.documents import DEFAULT_COLLECTION, SET_ASIDE
from core.tables.base import utc_now
from core.tables.documents import Collection, Document
from core.tables.jobs import Job
from core.types import DocumentStatus, JobKind, Scope
from ingest.upload import checked_collection


@dataclass(frozen=True, slots=True)
class CollectionFacts:
    """A collection and how many of its documents the caller may read."""

    collection: Collection
    documents: int


class Collections:
    """Collections of one process. Thread-safe."""

    def __init__(self, db: Database, jobs: JobStore) -> None:
        self._db = db
        self._jobs = jobs

    def list(self, principal: Principal, *, limit: int, cursor: str | None) -> Page[CollectionFacts]:
        """Newest first. One that holds only documents that the caller may not read is not shown."""
        mine = documents_visible(access_filter(principal)) & (Document.status != DocumentStatus.DELETING)
        query = select(Collection).where(
            Collection.tenant_id == principal.tenant_id, ~Collection.name.startswith(SET_ASIDE)
        )
        if not principal.allows(Scope.ADMIN):
            readable, filled = select(Document.collection_id).where(mine), select(Document.collection_id)
            query = query.where(
                Collection.id.in_(readable)
                | Collection.id.not_in(filled.where(Document.tenant_id == principal.tenant_id))
            )
        query = newest_page(query, Collection, cursor, limit)
        with self._db.read() as session:
            page = cut_page(session.scalars(query).all(), limit)
            counted = (
                select(Document.collection_id, func.count())
                .where(Document.collection_id.in_([one.id for one in page.items]), mine)
                .group_by(Document.collection_id)
            )
            counts = {row[0]: int(row[1]) for row in session.execute(counted)}
        return Page([CollectionFacts(one, counts.get(one.id, 0)) for one in page.items], page.next_cursor)

    def create(self, principal: Principal, name: str, *, request_id: str | None = None) -> Collection:
        """Make an empty one.

        Raises:
            Forbidden: the key lacks `ingest`.
            InvalidInput: `invalid_collection`.
            Conflict: `collection_exists`.
        """
        principal.require(Scope.INGEST)
        name = checked_collection(name)
        try:
            with self._db.write() as session:
                collection = Collection(tenant_id=principal.tenant_id, name=name)
                session.add(collection)
                session.flush()
                self._audit(session, principal, "collection.create", collection, {"name": name}, request_id)
                return collection
        except IntegrityError as error:
            raise _taken(name) from error

    def rename(
        self, principal: Principal, known_as: str, name: str, *, request_id: str | None = None
    ) -> CollectionFacts:
        """Rename one, by its name or id. Its documents stay in it.

        Raises:
            Forbidden: the key lacks `admin`.
            NotFound, InvalidInput, Conflict: `collection_not_found`, `invalid_collection`, `collection_exists`,
                `collection_is_default`.
        """
        principal.require(Scope.ADMIN)
        name = checked_collection(name)
        try:
            with self._db.write() as session:
                collection = _find(session, principal, known_as)
                before, collection.name = collection.name, name
                session.flush()
                detail = {"before": before, "after": name}
                self._audit(session, principal, "collection.update", collection, detail, request_id)
                documents = session.scalar(
                    select(func.count()).where(
                        Document.collection_id == collection.id, Document.status != DocumentStatus.DELETING
                    )
                )
                return CollectionFacts(collection, documents or 0)
        except IntegrityError as error:
            raise _taken(name) from error

    def delete(self, principal: Principal, known_as: str, *, request_id: str | None = None) -> tuple[str, Job]:
        """Make all its documents invisible now, free its name, and have a job remove the rest: (name, job).

        Raises:
            Forbidden: the key lacks `admin`: it may hold documents that others cannot even see.
            NotFound: `collection_not_found`.
            Conflict: `collection_is_default`.
        """
        principal.require(Scope.ADMIN)
        with self._db.write() as session:
            collection = _find(session, principal, known_as)
            name, collection.name = collection.name, f"{SET_ASIDE}{collection.id}"
            hidden = session.execute(
                update(Document)
                .where(Document.collection_id == collection.id)
                .values(status=DocumentStatus.DELETING.value, error=None, active_generation=None, updated_at=utc_now())
            )
            job = self._jobs.create(
                session,
                tenant_id=principal.tenant_id,
                kind=JobKind.COLLECTION,
                subject_id=collection.id,
                arguments={"name": name, "actor": principal.actor},
                priority=3,
            )
            detail = {"name": name, "documents": int(getattr(hidden, "rowcount", 0))}
            self._audit(session, principal, "collection.delete", collection, detail, request_id)
            return name, job

    @staticmethod
    def _audit(
        session: WriteSession,
        principal: Principal,
        action: str,
        collection: Collection,
        detail: Mapping[str, object],
        request_id: str | None,
    ) -> None:
        audit.record(
            session,
            tenant_id=principal.tenant_id,
            actor=principal.actor,
            action=action,
            object_id=collection.id,
            detail=detail,
            request_id=request_id,
        )


def _find(session: WriteSession, principal: Principal, known_as: str) -> Collection:
    found = session.scalars(
        select(Collection)
        .where(
            Collection.tenant_id == principal.tenant_id,
            (Collection.name == known_as) | (Collection.id == known_as),
            ~Collection.name.startswith(SET_ASIDE),
        )
        .with_for_update()
    ).first()
    if found is None:
        raise NotFound(f"no collection {known_as[:100]!r}", code="collection_not_found")
    if found.name == DEFAULT_COLLECTION:
        raise Conflict("the collection 'default' stays as it is", code="collection_is_default")
    return found


def _taken(name: str) -> Conflict:
    return Conflict(f"there is a collection '{name}' already", code="collection_exists")
