"""Whether an answer says what was expected: tolerant of notation, strict about parts of longer numbers and names.

`300` is not in `1300`, nor in `DM-300`; `DM-30` is not in `DM-30P`; `no` is not in `notice`; `395` is in `395.00`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from generation.evaluation.notation import one_notation
from generation.prompt import is_not_found

LONGEST_TEXT = 20_000
"""Code points of an answer or a passage that are compared; more than any answer has."""
_SHORT_WORD = 4
_YES_AND_NO = frozenset({"はい", "いいえ", "いえ"})
_ASCII_WORD = re.compile(r"[a-z]+")
_ZEROS = re.compile(r"\.0{1,4}(?![.\d])")

_WHERE_JA = "資料|文書|文章|書類|文献|記載|情報|ドキュメント|マニュアル|規程|提供され|提示され|与えられ|本文|該当"
_LACKS_JA = (
    "見つかりません|見つけられません|見当たりません|ありません|ございません|含まれてい?ません|含まれておりません|書かれていません"
    "|記載されていません|記載されておりません|示されていません|明記されていません|判断できません|確認できません|分かりません"
    "|わかりません|存在しません|記載がない|記載はない|見つからない|お答えできません|回答できません"
)
_WHERE_EN = r"documents?|passages?|context|sources?|texts?|information|provided|files?|excerpts?|materials?|records?"
_LACKS_EN = (
    r"(?:does|do|did|is|are|was|were) ?(?:not|n't) (?:\w{1,12} ){0,2}?(?:say|said|state|stated|mention|mentioned"
    r"|contain|contained|specify|specified|provide|provided|include|included|give|given|answer|available|list|listed|found|show)"
    r"|no (?:\w{1,12} ){0,2}?(?:information|mention|answer|details?)|(?:could|can|was|were) ?(?:not|n't|not be able to)"
    r" (?:be )?(?:find|found|determine|answer|locate)|cannot (?:be )?(?:find|found|determined?|answer|located?)"
    r"|unable to (?:find|answer|determine|locate)"
)
_LACKS = (
    (re.compile(_LACKS_JA), re.compile(_WHERE_JA), 40, 0),
    (re.compile(rf"\b(?:{_LACKS_EN})\b"), re.compile(rf"\b(?:{_WHERE_EN})\b"), 60, 80),
)
"""(what says that something lacks, what says where, code points before and after in which that must stand)."""
_UNKNOWN = re.compile(
    r"(?:^|[。\n])[^。\n]{0,30}(?:分かりません|わかりません|存じません|お答えできません|回答できません)"
    r"|\bi (?:do not|don't) know\b"
)
_SENTENCE_END = re.compile(r"[。.\n]")
_MARKS = re.compile(r"[\[［] {0,2}\d{1,3} {0,2}[\]］]|^[ 　]{0,8}\d{1,2}[.)] ", re.MULTILINE)
"""Citation marks, and the numbers of a list: no part of what is said."""
_FORMERLY = re.compile(
    r"[(（][^()（）\n]{0,40}(?:旧|従来|改定前|変更前|改訂前|以前|前年|昨年"
    r"|\b(?:old|was|former|formerly|previous|previously)\b)"
    r"[^()（）\n]{0,60}[)）]",
    re.IGNORECASE,
)
"""An aside that says what held before: it does not compete."""
_YES_OR_NO = re.compile(r"\s*(?:yes|no|はい|いいえ)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Folded:
    """Text in one notation without white space, but for that between two digits."""

    chars: str
    gaps: frozenset[int]
    """Places before which white space stood: words end there."""

    @classmethod
    def of(cls, text: str) -> Folded:
        """Fold a text, up to LONGEST_TEXT."""
        words = one_notation(text[:LONGEST_TEXT]).split(" ")
        pieces: list[str] = []
        gaps: set[int] = set()
        length = 0
        for word in filter(None, words):
            if pieces and pieces[-1][-1].isdecimal() and word[0].isdecimal():
                pieces.append(" ")
                length += 1
            gaps.add(length)
            pieces.append(word)
            length += len(word)
        return cls("".join(pieces), frozenset(gaps))

    def before(self, place: int) -> str:
        """Up to two characters that touch the one at a place, nothing where white space parts them."""
        if place == 0 or place in self.gaps:
            return ""
        return self.chars[place - 1 : place] if place - 1 in self.gaps else self.chars[max(0, place - 2) : place]

    def after(self, place: int) -> str:
        """Characters up to the next white space, six at most."""
        end = next((at for at in range(place, min(place + 6, len(self.chars))) if at in self.gaps), place + 6)
        return self.chars[place:end]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer lacks of what was expected, and what it says that it must not."""

    missing: tuple[str, ...] = ()
    """The first alternative of each group that is not there."""
    competing: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        """Whether everything is there and nothing that competes with it."""
        return not self.missing and not self.competing


