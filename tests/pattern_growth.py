"""Finds the regular expressions of the code base and measures how their time grows on text made against them.

Time at two sizes is compared, never a time with a clock's figure: a slow machine slows both. What takes next to nothing
at the first size cannot be superlinear by an amount that matters, and is not measured further.
"""

from __future__ import annotations

import ast
import importlib
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from re import _constants as constants
from re import _parser as parser
from types import FrameType
from typing import Any

import regex  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[1]
PACKAGES = ("core", "retrieval", "generation", "ingest", "tuning", "erasure", "api", "workers", "cli", "client")
FUNCTIONS = ("compile", "match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer")
SMALL, LARGE = 6_000, 24_000
SUSPICIOUS_S = 0.005
"""Below this at SMALL nothing is superlinear: the cheapest quadratic loop takes three times as long."""
MOST_GROWTH = 8.0
"""LARGE over SMALL: 4 is linear, 16 quadratic."""
LIMIT_S = 3
_PRINTABLE = "a0A .,:;-_/=<>()[]'\"\n\tあア漢。「」１　\u0301\x00"
_OF_CATEGORY = {
    constants.CATEGORY_DIGIT: "0１",
    constants.CATEGORY_NOT_DIGIT: "a-",
    constants.CATEGORY_SPACE: " \n",
    constants.CATEGORY_NOT_SPACE: "a.",
    constants.CATEGORY_WORD: "a0",
    constants.CATEGORY_NOT_WORD: ".-",
}


@dataclass(frozen=True)
class Used:
    """A pattern, where it stands, and whether it is only ever tried at the start of a text."""

    place: str
    pattern: Any
    anchored: bool


class TooSlow(Exception):
    """One pass took longer than LIMIT_S of this process's time."""


def sources() -> list[Path]:
    """Python files of the product."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def compiled_patterns() -> list[Used]:
    """Pattern objects in modules and their classes, also inside tuples, lists, sets and mappings."""
    found: dict[int, Used] = {}
    for path in sources():
        text = path.read_text("utf-8")
        if not re.search(r"\bcompile\(|\bPattern\b", text):
            continue
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        module = importlib.import_module(name)
        anchored = _tried_at_start_only(ast.parse(text))
        for variable, value in vars(module).items():
            if variable.startswith("__"):
                continue
            for pattern in _patterns_in(value, name):
                at_start = variable in anchored and value is pattern
                found.setdefault(id(pattern), Used(f"{name}.{variable}", pattern, at_start))
    return list(found.values())


def written_patterns() -> tuple[list[Used], list[str]]:
    """Patterns written into calls such as `re.sub("...", ...)`, and the calls whose pattern is not in sight."""
    found: list[Used] = []
    hidden: list[str] = []
    for path in sources():
        tree = ast.parse(path.read_text("utf-8"))
        place = str(path.relative_to(ROOT))
        top = {id(node) for statement in tree.body for node in _outside_functions(statement)}
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            function = call.func
            if not (
                isinstance(function, ast.Attribute)
                and isinstance(function.value, ast.Name)
                and function.value.id in {"re", "regex"}
                and function.attr in FUNCTIONS
            ):
                continue
            first = call.args[0]
            if function.attr == "compile" and id(call) in top:
                continue  # among the compiled ones
            if isinstance(first, ast.Constant):
                library: Any = re if function.value.id == "re" else regex
                anchored = function.attr in {"match", "fullmatch"}
                found.append(Used(f"{place}:{call.lineno}", library.compile(first.value), anchored))
            elif id(call) not in top:
                hidden.append(f"{place}: {ast.unparse(first)}")
    return found, hidden


def _outside_functions(statement: ast.stmt) -> Iterator[ast.AST]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    yield statement
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, ast.stmt):
            yield from _outside_functions(child)
        else:
            yield from ast.walk(child)


def _patterns_in(value: object, module: str) -> Iterator[Any]:
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, re.Pattern | regex.Pattern):
            yield value
        elif isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, tuple | list | set | frozenset):
            waiting += value
        elif isinstance(value, type) and value.__module__ == module:
            waiting += vars(value).values()


def _tried_at_start_only(tree: ast.Module) -> set[str]:
    """Names whose every use is `NAME.match(text)` or `NAME.fullmatch(text)`: no place in the text is tried twice."""
    used: dict[str, list[bool]] = {}
    calls = {
        id(call.func.value): call.func.attr == "fullmatch" or (call.func.attr == "match" and len(call.args) == 1)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            used.setdefault(node.id, []).append(calls.get(id(node), False))
    return {name for name, uses in used.items() if name.startswith("_") and all(uses)}


def attacks(pattern: Any) -> Iterator[Callable[[int], Any]]:
    """Makers of texts of a given length: runs of every character the pattern knows, and its near misses."""
    is_bytes = isinstance(pattern.pattern, bytes)
    characters, words = _pieces(pattern)

    def made(start: str, repeated: str, end: str = "") -> Callable[[int], Any]:
        def of_length(size: int) -> Any:
            text = start + repeated * (size // len(repeated)) + end
            return text.encode("latin-1", "replace") if is_bytes else text

        return of_length

    for character in characters:
        yield made("", character)
        yield made("", character, "\x00")
    prefixes = {word[:end] for word in words for end in range(1, len(word) + 1)}
    for prefix in sorted(prefixes):
        if len(prefix) > 1:
            yield made("", prefix)
        for character in characters[:12]:
            if len(prefix) < 3 or prefix in words:
                yield made("", prefix + character)
    for word in words:
        for end in range(1, len(word) + 1):
            yield made(word[:end], word[min(end, len(word) - 1)], "\x00")
        for character in characters[:12]:
            yield made(word, character, "\x00")
            yield made(word[: len(word) // 2], character, "\x00")


def _pieces(pattern: Any) -> tuple[list[str], list[str]]:
    """Characters of the pattern's classes, and texts that it matches: with nothing optional, and with everything."""
    text = pattern.pattern
    if isinstance(pattern, regex.Pattern):
        return list(_PRINTABLE), ["".join(re.findall(r"\w", text))[:20] or "a"]
    tree = parser.parse(text, pattern.flags & ~re.DEBUG)
    characters: dict[str, None] = {}
    words: dict[str, None] = {}
    for branch in range(4):
        for most in (0, 1, 2):
            words[_word(tree, branch, most, characters)[:60]] = None
    return [*dict.fromkeys([*list(characters)[:40], *"a0 .\n"])], [word for word in words if word][:8]


