"""Document rows to the bodies that callers see: with collection, groups, and the facts of the
generation that serves, or of the newest while none does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import select, tuple_

from api.schemas.documents import DocumentBody, EditionBody, WarningBody
from core.access import PUBLIC_GROUP
from core.database import ReadSession
from core.editions import edition_label
from core.repositories.documents import SET_ASIDE
from core.tables import Collection, Document, DocumentGeneration, DocumentGroup
from core.types import Language
from ingest.warnings import document_warnings
from retrieval.editions import edition_of


def as_bodies(session: ReadSession, documents: Sequence[Document]) -> list[DocumentBody]:
    """Bodies in the order of the rows, with three queries for all of them."""
    ids = [document.id for document in documents]
    wanted_collections = {document.collection_id for document in documents}
    collections = {
        row.id: "(deleted)" if row.name.startswith(SET_ASIDE) else row.name
        for row in session.scalars(select(Collection).where(Collection.id.in_(wanted_collections)))
    }
    groups: dict[str, list[str]] = defaultdict(list)
    for row in session.scalars(select(DocumentGroup).where(DocumentGroup.document_id.in_(ids))):
        if row.group_name != PUBLIC_GROUP:
            groups[row.document_id].append(row.group_name)
    wanted = [(item.id, item.active_generation or item.latest_generation) for item in documents]
    serving = {
        row.document_id: row
        for row in session.scalars(
            select(DocumentGeneration).where(
                tuple_(DocumentGeneration.document_id, DocumentGeneration.generation).in_(wanted)
            )
        )
    }
    return [_body(item, collections[item.collection_id], groups[item.id], serving.get(item.id)) for item in documents]


def _edition(document: Document, facts: DocumentGeneration | None) -> EditionBody | None:
    if document.edition is None:
        return None
    edition = edition_of(document)
    language = Language(facts.language) if facts and facts.language else Language.JAPANESE
    return EditionBody(
        label=edition_label(edition, language),
        family=edition.family,
        standing=edition.standing.value,
        number=edition.number,
        period_from=edition.period.first if edition.period else None,
        period_until=edition.period.last if edition.period else None,
        dated=edition.dated,
    )


def _body(document: Document, collection: str, groups: Sequence[str], facts: DocumentGeneration | None) -> DocumentBody:
    return DocumentBody(
        id=document.id,
        filename=document.filename,
        collection=collection,
        external_id=document.external_id,
        status=document.status,
        error=document.error,
        groups=sorted(groups),
        metadata=document.metadata_,
        valid_from=document.valid_from,
        valid_until=document.valid_until,
        validity_source=document.validity_source,
        supersedes=document.supersedes,
        edition=_edition(document, facts),
        generation=document.latest_generation,
        active_generation=document.active_generation,
        media_type=facts.media_type if facts else None,
        encoding=facts.encoding if facts else None,
        byte_size=facts.byte_size if facts else None,
        char_count=facts.char_count if facts else None,
        page_count=facts.page_count if facts else None,
        chunk_count=facts.chunk_count if facts else None,
        title=facts.title if facts else None,
        language=facts.language if facts else None,
        quality=facts.quality if facts else {},
        warnings=[WarningBody.model_validate(item) for item in document_warnings(facts.quality if facts else {})],
        source_sha256=facts.source_sha256 if facts else None,
        created_at=document.created_at,
        updated_at=document.updated_at,
    )
