"""What of a grid a question names: columns by headers, rows by values of cells; and what it leaves over.

A question is computed only where all of it is understood. So every match keeps its place in the question, and the words
that neither the grid, the document's title nor the calculation account for are told.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from core.text_folding import fold
from generation.evidence.computing.grids import Grid
from generation.evidence.question import Question
from retrieval.stem import stem

Span = tuple[int, int]

_MAX_VALUE_CHARS = 60
_BRACKETS = re.compile(r"[(（][^()（）]{0,60}[)）]")
_PARTS = re.compile(r"[・、,/;]| & | and ")
_TOKEN = re.compile(r"[a-z0-9]+(?:[-_./'][a-z0-9]+)*")
_HEADER_ENDING = re.compile(r"(?:数|額|名|日|者|先|欄)\Z")
_RUN = re.compile(r"[^\W_]{2}")
_KATAKANA = re.compile(r"[ァ-ヺー]")
_WORDS = re.compile(r"[一-龠々〇]+|[ァ-ヺー]+|[a-z0-9]+(?:[-_./'][a-z0-9]+)*|[ぁ-ん]{5,}")
_BEHIND = re.compile(r"曜日?|[円個台人名件本枚点](?![一-龠])")
_BETWEEN = re.compile(r"(?:は|が|の|:|=|\s|is|are|of|equals?){0,4}\Z")
_VERB_JA = re.compile(
    r"(?<![一-龠ァ-ヺー])[一-龠]{1,2}(?:し(?:て|た|ま|な|よ)|す[るれ]|さ[れせ]|っ[てた]|ん[でだ]|い[てた]|[りるみきぎちびえけめれせげべわうくむぶつ])"
)
"""Kanji with the ending of a verb: what is done with a thing seldom tells which thing."""
_FUNCTION_WORDS = """
教えてください 教えて ください 下さい 知りたい 知りたいです 調べて でしょうか でしょう ありますか なりますか しますか ますか ですか ですが です ます
ました ません でした だった だと でも には とは のは では から まで より ほど だけ くらい ぐらい どのくらい どれくらい どれだけ どちら どっち
どなた どの どれ どこ だれ 誰 いつ いくら いくつ 何円 何ですか 何人 何名 何件 何社 何個 何台 何回 何枚 何店 何日 何年 何時間 何か月 何か所 何種類
何つ 何分 何処 何 という といった って ついて として における それぞれ すべて 全て 全部 一覧 一覧表 挙げて あげて 列挙 まとめて あわせて 一緒に いっしょに 比較 計算 確認 回答 両方 双方
ある いる する した して なる なった になって になり かかる かかり かかって かけて 支払 お願い 依頼 購入 注文 必要 場合 以外 もの こと とき ところ
ため 中で 中の 中 内 現在 今 最新 当社 弊社 御社 お客様 客先 うち ほう 方 名前 機種 モデル 商品 製品 品目 項目 アイテム 種類 該当 行 表 部品 部材
社員 従業員 会社 業者 施設 部屋 拠点 店舗 資料 書類 もらえ もらう もらい いただ できる でき わかる わかり よろしい よく ちょうど いちばん もっとも
おおよそ だいたい およそ どう そう この その あの これ それ について ように ような ながら けど けれど なら たら れば 向け
"""
_KANJI_ONLY = re.compile(r"[一-龠]{1,8}\Z")
_STOP_JA = re.compile(
    "|".join(
        # 内 of 室内基板 is a part of a word.
        f"(?<![一-龠]){word}(?![一-龠])" if _KANJI_ONLY.match(word) else word
        for word in sorted(_FUNCTION_WORDS.split(), key=len, reverse=True)
    )
    + r"|人(?=[はがをもでに?])|用(?=[はがをのでに?])|(?<=\s)[額数代料費価値計円側](?=[はがをのでにと?、])"
)
_WORDS_THAT_ASK = """
a an the of in on at for to from by with and or than as is are was were be been do does did have has had i we you he she
they it its our their your my me us what which who whose whom when where how much many there this that these those all
each any every please tell give show list name if per only both between would will can could should item items row rows
model models product products entry entries cost costs costing order ordered ordering people person persons someone buy
buying bought purchase need needs get pay paid having not no one ones table total come comes some more most less least
currently now own s want wants take takes taken taking spend spent stay stays book booked hire hired rent use used uses
using send sent pick choose make makes made hold holds held say says said according shown recorded reported registered
work works worked belong belongs find found look know think let see so then just also about overall both up into during
within they their place placed sell sells sold charge charged together does altogether way long unit units
amount amounts value values figure figures number quantity quantities answer compare compared comparison against versus vs
same respectively go goes went gone calculate work customer customers
"""
_STOP_EN = frozenset(_WORDS_THAT_ASK.split())


@dataclass(frozen=True, slots=True)
class NamedColumn:
    """A column whose header stands in the question. above: places of its upper levels, if those stand there too."""

    column: int
    span: Span
    above: tuple[Span, ...] = ()
    exact: bool = True


@dataclass(frozen=True, slots=True)
class NamedValue:
    """Rows in which a column holds a value that stands in the question. whole: the cell holds nothing else."""

    column: int
    span: Span
    rows: frozenset[int]
    whole: bool


@dataclass(slots=True)
class Naming:
    """What a question names of a grid."""

    columns: list[NamedColumn] = field(default_factory=list)
    values: list[NamedValue] = field(default_factory=list)
    title: list[Span] = field(default_factory=list)
    holding: list[NamedValue] = field(default_factory=list)
    """Rows whose cells hold a word of the question within a longer text."""
    ambiguous: bool = False
    """One word names values of several columns, which tell rows apart differently."""

    @property
    def spans(self) -> list[Span]:
        """Places of all columns and values."""
        above = [span for one in self.columns for span in one.above]
        return [*(one.span for one in self.columns), *above, *(one.span for one in (*self.values, *self.holding))]

    @property
    def conditioned(self) -> set[int]:
        """Columns that rows are chosen by."""
        return {one.column for one in (*self.values, *self.holding)}

    def rows(self, among: Iterable[int]) -> list[int]:
        """Rows that hold, in each column that a value is named of, one of those values."""
        by_column: dict[int, set[int]] = defaultdict(set)
        for value in self.values:
            by_column[value.column] |= value.rows
        chosen = [*by_column.values(), *(one.rows for one in self.holding)]
        return [at for at in among if all(at in rows for rows in chosen)]


class Wording:
    """A question's folded text with its words, read once for all grids."""

    def __init__(self, question: Question) -> None:
        self.text = question.folded
        self.language = question.language
        self.tokens = [(match.start(), match.end(), match.group()) for match in _TOKEN.finditer(self.text)]
        self._stems = [_key(token) for _, _, token in self.tokens]
        self._known = frozenset(self._stems)

    def places(self, phrase: str) -> list[Span]:
        """Where a folded phrase stands as a whole."""
        return self._places_of_words(phrase) if phrase.isascii() else list(self._places_of_text(phrase))

    def _places_of_words(self, phrase: str) -> list[Span]:
        keys = [_key(token) for token in _TOKEN.findall(phrase)]
        if not keys or any(key not in self._known for key in keys):
            return []
        width = len(keys)
        return [
            (self.tokens[at][0], self.tokens[at + width - 1][1])
            for at in range(len(self.tokens) - width + 1)
            if self._stems[at : at + width] == keys
        ]

    def _places_of_text(self, phrase: str) -> Iterator[Span]:
        start = self.text.find(phrase)
        while start >= 0:
            end = start + len(phrase)
            if not (_joined(self.text[start - 1 : start], phrase[0]) or _joined(self.text[end : end + 1], phrase[-1])):
                yield start, end
            start = self.text.find(phrase, start + 1)

    def all_words(self, phrase: str) -> Span | None:
        """The narrowest stretch that holds all words of an English phrase, wherever they stand; None: not all do."""
        keys = {_key(token) for token in _TOKEN.findall(phrase) if token not in _STOP_EN}
        if not keys or not keys <= self._known:
            return None
        best: Span | None = None
        for first in range(len(self.tokens)):
            missing = set(keys)
            for last in range(first, min(first + 6, len(self.tokens))):
                missing.discard(self._stems[last])
                if not missing:
                    start, end = self.tokens[first][0], self.tokens[last][1]
                    if best is None or end - start < best[1] - best[0]:
                        best = (start, end)
                    break
        return best

    def left_over(self, explained: Iterable[Span]) -> list[str]:
        """Words of the question that stand outside of all given stretches and carry meaning."""
        return [self.text[start:end] for start, end in self.unexplained(explained)]

    def unexplained(self, explained: Iterable[Span]) -> list[Span]:
        """Places of the words that stand outside of all given stretches and carry meaning."""
        mask = list(self.text)
        for start, end in explained:
            mask[start:end] = " " * (end - start)
        rest = "".join(mask)
        for pattern in (_STOP_JA, _VERB_JA):
            rest = pattern.sub(lambda match: " " * len(match.group()), rest)
        return [match.span() for match in _WORDS.finditer(rest) if match.group() not in _STOP_EN]


