"""What one package asks of another, as protocols. Implementations live below `retrieval`, `generation` and `core`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from core.types import (
    AccessFilter,
    AdapterRef,
    ArmScores,
    Found,
    GenerationRequest,
    GenerationResult,
    IndexedPoint,
    IndexPoint,
    Language,
    ScoredPoint,
    SparseVector,
    StoredVectors,
    TenantShard,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Embedder(Protocol):
    """Dense text embedder."""

    name: str
    dim: int
    max_tokens: int
    languages: frozenset[Language]
    """Languages in which its vectors mean something; fusion gives the dense arm no say in others."""
    digest: str
    """sha256 over the weights, the tokenizer and the pooling configuration."""
    truncated_total: int
    """Texts cut at `max_tokens` since it was loaded."""

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed passages: float32 (len(texts), dim), rows L2-normalised, order kept; over-long texts cut at the end."""
        ...

    def encode_query(self, text: str) -> NDArray[np.float32]:
        """Embed one query: float32 (dim,), L2-normalised."""
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` without special tokens."""
        ...


@runtime_checkable
class TokenPlaces(Protocol):
    """An embedder whose tokens end at white space, and that tells where each is: a document is then read once."""

    def token_starts(self, text: str) -> list[int]:
        """Code-point offsets at which the tokens of `text` begin, ascending, without special tokens."""
        ...


@runtime_checkable
class SentenceEmbedder(Protocol):
    """An embedder that also tells a passage's sentences apart, from the same forward pass."""

    def encode_sentences(
        self, texts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Vectors of passages, as `encode_passages`, and of the sentences in each.

        spans: code-point offsets of the sentences of each text. Sentence vectors: float32 (n, dim), rows L2-normalised;
        a sentence beyond `max_tokens` has none.
        """
        ...


@runtime_checkable
class TokenEmbedder(Protocol):
    """An embedder that also gives a vector per token, for late interaction."""

    name: str

    def encode_tokens(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Vectors of each text's tokens: float32 (tokens, dim), rows L2-normalised, order kept."""
        ...


class Bridge(Protocol):
    """An encoder that puts texts of several languages into one space, for search across languages. Thread-safe."""

    name: str
    dim: int
    digest: str
    """sha256 over what its vectors depend on."""

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed passages: float32 (len(texts), dim), rows L2-normalised, order kept."""
        ...

    def encode_query(self, text: str) -> NDArray[np.float32]:
        """Embed one query: float32 (dim,), L2-normalised."""
        ...

    def encode_with_tokens(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """As `encode_passages`, and a vector for each token of each text: float32 (tokens, dim), rows L2-normalised."""
        ...


class Reranker(Protocol):
    """Second stage of a search: reads the query with each of the best passages. Thread-safe."""

    name: str

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """Relevance of each passage to the query in [0, 1], order kept."""
        ...


class LexicalEncoder(Protocol):
    """Text to sparse term weights, the same code on both sides."""

    digest: str
    idf: bool
    """Whether the index multiplies by the IDF of the tenant's points: yes for BM25 weights, no for learnt ones."""

    def encode_passage(self, text: str) -> SparseVector:
        """Weights of a stored passage."""
        ...

    def encode_query(self, text: str) -> SparseVector:
        """Weights of a query."""
        ...


class VectorIndex(Protocol):
    """One collection of points with a dense and a sparse vector each. Thread-safe."""

    shared: bool
    """Whether other processes read, write, make and drop it as well."""

    def ensure(self) -> None:
        """Make what is not there (any more)."""
        ...

    def upsert(self, points: Sequence[IndexPoint]) -> None:
        """Write points; the same id overwrites."""
        ...

    def delete_document(self, document_id: str, *, tenant_id: str, keep_generation: int | None = None) -> None:
        """Drop all points of a tenant's document, or all but those of one generation."""
        ...

    def set_access(self, document_id: str, *, tenant_id: str, collection_id: str, groups: Sequence[str]) -> None:
        """Change the payload that filters need on all points of a document; vectors stay as they are."""
        ...

    def delete_points(self, ids: Sequence[str], *, tenant_id: str | None = None) -> None:
        """Drop points by id; unknown ids are ignored. tenant_id: whose they are; None looks in every tenant's place."""
        ...

    def search_dense(
        self, vector: Sequence[float], access: AccessFilter, limit: int, *, exact: bool = False
    ) -> list[ScoredPoint]:
        """Nearest by cosine, best first. exact: compare every point that passes, whatever it takes."""
        ...

    def search_sparse(self, vector: SparseVector, access: AccessFilter, limit: int) -> list[ScoredPoint]:
        """Best by BM25, best first; points sharing no term are absent.

        IDF is counted over the tenant's points, those of the collection where `access` names one.
        """
        ...

    def find(self, dense: Sequence[float] | None, sparse: SparseVector, access: AccessFilter, limit: int) -> Found:
        """`search_dense` and `search_sparse` at once; without a dense vector its arm finds nothing."""
        ...

    def score(
        self,
        dense: Sequence[float],
        sparse: SparseVector,
        access: AccessFilter,
        *,
        by_dense: Sequence[str],
        by_sparse: Sequence[str],
        by_sentences: Sequence[str],
    ) -> ArmScores:
        """`score_dense`, `score_sparse` and `score_sentences` of some points each, at once."""
        ...

    def score_dense(self, vector: Sequence[float], ids: Sequence[str], access: AccessFilter) -> dict[str, float]:
        """Cosine of the given points; those that the filter hides are absent."""
        ...

    def search_bridge(self, vector: Sequence[float], access: AccessFilter, limit: int) -> list[ScoredPoint]:
        """Nearest by the cosine of the bridge's vectors, best first; nothing where the index has none."""
        ...

    def score_sentences(self, vector: Sequence[float], ids: Sequence[str], access: AccessFilter) -> dict[str, float]:
        """Cosine of the nearest sentence of the given points; hidden ones and ones without sentences are absent."""
        ...

    def score_sparse(self, vector: SparseVector, ids: Sequence[str], access: AccessFilter) -> dict[str, float]:
        """BM25 of the given points, on the scale of `search_sparse`; those sharing no term are absent."""
        ...

    def count(
        self, *, tenant_id: str | None = None, document_id: str | None = None, generation: int | None = None
    ) -> int:
        """Exact number of points, of a tenant, of its document, of one generation of that."""
        ...

    def scan(self) -> Iterator[IndexedPoint]:
        """What every point says of itself, for doctor."""
        ...

    def vectors(self) -> Iterator[StoredVectors]:
        """The vectors of every point, ordered by id, for backup."""
        ...

    def purge(self, step: Callable[[], None]) -> bool:
        """Write the storage anew, so that no file holds bytes of a deleted point; False where that is a server's own
        business. step: called between batches; what it raises ends the work and leaves all as it was.
        """
        ...

    def flush(self) -> None:
        """Return when all writes so far are on disk."""
        ...

    def flush_soon(self) -> None:
        """Return at once; all writes so far are on disk within seconds. The death of the process loses none of them."""
        ...

    def close(self) -> None:
        """Flush and give up the lock."""
        ...


@runtime_checkable
class PlacesTenants(Protocol):
    """An index that can keep some tenants apart from the rest."""

    @property
    def keeps_apart(self) -> bool:
        """Whether it was made so that it can."""
        ...

    def place(self, own: Collection[str], step: Callable[[float], None]) -> None:
        """Keep the tenants of `own` apart, each by itself, and all others together, while everything is served.

        step: called with the fraction done; what it raises ends the work, which is taken up when asked again.
        """
        ...

    def tenant_shards(self) -> list[TenantShard]:
        """Tenants that are kept apart, or are on their way."""
        ...


class GenerationHandle(Protocol):
    """A running generation. Iterating yields text pieces as they come (never half a character)."""

    def __iter__(self) -> Iterator[str]: ...

    def cancel(self) -> None:
        """Stop soon; iteration then ends and `result` says 'cancelled'. Safe from any thread, and twice."""
        ...

    def result(self) -> GenerationResult:
        """Block until finished.

        Raises:
            Unavailable: the engine stopped.
            AdapterRefused: the pinned adapter could not be loaded.
        """
        ...


class Engine(Protocol):
    """A generator. Many threads may submit at once; requests are batched inside."""

    base_model: str
    """Name and short digest of the base, as answers are stamped."""

    def submit(self, request: GenerationRequest) -> GenerationHandle:
        """Queue a generation.

        Raises:
            Unavailable: the queue is full or the engine is stopped.
            TooLarge: prompt and `max_tokens` do not fit the context window.
        """
        ...

    def ensure_adapter(self, adapter: AdapterRef) -> None:
        """Load and verify an adapter (digests, base, fingerprint) so that the next request finds it.

        Raises:
            AdapterRefused: it does not fit or has no effect.
        """
        ...

    def retire_adapter(self, adapter: AdapterRef) -> None:
        """Unload when the last request that pinned it is done."""
        ...

    def loaded_adapters(self) -> Sequence[str]:
        """Serving names in memory now."""
        ...

    def count_prompt_tokens(self, messages: Sequence[object]) -> int:
        """Tokens of the rendered prompt."""
        ...

    def ping(self) -> str:
        """What generates, when it can.

        Raises:
            Unavailable: it cannot.
        """
        ...

    def close(self) -> None:
        """Refuse new work, finish or cancel what runs, free memory."""
        ...


class BlobStore(Protocol):
    """Bytes by SHA-256. Writes are atomic and idempotent."""

    def put(self, data: bytes) -> str:
        """Store and return the hex digest."""
        ...

    def get(self, digest: str) -> bytes:
        """Raises NotFound."""
        ...

    def put_file(self, path: Path) -> str:
        """Store a file's bytes without holding them in memory; returns the hex digest."""
        ...

    def copy_to(self, digest: str, path: Path) -> int:
        """Write a blob into a file without holding it in memory; returns its size in bytes.

        Raises:
            NotFound: it is not there.
            Unavailable: `blob_damaged`: its bytes are not what its name says.
        """
        ...

    def list(self) -> Iterator[tuple[str, int]]:
        """Every blob with its size in bytes."""
        ...

    def exists(self, digest: str) -> bool:
        """Whether the blob is there."""
        ...

    def delete(self, digest: str) -> None:
        """Drop; unknown digests are ignored."""
        ...


class TaskQueue(Protocol):
    """Where a committed outbox row is sent. The database stays the truth; this is only a hint to a worker."""

    def send(self, task: str, arguments: Mapping[str, str | int], queue: str, priority: int) -> None:
        """Publish one task message.

        Raises:
            Unavailable: the broker does not answer; the sweeper sends it later.
        """
        ...
