"""What a person should look at before a set is trained on. Everything is a flag with its reason; nothing is dropped.

Contradictions are the same question with answers that differ in their numbers; the same question with other words is a
`conflicting_answers`. Style outliers are rows that differ from nearly all others of their language in what a style is
made of: the level of politeness, the length, lists, exclamation marks.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from core.language import language_of
from core.types import Language
from tuning.datasets.near import folded, near_pairs
from tuning.datasets.secrets import find_private

MAX_NAMED = 500
"""Rows named for each flag; the counts are of all."""
_RARE = 0.05
"""A habit that fewer rows than this share show is an outlier."""
_MIN_FOR_STYLE = 20
_FAR = 4.0
"""Robust standard deviations of the logarithm of the length, from which an answer is unusually long or short."""
_POLITE = re.compile(r"(?:です|ます|ください|でした|ました|ません|でしょう|ましょう)(?:か|ね|よ)?[。！？!?）)」\s]|"
                     r"(?:です|ます|ください|でした|ました|ません|でしょう|ましょう)$")  # fmt: skip
_PLAIN = re.compile(r"(?:である|だ|った|ない|する|いる|なる|れる)[。！？!?）)」\s]|(?:である|だ|った|ない)$")
_LIST = re.compile(r"(?m)^[^\S\n]{0,40}(?:[-*・●]|\d{1,9}[.)．])\s{0,40}\S")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def quality_report(
    rows: Sequence[tuple[int, Mapping[str, Any]]], look: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Flags of a set.

    rows: (line, canonical row). look: called now and then; it may raise to stop. Returns {"rows", "flagged_rows",
    "counts": {code: n}, "flags": {code: [{"line", "reason", ...}]}, "lengths", "languages"}; lengths are characters of
    what a row teaches.
    """
    flags: dict[str, list[dict[str, Any]]] = defaultdict(list)
    answers = [taught(content) for _, content in rows]
    questions = [asked(content) for _, content in rows]
    lines = [line for line, _ in rows]
    _duplicates(lines, questions, answers, flags, look)
    _contradictions(lines, questions, answers, flags)
    _private(lines, rows, flags)
    languages = [language_of(answer) for answer in answers]
    _languages(lines, questions, languages, flags)
    for language in Language:
        own = [at for at, found in enumerate(languages) if found is language]
        _style(language, own, lines, answers, flags)
    lengths = sorted(len(answer) for answer in answers)
    return {
        "rows": len(rows),
        "flagged_rows": len({entry["line"] for entries in flags.values() for entry in entries}),
        "counts": {code: len(entries) for code, entries in sorted(flags.items())},
        "flags": {code: entries[:MAX_NAMED] for code, entries in sorted(flags.items())},
        "lengths": {
            name: lengths[min(len(lengths) - 1, int(len(lengths) * share))] if lengths else None
            for name, share in (("min", 0.0), ("p10", 0.1), ("p50", 0.5), ("p90", 0.9), ("max", 1.0))
        },
        "languages": dict(sorted(Counter(language.value for language in languages).items())),
    }


def taught(content: Mapping[str, Any]) -> str:
    """What a row teaches to say: the chosen one of a pair, else the last turn."""
    return str(content.get("chosen") or content["messages"][-1]["content"])


def asked(content: Mapping[str, Any]) -> str:
    """Everything a row answers to: its turns before the answer, and its passages."""
    turns = content["messages"] if "chosen" in content else content["messages"][:-1]
    texts = [str(turn["content"]) for turn in turns if turn["role"] != "system"]
    return "\n".join([*texts, *(str(passage["text"]) for passage in content.get("passages", []))])


def _duplicates(
    lines: Sequence[int],
    questions: Sequence[str],
    answers: Sequence[str],
    flags: dict[str, list[dict[str, Any]]],
    look: Callable[[], None],
) -> None:
    whole = [f"{question}\n{answer}" for question, answer in zip(questions, answers, strict=True)]
    first: dict[str, int] = {}
    exact: set[int] = set()
    for at, text in enumerate(whole):
        key = folded(text)
        if key in first:
            exact.add(at)
            flags["duplicate"].append(
                {"line": lines[at], "of": lines[first[key]], "reason": "the same but for width, case or white space"}
            )
        first.setdefault(key, at)
    told: set[int] = set()
    for one, two, similarity in near_pairs(whole, look=look):
        if one in exact or two in exact or two in told:
            continue
        told.add(two)
        reason = f"{similarity:.0%} of its 5-grams are those of another row"
        flags["near_duplicate"].append(
            {"line": lines[two], "of": lines[one], "similarity": similarity, "reason": reason}
        )


