"""What a document says of its edition: when it holds, what it covers, its number, and of what it is an edition.

Read are its name, its folders, its title, its first lines and the last ones (a rule's 附則). A statement counts only
where it speaks of the document itself: minutes that move a price rise to 1 November hold from no day. What is unsure is
left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise

from core.dates import FoundPeriod, Period, Precision, find_periods, folded, number_of
from core.editions import DocumentEdition, Standing
from core.types import ExtractedDocument
from ingest.edition_names import NameFacts, read_name, standing_of

HEAD_LINES = 14
HEAD_CHARS = 3_000
TAIL_LINES = 20
TAIL_CHARS = 3_000
MAX_LINE = 300
"""Code points of a line that are looked at."""

_HEADING_CHARS = 60

_SUFFIX = r"(?:[^\s、。,|]{0,6}分)?"
_EFFECTIVE_AFTER = re.compile(
    rf"[ ]?(?:\([月火水木金土日]\))?[ ]?(?:以降の?|以後の?)?{_SUFFIX}[ ]?(?:から|より|以降|以後|付けで|付で|付け)?[ ]?"
    r"(?:適用|施行|発効|実施|効力を(?:生|発)|運用開始|有効(?!期[限間]))"
)
_REVISED_AFTER = re.compile(r"[ ]?(?:付け?で?|に)?[ ]?(?:一部|全部|全面)?(?:改[定訂正版])(?!前|案|率)")
_DATED_AFTER = re.compile(r"[ ]?(?:現在(?!の|、)|時点|付け?の?(?:版|発行)?\Z|発行|作成|更新|制定|版\Z)")
_UNTIL_AFTER = re.compile(
    r"[ ]?(?:まで[、 ]?(?:有効|適用|の(?:価格|料金|限定))|限り(?:、?その効力を失|で廃止|で失効|、?廃止|、?失効)"
    r"|(?:を(?:もって|以て)|で|に)、?[ ]?(?:廃止|失効|終了))"
)
_EFFECTIVE_BEFORE = re.compile(
    r"(?:(?:適用|施行|発効|実施)(?:開始)?(?:年月)?日?|有効開始日?|運用開始日?)[ :|=]{1,4}\Z"
    r"|(?:effective(?: date| from| as of| as from| on)?|valid from|in force (?:from|since)|in effect from"
    r"|with effect from|applies from|apply from|applicable from|applicable as of)[ :|=]{0,4}\Z",
    re.I,
)
_REVISED_BEFORE = re.compile(
    r"(?:最終)?改[定訂正](?:年月)?日?[ :|=]{1,4}\Z|(?:last |date )?(?:revised|revision date)(?: on)?[ :|=]{1,4}\Z", re.I
)
_UNTIL_BEFORE = re.compile(
    r"有効(?:期[限間])[ :|=]{1,4}\Z"
    r"|(?:valid (?:until|through|to|till)|expires(?: on)?|expiry(?: date)?|expiration date)[ :|=]{0,4}\Z",
    re.I,
)
_DATED_BEFORE = re.compile(
    r"(?:更新|作成|発行|制定|策定|基準)(?:年月)?日?[ :|=]{1,4}\Z"
    r"|(?:as of|as at|last updated|updated|issued|date of issue|published|dated?)(?: on)?[ :|=]{1,4}\Z",
    re.I,
)
_OWN_DAY_BEFORE = re.compile(
    r"(?:日時|日付|開催日時?|実施日|作成日|発行日|報告日|送信日時?|受付日|点検日|申請日|発生日時?"
    r"|date(?: and time)?|sent|held on)"
    r"[ :|]{1,4}[^ ]{0,4}\Z|\bdate: [A-Za-z]{3}, \Z",
    re.I,
)
_RANGE = re.compile(r"[ ]?(?:から|より|[~〜-]|to|until|through)[ ]?", re.I)
_SELF = re.compile(
    r"(?:この|本(?!社|店|部|人|体|日))[^\s、。は]{0,12}は|(?:下記|次|以下|上記|本|表示)の?[^\s、。は]{0,8}(?:価格|料金|単価|手数料|内容|額)[はを]?"
    r"|\b(?:this|these)\b|\A(?:all )?(?:prices|rates|fees|charges|tariffs?)\b",
    re.I,
)
_SUBJECT = re.compile(r"[はがもを]|\b(?:is|are|was|were|be|will|has|have)\b", re.I)
_KEY_LINE = re.compile(r"\A[a-z_]{3,40}(?=[ :=])")
"""A key of front matter: effective_date, valid_until."""
_CLAUSE_END = re.compile(r"[。【】()（）\[\]|,、;]|\.(?= )")
_SENTENCE_END = re.compile(r"。|\.(?= )")
_NUMBER_LINE = re.compile(
    r"第[ ]?(?P<ja>[0-9]{1,3}|[一二三四五六七八九十]{1,3})(?:版|次改[定訂正])"
    r"|(?<![A-Za-z])(?:version|ver\.)[ :.]?[ ]?(?P<en>[0-9]{1,3}(?:\.[0-9]{1,3}){0,3})(?![0-9A-Za-z])"
    r"|(?<![A-Za-z])(?:rev\.|revision)[ ]?(?P<letter>[A-Z]|[0-9]{1,3}(?:\.[0-9]{1,3})?)(?![0-9A-Za-z])"
    r"|(?<!改)(?:版数?|バージョン)[ :|]{1,3}(?P<label>[0-9]{1,3}(?:\.[0-9]{1,3}){0,3})(?![0-9])",
    re.I,
)


@dataclass(slots=True)
class _Statements:
    """Days that the lines of a document give, by what they say of it."""

    effective: list[date]
    revised: list[date]
    dated: list[date]
    until: list[date]


def find_edition(filename: str, extracted: ExtractedDocument, *, external_id: str | None = None) -> DocumentEdition:
    """What can be found of an uploaded document; ids and `supersedes` are for the caller to fill in.

    external_id: its folders count where it is a path.
    """
    name = read_name(filename, external_id)
    title = folded(extracted.title or "")[:MAX_LINE]
    head, last = _head_and_tail(extracted)
    standing = standing_of(name, extracted.media_type, [title, *head[:3]])
    if standing is Standing.INSTANCE:
        dated = _day(name.period) or _day(_first(_periods_of(title))) or _own_day(head)
        return DocumentEdition(
            family=name.family, standing=standing, period=_wider(name.period), dated=dated, name=name.label
        )
    told = _read_lines(head, itself=False)
    tail = _read_lines(last, itself=True)
    in_title = read_name(title, None, is_title=True) if title else NameFacts()
    period, label = name.period, name.label
    if period is None and name.number is None:
        period, label = in_title.period, in_title.label
    if period is None:
        heading = _of_heading(head)
        period, label = (heading.period, heading.text) if heading else (None, None)
    number = name.number or in_title.number or _number_in(head)
    revised = name.revised or (max(told.revised) if told.revised else None)
    effective = _only(told.effective) or _only(tail.effective)
    valid_from = effective or revised or _start_of(period)
    dated = _only(told.dated) or _day(period) or _day_of_number(head)
    valid_until = _only(told.until) or _only(tail.until)
    if valid_from and valid_until and valid_until < valid_from:
        valid_from = valid_until = None
    return DocumentEdition(
        family=name.family,
        standing=standing,
        valid_from=valid_from,
        valid_until=valid_until,
        number=number,
        period=_wider(period),
        dated=None if dated and valid_from and dated < valid_from else dated,
        name=label or name.number_label or in_title.number_label or _label_in(head),
        outdated=name.outdated,
    )


def _head_and_tail(extracted: ExtractedDocument) -> tuple[list[str], list[str]]:
    """The first and the last lines, folded; none is in both."""
    text = extracted.text
    first = _lines(text[:HEAD_CHARS])[:HEAD_LINES]
    if len(text) > HEAD_CHARS + TAIL_CHARS:
        return first, _lines(text[-TAIL_CHARS:])[-TAIL_LINES:]
    return first, _lines(text)[len(first) :][-TAIL_LINES:]


def _lines(text: str) -> list[str]:
    lines = (line.strip() for line in folded(text).split("\n"))
    return [_KEY_LINE.sub(lambda key: key.group().replace("_", " "), line[:MAX_LINE]) for line in lines if line]


def _read_lines(lines: Iterable[str], *, itself: bool) -> _Statements:
    """itself: only sentences that say `this rule` or the like; what else stands there may be about anything."""
    told = _Statements([], [], [], [])
    for line in lines:
        found = find_periods(line)
        for number, item in enumerate(found):
            if not _about_itself(line, item.start, needed=itself):
                continue
            before, after = line[max(0, item.start - 40) : item.start], line[item.end : item.end + 40]
            opened = number > 0 and _RANGE.fullmatch(line[found[number - 1].end : item.start]) is not None
            if _EFFECTIVE_AFTER.match(after) or _EFFECTIVE_BEFORE.search(before):
                told.effective.append(item.period.first)
            elif _UNTIL_AFTER.match(after) or _UNTIL_BEFORE.search(before):
                ranged = number + 1 < len(found) and _RANGE.fullmatch(line[item.end : found[number + 1].start])
                (told.effective if ranged else told.until).append(item.period.first if ranged else item.period.last)
            elif opened and _UNTIL_BEFORE.search(line[max(0, found[number - 1].start - 40) : found[number - 1].start]):
                told.until.append(item.period.last)
            elif _REVISED_AFTER.match(after) or _REVISED_BEFORE.search(before) or _in_list(line, found, number):
                told.revised.append(item.period.first)
            elif not itself and (_DATED_AFTER.match(after) or _DATED_BEFORE.search(before)):
                told.dated.append(item.period.first)
    return told


def _in_list(line: str, found: Sequence[FoundPeriod], number: int) -> bool:
    """改定 平成31年4月1日／令和4年10月1日: every day of the list is one of a revision."""
    between = [line[one.end : other.start] for one, other in pairwise(found[: number + 1])]
    listed = all(len(gap) <= 3 and not gap.strip(" /、,・") for gap in between)
    return (
        listed
        and re.search(r"(?:\A|[ |])改[定訂正][ :|]{1,3}\Z", line[max(0, found[0].start - 12) : found[0].start])
        is not None
    )


def _about_itself(line: str, start: int, *, needed: bool) -> bool:
    """Whether what is said of the day at `start` is said of the document: its clause has no other subject."""
    clause, sentence = _before(line, start, _CLAUSE_END), _before(line, start, _SENTENCE_END)
    if _SELF.search(clause):
        return True
    return _SUBJECT.search(clause) is None and (not needed or _SELF.search(sentence) is not None)


def _before(line: str, start: int, mark: re.Pattern[str]) -> str:
    """What stands between the last such mark and a place."""
    return line[max((match.end() for match in mark.finditer(line, 0, start)), default=0) : start].strip()


def _periods_of(text: str) -> list[FoundPeriod]:
    return find_periods(text, in_name=True)


def _first(found: Sequence[FoundPeriod]) -> Period | None:
    return found[0].period if found else None


def _own_day(head: Sequence[str]) -> date | None:
    """The day that stands alone, or under its name, among the first lines, as minutes, reports and mails begin."""
    for line in head[:8]:
        for item in find_periods(line):
            if item.period.precision is Precision.DAY and (
                _OWN_DAY_BEFORE.search(line[: item.start]) or len(line) - (item.end - item.start) <= 12
            ):
                return item.period.first
    return None


def _of_heading(head: Sequence[str]) -> FoundPeriod | None:
    """The fiscal year or half that ends one of the first lines, or stands in its brackets: `収集日程(令和7年度)`."""
    named: dict[Period, FoundPeriod] = {}
    for line in head[:3]:
        if len(line) > _HEADING_CHARS:
            continue
        for item in find_periods(line):
            wide = item.period.precision in {Precision.FISCAL_YEAR, Precision.HALF}
            if wide and not line[item.end :].removeprefix("版").strip(" )]】」』"):
                named.setdefault(item.period, item)
    return next(iter(named.values())) if len(named) == 1 else None


def _only(days: Sequence[date]) -> date | None:
    """The day, where all agree on it."""
    return days[0] if days and len(set(days)) == 1 else None


def _day(period: Period | None) -> date | None:
    return period.first if period is not None and period.precision in {Precision.DAY, Precision.MONTH} else None


def _wider(period: Period | None) -> Period | None:
    return None if period is None or period.precision is Precision.DAY else period


def _start_of(period: Period | None) -> date | None:
    """A fiscal year's edition holds from its first day. A bare year, a month, a quarter may be meant otherwise."""
    fiscal = period is not None and (
        period.precision is Precision.FISCAL_YEAR
        or (period.precision is Precision.HALF and period.first.month in {4, 10})
    )
    return period.first if fiscal and period is not None else None


def _numbers(lines: Iterable[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for line in lines:
        for match in _NUMBER_LINE.finditer(line):
            ja = number_of(match["ja"]) if match["ja"] else None
            number = str(ja) if ja is not None else match["en"] or match["letter"] or match["label"]
            if number:
                found.append((number.lower(), match.group().strip()))
    return found


def _number_in(head: Sequence[str]) -> str | None:
    found = {number for number, _ in _numbers(head)}
    return found.pop() if len(found) == 1 else None


def _day_of_number(head: Sequence[str]) -> date | None:
    """The day behind an edition's number: `版数 4.2 2025年6月1日`."""
    for line in head:
        for match in _NUMBER_LINE.finditer(line):
            for item in find_periods(line):
                if 0 <= item.start - match.end() <= 3:
                    return item.period.first
    return None


def _label_in(head: Sequence[str]) -> str | None:
    found = _numbers(head)
    return found[0][1] if len({number for number, _ in found}) == 1 else None
