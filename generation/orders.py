"""Sentences in retrieved text that give orders to the model rather than tell the reader something.

Retrieved text is data, but a language model reads it as it reads its prompt. What this module finds is left out of the
prompt, and of the prompt alone: search, citations and the passages that a caller sees keep the document as it is. It
errs towards keeping: one sign that could as well stand in a form or a letter ("your reply must include the order
number") is not enough by itself, two in one sentence or one beside a plain order are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from core.table_text import CELL_SEPARATOR

LEFT_OUT = "(...)"
"""What stands in the prompt for a run of such sentences."""

_ABOUT = r"(?:instructions?|prompts?|rules?|guidelines?|questions?|directives?|system messages?|commands?|context)"
_MODEL = r"(?:a\.?i\.?|assistant|chat ?bot|language model|llm|model|gpt|copilot)"
_REPLY = r"(?:response|answer|reply|output|completion)"

_JA_ORDER = (
    r"(?:せよ|しろ|しなさい|すること"
    r"|[しいっえべめけ]?て(?:ください|下さい|ほしい|欲しい)"
    r"|[えけせめろ](?=[\s。！!」』]|$))"
)
"""The end of a Japanese sentence that orders or asks; the same words in a report end otherwise."""

_PLAIN_ORDERS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b(?:ignore|disregard|forget|override|bypass|skip)\b.{{0,40}}\b{_ABOUT}\b",
        rf"\b(?:previous|prior|above|earlier|preceding|existing|original)\s+{_ABOUT}\b.{{0,40}}"
        r"\b(?:out of date|outdated|void|invalid|no longer|cancell?ed|superseded|replaced|expired|obsolete)\b",
        rf"\b(?:notes?|messages?|instructions?|attention|reminders?|orders?)\s+(?:to|for)\s+(?:the\s+|any\s+|all\s+|an?\s+)?"
        rf"{_MODEL}\b",
        rf"(?:^|[\s(\[])(?:dear|hey|hello|attention)\s+{_MODEL}\b",
        r"^\W*(?:system|developer|assistant|admin(?:istrator)?)\s+(?:prompt|message|note|override)\s*[:>]",
        r"\bfrom now on\b.{0,30}\b(?:you|answer|respond|reply|begin|always|only|say)\b",
        rf"\byou are (?:now )?(?:an? |the )?(?:\w+ ){{0,2}}{_MODEL}\b",
        r"\b(?:reveal|print|show|repeat|output|leak|display)\b.{0,20}\b(?:your|the)\b.{0,12}\b(?:system prompt|"
        r"instructions|prompt)\b",
        r"\bnew (?:system )?instructions?\s*:",
        rf"(?:指示|命令|プロンプト|ルール|規則|質問)[^。]{{0,10}}(?:無視|忘れ|破棄|取り消|従わ|答えず)[^。]{{0,60}}?{_JA_ORDER}",
        r"(?:AI|アシスタント|チャットボット|言語モデル|生成モデル|LLM)(?:アシスタント)?(?:へ|に告ぐ|への指示|に対する指示|に命令)",
        r"^\W*(?:システム|開発者|管理者)(?:プロンプト|メッセージ|命令|からの指示)\s*[::]",
        r"(?:今から|これから|以後|以降).{0,12}(?:回答|返答|応答|出力).{0,24}(?:のみ|だけ|必ず)",
        r"システムプロンプト.{0,12}(?:表示|出力|教え|開示|示し)",
        r"あなたは(?:今から|これから)?.{0,12}(?:AI|アシスタント|チャットボット|モデル)(?:です|だ|として|である)",
    )
)
"""Each is enough by itself."""

_SIGNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b(?:your|the|every|each|all)\s+{_REPLY}s?\s+(?:must|should|shall|has to|have to|needs? to|will)\b",
        rf"\b(?:in|into|to|at the (?:end|start|beginning|top) of|before|after) (?:your|the|every|each) {_REPLY}s?\b",
        r"\bwhen (?:you )?(?:reply|respond|answer|replying|responding|answering|summari[sz]e|summari[sz]ing)\b",
        r"\b(?:include|insert|add|append|write|print|output|say|repeat|use|mention)\b.{0,20}\b(?:phrase|word|text|"
        r"sentence|string|following|snippet|link|url|code|marker)\b",
        r"\b(?:answer|respond|reply|begin|start|end)\b.{0,24}\b(?:only|exactly|just|always|every)\b",
        r"\b(?:only|exactly|just|always)\b.{0,12}\b(?:answer|respond|reply|say|output|write|print)\b",
        r"\bdo not (?:answer|mention|reveal|tell|use|follow)\b",
        r"\b(?:instead of|rather than) (?:answering|the answer)\b",
        r"(?:回答|返答|応答|出力|答え)(?:に|には|は|の(?:最初|最後|冒頭|末尾))",
        r"必ず|のみ|とだけ|だけを",
        r"と(?:だけ|のみ)?(?:出力|回答|返答|答え|書|述べ|言)[^。]{0,4}" + _JA_ORDER,
        r"質問(?:には|に)?答え(?:ず|ない|るな)",
    )
)
"""Two different ones in a sentence are enough, or one beside a sentence that is left out."""

_ROLE = re.compile(
    r"^\W*(?:(?P<speaks>assistant)|system|developer|admin(?:istrator)?|システム|開発者|管理者)\s*(?P<mark>[:>])",
    re.IGNORECASE,
)
"""The label of a turn, and of a field: what stands behind it says which."""
_FIELD_CHARS = 40
_SPOKEN = re.compile(
    rf"{_JA_ORDER}|[。！？!?]|と(?:だけ|のみ)?(?:答|言|書|述|返|出力|回答)|こと\Z|\b(?:you|your|say|answer|respond|reply|output|print|write|include|begin|end|obey|must"
    r"|ignore|forget)\b",
    re.IGNORECASE,
)

_SENTENCE = re.compile(r"[^\n。！？!?.]*+(?:[。！？!?]++[」』）)\"']*+|\.++[\"')]*+|\n|\Z)")
_FORGED_TURNS = re.compile(r"<\|[\w ]{1,40}\|>(?:.*<\|[\w ]{1,40}\|>)?[^\n]*(?:\n[^\n]*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Kept:
    """A text for the prompt, and how many sentences of it were left out."""

    text: str
    left_out: int


def without_orders(text: str) -> Kept:
    """The text with sentences that give orders to a model replaced by LEFT_OUT.

    White space and everything else stay as they are; a text without such sentences comes back unchanged.
    """
    text, forged = _without_forged_turns(text)
    spans = list(_sentences(text))
    folded = [unicodedata.normalize("NFKC", text[start:end]).strip() for start, end in spans]
    orders = _orders_among(folded)
    if not orders:
        return Kept(text, forged)
    pieces: list[str] = []
    for at, (start, end) in enumerate(spans):
        piece = text[start:end]
        if at not in orders:
            pieces.append(piece)
        elif at - 1 not in orders:
            pieces.append(f"{LEFT_OUT}{piece[len(piece.rstrip()) :]}")
        elif piece.endswith("\n") and not pieces[-1].endswith("\n"):
            pieces.append("\n")
    return Kept("".join(pieces), len(orders) + forged)


@lru_cache(maxsize=512)
def orders_in(text: str) -> tuple[tuple[int, int], ...]:
    """Spans of what `without_orders` leaves out, in order: none of it is a line that answers anything."""
    forged = [found.span() for found in _FORGED_TURNS.finditer(text)] if "<|" in text else []
    for start, end in forged:
        text = f"{text[:start]}{' ' * (end - start - 1)}\n{text[end:]}"
    spans = list(_sentences(text))
    orders = _orders_among([unicodedata.normalize("NFKC", text[start:end]).strip() for start, end in spans])
    return tuple(sorted([*forged, *(spans[at] for at in orders)]))


def _without_forged_turns(text: str) -> tuple[str, int]:
    """Text from the first token of a chat template to the line behind the last one is a conversation, not a passage."""
    if "<|" not in text:
        return text, 0
    return _FORGED_TURNS.subn(f"{LEFT_OUT}\n", text)


def _orders_among(sentences: Sequence[str]) -> set[int]:
    orders = {at for at, sentence in enumerate(sentences) if _is_order(sentence)}
    # An order goes on in the sentences beside it: "The rules have changed. Your answer must contain X."
    beside = {at + step for at in orders for step in (-1, 1) if 0 <= at + step < len(sentences)}
    return orders | {at for at in beside if any(sign.search(sentences[at]) for sign in _SIGNS)}


def _is_order(sentence: str) -> bool:
    if any(pattern.search(sentence) for pattern in _PLAIN_ORDERS):
        return True
    role = _ROLE.match(sentence)
    if role is not None and not _is_field(role, sentence[role.end() :]):
        return True
    return sum(bool(sign.search(sentence)) for sign in _SIGNS) >= 2


def _is_field(role: re.Match[str], said: str) -> bool:
    """Whether a role's label names what stands behind it (管理者：鈴木, a row of a table) rather than who speaks."""
    value, row, _ = said.partition(CELL_SEPARATOR)
    if role["mark"] == ">" or (role["speaks"] and not row):
        return False
    return 0 < len(value.strip()) <= _FIELD_CHARS and _SPOKEN.search(value) is None


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """Spans that together are the whole text."""
    start = 0
    while start < len(text):
        match = _SENTENCE.match(text, start)
        end = match.end() if match is not None and match.end() > start else start + 1
        # The white space behind a sentence belongs to it.
        while end < len(text) and text[end] in " \t\u3000\n" and text[end - 1] != "\n":
            end += 1
        yield start, end
        start = end
