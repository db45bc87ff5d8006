"""What a row from a teacher must pass. A teacher is a language model: what it says is a proposal, never a fact.

Every check is a rule on text, so the same answer is always judged alike and a refusal can be explained.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from core.language import language_of, passage_language
from generation.citations import MARKER, find_support
from generation.prompt import is_not_found
from tuning.render import cited_claims

QUESTION_CHARS = (6, 300)
MAX_ANSWER_CHARS = 1_500

_POINTS_AT_TEXT = re.compile(
    r"\b(?:this|the|above|given|following) (?:passage|text|document|paragraph|excerpt|article|context|section)\b"
    r"|\baccording to (?:it|this|the (?:passage|text))\b"
    r"|(?:この|その|上記の?|次の|以下の|与えられた|提示された)(?:文章|文書|資料|本文|文|段落|パッセージ|記事|抜粋)"
    r"|本文(?:に|で|中)|文中|文章中|パッセージ",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def check_question(question: str, passage: str) -> str | None:
    """Code of what is wrong with a question that a passage should answer, or None.

    `question_length`, `other_language`, `not_standalone` (it points at "this text", which no later reader sees).
    """
    text = question.strip()
    if not QUESTION_CHARS[0] <= len(text) <= QUESTION_CHARS[1] or "\n" in text:
        return "question_length"
    if language_of(text) is not passage_language(passage):
        return "other_language"
    if _POINTS_AT_TEXT.search(unicodedata.normalize("NFKC", text)):
        return "not_standalone"
    return None


def check_answer(question: str, answer: str, passages: Sequence[str]) -> str | None:
    """Code of what is wrong with an answer over numbered passages (from 1), or None.

    `answer_length`, `refused`, `other_language`, `special_token_in_row`, `no_citation`, `bad_citation` (a number that
    no passage has), `number_not_in_passage` (a figure that neither passages nor question hold), `not_supported` (no
    cited claim is carried by its passage).
    """
    text = answer.strip()
    if not text or len(text) > MAX_ANSWER_CHARS:
        return "answer_length"
    if is_not_found(text):
        return "refused"
    if "<|" in text:
        return "special_token_in_row"
    if language_of(MARKER.sub("", text)) is not language_of(question):
        return "other_language"
    return _check_grounding(question, text, passages) if passages else None


def _check_grounding(question: str, answer: str, passages: Sequence[str]) -> str | None:
    cited = {number for match in MARKER.finditer(answer) for number in _citation_numbers(match.group(1))}
    if not cited:
        return "no_citation"
    if not cited <= set(range(1, len(passages) + 1)):
        return "bad_citation"
    known = set().union(*(figures(text) for text in (question, *passages)))
    if figures(MARKER.sub("", answer)) - known:
        return "number_not_in_passage"
    shown = [passages[number - 1] for number in sorted(cited)]
    claims = cited_claims(answer)
    if not any(find_support(claim, text, question=question)[2] for claim in claims for text in shown):
        return "not_supported"
    return None


def figures(text: str) -> set[str]:
    """Numbers of a text as digits: full-width ones folded, thousands without commas."""
    return {match.group().replace(",", "") for match in _NUMBER.finditer(unicodedata.normalize("NFKC", text))}


def _citation_numbers(inside: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", unicodedata.normalize("NFKC", inside))]
