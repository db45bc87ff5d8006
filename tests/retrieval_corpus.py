"""A small company's documents in the database and an index, and the one MiniLM of a test run."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import select

from core.database import Database
from core.ports import Bridge, Embedder, LexicalEncoder, VectorIndex
from core.repositories.documents import DEFAULT_COLLECTION, serving_chunk_set
from core.tables import ChunkRow, Collection, Document, DocumentGeneration, DocumentGroup, Tenant
from core.types import IndexPoint
from retrieval.bridge import bridge_vectors
from retrieval.embedders.minilm import MiniLmEmbedder
from retrieval.text import indexed_text


@cache
def minilm() -> MiniLmEmbedder:
    """Loaded once for all tests of the process."""
    return MiniLmEmbedder()


HANDBOOK = (
    ("leave.txt", "Full-time staff have 22 days of paid annual leave. Unused days expire at the end of March."),
    ("remote.txt", "Employees may work from home up to three days a week after agreeing the days with their manager."),
    ("printer.txt", "The office printer PPR-9087 takes toner cartridge TN-22. Order a new one from facilities."),
    (
        "fire.txt",
        "When the fire alarm rings, leave by the stairs and gather at the car park behind the north building.",
    ),
    ("prices.txt", "The KS-50 pressure sensor costs $320. Schools get a discount of 15 percent on all sensors."),
    ("休暇.txt", "入社1年目の年次有給休暇は12日です。未消化の休暇は翌年度の末日まで繰り越せます。"),
    ("経費.txt", "出張の経費は、帰社後10日以内に経理部へ領収書を添えて申請してください。"),
    ("会議室.txt", "三階の会議室「雲海」は20名まで利用できます。予約は総務部の予約表で行います。"),
    ("サーバー.txt", "受注サーバーの停止は、証明書の期限切れが原因で発生し、復旧まで4時間かかりました。"),
    ("保証.txt", "水質計の保証期間は購入日から2年間です。電極は消耗品のため保証の対象外です。"),
)


@dataclass(slots=True)
class Corpus:
    """Writes ready documents, one passage each, past the ingest."""

    db: Database
    index: VectorIndex
    embedder: Embedder
    lexical: LexicalEncoder
    bridge: Bridge | None = None

    def add(
        self,
        tenant: Tenant,
        filename: str,
        text: str,
        *,
        groups: Sequence[str] = ("*",),
        generation: int = 1,
        status: str = "ready",
        metadata: dict[str, object] | None = None,
        to_index: bool = True,
    ) -> str:
        """Id of the new document."""
        document_id = f"doc_{uuid.uuid4().hex}"
        with self.db.write() as session:
            collection = session.scalars(
                select(Collection.id).where(Collection.tenant_id == tenant.id, Collection.name == DEFAULT_COLLECTION)
            ).one()
            session.add(
                Document(
                    id=document_id,
                    tenant_id=tenant.id,
                    collection_id=collection,
                    filename=filename,
                    status=status,
                    metadata_=metadata or {},
                    latest_generation=generation,
                    active_generation=generation,
                )
            )
            session.flush()
            session.add_all(DocumentGroup(document_id=document_id, group_name=group) for group in groups)
            session.add(
                DocumentGeneration(
                    document_id=document_id,
                    generation=generation,
                    tenant_id=tenant.id,
                    source_sha256="0" * 64,
                    filename=filename,
                    byte_size=len(text),
                )
            )
            session.add(
                ChunkRow(
                    id=chunk_id(document_id, generation),
                    tenant_id=tenant.id,
                    document_id=document_id,
                    generation=generation,
                    ordinal=0,
                    chunk_set=serving_chunk_set(session),
                    start=0,
                    end=len(text),
                    text=text,
                )
            )
        if to_index:
            self.index.upsert([self.point(tenant.id, collection, document_id, generation, filename, text, groups)])
        return document_id

    def point(
        self,
        tenant_id: str,
        collection_id: str,
        document_id: str,
        generation: int,
        filename: str,
        text: str,
        groups: Sequence[str],
    ) -> IndexPoint:
        """The index point that ingest would write."""
        whole = indexed_text(filename, None, None, text)
        return IndexPoint(
            id=chunk_id(document_id, generation),
            tenant_id=tenant_id,
            collection_id=collection_id,
            document_id=document_id,
            generation=generation,
            ordinal=0,
            groups=tuple(groups),
            dense=tuple(self.embedder.encode_passages([whole])[0].tolist()),
            sparse=self.lexical.encode_passage(whole),
            bridge=bridge_vectors(self.bridge, [whole])[0],
        )


def chunk_id(document_id: str, generation: int) -> str:
    """Id of the only chunk of a generation."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{document_id}/{generation}/0"))
