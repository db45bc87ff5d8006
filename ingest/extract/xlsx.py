"""XLSX and XLSM straight from their XML, row by row: values as shown, merges, comments, links, what is hidden.

openpyxl needs 3 GiB for a file of shared strings that this reads within limits, and calamine gives no number formats.
"""

from __future__ import annotations

import posixpath
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from core.errors import ExtractionFailed
from ingest.extract.cells import Cell
from ingest.extract.container import read_xml
from ingest.extract.links import linked
from ingest.extract.number_format import format_general, format_number, format_text
from ingest.extract.sheet import Sheet, hidden_mark
from ingest.extract.xlsx_styles import Style, read_styles

MAX_ROWS = 1_048_576
MAX_COLUMNS = 16_384
_MAX_LISTED = 200_000
"""Merges, links and comments of one sheet that are read."""
_SHARED_TIMES = 2
"""Shared strings may be so many times longer than the text that is taken: some files keep those of deleted cells."""


class XlsxReader:
    """The sheets of one workbook, in order. `facts` counts what a reader of the text cannot see."""

    def __init__(self, archive: zipfile.ZipFile, facts: Counter[str], *, max_chars: int) -> None:
        self.facts = facts
        self._archive = archive
        self._names = set(archive.namelist())
        self._left = max_chars
        book = _main_part(archive, self._names)
        root = read_xml(archive, book)
        properties = root.find("{*}workbookPr")
        self._since_1904 = properties is not None and properties.get("date1904") in {"1", "true"}
        calculation = root.find("{*}calcPr")
        self._to_be_calculated = calculation is not None and calculation.get("fullCalcOnLoad") in {"1", "true"}
        targets = self._relations(book)
        by_id = {key: path for key, _, path in targets}
        self._sheets = [
            (sheet.get("name") or "", sheet.get("state") or "visible", by_id.get(_relation_id(sheet) or "", ""))
            for sheet in root.iterfind("{*}sheets/{*}sheet")
        ]
        self._strings = self._shared_strings(next((path for _, kind, path in targets if kind == "sharedStrings"), ""))
        words = "".join(name for name, _, _ in self._sheets) + "".join(self._strings[:500])
        japanese = hidden_mark(words) == "非表示"
        self._styles = read_styles(
            archive, next((path for _, kind, path in targets if kind == "styles"), ""), japanese=japanese
        )

    @property
    def names(self) -> list[str]:
        """Sheet names in order."""
        return [name for name, _, _ in self._sheets]

    def sheet(self, index: int) -> Sheet:
        """Read one sheet.

        Raises:
            lxml.etree.XMLSyntaxError, KeyError: the sheet is damaged or missing.
            ExtractionFailed: `text_too_long`.
        """
        name, state, path = self._sheets[index]
        sheet = Sheet(name=name, hidden=state != "visible")
        self.facts["hidden_sheets"] += sheet.hidden
        related = self._relations(path)
        additions = _Additions(self._archive, related, self._names)
        merges: dict[tuple[int, int], tuple[int, int]] = {}
        hidden_rows: set[int] = set()
        hidden_columns: set[int] = set()
        links: dict[tuple[int, int], str] = {}
        headers: set[tuple[int, int]] = set()
        targets = {key: target for key, kind, target in self._relations(path, external=True) if kind == "hyperlink"}
        row_at = -1
        for tag, element in _parts(self._archive, path, ("col", "row", "mergeCell", "hyperlink", "autoFilter")):
            if tag == "row":
                row_at = _number(element.get("r"), row_at + 2) - 1
                if not 0 <= row_at < MAX_ROWS:
                    continue
                cells = self._cells(element, row_at)
                if cells:
                    sheet.rows.append((row_at, cells))
                    if element.get("hidden") in {"1", "true"}:
                        hidden_rows.add(row_at)
            elif tag == "mergeCell" and len(merges) < _MAX_LISTED:
                top, left, bottom, right = _area(element.get("ref") or "")
                if top >= 0:
                    merges[(top, left)] = (bottom - top + 1, right - left + 1)
            elif tag == "hyperlink" and len(links) < _MAX_LISTED:
                top, left, _, _ = _area(element.get("ref") or "")
                links[(top, left)] = targets.get(_relation_id(element) or "", "")
            elif tag == "autoFilter":
                top, left, _, right = _area(element.get("ref") or "")
                headers.update((top, column) for column in range(left, right + 1) if top >= 0)
            elif tag == "col" and element.get("hidden") in {"1", "true"}:
                first = _number(element.get("min"), 1)
                hidden_columns.update(range(first - 1, min(_number(element.get("max"), first), MAX_COLUMNS)))
        used = {column for _, cells in sheet.rows for column, _ in cells} if hidden_columns else set()
        sheet.merges, sheet.hidden_rows = merges, frozenset(hidden_rows)
        sheet.hidden_columns = frozenset(hidden_columns & used)
        sheet.rows = additions.applied(sheet, links, headers)
        sheet.remarks = additions.drawn()
        self.facts["hidden_rows"] += len(sheet.hidden_rows)
        self.facts["hidden_columns"] += len(sheet.hidden_columns)
        self.facts["comments"] += len(additions.comments)
        return sheet

    def _cells(self, row: Any, row_at: int) -> list[tuple[int, Cell]]:
        cells = []
        column = -1
        for element in row.iterchildren("{*}c"):
            reference = element.get("r")
            column = _position(reference)[1] if reference else column + 1
            if not 0 <= column < MAX_COLUMNS:
                continue
            style = self._styles.of(element.get("s"))
            text = self._shown(element, style)
            if not text or text.isspace():
                continue
            if style.struck:
                self.facts["struck_left_out"] += len(text)
                continue
            self._left -= len(text)
            if self._left < 0:
                raise ExtractionFailed("the workbook holds more text than this service takes", code="text_too_long")
            cells.append((column, Cell(text, strong=style.strong)))
        cells.sort(key=lambda item: item[0])
        return cells

    def _shown(self, element: Any, style: Style) -> str:
        kind = element.get("t") or "n"
        if kind == "inlineStr":
            inline = element.find("{*}is")
            return format_text(self._text_of(inline), style.code) if inline is not None else ""
        value = element.findtext("{*}v") or ""
        if not value or (self._to_be_calculated and value == "0"):  # 0: what writers put that calculate nothing
            formula = element.find("{*}f")
            if formula is not None and kind != "str":
                self.facts["formula_without_value"] += 1
                return "=" + (formula.text or "?").strip()
            if not value:
                return ""
        match kind:
            case "s":
                at = _number(value, -1)
                text = self._strings[at] if 0 <= at < len(self._strings) else ""
                return format_text(text, style.code)
            case "str":
                return format_text(value, style.code)
            case "b":
                return "TRUE" if value.strip() in {"1", "true"} else "FALSE"
            case "n":
                try:
                    number = float(value)
                except ValueError:
                    return value
                if style.is_general:
                    return format_general(number)
                return format_number(number, style.code, since_1904=self._since_1904)
        return value.replace("T", " ").removesuffix(" 00:00:00") if kind == "d" else value

    def _shared_strings(self, path: str) -> list[str]:
        if path not in self._names:
            return []
        strings: list[str] = []
        left = _SHARED_TIMES * self._left
        for _, element in _parts(self._archive, path, ("si",)):
            strings.append(self._text_of(element))
            left -= len(strings[-1])
            if left < 0:
                raise ExtractionFailed("the workbook holds more text than this service takes", code="text_too_long")
        return strings

    def _text_of(self, element: Any) -> str:
        """Text of a string with its runs; readings (`rPh`) and struck runs are left out."""
        parts: list[str] = []
        for child in element:
            tag = _local(child)
            if tag == "t":
                parts.append(child.text or "")
            elif tag == "r":
                run = "".join(text.text or "" for text in child.iterchildren("{*}t"))
                strike = child.find("{*}rPr/{*}strike")
                if strike is not None and strike.get("val") not in {"0", "false"}:
                    self.facts["struck_left_out"] += len(run)
                else:
                    parts.append(run)
        return "".join(parts)

    def _relations(self, path: str, *, external: bool = False) -> list[tuple[str, str, str]]:
        """Id, kind and target of what a part refers to: paths in the container, or addresses outside."""
        return relations(self._archive, path, self._names, external=external)


