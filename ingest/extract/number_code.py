"""Codes of number formats taken apart: sections by sign or condition, each a list of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

_MAX_CODE = 255
_DATE = "yYmMdDhHsSgGeEaAbBrR"


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a code; `text` is what it shows or says."""

    kind: str
    """text, digit (0 # ?), point, comma, percent, exponent, slash, date, elapsed, noon, general, at."""
    text: str


@dataclass(frozen=True, slots=True)
class Section:
    """What is shown of numbers for which the condition holds; without one, by their sign."""

    tokens: tuple[Token, ...]
    condition: tuple[str, float] | None
    japanese: bool
    is_date: bool


@lru_cache(maxsize=4096)
def sections_of(code: str) -> tuple[Section, ...]:
    """At most four; none for `General` and for codes that are over-long."""
    if not code or len(code) > _MAX_CODE or code.lower() == "general":
        return ()
    if "[$-f800]" in code.lower():  # the long date of the reader's system
        code = "yyyy-mm-dd"
    return tuple(_parse(part) for part in _split(code)[:4])


def _split(code: str) -> list[str]:
    parts, start, at = [], 0, 0
    while at < len(code):
        character = code[at]
        if character == '"':
            at = _end(code, '"', at + 1)
        elif character == "[":
            at = _end(code, "]", at + 1)
        elif character in "\\_*":
            at += 1
        elif character == ";":
            parts.append(code[start:at])
            start = at + 1
        at += 1
    return [*parts, code[start:]]


def _end(code: str, mark: str, start: int) -> int:
    at = code.find(mark, start)
    return len(code) if at < 0 else at


def _parse(code: str) -> Section:
    tokens: list[Token] = []
    condition = None
    japanese = False
    at = 0
    while at < len(code):
        character = code[at]
        rest = code[at:].lower()
        if character == '"':
            end = _end(code, '"', at + 1)
            tokens.append(Token("text", code[at + 1 : end]))
            at = end + 1
        elif character == "\\":
            tokens.append(Token("text", code[at + 1 : at + 2]))
            at += 2
        elif character in "_*":
            tokens.append(Token("text", " " if character == "_" else ""))
            at += 2
        elif character == "[":
            end = _end(code, "]", at + 1)
            inside = code[at + 1 : end]
            if inside.startswith("$"):
                symbol, _, place = inside[1:].partition("-")
                japanese = japanese or place.lower().startswith(("411", "ja"))
                tokens.append(Token("text", symbol))
            elif inside and inside.lower().strip("hms") == "" and len(set(inside.lower())) == 1:
                tokens.append(Token("elapsed", inside.lower()))
            elif inside[:1] in "<>=":
                condition = _condition(inside) or condition
            at = end + 1
        elif rest.startswith("general"):
            tokens.append(Token("general", ""))
            at += 7
        elif rest.startswith(("am/pm", "a/p")):
            length = 5 if rest.startswith("am/pm") else 3
            tokens.append(Token("noon", code[at : at + length]))
            at += length
        elif character in "Ee" and code[at + 1 : at + 2] in {"+", "-"}:
            tokens.append(Token("exponent", code[at + 1]))
            at += 2
        elif character in _DATE:
            end = at + 1
            while end < len(code) and code[end].lower() == character.lower():
                end += 1
            tokens.append(Token("date", code[at:end].lower()))
            at = end
        else:
            kinds = {"0": "digit", "#": "digit", "?": "digit", ".": "point", ",": "comma", "%": "percent", "/": "slash"}
            tokens.append(Token("at" if character == "@" else kinds.get(character, "text"), character))
            at += 1
    is_date = any(token.kind in {"date", "elapsed", "noon"} for token in tokens)
    return Section(tuple(tokens), condition, japanese, is_date)


def _condition(text: str) -> tuple[str, float] | None:
    sign = text[: 2 if text[1:2] in {"=", ">"} else 1]
    try:
        return sign, float(text[len(sign) :])
    except ValueError:
        return None
