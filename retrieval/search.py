"""Search: two arms, fusion, prune against SQL, collapse of near-copies, second stages, relevance. Steps are timed.

The index may run ahead of SQL or behind it (a half-ingested generation, a deletion under way); SQL decides. A hit whose
document is gone, being deleted, hidden from the caller or on another generation is dropped after the index returned it,
and more candidates are fetched when that leaves too few.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from sqlalchemy import select

from core.access import documents_visible, narrowed
from core.database import Database
from core.editions import DocumentEdition, is_newer
from core.language import language_of, passage_language
from core.ports import Bridge, Embedder, LexicalEncoder, Reranker, VectorIndex
from core.tables.documents import ChunkRow, Document, DocumentGeneration
from core.types import AccessFilter, DocumentStatus, Language, Passage, ScoredPoint, SparseVector
from retrieval.bridge import DEPTH, Hits, bridged_relevance, shuffle
from retrieval.clock import Clock
from retrieval.coverage import coverage
from retrieval.dictionary import Expansion, expansion_weights
from retrieval.diversity import POOL as DIVERSITY_POOL
from retrieval.diversity import diversify
from retrieval.editions import edition_of, siblings_of
from retrieval.expand import Expander, Place
from retrieval.filters import matching_documents, parse_filters
from retrieval.fusion import Fusion, default_fusion, fuse, similarities
from retrieval.lexical import tokenize, with_terms
from retrieval.other_words import OtherWords
from retrieval.relevance import RelevanceModel
from retrieval.similar import Likeness, is_near_copy, likeness
from retrieval.text import indexed_text

_MAX_CANDIDATES = 2_000
_SQL_BATCH = 500
_HITS_A_SECTION = 4
"""Hits looked at for each passage wanted when passages grow: several of them may lie in one section."""
_OWN_READ = 3
"""Passages in the question's own language that tell how much of it they cover."""
_NAMED_DOCUMENTS = 2_000
"""Up to so many documents are named to the index itself. More are no rare find: they are picked from its hits."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Passages best first, with what an answer needs to decide whether they are good enough."""

    passages: list[Passage]
    timings_ms: dict[str, float]
    refusal_threshold: float
    language: Language
    index_version: str = ""
    """Version that the whole result came from; filled in by `retrieval.live`."""
    embedder: str = ""
    siblings: Mapping[str, Sequence[DocumentEdition]] = field(default_factory=dict)
    """{document id: other editions of what it is an edition of}, for `core.editions.edition_fit`."""
    bridge: Bridge | None = field(default=None, repr=False)
    """What compares meanings across languages; None without a multilingual arm."""

    @property
    def best_relevance(self) -> float:
        """Highest relevance among the passages; 0 when there is none."""
        return max((passage.relevance for passage in self.passages), default=0.0)


@dataclass(frozen=True, slots=True)
class _Query:
    text: str
    language: Language
    dense: Sequence[float] | None
    sparse: SparseVector
    mass: float
    """Sum of the weights of the question's own terms."""
    expansions: tuple[Expansion, ...] = ()


@dataclass(frozen=True, slots=True)
class Arms:
    """Scores of a query's candidates by both arms, and what `retrieval.fusion.fuse` needs beside them."""

    similar: Mapping[str, float] | None
    """None when the embedder does not cover the query's language."""
    bm25: Mapping[str, float]
    cosines: Mapping[str, float]
    mass: float
    default: Fusion


@dataclass(frozen=True, slots=True)
class Candidates:
    """The arms of one query, with (document id, file name) of each candidate that its caller may see."""

    language: Language
    arms: Arms
    documents: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Loaded:
    chunk: ChunkRow
    document: Document
    title: str | None


