"""Headings that the words themselves make, in any format: articles of rules, questions with answers, tables' titles.

Only blocks are cut anew; the text stays as it is. `第8条（試用期間）　新たに…` becomes a heading and what stands under
it, so that every sentence of the article, its paragraph 2 and item ③ included, is found by the article's number. The
caption that Japanese rules set on a line above (`（試用期間）`) belongs to that heading.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from core.types import Block, BlockKind, ExtractedDocument

_NUMBER = r"[0-9０-９〇一二三四五六七八九十百]{1,5}"
_UNIT = re.compile(
    rf"[ \t\u3000]{{0,8}}第[ \u3000]?{_NUMBER}[ \u3000]?(?P<unit>[編部章節款条條])"
    rf"(?:の{_NUMBER}){{0,3}}"
    r"(?P<title>[ \t\u3000]{0,4}[（(【][^（()）【】\n]{1,40}[）)】])?(?P<gap>[ \t\u3000]{0,8})"
)
_RANKS = {"編": 0, "部": 0, "章": 1, "節": 2, "款": 2, "条": 3, "條": 3}
_ARTICLE = 3
_CAPTION = re.compile(r"[ \t\u3000]{0,8}[（(【][^（()）【】\n]{1,40}[）)】][ \t\u3000]{0,8}\Z")
_SUPPLEMENT = re.compile(
    r"[ \t\u3000]{0,8}[附付][ \u3000]{0,4}則(?:[ \u3000]{0,4}[（(][^（()）\n]{1,40}[）)])?[ \u3000]{0,8}\Z"
)
_SECTION = re.compile(r"[ \t\u3000]{0,4}([0-9０-９]{1,2})[.．](?![0-9０-９])[ \t\u3000]{0,4}\S")
_MAX_SECTION_CHARS = 40
_QUESTION = re.compile(
    r"[ \t\u3000]{0,8}(?:[QＱ][ \u3000]?[0-9０-９]{0,3}|問[0-9０-９一二三四五六七八九十]{0,3})[.．:：、)）・ \u3000]"
)
_ANSWER = re.compile(
    r"[ \t\u3000]{0,8}(?:[AＡ][ \u3000]?[0-9０-９]{0,3}|答え?[0-9０-９一二三四五六七八九十]{0,3})[.．:：、)）・ \u3000]"
)
_TABLE_TITLE = re.compile(
    r"(?:(?:[別付附]?表|図表|Table|TABLE|Tab\.)[ \u3000\u00a0]?[0-9０-９一二三四五六七八九十A-ZＡ-Ｚ]"
    r"|[別付附]表|【[^】\n]{1,50}】\Z)"
)
_UNIT_LINE = re.compile(r"[（(][^（()）\n]{1,40}[）)]\Z")
"""`（単位：円）`, which may stand between a table and its title."""
_LEADER = re.compile(r"…|\.{4}|・{4}")
"""Dots that lead to a page number: the line of a table of contents."""
_MAX_TITLE_CHARS = 60
_MIN_ARTICLES = 2
_SECTIONS_WITH_TEXT = 0.75
_DEEPEST = 5
_TABLE_LEVEL = 6
_CUT = frozenset({BlockKind.PARAGRAPH, BlockKind.LIST_ITEM})


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a block that may be cut: text[start:end]."""

    start: int
    end: int
    block: int


def with_structure(document: ExtractedDocument) -> ExtractedDocument:
    """The document with its blocks cut at what reads as a heading; its text is unchanged."""
    blocks = _titled_tables(document.text, document.blocks)
    lines = list(_lines(document.text, blocks))
    cuts = {
        **_sections(document.text, lines, blocks),
        **_questions(document.text, lines),
        **_articles(document.text, lines),
    }
    return replace(document, blocks=tuple(_cut(document.text, blocks, cuts)))


@dataclass(frozen=True, slots=True)
class _Heading:
    """A heading of text[start:end], to stand `rank` levels below the last heading that the format itself gave."""

    start: int
    end: int
    rank: int


def _lines(text: str, blocks: Sequence[Block]) -> Iterator[_Line]:
    for index, block in enumerate(blocks):
        if block.kind not in _CUT:
            continue
        start = block.start
        while start < block.end:
            end = text.find("\n", start, block.end)
            end = block.end if end < 0 else end
            if text[start:end].strip():
                yield _Line(start, end, index)
            start = end + 1


