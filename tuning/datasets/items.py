"""Rows of a file one by one, as JSON lines or as elements of one array, with no more than one row's text in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import TextIOWrapper
from typing import Any, TextIO

from core.contents import Content, opened
from core.errors import DatasetRejected, FieldError
from tuning.datasets.formats import RowRefused

MAX_ROW_CHARS = 2**21
"""Of JSON; what a row may hold at most (`formats.MAX_TEXT_CHARS` and its like) is less."""
_BLOCK_CHARS = 2**16
_SPACE = " \t\r\n"


def items_of(content: Content, encoding: str) -> Iterator[tuple[int, Any]]:
    """(line, value or RowRefused) of each row; lines from 1.

    Raises:
        DatasetRejected: `not_json` or `empty`, of a file that is no list of rows.
    """
    with _text(content, encoding) as text:
        is_array = _is_array(text)
    with _text(content, encoding) as text:
        if not is_array and _whole_object(text):
            raise DatasetRejected(
                "the file is one JSON object; rows come as JSON lines or as one JSON array", code="not_json"
            )
    with _text(content, encoding) as text:
        yield from _Array(text).elements() if is_array else _line_items(text)


def _text(content: Content, encoding: str) -> TextIOWrapper:
    # Lines end with \n alone: U+2028 and U+0085 may stand in JSON strings.
    return TextIOWrapper(opened(content), encoding, newline="\n")


def _skip_space(text: TextIO) -> str:
    """The rest of the block that the first character stands in which is no space; empty at the end."""
    while block := text.read(_BLOCK_CHARS):
        if rest := block.lstrip(_SPACE):
            return rest
    return ""


def _is_array(text: TextIO) -> bool:
    """Whether the rows are elements of one array. Lines of which the first happens to be a whole array are lines."""
    head = _skip_space(text)
    if not head.startswith("["):
        return False
    first, ended, rest = head.partition("\n")
    if not ended:
        first += text.readline(MAX_ROW_CHARS)
        if not first.endswith("\n"):
            return True
    try:
        is_row = isinstance(json.loads(first), list)
    except (ValueError, RecursionError):
        return True
    return not (is_row and (rest.strip(_SPACE) or _skip_space(text)))


def _whole_object(text: TextIO) -> bool:
    """A pretty-printed single object: as lines it would give one nonsense report per line."""
    head = _skip_space(text)
    if not head.startswith("{") or head[1:].lstrip(" \t\r")[:1] != "\n":
        return False
    whole = head + text.read(MAX_ROW_CHARS)
    try:
        return not text.read(1) and isinstance(json.loads(whole), dict)
    except (ValueError, RecursionError):
        return False


def _line_items(text: TextIO) -> Iterator[tuple[int, Any]]:
    number = 0
    while line := text.readline(MAX_ROW_CHARS + 1):
        number += 1
        if len(line) > MAX_ROW_CHARS:
            while not line.endswith("\n") and (line := text.readline(_BLOCK_CHARS)):
                continue
            yield number, RowRefused("too_long", f"the line has over {MAX_ROW_CHARS} characters")
        elif line := line.strip(_SPACE):
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, RowRefused("not_json", f"not JSON: {error}"[:200])


class _Array:
    """One JSON array, read a block at a time, so that each element knows its line."""

    def __init__(self, text: TextIO) -> None:
        self._source = text
        self._text = ""
        self._at = 0
        """In `_text`, which begins with what is not yet read."""
        self._line = 1
        self._counted = 0
        """Up to where in `_text` the lines before `_line` end."""
        self._ended = False

    def elements(self) -> Iterator[tuple[int, Any]]:
        self._skip()
        self._at += 1  # the bracket
        self._skip()
        if self._next() == "]":
            raise DatasetRejected("the array is empty", code="empty")
        while True:
            self._count()
            line = self._line
            value = self._element()
            yield line, value
            self._skip()
            mark = self._next()
            self._at += 1
            self._skip()
            if mark == "]":
                if self._next():
                    raise self._broken("text after the end of the array")
                return
            if mark != ",":
                self._at -= 1
                raise self._broken("a comma or ] is missing")

    def _element(self) -> Any:
        decoder = json.JSONDecoder()
        amount = _BLOCK_CHARS
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._at)
            except RecursionError as error:
                raise self._broken(str(error)[:200]) from error
            except ValueError as error:
                if self._ended:
                    raise self._broken(str(error)[:200]) from error
                if len(self._text) - self._at > MAX_ROW_CHARS:
                    raise self._broken(f"an element is broken, or has over {MAX_ROW_CHARS} characters") from error
            else:
                if end < len(self._text) or self._ended:  # else a number may go on
                    self._at = end
                    return value
            self._more(amount)
            amount *= 2  # each try begins anew: together they read twice what the element has

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self) -> None:
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text) or self._ended:
                return
            self._more(_BLOCK_CHARS)

    def _more(self, amount: int) -> None:
        self._count()
        block = self._source.read(amount)
        self._ended = not block
        self._text = self._text[self._at :] + block
        self._at = self._counted = 0

    def _count(self) -> None:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at

    def _broken(self, detail: str) -> DatasetRejected:
        self._count()
        return DatasetRejected(
            f"the JSON array breaks off at line {self._line}: {detail}",
            code="not_json",
            errors=[FieldError(f"line {self._line}", detail, "not_json")],
        )
