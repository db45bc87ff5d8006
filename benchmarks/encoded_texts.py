"""Japanese office texts of every mixture and length, as bytes of CP932 and EUC-JP: the same ones in every run.

Mixtures are what companies' files are made of: kanji only, kana only, bank lists wholly in half-width kana, prices with
hardly any Japanese in them, vendor characters. Lengths go from one word to pages, shapes from prose to CSV.
"""

from __future__ import annotations

import codecs
import random
from collections.abc import Iterator
from dataclasses import dataclass


def _words(listed: str) -> list[str]:
    return listed.split()


_KANJI = _words(
    "品名 単価 在庫 数量 金額 合計 小計 消費税 請求書 見積書 納品書 領収書 発注 受注 出荷 返品 棚卸 倉庫 工場 "
    "本社 支店 営業部 総務部 経理部 人事部 開発課 製造課 品質保証 購買 契約書 覚書 稟議 決裁 承認 申請 休暇 "
    "出張 旅費 交通費 宿泊費 給与 賞与 控除 扶養 手当 住所 氏名 電話番号 郵便番号 生年月日 備考 担当者 部長 "
    "課長 係長 主任 緑茶 紅茶 牛乳 砂糖 醤油 味噌 豆腐 鉛筆 消しゴム 用紙 机 椅子 東京都 大阪府 神奈川県 "
    "横浜市 名古屋市 札幌市 福岡市 仙台市 千代田区 新宿区 渋谷区 株式会社 有限会社 合同会社 山田商店 "
    "佐々木製作所 鈴木電機 高橋工務店 田中印刷 渡辺運輸 斎藤商事 議事録 就業規則 規程 第一条 改定 施行日 附則 "
    "別表 障害 復旧 手順書 点検 清掃 安全衛生"
)
_NAMES = _words(
    "佐藤 鈴木 高橋 田中 伊藤 渡辺 山本 中村 小林 加藤 吉田 山田 佐々木 山口 松本 井上 木村 林 斎藤 清水 山崎 "
    "森 池田 橋本 阿部 石川 前田 藤田 後藤 小川 岡田 長谷川 村上 近藤 石井 遠藤 青木 坂本 福田 太田 西村 藤井 "
    "金子 岡本 中島 原田 中野 小野 田村"
)
_HIRAGANA = _words(
    "ください おねがいします ありがとうございます について により から まで です ます した する こと もの "
    "ため とき よう なお また ただし および ならびに おしらせ おしぼり りんご みかん たまご おにぎり のり "
    "しお さとう はがき ひらがな すべて"
)
_KATAKANA = _words(
    "コピー用紙 ボールペン トナー カートリッジ ファイル ノート シール プリンター パソコン マウス キーボード "
    "サーバー ネットワーク システム データ メール パスワード ログイン エラー サービス プラン オプション "
    "キャンペーン コーヒー ミルク アルミ ステンレス ケーブル ボルト ナット ワッシャー パッキン フィルター "
    "モーター センサー ヴァイオリン ウェア ティッシュ"
)
_HALF_KANA = _words(
    "ﾔﾏﾀﾞｼｮｳｼﾞ ｻﾄｳ ﾀﾛｳ ﾊﾅｺ ﾌﾘｺﾐ ﾌﾘｶｴ ﾃｽｳﾘｮｳ ｷｭｳﾖ ﾃﾞﾝｷﾀﾞｲ ｶﾞｽﾀﾞｲ ｽｲﾄﾞｳ ｶｰﾄﾞ ﾘｿｸ ﾖｷﾝ ﾋｷﾀﾞｼ ﾄｳｷｮｳ ｵｵｻｶ ﾅｺﾞﾔ "
    "ｻｯﾎﾟﾛ ﾐｽﾞﾎ ﾐﾂﾋﾞｼ ｽﾐﾄﾓ ﾆﾎﾝ ｽｽﾞｷ ﾀｶﾊｼ ﾀﾅｶ ﾜﾀﾅﾍﾞ ｲﾄｳ ﾅｶﾑﾗ ｺﾊﾞﾔｼ ﾖｼﾀﾞ ｻｻｷ ﾏﾂﾓﾄ ｲﾉｳｴ ｷﾑﾗ ﾊﾔｼ ｼﾐｽﾞ ﾓﾘ ｱﾍﾞ ｲｹﾀﾞ "
    "ﾊｼﾓﾄ ﾔﾏｼﾀ ｲｼｶﾜ ｱｵﾊﾞｼﾖｳｼﾞ ｻｸﾗｺｳｷﾞﾖｳ ｺﾋﾟｰﾖｳｼ ﾎﾞｰﾙﾍﾟﾝ ﾄﾅｰ ﾌｧｲﾙ ﾉｰﾄ ﾌﾟﾘﾝﾀ ﾊﾟｿｺﾝ ﾏｳｽ ﾃﾞｰﾀ ｼｽﾃﾑ ﾒﾝﾃﾅﾝｽ ｺｰﾋｰ "
    "ﾐﾙｸ ﾎﾞﾙﾄ ﾅｯﾄ ｾﾝｻ ﾓｰﾀ"
)
_COMPANY_MARKS = ("ｶ)", "ﾕ)", "ｶ)", "(ｶ", "(ｶ)", "ｶﾞｸ)")
_VENDOR = _words("①② ③ ㈱ ㈱青葉商事 ㈲みどり № ℡ ㍻ ㎡ ㎏ ㌔ Ⅲ 髙橋 山﨑 髙﨑 德永 濵田 草彅 ⅰ ⅱ")
_SYMBOLS = _words("〒 ※ ★ ● ○ ◎ △ ▲ □ ■ → ← 〜 ・ 々 「在庫」 （税込） 【重要】 １２３ ＡＢＣ ５％ ￥ 〃 … ― × ÷ ± ℃")
_ASCII = [
    "KX-001",
    "AB-12",
    "CODE",
    "ID",
    "No.",
    "USB",
    "A4",
    "B5",
    "M8x20",
    "kg",
    "mm",
    "pcs",
    "Tokyo",
    "Osaka",
    "info@example.co.jp",
    "OK",
    "NG",
    "2025/04/01",
    "10:30",
]

