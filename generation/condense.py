"""The search query of a question inside a conversation: what the question leaves to its forerunners, put back.

By rules unless a model is set: one of 135 million parameters rewrites questions into other questions. The rules only
ever add earlier questions of the asker; they never drop a word of the one that is asked.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Final

from core.language import language_of
from core.types import Language, Message
from generation.prompt import defuse

LONGEST_CHAIN: Final = 3
"""Earlier questions that a follow-up may lean on."""
_LONGEST_TURN_CHARS: Final = 300
_SHORT_WORDS: Final = 4
_SHORT_CHARS_JA: Final = 9

_POINTS_BACK: Final = re.compile(
    r"\b(?:it|its|they|them|their|theirs|he|him|his|she|her|hers|that|this|those|these|there|then|ones?|former|latter"
    r"|same|previous|instead)\b|^\s*(?:and|but|so|or|also|what about|how about|why)\b"
    r"|それ|その|そちら|そこ|そう|これ|この|こちら|ここ|あれ|あの|彼|同じ|上記|前述|先ほど|さっき"
    r"|^\s*(?:では|じゃあ|で[、,]|また|あと|なら|ほかに|他に|なぜ|どうして)",
    re.IGNORECASE,
)

REWRITE: Final = {
    Language.ENGLISH: "Rewrite the last question so that it can be understood without the conversation. Write only it.",
    Language.JAPANESE: "最後の質問を、会話を読まなくても分かる一文に書き直してください。質問文だけを書いてください。",
}


def leans_back(question: str) -> bool:
    """Whether a question points at what was said before it, or is too short to be searched for by itself."""
    folded = unicodedata.normalize("NFKC", question)
    if _POINTS_BACK.search(folded):
        return True
    if language_of(folded) is Language.JAPANESE:
        return len(re.sub(r"[\W_]+", "", folded)) < _SHORT_CHARS_JA
    return len(re.findall(r"\w+", folded)) < _SHORT_WORDS


def search_query(question: str, history: Sequence[Message]) -> str:
    """The question, behind the earlier questions that it leans on: oldest first, at most LONGEST_CHAIN."""
    asked = [turn.content.strip() for turn in history if turn.role == "user" and turn.content.strip()]
    chain: list[str] = []
    current = question
    while asked and len(chain) < LONGEST_CHAIN and leans_back(current):
        current = asked.pop()
        chain.insert(0, current[-_LONGEST_TURN_CHARS:])
    return " ".join([*chain, question])


def rewritten_query(question: str, history: Sequence[Message], write: Callable[[tuple[Message, ...]], str]) -> str:
    """The question as a model rewrites it; by the rules where its answer cannot be one question.

    write: answers messages with text.
    """
    if not any(turn.role == "user" for turn in history):
        return question
    order = REWRITE.get(language_of(question), REWRITE[Language.ENGLISH])
    turns = "\n".join(f"{turn.role}: {turn.content[-_LONGEST_TURN_CHARS:]}" for turn in history[-2 * LONGEST_CHAIN :])
    lines = (
        write((Message("system", order), Message("user", defuse(f"{turns}\nuser: {question}")))).strip().splitlines()
    )
    made = lines[0].removeprefix("user:").strip() if lines else ""
    if not 2 <= len(made) <= _LONGEST_TURN_CHARS + len(question):
        return search_query(question, history)
    return made
