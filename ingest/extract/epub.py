"""EPUB: the chapters of its spine, in that order, each read as the HTML that it is."""

from __future__ import annotations

import posixpath
from collections import Counter
from typing import Any
from urllib.parse import unquote

from core.errors import ExtractionFailed
from core.types import ExtractedDocument
from ingest.extract.builder import TextBuilder
from ingest.extract.container import open_container, read_part, read_xml
from ingest.extract.html import extract_html

_CONTAINER = "{urn:oasis:names:tc:opendocument:xmlns:container}"
_OPF = "{http://www.idpf.org/2007/opf}"
_LEFT_OUT = ("struck_left_out", "hidden_left_out")
_DC = "{http://purl.org/dc/elements/1.1/}"


def extract_epub(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a book.

    Raises:
        ExtractionFailed: `broken_document`, `zip_bomb`, `unsafe_xml`, `text_too_long`.
    """
    builder = TextBuilder(max_chars=max_chars)
    missing: list[str] = []
    left_out: Counter[str] = Counter()
    with open_container(data, "EPUB") as archive:
        names = set(archive.namelist())
        root_file = read_xml(archive, "META-INF/container.xml").find(f".//{_CONTAINER}rootfile")
        package_name = root_file.get("full-path") if root_file is not None else None
        if not package_name or package_name not in names:
            raise ExtractionFailed("the EPUB names no package document", code="broken_document")
        package = read_xml(archive, package_name)
        title = (package.findtext(f".//{_DC}title") or "").strip() or None
        chapters = _spine(package, posixpath.dirname(package_name))
        for name in chapters:
            if name in names:
                chapter = extract_html(read_part(archive, name), max_chars=max_chars)
                builder.include(chapter)
                left_out.update({why: chapter.quality.get(why, 0) for why in _LEFT_OUT})
            else:
                missing.append(name)
    return builder.build(
        "application/epub+zip",
        title=title,
        quality={
            "engine": "epub+lxml",
            "chapters": len(chapters),
            "chapters_missing": missing,
            **{why: left_out[why] for why in _LEFT_OUT},
        },
    )


def _spine(package: Any, folder: str) -> list[str]:
    """Member names of the chapters. They are only looked up in the archive, never on a disk."""
    manifest = {item.get("id"): item.get("href") or "" for item in package.iter(_OPF + "item")}
    found = []
    for reference in package.iter(_OPF + "itemref"):
        href = manifest.get(reference.get("idref"))
        if href:
            found.append(posixpath.normpath(posixpath.join(folder, unquote(href.partition("#")[0]))))
    return found
