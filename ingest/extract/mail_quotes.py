"""Which lines of a mail are its own, and which it quotes: each earlier mail apart, so that the newest stands out.

Three ways to quote are read: `> ` before every line, a line that opens an earlier mail (`On … wrote:`,
`-----Original Message-----`, `2025年7月2日(水) 14:05 荻原 <…>:`), and the headers that Outlook sets above one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_MARKS = re.compile(r"(?:[>＞][ \u00a0]?){1,20}")
_DASHED = re.compile(
    r"[ \t\u3000]{0,8}[-_－]{2,30} ?(?:Original Message|Original Appointment|Forwarded message|元のメッセージ"
    r"|転送メッセージ|転送されたメッセージ|Original-Nachricht) ?[-_－]{2,30}[ \t]{0,8}|Begin forwarded message:",
    re.IGNORECASE,
)
_WROTE = re.compile(r"[ \t]{0,8}(?:On|Am|Le) [^\n]{6,200} (?:wrote|schrieb|a écrit) ?[:：][ \t]{0,8}", re.IGNORECASE)
_DATED = re.compile(r"[0-9]{4} ?[年/.-] ?[0-9]{1,2} ?[月/.-] ?[0-9]{1,2}")
_DATED_END = re.compile(r"(?:[>＞)）] ?[:：]|(?:書きました|書いた|のメール|wrote) ?[:：]?|さん ?[:：])[ \t]{0,8}\Z")
_HEADER = re.compile(
    r"[ \t\u3000*]{0,8}(From|Sent|To|Cc|Subject|Date|Reply-To|差出人|送信者|送信日時|日時|日付|宛先|CC|件名)"
    r"[ \t*]{0,4}[:：](.{0,400})",
    re.IGNORECASE,
)
RECEIVERS = frozenset({"to", "cc", "宛先"})
_SENDERS = frozenset({"from", "差出人", "送信者"})
_SENT = frozenset({"sent", "date", "送信日時", "日時", "日付"})
_MAX_HEADERS = 10
_MAX_OPENING_CHARS = 300


@dataclass(slots=True)
class Part:
    """A stretch of a mail. title: of an earlier mail, whose it is and when; None for the mail's own words.

    headers: of an earlier mail, as (name, value), where it shows them.
    """

    title: str | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    marked: bool | None = None
    """Whether its lines carry quote marks; None before the first."""


def split_quotes(text: str) -> list[Part]:
    """Parts of a text in order; a text that quotes nothing is one part.

    Marks are taken off below a line that opens an earlier mail. Quoted lines without one (a question that is answered
    below) stay in the mail's own words, marked as they are.
    """
    split = [_unmarked(line) for line in text.split("\n")]
    parts = [Part()]
    at = 0
    while at < len(split):
        depth, words = split[at]
        opened = opening([line for _, line in split[at : at + _MAX_HEADERS + 2]])
        if opened is not None:
            part, used = opened
            parts.append(part)
            at += used
            continue
        part = parts[-1]
        if part.title is not None and words.strip():
            part.marked = depth > 0 if part.marked is None else part.marked
            if part.marked and not depth:
                parts.append(Part())  # answered below the quotation
        if parts[-1].title is None and depth:
            words = f"> {words}"
        parts[-1].lines.append(words)
        at += 1
    return [part for part in parts if part.title is not None or any(line.strip() for line in part.lines)]


def opening(lines: Sequence[str]) -> tuple[Part, int] | None:
    """The earlier mail that begins with the first of these lines, and how many of them say so; None for none."""
    first = lines[0].strip()
    if not first or len(first) > _MAX_OPENING_CHARS:
        return None
    if _DASHED.fullmatch(first):
        headers, used = _headers(lines[1:])
        return Part(_title(headers) or first.strip("-_－ :"), headers), used + 1
    if _WROTE.fullmatch(first) or (_DATED.search(first) and _DATED_END.search(first) and len(first) < 200):
        return Part(first.rstrip(":： ")), 1
    if len(lines) > 1 and first.startswith("On ") and _WROTE.fullmatch(f"{first} {lines[1].strip()}"):
        return Part(f"{first} {lines[1].strip()}".rstrip(":： ")), 2
    headers, used = _headers(lines)
    names = {name.lower() for name, _ in headers}
    if len(headers) > 2 and names & _SENDERS and names & (_SENT | {"subject", "件名"}):
        return Part(_title(headers), headers), used
    return None


def _unmarked(line: str) -> tuple[int, str]:
    """How many quote marks a line has, and the line without them."""
    marks = _MARKS.match(line)
    if marks is None:
        return 0, line
    return sum(character in ">＞" for character in marks.group()), line[marks.end() :]


def _headers(lines: Sequence[str]) -> tuple[list[tuple[str, str]], int]:
    """Headers at the top of these lines, an empty line before them passed over, and how many lines they take."""
    found: list[tuple[str, str]] = []
    used = 1 if lines and not lines[0].strip() else 0
    for line in lines[used : used + _MAX_HEADERS]:
        header = _HEADER.fullmatch(line.strip())
        if header is None:
            break
        found.append((header.group(1), header.group(2).strip(" \t\u3000*")))
    return found, used + len(found) if found else 0


def _title(headers: Sequence[tuple[str, str]]) -> str:
    wanted = (_SENDERS, _SENT)
    values = [next((value for name, value in headers if name.lower() in names), "") for names in wanted]
    return ", ".join(value for value in values if value)