def _articles(text: str, lines: Sequence[_Line]) -> dict[int, _Heading]:
    """Headings by where they begin. One lone `第3条` is a mention; two make a text of articles."""
    found: dict[int, _Heading] = {}
    articles = 0
    for index, line in enumerate(lines):
        words = text[line.start : line.end]
        unit = _UNIT.match(words)
        if unit is None:
            if _SUPPLEMENT.match(words):
                found[line.start] = _Heading(line.start, line.end, 1)
            continue
        rank = _RANKS[unit.group("unit")]
        rest = words[unit.end() :]
        if rank != _ARTICLE:
            if (
                len(words.strip()) <= _MAX_TITLE_CHARS
                and (unit.group("gap") or not rest)
                and not _ends(rest)
                and not _LEADER.search(words)
            ):
                found[line.start] = _Heading(line.start, line.end, rank)
            continue
        if not (unit.group("gap") or unit.group("title") or not rest):
            continue
        articles += 1
        start = line.start
        before = lines[index - 1] if index else None
        if (
            before is not None
            and before.start not in found
            and line.block - before.block <= 1
            and _CAPTION.match(text, before.start, before.end)
        ):
            start = before.start
        end = line.start + (unit.end("title") if unit.group("title") else unit.start("gap"))
        if unit.group("gap") and not _ends(rest) and 0 < len(rest.strip()) <= 30 and not unit.group("title"):
            end = line.end  # 第3条　再委託, alone on its line
        found[start] = _Heading(start, end, rank)
    if articles < _MIN_ARTICLES:
        return {start: heading for start, heading in found.items() if heading.rank != _ARTICLE}
    return found


def _sections(text: str, lines: Sequence[_Line], blocks: Sequence[Block]) -> dict[int, _Heading]:
    """Lines `２．市場クレーム` that count on through the document, each with something under it.

    The items of a list follow one another; sections have text between them.
    """
    found: list[tuple[int, _Line, bool]] = []
    for index, line in enumerate(lines):
        words = text[line.start : line.end]
        section = _SECTION.match(words)
        if section is None or len(words.strip()) > _MAX_SECTION_CHARS or _ends(words) or _LEADER.search(words):
            continue
        number = int(section.group(1))
        following = lines[index + 1] if index + 1 < len(lines) else None
        last = following is None or _SECTION.match(text, following.start, following.end) is not None
        table_below = line.block + 1 < len(blocks) and blocks[line.block + 1].kind is BlockKind.TABLE
        expected = found[-1][0] + 1 if found else 1
        if number in {expected, expected - 1} and number:
            found.append((number, line, table_below or not last))
    if len(found) < _MIN_ARTICLES or found[-1][0] < _MIN_ARTICLES:
        return {}
    if sum(has_text for _, _, has_text in found) < _SECTIONS_WITH_TEXT * len(found):
        return {}
    return {line.start: _Heading(line.start, line.end, 2) for _, line, _ in found}


def _questions(text: str, lines: Sequence[_Line]) -> dict[int, _Heading]:
    """A line `Q3. …` with an answer `A3. …` below it is the answer's heading."""
    found: dict[int, _Heading] = {}
    for line, following in pairwise(lines):
        if (
            _QUESTION.match(text, line.start, line.end)
            and _ANSWER.match(text, following.start, following.end)
            and following.block - line.block <= 1
            and line.end - line.start <= 200
        ):
            found[line.start] = _Heading(line.start, line.end, _ARTICLE)
    return found


def _ends(words: str) -> bool:
    return words.rstrip().endswith(("。", "．", ".", "、", "，", ",", "；", ";", "：", ":"))


def _titled_tables(text: str, blocks: Sequence[Block]) -> list[Block]:
    """Paragraphs that name the table right below them are its headings."""
    titled = list(blocks)
    for index, block in enumerate(blocks):
        if block.kind is not BlockKind.TABLE or not index:
            continue
        for back in (1, 2):
            above = blocks[index - back] if index >= back else None
            words = text[above.start : above.end] if above is not None else ""
            if above is None or above.kind is not BlockKind.PARAGRAPH or len(words) > _MAX_TITLE_CHARS:
                break
            if _TABLE_TITLE.match(words) and "\n" not in words and not _ends(words):
                titled[index - back] = replace(above, kind=BlockKind.HEADING, level=_TABLE_LEVEL)
                break
            if not _UNIT_LINE.match(words):
                break
    return titled


def _cut(text: str, blocks: Sequence[Block], headings: dict[int, _Heading]) -> Iterator[Block]:
    base = 0
    done = 0
    starts = sorted(headings)
    for block in blocks:
        if block.kind is BlockKind.HEADING and (block.level or 1) < _TABLE_LEVEL:
            base = block.level or 1
        if block.kind not in _CUT:
            yield block
            continue
        position = max(block.start, done)
        for start in starts[bisect_left(starts, position) : bisect_left(starts, block.end)]:
            heading = headings[start]
            if start < position:
                continue  # inside the heading before it
            yield from _piece(text, block, position, start)
            level = min(_DEEPEST, base + 1 + heading.rank)
            yield Block(BlockKind.HEADING, *_trimmed(text, start, heading.end), page=block.page, level=level)
            position = done = heading.end
        yield from _piece(text, block, position, block.end)


def _piece(text: str, block: Block, start: int, end: int) -> Iterator[Block]:
    start, end = _trimmed(text, start, end)
    if start < end:
        yield replace(block, start=start, end=end)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
