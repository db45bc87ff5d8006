"""From bytes to passage and citation: every offset points at exactly what it says, whatever is in the file.

The texts are put together from what breaks offsets: Japanese, half-width kana and their marks, emoji joined and
flagged, variation selectors, stacked combining marks, all line ends, marks of order and width, in every encoding that
holds them.
"""

from __future__ import annotations

import html
import io
import re
import unicodedata
from email.message import EmailMessage

import docx
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.errors import ExtractionFailed
from core.settings import IngestSettings
from core.text_folding import fold
from core.types import ExtractedDocument, Passage
from generation.citations import cite
from ingest.chunk import chunk_document
from ingest.encoding import decode_text
from ingest.extract import extract_document
from ingest.llama import chunks_of, parse_document
from ingest.sentences import split_sentences
from tests.budget import examples

PIECES = (
    "年次有給休暇は十二日である。", "ﾃｽﾄ用ﾊﾞｯｸﾞ、ｶﾞｲﾄﾞﾗｲﾝ。", "カ\u3099イト\u3099", "が", "ガ", "か\u3099",
    "㈱①㍿", "ｱﾞ", "「はい。」と言った。", "ＰＰＲ－９０８７", "葛\U000e0100城市", "辻\U000e0101",
    "𠮷野家", "﨑", "々〆ヵ", "Ａ４", "～〜", "　", "。", "、",
    "👨‍👩‍👧‍👦", "👩🏽‍🚀", "🇯🇵🇺🇸", "🏴\U000e0067\U000e0062\U000e0065\U000e007f", "❤️", "☎︎", "1️⃣", "🙂",
    "e\u0301", "o\u0302\u0323", "Z\u0351\u036b\u0343\u036a", "\u0301", " \u0301", "ﬁ", "İ", "ß", "각",
    "\u1100\u1161\u11a8", "क्षि", "กำ", "The gate opens at 7:30 a.m. on weekdays. ", "word ", "x" * 70,
    "\u200d", "\u200b", "\u202e", "\u00ad", "\ufeff", "\u00a0", "\t", " ",
)  # fmt: skip
LINES = ("\n", "\n\n", "\n\n\n")
SMALL = IngestSettings(chunk_tokens=32, chunk_chars=64, chunk_chars_cjk=32)
WORDS = re.compile(r"\w{1,6}|[^\w\s]")

texts = st.lists(st.sampled_from((*PIECES, *LINES)), min_size=1, max_size=40).map("".join)


def count_tokens(text: str) -> int:
    return len(WORDS.findall(text))


def visible(text: str) -> str:
    """What a reader sees of a text: white space and what `clean_text` drops are left out."""
    return re.sub(r"[\s\x00-\x1f\x7f\ufeff\u0085\u2028\u2029]", "", text)


def check(document: ExtractedDocument) -> None:
    """Offsets of blocks, chunks, nodes, sentences and citations on one document."""
    text = document.text
    assert not set("\r\ufeff\f\u0085\u2028\u2029") & set(text)
    position = 0
    for block in document.blocks:
        assert position <= block.start < block.end <= len(text)
        assert text[block.start : block.end].strip()
        position = block.end
    chunks = chunk_document(document, count_tokens, SMALL)
    assert chunks == chunks_of(parse_document(document, "題", count_tokens, SMALL)), "LlamaIndex moves nothing"
    borders = {match.end() for match in regex.finditer(r"\X", text)} | {0}
    position = 0
    for chunk in chunks:
        assert position <= chunk.start < chunk.end and chunk.text == text[chunk.start : chunk.end]
        assert chunk.start in borders and chunk.end in borders, "a character is torn"
        position = chunk.end
        spans = split_sentences(chunk.text)
        assert "".join(chunk.text[start:end] for start, end in spans) == chunk.text
        for start, end in spans:
            claim = chunk.text[start:end].strip()
            check_citations(text, chunk.start, chunk.end, f"{claim} [1]")
            check_citations(text, chunk.start, chunk.end, f"{unicodedata.normalize('NFKC', claim)} [1]")
    covered = "".join(chunk.text for chunk in chunks)
    blocks = "".join(text[block.start : block.end] for block in document.blocks) or text
    assert visible(covered) == visible(blocks), "nothing lost, nothing twice"