class Searcher:
    """Search over one index version. Thread-safe."""

    def __init__(
        self,
        db: Database,
        index: VectorIndex,
        embedder: Embedder,
        lexical: LexicalEncoder,
        relevance: RelevanceModel,
        *,
        candidates: int,
        refusal_threshold: float | None = None,
        diversity: float = 0.0,
        reranker: Reranker | None = None,
        rerank_candidates: int = 30,
        expander: Expander | None = None,
        expand_tokens: int = 0,
        bridge: Bridge | None = None,
        other_words: OtherWords | None = None,
    ) -> None:
        """candidates: taken from each arm. refusal_threshold: overrides the calibrated one. diversity: see
        `retrieval.diversity`. reranker: orders the best `rerank_candidates` anew. expand_tokens: see
        `retrieval.expand`.
        """
        self._db = db
        self._index = index
        self._embedder = embedder
        self._lexical = lexical
        self._relevance = relevance
        self._candidates = candidates
        self._refusal_threshold = refusal_threshold
        self._diversity = diversity
        self._reranker = reranker
        self._rerank_candidates = rerank_candidates
        self._expander = expander
        self._expand_tokens = expand_tokens
        self._bridge = bridge
        self._other_words = other_words
        self._lock = Lock()

    def use_relevance(self, relevance: RelevanceModel) -> None:
        """Put a new calibration in force for the searches that start after it."""
        with self._lock:
            self._relevance = relevance

    def search(
        self,
        query: str,
        access: AccessFilter,
        limit: int,
        *,
        document_filters: Mapping[str, Any] | None = None,
        diversity: float | None = None,
        expand_tokens: int | None = None,
    ) -> SearchResult:
        """Best `limit` passages that `access` allows, best first.

        document_filters: as docs/filters.md says. diversity, expand_tokens: in place of the configured ones.

        Raises:
            InvalidInput: `filter_invalid`.
        """
        clock = Clock()
        relevance = self._relevance
        with clock.step("filter"):
            access, wanted = self._filtered(access, document_filters)
        asked = self._encode(query, access.tenant_id, clock)
        threshold = self._threshold(relevance, asked)
        if access.document_ids is not None and not access.document_ids:
            return SearchResult([], clock.finish(), threshold, asked.language)
        spread = self._diversity if diversity is None else diversity
        budget = self._expand_tokens if expand_tokens is None else expand_tokens
        fewest = max(
            limit if budget == 0 else limit * _HITS_A_SECTION,
            self._rerank_candidates if self._reranker is not None else 0,
            DIVERSITY_POOL if spread > 0 else 0,
        )
        depth = max(self._candidates, fewest)
        similar = self._across(asked, access, clock)
        while True:
            dense, sparse = self._arms(asked, access, depth, clock)
            arms = self._score(asked, dense, sparse, access, clock)
            with clock.step("fuse"):
                hits = _ranked(arms, relevance.fusion(asked.language) or arms.default)
            with clock.step("load"):
                loaded = self._load([*hits, *similar], access, wanted)
            exhausted = len(dense) < depth and len(sparse) < depth
            hits = {key: hits[key] for key in hits if key in loaded}
            with clock.step("bridge"):
                hits = _bridged(asked, hits, similar, arms, loaded)
            with clock.step("fuse"):
                kept = _without_copies(hits, loaded, fewest)
            if len(kept) >= limit or exhausted or depth >= _MAX_CANDIDATES:
                break
            depth = min(depth * 4, _MAX_CANDIDATES)
        scores = {key: hits[key][0] for key in kept}
        if self._reranker is not None:
            with clock.step("rerank"):
                read = [_whole(loaded[key]) for key in kept]
                scores = dict(zip(kept, self._reranker.score(query, read), strict=True))
                kept = sorted(kept, key=lambda key: -scores[key])
        best = kept
        if spread > 0:
            with clock.step("diversify"):
                best = diversify(kept, scores, lambda key: Counter(tokenize(loaded[key].chunk.text)), limit, spread)
        with clock.step("expand"):
            placed = self._places([loaded[key].chunk for key in best], limit, budget)
        passages = [
            _passage(
                asked, relevance, scores[chunk.id], hits[chunk.id][1], similar.get(chunk.id), loaded[chunk.id], place
            )
            for chunk, place in placed
        ]
        with clock.step("editions"), self._db.read() as session:
            found = {one.document_id: one.edition for one in passages if one.edition is not None}
            siblings = siblings_of(session, access, found.values())
        return SearchResult(passages, clock.finish(), threshold, asked.language, siblings=siblings, bridge=self._bridge)

    def _places(self, chunks: Sequence[ChunkRow], limit: int, budget: int) -> list[tuple[ChunkRow, Place]]:
        if self._expander is not None:
            return self._expander.places(chunks, limit, budget)
        return [(chunk, Place(chunk.start, chunk.end, chunk.text, (), grown=False)) for chunk in chunks[:limit]]

    def _threshold(self, relevance: RelevanceModel, query: _Query) -> float:
        return relevance.threshold(query.language) if self._refusal_threshold is None else self._refusal_threshold

    def _filtered(
        self, access: AccessFilter, filters: Mapping[str, Any] | None
    ) -> tuple[AccessFilter, frozenset[str] | None]:
        """The access filter for the index, and the documents that pass where they are too many to name to it."""
        if not filters:
            return access, None
        parsed = parse_filters(filters)
        with self._db.read() as session:
            wanted = matching_documents(session, access, parsed)
        return (narrowed(access, wanted), None) if len(wanted) <= _NAMED_DOCUMENTS else (access, wanted)

    def candidates(self, query: str, access: AccessFilter) -> Candidates:
        """What both arms say of a query's candidates, and whose passages they are: for choosing a fusion."""
        clock = Clock()
        asked = self._encode(query, access.tenant_id, clock)
        arms = self._score(asked, *self._arms(asked, access, self._candidates, clock), access, clock)
        loaded = self._load([*arms.bm25, *(arms.similar or {})], access, None)
        documents = {key: (item.document.id, item.document.filename) for key, item in loaded.items()}
        return Candidates(asked.language, arms, documents)

    def _encode(self, query: str, tenant_id: str, clock: Clock) -> _Query:
        with clock.step("embed"):
            language = language_of(query)
            covered = language in self._embedder.languages
            dense = self._embedder.encode_query(query).tolist() if covered else None
            sparse = self._lexical.encode_query(query)
            mass = sum(sparse.values)
            found: tuple[Expansion, ...] = ()
            if self._other_words is not None and self._lexical.idf:  # learnt weights have no place for terms of ours
                found = tuple(self._other_words.of(tenant_id, query))
                sparse = with_terms(sparse, expansion_weights(found))
            return _Query(query, language, dense, sparse, mass, found)

    def _across(self, query: _Query, access: AccessFilter, clock: Clock) -> dict[str, float]:
        """Similarity of the nearest passages of all languages; empty without a bridge."""
        if self._bridge is None or query.language is Language.OTHER:
            return {}
        with clock.step("bridge"):
            vector = self._bridge.encode_query(query.text).tolist()
            return {point.id: point.score for point in self._index.search_bridge(vector, access, DEPTH)}

    def _arms(
        self, query: _Query, access: AccessFilter, depth: int, clock: Clock
    ) -> tuple[list[ScoredPoint], list[ScoredPoint]]:
        with clock.step("index"):
            found = self._index.find(query.dense, query.sparse, access, depth)
        return found.dense, found.sparse

    def _score(
        self,
        query: _Query,
        dense: list[ScoredPoint],
        sparse: list[ScoredPoint],
        access: AccessFilter,
        clock: Clock,
    ) -> Arms:
        """Both arms' scores of all candidates."""
        cosines = {point.id: point.score for point in dense}
        bm25 = {point.id: point.score for point in sparse}
        similar: dict[str, float] | None = None
        sentences: dict[str, float] = {}
        if query.dense is not None:
            with clock.step("index"):
                other = self._index.score(
                    query.dense,
                    query.sparse,
                    access,
                    by_dense=[key for key in bm25 if key not in cosines],
                    by_sparse=[key for key in cosines if key not in bm25],
                    by_sentences=list(cosines | bm25),
                )
            bm25 |= other.sparse
            cosines |= other.dense
            sentences = other.sentences
            similar = similarities(cosines, sentences)
        # Learnt weights of a query say nothing about the score of a full match.
        mass = query.mass if self._lexical.idf else 0.0
        return Arms(similar, bm25, cosines, mass, default_fusion(sentences))

    def _load(self, hits: Iterable[str], access: AccessFilter, wanted: frozenset[str] | None) -> dict[str, _Loaded]:
        ids = list(dict.fromkeys(hits))
        loaded: dict[str, _Loaded] = {}
        with self._db.read() as session:
            for start in range(0, len(ids), _SQL_BATCH):
                rows = session.execute(
                    select(ChunkRow, Document, DocumentGeneration.title)
                    .join(Document, Document.id == ChunkRow.document_id)
                    .outerjoin(
                        DocumentGeneration,
                        (DocumentGeneration.document_id == ChunkRow.document_id)
                        & (DocumentGeneration.generation == ChunkRow.generation),
                    )
                    .where(
                        ChunkRow.id.in_(ids[start : start + _SQL_BATCH]),
                        ChunkRow.generation == Document.active_generation,
                        Document.status != DocumentStatus.DELETING,
                        documents_visible(access),
                    )
                )
                for chunk, document, title in rows:
                    if wanted is None or document.id in wanted:
                        loaded[chunk.id] = _Loaded(chunk, document, title)
        return loaded