MIXTURES: dict[str, tuple[list[str], ...]] = {
    "kanji": (_KANJI,),
    "names": (_NAMES,),
    "hiragana": (_HIRAGANA,),
    "katakana": (_KATAKANA,),
    "half-width kana": (_HALF_KANA,),
    "half-width kana, ASCII": (_HALF_KANA, _HALF_KANA, _ASCII),
    "half-width kana, kanji": (_HALF_KANA, _HALF_KANA, _KANJI),
    "half-width kana, all": (_HALF_KANA, _KANJI, _KATAKANA, _HIRAGANA, _NAMES),
    "kanji, ASCII": (_KANJI, _ASCII, _ASCII, _ASCII),
    "kanji, kana": (_KANJI, _HIRAGANA, _KANJI, _KATAKANA),
    "vendor": (_VENDOR, _KANJI, _NAMES),
    "vendor, ASCII": (_VENDOR, _ASCII, _ASCII),
    "symbols": (_SYMBOLS, _KANJI, _KATAKANA),
    "all": (_KANJI, _NAMES, _HIRAGANA, _KATAKANA, _HALF_KANA, _VENDOR, _SYMBOLS, _ASCII),
}
SHAPES = ("word", "line", "csv", "prose", "mostly ASCII", "page")
_TO_JIS = str.maketrans("～－￠￡￢∥", "〜−¢£¬‖")


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A text and its bytes."""

    text: str
    data: bytes
    encoding: str
    mixture: str
    shape: str


def encoded_texts(count: int, seed: int = 14) -> Iterator[EncodedText]:
    """So many texts, every mixture, shape and encoding in turn."""
    chance = random.Random(seed)
    for number in range(count):
        mixture = list(MIXTURES)[number % len(MIXTURES)]
        shape = SHAPES[number // len(MIXTURES) % len(SHAPES)]
        encoding = ("cp932", "euc_jp")[number // (len(MIXTURES) * len(SHAPES)) % 2]
        text = _text(chance, MIXTURES[mixture], shape)
        if encoding == "euc_jp":
            text = text.translate(_TO_JIS)
            data = text.encode("euc_jp", errors="vendor-rows-of-euc")
        else:
            text = text.replace("〜", "～")
            data = text.encode("cp932")
        yield EncodedText(text, data, encoding, mixture, shape)


def _text(chance: random.Random, lists: tuple[list[str], ...], shape: str) -> str:
    def word() -> str:
        chosen = chance.choice(lists)
        mark = chance.choice(_COMPANY_MARKS) if chosen is _HALF_KANA and chance.random() < 0.2 else ""
        return (chance.choice(chosen) + mark) if mark.startswith("(") else mark + chance.choice(chosen)

    def words(least: int, most: int, between: str) -> str:
        return between.join(word() for _ in range(chance.randint(least, most)))

    end = chance.choice(("\n", "\r\n"))
    match shape:
        case "word":
            return word() + chance.choice(("", end))
        case "line":
            return words(2, 6, chance.choice(("", " ", ",", "　", "\t"))) + end
        case "csv":
            head = ",".join(word() for _ in range(4)) + end
            rows = chance.randint(1, 40)
            return head + "".join(
                f"{row},{word()},{chance.randint(1, 99) * 100},{words(1, 2, ' ')}{end}" for row in range(rows)
            )
        case "mostly ASCII":
            rows = chance.randint(20, 200)
            places = {chance.randrange(rows) for _ in range(chance.randint(1, 3))}
            return "".join(f"{row},Osaka,{word() if row in places else 0}{end}" for row in range(rows))
        case "prose":
            return "".join(words(4, 12, "") + "。" + end for _ in range(chance.randint(1, 6)))
        case _:
            return "".join(words(10, 30, chance.choice(("", " "))) + end for _ in range(chance.randint(40, 120)))


def _vendor_euc(error: UnicodeError) -> tuple[bytes, int]:
    """Codec error handler: ① and 髙 where eucJP-ms and CP51932 put them, rows 13 and 89 to 92."""
    assert isinstance(error, UnicodeEncodeError)
    lead, trail = error.object[error.start].encode("cp932")
    lead, trail = _nec_place(lead, trail)
    row = (lead - (0x80 if lead < 0xA0 else 0xC0)) * 2 - (1 if trail < 0x9F else 0)
    cell = (trail - 0x3F - (trail > 0x7F)) if trail < 0x9F else trail - 0x9E
    return bytes((0xA0 + row, 0xA0 + cell)), error.start + 1


def _nec_place(lead: int, trail: int) -> tuple[int, int]:
    """CP932 holds the IBM extensions twice; NEC's places, ED and EE, are those that EUC-JP has."""
    if lead < 0xFA:
        return lead, trail
    character = bytes((lead, trail)).decode("cp932")
    for nec in (0xED, 0xEE):
        for code in (*range(0x40, 0x7F), *range(0x80, 0xFD)):
            if bytes((nec, code)).decode("cp932", errors="replace") == character:
                return nec, code
    raise ValueError(f"{character!r} has no place of NEC's")


codecs.register_error("vendor-rows-of-euc", _vendor_euc)
