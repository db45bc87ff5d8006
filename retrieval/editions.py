"""Editions of documents as the database has them, and the other editions of what was found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from core.access import documents_visible
from core.editions import DocumentEdition, edition_from
from core.tables.documents import Document
from core.types import AccessFilter, DocumentStatus

MAX_SIBLINGS = 200
"""Editions that are read of all families together; a series of daily reports has more than matter."""


def edition_of(document: Document) -> DocumentEdition:
    """The edition that a document is, as its columns say."""
    return replace(
        edition_from(
            document.edition,
            valid_from=document.valid_from,
            valid_until=document.valid_until,
            supersedes=document.supersedes,
        ),
        document_id=document.id,
        external_id=document.external_id,
        collection_id=document.collection_id,
    )


def siblings_of(
    session: Session, access: AccessFilter, editions: Iterable[DocumentEdition]
) -> dict[str, Sequence[DocumentEdition]]:
    """{document id: the other editions of its family, and documents that say that they supersede it}.

    Only documents of the same collection that the caller may read, and that serve: a document nobody sees takes no
    other's place.
    """
    wanted = {edition.document_id: edition for edition in editions}
    families = {(edition.collection_id, edition.family) for edition in wanted.values() if edition.family}
    names = {name for edition in wanted.values() for name in (edition.document_id, edition.external_id) if name}
    if not wanted:
        return {}
    served = (
        documents_visible(access),
        Document.status != DocumentStatus.DELETING,
        Document.active_generation.is_not(None),
    )
    found: dict[str, DocumentEdition] = {}
    of_family = tuple_(Document.collection_id, Document.edition_family).in_(sorted(families))
    conditions = [of_family] * bool(families) + [Document.supersedes.in_(sorted(names))]
    newest_first = (Document.valid_from.desc().nulls_last(), Document.created_at.desc(), Document.id)
    for condition in conditions:
        query = select(Document).where(*served, condition).order_by(*newest_first).limit(MAX_SIBLINGS)
        found |= {document.id: edition_of(document) for document in session.scalars(query)}
    return {
        key: [other for other in found.values() if other.document_id != key and _related(edition, other)]
        for key, edition in wanted.items()
    }


def _related(edition: DocumentEdition, other: DocumentEdition) -> bool:
    if other.supersedes and other.supersedes in {edition.document_id, edition.external_id}:
        return True
    same = edition.family is not None and edition.family == other.family
    return same and edition.collection_id == other.collection_id