def _key(token: str) -> str:
    """What words are compared by: their stem; of identifiers letters and digits."""
    token = token.removesuffix("'s")
    return stem(token) if token.isalpha() else "".join(c for c in token if c.isalnum())


def _joined(neighbour: str, edge: str) -> bool:
    """Whether a word goes on at its edge."""
    if not neighbour:
        return False
    if _KATAKANA.match(edge):
        return _KATAKANA.match(neighbour) is not None
    return edge.isascii() and edge.isalnum() and neighbour.isascii() and neighbour.isalnum()


def name(wording: Wording, grid: Grid, titles: Sequence[str]) -> Naming:
    """Read a question against a grid. titles: file name, title and so on, which explain words and name nothing."""
    title = _title_spans(wording, [*titles, grid.heading, grid.before])
    naming = Naming(columns=list(_columns(wording, grid, title)), title=title)
    found = [*_values(wording, grid), *_beside_headers(wording, grid, naming.columns)]
    inner = [one.span for one in naming.columns]
    values = [one for one in found if not any(_inside(one.span, other.span) for other in found)]
    values = [one for one in values if not any(_inside(one.span, span) or one.span == span for span in inner)]
    naming.columns = [
        one for one in naming.columns if not any(_inside(one.span, value.span) for value in values)
    ]  # fmt: skip
    for span in dict.fromkeys(one.span for one in values):
        same = [one for one in values if one.span == span]
        chosen = _of_one_column(same, {one.column for one in naming.columns})
        naming.ambiguous |= chosen is None
        naming.values += [chosen] if chosen is not None else []
    return naming


