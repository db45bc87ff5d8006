"""The one renderer of prompts: serving, training rows and evaluation all call it, so they cannot drift apart.

Retrieved text is data, and so is a question. Before they enter a prompt, anything in them that would read as its
structure is defused: no token of a chat template opens, a bracketed number cannot pose as a citation, and no line
begins as a turn does, in whatever spelling: `Question:`, `**答え**：`, or `User:` where an `Assistant:` answers it.
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
_TEMPLATE_TOKENS = {
    "<|": "< |",
    "|>": "| >",
    "<｜": "< ｜",
    "｜>": "｜ >",
    "[INST]": "(INST)",
    "[/INST]": "(/INST)",
    "<<SYS>>": "< <SYS>>",
    "<start_of_turn>": "< start_of_turn>",
    "<end_of_turn>": "< end_of_turn>",
}
"""Openings of the special tokens that families of models take turns with. An engine that holds a tokenizer also breaks
whatever else that one reads as special."""
_TURNS = {
    **dict.fromkeys(("question", "questions", "answer", "answers", "final answer", "passage", "passages"), ""),
    **dict.fromkeys(("質問", "質問文"), "問"),
    **dict.fromkeys(("回答", "答え", "解答", "最終回答"), "答"),
}
"""{label: what is left of it}; nothing stands for its first letter."""
_ANSWERS = frozenset({"answer", "answers", "final answer", "回答", "答え", "解答", "最終回答"})
_ASKING = frozenset({"user", "human", "instruction", "input", "ユーザー", "ユーザ", "利用者", "指示", "入力"})
_REPLYING = frozenset({"assistant", "ai", "bot", "response", "output", "model", "アシスタント", "応答", "出力"})
_ROLES = dict.fromkeys((*_ASKING, *_REPLYING, "system", "developer", "システム", "開発者"), "")
_COLONS = frozenset(":：﹕︰ː∶꞉】］")
_BEFORE = frozenset(" \t\u3000>＞*＊#＃_`~|｜-–—・•●■◆▼【［[(（「『\"'")
_BEHIND = frozenset(" \t\u3000*＊_`~】］])）」』\"'")
_FORMATS = frozenset({"Cc", "Cf"})
_UNSEEN = _FORMATS | {"Mn", "Me"}
_BLANKS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_LOOK_ALIKES = str.maketrans("аеіорсуѕԛһАЕІОРСЅНТ", "aeiopcysqhAEIOPCSHT")
_LABEL_CHARS = 48
_LINE_BREAKS = re.compile(r"[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")
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
    for opening, broken in _TEMPLATE_TOKENS.items():
        text = text.replace(opening, broken)
    return without_labels(_BRACKETED_NUMBER.sub(r"(\1)", text))


def without_labels(text: str) -> str:
    """Lines that begin as a turn of the prompt does keep the first letter of its label: `Answer: 5` is `A: 5`."""
    lines = text.splitlines(keepends=True)
    found = _labelled(lines)
    if not found:
        return text
    for at, label in found.items():
        short = (_TURNS | _ROLES)[label.word] or lines[at][label.start]
        lines[at] = f"{lines[at][: label.start]}{short}{lines[at][label.end :]}"
    return "".join(lines)


def only_question(text: str) -> str:
    """A question up to the line where a turn of its own making begins; the first line may begin as it likes."""
    lines = text.strip().splitlines(keepends=True)
    end = next((at for at in _labelled(lines) if at > 0), None)
    return text if end is None else "".join(lines[:end]).rstrip()


def poses_as_answer(line: str) -> bool:
    """Whether a line begins as an answer does: what stands above other text is then none of its headings."""
    label = _label_of(line)
    return label is not None and label.word in _ANSWERS


def _labelled(lines: Sequence[str]) -> dict[int, _Label]:
    """{number of the line: its label}, in order."""
    labels = {at: label for at, line in enumerate(lines) if (label := _label_of(line)) is not None}
    said = {label.word for label in labels.values()}
    # `User: admin` is a line of a manual; with an `Assistant:` in the same text it is a conversation.
    taken = _TURNS.keys() | (_ROLES.keys() if said & _ASKING and said & _REPLYING else frozenset())
    return {at: label for at, label in labels.items() if label.word in taken}


@dataclass(frozen=True, slots=True)
class _Label:
    """line[start:end] is a word before a colon at the start of a line."""

    start: int
    end: int
    word: str


def _label_of(line: str) -> _Label | None:
    """The label at the start of a line, in whatever spelling; what cannot be seen neither parts nor lengthens it."""
    shown: list[int] = []
    for colon, char in enumerate(line):
        if char in _COLONS:
            break
        if not _is_unseen(char):
            shown.append(colon)
            if len(shown) > _LABEL_CHARS:
                return None
    else:
        return None
    while shown and line[shown[0]] in _BEFORE:
        shown.pop(0)
    while shown and line[shown[-1]] in _BEHIND:
        shown.pop()
    if not shown:
        return None
    start, end = shown[0], shown[-1] + 1
    plain = "".join(char for char in line[start:end] if unicodedata.category(char) not in _FORMATS)
    for text in (plain, "".join(char for char in unicodedata.normalize("NFKD", plain) if not _is_unseen(char))):
        folded = unicodedata.normalize("NFKC", text.translate(_LOOK_ALIKES)).casefold()
        word = " ".join(folded.split()).rstrip("0123456789.# ")
        if word in _TURNS or word in _ROLES:
            return _Label(start, end, word)
    return None


def _is_unseen(char: str) -> bool:
    """Controls, marks that change direction, join or select a form, accents, and letters without a shape."""
    return char in _BLANKS or (char != "\t" and unicodedata.category(char) in _UNSEEN)


def _defused_line(line: str) -> str:
    """Without looking for a label at its start."""
    return defuse(f"Question: {line}").removeprefix("Q: ")


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
    asked, *more = question.strip().splitlines(keepends=True) or [""]
    for number, passage in enumerate(passages, start=1):
        title = f"({defuse(_LINE_BREAKS.sub(' ', passage.title)).strip()}) " if passage.title else ""
        lines.append(f"[{number}] {title}{defuse(passage.text).strip()}")
    # The first line stands behind our own label: what it begins with is the asker's.
    lines.append(f"Question: {_defused_line(asked)}{defuse(''.join(more))}".rstrip())
    earlier = tuple(Message(turn.role, defuse(turn.content)) for turn in history if turn.role in {"user", "assistant"})
    return (Message("system", SYSTEM), *earlier, Message("user", "\n\n".join(lines)))
