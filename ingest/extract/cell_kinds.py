"""What a cell's text looks like by itself: a value, a label, a unit, a note, a title.

Judged on the text alone and in one pass each; what the table around it says is weighed in `ingest.extract.headers`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_DASHES = frozenset("-‐‑–—―−ー－~〜～…・/／×") | {"--", "---", "n/a", "なし", "無し", "該当なし"}
_BEFORE_NUMBER = "¥￥$€£₩+-−–±△▲▼(約#~〜≦≧<>="
_IN_NUMBER = "0123456789,.:/%-−–~〜±()'’ 年月日時分秒"
_NUMBER_CHARS = "0123456789,.:/-−–~〜 "
_UNIT_CHARS = 6
_ERAS = ("令和", "平成", "昭和", "大正", "明治")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = frozenset("月火水木金土日祝") | {"mon", "tue", "wed", "thu", "fri", "sat", "sun"}
_UNITS = frozenset(
    _words("""
    円 千円 百万円 億円 万円 銭 個 本 枚 台 件 名 人 人月 式 箱 冊 組 回 点 社 日 時間 分 秒 年 月 か月 ヶ月 週 歳
    % ‰ 割 倍
    mm cm m km μm nm mm² m2 m3 ㎡ ㎥ ml l kl g kg mg t kw w kwh v a ma hz khz mhz ghz db pa kpa mpa ℃ °c k ppm rpm n
    usd eur gbp jpy yen pcs ea pc s ms h min
    """)
)
_LABEL_ENDS = _words("""
    お客様 金 員 代表 設立 創業
    名 日 月 年 者 先 所 数 量 額 料 費 率 欄 印 計 色 元 値 幅 高 型 級 科 課題 場 番 票 種 順 歴 度 住所
    名称 番号 コード 日付 日時 期限 期間 時間 時刻 区分 種別 種類 分類 項目 内容 仕様 価格 単価 場所 電話 メール
    アドレス 備考 摘要 説明 意味 用語 質問 回答 担当 部署 所属 役職 職位 単位 型番 品番 型式 寸法 質量 重量 電源
    結果 判定 状態 状況 理由 事由 目的 条件 方法 対象 定員 曜日 年度 カテゴリ カテゴリー プラン サイズ 地域 工場
    割合 店 地
    天候 室温 温度 湿度 承認 受付 確認 決裁 審査 検印 受領 作成 件名 表題 宛名 氏名 フリガナ ふりがな 性別 年齢
    会社 部門 支店 店舗 機種 製品 商品 品目 規格 範囲 精度 等級 寿命 容量 出力 能力 性能 処置 対策 対応 原因 影響
    概要 詳細 経緯 要望 希望 手段 交通 行先 用途 根拠 出典 予算 実績 達成 差異 前年 金利 原価 残高 在庫 納期 在籍
    上限 下限 初期値 既定 設定 権限 拠点 職種 学歴 資格 続柄 口座 銀行 支払 請求 見積 注文 契約 更新 改定 版 議題
    コメント メモ 役割 感想 意見 所見 特徴 名前 進捗 頻度 周期
    """)
_LABEL_WORDS = frozenset(
    _words("""
    item items name code no number id date time type kind description price qty quantity amount total subtotal unit
    phone tel fax e-mail email mail address region area class terms note notes remark remarks comment comments status
    owner contact department dept value values zone country countries course place location trainer seats fee fees
    cost costs rate rates net vat gross tax model sku bin level last first period employee centre center category
    question answer role title version start end from to day month year week weight size width height length colour
    color currency supplier customer manager reason purpose result results limit limits range product part parts
    method key field service plan team issue action due target approved approver approval requested reference ref
    task step stage
    subject spec specification parameter company site host vehicle permit insurance prepared checked signature mobile
    telephone grade destination serial severity priority impact cause summary reported received delivery payment
    """)
)
_COLUMN_NAMES = frozenset(
    _words("""
    項目 区分 種別 種類 分類 名称 内容 品名 商品 商品名 科目 費目 機能 用語 質問 no no. 番号 品番 型番 コード 月 年 年度
    item items name key code term question feature category type task action activity date day time
    """)
)
_NOTE_MARKS = (
    "※",
    "＊",
    "*",
    "注）",
    "注)",
    "(注",
    "（注",
    "注：",
    "注:",
    "【注",
    "注意",
    "†",
    "‡",
    "note:",
    "notes:",
    "備考：",
    "備考:",
)
_ABOVE_MARKS = (
    "単位",
    "unit:",
    "units:",
    "(unit",
    "（単位",
    "(単位",
    "[単位",
    "作成",
    "改定日",
    "改訂日",
    "有効期限",
    "（税",
    "(税",
    "税抜",
    "税込",
)
_ADDRESSEES = ("会社", "御中")
_SECTION_MARKS = ("【", "■", "□", "●", "◆", "◇", "▼", "▽", "◎", "〔", "[", "［", "<", "＜", "《", "〈", "☆", "★", "▪")
_TOTALS = (
    "合計",
    "小計",
    "総計",
    "計",
    "累計",
    "平均",
    "total",
    "subtotal",
    "sub-total",
    "grand total",
    "sum",
    "average",
)


def folded(text: str) -> str:
    """NFKC, lower case, for comparing."""
    return unicodedata.normalize("NFKC", text).strip().lower()


def is_dash(text: str) -> bool:
    """A place holder for nothing."""
    return text in _DASHES or folded(text) in _DASHES


def is_value(text: str) -> bool:
    """A number, amount, date or time, with or without a short unit: what stands in data rows and seldom in headers."""
    plain = folded(text)
    if not plain or len(plain) > 40:
        return False
    if plain.startswith(_ERAS) and any(character.isdigit() for character in plain):
        return True
    plain = plain.lstrip(_BEFORE_NUMBER)
    if not plain or not plain[0].isdigit():
        return False
    rest = plain.lstrip(_IN_NUMBER)
    return len(rest) <= _UNIT_CHARS or rest.startswith(_MONTHS)


def unit_of(text: str) -> str:
    """What follows the amount of a value: 円 of `1,200円`."""
    plain = folded(text).lstrip(_BEFORE_NUMBER)
    return plain.lstrip(_NUMBER_CHARS) if plain[:1].isdigit() else ""


def is_calendar(text: str) -> bool:
    """A month, year, quarter or day, as they stand above columns: 4月, 2025年度, 7/8（火）."""
    plain = folded(text)
    if plain.endswith(("月", "年", "年度", "期", "日", "週", ")")):
        return True
    return len(plain) == 4 and plain.isdigit() and plain.startswith(("19", "20"))


def rises(texts: Sequence[str]) -> bool:
    """Amounts or spans of time that grow from one to the next: 6か月, 1年6か月, 2年6か月以上."""
    sizes = [_size(text) for text in texts]
    return len(sizes) > 1 and all(low < high for low, high in pairwise(sizes))


def _size(text: str) -> float:
    """The first amount in the text; years, months and days count together, in days."""
    size = 0.0
    digits = ""
    for character in folded(text) + " ":
        if character.isascii() and (character.isdigit() or (character == "." and digits)):
            digits += character
        elif digits and character != ",":
            unit = {"年": 365, "か": 30, "ヶ": 30, "カ": 30, "月": 30, "週": 7, "日": 1}.get(character, 0)
            size += float(digits.rstrip(".").partition(".")[0][:15]) * (unit or 1)
            digits = ""
            if not unit:
                break
    return size


def is_weekday(text: str) -> bool:
    """Name of a weekday, short or long."""
    plain = folded(text).strip("()")
    return plain in _WEEKDAYS or plain.removesuffix("曜日").removesuffix("曜") in _WEEKDAYS or plain[:3] in _WEEKDAYS


def is_unit(text: str) -> bool:
    """A unit of measure, in brackets or not."""
    plain = folded(text)
    bare = plain.strip("()[]【】 ")
    return bare in _UNITS or (plain != bare and 0 < len(bare) <= 12 and not is_value(bare) and plain[0] in "([")


def is_label(text: str) -> bool:
    """A word that names a field or a column: 氏名, 点検日, Unit price."""
    plain = _without_brackets(folded(text)).rstrip(":*")
    if not plain or len(plain) > 40 or is_value(plain) or plain.endswith(("。", ".", "、", "です", "ます")):
        return False
    if not plain.isascii():
        return len(plain) <= 20 and " " not in plain and plain.endswith(_LABEL_ENDS)
    words = plain.replace("/", " ").replace("_", " ").replace(".", " ").split()
    return 0 < len(words) <= 6 and any(word.strip("#:") in _LABEL_WORDS for word in words)


def could_head(text: str) -> bool:
    """Nothing in the text forbids that it heads a column."""
    return len(text) <= 60 and not is_value(text) and not is_dash(text) and not text.endswith(("。", "！", "？"))


def is_note(text: str) -> bool:
    """A foot note, or a sentence."""
    plain = text.strip()
    return (
        plain.lower().startswith(_NOTE_MARKS)
        or plain.endswith(("。", "．"))
        or (len(plain) > 60 and plain.endswith("."))
    )


def is_remark(text: str) -> bool:
    """A line above a table that is not its title: units, tax, who made it when."""
    plain = text.strip().lower()
    return (
        plain.startswith(_ABOVE_MARKS)
        or plain.endswith(_ADDRESSEES)
        or is_note(plain)
        or is_value(plain)
        or (plain[:1] in "(（" and plain[-1:] in ")）")
    )


def inline_pair(text: str) -> tuple[str, str] | None:
    """Label and value of a cell that holds both: `有効期限：発行後45日`, `申請日　令和7年6月19日`."""
    label, colon, value = text.replace("：", ":", 1).partition(":")
    if not colon or not is_label(label):
        label, _, value = text.strip().partition(" ")
        if not is_value(value) or not is_label(label) or label.isascii():
            return None
    if folded(label).count("(") != folded(label).count(")"):
        return None
    return (closed_up(label), value.strip()) if value.strip() else None


def is_section(text: str) -> bool:
    """Marked as the name of the rows that follow."""
    return text.startswith(_SECTION_MARKS)


def is_total(text: str) -> bool:
    """Label of a totals row."""
    plain = "".join(folded(text).split())
    return plain in _TOTALS or plain.endswith(("合計", "小計", "総計", "total"))


def closed_up(text: str) -> str:
    """`所　属` as 所属: a label of single characters spread over its cell is one word."""
    parts = text.split()
    if len(parts) > 1 and all(len(part) == 1 and not part.isascii() for part in parts):
        return "".join(parts)
    return " ".join(parts)


def header_text(text: str) -> str:
    """`標準 価格` as 標準価格: short Japanese words that the width of a column has parted."""
    parts = text.split()
    if len(parts) > 1 and all(len(part) <= 6 and not part.isascii() and not part[0].isascii() for part in parts):
        return "".join(parts)
    return " ".join(parts)


def is_column_name(text: str) -> bool:
    """A word that heads the first column of a list and names no single thing: 項目, 品名, Item."""
    return folded(text) in _COLUMN_NAMES


def _without_brackets(text: str) -> str:
    """Without what stands in brackets at the end: `単価(円)` as 単価."""
    if text.endswith((")", "]")):
        at = max(text.rfind("("), text.rfind("["))
        if at > 0:
            return text[:at].strip()
    return text
