"""Plain text. The extracted text is the decoded file itself; blocks are paragraphs, with the headings that are plain.

A line counts as a heading only on strong evidence: a Japanese section mark (■, ◆, 【…】, 第3章, 第2条（…）), a wiki's
`== Heading ==`, capitals throughout, an underline of === or ---, or being the short first line of the file. Numbered
lines stay paragraphs: more often than not they are list items.
"""

from __future__ import annotations

import re
from dataclasses import replace

from core.errors import ExtractionFailed
from core.types import Block, BlockKind, ExtractedDocument
from ingest.encoding import decode_text

_BLANK = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")
_MARKED = re.compile(
    r"(?:[■◆◇●▼□]\s*[^\s。][^。]{0,58}|【[^】\n]{1,50}】"
    r"|第[0-9０-９一二三四五六七八九十百]{1,4}[章節編部条](?:の[0-9０-９一二三四五六七八九十]{1,2})?"
    r"(?:\s*[（(][^（(。]{1,40}[）)]|\s[^。]{1,50})?)$"
)
_WIKI = re.compile(r"(=(?: ?=){0,5}) ?([^=\s][^=]{0,76}?) ?\1$")
"""`== Heading ==`, and the spaced form of text collections, `= = Heading = =`."""
_CAPITALS = re.compile(r"[A-Z][A-Z0-9 &/,'()\-]{3,58}$")
_UNDERLINE = re.compile(r"(?:=|-|＝|―|─|━){3,}\s*$")
_MAX_HEADING = 80
_MAX_TITLE = 60
_UNWRAPPED = 240
"""A line longer than this was not broken to fit a page: in such a stretch every line is a paragraph."""
_SENTENCE_ENDS = ("。", ".", "!", "?", "！", "？", ",", "、", ":", "：", ";")


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
    if len(blocks) > 1 and _is_title(text[blocks[0].start : blocks[0].end]):
        blocks[0] = replace(blocks[0], kind=BlockKind.HEADING, level=1)
    title = text[blocks[0].start : blocks[0].end] if blocks and blocks[0].kind is BlockKind.HEADING else None
    return ExtractedDocument(
        text=text,
        blocks=tuple(blocks),
        media_type="text/plain",
        encoding=decoded.encoding,
        title=title,
        quality={"engine": "text", "replaced": decoded.replaced},
    )


def _is_title(first: str) -> bool:
    """One short line on top, set apart by an empty line, that does not read like a sentence or a salutation."""
    return "\n" not in first and len(first) <= _MAX_TITLE and not first.endswith(_SENTENCE_ENDS)


def _add_paragraph(text: str, start: int, end: int, blocks: list[Block]) -> None:
    """One stretch between empty lines: headings at its top, then a block per indented Japanese paragraph."""
    lines = _lines(text, start, end)
    unwrapped = any(line_end - line_start > _UNWRAPPED for line_start, line_end in lines)
    index = 0
    while index < len(lines):
        line_start, line_end = lines[index]
        line = text[line_start:line_end].strip()
        underlined = index + 1 < len(lines) and _UNDERLINE.match(text[lines[index + 1][0] : lines[index + 1][1]])
        alone = len(lines) == 1 and end < len(text) and _CAPITALS.match(line)
        wiki = _WIKI.match(line)
        if line and len(line) <= _MAX_HEADING and (underlined or alone or wiki or _MARKED.match(line)):
            level = 1 if underlined and text[lines[index + 1][0]] in "=＝━" else 2
            level = wiki.group(1).count("=") if wiki else level
            _append(text, line_start, line_end, blocks, BlockKind.HEADING, level=level)
            index += 2 if underlined else 1
            continue
        stop = index + 1
        while stop < len(lines) and not unwrapped and not text[lines[stop][0] : lines[stop][1]].startswith("\u3000"):
            following = text[lines[stop][0] : lines[stop][1]].strip()
            if _MARKED.match(following) or _WIKI.match(following):
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