def _ranked(arms: Arms, fusion: Fusion) -> Hits:
    """{id: (fused score, cosine)}, best first."""
    fused = fuse(arms.similar, arms.bm25, arms.mass, fusion)
    return {key: (fused[key], arms.cosines.get(key)) for key in sorted(fused, key=lambda key: (-fused[key], key))}


def _bridged(
    query: _Query, hits: Hits, similar: Mapping[str, float], arms: Arms, loaded: Mapping[str, _Loaded]
) -> Hits:
    """`hits` and what the bridge found, in one ranking."""
    seen = {key: score for key, score in similar.items() if key in loaded}
    if not seen:
        return hits
    languages = {key: passage_language(loaded[key].chunk.text) for key in {*hits, *seen}}
    own = [key for key in hits if languages[key] in (query.language, Language.OTHER)][:_OWN_READ]
    covered = max((coverage(query.text, _whole(loaded[key]), query.expansions).content for key in own), default=0.0)
    scale = max(arms.mass, *arms.bm25.values(), 1e-9)
    shared = {key: score / scale for key, score in arms.bm25.items()}
    return shuffle(hits, seen, shared, languages, query.language, covered)


def _without_copies(hits: Iterable[str], loaded: Mapping[str, _Loaded], limit: int) -> list[str]:
    """First `limit` hits without near-copies of better ones. Two editions that say the same both stay."""
    best: list[str] = []
    kept: list[tuple[Likeness, Document]] = []
    for key in hits:
        if len(best) == limit:
            break
        own, document = likeness(loaded[key].chunk.text), loaded[key].document
        if not any(is_near_copy(own, other) and not _other_edition(document, of) for other, of in kept):
            kept.append((own, document))
            best.append(key)
    return best


