"""The one renderer of prompts: serving, training rows and evaluation all call it, so they cannot drift apart.

Retrieved text is data. Before it enters a prompt, anything in it that the chat template or our own passage numbering
would read as structure is defused: `<|` cannot open a special token, and a bracketed number cannot pose as a citation.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from core.language import language_of
from core.types import Language, Message

PROMPT_VERSION = "grounded-1"
"""Stamped on every answer and bound into every adapter manifest; change it with any change of the rendering below."""

SYSTEM = "Answer from the numbered passages and cite like [1]. If they do not say, say so."

NOT_FOUND = {
    Language.ENGLISH: "I could not find this in the documents.",
    Language.JAPANESE: "資料には見つかりませんでした。",
}
"""What the model is trained to say when the passages hold no answer, and what a refusal before the model says."""

_REFUSALS = ("could not find this in the documents", "資料には見つかりません")
_BRACKETED_NUMBER = re.compile(r"[\[［]\s*([0-9０-９]{1,3})\s*[\]］]")


@dataclass(frozen=True, slots=True)
class PromptPassage:
    """A passage as the prompt shows it; `title` is its heading path or, failing that, the file name."""

    text: str
    title: str | None = None


def not_found_text(question: str) -> str:
    """The refusal sentence in the language of the question."""
    return NOT_FOUND.get(language_of(question), NOT_FOUND[Language.ENGLISH])


def is_not_found(answer: str) -> bool:
    """Whether an answer says that the passages hold nothing, whatever style surrounds the sentence."""
    folded = unicodedata.normalize("NFKC", answer).casefold()
    return any(phrase in folded for phrase in _REFUSALS)


def defuse(text: str) -> str:
    """Take the power of structure from untrusted text, keeping it readable."""
    return _BRACKETED_NUMBER.sub(r"(\1)", text.replace("<|", "< |").replace("|>", "| >"))


def render_grounded(
    question: str,
    passages: Sequence[PromptPassage],
    *,
    history: Sequence[Message] = (),
) -> tuple[Message, ...]:
    """Messages for a question over passages, best passage first; the model cites them by their number from 1.

    history: earlier turns of the conversation, oldest first, without their passages. With no passages the question
    stands alone under the same system message, which is how leaked facts are probed.
    """
    lines = []
    for number, passage in enumerate(passages, start=1):
        title = f"({defuse(passage.title).strip()}) " if passage.title else ""
        lines.append(f"[{number}] {title}{defuse(passage.text).strip()}")
    lines.append(f"Question: {defuse(question).strip()}")
    earlier = tuple(Message(turn.role, defuse(turn.content)) for turn in history if turn.role in {"user", "assistant"})
    return (Message("system", SYSTEM), *earlier, Message("user", "\n\n".join(lines)))
