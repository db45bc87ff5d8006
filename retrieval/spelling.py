"""Misspelt English words of a question: what the tenant's passages have instead.

Only a word that no passage of the tenant holds is looked at, so nothing that is there is ever "corrected". The words
are read from the stored passages, a document once, and kept in this process: no table to keep in line with another.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic

from sqlalchemy import select

from core.database import Database
from core.tables.documents import ChunkRow, Document
from core.text_folding import fold
from retrieval.dictionary import Expansion
from retrieval.kinds import TermKind, kind_of
from retrieval.stem import stem

WEIGHT = 0.7
_WORD = re.compile(r"[a-z]{4,24}")
_REREAD_S = 10.0
_MAX_WORDS = 200_000
_MAX_TENANTS = 32
_MAX_CHUNKS = 200_000
_TWO_EDITS_FROM = 8
"""Letters from which two edits are forgiven; one below."""
_MOST = 3


@dataclass(slots=True)
class _Words:
    read_at: float = -_REREAD_S
    seen: set[tuple[str, int]] = field(default_factory=set)
    letters: dict[str, int] = field(default_factory=dict)
    """{word: its letters as bits}."""
    stems: set[str] = field(default_factory=set)
    lock: Lock = field(default_factory=Lock)


class Vocabulary:
    """English words of each tenant's passages. Thread-safe."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = Lock()
        self._tenants: OrderedDict[str, _Words] = OrderedDict()

    def corrections(self, tenant_id: str, question: str) -> list[Expansion]:
        """What unknown words of a question may be meant for, nearest first."""
        written = dict.fromkeys(_WORD.findall(fold(question)))
        asked = [word for word in written if kind_of(stem(word)) is not TermKind.FUNCTION]
        if not asked:
            return []
        words = self._words(tenant_id)
        found = []
        for word in asked:
            if stem(word) in words.stems:
                continue
            near = nearest(word, words.letters)
            if near:
                found.append(Expansion(word, tuple(near), WEIGHT, WEIGHT))
        return found

    def _words(self, tenant_id: str) -> _Words:
        with self._lock:
            words = self._tenants.setdefault(tenant_id, _Words())
            self._tenants.move_to_end(tenant_id)
            while len(self._tenants) > _MAX_TENANTS:
                self._tenants.popitem(last=False)
        with words.lock:
            if monotonic() - words.read_at >= _REREAD_S:
                self._read(tenant_id, words)
                words.read_at = monotonic()
        return words

    def _read(self, tenant_id: str, words: _Words) -> None:
        """Add the words of documents new since the last time. Those of documents gone stay: they find nothing."""
        with self._db.read() as session:
            now = session.execute(
                select(Document.id, Document.active_generation).where(Document.tenant_id == tenant_id)
            ).all()
            new = [(str(document), int(generation)) for document, generation in now if generation is not None]
            for document, generation in new:
                if (document, generation) in words.seen or len(words.letters) >= _MAX_WORDS:
                    continue
                words.seen.add((document, generation))
                texts = session.scalars(
                    select(ChunkRow.text)
                    .where(ChunkRow.document_id == document, ChunkRow.generation == generation)
                    .limit(_MAX_CHUNKS)
                )
                for text in texts:
                    for word in set(_WORD.findall(text.casefold())) - words.letters.keys():
                        words.letters[word] = letters_of(word)
                        words.stems.add(stem(word))


def nearest(word: str, letters: dict[str, int]) -> list[str]:
    """Up to three known words within one edit of `word`, two from eight letters on, nearest first.

    letters: {known word: `letters_of` it}. An edit changes at most two letters of the set, which rules nearly all out.
    """
    allowed = 2 if len(word) >= _TWO_EDITS_FROM else 1
    own = letters_of(word)
    close = [
        (edits, known)
        for known, bits in letters.items()
        if (own ^ bits).bit_count() <= 2 * allowed
        and abs(len(known) - len(word)) <= allowed
        and (edits := distance(word, known, allowed)) <= allowed
    ]
    return [known for _, known in sorted(close)[:_MOST]]


def letters_of(word: str) -> int:
    """Set of the letters of a word, as bits."""
    bits = 0
    for character in word:
        bits |= 1 << (ord(character) - 97)
    return bits


def distance(one: str, other: str, limit: int) -> int:
    """Edits between two words, neighbours that changed places counting once; `limit` + 1 for any more."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for at, character in enumerate(one, start=1):
        earlier, before, row = before, row, [at]
        for place, against in enumerate(other, start=1):
            cost = min(before[place] + 1, row[place - 1] + 1, before[place - 1] + (character != against))
            if at > 1 and place > 1 and character == other[place - 2] and one[at - 2] == against:
                cost = min(cost, earlier[place - 2] + 1)
            row.append(cost)
        if min(row) > limit:
            return limit + 1
    return row[-1]
