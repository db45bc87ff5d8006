"""Texts made to stall the cutting into passages: in proportion to their length, and it can be ended."""

from __future__ import annotations

import time

import pytest

from core.errors import Cancelled
from core.settings import IngestSettings
from core.types import ExtractedDocument
from generation.orders import without_orders
from ingest.chunk import chunk_document
from ingest.sentences import split_characters

KINDS = {
    "dots": ".",
    "marks": "\u0301",
    "flags": "\U0001f1e6",
    "family": "\U0001f468\u200d",
    "spaces": " ",
    "spaces and marks": " \u0301",
    "quotes": "。」",
    "letters": "a",
    "words": "a ",
    "open": "「",
}


def cut(text: str, look: object = None) -> list[str]:
    document = ExtractedDocument(text=text, blocks=(), media_type="text/plain")
    watch = look if callable(look) else (lambda: None)
    return [
        chunk.text for chunk in chunk_document(document, lambda part: len(part) // 4, IngestSettings(), None, watch)
    ]


def seconds(text: str) -> float:
    began = time.process_time()
    cut(text)
    without_orders(text)
    return time.process_time() - began


@pytest.mark.parametrize("kind", KINDS)
def test_time_grows_with_the_length_of_the_text(kind: str) -> None:
    small, large = (f"x{KINDS[kind] * (size // len(KINDS[kind]))}\u0301x" for size in (8_000, 32_000))
    at_most = 8 * max(0.02, min(seconds(small) for _ in range(2)))
    assert seconds(large) < at_most or seconds(large) < at_most


@pytest.mark.parametrize("kind", KINDS)
def test_no_passage_is_longer_than_the_budget_allows(kind: str) -> None:
    passages = cut(f"x{KINDS[kind] * 40_000}x")
    assert max(map(len, passages)) <= 1_300


def test_characters_cover_their_text_and_part_no_flag() -> None:
    text = "旗🇯🇵🇫🇷" * 2_000 + "か\u3099" * 2_000 + "👨‍👩‍👧" * 500
    spans = split_characters(text)
    assert "".join(text[start:end] for start, end in spans) == text
    assert {text[start:end] for start, end in spans} == {"旗", "🇯🇵", "🇫🇷", "か\u3099", "👨‍👩‍👧"}


def test_cutting_ends_when_it_is_told_to() -> None:
    calls = 0

    def look() -> None:
        nonlocal calls
        calls += 1
        if calls == 50:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        cut("a" * 200_000, look)
    assert calls == 50