def widen(wording: Wording, grid: Grid, naming: Naming, unexplained: Sequence[Span], topics: Sequence[Span]) -> None:
    """Read words that nothing accounts for as parts of one header or, but for `topics`, of the cells of one column."""
    for span in unexplained:
        word = wording.text[span[0] : span[1]]
        if len(word) < (3 if word.isascii() else 2) or word.isdecimal():
            continue
        columns = [
            column
            for column, header in enumerate(grid.columns)
            if any(_holds_word(part, word) for part in header_parts(header)[-1:])
        ]
        if columns:
            if len(columns) == 1 and columns[0] not in {one.column for one in naming.columns}:
                naming.columns.append(NamedColumn(columns[0], span, exact=False))
            continue
        if span in topics:
            continue
        found = [
            NamedValue(column, span, frozenset(rows), whole=False)
            for column in range(len(grid.columns))
            if (rows := _rows_holding(grid, column, word))
        ]
        if found and all(one.rows == found[0].rows for one in found):
            naming.holding.append(found[0])


def _rows_holding(grid: Grid, column: int, word: str) -> set[int]:
    holding: dict[str, bool] = {}
    rows = set()
    for at in grid.data:
        cell = grid.rows[at].cells[column]
        if not cell or len(cell) > _MAX_VALUE_CHARS:
            continue
        if cell not in holding:
            holding[cell] = _holds_word(fold(cell), word)
        if holding[cell]:
            rows.add(at)
    return rows


def _holds_word(text: str, word: str) -> bool:
    if word.isascii():
        return _key(word) in {_key(part) for token in _TOKEN.findall(text) for part in (token, *token.split("-"))}
    return word in text


def _of_one_column(same: Sequence[NamedValue], columns: set[int]) -> NamedValue | None:
    """The value that a word names; None where it may be one of several columns."""
    for choice in (
        [one for one in same if one.column in columns],
        [one for one in same if one.whole],
        list(same),
    ):
        if len(choice) == 1 or (choice and all(one.rows == choice[0].rows for one in choice)):
            return choice[0]
        if choice:
            return None
    return None


def _inside(one: Span, other: Span) -> bool:
    return other[0] <= one[0] and one[1] <= other[1] and one != other


def header_parts(header: str) -> list[str]:
    """Levels of a header, folded, without brackets."""
    return [_BRACKETS.sub("", fold(part)).replace("_", " ").strip() for part in header.split(" / ")]


