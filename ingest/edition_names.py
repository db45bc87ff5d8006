"""What a file's name, its folders and its title tell of its edition, and the name that all its editions share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import PurePosixPath

from core.dates import FoundPeriod, Period, find_periods, folded, number_of
from core.editions import Standing

MAX_CHARS = 300
_NUMBER = re.compile(
    r"第[ ]?(?P<ja>[0-9]{1,3}|[一二三四五六七八九十]{1,3})(?:版|次改[定訂正])"
    r"|(?<![A-Za-z0-9])(?:v|ver\.?|version|edition)[ ._]?(?P<en>[0-9]{1,3}(?:\.[0-9]{1,3}){0,3})(?![0-9A-Za-z])"
    r"|(?<![A-Za-z0-9])rev(?:ision)?\.?[ _]?(?P<letter>[A-Z]|[0-9]{1,3}(?:\.[0-9]{1,3})?)(?![0-9A-Za-z])"
    r"|(?<![0-9])(?P<ordinal>[0-9]{1,3})(?:st|nd|rd|th) edition",
    re.I,
)
_REVISED_AFTER = re.compile(r"[ _]?(?:付け?)?(?:一部|全面)?(?:改[定訂正]|施行|適用|発効)")
_CHANGE_WORDS = re.compile(
    r"(?:一部|全面)?改[定訂正](?:版)?|施行|適用|発効|年度版|最新版?|現行版?|確定版?|決定版?|新版|旧版"
    r"|(?<![A-Za-z])(?:final|latest|current|new|old|obsolete|edition|copy|revised|draft)(?![A-Za-z])|コピー|ドラフト",
    re.I,
)
_OUTDATED = re.compile(
    r"(?<![一-龥ぁ-んァ-ヶ])旧(?=版|[ _(\[・-]|\Z)|旧版|廃止"
    r"|(?<![A-Za-z])(?:old|obsolete|superseded|archived?)(?![A-Za-z])",
    re.I,
)
_OLD_FOLDER = re.compile(r"旧版?|過去(?:分|版)?|アーカイブ|バックアップ|old|obsolete|archived?|backup", re.I)
_SEPARATORS = re.compile(r"[\s_\-・·.,、。()\[\]{}【】「」『』<>〈〉《》~〜/|:;!'\"+&#]+")
_TRAILING = re.compile(r"(?<=[一-龥ぁ-んァ-ヶ])(?:度分?|分|版)\Z")
_INSTANCE = re.compile(
    r"議事録|議事メモ|会議録|打合せ|打ち合わせ|報告|日報|週報|月報|速報|メモ|申請書?|届(?![く出])|見積|請求書|注文書|発注書|納品書|検収|領収"
    r"|稟議|決裁|お知らせ|通知|案内状|依頼書|障害|点検結果|点検報告|ログ|履歴書|質問票|回答書|レポート|ニュース|発表|送付状|予約表"
    r"|(?<![A-Za-z])(?:minutes|meeting|notes?|memo|report|review|log|logs|incident|claim|request|application|invoice|quot(?:e|ation)"
    r"|receipt|order|notice|newsletter|agenda|diary|journal|statement|letter|mail|fwd?|re)(?![A-Za-z])",
    re.I,
)
_EDITION = re.compile(
    r"規程|規則|規定|要綱|要領|基準|細則|条例|約款|方針|マニュアル|手順|手引|ガイド|取扱説明|仕様|一覧|名簿|価格|料金|使用料|手数料|単価"
    r"|料率|リスト|カタログ|計画|予算|日程|カレンダー|シフト|組織図|FAQ|よくある質問|台帳|ハンドブック|在庫表?"
    r"|(?<![A-Za-z])(?:policy|policies|rules?|handbook|manual|guide|guidelines?|price|prices|pricing|rates?|tariffs?|list|catalog(?:ue)?"
    r"|specification|datasheet|calendar|rota|roster|schedule|plan|budget|directory|contacts|stock|terms|contract|procedure|sop)(?![A-Za-z])",
    re.I,
)
_MAIL_TYPES = frozenset({"message/rfc822", "application/vnd.ms-outlook"})


@dataclass(frozen=True, slots=True)
class NameFacts:
    """What a name tells. label: its period in its own words; revised: the day after which 改定 or the like stands."""

    family: str | None = None
    period: Period | None = None
    label: str | None = None
    number: str | None = None
    number_label: str | None = None
    revised: date | None = None
    outdated: bool = False
    words: str = ""
    """The name without its dates, folded."""


def read_name(filename: str, external_id: str | None, *, is_title: bool = False) -> NameFacts:
    """Facts of a file name (its ending left out), or of a title; the nearest folder with a period speaks where it has
    none.
    """
    stem = filename if is_title else PurePosixPath(filename.replace("\\", "/")).stem
    text = folded(stem)[:MAX_CHARS]
    found = find_periods(text, in_name=True)
    numbers = [match for match in _NUMBER.finditer(text) if not _inside(match.start(), found)]
    dated = next((item for item in found if _REVISED_AFTER.match(text, item.end)), None)
    covered = [item for item in found if item is not dated]
    period, label = (covered[-1].period, covered[-1].text) if len(covered) == 1 else (None, None)
    family = _shared(text, found, numbers)
    outdated = _OUTDATED.search(text) is not None
    folders = [] if is_title else _folders(external_id)
    kept: list[str] = []
    for folder in folders:
        inside = find_periods(folder, in_name=True)
        if period is None and not numbers and len(inside) == 1:
            period, label = inside[0].period, inside[0].text
        outdated = outdated or _OLD_FOLDER.fullmatch(folder) is not None
        rest = "" if _OLD_FOLDER.fullmatch(folder) else _shared(folder, inside, [])
        if rest:
            kept.append(rest)
    number = numbers[0] if len(numbers) == 1 else None
    return NameFacts(
        family="/".join([*reversed(kept), family])[:MAX_CHARS] if len(family) > 1 else None,
        period=period,
        label=label,
        number=_number(number) if number else None,
        number_label=number.group().strip(" _") if number else None,
        revised=dated.period.first if dated else None,
        outdated=outdated,
        words=family,
    )


def standing_of(name: NameFacts, media_type: str, lines: Sequence[str]) -> Standing:
    """Whether a document takes the place of earlier ones. Unknown names with a day of their own do not."""
    if media_type in _MAIL_TYPES:
        return Standing.INSTANCE
    if _INSTANCE.search(name.words):
        return Standing.INSTANCE
    if _EDITION.search(name.words) or name.number or name.revised:
        return Standing.EDITION
    if any(_INSTANCE.search(line) for line in lines[:2] if len(line) <= 60):
        return Standing.INSTANCE
    day = name.period is not None and (name.period.last - name.period.first).days < 31
    return Standing.INSTANCE if day else Standing.EDITION


def _shared(text: str, found: Sequence[FoundPeriod], numbers: Sequence[re.Match[str]]) -> str:
    """A name without what tells editions apart, its separators made one space."""
    spans = sorted([(item.start, item.end) for item in found] + [match.span() for match in numbers], reverse=True)
    for start, end in spans:
        text = f"{text[:start]} {text[end:]}"
    text = _CHANGE_WORDS.sub(" ", text)
    if _OUTDATED.search(text):
        text = _OUTDATED.sub(" ", text)
    words = [
        _TRAILING.sub("", word) if word in {"度", "度分", "分", "版"} else word for word in _SEPARATORS.split(text)
    ]
    return " ".join(word for word in words if word and word not in {"度", "度分", "分", "版", "付", "付け"}).casefold()


def _folders(external_id: str | None) -> list[str]:
    """Folders of an external id that is a path, the nearest first."""
    if external_id is None or "/" not in external_id:
        return []
    return [folded(part)[:MAX_CHARS] for part in reversed(external_id.split("/")[:-1][-8:]) if part]


def _inside(place: int, found: Sequence[FoundPeriod]) -> bool:
    return any(item.start <= place < item.end for item in found)


def _number(match: re.Match[str]) -> str:
    if match["ja"]:
        return str(number_of(match["ja"]) or match["ja"])
    return str(match["en"] or match["letter"] or match["ordinal"]).lower()
