"""Which documents were erased: what was read of one before must not be stored after it."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.tables.erasures import ErasedDocument


def any_erased(session: Session, document_ids: Collection[str]) -> bool:
    """Whether one of some documents was erased, or is being erased past its point of no return."""
    if not document_ids:
        return False
    query = select(ErasedDocument.document_id).where(ErasedDocument.document_id.in_(sorted(document_ids)))
    return session.scalars(query.limit(1)).first() is not None
