"""Chunks: exact slices, whole paragraphs, headings with what follows them."""

from __future__ import annotations

import re

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from core.settings import IngestSettings
from core.types import Block, BlockKind, Chunk, ExtractedDocument
from ingest import chunk as chunk_module
from ingest.chunk import chunk_document
from ingest.extract.markdown import extract_markdown
from ingest.extract.text import extract_text
from tests.budget import examples

SETTINGS = IngestSettings()
TOKEN = re.compile(r"\w{1,6}|[^\w\s]")


def count_tokens(text: str) -> int:
    """Stands for WordPiece: about one token per word or mark."""
    return len(TOKEN.findall(text))


def chunks_of(document: ExtractedDocument, settings: IngestSettings = SETTINGS) -> list[Chunk]:
    chunks = chunk_document(document, count_tokens, settings)
    check(document, chunks)
    return chunks


def check(document: ExtractedDocument, chunks: list[Chunk]) -> None:
    """What holds for every document whatever is in it."""
    position = 0
    for ordinal, chunk in enumerate(chunks):
        assert chunk.ordinal == ordinal
        assert position <= chunk.start < chunk.end
        assert chunk.text == document.text[chunk.start : chunk.end]
        assert chunk.text.strip()
        position = chunk.end
    covered = "".join(chunk.text for chunk in chunks)
    blocks = "".join(document.text[block.start : block.end] for block in document.blocks) or document.text
    assert re.sub(r"\s", "", covered) == re.sub(r"\s", "", blocks)  # nothing lost, nothing twice


def test_a_paragraph_within_the_caps_stays_whole() -> None:
    english = ("The committee met on Tuesday and agreed on the budget. " * 16).strip()
    japanese = "委員会は火曜日に開かれ、予算案に合意した。" * 18
    assert 850 < len(english) <= 900 and 370 < len(japanese) <= 400
    document = extract_text(f"{english}\n\n{japanese}\n\n{english}".encode(), max_chars=10**6)
    assert [chunk.text for chunk in chunks_of(document)] == [english, japanese, english]


def test_small_paragraphs_under_one_heading_are_merged_and_headings_open_a_chunk() -> None:
    source = "# 就業規則\n\n## 休暇\n\n年次休暇は十五日。\n\n病気休暇は十日。\n\n## 手当\n\n日当は三千円。\n"
    first, second = chunks_of(extract_markdown(source.encode(), max_chars=10**6))
    assert first.heading == "就業規則 > 休暇"
    assert first.text == "就業規則\n\n休暇\n\n年次休暇は十五日。\n\n病気休暇は十日。"
    assert second.heading == "就業規則 > 手当"
    assert second.text == "手当\n\n日当は三千円。"


def test_a_long_paragraph_is_cut_between_sentences_into_similar_parts() -> None:
    text = "会議は毎週月曜日の午前十時から本社の第二会議室で開く。" * 40
    chunks = chunks_of(extract_text(text.encode(), max_chars=10**6))
    lengths = [len(chunk.text) for chunk in chunks]
    assert all(chunk.text.endswith("。") for chunk in chunks)
    assert max(lengths) <= SETTINGS.chunk_chars_cjk and min(lengths) > 0.6 * max(lengths)


def test_text_without_any_border_is_cut_within_the_caps() -> None:
    for text, cap in (("あ" * 5000, SETTINGS.chunk_chars_cjk), ("x" * 5000, SETTINGS.chunk_chars)):
        assert max(len(chunk.text) for chunk in chunks_of(extract_text(text.encode(), max_chars=10**6))) <= cap


def test_rows_of_a_long_table_stay_whole_and_carry_their_headers() -> None:
    rows = "\n".join(f"| 部品{number} | {number * 120}円 | 在庫あり |" for number in range(120))
    source = f"# 価格表\n\n| 品名 | 価格 | 在庫 |\n|---|---|---|\n{rows}\n"
    chunks = chunks_of(extract_markdown(source.encode(), max_chars=10**6))
    assert len(chunks) > 2
    assert chunks[0].text.startswith("価格表\n\n品名: 部品0 | 価格: 0円 | 在庫: 在庫あり\n")
    for chunk in chunks[1:]:
        assert chunk.heading is not None and chunk.heading.startswith("価格表")
        assert all(row.startswith("品名: 部品") and row.endswith("在庫: 在庫あり") for row in chunk.text.split("\n"))


