"""What a question asks for: its terms with their weight, its identifiers and numbers, and the kind of value wanted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from core.language import language_of
from core.text_folding import fold as normalise
from core.types import Language
from retrieval.asking import usually_spelt, without_asking
from retrieval.kinds import TermKind, kind_of
from retrieval.lexical import tokenize

_WEIGHT = {
    TermKind.WORD: 1.6,
    TermKind.BIGRAM: 1.0,
    TermKind.KATAKANA: 0.6,
    TermKind.CHARACTER: 0.35,
    TermKind.MIXED: 0.35,
    TermKind.HIRAGANA: 0.06,
}
_IDENTIFIER_WEIGHT = 3.0
_KIND_NOUN_SHARE = 0.3
_KIND_NOUN = re.compile(
    r"(?<![a-z])(?:url|link|website|role)(?![a-z])|リンク先?(?![ァ-ー])|役割(?!分担)|役目"
    r"|(?<=の)(?:内容|詳細)(?=[はをが?。\s]|\Z)|(?<=[一-龥])(?:さん|氏|くん)(?=[はがのにをもと\s、。?]|\Z)"
)
"""Nouns that name the kind of thing wanted and seldom stand beside it: 様式のURL is https://…, 高橋の役割 責任者は髙橋."""
_IDENTIFIER = re.compile(
    r"(?<![a-z0-9])(?<!\d\.)(?=[a-z0-9._/#-]{2,40}(?![a-z0-9]))(?:[a-z]{1,12}[-_./#]?\d[a-z0-9]{0,12}(?:[-_./][a-z0-9]{1,12}){0,4}"
    r"|\d{1,8}[-_/]?[a-z]{1,8}(?:[-_./]?[a-z0-9]{1,12}){0,3})(?![a-z0-9])"
)
_MEASURE = re.compile(
    r"\d{1,8}(?:[kcmµn]?[mglwvan]|[km]?hz|ghz|kwh?|wh|kva|[km]?pa|[kmgt]b|db|ppm|ppb|rpm|lx|lm|m[23]|mm[23]|bit|dpi|pcs|st|nd|rd|th|[ap]m"
    r"|h|hrs?|hours?|min|mins|minutes?|s|secs?|days?|weeks?|months?|years?|k|x)"
)
"""What a number is written with, and no name: of "6.3kW" nothing tells a row by itself but the number."""
_ARTICLE = re.compile(
    r"第 ?(?P<ja>\d{1,4})(?= ?[条項章節])|\b(?:article|clause|section|chapter) (?P<en>\d{1,3}(?:\.\d{1,3})?)"
)
_DEFINITION = re.compile(
    r"とは|って何|意味|指し|指す|定義|正式名称|\bwhat (?:is|are) (?:an?|the)\b|\bmeans?\b|\bdefin|\bstands? for\b"
)
_NUMBER = re.compile(r"(?<![\d.a-z])\d{1,15}(?:\.\d{1,8})?(?![\d])")


class Wanted(StrEnum):
    """Kinds of value."""

    MONEY = "money"
    PERCENT = "percent"
    DATE = "date"
    TIME = "time"
    DURATION = "duration"
    COUNT = "count"
    MEASURE = "measure"
    PHONE = "phone"
    MAIL = "mail"
    PERSON = "person"
    PLACE = "place"
    ARTICLE = "article"
    CODE = "code"
    REASON = "reason"
    YES_NO = "yes_no"
    LIST = "list"