def holds(text: Folded, wanted: str) -> bool:
    """Whether the text holds `wanted` as a whole."""
    return next(_places(text, wanted), None) is not None


def judge(answer: str, expected: Sequence[Sequence[str]], competing: Sequence[str] = ()) -> Verdict:
    """Compare an answer with one alternative of every group, and with values that must not stand beside them.

    A competing value counts only where it is not part of the expected one: `10日` competes, but not inside `10日間`.
    """
    said = _MARKS.sub(" ", answer[:LONGEST_TEXT])
    text = Folded.of(said)
    missing = tuple(one[0] for one in expected if not any(holds(text, alternative) for alternative in one))
    if not competing:
        return Verdict(missing)
    text = Folded.of(_FORMERLY.sub(" ", said))
    expected_at = bytearray(len(text.chars))
    for alternative in (one for alternatives in expected for one in alternatives):
        for start, end in _places(text, alternative):
            expected_at[start:end] = b"\x01" * (end - start)
    wrong = (
        one for one in competing if any(not all(expected_at[start:end]) for start, end in _places(text, one))
    )  # fmt: skip
    return Verdict(missing, tuple(wrong))


def says_not_found(answer: str) -> bool:
    """Whether an answer says in words that the documents do not hold it."""
    text = answer[:LONGEST_TEXT].casefold().replace("’", "'")
    if is_not_found(text) or _UNKNOWN.search(text):
        return True
    for lacks, where, before, after in _LACKS:
        for found in lacks.finditer(text):
            earlier = _SENTENCE_END.split(text[max(0, found.start() - before) : found.start()])[-1]
            later = _SENTENCE_END.split(text[found.end() : found.end() + after])[0] if after else ""
            if where.search(earlier) or where.search(later):
                return True
    return False


def begins_yes_or_no(answer: str) -> bool:
    """Whether an answer begins with yes or no."""
    return _YES_OR_NO.match(answer) is not None


def in_order(text: Folded, parts: Sequence[str]) -> bool:
    """Whether all parts stand in the text, one behind the other."""
    place = 0
    for part in parts:
        needle = Folded.of(part).chars
        found = text.chars.find(needle, place)
        if found < 0:
            return False
        place = found + len(needle)
    return True


def _places(text: Folded, wanted: str) -> Iterator[tuple[int, int]]:
    """Stretches of the text that are `wanted` as a whole."""
    needle = Folded.of(wanted).chars
    place = text.chars.find(needle) if needle else -1
    while place >= 0:
        if _whole(text, needle, place):
            yield place, place + len(needle)
        place = text.chars.find(needle, place + 1)


def _whole(text: Folded, needle: str, place: int) -> bool:
    """Whether the stretch is no part of a longer number, identifier or short word."""
    before, after = text.before(place), text.after(place + len(needle))
    first, last = needle[0], needle[-1]
    if first.isdecimal() and (_number_goes_on(before) or (before[-1:] == "時" and "分" in needle)):
        return False  # 30分 is how long, 2時30分 is when
    if needle in _YES_AND_NO:
        return not before[-1:].isalpha() and (not after[:1].isalpha() or after.startswith("です"))
    if last.isdecimal() and after and (after[0].isdecimal() or (_decimals(after) and not _ZEROS.match(after))):
        return False
    if needle.isdecimal() and before[-1:] == "-" and _latin(before[:-1]):
        return False
    digits = any(char.isdecimal() for char in needle)
    short = len(needle) <= _SHORT_WORD and _ASCII_WORD.fullmatch(needle) is not None
    if short or (digits and _latin(first)):
        if before and _alnum(before[-1]):
            return False
        if digits and before[-1:] == "-" and _alnum(before[:-1]):
            return False
    if short or (digits and (_latin(last) or _latin(first))):
        if after and _alnum(after[0]):
            return False
        if digits and _latin(first) and after[:1] == "-" and _alnum(after[1:2]):
            return False
    return True


def _number_goes_on(before: str) -> bool:
    return before[-1:].isdecimal() or (before[-1:] == "." and before[:-1].isdecimal())


def _decimals(after: str) -> bool:
    return after[0] == "." and after[1:2].isdecimal()


def _latin(char: str) -> bool:
    return char.isascii() and char.isalpha()


def _alnum(char: str) -> bool:
    return char.isascii() and char.isalnum()