class _Additions:
    """What other parts say about a sheet: comments, header rows of its tables, texts that are drawn on it."""

    def __init__(self, archive: zipfile.ZipFile, related: list[tuple[str, str, str]], names: set[str]) -> None:
        self._archive = archive
        self._related = [(kind, path) for _, kind, path in related if path in names]
        self.comments = self._threads() or self._notes()

    def applied(
        self, sheet: Sheet, links: dict[tuple[int, int], str], headers: set[tuple[int, int]]
    ) -> list[tuple[int, list[tuple[int, Cell]]]]:
        """The rows with comments and link targets in their cells and the headers of tables and filters marked."""
        headers |= self._table_headers()
        if not (self.comments or headers or links):
            return sheet.rows
        japanese = hidden_mark(sheet.name + "".join(self.comments.values())) == "非表示"
        label = "（コメント: {}）" if japanese else " (comment: {})"
        cells = {(row, column): cell for row, items in sheet.rows for column, cell in items}
        for place, target in links.items():
            cell = cells.get(place)
            if cell is not None:
                cells[place] = Cell(linked(cell.text, target), strong=cell.strong)
        for place, comment in self.comments.items():
            cell = cells.get(place, Cell())
            cells[place] = Cell(cell.text + label.format(" ".join(comment.split())), strong=cell.strong)
        for place in headers & cells.keys():
            cells[place] = Cell(cells[place].text, header=True, strong=True)
        rows: dict[int, list[tuple[int, Cell]]] = {}
        for (row, column), cell in sorted(cells.items(), key=lambda item: item[0]):
            rows.setdefault(row, []).append((column, cell))
        return list(rows.items())

    def drawn(self) -> list[str]:
        """Texts of shapes, a paragraph each."""
        found = []
        for path in self._of("drawing"):
            for _, body in _parts(self._archive, path, ("txBody",)):
                text = "\n".join("".join(run.text or "" for run in line.iter("{*}t")) for line in body.iter("{*}p"))
                if text.strip():
                    found.append(text.strip())
        return found

    def _of(self, kind: str) -> list[str]:
        return [path for known, path in self._related if known == kind]

    def _notes(self) -> dict[tuple[int, int], str]:
        found: dict[tuple[int, int], str] = {}
        for path in self._of("comments"):
            for _, element in _parts(self._archive, path, ("comment",)):
                text = "".join(part.text or "" for part in element.iter("{*}t"))
                author, colon, rest = text.partition("\n")
                if colon and author.endswith((":", "：")) and rest.strip():
                    text = rest  # Excel writes who made it on the first line
                if text.strip() and len(found) < _MAX_LISTED:
                    found[_position(element.get("ref") or "")] = text
        return {place: text for place, text in found.items() if min(place) >= 0}

    def _threads(self) -> dict[tuple[int, int], str]:
        found: dict[tuple[int, int], str] = {}
        for path in self._of("threadedComment"):
            for _, element in _parts(self._archive, path, ("threadedComment",)):
                place = _position(element.get("ref") or "")
                text = element.findtext("{*}text") or ""
                if text.strip() and min(place) >= 0 and len(found) < _MAX_LISTED:
                    found[place] = f"{found[place]} / {text}" if place in found else text
        return found

    def _table_headers(self) -> set[tuple[int, int]]:
        found: set[tuple[int, int]] = set()
        for path in self._of("table"):
            root = read_xml(self._archive, path)
            top, left, _, right = _area(root.get("ref") or "")
            if top >= 0 and root.get("headerRowCount") != "0":
                found.update((top, column) for column in range(left, right + 1))
        return found