_CUES: tuple[tuple[Wanted, re.Pattern[str]], ...] = tuple(
    (wanted, re.compile(pattern))
    for wanted, pattern in (
        (Wanted.ARTICLE, r"第?何条|何条|which (?:article|clause|section)|what (?:article|clause)"),
        (Wanted.PERCENT, r"何%|何パーセント|何割|割合|[率]は|[率]って|[率]を|加算率|割引率|percent|what rate|rate of"),
        (
            Wanted.MONEY,
            r"いくら|何円|何万円|価格|料金|値段|金額|費用|単価|代金|送料|手数料|使用料|お金|予算|how much|\bprice\b|\bcosts?\b|\bfee\b|\bcharge"
            r"|\bbudget\b|\ballowance\b|\brate for\b|\bamount\b|\bpay\b",
        ),
        (Wanted.TIME, r"何時|時刻|時間帯|受付時間|営業時間|what time|opening hours|\bhours\b|from when"),
        (
            Wanted.DURATION,
            r"何日間|何日以内|何か月|何ヶ月|何カ月|何ヵ月|何年間|何年|何週間|何営業日|何時間|何分|何日|期間|納期|どれくらい|どのくらい|どれぐらい|日数"
            r"|how long|how many (?:calendar |working |business )?(?:days|weeks|months|years|hours|minutes)|within how|lead time|period",
        ),
        (
            Wanted.DATE,
            r"いつ|何月|何日|日付|期限|締切|締め切り|期日|何曜|日程|年月日|\bwhen\b|what (?:date|day)|which (?:date|day)|deadline|\bdate\b|\bdue\b|by when",
        ),
        (
            Wanted.COUNT,
            r"何人|何名|何台|何個|何件|何回|何枚|何本|何社|何部|何冊|何箱|何点|何店|何室|何席|何小間|いくつ|人数|台数|個数|件数|在庫|how many|number of|quantity|in stock",
        ),
        (
            Wanted.MEASURE,
            r"何(?:kg|g|mm|cm|m|kw|w|v|a|hz|℃|度|db|リットル|ミリ|キロ|メートル|グラム|ワット)|重さ|重量|質量|寸法|大きさ|サイズ|長さ|高さ|幅|範囲|精度|能力|容量|温度"
            r"|電圧|電流|消費電力|how (?:heavy|tall|wide|big|large|far|fast|accurate)|weight|dimension|accuracy|range|capacity|voltage|temperature",
        ),
        (
            Wanted.MAIL,
            r"メール|e-?mail|アドレス|mail address|(?<![a-z])url(?![a-z])|ホームページ|リンク|\blink\b|web ?site|webサイト",
        ),
        (Wanted.PHONE, r"電話|内線|連絡先|fax|ファックス|番号は|phone|\bcall\b|telephone|extension|\bext\b|contact"),
        (
            Wanted.PERSON,
            r"誰|だれ|どなた|担当|責任者|氏名|名前|代行者|承認者|作成者|出席者|議長|who\b|whose|whom|person in charge|contact person|name of",
        ),
        (Wanted.PLACE, r"どこ|何処|場所|住所|所在地|会場|何階|where\b|location|address|which room|venue"),
        (
            Wanted.CODE,
            r"型番|型式|品番|機種|どの機種|どのモデル|コード|番号|which model|part number|model number|product code|\bcode\b",
        ),
        (Wanted.REASON, r"なぜ|何故|理由|どうして|原因|why\b|reason|cause"),
        (
            Wanted.LIST,
            r"全部|すべて|全て|種類|挙げて|あげて|一覧|列挙|list|what are the|which (?:items|types|kinds)|name all",
        ),
    )
)
_ASKING = re.compile(
    r"何|誰|だれ|どなた|どこ|いつ|いくら|いくつ|どれ|どの|どう|どちら|どっち|なぜ|理由|教えて|おしえて"
    r"|\b(?:what|which|who|whom|whose|when|where|why|how)\b"
)
_YES_NO_JA = re.compile(
    r"(?:ます|です|でしょう|いい|よい|可能|ある|ない|できる|られる|出る|もらえる|なる|する|れる|せる)(?:の|ん)?(?:です)?か[?。\s]*$|(?:かな|だっけ|[るたいくすんなだ]\?|[可否]\?|可能\?|ok\?|あり\?|なし\?)$"
)
_YES_NO_EN = re.compile(r"^(?:is|are|was|were|do|does|did|can|could|may|must|should|will|would|has|have|am)\b")
_EITHER = re.compile(r"それとも|どちら|どっち|\bor\b|[?？][^?？]{1,30}[?？]")


@dataclass(frozen=True, slots=True)
class Question:
    """A question as the evidence stage reads it."""

    text: str
    folded: str
    language: Language
    terms: dict[str, float]
    """Term: weight by its kind, before any document is counted."""
    identifiers: frozenset[str]
    """Folded, without separators: 'sx4056t'."""
    numbers: frozenset[str]
    """Numbers that stand apart from identifiers."""
    wanted: frozenset[Wanted]
    articles: frozenset[str]
    """Numbers of the articles or clauses it names."""
    definition: bool
    """It asks what something means."""
    either: bool
    """It names what to choose from."""


def read_question(text: str) -> Question:
    """Analyse a question."""
    folded = usually_spelt(normalise(text).strip())
    identifiers = identifiers_in(folded)
    asked = without_asking(folded)
    named = _KIND_NOUN.sub(" ", asked)
    terms: dict[str, float] = {}
    for part, share in ((named, 1.0), (asked, _KIND_NOUN_SHARE)):
        for term in tokenize(part):
            weight = _term_weight(term) * share
            if weight:
                terms.setdefault(term, weight)
    rest = _IDENTIFIER.sub(lambda match: match.group() if _MEASURE.fullmatch(match.group()) else " ", folded)
    return Question(
        text=text,
        folded=folded,
        language=language_of(text),
        terms=terms,
        identifiers=identifiers,
        numbers=frozenset(_NUMBER.findall(rest)),
        wanted=_wanted(folded),
        articles=articles_in(folded),
        definition=_DEFINITION.search(folded) is not None,
        either=_EITHER.search(folded) is not None,
    )


def identifiers_in(folded: str) -> frozenset[str]:
    """Identifiers of a folded text: words that mix letters and digits, without their separators."""
    found = (match.group() for match in _IDENTIFIER.finditer(folded))
    return frozenset(_bare(one) for one in found if not _MEASURE.fullmatch(one))


def numbers_in(folded: str) -> frozenset[str]:
    """Numbers of a folded text, as written."""
    return frozenset(_NUMBER.findall(folded))


def articles_in(folded: str) -> frozenset[str]:
    """Numbers of the articles, clauses and sections that a folded text names: '31', '4.2'."""
    return frozenset(match["ja"] or match["en"] for match in _ARTICLE.finditer(folded))


def _bare(text: str) -> str:
    return "".join(c for c in text if c.isalnum())


def _term_weight(term: str) -> float:
    kind = kind_of(term)
    if kind is TermKind.WORD and any(c.isdigit() for c in term) and any(c.isalpha() for c in term):
        return _IDENTIFIER_WEIGHT
    return _WEIGHT.get(kind, 0.0)


def _wanted(folded: str) -> frozenset[Wanted]:
    found = {wanted for wanted, cue in _CUES if cue.search(folded)}
    asks = _ASKING.search(folded)
    if (_YES_NO_JA.search(folded) and not asks and not _EITHER.search(folded)) or (
        _YES_NO_EN.match(folded) and not _EITHER.search(folded)
    ):
        found = {Wanted.YES_NO}
    return frozenset(found)
