"""Does the index find what is there? Passages of live data, asked for under the filters that their readers send."""

from __future__ import annotations

import itertools

from sqlalchemy import func, select

from core.database import Database
from core.errors import Unavailable
from core.tables.documents import Document, DocumentGroup
from core.types import AccessFilter
from retrieval.live import OpenVersion

WANTED_RECALL = 0.97
SAMPLE = 20
_LIMIT = 40
_FEW_DOCUMENTS = 20


def sampled_recall(db: Database, version: OpenVersion) -> tuple[float, int]:
    """(share of the nearest that searches find, searches made), over no filter, a group, a collection, few documents.

    A server whose strict mode forbids exact search cannot be judged: no searches then.
    """
    found = wanted = searches = 0
    for stored in itertools.islice(version.index.vectors(), SAMPLE):
        if stored.dense is None:
            continue
        for access in _filters(db):
            try:
                best = {hit.id for hit in version.index.search_dense(stored.dense, access, _LIMIT, exact=True)}
            except Unavailable as error:
                if error.code != "index_strict_mode":
                    raise
                return 1.0, 0
            if best:
                hits = {hit.id for hit in version.index.search_dense(stored.dense, access, _LIMIT)}
                found, wanted, searches = found + len(best & hits), wanted + len(best), searches + 1
    return (found / wanted if wanted else 1.0), searches


def _filters(db: Database) -> list[AccessFilter]:
    """Of the tenant with the most documents."""
    with db.read() as session:
        largest = session.execute(
            select(Document.tenant_id, func.count()).group_by(Document.tenant_id).order_by(func.count().desc()).limit(1)
        ).first()
        if largest is None:
            return []
        tenant = str(largest[0])
        mine = select(Document.id).where(Document.tenant_id == tenant).order_by(Document.id)
        few = frozenset(session.scalars(mine.limit(_FEW_DOCUMENTS)))
        collection = session.scalars(
            select(Document.collection_id).where(Document.tenant_id == tenant).limit(1)
        ).first()
        group = session.scalars(
            select(DocumentGroup.group_name).where(DocumentGroup.document_id.in_(few)).order_by("group_name").limit(1)
        ).first()
    return [
        AccessFilter(tenant, None),
        AccessFilter(tenant, None, collection),
        AccessFilter(tenant, frozenset() if group is None else frozenset({group})),
        AccessFilter(tenant, None, document_ids=few),
    ]
