"""Plain values that cross package borders. No LlamaIndex, Qdrant, torch, Celery or FastAPI object is ever in one.

All offsets count Unicode code points in the *extracted text* of a document generation, end exclusive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.editions import DocumentEdition


class Language(StrEnum):
    """Languages the service tells apart. OTHER is searched like English, without the dense arm's promise."""

    ENGLISH = "en"
    JAPANESE = "ja"
    OTHER = "other"


class Scope(StrEnum):
    """What a key may do. ADMIN implies all others within its tenant."""

    QUERY = "query"
    INGEST = "ingest"
    FEEDBACK = "feedback"
    TUNE = "tune"
    ADMIN = "admin"


class DocumentStatus(StrEnum):
    """Life of a document as users see it."""

    QUEUED = "queued"
    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"
    DELETING = "deleting"


class JobStatus(StrEnum):
    """Life of a job. The last three are final, but FAILED and CANCELLED can be retried by request."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobKind(StrEnum):
    """What a job does; decides its queue (see `core.queue.QUEUE_OF_KIND`)."""

    INGEST = "ingest"
    DELETE = "delete"
    ACCESS = "access"
    COLLECTION = "collection"
    TUNING = "tuning"
    INDEX = "index"
    DATASET = "dataset"
    EVALUATION = "evaluation"
    ERASURE = "erasure"
    CALIBRATION = "calibration"


class AdapterStatus(StrEnum):
    """Verdict on an adapter version; which version serves is said by aliases, not by status."""

    CANDIDATE = "candidate"
    REJECTED = "rejected"
    RETIRED = "retired"


class BlockKind(StrEnum):
    """Kinds of structure that extractors report."""

    HEADING = "heading"
    PARAGRAPH = "paragraph"
    LIST_ITEM = "list_item"
    TABLE = "table"
    CODE = "code"


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of extracted text with its role: text[start:end]; `level` only for headings (1 = top)."""

    kind: BlockKind
    start: int
    end: int
    page: int | None = None
    level: int | None = None


@dataclass(frozen=True, slots=True)
class PlacedText:
    """Text that OCR read, and its box as shares of the page as it is shown: 0 to 1, y downwards. page: from 1."""

    page: int
    text: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class ExtractedDocument:
    """What an extractor returns. Blocks are ordered, do not overlap, and may leave gaps of white space."""

    text: str
    blocks: tuple[Block, ...]
    media_type: str
    encoding: str | None = None
    page_count: int | None = None
    title: str | None = None
    quality: Mapping[str, Any] = field(default_factory=dict)
    """Measured facts about the extraction: engine, characters, replacement marks, pages without text ..."""
    places: tuple[PlacedText, ...] = ()
    """Where OCR found text, for page images; empty where the pages have a text layer of their own."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of one document generation; `text == extracted[start:end]`; `heading` is 'A > B'."""

    ordinal: int
    start: int
    end: int
    text: str
    page: int | None
    heading: str | None
    token_count: int


@dataclass(frozen=True, slots=True)
class SparseVector:
    """Term ids (uint32, ascending, unique) and weights of equal length."""

    indices: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class AccessFilter:
    """Who may read what: tenant AND (any of groups). Built only by `core.access.access_filter`.

    `groups is None` means every group of the tenant (an admin key); otherwise it holds at least PUBLIC_GROUP.
    """

    tenant_id: str
    groups: frozenset[str] | None
    collection_id: str | None = None
    document_ids: frozenset[str] | None = None
    """Only these documents, where a request filters them; it narrows and never widens."""


@dataclass(frozen=True, slots=True)
class IndexPoint:
    """One chunk as the index stores it: vectors and the payload that filters need, never the text."""

    id: str
    tenant_id: str
    collection_id: str
    document_id: str
    generation: int
    ordinal: int
    groups: tuple[str, ...]
    dense: tuple[float, ...] | None
    """None where the embedder does not know the passage's language."""
    sparse: SparseVector
    sentences: tuple[tuple[float, ...], ...] = ()
    """Vectors of the passage's sentences, as long as `dense`; empty where the embedder makes none."""
    bridge: tuple[float, ...] | None = None
    """Vector by which questions in other languages find it; None where the index has none."""


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """What an index holds of one chunk beside its payload, as a backup keeps it."""

    id: str
    dense: tuple[float, ...] | None
    sparse: SparseVector
    sentences: tuple[tuple[float, ...], ...] = ()
    bridge: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class TenantShard:
    """A shard of one tenant alone, on a Qdrant cluster."""

    tenant_id: str
    serves: bool
    """False while points are copied into it: the shared shard answers until then."""
    points: int
    left: int
    """Points of the tenant that are still in the shared shard though this one serves; they cost room only."""


