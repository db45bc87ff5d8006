"""Words that stand for one another: a tenant's own (有休 = 年次有給休暇, PTO = paid time off), and any office's.

A dictionary is a list of groups; each word of a group stands for every other. It widens a question, never a passage, so
a changed dictionary is in force at the next search and nothing is indexed anew.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from core.errors import FieldError, InvalidInput, TooLarge
from core.language import language_of
from core.text_folding import fold
from retrieval.kinds import TermKind, kind_of
from retrieval.lexical import written_terms
from retrieval.stem import stem

MAX_GROUPS = 5_000
MAX_WORDS = 20
"""Of one group."""
MAX_CHARS = 100
"""Of one word."""
OWN_WEIGHT = 0.6
"""Of a term that the tenant's dictionary adds, beside the same term in the question."""
GENERAL_WEIGHT, GENERAL_ACROSS = 0.15, 0.5
"""The same of the general dictionary, by a word in the question's language and in another: what it adds in the same
language competes with the question's own words, across languages nothing does."""
_LONGEST = 5
"""Words of a Latin phrase."""
_LATIN = re.compile(r"[a-z0-9&%'.+-]+")
_CJK = re.compile(r"[^\x00-\u02ff]")


@dataclass(frozen=True, slots=True)
class Expansion:
    """A word of a question and what else it may be called, folded."""

    phrase: str
    alternatives: tuple[str, ...]
    weight: float
    across: float
    """Weight of alternatives in another language than the phrase's."""


class Dictionary:
    """Groups of words that stand for one another, ready to be looked up. Immutable."""

    def __init__(self, groups: Iterable[Sequence[str]], weight: float = OWN_WEIGHT, across: float = OWN_WEIGHT) -> None:
        self._weights = weight, across
        self._others: dict[str, tuple[str, ...]] = {}
        for group in groups:
            words = list(dict.fromkeys(word for word in map(fold, group) if word.strip()))
            for word in words:
                known = self._others.get(_key(word), ())
                more = [other for other in words if other != word and other not in known]
                self._others[_key(word)] = (*known, *more)
        self._longest = max(map(len, self._others), default=0)

    def expand(self, question: str) -> list[Expansion]:
        """What words of a question stand for, the longest words first taken, in text order."""
        folded = fold(question)
        return [*self._japanese(folded), *self._latin(folded)]

    def _japanese(self, text: str) -> list[Expansion]:
        found: list[Expansion] = []
        at = 0
        while at < len(text):
            for end in range(min(len(text), at + self._longest), at + 1, -1):
                phrase = text[at:end]
                if phrase in self._others and _CJK.search(phrase):
                    found.append(Expansion(phrase, self._others[phrase], *self._weights))
                    at = end
                    break
            else:
                at += 1
        return found

    def _latin(self, text: str) -> list[Expansion]:
        words = [word.strip(".'-") for word in _LATIN.findall(text)]
        stems = list(map(stem, words))
        found: list[Expansion] = []
        at = 0
        while at < len(words):
            for end in range(min(len(words), at + _LONGEST), at, -1):
                others = self._others.get(" ".join(stems[at:end]))
                if others and words[at]:
                    found.append(Expansion(" ".join(words[at:end]), others, *self._weights))
                    at = end
                    break
            else:
                at += 1
        return found


def _key(word: str) -> str:
    """Under which a folded word is found: Japanese as it stands, Latin by the stems of its words."""
    if _CJK.search(word):
        return word
    return " ".join(stem(part.strip(".'-")) for part in _LATIN.findall(word))


def expand(question: str, dictionaries: Sequence[Dictionary]) -> list[Expansion]:
    """What words of a question stand for; a word that an earlier dictionary knows is not looked up in a later one."""
    found: dict[str, Expansion] = {}
    for dictionary in dictionaries:
        for one in dictionary.expand(question):
            found.setdefault(one.phrase, one)
    return list(found.values())


def expansion_weights(expansions: Sequence[Expansion]) -> dict[str, float]:
    """{term: weight beside its kind's} that expansions add to a query, the highest where several add it."""
    weights: dict[str, float] = {}
    for one in expansions:
        language = language_of(one.phrase)
        for alternative in one.alternatives:
            weight = one.weight if language_of(alternative) is language else one.across
            for term in written_terms(alternative):
                if kind_of(term) not in (TermKind.FUNCTION, TermKind.HIRAGANA, TermKind.CHARACTER):
                    weights[term] = max(weights.get(term, 0.0), weight)
    return weights


def held_by_other_names(expansions: Sequence[Expansion], folded_passage: str) -> set[str]:
    """Terms of words of the question that a passage holds under another name."""
    return {
        term
        for one in expansions
        if any(alternative in folded_passage for alternative in one.alternatives)
        for term in written_terms(one.phrase)
    }


@lru_cache(maxsize=1)
def general() -> Dictionary:
    """Words of any office, Japanese and English, that come with the service."""
    text = resources.files("retrieval.data").joinpath("office.csv").read_text(encoding="utf-8")
    return Dictionary(parse_csv(text), GENERAL_WEIGHT, GENERAL_ACROSS)


def parse_csv(text: str) -> list[list[str]]:
    """Groups of a CSV file: a group a line, a word a cell.

    Raises:
        InvalidInput: `dictionary_invalid`, by line.
        TooLarge: `dictionary_too_large`.
    """
    try:
        rows = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"))))
    except csv.Error as error:
        raise InvalidInput(f"the dictionary is not CSV: {error}", code="dictionary_invalid") from error
    return checked([row for row in rows if any(cell.strip() for cell in row)])


def write_csv(groups: Sequence[Sequence[str]]) -> str:
    """What `parse_csv` reads."""
    target = io.StringIO()
    csv.writer(target, lineterminator="\n").writerows(groups)
    return target.getvalue()


def checked(groups: Sequence[Sequence[str]]) -> list[list[str]]:
    """Groups without white space around their words and without empty or repeated ones.

    Raises:
        InvalidInput: `dictionary_invalid`: a group without two words that differ, or with too many or too long ones.
        TooLarge: `dictionary_too_large`.
    """
    if len(groups) > MAX_GROUPS:
        raise TooLarge(f"a dictionary has at most {MAX_GROUPS} groups, not {len(groups)}", code="dictionary_too_large")
    kept, errors = [], []
    for number, group in enumerate(groups, start=1):
        words = list({fold(word): word.strip() for word in group if word.strip()}.values())
        if not 2 <= len(words) <= MAX_WORDS:
            errors.append(FieldError(f"group {number}", f"has {len(words)} different words, not 2 to {MAX_WORDS}"))
        elif any(len(word) > MAX_CHARS or "\x00" in word for word in words):
            errors.append(FieldError(f"group {number}", f"has a word of more than {MAX_CHARS} characters"))
        kept.append(words)
    if errors:
        raise InvalidInput("the dictionary has groups that are none", code="dictionary_invalid", errors=errors[:50])
    return kept


def as_groups(stored: Mapping[str, Any] | None) -> list[list[str]]:
    """Groups of a stored dictionary."""
    return [list(group) for group in (stored or {}).get("groups", ())]
