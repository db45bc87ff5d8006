r"""RTF through striprtf. Its code page (`\ansicpg932`) says how bytes are read; of structure, tables are kept."""

from __future__ import annotations

import re

from core.errors import ExtractionFailed
from core.types import BlockKind, ExtractedDocument
from ingest.extract.builder import TextBuilder

_CODE_PAGE = re.compile(rb"\\ansicpg(\d{2,5})")
_CELLS = re.compile(r"\s*\|\s*")


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
        text = rtf_to_text(data.decode("latin-1"), encoding=encoding, errors="replace")
    except (ValueError, IndexError, KeyError, LookupError, AttributeError) as error:
        raise ExtractionFailed(f"the RTF cannot be read: {error}", code="broken_document") from error
    builder = TextBuilder(max_chars=max_chars)
    table: list[str] = []
    for line in text.split("\n"):
        if line.count("|") and line.rstrip().endswith("|"):  # how striprtf writes a row
            table.append(" | ".join(_CELLS.split(line.strip().rstrip("|").strip())))
            continue
        builder.add(BlockKind.TABLE, "\n".join(table))
        table = []
        builder.add(BlockKind.PARAGRAPH, line)
    builder.add(BlockKind.TABLE, "\n".join(table))
    return builder.build("application/rtf", encoding=encoding, quality={"engine": "striprtf"})
