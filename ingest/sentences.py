"""Where a text may be cut: sentences, lines, clauses, words, and at the last user-perceived characters.

Every splitter returns spans that cover its input without gaps, so that cutting can never lose or alter a character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import regex  # type: ignore[import-untyped]

Span = tuple[int, int]
Splitter = Callable[[str], list[Span]]

_OPEN = "「『（(【〈《［[“〔"
_CLOSE = "」』）)】〉》］]”〕"
_TOKEN = re.compile(
    r"(?P<open>[「『（【〈《〔“])"
    rf"|(?P<wide>(?:[。｡！？]|．(?![0-9０-９]))[。｡！？．!?]*(?P<closers>[{re.escape(_CLOSE)}’\"']*))"
    r"|(?P<narrow>(?<![.!?…])[.!?…]++[\"'”’)\]」』）]*+(?=\s|\Z))"
    r"|(?P<close>[」』）】〉》〕”])"
)
_CONTINUES = re.compile(r"[とっなのをはがもにへでや、，,]")
"""After `「はい。」` these carry the sentence on: 「はい。」と言った。"""
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|cf|etc|al|No|Nos|Fig|Figs|Eq|Sec|Vol|pp|Inc|Ltd|Co|Corp|approx|e\.g|i\.e"
    r"|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec)|(?:^|[\s(])[A-Z])\.$"
)
_MAX_QUOTE = 300
"""A bracket open for longer was never meant to close: `1) a 2) b`, or broken text."""
_CLAUSE = re.compile(r"[、，；;：:,](?=[\s\u3000-\u9fff\uff00-\uffef])|[、，；]")
_SPACE = re.compile(r"\s+")
_MAX_CLUSTER = 256
"""Longer 'characters' (hundreds of stacked marks) are an attack on the reader, and are cut like any text."""
_WINDOW = 1_024
_LOOK_BACK = 32
"""What joins two characters stands right before them; flags pair up from an even number of characters back."""


def split_sentences(text: str) -> list[Span]:
    """Sentences of Japanese and Latin text; a sentence owns the white space behind it."""
    cuts: list[int] = []
    depth, opened = 0, 0
    for match in _TOKEN.finditer(text):
        if depth and match.start() - opened > _MAX_QUOTE:
            depth = 0
        if match.lastgroup == "open" or match.group("open"):
            if depth == 0:
                opened = match.start()
            depth += 1
        elif match.group("close"):
            depth = max(0, depth - 1)
        elif match.group("wide"):
            closers = match.group("closers")
            depth = max(0, depth - sum(mark in _CLOSE for mark in closers))
            following = text[match.end() : match.end() + 1]
            if depth == 0 and not (closers and _CONTINUES.match(following)):
                cuts.append(match.end())
        elif depth == 0 and _ends_sentence(text, match):
            cuts.append(match.end())
    return _spans(text, cuts)


def split_lines(text: str) -> list[Span]:
    """Lines."""
    return _spans(text, (match.end() for match in re.finditer("\n", text)))


def split_clauses(text: str) -> list[Span]:
    """Stretches between commas and the like."""
    return _spans(text, (match.end() for match in _CLAUSE.finditer(text)))


def split_words(text: str) -> list[Span]:
    """Stretches between white space."""
    return _spans(text, (match.end() for match in _SPACE.finditer(text)))


def split_characters(text: str) -> list[Span]:
    """User-perceived characters (grapheme clusters): a base with its marks, a flag, a family emoji, CR LF."""
    spans: list[Span] = []
    for start, end in _spans(text, _cluster_ends(text)):
        written = start + len(text[start:end].rstrip())
        cuts = [start, *range(start + _MAX_CLUSTER, written, _MAX_CLUSTER), end]
        spans.extend(pairwise(cuts))
    return spans


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    marks = match.group("narrow")
    if set(marks) != {"."}:
        return True
    if _ABBREVIATION.search(text, max(0, match.start() - 12), match.end()):
        return False
    following = text[match.end() : match.end() + 8].lstrip()[:1]
    return not (following.islower() or (following.isdigit() and text[match.start() - 1 : match.start()].isspace()))


def _spans(text: str, cuts: Iterable[int]) -> list[Span]:
    """Spans between cuts; white space behind a cut goes to the span before it."""
    edges = [0]
    blank_end = 0
    for cut in cuts:
        end = max(cut, blank_end)  # a run of white space is read once, however many cuts fall into it
        while end < len(text) and text[end].isspace():
            end += 1
        blank_end = end
        if _begins_with_mark(text, end):
            end = cut  # white space that carries a combining mark is a character of its own
            if _begins_with_mark(text, end):
                continue
        if edges[-1] < end < len(text):
            edges.append(end)
    edges.append(len(text))
    return [span for span in pairwise(edges) if span[0] < span[1]]


def _begins_with_mark(text: str, position: int) -> bool:
    """Whether a cut here would part a cluster: a mark, joiner or variation selector follows, or CR LF is split."""
    if not 0 < position < len(text) or (text[position] < "\u0300" and text[position - 1] != "\r"):
        return False
    before = text[max(0, position - _LOOK_BACK) : position + 1]
    (*_, last) = regex.finditer(r"\X", before)
    return bool(last.start() < len(before) - 1)


def _cluster_ends(text: str) -> Iterator[int]:
    """Ends of the clusters, read window by window: among flags `regex` looks back to the first for every one."""
    start = 0
    while start < len(text):
        window = text[start : start + _WINDOW]
        ends = [match.end() for match in regex.finditer(r"\X", window)]
        if len(ends) > 1 and start + len(window) < len(text):
            ends.pop()  # it may go on behind the window
        yield from (start + end for end in ends)
        start += ends[-1]
