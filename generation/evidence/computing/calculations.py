"""Which calculation over rows a question asks for, by its words: the smallest, a sum, a difference, how many rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from generation.evidence.question import Question


class Operation(StrEnum):
    """Calculations. The value is what provenance says."""

    EXTREME = "extreme"
    SUM = "sum"
    COUNT = "count"
    DIFFERENCE = "difference"
    LASTS = "duration"
    WHICH = "which"
    PRODUCT = "product"
    ROWS = "rows"
    COLUMN = "column"


class Topic(StrEnum):
    """What a word such as 安い or heavier speaks of, where it does."""

    MONEY = "money"
    WEIGHT = "weight"
    LENGTH = "length"
    DURATION = "duration"
    DATE = "date"
    TIME = "time"


TOPIC_HEADERS: dict[Topic, re.Pattern[str]] = {
    Topic.MONEY: re.compile(
        r"価格|単価|金額|料金|費用|代金|値段|手数料|使用料|運賃|送料|特価|定価|賃料|\b(?:price|cost|fee|charge|amount|rate|fare|rent)s?\b"
    ),
    Topic.WEIGHT: re.compile(r"質量|重量|重さ|体重|\b(?:weight|mass)\b"),
    Topic.LENGTH: re.compile(r"長さ|全長|距離|\b(?:length|distance)\b"),
    Topic.DURATION: re.compile(
        r"納期|期間|日数|寿命|時間|年数|\b(?:lead time|duration|period|life|term|days|weeks|months|hours|minutes)\b"
    ),
    Topic.DATE: re.compile(r"年月日|日付|期限|期日|締切|日\Z|\b(?:date|due|deadline|day)\b"),
    Topic.TIME: re.compile(r"時刻|開始|終了|\b(?:time|start|end)\b"),
}
"""Headers, folded, of columns that hold values of a topic."""

_M, _W, _L = frozenset({Topic.MONEY}), frozenset({Topic.WEIGHT}), frozenset({Topic.LENGTH, Topic.DURATION})
_NEW, _SOON = frozenset({Topic.DATE}), frozenset({Topic.DATE, Topic.TIME, Topic.DURATION})
_ANY: frozenset[Topic] = frozenset()
_ADJECTIVES_JA: tuple[tuple[str, str, int, frozenset[Topic]], ...] = (
    ("安い|安く|安かった|安価", "安", -1, _M), ("高額|高価", "", 1, _M), ("高い|高く|高かった", "高", 1, _ANY),
    ("低い|低く|低かった", "低", -1, _ANY), ("大きい|大きな|大きく|大きかった", "大", 1, _ANY),
    ("小さい|小さな|小さく|小さかった", "小", -1, _ANY), ("多い|多く|多かった", "多", 1, _ANY),
    ("少ない|少なく|少なかった", "少", -1, _ANY), ("重い|重く", "重", 1, _W), ("軽い|軽く", "軽", -1, _W),
    ("長い|長く|長かった", "長", 1, _L), ("短い|短く|短かった", "短", -1, _L), ("新しい|新しく", "新", 1, _NEW),
    ("古い|古く", "古", -1, _NEW), ("早い|早く|早かった", "早", -1, _SOON), ("遅い|遅く|遅かった", "遅", 1, _SOON),
)  # fmt: skip
"""(inflected, its kanji behind 最, direction, topics)."""
_SUPERLATIVE_JA = [
    (re.compile(rf"(?:1番|一番|最も|もっとも|いちばん)[^、。?]{{0,8}}?(?:{words})"), direction, topics)
    for words, _, direction, topics in _ADJECTIVES_JA
] + [(re.compile(f"最{kanji}"), direction, topics) for _, kanji, direction, topics in _ADJECTIVES_JA if kanji]
_COMPARATIVE_JA = [
    (re.compile(rf"(?:{words})(?:の|です|か|[?。]|\Z)"), direction, topics)
    for words, _, direction, topics in _ADJECTIVES_JA
]
_WORDS_EN: tuple[tuple[str, str, int, frozenset[Topic]], ...] = (
    ("cheapest|least expensive|lowest[- ]priced", "cheaper|less expensive", -1, _M),
    ("dearest|most expensive|priciest", "dearer|more expensive|pricier", 1, _M),
    ("highest|greatest|largest|biggest|maximum", "higher|greater|larger|bigger", 1, _ANY),
    ("lowest|smallest|minimum|fewest|(?<!at )least", "lower|smaller|fewer|less", -1, _ANY), ("(?<!at )most", "more", 1, _ANY),
    ("heaviest", "heavier", 1, _W), ("lightest", "lighter", -1, _W), ("longest", "longer", 1, _L),
    ("shortest|quickest|fastest", "shorter|quicker", -1, _L), ("latest|newest|most recently|most recent", "later|newer", 1, _NEW),
    ("earliest|oldest|soonest", "earlier|older|sooner", -1, _SOON),
)  # fmt: skip
_SUPERLATIVE_EN = [(re.compile(rf"\b(?:{words})\b"), d, t) for words, _, d, t in _WORDS_EN]
_COMPARATIVE_EN = [(re.compile(rf"\b(?:{words})\b"), d, t) for _, words, d, t in _WORDS_EN]
_SUM = re.compile(
    r"合計|総額|総計|総数|合算|全部で|合わせ(?:て|た|ると)|足(?:すと|して|した)|トータル|(?<!税)込みで"
    r"|\b(?:totals?|sum|altogether|combined|in all|together|add up)\b"
)
_DIFFERENCE = re.compile(
    r"差額|価格差|の差額|差し引|引いた|引くと|引いたら|差は|差が|差を|の差|違い|違う|違います|値上がり|値上げ|値下がり|値下げ|(?:上|下)が(?:っ|り)|増え|減っ|増減|何円(?:高|安|上|下)"
    r"|(?:いくら|どれだけ|どれくらい|どのくらい|何[^、。? ]{1,4})(?:高|安|多|少な|長|短|重|軽|早|遅|大き|小さ|増|減|違|上が|下が)"
    r"|\b(?:difference|by how much|gap between|minus|subtract(?:ed|ing)?|how (?:much|many|far) (?:more|less|fewer|higher|lower|longer|shorter|cheaper|heavier|lighter)|how much (?:did|has|have|does) [^?]{1,80}"
    r"(?:rise|risen|increase|increased|gone up|go up|fall|fallen|drop|dropped|change|changed)|(?:more|less|higher|lower|longer|heavier|cheaper|lighter|dearer) .{1,60} than)\b"
)
_WHICH = re.compile(r"どちら|どっち|\bwhich (?:of|is|one|has|are|costs?|takes?|weighs?|was)\b|\bor\b")
_COUNT = re.compile(
    r"何(?:件|人|名|社|か所|種類|機種|品目|店|回|つ|台|個|枚|部署|項目|行)|いくつ|件数|\bhow many\b|\bnumber of\b"
)
_QUANTITY = re.compile(
    r"(?<![\d.a-z-])(?P<count>\d{1,6}) ?(?P<unit>個|台|人|名|枚|本|冊|箱|セット|泊|回|件|部|組|着|室|時間|日間?|か月|通|つ|点|袋|式"
    r"|units?\b|pcs\b|pieces?\b|people\b|persons?\b|nights?\b|copies\b|items?\b|boxes\b|hours?\b|users?\b|licen[cs]es?\b|of\b|x\b|×)?"
)
_NUMBER_WORDS = {
    word: number
    for number, word in enumerate(("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"), 2)
}  # fmt: skip
_NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(_NUMBER_WORDS)}|a dozen)\b")
_PAYS = re.compile(
    r"いくら|何円|合計|総額|全部で|代金|金額|費用|料金|値段|価格|\b(?:how much|totals?|costs?|come to|price|pay|charge|fee|altogether)\b"
)
_EACH = re.compile(
    r"単価|あたり|当たり|1(?:個|台|人|名|枚|本|冊|箱)(?:の|は|で|いくら)|につき|\b(?:unit price|unit cost|each|apiece|a piece|per [a-z]{2,10})\b"
)
_LASTS = re.compile(
    r"何分間?(?:続|かか|停|止|影響)|何時間(?:続|かか|停|止)|(?:どのくらい|どれくらい)(?:続|かか)|\bhow long (?:did|was|were|does|is)\b"
)
"""How long something lasted, by its start and its end."""
_ROWS = re.compile(
    r"どの|どれ|どこ|だれ|誰|何(?:です|が|で|か)?|一覧|すべて|全て|全部|教えて|挙げて|は[?。]?\Z|\b(?:which|who|what|list|name|show)\b"
)
_NOT_OURS = re.compile(
    r"平均|中央値|(?:[2-9]|二|三)番目|上位|下位|ランキング|順に|順番|割合|比率|何割|何倍|何%|シェア|推移|傾向|ずつ|なぜ|理由"
    r"|\b(?:averages?|mean|median|second|third|top \d|bottom \d|ranking|percentage|proportion|share of|ratio|times as|twice|trend|why)\b"
)
"""Calculations that are not made here, and words that make a question another one."""
_COLUMN_CHARS = 60


@dataclass(frozen=True, slots=True)
class Cue:
    """Words folded_question[start:end] that ask for a calculation. direction: 1 the largest, -1 the smallest."""

    operation: Operation
    start: int
    end: int
    direction: int = 0
    topics: frozenset[Topic] = _ANY


def cues_in(question: Question) -> list[Cue]:
    """Everything in a question that may ask for a calculation; [] where nothing does, or it asks for another kind."""
    text = question.folded
    # A header alone (料率は何%) calculates nothing: what else the question says is left over then.
    column = [Cue(Operation.COLUMN, 0, 0)] if len(text) <= _COLUMN_CHARS else []
    if len(text) > 400 or _NOT_OURS.search(text):
        return column
    japanese = _superlatives(text, _SUPERLATIVE_JA)
    english = _superlatives(text, _SUPERLATIVE_EN)
    # 一番安い of 一番安い高圧形が; `most expensive` and not its `most`.
    cues = [cue for cue in japanese if not any(one.start == cue.start and one.end < cue.end for one in japanese)]
    cues += [cue for cue in english if not any(one.start <= cue.start and cue.end < one.end for one in english)]
    cues += [Cue(Operation.SUM, *match.span()) for match in _SUM.finditer(text)]
    cues += [Cue(Operation.DIFFERENCE, *match.span()) for match in _DIFFERENCE.finditer(text)]
    cues += [Cue(Operation.COUNT, *match.span()) for match in _COUNT.finditer(text)]
    cues += [Cue(Operation.LASTS, *match.span()) for match in _LASTS.finditer(text)]
    if _WHICH.search(text):
        cues += [
            Cue(Operation.WHICH, match.start(), match.end(), direction, topics)
            for pattern, direction, topics in (*_COMPARATIVE_JA, *_COMPARATIVE_EN)
            for match in pattern.finditer(text)
        ]
    if _PAYS.search(text) and not _EACH.search(text):
        cues += [Cue(Operation.PRODUCT, start, end) for start, end, _, _ in amounts_in(text)]
    if _ROWS.search(text):
        cues.append(Cue(Operation.ROWS, 0, 0))
    return cues + column


def _superlatives(text: str, patterns: Sequence[tuple[re.Pattern[str], int, frozenset[Topic]]]) -> list[Cue]:
    return [
        Cue(Operation.EXTREME, match.start(), match.end(), direction, topics)
        for pattern, direction, topics in patterns
        for match in pattern.finditer(text)
    ]


def amounts_in(text: str) -> list[tuple[int, int, int, str]]:
    """(start, end, count, unit) of the numbers of a folded question that may say how many of something."""
    found = [
        (m.start(), m.start() + len(m.group().rstrip()), int(m["count"]), m["unit"] or "")
        for m in _QUANTITY.finditer(text)
    ]
    found += [(m.start(), m.end(), _NUMBER_WORDS.get(m.group(), 12), "") for m in _NUMBER_WORD.finditer(text)]
    return [one for one in found if one[2] > 1]
