"""The parts of a DOCX package: its XML in one dialect, what its relationships name, its notes."""

from __future__ import annotations

import posixpath
import re
import zipfile
from typing import Any

from core.errors import ExtractionFailed
from ingest.extract.container import read_part, read_xml
from ingest.extract.docx_styles import W

R_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_W_STRICT = "{http://purl.oclc.org/ooxml/wordprocessingml/main}"
_R_ID_STRICT = "{http://purl.oclc.org/ooxml/officeDocument/relationships}id"
_RELATIONSHIP = "{http://schemas.openxmlformats.org/package/2006/relationships}Relationship"
_OFFICE_DOCUMENT = re.compile(rb"Target=\"/?([^\"]+)\"")
_NOT_NOTES = frozenset({"separator", "continuationSeparator", "continuationNotice"})


class Package:
    """Reads parts of one open container.

    Raises:
        ExtractionFailed: `unsupported_format`, the ZIP holds no Word document.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._names = set(archive.namelist())
        self.main = self._main_part()

    def part(self, name: str) -> Any | None:
        """A part beside the main one, by its short name (`styles.xml`); None where there is none."""
        path = posixpath.join(posixpath.dirname(self.main), name)
        return self.root(path) if path in self._names else None

    def root(self, name: str) -> Any:
        """A part by its full name, with the names of strict Open XML turned into those that everyone writes."""
        root = read_xml(self._archive, name, broken="broken_docx")
        if root.tag.startswith(_W_STRICT):
            for element in root.iter():
                if isinstance(element.tag, str) and element.tag.startswith(_W_STRICT):
                    element.tag = W + element.tag[len(_W_STRICT) :]
                for key in [k for k in element.attrib if k.startswith(_W_STRICT)]:
                    element.set(W + key[len(_W_STRICT) :], element.get(key))
                if element.get(_R_ID_STRICT) is not None:
                    element.set(R_ID, element.get(_R_ID_STRICT))
        return root

    def relationships(self, name: str) -> tuple[dict[str, str], dict[str, str]]:
        """What a part names by id: other parts, by full name, and addresses outside the file."""
        folder, _, last = name.rpartition("/")
        parts: dict[str, str] = {}
        addresses: dict[str, str] = {}
        path = f"{folder}/_rels/{last}.rels"
        if path in self._names:
            for item in read_xml(self._archive, path, broken="broken_docx").iter(_RELATIONSHIP):
                identifier, target = item.get("Id") or "", item.get("Target") or ""
                if item.get("TargetMode") == "External":
                    addresses[identifier] = target
                elif (full := posixpath.normpath(posixpath.join("/" + folder, target)).lstrip("/")) in self._names:
                    parts[identifier] = full
        return parts, addresses

    def notes(self) -> dict[tuple[str, str], tuple[str, Any]]:
        """(`footnote` or `endnote`, id) to the name of the part that it stands in and its element."""
        found: dict[tuple[str, str], tuple[str, Any]] = {}
        for kind in ("footnote", "endnote"):
            root = self.part(f"{kind}s.xml")
            name = posixpath.join(posixpath.dirname(self.main), f"{kind}s.xml")
            for note in root.iter(W + kind) if root is not None else ():
                if note.get(W + "type") not in _NOT_NOTES:
                    found[kind, note.get(W + "id") or ""] = (name, note)
        return found

    def title(self) -> str | None:
        """The title of the file's properties."""
        if "docProps/core.xml" not in self._names:
            return None
        found = self.root("docProps/core.xml").findtext("{http://purl.org/dc/elements/1.1/}title")
        return (found or "").strip() or None

    def _main_part(self) -> str:
        if "word/document.xml" in self._names:
            return "word/document.xml"
        if "_rels/.rels" in self._names:
            for target in _OFFICE_DOCUMENT.findall(read_part(self._archive, "_rels/.rels")):
                name = target.decode("utf-8", errors="replace")
                if name.endswith(".xml") and "document" in name and name in self._names:
                    return str(name)
        raise ExtractionFailed("the ZIP holds no Word document", code="unsupported_format")
