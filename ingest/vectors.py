"""Which vectors a passage has: none in a language the embedder does not know, and its sentences' where they come free.

Ingest and repair must agree on this, or a mended index would rank otherwise than the one it was.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.language import passage_language
from core.ports import Embedder, SentenceEmbedder
from core.types import Language
from ingest.sentences import split_sentences

Vectors = tuple[tuple[float, ...] | None, tuple[tuple[float, ...], ...]]
"""Dense vector, vectors of the sentences."""


def passage_vectors(embedder: Embedder, passages: Sequence[tuple[str, str]]) -> list[Vectors]:
    """Vectors of (what is embedded, the passage in it), in their order."""
    found: list[Vectors] = [(None, ())] * len(passages)
    known = [place for place, (_, text) in enumerate(passages) if is_covered(text, embedder)]
    if not known:
        return found
    texts = [passages[place][0] for place in known]
    if isinstance(embedder, SentenceEmbedder):
        spans = [sentence_spans(*passages[place]) for place in known]
        dense, sentences = embedder.encode_sentences(texts, spans)
        for place, vector, parts in zip(known, dense.tolist(), sentences, strict=True):
            found[place] = (tuple(vector), tuple(map(tuple, parts.tolist())))
    else:
        for place, vector in zip(known, embedder.encode_passages(texts).tolist(), strict=True):
            found[place] = (tuple(vector), ())
    return found


def is_covered(text: str, embedder: Embedder) -> bool:
    """Whether the embedder was trained in the passage's language. Text without any letters counts as covered."""
    language = passage_language(text)
    return language is Language.OTHER or language in embedder.languages


def sentence_spans(embedded: str, text: str) -> list[tuple[int, int]]:
    """Spans of the sentences in what is embedded: the passage is its end."""
    passage = text.strip()
    shift = len(embedded) - len(passage)
    return [(shift + start, shift + end) for start, end in split_sentences(passage)]
