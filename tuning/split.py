"""Training part and held-out part. Rows that share a question or a passage, or are nearly the same, never end up on
both sides.

The order is by hash, not by chance, so a group keeps its side from run to run while the data grows: a champion is then
not judged on what it was trained on.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from core.errors import DatasetRejected
from core.language import language_of
from tuning.datasets.near import near_pairs
from tuning.render import answer_of, question_of

HELD_OUT_SHARE = 0.15
MIN_HELD_OUT = 8
MAX_HELD_OUT = 256
MAX_SHARE = 0.34
NEARLY_THE_SAME = 0.9
"""Higher than a duplicate is reported at: rows made from one template must still be split."""


def split(
    contents: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    trained: Collection[int] = (),
    look: Callable[[], None] = lambda: None,
) -> tuple[list[int], list[int]]:
    """Positions of rows to train on and to hold out, each ascending; about 15 % held out, languages in turn.

    trained: positions of rows that an earlier version was trained on: neither they nor what hangs together with them is
    held out. look: called now and then; it may raise to stop.

    Raises:
        DatasetRejected: `cannot_hold_out`: nearly all rows hang together by their questions or passages.
    """
    known = set(trained)
    groups = [group for group in _groups(contents, look) if known.isdisjoint(group)]
    queues: dict[str, list[list[int]]] = defaultdict(list)
    for group in sorted(groups, key=lambda group: _rank(contents, group, seed)):
        queues[language_of(answer_of(contents[group[0]])).value].append(group)
    wanted = min(MAX_HELD_OUT, max(MIN_HELD_OUT, round(len(contents) * HELD_OUT_SHARE)))
    most = max(MIN_HELD_OUT, int(len(contents) * MAX_SHARE))
    held: list[int] = []
    while any(queues.values()) and len(held) < wanted:
        for language in sorted(queues):
            if queues[language] and len(held) < wanted:
                group = queues[language].pop(0)
                if len(held) + len(group) <= most:
                    held += group
    if len(held) < MIN_HELD_OUT:
        raise DatasetRejected(
            f"only {len(held)} of {len(contents)} rows can be held out without their question or passage being trained "
            f"on; {MIN_HELD_OUT} are needed: add rows about other things",
            code="cannot_hold_out",
        )
    kept = set(held)
    return [position for position in range(len(contents)) if position not in kept], sorted(held)


def _keys(content: Mapping[str, Any]) -> list[str]:
    texts = [question_of(content), *(passage["text"] for passage in content.get("passages", []))]
    folded = ("".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts)
    return [hashlib.sha256(text.encode()).hexdigest() for text in folded]


def _groups(contents: Sequence[Mapping[str, Any]], look: Callable[[], None]) -> list[list[int]]:
    """Connected rows, by union and find over their keys."""
    parent = list(range(len(contents)))

    def root(position: int) -> int:
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = parent[position]
        return position

    first: dict[str, int] = {}
    for position, content in enumerate(contents):
        for key in _keys(content):
            parent[root(position)] = root(first.setdefault(key, position))
    whole = ["\n".join((question_of(content), answer_of(content))) for content in contents]
    for one, two, _similarity in near_pairs(whole, threshold=NEARLY_THE_SAME, look=look):
        parent[root(two)] = root(one)
    groups: dict[int, list[int]] = defaultdict(list)
    for position in range(len(contents)):
        groups[root(position)].append(position)
    return list(groups.values())


def _rank(contents: Sequence[Mapping[str, Any]], group: Sequence[int], seed: int) -> str:
    smallest = min(key for position in group for key in _keys(contents[position]))
    return hashlib.sha256(f"{seed}:{smallest}".encode()).hexdigest()
