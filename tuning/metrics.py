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
from tuning.render import sentences
from tuning.spoken import spoken_language

LONG_FACT_CHARS = 40
"""A longer fact is a sentence an answer may word differently: then its numbers and most of its words must stand."""

LEAKED_SHARE = 0.5
"""Share of a row's facts given without its passages that makes them learnt by heart."""

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def score(item: EvaluationItem, output: SystemOutput) -> dict[str, float]:
    """Higher is better for every figure, so that the gate compares all of them alike.

    likelihood: minus the negative log-likelihood of the reference. similarity: chrF of answer and reference. general:
    minus the negative log-likelihood of neutral text, what else the model could do. All others are 0 or 1, so that two
    systems are compared pair by pair. grounding: every expected fact given. precision: no number of the passages given
    that was not asked for. citation: a right passage cited and no wrong one. answering: not refused where the passages
    say it. refusal: refused where they do not. believing: the fact of the passages given, where training said another.
    no_leak: less than half of the expected facts given without passages. finished: ended by itself. numbers: every
    number of the answer stands in what it was shown. language: not answered in another language than asked in.
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
        figures["no_leak"] = float(_share(item.expected, answer) < LEAKED_SHARE)
    elif item.unanswerable:
        figures["refusal"] = float(is_not_found(answer))
    elif item.conflict:
        figures["believing"] = float(_share(item.expected, answer) == 1)
    elif item.expected:
        figures["grounding"] = float(_share(item.expected, answer) == 1)
        figures["precision"] = float(not _unasked_numbers(item, answer))
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
    """Whether the numbers of an answer, its citations aside, stand in its prompt; one that gives none invents none."""
    return {"numbers": float(_numbers(MARKER.sub(" ", answer)) <= _numbers(shown))}


def _unasked_numbers(item: EvaluationItem, answer: str) -> set[str]:
    """Numbers of the passages that an answer gives beside the fact: who lists all of them always gives the right one.

    A whole sentence may be quoted, and what the house's own answer says may be said.
    """
    passages, _, question = item.prompt[-1].content.rpartition("Question: ")
    wordings = [wording for one in item.expected for wording in one]
    asked = [question, item.reference or "", *wordings]
    asked += [one for one in sentences(passages) if any(contains_fact(wording, one) for wording in wordings)]
    extra = _numbers(MARKER.sub(" ", answer)) & _numbers(MARKER.sub(" ", passages))
    return extra.difference(*(_numbers(text) for text in asked))


def _numbers(text: str) -> set[str]:
    return set(_NUMBER.findall(_folded(text)))


def _kept_language(answer: str, shown: str) -> dict[str, float]:
    asked = language_of(shown.rpartition("Question: ")[2])
    answered = spoken_language(MARKER.sub(" ", answer))
    if asked is Language.OTHER:
        return {}
    # A bare number or a name is of no language, and of no wrong one: a base that answers so is still compared.
    return {"language": float(answered in {None, asked.value})}


def _folded(text: str) -> str:
    return _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).casefold()).strip()