def _columns(wording: Wording, grid: Grid, title: Sequence[Span]) -> Iterator[NamedColumn]:
    found: list[NamedColumn] = []
    for column, header in enumerate(grid.columns):
        parts = header_parts(header)
        span = _header_span(wording, parts[-1], title) if parts[-1] else None
        if span is not None:
            above = [_header_span(wording, part) for part in parts[:-1] if part]
            upper = tuple(place for place in above if place is not None)
            found.append(NamedColumn(column, span, upper, _whole_header(wording, parts[-1])))
    taken = [span for one in found for span in (one.span, *one.above)]
    found = [one for one in found if not any(_inside(one.span, span) for span in taken)]
    # 予算 in 予算実績管理 is a part of the title, where another column is named outside of it.
    outside = [one for one in found if not any(_inside(one.span, span) for span in title)]
    found = outside or found
    for one in found:
        same = [other for other in found if other.span == one.span]
        if len(one.above) == max(len(other.above) for other in same) and (
            one.exact or not any(other.exact for other in same)
        ):
            yield one


def _header_span(wording: Wording, part: str, title: Sequence[Span] = ()) -> Span | None:
    if part.isascii():
        return wording.all_words(part)
    for form in (part, _HEADER_ENDING.sub("", part)):
        places = wording.places(form) if len(form) > 1 else []
        outside = [place for place in places if not any(_inside(place, span) for span in title)]
        if places:
            return (outside or places)[0]
    return None


def _whole_header(wording: Wording, part: str) -> bool:
    return bool(wording.places(part))


def _values(wording: Wording, grid: Grid) -> list[NamedValue]:
    found: dict[tuple[int, Span, bool], set[int]] = defaultdict(set)
    for column in range(len(grid.columns)):
        places: dict[str, list[tuple[Span, bool]]] = {}
        for at in grid.data:
            cell = grid.rows[at].cells[column]
            if not cell or len(cell) > _MAX_VALUE_CHARS:
                continue
            if cell not in places:
                places[cell] = list(_value_places(wording, fold(cell).strip()))
            for span, whole in places[cell]:
                found[column, span, whole].add(at)
    values = []
    for column, span in dict.fromkeys((column, span) for column, span, _ in found):
        entire, partly = found.get((column, span, True), set()), found.get((column, span, False), set())
        # DM-50 names its own row only; 三相200V also names the rows of 単相100V／三相200V.
        rows = entire if entire and column == grid.label else entire | partly
        values.append(NamedValue(column, span, frozenset(rows), bool(entire)))
    return values


def _value_places(wording: Wording, value: str) -> Iterator[tuple[Span, bool]]:
    bare = _BRACKETS.sub("", value).strip()
    forms = [value, bare, value.replace(" ", "")] if not value.isascii() else [value, bare]
    seen: set[Span] = set()
    for form in dict.fromkeys(forms):
        for span in wording.places(form) if _tells(form) else ():
            seen.add(span)
            yield span, True
    pieces = _PARTS.split(bare)
    if not bare.isascii() and " " in bare:
        pieces += bare.split(" ")[:1]  # the family name of a person
    for piece in dict.fromkeys(piece.strip() for piece in pieces):
        for span in wording.places(piece) if piece != bare and _tells(piece) else ():
            if span not in seen:
                yield span, False


def _tells(form: str) -> bool:
    """Whether a value is long enough to be a name wherever it stands."""
    if form.isascii():
        return any(len(token) > 1 and not token.isdecimal() and token not in _STOP_EN for token in _TOKEN.findall(form))
    return _RUN.search(form) is not None and not form.replace(" ", "").isdecimal()


def _beside_headers(wording: Wording, grid: Grid, columns: Sequence[NamedColumn]) -> Iterator[NamedValue]:
    """Short values and numbers, which name something only right behind their header: Class A, 判定が否."""
    for named in columns:
        rows: dict[str, set[int]] = defaultdict(set)
        for at in grid.data:
            cell = fold(grid.rows[at].cells[named.column] or "").strip()
            if cell and not _tells(cell) and len(cell) < 8:
                rows[cell].add(at)
        for value, holding in rows.items():
            start = wording.text.find(value, named.span[1])
            end = start + len(value)
            if start < 0 or not _BETWEEN.match(wording.text[named.span[1] : start]):
                continue
            following, before = wording.text[end : end + 1], wording.text[start - 1 : start]
            alone = (
                _BEHIND.match(wording.text, end) or not (following.isalnum() and not "ぁ" <= following <= "ん")
            ) and (not value[0].isascii() or not (before.isascii() and before.isalnum()))
            if alone:
                behind = _BEHIND.match(wording.text, end)
                yield NamedValue(
                    named.column, (start, end if behind is None else behind.end()), frozenset(holding), whole=True
                )


