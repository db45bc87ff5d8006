from __future__ import annotations

import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from core.errors import Unavailable
from core.settings import IngestSettings
from core.types import Block, BlockKind, ExtractedDocument, Language
from ingest.extract.text import extract_text
from ingest.llama import EMBED_BATCH, PassageNode, embed_nodes, parse_document

ENGLISH = "Leave is 22 days. Ask 田中さん for more."
JAPANESE = "年次有給休暇は22日です。申請は PORTAL から行います。"


class Remembering:
    """An embedder of English that keeps what it was asked."""

    name, dim, max_tokens, digest = "remembering", 2, 256, "0"
    languages = frozenset({Language.ENGLISH})

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode_passages(self, texts: list[str]) -> NDArray[np.float32]:
        self.asked.extend(texts)
        return np.tile(np.array([1.0, 0.0], dtype=np.float32), (len(texts), 1))

    def encode_query(self, text: str) -> NDArray[np.float32]:
        return np.zeros(2, dtype=np.float32)

    def count_tokens(self, text: str) -> int:
        return len(text.split())


class SentenceWise(Remembering):
    """The same with a vector per sentence, which says where the sentence is."""

    def encode_sentences(
        self, texts: list[str], spans: list[list[tuple[int, int]]]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        self.sentences = [[text[start:end] for start, end in row] for text, row in zip(texts, spans, strict=True)]
        return self.encode_passages(texts), [np.array(row, dtype=np.float32) for row in spans]


def document() -> ExtractedDocument:
    text = f"{ENGLISH}\n{JAPANESE}"
    cut = len(ENGLISH)
    blocks = (
        Block(BlockKind.HEADING, 0, 0, level=1),
        Block(BlockKind.PARAGRAPH, 0, cut),
        Block(BlockKind.HEADING, cut, cut, level=1),
        Block(BlockKind.PARAGRAPH, cut + 1, len(text)),
    )
    return ExtractedDocument(text, blocks, "text/plain")


def embedded(embedder: Remembering) -> dict[str, tuple[object, object]]:
    nodes = parse_document(document(), "title", embedder.count_tokens, IngestSettings())
    return {item.chunk.text: (item.dense, item.sentences) for window in embed_nodes(nodes, embedder) for item in window}


def test_a_passage_in_a_language_the_embedder_does_not_know_has_no_dense_vector() -> None:
    embedder = Remembering()
    assert embedded(embedder) == {ENGLISH: ((1.0, 0.0), ()), JAPANESE: (None, ())}
    assert embedder.asked == [f"title\n{ENGLISH}"]


def test_sentences_are_embedded_where_they_stand_in_what_is_embedded() -> None:
    embedder = SentenceWise()
    found = embedded(embedder)
    assert embedder.sentences == [["Leave is 22 days. ", "Ask 田中さん for more."]]
    assert found[ENGLISH] == ((1.0, 0.0), ((6.0, 24.0), (24.0, 42.0)))
    assert found[JAPANESE] == (None, ())


def many_nodes() -> list[PassageNode]:
    text = "\n\n".join(f"Paragraph {n}. " + "word " * 150 for n in range(3 * EMBED_BATCH))
    nodes = parse_document(
        extract_text(text.encode(), max_chars=10**7), "t", lambda part: len(part.split()), IngestSettings()
    )
    assert len(nodes) > 2 * EMBED_BATCH
    return nodes


def test_the_next_window_is_embedded_while_this_one_is_used() -> None:
    second = threading.Event()

    class Watched(Remembering):
        def encode_passages(self, texts: list[str]) -> NDArray[np.float32]:
            found = super().encode_passages(texts)
            if len(self.asked) > EMBED_BATCH:
                second.set()
            return found

    embedder, nodes = Watched(), many_nodes()
    windows = embed_nodes(nodes, embedder)
    first = next(windows)
    assert second.wait(10)
    ordinals = [item.chunk.ordinal for window in (first, *windows) for item in window]
    assert ordinals == list(range(len(nodes)))


def test_a_failure_ahead_is_raised_in_its_turn_and_closing_ends_the_work() -> None:
    class Failing(Remembering):
        def encode_passages(self, texts: list[str]) -> NDArray[np.float32]:
            if self.asked:
                raise Unavailable("embedder is gone")
            return super().encode_passages(texts)

    windows = embed_nodes(many_nodes(), Failing())
    assert len(next(windows)) == EMBED_BATCH
    with pytest.raises(Unavailable, match="is gone"):
        next(windows)

    windows = embed_nodes(many_nodes(), Remembering())
    next(windows)
    windows.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("embed-ahead")]