def test_pages_are_those_where_chunks_begin() -> None:
    text = "一頁目の文。\n\n二頁目の文。" + "長い。" * 200
    blocks = (Block(BlockKind.PARAGRAPH, 0, 6, page=1), Block(BlockKind.PARAGRAPH, 8, len(text), page=2))
    pages = [chunk.page for chunk in chunks_of(ExtractedDocument(text, blocks, "application/pdf"))]
    assert pages[0] == 1 and set(pages[1:]) == {2}


_PIECES = st.sampled_from(
    [
        "あいう。", "e\u0301", "👨‍👩‍👧", "🇯🇵", "\r\n", "\n\n", " ", "　", "word ", "「はい。」", "か\u3099", "# 見出し",
        "| a | b |", "x" * 70, "…", " \u0301",
    ]
)  # fmt: skip


@settings(max_examples=examples(120))
@given(st.lists(_PIECES, max_size=60).map("".join), st.integers(64, 120), st.integers(32, 80))
def test_any_text_is_covered_exactly_and_no_character_is_torn(text: str, chars: int, chars_cjk: int) -> None:
    small = IngestSettings(chunk_tokens=32, chunk_chars=chars, chunk_chars_cjk=chars_cjk)
    document = ExtractedDocument(text, (), "text/plain")
    chunks = chunks_of(document, small) if text.strip() else []
    borders = {match.end() for match in regex.finditer(r"\X", text)} | {0}
    for chunk in chunks:
        assert chunk.start in borders and chunk.end in borders


@settings(max_examples=examples(80))
@given(st.lists(st.tuples(st.sampled_from(list(BlockKind)), _PIECES, st.integers(1, 9)), min_size=1, max_size=25))
def test_any_structure_is_covered_exactly(parts: list[tuple[BlockKind, str, int]]) -> None:
    text, blocks = "", []
    for kind, piece, repeat in parts:
        body = (piece * repeat).strip()
        if body:
            start = len(text)
            text += body + "\n\n"
            blocks.append(Block(kind, start, start + len(body), level=repeat if kind is BlockKind.HEADING else None))
    if blocks:
        small = IngestSettings(chunk_tokens=32, chunk_chars=80, chunk_chars_cjk=40)
        chunks_of(ExtractedDocument(text, tuple(blocks), "text/plain"), small)


WORDS = st.text(alphabet="ab1.,!é  \n\u3000年休が😀", max_size=80)


def token_starts(text: str) -> list[int]:
    """Where the stand-in's tokens begin."""
    return [found.start() for found in TOKEN.finditer(text)]


@given(st.lists(WORDS, min_size=1, max_size=30), st.sampled_from([200, 50_000]))
@settings(max_examples=examples(150))
def test_a_document_read_once_is_counted_exactly(paragraphs: list[str], slice_chars: int) -> None:
    document = extract_text("\n\n".join(paragraphs).encode(), max_chars=10**6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunk_module, "_SLICE_CHARS", slice_chars)
        small = IngestSettings(chunk_tokens=32, chunk_chars=64, chunk_chars_cjk=32)
        chunks = chunk_document(document, count_tokens, small, token_starts)
    check(document, chunks)
    assert [count_tokens(part.text) for part in chunks] == [part.token_count for part in chunks]


def test_counting_by_places_cuts_where_counting_texts_does() -> None:
    text = "\n\n".join(f"# Part {n}\n\n" + f"Sentence {n} has some words in it. " * n for n in range(1, 40))
    document = extract_markdown(text.encode(), max_chars=10**6)
    counted: list[str] = []

    def count(part: str) -> int:
        counted.append(part)
        return count_tokens(part)

    assert chunk_document(document, count, SETTINGS, token_starts) == chunk_document(document, count_tokens, SETTINGS)
    assert not counted
