"""An uploaded file to canonical rows plus a report in which every line that cannot be used has its code."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.contents import Content
from core.errors import DatasetRejected, FieldError
from core.language import language_of
from tuning.datasets.decode import find_encoding
from tuning.datasets.formats import DatasetFormat, RowRefused, canonical, detect
from tuning.datasets.items import items_of
from tuning.datasets.row_file import ParsedRow, RowFile
from tuning.datasets.untrained import Untrained, members_of

MAX_ROWS = 200_000
MAX_INVALID_DETAILS = 1_000
"""Invalid rows of which the detail is kept; of the others it is empty."""


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A row that was left out, and why."""

    line: int
    code: str
    detail: str


@dataclass(slots=True)
class ParsedDataset:
    """All that is known of a file. `digest` covers format and valid rows in order, not the invalid ones.

    Close `rows` when they were read.
    """

    format: DatasetFormat
    encoding: str
    digest: str
    rows: RowFile
    invalid: list[InvalidRow]
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    """(line, line of the first row with the same content)"""
    languages: dict[str, int] = field(default_factory=dict)
    untrained: dict[str, dict[str, Any]] = field(default_factory=dict)
    """`untrained.Untrained` of the valid rows."""


def row_digest(content: dict[str, Any]) -> str:
    """sha256 over the canonical row, independent of key order."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def parse(data: Content, folder: Path | None = None) -> ParsedDataset:
    """Read JSON lines or one JSON array, a row at a time.

    folder: where valid rows wait once they are many; None: where temporary files of this machine go.

    Raises:
        DatasetRejected: `empty`, `unknown_encoding`, `not_json`, `unknown_format`, `mixed_formats`, `too_many_rows`
            or `no_valid_rows`; nothing of the file can be used then.
    """
    encoding = find_encoding(data)
    parser = _Parser(RowFile(folder))
    try:
        for line, item in items_of(data, encoding):
            parser.take(line, item)
        return parser.finish(encoding.removesuffix("-sig"))
    except BaseException:
        parser.rows.close()
        raise


class _Parser:
    """What the rows so far say of their set."""

    def __init__(self, rows: RowFile) -> None:
        self.rows = rows
        self._invalid: list[InvalidRow] = []
        self._shape: DatasetFormat | None = None
        self._others: list[tuple[int, DatasetFormat]] = []
        self._first: dict[bytes, int] = {}
        self._duplicates: list[tuple[int, int]] = []
        self._languages: Counter[str] = Counter()
        self._untrained = Untrained()
        self._whole = hashlib.sha256()

    def take(self, line: int, item: Any) -> None:
        """A row as it stands in the file, or why it cannot be read."""
        if len(self.rows) + len(self._invalid) + len(self._others) >= MAX_ROWS:
            raise DatasetRejected(f"more than {MAX_ROWS} rows; split the file", code="too_many_rows")
        if isinstance(item, RowRefused):
            return self._leave_out(line, item.code, item.detail)
        if not isinstance(item, dict):
            return self._leave_out(line, "not_object", f"a row is an object, not {type(item).__name__}")
        found = detect(item)
        if found is None:
            keys = ", ".join(sorted(map(str, item))[:8])
            return self._leave_out(line, "unknown_shape", f"no known format has the fields: {keys[:200]}")
        if self._shape is None:
            self._shape = found
            self._whole.update(found.encode())
        if found is not self._shape:
            self._others.append((line, found))
            return None
        try:
            content = canonical(item, found)
        except RowRefused as refused:
            return self._leave_out(line, refused.code, refused.detail)
        self._add(ParsedRow(line, content, row_digest(content)))
        self._untrained.add(line, members_of(item, found, content))
        return None

    def finish(self, encoding: str) -> ParsedDataset:
        """The set.

        Raises:
            DatasetRejected: its rows are of several formats, or none can be used.
        """
        shape, others, invalid = self._shape, self._others, self._invalid
        if shape is not None and others:
            raise DatasetRejected(
                f"the file mixes formats: it starts as '{shape}', line {others[0][0]} is '{others[0][1]}'; "
                "upload one file per format",
                code="mixed_formats",
                errors=[FieldError(f"line {line}", f"is '{found}'", "mixed_formats") for line, found in others[:50]],
            )
        if shape is None or not len(self.rows):
            known_none = shape is None and any(row.code == "unknown_shape" for row in invalid)
            raise DatasetRejected(
                "no row is of a known format" if known_none else "no row of the file can be used",
                code="unknown_format" if known_none else "no_valid_rows",
                errors=[FieldError(f"line {row.line}", row.detail, row.code) for row in invalid[:50]],
            )
        languages = dict(sorted(self._languages.items()))
        return ParsedDataset(
            shape, encoding, self._whole.hexdigest(), self.rows, invalid, self._duplicates, languages,
            self._untrained.report(),
        )  # fmt: skip

    def _leave_out(self, line: int, code: str, detail: str) -> None:
        self._invalid.append(InvalidRow(line, code, detail if len(self._invalid) < MAX_INVALID_DETAILS else ""))

    def _add(self, row: ParsedRow) -> None:
        self.rows.append(row)
        digest = bytes.fromhex(row.digest)
        self._whole.update(digest)
        if digest in self._first:
            self._duplicates.append((row.line, self._first[digest]))
        self._first.setdefault(digest, row.line)
        reply = row.content.get("chosen") or row.content["messages"][-1]["content"]
        self._languages[language_of(reply).value] += 1