def _contradictions(
    lines: Sequence[int], questions: Sequence[str], answers: Sequence[str], flags: dict[str, list[dict[str, Any]]]
) -> None:
    by_question: dict[str, list[int]] = defaultdict(list)
    for at, question in enumerate(questions):
        by_question[folded(question)].append(at)
    for members in by_question.values():
        for at in members[1:]:
            before = members[0]
            if folded(answers[at]) == folded(answers[before]):
                continue
            ours, theirs = _numbers(answers[at]), _numbers(answers[before])
            if ours and theirs and ours != theirs:
                reason = (
                    f"the same question is answered with {', '.join(sorted(ours - theirs) or ['fewer numbers'])} here"
                    f" and {', '.join(sorted(theirs - ours) or ['fewer numbers'])} there"
                )
                flags["contradiction"].append({"line": lines[at], "of": lines[before], "reason": reason})
            else:
                reason = "the same question has another answer there"
                flags["conflicting_answers"].append({"line": lines[at], "of": lines[before], "reason": reason})


def _numbers(text: str) -> set[str]:
    return {number.replace(",", "") for number in _NUMBER.findall(unicodedata.normalize("NFKC", text))}


def _private(
    lines: Sequence[int], rows: Sequence[tuple[int, Mapping[str, Any]]], flags: dict[str, list[dict[str, Any]]]
) -> None:
    for line, (_, content) in zip(lines, rows, strict=True):
        texts = [str(turn["content"]) for turn in content["messages"]]
        texts += [str(passage["text"]) for passage in content.get("passages", [])]
        texts += [str(content[key]) for key in ("chosen", "rejected") if key in content]
        for finding in find_private("\n".join(texts)):
            flags["private"].append(
                {"line": line, "kind": finding.kind, "reason": f"looks like {finding.kind}: {finding.masked}"}
            )


def _languages(
    lines: Sequence[int],
    questions: Sequence[str],
    languages: Sequence[Language],
    flags: dict[str, list[dict[str, Any]]],
) -> None:
    for line, question, answered in zip(lines, questions, languages, strict=True):
        spoken = language_of(question)
        if Language.OTHER not in {spoken, answered} and spoken is not answered:
            reason = f"asked in '{spoken.value}', answered in '{answered.value}'"
            flags["language_changes"].append({"line": line, "reason": reason})


def _style(
    language: Language,
    own: Sequence[int],
    lines: Sequence[int],
    answers: Sequence[str],
    flags: dict[str, list[dict[str, Any]]],
) -> None:
    """Rows that differ from nearly all others of their language."""
    if len(own) < _MIN_FOR_STYLE:
        return
    habits: dict[str, dict[int, bool]] = {
        "uses a list": {at: bool(_LIST.search(answers[at])) for at in own},
        "uses exclamation marks": {at: "!" in unicodedata.normalize("NFKC", answers[at]) for at in own},
    }
    if language is Language.JAPANESE:
        habits["is in plain form (である)"] = {
            at: bool(_PLAIN.search(answers[at])) and not _POLITE.search(answers[at]) for at in own
        }
        habits["is in polite form (です・ます)"] = {at: bool(_POLITE.search(answers[at])) for at in own}
    for habit, shown in habits.items():
        share = sum(shown.values()) / len(own)
        if 0 < share < _RARE:
            for at in own:
                if shown[at]:
                    reason = f"{habit}, as {share:.1%} of the rows in '{language.value}' do"
                    flags["style_outlier"].append({"line": lines[at], "reason": reason})
    logs = {at: math.log1p(len(answers[at])) for at in own}
    middle = median(logs.values())
    spread = 1.4826 * median(abs(value - middle) for value in logs.values()) or 0.25
    for at in own:
        if abs(logs[at] - middle) / spread > _FAR:
            word = "long" if logs[at] > middle else "short"
            reason = f"unusually {word}: {len(answers[at])} characters"
            flags["length_outlier"].append({"line": lines[at], "reason": reason})
