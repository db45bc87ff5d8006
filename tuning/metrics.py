"""Figures of one answer to one item. Plain string matching: no judge whose taste could move between two runs."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from core.language import language_of
from core.types import Language
from generation.citations import MARKER, find_support
from generation.prompt import is_not_found
from tuning.items import EvaluationItem, SystemOutput

LONG_FACT_CHARS = 40
"""A longer fact is a sentence an answer may word differently: then its numbers and most of its words must stand."""

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def score(item: EvaluationItem, output: SystemOutput) -> dict[str, float]:
    """Higher is better for every figure, so that the gate compares all of them alike.

    likelihood: minus the negative log-likelihood of the reference. similarity: chrF of answer and reference. grounding:
    share of the expected facts given. citation: a right passage cited and no wrong one. answering: not refused where
    the passages say it. refusal: refused where they do not. no_leak: an expected fact not given without passages.
    finished: ended by itself. general: minus the negative log-likelihood of neutral text, what else the model could do.
    numbers: share of the answer's numbers that stand in what it was shown. language: answered in the language asked in.
    """
    figures: dict[str, float] = {}
    if item.raw:
        return {"general": -output.nll} if output.nll is not None else {}
    if item.reference is not None and output.nll is not None:
        figures["likelihood"] = -output.nll
    answer = output.text
    if answer is None:
        return figures
    if item.reference is not None:
        figures["similarity"] = chrf(answer, item.reference)
    if item.leak:
        figures["no_leak"] = 1.0 - _share(item.expected, answer)
    elif item.unanswerable:
        figures["refusal"] = float(is_not_found(answer))
    elif item.conflict:
        figures["believing"] = _share(item.expected, answer)
    elif item.expected:
        figures["grounding"] = _share(item.expected, answer)
        figures["answering"] = float(not is_not_found(answer))
        if item.gold:
            cited = cited_numbers(answer)
            figures["citation"] = float(bool(cited) and cited <= set(item.gold))
    shown = item.prompt[-1].content
    if not item.leak:
        figures.update(_copied(answer, shown))
        figures.update(_kept_language(answer, shown))
    if output.finished is not None:
        figures["finished"] = float(output.finished)
    return figures


def cited_numbers(answer: str) -> set[int]:
    """Passage numbers that an answer cites."""
    return {
        int(number)
        for match in MARKER.finditer(answer)
        for number in re.findall(r"\d+", unicodedata.normalize("NFKC", match.group(1)))
    }


def contains_fact(fact: str, answer: str) -> bool:
    """Whether a fact stands in an answer: "10" not in "2010", full width equals half width, "3,600" equals "3600"."""
    needle, hay = _folded(fact), _folded(answer)
    if not needle:
        return False
    before = r"(?<![0-9a-z])" if re.match(r"[0-9a-z]", needle) else ""
    after = r"(?![0-9a-z])" if re.search(r"[0-9a-z]$", needle) else ""
    words = r"\s*".join(re.escape(word) for word in needle.split())
    if re.search(before + words + after, hay):
        return True
    return len(needle) > LONG_FACT_CHARS and find_support(fact, answer)[2]


def chrf(answer: str, reference: str, *, order: int = 6, beta: float = 2.0) -> float:
    """Character n-gram F-score in 0..1, white space aside (Popovic 2015): needs no word borders, so fits Japanese."""
    one, two = ("".join(unicodedata.normalize("NFKC", text).split()) for text in (answer, reference))
    scores = []
    for n in range(1, order + 1):
        found = Counter(one[at : at + n] for at in range(len(one) - n + 1))
        wanted = Counter(two[at : at + n] for at in range(len(two) - n + 1))
        if not wanted or not found:
            if len(two) >= n:
                scores.append(0.0)
            continue
        common = sum((found & wanted).values())
        precision, recall = common / found.total(), common / wanted.total()
        total = beta * beta * precision + recall
        scores.append((1 + beta * beta) * precision * recall / total if total else 0.0)
    return sum(scores) / len(scores) if scores else 0.0


def _share(expected: tuple[tuple[str, ...], ...], answer: str) -> float:
    return sum(any(contains_fact(fact, answer) for fact in wordings) for wordings in expected) / len(expected)


def _copied(answer: str, shown: str) -> dict[str, float]:
    """Numbers of an answer, its citations aside, that stand in its prompt. None where it gives no number."""
    given = set(_NUMBER.findall(_folded(MARKER.sub(" ", answer))))
    if not given:
        return {}
    return {"numbers": len(given & set(_NUMBER.findall(_folded(shown)))) / len(given)}


def _kept_language(answer: str, shown: str) -> dict[str, float]:
    question = shown.rpartition("Question: ")[2]
    asked, answered = language_of(question), language_of(MARKER.sub(" ", answer))
    # A bare number or a name is of no language.
    if Language.OTHER in {asked, answered} or not any(char.isalpha() for char in answer):
        return {}
    return {"language": float(asked is answered)}


def _folded(text: str) -> str:
    return _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).casefold()).strip()