def _other_edition(one: Document, other: Document) -> bool:
    """Whether one takes the other's place, or had it taken: which of them is asked for is not told here."""
    if one.id == other.id or one.edition_family is None or one.edition_family != other.edition_family:
        return False
    return is_newer(edition_of(one), edition_of(other)) is not None


def _whole(item: _Loaded) -> str:
    return indexed_text(item.document.filename, item.title, item.chunk.heading, item.chunk.text)


def _passage(
    query: _Query,
    model: RelevanceModel,
    score: float,
    cosine: float | None,
    similarity: float | None,
    item: _Loaded,
    place: Place,
) -> Passage:
    """A hit as a passage. Its relevance is that of the chunk that was found: this is what was calibrated."""
    chunk, document = item.chunk, item.document
    relevance = model.relevance(query.language, cosine, coverage(query.text, _whole(item), query.expansions))
    if similarity is not None and passage_language(chunk.text) not in (query.language, Language.OTHER):
        relevance = max(relevance, bridged_relevance(similarity))
    return Passage(
        chunk_id=chunk.id,
        document_id=chunk.document_id,
        generation=chunk.generation,
        filename=document.filename,
        page=place.pages[0][1] if place.pages else chunk.page,
        heading=chunk.heading,
        start=place.start,
        end=place.end,
        text=place.text,
        score=score,
        relevance=relevance,
        hit_start=chunk.start if place.grown else None,
        hit_end=chunk.end if place.grown else None,
        pages=place.pages,
        title=item.title,
        edition=edition_of(document),
    )
