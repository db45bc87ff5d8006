"""How an extraction crosses the process border: the text as a file of its own, everything else as JSON beside it.

What comes back is checked like any input: the extractor has just been fed bytes from outside.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from core.archives import Member, Wanted
from core.errors import ExtractionFailed, NotFound
from core.types import Block, BlockKind, ExtractedDocument, PlacedText
from ingest.extract.page_search import Mark

TEXT_FILE = "text"
UNLOCKED_FILE = "unlocked"
MEMBERS_FOLDER = "members"
FACTS_FILE = "facts.json"
REQUEST_FILE = "request.json"
IMAGE_FILE = "page.png"


def write_document(document: ExtractedDocument, folder: Path) -> None:
    """Write both files; the facts last, so that they are there only when the text is whole."""
    (folder / TEXT_FILE).write_bytes(document.text.encode("utf-8"))
    facts = {
        "blocks": [[b.kind.value, b.start, b.end, b.page, b.level] for b in document.blocks],
        "media_type": document.media_type,
        "encoding": document.encoding,
        "page_count": document.page_count,
        "title": document.title,
        "quality": dict(document.quality),
        "places": [[p.page, p.text, p.x0, p.y0, p.x1, p.y1] for p in document.places],
    }
    (folder / FACTS_FILE).write_text(json.dumps({"document": facts}), encoding="utf-8")


def write_error(code: str, detail: str, folder: Path, *, retryable: bool = False) -> None:
    """Write why there is no document."""
    error = {"code": code, "detail": detail[:1000], "retryable": retryable}
    (folder / FACTS_FILE).write_text(json.dumps({"error": error}), encoding="utf-8")


def write_members(members: Sequence[Member], folder: Path) -> None:
    """Write what an archive holds; the files of its members are in MEMBERS_FOLDER."""
    facts = [[m.name, m.size, None if m.path is None else m.path.name] for m in members]
    (folder / FACTS_FILE).write_text(json.dumps({"members": facts}), encoding="utf-8")


def read_members(folder: Path, wanted: Wanted) -> list[Member]:
    """Read and check what `write_members` wrote.

    Raises:
        ExtractionFailed: as `read_document`.
    """
    facts = _facts(folder)
    found: list[Member] = []
    try:
        for name, size, file in facts["members"]:
            path = None if file is None else folder / MEMBERS_FOLDER / str(int(file))
            if path is not None:
                written = path.lstat()
                if not stat.S_ISREG(written.st_mode) or written.st_size != size:
                    raise ValueError(f"member {file} is no file of {size} bytes")
            found.append(Member(str(name).encode("utf-8", "replace").decode(), int(size), path))
        if len(found) > wanted.max_members or sum(member.size for member in found) > wanted.max_bytes:
            raise ValueError("there is more than was asked for")
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise _unusable(problem) from problem
    return found


def write_unlocked(data: bytes | None, folder: Path) -> None:
    """Write a file without its password; None where it had none."""
    if data is not None:
        (folder / UNLOCKED_FILE).write_bytes(data)
    (folder / FACTS_FILE).write_text(json.dumps({"unlocked": data is not None}), encoding="utf-8")


def read_unlocked(folder: Path) -> Path | None:
    """Where what `write_unlocked` wrote is.

    Raises:
        ExtractionFailed: as `read_document`.
    """
    facts = _facts(folder)
    try:
        if not facts["unlocked"]:
            return None
        if not stat.S_ISREG((folder / UNLOCKED_FILE).lstat().st_mode):
            raise ValueError("what was unlocked is no file")
        return folder / UNLOCKED_FILE
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise _unusable(problem) from problem


def read_document(folder: Path) -> ExtractedDocument:
    """Read and check what a child wrote.

    Raises:
        ExtractionFailed: the error it wrote, or `extraction_crashed` when what it wrote makes no sense.
    """
    facts = _facts(folder)
    try:
        text = (folder / TEXT_FILE).read_bytes().decode("utf-8")
        return _document(text, facts["document"])
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise _unusable(problem) from problem


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS_FILE).read_bytes())
        error = facts.get("error")
        if error is not None:
            raise ExtractionFailed(str(error["detail"]), code=str(error["code"]), retryable=bool(error["retryable"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise _unusable(problem) from problem
    return facts


def _unusable(problem: Exception) -> ExtractionFailed:
    return ExtractionFailed(
        f"the extractor ended without a usable result ({problem})", code="extraction_crashed", retryable=True
    )


def write_page_request(folder: Path, number: int, marks: Sequence[Mark], places: Sequence[PlacedText]) -> None:
    """What a child is to draw."""
    request = {"number": number, "marks": [astuple(mark) for mark in marks], "places": [astuple(p) for p in places]}
    (folder / REQUEST_FILE).write_text(json.dumps(request), encoding="utf-8")


def read_page_request(folder: Path) -> tuple[int, list[Mark], list[PlacedText]]:
    """The other end of `write_page_request`."""
    request = json.loads((folder / REQUEST_FILE).read_bytes())
    marks = [Mark(*mark) for mark in request["marks"]]
    return request["number"], marks, [PlacedText(*place) for place in request["places"]]


def write_page(png: bytes, boxes: Sequence[tuple[int, int, int, int]], folder: Path) -> None:
    """Write a drawn page; the facts last."""
    (folder / IMAGE_FILE).write_bytes(png)
    (folder / FACTS_FILE).write_text(json.dumps({"boxes": boxes}), encoding="utf-8")


def read_page(folder: Path) -> tuple[bytes, list[tuple[int, int, int, int]]]:
    """Read and check what a child drew.

    Raises:
        NotFound: `no_such_page`.
        ExtractionFailed: the error it wrote, or `extraction_crashed` when what it wrote makes no sense.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS_FILE).read_bytes())
        error = facts.get("error")
        if error is not None:
            if error["code"] == "no_such_page":
                raise NotFound(str(error["detail"]), code="no_such_page")
            raise ExtractionFailed(str(error["detail"]), code=str(error["code"]), retryable=bool(error["retryable"]))
        png = (folder / IMAGE_FILE).read_bytes()
        if not png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise ValueError("the page is not a PNG")
        boxes = [(int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in facts["boxes"]]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ExtractionFailed(
            f"the extractor ended without a usable page ({problem})", code="extraction_crashed", retryable=True
        ) from problem
    return png, boxes


def _document(text: str, facts: dict[str, Any]) -> ExtractedDocument:
    blocks = []
    position = 0
    for kind, start, end, page, level in facts["blocks"]:
        if not position <= int(start) < int(end) <= len(text):
            raise ValueError(f"block {start}:{end} is out of order or outside of the text")
        blocks.append(Block(BlockKind(kind), int(start), int(end), page, level))
        position = int(end)
    return ExtractedDocument(
        text=text,
        blocks=tuple(blocks),
        media_type=str(facts["media_type"]),
        encoding=facts["encoding"],
        page_count=facts["page_count"],
        title=facts["title"],
        quality=dict(facts["quality"]),
        places=tuple(
            PlacedText(int(page), str(text), float(x0), float(y0), float(x1), float(y1))
            for page, text, x0, y0, x1, y1 in facts["places"]
        ),
    )