def _word(tree: Iterable[Any], branch: int, most: int, characters: dict[str, None]) -> str:
    """A text of the pattern. branch: which of the alternatives; most: how often what may repeat does."""
    made: list[str] = []
    for code, argument in tree:
        if code is constants.LITERAL:
            made.append(chr(argument))
        elif code is constants.NOT_LITERAL:
            made.append("a" if argument != ord("a") else "b")
        elif code is constants.ANY:
            made.append("a")
        elif code is constants.IN:
            members = _members(argument)
            made.append(members[branch % len(members)])
            characters.update(dict.fromkeys(members))
        elif code is constants.BRANCH:
            alternatives = [_word(item, branch, most, characters) for item in argument[1]]
            made.append(alternatives[branch % len(alternatives)])
        elif code is constants.SUBPATTERN:
            made.append(_word(argument[-1], branch, most, characters))
        elif code is constants.ATOMIC_GROUP:
            made.append(_word(argument, branch, most, characters))
        elif code in {constants.MAX_REPEAT, constants.MIN_REPEAT, constants.POSSESSIVE_REPEAT}:
            low, high, inner = argument
            once = _word(inner, branch, most, characters)
            made.append(once * min(int(high), max(int(low), most)))
        elif code is constants.ASSERT:
            behind = _word(argument[1], branch, most, characters)
            made.append(behind if argument[0] < 0 else "")
        if made and made[-1]:
            characters[made[-1][-1]] = None
    return "".join(made)


def _members(items: list[Any]) -> list[str]:
    """Up to four characters of a class."""
    negated = bool(items) and items[0][0] is constants.NEGATE
    members: list[str] = []
    for code, argument in items:
        if code is constants.LITERAL:
            members.append(chr(argument))
        elif code is constants.RANGE:
            members.append(chr(argument[0]))
        elif code is constants.CATEGORY:
            members.extend(_OF_CATEGORY[argument])
    if negated:
        refused = re.compile(f"[{''.join(map(re.escape, members))}]") if members else None
        members = [char for char in _PRINTABLE if refused is None or not refused.match(char)]
    return members[:4] or ["a"]


def growth(used: Used) -> tuple[float, str] | None:
    """(LARGE over SMALL, how the text begins) of the first text on which time grows faster than length."""
    for attack in attacks(used.pattern):
        try:
            if _seconds(used, attack(SMALL)) < SUSPICIOUS_S:
                continue
            small = min(_seconds(used, attack(SMALL)) for _ in range(3))
            if small < SUSPICIOUS_S:
                continue  # it was interrupted
            ratio = min(_seconds(used, attack(LARGE)) for _ in range(3)) / small
        except TooSlow:
            return float("inf"), repr(attack(40))
        if ratio > MOST_GROWTH:
            return ratio, repr(attack(40))
    return None


def _seconds(used: Used, text: Any) -> float:
    began = time.process_time()
    with _limited():
        if used.anchored:
            used.pattern.match(text)
            used.pattern.fullmatch(text)
        else:
            for _ in used.pattern.finditer(text):
                pass
    return time.process_time() - began


@contextmanager
def _limited() -> Iterator[None]:
    """`re` looks for signals while it matches, so that an exponential pattern can be left."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