@dataclass(frozen=True, slots=True)
class ScoredPoint:
    """A candidate from one arm of the index, best first in any list of them."""

    id: str
    document_id: str
    generation: int
    score: float


@dataclass(frozen=True, slots=True)
class Found:
    """Candidates of both arms of the index, each best first."""

    dense: list[ScoredPoint]
    sparse: list[ScoredPoint]


@dataclass(frozen=True, slots=True)
class ArmScores:
    """{point: score} of given points by each arm; hidden ones are absent."""

    dense: dict[str, float]
    sparse: dict[str, float]
    sentences: dict[str, float]


@dataclass(frozen=True, slots=True)
class IndexedPoint:
    """What a point of the index says of itself."""

    id: str
    document_id: str
    generation: int
    tenant_id: str
    collection_id: str
    groups: frozenset[str]

    @property
    def foreign(self) -> bool:
        """Whether it lacks what each of our points has."""
        return self.generation < 0


@dataclass(frozen=True, slots=True)
class Passage:
    """A search hit with its text, after pruning against SQL.

    score: fused rank score, comparable only within one result. relevance: calibrated to [0, 1], comparable across
    queries of one index version; answers are refused when the best relevance is under the calibrated threshold.
    hit_start, hit_end: the chunk that was found, where the passage was grown around it. pages: (offset, page) where
    each page begins inside, ascending; `page` is that of its start. title: the document's own.
    edition: when its document holds and of what it is an edition.
    """

    chunk_id: str
    document_id: str
    generation: int
    filename: str
    page: int | None
    heading: str | None
    start: int
    end: int
    text: str
    score: float
    relevance: float
    hit_start: int | None = None
    hit_end: int | None = None
    pages: tuple[tuple[int, int], ...] = ()
    title: str | None = None
    edition: DocumentEdition | None = None

    def page_at(self, offset: int) -> int | None:
        """Page of a place in the passage, by its offset in the document's text."""
        return next((page for start, page in reversed(self.pages) if start <= offset), self.page)


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn; role is 'system', 'user' or 'assistant'."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """An adapter version an engine can load. `digest` names its content; no two contents share a name."""

    family: str
    version: str
    digest: str
    path: str
    """Folder with adapter_config.json, adapter_model.safetensors, manifest.json."""

    @property
    def serving_name(self) -> str:
        """Name used inside engines: unique per content, never reused."""
        return f"{self.family}@{self.version}-{self.digest[:12]}"

    @property
    def stamp(self) -> str:
        """What answers are stamped with: FAMILY@VERSION."""
        return f"{self.family}@{self.version}"


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """The answer is one JSON object, of `schema` where there is one. Checked by `core.answer_format` before use."""

    name: str = "answer"
    schema: str | None = None
    """JSON Schema as canonical JSON text, so that formats compare and hash by content; None: any object."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation. The adapter is pinned here, before the first token, and never changes afterwards."""

    messages: tuple[Message, ...]
    adapter: AdapterRef | None
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    answer_format: AnswerFormat | None = None
    """None: free text."""
    tenant_id: str = ""
    """Whose turn it takes where several wait."""


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A finished generation. finish_reason: 'stop', 'length' or 'cancelled'."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    adapter: AdapterRef | None


@dataclass(frozen=True, slots=True)
class Citation:
    """A claim in the answer and the span in a source that supports it.

    answer[answer_start:answer_end] is the claim; document_text[start:end] == quote. `verified` only when the claim
    was found in that span by matching; never forced. edition: which edition its document is, as answers name it.
    """

    index: int
    answer_start: int
    answer_end: int
    document_id: str
    generation: int
    filename: str
    page: int | None
    start: int
    end: int
    quote: str
    verified: bool
    edition: str | None = None