def check_citations(text: str, start: int, end: int, answer: str) -> None:
    passage = Passage("c", "d", 1, "f", None, None, start, end, text[start:end], 1.0, 1.0)
    for citation in cite(answer, [passage]):
        assert start <= citation.start <= citation.end <= end
        assert citation.quote == text[citation.start : citation.end]
        assert 0 <= citation.answer_start < citation.answer_end <= len(answer)


def read(data: bytes, name: str) -> ExtractedDocument | None:
    """The document; None where there is nothing to read in it."""
    try:
        return extract_document(data, name, max_chars=10**6)
    except ExtractionFailed as error:
        assert error.code in {"no_text", "garbled_text", "empty_file"}, error.code
        return None


@settings(max_examples=examples(60))
@given(texts, st.sampled_from(("\n", "\r\n", "\r")), st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "utf-32")))
@example("\ufeff\u0301年次。\n\n\u200d", "\r\n", "utf-8-sig")
@example("か\u3099\n\n\u3099き。", "\r", "utf-16")
def test_plain_text_in_any_unicode_encoding_with_any_line_end(text: str, line_end: str, encoding: str) -> None:
    document = read(("規程。" + text).replace("\n", line_end).encode(encoding), "a.txt")
    assert document is not None
    check(document)
    assert visible(document.text) == visible("規程。" + text)
    assert document.text == decode_text(("規程。" + text).encode()).text.strip("\n"), "line ends and BOM leave no trace"


@settings(max_examples=examples(20))
@given(texts, st.sampled_from(("cp932", "euc_jp", "iso2022_jp")), st.sampled_from(("\n", "\r\n")))
def test_what_a_legacy_encoding_holds_comes_back_the_same(text: str, encoding: str, line_end: str) -> None:
    held = text.replace("\u202e", "").encode(encoding, "ignore").decode(encoding)
    held = "社員は毎年、年次有給休暇を取ることができる。申請は所属長あてに行うものとする。\n" * 4 + held
    document = read(held.replace("\n", line_end).encode(encoding), "a.txt")
    assert document is not None
    check(document)
    assert visible(document.text) == visible(held)


def as_markdown(text: str) -> tuple[bytes, str]:
    return f"# 見出し\n\n{text}\n\n- {text}\n\n| a | b |\n|---|---|\n| x | {text.strip()} |\n".encode(), "a.md"


def as_html(text: str) -> tuple[bytes, str]:
    body = f"<h1>見出し</h1><p>{html.escape(text)}</p><table><tr><td>{html.escape(text)}</td><td>b</td></tr></table>"
    return f"<!doctype html><meta charset=utf-8><title>題</title>{body}".encode(), "a.html"


def as_csv(text: str) -> tuple[bytes, str]:
    quoted = text.replace('"', '""')
    return f'品名,説明\n茶,"{quoted}"\n{"ﾃｽﾄ"},b\n'.encode("utf-8-sig"), "a.csv"


def as_mail(text: str) -> tuple[bytes, str]:
    message = EmailMessage()
    message["Subject"] = "規程 " + "".join(text.split())[:20]
    message.set_content("本文です。\n" + text)
    return bytes(message), "a.eml"


def as_docx(text: str) -> tuple[bytes, str]:
    document = docx.Document()
    document.add_heading("見出し", 1)
    document.add_paragraph(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "", text))
    table = document.add_table(rows=1, cols=2)
    table.cell(0, 0).text, table.cell(0, 1).text = "左", text
    target = io.BytesIO()
    document.save(target)
    return target.getvalue(), "a.docx"


@pytest.mark.parametrize("made", [as_markdown, as_html, as_csv, as_mail, as_docx])
def test_every_format_keeps_its_offsets(made: object) -> None:
    @settings(max_examples=examples(20))
    @given(texts)
    def holds(text: str) -> None:
        document = read(*made(text))  # type: ignore[operator]
        assert document is not None
        check(document)

    holds()


@settings(max_examples=examples(60))
@given(texts)
def test_the_normaliser_never_decides_offsets(text: str) -> None:
    """NFKC changes lengths: what search compares is another string, and the passage stays the slice it was."""
    document = read(("規程。" + text).encode(), "a.txt")
    assert document is not None
    for chunk in chunk_document(document, count_tokens, SMALL):
        assert fold(fold(chunk.text)) == fold(chunk.text)
        assert chunk.text == document.text[chunk.start : chunk.end]
