"""Plain text. The extracted text is the decoded file itself; blocks are paragraphs, headings that are plain, and items.

A line counts as a heading only on strong evidence: a Japanese section mark (■, ◆, 【…】), a wiki's `== Heading ==`,
capitals throughout, an underline of === or ---, or being the short first line of the file. A line that says one thing
by itself (a bullet, `label：value`, a row set in columns, what happened at 10:12) is an item of its own; the lines of a
machine's log are kept as code, to be cut between lines only.
"""

from __future__ import annotations

import re
from dataclasses import replace

from core.errors import ExtractionFailed
from core.types import Block, BlockKind, ExtractedDocument
from ingest.encoding import decode_text

_BLANK = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")
_MARKED = re.compile(r"(?:[■◆◇●▼□]\s{0,9}[^\s。：:][^。：:]{0,58}|【[^】\n]{1,50}】)$")
_WIKI = re.compile(r"(=(?: ?=){0,5}) ?([^=\s][^=]{0,76}?) ?\1$")
"""`== Heading ==`, and the spaced form of text collections, `= = Heading = =`."""
_CAPITALS = re.compile(r"[A-Z][A-Z0-9 &/,'()\-]{3,58}$")
_UNDERLINE = re.compile(r"(?:=|-|＝|―|─|━){3,}\s*$")
_STAMP = re.compile(
    r"[\[<(]?(?:[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}[T _,]{1,2}[0-9]{1,2}:[0-9]{2}"
    r"|[A-Z][a-z]{2} [ 0-9][0-9] [0-9]{2}:[0-9]{2}:)"
)
_STAMPED_SHARE = 0.25
_ITEM = re.compile(
    r"[ \t\u3000]{0,12}(?:[・•‣◦●○■□◆◇▪＊※→⇒]|[*+–-][ \t]|[0-9０-９]{1,3}[.)．）][ \t\u3000]?(?=\D)"
    r"|[（(][0-9０-９一二三四五六七八九十ア-ンa-zA-Z]{1,3}[)）]|[\u2460-\u2473]|[0-9０-９一二三四五六七八九十]{1,3}\u3000"
    r"|[0-9０-９]{1,2}[:：][0-9０-９]{2}[ \t\u3000])"
)
"""A bullet, a number, or a time of day."""
_FIELD = re.compile(r"[ \t\u3000]{0,12}[^\s：:。、,][^：:。、\n]{0,24}(?:：|:[ \t\u3000])[ \t\u3000]{0,9}\S")
"""`label：value`; a plain colon needs a space behind it, as 10:12 and https: have none."""
_COLUMNS = re.compile(r"\S(?:[ \u3000]{2,20}|\t{1,5})\S")
_GOES_ON = re.compile(r"[ぁ-ゖ、，,]\Z")
"""A line that ends so was broken in the middle of a sentence: 未達の主因は. Columns and items end in nouns."""
_SENTENCE_TAIL = ("す", "い", "る", "た", "ん", "ら", "む", "う", "く", "ず")
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
    blocks = text_blocks(text)
    title = text[blocks[0].start : blocks[0].end] if blocks and blocks[0].kind is BlockKind.HEADING else None
    return ExtractedDocument(
        text=text,
        blocks=tuple(blocks),
        media_type="text/plain",
        encoding=decoded.encoding,
        title=title,
        quality={"engine": "text", "replaced": decoded.replaced},
    )


def text_blocks(text: str, *, titled: bool = True) -> list[Block]:
    """Blocks of a plain text. titled: its first line may be its title; the first line of a mail's body is not."""
    blocks: list[Block] = []
    start = 0
    for gap in _BLANK.finditer(text):
        _add_paragraph(text, start, gap.start(), blocks)
        start = gap.end()
    _add_paragraph(text, start, len(text), blocks)
    if titled and len(blocks) > 1 and _is_title(text[blocks[0].start : blocks[0].end]):
        blocks[0] = replace(blocks[0], kind=BlockKind.HEADING, level=1)
    return blocks


def _is_title(first: str) -> bool:
    """One short line on top, set apart by an empty line, that does not read like a sentence or a salutation."""
    return "\n" not in first and len(first) <= _MAX_TITLE and not first.endswith(_SENTENCE_ENDS)


def _add_paragraph(text: str, start: int, end: int, blocks: list[Block]) -> None:
    """One stretch between empty lines: headings, a block per item, a block per indented Japanese paragraph."""
    while start and text[start - 1] in " \t\u3000":
        start -= 1  # the indent of the first line, which the empty line before it has taken
    lines = _lines(text, start, end)
    words = [text[line_start:line_end] for line_start, line_end in lines]
    stamped = sum(bool(_STAMP.match(line)) for line in words) if words and _STAMP.match(words[0]) else 0
    if stamped > 2 and stamped >= _STAMPED_SHARE * len(words):
        _append(text, start, end, blocks, BlockKind.CODE)
        return
    unwrapped = any(len(line) > _UNWRAPPED for line in words)
    items = _items(words)
    index = 0
    while index < len(lines):
        line_start, line_end = lines[index]
        underlined = index + 1 < len(lines) and _UNDERLINE.match(words[index + 1])
        alone = len(lines) == 1 and end < len(text) and _CAPITALS.match(words[index].strip())
        if underlined or alone or _is_marked(words[index]):
            wiki = _WIKI.match(words[index].strip())
            level = 1 if underlined and words[index + 1][0] in "=＝━" else 2
            level = wiki.group(1).count("=") if wiki else level
            if words[index].strip() and len(words[index].strip()) <= _MAX_HEADING:
                _append(text, line_start, line_end, blocks, BlockKind.HEADING, level=level)
                index += 2 if underlined else 1
                continue
        stop = index + 1
        while stop < len(lines) and not unwrapped and not _begins_block(words, stop, items):
            stop += 1
        kind = BlockKind.LIST_ITEM if index in items else BlockKind.PARAGRAPH
        _append(text, line_start, lines[stop - 1][1], blocks, kind)
        index = stop


def _is_marked(line: str) -> bool:
    line = line.strip()
    return len(line) <= _MAX_HEADING and bool(_MARKED.match(line) or _WIKI.match(line))


def _begins_block(words: list[str], at: int, items: set[int]) -> bool:
    """Whether a line is not the rest of the one above it."""
    line, above = words[at], words[at - 1]
    if at in items or _is_marked(line):
        return True
    if at - 1 in items and not line[:1].isspace() and (_FIELD.match(above) or _COLUMNS.search(above)):
        return True
    if not line.startswith("\u3000"):
        return False
    broken = bool(_GOES_ON.search(above.rstrip())) and not above.rstrip().endswith(_SENTENCE_TAIL)
    return not (broken and _indent(above) == _indent(line))


def _items(words: list[str]) -> set[int]:
    """Lines that say one thing by themselves. One alone among others may be chance: a sentence broken before `12. `."""
    marked = {at for at, line in enumerate(words) if _ITEM.match(line)}
    found = marked if len(marked) > 1 or 0 in marked else set()
    for pattern in (_FIELD, _COLUMNS):
        alike = {
            at for at, line in enumerate(words) if (pattern.match(line) if pattern is _FIELD else pattern.search(line))
        }
        if len(alike) > 1 and 2 * len(alike) >= len(words):
            found = found | alike
    return found


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


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