def _title_spans(wording: Wording, titles: Sequence[str]) -> list[Span]:
    """Stretches of the question that stand in a title: words, and the longest runs of wide characters, two at least."""
    source = fold("\n".join(titles)).replace("_", " ")
    known = {_key(token) for token in _TOKEN.findall(source)}
    spans = [(start, end) for start, end, token in wording.tokens if _key(token) in known and token not in _STOP_EN]
    text, at = wording.text, 0
    while at < len(text) - 1:
        end = at + 2
        if text[at:end].isascii() or text[at:end] not in source:
            at += 1
            continue
        while end < len(text) and text[at : end + 1] in source:
            end += 1
        if text[at:end].strip() and not all("ぁ" <= c <= "ん" for c in text[at:end]):
            spans.append((at, end))
        at = max(at + 1, end - 1)
    return spans


@dataclass(frozen=True, slots=True)
class Bound:
    """A condition `column how value`, from folded_question[span]. how: '<', '<=', '>', '>='. other: another column."""

    column: int | None
    how: str
    value: Decimal | None
    unit: str
    span: Span
    other: int | None = None


_HOW = {
    "以上": ">=", "以下": "<=", "未満": "<", "超": ">", "を超え": ">", "を上回": ">", "を下回": "<", "より多": ">", "より少": "<",
    "より高": ">", "より低": "<", "より安": "<", "より大": ">", "より小": "<", "より長": ">", "より短": "<", "を切": "<",
    "more than": ">", "over": ">", "above": ">", "exceeding": ">", "greater than": ">", "at least": ">=",
    "less than": "<", "fewer than": "<", "under": "<", "below": "<", "at most": "<=", "no more than": "<=",
}  # fmt: skip
_JA_HOW = "|".join(key for key in _HOW if not key.isascii())
_EN_HOW = "|".join(sorted((key for key in _HOW if key.isascii()), key=len, reverse=True))
_BOUND_JA = re.compile(
    rf"(?P<value>\d{{1,12}}(?:\.\d{{1,4}})?) ?(?P<unit>[a-z%円個台人名枚本件日年点kgmw週間営業時分か月]{{0,4}}?)(?P<how>{_JA_HOW})(?:る|ている|い|く)?"
)
_BOUND_EN = re.compile(
    rf"\b(?P<how>{_EN_HOW}) (?P<prefix>[£$€]?)(?P<value>\d{{1,12}}(?:\.\d{{1,4}})?)(?: ?(?P<unit>%|[a-z]{{1,8}}\b))?"
)
_COLUMN_JA = re.compile(rf"(?P<how>{_JA_HOW})(?:る|っている|ている|い|く|ない)?")
_COLUMN_EN = re.compile(rf"\A[ a-z]{{0,8}}\b(?P<how>{_EN_HOW})(?: (?:the|its|their))? ?\Z")


def bounds_in(wording: Wording, columns: Sequence[NamedColumn]) -> list[Bound]:
    """Conditions by size. A number's column is the one named right before it (or behind it), else None."""
    found = []
    for pattern in (_BOUND_JA, _BOUND_EN):
        for match in pattern.finditer(wording.text):
            near = [
                one.column
                for one in columns
                if 0 <= match.start() - one.span[1] <= 4
                or (pattern is _BOUND_EN and 0 <= one.span[0] - match.end() <= 4)
            ]
            found.append(
                Bound(
                    near[0] if len(near) == 1 else None,
                    _HOW[match["how"]],
                    Decimal(match["value"]),
                    (match["unit"] or "").strip(),
                    match.span(),
                )
            )
    for one in columns:
        for other in columns:
            between = wording.text[one.span[1] : other.span[0]]
            if other.span[0] < one.span[1] or len(between) > 24:
                continue
            behind = _COLUMN_JA.match(wording.text, other.span[1])
            if between in {"が", "は"} and behind is not None:
                span = (other.span[1], behind.end())
                found.append(Bound(one.column, _HOW[behind["how"]], None, "", span, other.column))
            match_en = _COLUMN_EN.match(between)
            if match_en is not None:
                found.append(
                    Bound(one.column, _HOW[match_en["how"]], None, "", (one.span[1], other.span[0]), other.column)
                )
    return found
