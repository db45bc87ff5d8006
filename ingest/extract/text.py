"""Plain text. The extracted text is the decoded file itself; blocks are paragraphs, with the headings that are plain.

A line counts as a heading only on strong evidence: a Japanese section mark (■, ◆, 【…】, 第3章) or an underline of
=== or --- below it. Numbered lines stay paragraphs: more often than not they are list items.
"""

from __future__ import annotations

import re

from core.errors import ExtractionFailed
from core.types import Block, BlockKind, ExtractedDocument
from ingest.encoding import decode_text

_BLANK = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")
_MARKED = re.compile(
    r"(?:[■◆◇●▼□]\s*\S.{0,58}|【[^】\n]{1,50}】|第[0-9０-９一二三四五六七八九十百]{1,4}[章節編部](?:\s.{0,50})?)$"
)
_UNDERLINE = re.compile(r"(?:=|-|＝|―|─|━){3,}\s*$")
_MAX_HEADING = 80


def extract_text(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a plain-text file."""
    decoded = decode_text(data)
    text = decoded.text.strip("\n")
    if len(text) > max_chars:
        raise ExtractionFailed(
            f"the text is longer than {max_chars} characters; split the document",
            code="text_too_long",
            extra={"limit": max_chars},
        )
    blocks: list[Block] = []
    start = 0
    for gap in _BLANK.finditer(text):
        _add_paragraph(text, start, gap.start(), blocks)
        start = gap.end()
    _add_paragraph(text, start, len(text), blocks)
    title = next((text[b.start : b.end] for b in blocks if b.kind is BlockKind.HEADING), None)
    return ExtractedDocument(
        text=text,
        blocks=tuple(blocks),
        media_type="text/plain",
        encoding=decoded.encoding,
        title=title,
        quality={"engine": "text", "replaced": decoded.replaced},
    )


def _add_paragraph(text: str, start: int, end: int, blocks: list[Block]) -> None:
    """One stretch between empty lines: headings at its top, then a block per indented Japanese paragraph."""
    lines = _lines(text, start, end)
    index = 0
    while index < len(lines):
        line_start, line_end = lines[index]
        line = text[line_start:line_end].strip()
        underlined = index + 1 < len(lines) and _UNDERLINE.match(text[lines[index + 1][0] : lines[index + 1][1]])
        if line and len(line) <= _MAX_HEADING and (underlined or _MARKED.match(line)):
            level = 2 if underlined and text[lines[index + 1][0]] in "-―─" else 1
            _append(text, line_start, line_end, blocks, BlockKind.HEADING, level=level)
            index += 2 if underlined else 1
            continue
        stop = index + 1
        while stop < len(lines) and not text[lines[stop][0] : lines[stop][1]].startswith("\u3000"):
            if _MARKED.match(text[lines[stop][0] : lines[stop][1]].strip()):
                break
            stop += 1
        _append(text, line_start, lines[stop - 1][1], blocks, BlockKind.PARAGRAPH)
        index = stop


def _lines(text: str, start: int, end: int) -> list[tuple[int, int]]:
    spans, position = [], start
    while position < end:
        stop = text.find("\n", position, end)
        stop = end if stop < 0 else stop
        spans.append((position, stop))
        position = stop + 1
    return spans


def _append(text: str, start: int, end: int, blocks: list[Block], kind: BlockKind, level: int | None = None) -> None:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start < end:
        blocks.append(Block(kind=kind, start=start, end=end, level=level))
