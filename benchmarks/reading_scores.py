"""Scores of extractive answers: exact match and F1 as SQuAD defines them, and their Japanese counterparts.

Japanese is compared without white space or punctuation after NFKC, and F1 counts characters, as JSQuAD and JaQuAD do.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from core.types import Language
from generation.prompt import is_not_found

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CITATION = re.compile(r"\s*\[(\d{1,3})\]")


@dataclass(frozen=True, slots=True)
class Reply:
    """One answered question. `gold` holds the numbers of the right passages among those shown; empty when absent."""

    language: Language
    text: str
    answers: tuple[str, ...]
    gold: frozenset[int]
    refused: bool = False
    cited: tuple[int, ...] = field(default=())

    @classmethod
    def of(cls, language: Language, text: str, answers: Sequence[str], gold: Iterable[int]) -> Reply:
        """From a raw answer with its `[n]` marks still in it."""
        cited = tuple(int(mark) for mark in _CITATION.findall(text))
        return cls(language, _CITATION.sub("", text), tuple(answers), frozenset(gold), is_not_found(text), cited)


def normalise(text: str, language: Language) -> str:
    """SQuAD's normalisation for English; for Japanese NFKC, case folded, letters and digits only."""
    if language is Language.JAPANESE:
        folded = unicodedata.normalize("NFKC", text).casefold()
        return "".join(c for c in folded if unicodedata.category(c)[0] not in "PZSC")
    kept = "".join(c for c in text.casefold() if not unicodedata.category(c).startswith("P"))
    return " ".join(_ARTICLES.sub(" ", kept).split())


def exact_match(reply: Reply) -> float:
    """1 when the answer equals one of the right ones after normalisation."""
    given = normalise(reply.text, reply.language)
    return float(any(given == normalise(answer, reply.language) for answer in reply.answers))


def f1(reply: Reply) -> float:
    """Best overlap with a right answer, in words for English and characters for Japanese."""
    return max((_overlap(_units(reply.text, reply), _units(a, reply)) for a in reply.answers), default=0.0)


def _units(text: str, reply: Reply) -> list[str]:
    normal = normalise(text, reply.language)
    return list(normal) if reply.language is Language.JAPANESE else normal.split()


def _overlap(given: list[str], right: list[str]) -> float:
    if not given or not right:
        return float(given == right)
    common = sum((Counter(given) & Counter(right)).values())
    return 2 * common / (len(given) + len(right))


def summarise(replies: Iterable[Reply]) -> dict[str, float | int | None]:
    """Figures of one language.

    exact_match, f1: over all questions, a refusal counting as wrong. citation: share of the questions with the right
    passage shown and an answer given whose citations are all right. refusal_right: share refused of
    those without it; refusal_wrong: of those with it. A share of nothing is None.
    """
    all_ = list(replies)
    shown = [reply for reply in all_ if reply.gold]
    absent = [reply for reply in all_ if not reply.gold]
    answered = [reply for reply in shown if not reply.refused]
    return {
        "n": len(all_),
        "n_without_gold": len(absent),
        "exact_match": _mean([exact_match(reply) for reply in all_]),
        "f1": _mean([f1(reply) for reply in all_]),
        "citation": _mean([float(bool(reply.cited) and reply.gold.issuperset(reply.cited)) for reply in answered]),
        "refusal_right": _mean([float(reply.refused) for reply in absent]),
        "refusal_wrong": _mean([float(reply.refused) for reply in shown]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def squeeze(text: str) -> str:
    """NFKC without white space: the form in which an answer is looked for in a passage."""
    return "".join(unicodedata.normalize("NFKC", text).split())