def relations(
    archive: zipfile.ZipFile, path: str, names: set[str], *, external: bool = False
) -> list[tuple[str, str, str]]:
    """Id, kind (last word of its type) and target of each relation of a part; `external` chooses those outside."""
    folder, name = posixpath.split(path)
    part = posixpath.join(folder, "_rels", name + ".rels")
    if part not in names:
        return []
    found = []
    for relation in read_xml(archive, part):
        target = relation.get("Target") or ""
        if (relation.get("TargetMode") == "External") != external:
            continue
        if not external:
            target = posixpath.normpath(posixpath.join("/" + folder, target)).lstrip("/")
        found.append((relation.get("Id") or "", (relation.get("Type") or "").rpartition("/")[2], target))
    return found


def _main_part(archive: zipfile.ZipFile, names: set[str]) -> str:
    for _, kind, path in relations(archive, "", names):
        if kind == "officeDocument" and path in names:
            return path
    return "xl/workbook.xml"


def _parts(archive: zipfile.ZipFile, path: str, tags: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Elements of a part as they end, each dropped once it was looked at."""
    from lxml import etree

    with archive.open(path) as part:
        events = etree.iterparse(
            part,
            events=("end",),
            tag=["{*}" + tag for tag in tags],
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=False,
            remove_comments=True,
        )
        for _, element in events:
            yield _local(element), element
            element.clear()
            parent = element.getparent()
            while element.getprevious() is not None and parent is not None:
                del parent[0]


def _local(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]


def _relation_id(element: Any) -> str | None:
    return next((value for key, value in element.attrib.items() if key.endswith("}id")), None)


def _number(text: str | None, default: int) -> int:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default


def _position(reference: str) -> tuple[int, int]:
    """Row and column of `AB12`, from 0; (-1, -1) where it is none."""
    letters = reference.rstrip("0123456789")
    digits = reference[len(letters) :]
    if not digits or len(digits) > 7 or len(letters) > 5:
        return -1, -1
    column = _column(letters)
    return (int(digits) - 1, column) if column >= 0 else (-1, -1)


@lru_cache(maxsize=MAX_COLUMNS)
def _column(letters: str) -> int:
    """Column of `AB`, from 0; -1 where it is none."""
    plain = letters.replace("$", "").upper()
    if not plain.isascii() or not plain.isalpha() or len(plain) > 3:
        return -1
    column = 0
    for letter in plain:
        column = column * 26 + ord(letter) - 64
    return column - 1


def _area(reference: str) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of `A1:B2`, from 0; all -1 where it is none."""
    first, _, last = reference.partition(":")
    top, left = _position(first)
    bottom, right = _position(last) if last else (top, left)
    if min(top, left) < 0 or bottom < top or right < left:
        return -1, -1, -1, -1
    return top, left, min(bottom, MAX_ROWS - 1), min(right, MAX_COLUMNS - 1)
