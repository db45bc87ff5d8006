"""Who may read a document, carried into the index: the payload of its points follows what SQL says.

SQL decides at once who sees a hit, so a reader who lost a document never sees it; the index must follow so that a
reader who gained one can find it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from core.database import Database
from core.repositories.documents import groups_of
from core.tables.documents import Document
from core.types import DocumentStatus

if TYPE_CHECKING:
    from retrieval.live import Retrieval


class PointAccess:
    """Brings collection and groups of a document's points in line, in every index version. Thread-safe."""

    def __init__(self, db: Database, retrieval: Retrieval) -> None:
        self._db = db
        self._retrieval = retrieval

    def bring(self, document_id: str) -> None:
        """Write what SQL says now, and again where it changed meanwhile: of two changes at once the later one stays.

        Raises:
            Unavailable: an index does not answer.
        """
        wanted = self._wanted(document_id)
        while wanted is not None:
            tenant_id, collection_id, groups = wanted
            for version in self._retrieval.live():
                version.index.set_access(document_id, tenant_id=tenant_id, collection_id=collection_id, groups=groups)
                version.index.flush_soon()
            written, wanted = wanted, self._wanted(document_id)
            if wanted == written:
                return

    def _wanted(self, document_id: str) -> tuple[str, str, tuple[str, ...]] | None:
        with self._db.read() as session:
            access = access_of(session, document_id)
            return None if access is None else (session.get_one(Document, document_id).tenant_id, *access)


def access_of(session: Session, document_id: str) -> tuple[str, tuple[str, ...]] | None:
    """(collection id, groups as stored) of a document; None where it is gone or going."""
    document = session.get(Document, document_id, populate_existing=True)
    if document is None or document.status == DocumentStatus.DELETING.value:
        return None
    return document.collection_id, groups_of(session, document_id)
