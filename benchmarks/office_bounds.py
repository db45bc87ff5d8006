"""What office answers are held to: shares over groups of questions, each with its bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from generation.evaluation.figures import wilson
from generation.evaluation.outcome import Status
from generation.evaluation.questions import Question


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with its outcome, as an evaluation tells it, and whether five passages of a search held the answer."""

    question: Question
    outcome: Mapping[str, Any]
    retrieved: bool | None = None

    @property
    def status(self) -> str:
        """How it ended."""
        return str(self.outcome["status"])


@dataclass(frozen=True, slots=True)
class Held:
    """A bound with what was measured. share is None where no question counts, and then it does not hold."""

    what: str
    over: str
    share: float | None
    low: float
    high: float
    of: int
    bound: float
    at_most: bool
    holds: bool

    def to_json(self) -> dict[str, Any]:
        """As written."""
        return asdict(self)


KINDS = {
    "rows and conditions": {"table_row", "table_condition"},
    "matrices": {"table_matrix", "table_merged"},
    "forms, FAQ, error codes": {"form_field", "faq", "error_code"},
    "prose": {
        "prose_fact", "paraphrase", "polite", "number_unit", "date", "definition", "minutes", "mail", "list_item",
        "article", "yes_no",
    },
}  # fmt: skip
"""Groups of kinds, of questions in the language of their document."""

BOUNDS: tuple[tuple[str, str, float, bool], ...] = (
    ("right", "ja in ja", 0.70, False),
    ("right", "en in en", 0.70, False),
    ("right", "rows and conditions", 0.80, False),
    ("right", "matrices", 0.50, False),
    ("right", "forms, FAQ, error codes", 0.70, False),
    ("right", "prose", 0.75, False),
    ("right", "other language", 0.30, False),
    ("retrieved", "one language", 0.93, False),
    ("cited", "one language", 0.90, False),
    ("refused rightly", "unanswerable", 0.85, False),
    ("refused wrongly", "one language", 0.20, True),
    ("verified wrong", "all", 0.03, True),
    ("verified", "right answers", 0.85, False),
)
"""(what, over which questions, bound, whether it is the most and not the least)."""

_EVENTS: dict[str, Callable[[Answered], bool | None]] = {
    "right": lambda one: one.status == Status.RIGHT,
    "refused rightly": lambda one: one.status == Status.RIGHT,
    "refused wrongly": lambda one: one.status == Status.REFUSED,
    "verified wrong": lambda one: one.status == Status.WRONG and bool(one.outcome["verified"]),
    "verified": lambda one: bool(one.outcome["verified"]),
    "cited": lambda one: one.outcome["cited"],
    "retrieved": lambda one: one.retrieved,
}
"""Whether it happened; None where it does not apply to a question."""


def _groups(answered: Sequence[Answered]) -> dict[str, list[Answered]]:
    answerable = [one for one in answered if not one.question.unanswerable]
    same = [one for one in answerable if one.question.language == one.question.document_language]
    groups = {
        "all": list(answered),
        "one language": same,
        "ja in ja": [one for one in same if one.question.language == "ja"],
        "en in en": [one for one in same if one.question.language == "en"],
        "other language": [
            one
            for one in answerable
            if one.question.document_language in {"ja", "en"}
            and one.question.language != one.question.document_language
        ],
        "unanswerable": [one for one in answered if one.question.unanswerable],
        "right answers": [one for one in answerable if one.status == Status.RIGHT],
    }
    return groups | {
        name: [one for one in same if one.question.kind in kinds] for name, kinds in KINDS.items()
    }  # fmt: skip


def measure(answered: Sequence[Answered]) -> list[Held]:
    """Every bound with its share, its 95 % interval and whether it holds."""
    groups = _groups(answered)
    held = []
    for what, over, bound, at_most in BOUNDS:
        events = [event for one in groups[over] if (event := _EVENTS[what](one)) is not None]
        share = sum(events) / len(events) if events else None
        low, high = wilson(sum(events), len(events))
        holds = share is not None and (share <= bound if at_most else share >= bound)
        held.append(Held(what, over, share, low, high, len(events), bound, at_most, holds))
    return held
