r"""RTF through striprtf. Its code page (`\ansicpg932`) says how bytes are read; of structure, tables are kept.

Struck, hidden and deleted text is left out and counted, in characters.
"""

from __future__ import annotations

import re
from collections import Counter

from core.errors import ExtractionFailed
from core.types import BlockKind, ExtractedDocument
from ingest.extract.builder import TextBuilder
from ingest.extract.grid import Cell, write_table

_FONT_TABLE = "{\\fonttbl"
_OPEN, _CLOSE, _PLAIN = "\ufdd0", "\ufdd1", "\ufdd2"
_MARKS = {"strike": "\ufdd3", "striked": "\ufdd3", "v": "\ufdd5", "deleted": "\ufdd7"}
"""Noncharacters, which no text holds: a property is switched on by its mark, and off by the one after it."""
_REASONS = {"\ufdd3": "struck", "\ufdd5": "hidden", "\ufdd7": "deleted"}
_TOKEN = re.compile(r"\\[\\{}*]|([{}])|\\(strike|striked|v|deleted|plain)(-?[0-9]{1,6})?(?![a-zA-Z0-9]) ?")
_MARKED = re.compile(r"\\(?:strike|deleted|v(?![a-zA-Z]))")
_CODE_PAGE = re.compile(rb"\\ansicpg(\d{2,5})")


def extract_rtf(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract an RTF file.

    Raises:
        ExtractionFailed: `broken_document`, `text_too_long`.
    """
    from striprtf.striprtf import rtf_to_text

    found = _CODE_PAGE.search(data[:4096])
    encoding = f"cp{int(found.group(1))}" if found else "cp1252"
    try:
        "".encode(encoding)
    except LookupError:
        encoding = "cp1252"
    try:
        text = rtf_to_text(_marked(data.decode("latin-1")), encoding=encoding, errors="replace")
    except (ValueError, IndexError, KeyError, LookupError, AttributeError) as error:
        raise ExtractionFailed(f"the RTF cannot be read: {error}", code="broken_document") from error
    text, left_out = _shown(text)
    builder = TextBuilder(max_chars=max_chars)
    table: list[list[Cell]] = []
    for line in text.split("\n"):
        if line.count("|") and line.rstrip().endswith("|"):  # how striprtf writes a row
            table.append([Cell(cell.strip()) for cell in line.strip().removesuffix("|").split("|")])
            continue
        _write_rows(table, builder)
        table = []
        builder.add(BlockKind.PARAGRAPH, line)
    _write_rows(table, builder)
    return builder.build(
        "application/rtf",
        encoding=encoding,
        quality={"engine": "striprtf", **{f"{why}_left_out": left_out[why] for why in _REASONS.values()}},
    )


def _marked(source: str) -> str:
    """The source with marks where text begins and ends to be struck, hidden or deleted; striprtf does not read that."""
    if not _MARKED.search(source):
        return source
    start = _end_of_fonts(source)

    def mark(token: re.Match[str]) -> str:
        brace, word, value = token.groups()
        if brace:
            return f"{{{_OPEN}" if brace == "{" else f"{_CLOSE}}}"
        if not word:
            return token.group()
        sign = _PLAIN if word == "plain" else chr(ord(_MARKS[word]) + (value == "0"))
        return f"{token.group().rstrip()} {sign}"

    return source[:start] + _TOKEN.sub(mark, source[start:])


def _end_of_fonts(source: str) -> int:
    """Where the table of fonts ends, which striprtf looks for as it stands."""
    at = source.find(_FONT_TABLE)
    depth = 0
    for brace in re.finditer(r"[{}]", source[at:]) if at >= 0 else ():
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return at + brace.end()
    return len(source) if at >= 0 else 0


def _shown(text: str) -> tuple[str, Counter[str]]:
    """The text without what its marks say is not shown, and how many characters that is, by reason."""
    left_out: Counter[str] = Counter()
    parts: list[str] = []
    stack: list[frozenset[str]] = []
    off: frozenset[str] = frozenset()
    for piece in re.split(r"([\ufdd0-\ufdd8])", text):
        if piece == _OPEN:
            stack.append(off)
        elif piece == _CLOSE:
            off = stack.pop() if stack else frozenset()
        elif piece == _PLAIN:
            off = frozenset()
        elif piece in _REASONS:
            off |= {_REASONS[piece]}
        elif len(piece) == 1 and chr(ord(piece) - 1) in _REASONS:
            off -= {_REASONS[chr(ord(piece) - 1)]}
        elif off:
            left_out[min(off)] += len(piece.strip())
            parts.append("\n" * piece.count("\n"))
        else:
            parts.append(piece)
    return "".join(parts), left_out


def _write_rows(rows: list[list[Cell]], builder: TextBuilder) -> None:
    if rows:
        write_table(builder, rows)
