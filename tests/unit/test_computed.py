"""Answers computed over rows: what is computed, and what only looks like a calculation and is left alone."""

from __future__ import annotations

import re
import unicodedata
from datetime import date

import pytest

from core.dates import fiscal_year
from core.editions import DocumentEdition
from core.table_text import write_row
from core.types import Block, BlockKind, Passage
from generation.evidence.computed import Computed, compute
from generation.evidence.question import read_question
from retrieval.document_text import DocumentText

TODAY = date(2025, 7, 1)


class Files:
    """Documents as the store has them, and what a search finds of them."""

    def __init__(self) -> None:
        self.texts: dict[str, DocumentText] = {}
        self.passages: list[Passage] = []

    def add(self, filename: str, *parts: str | list[str], edition: DocumentEdition | None = None) -> Files:
        """parts: '# heading', a paragraph, or a table as [header line, *rows], cells parted by '|'."""
        text, blocks = "", []
        for part in parts:
            if isinstance(part, list):
                headers = [cell.strip() for cell in part[0].split("|")]
                lines = [write_row(headers, [cell.strip() for cell in row.split("|")]) for row in part[1:]]
                body, kind, level = "\n".join(lines), BlockKind.TABLE, None
            elif part.startswith("# "):
                body, kind, level = part[2:], BlockKind.HEADING, 1
            else:
                body, kind, level = part, BlockKind.PARAGRAPH, None
            blocks.append(Block(kind, len(text), len(text) + len(body), 1, level))
            text += f"{body}\n\n"
        key = f"doc{len(self.texts)}"
        self.texts[key] = DocumentText(text, tuple(blocks))
        table = next(block for block in blocks if block.kind is BlockKind.TABLE)
        end = min(table.end, table.start + 200)  # a search finds a part of a table
        part_text = text[table.start : end]
        self.passages.append(
            Passage(f"{key}-0", key, 1, filename, 1, None, table.start, end, part_text, 1, 0.9, edition=edition)
        )  # fmt: skip
        return self

    def ask(self, question: str) -> Computed | None:
        read = compute(read_question(question), self.passages, lambda one: self.texts[one.document_id], TODAY)
        for line in read.lines if read else ():
            assert self.texts[line.document_id].text[line.start : line.end] == line.text
        return read


def squeezed(text: str) -> str:
    return re.sub(r"[\s,、]", "", unicodedata.normalize("NFKC", text))


PUMPS = Files().add(
    "ポンプ価格表.xlsx",
    "# 水中ポンプ 標準価格表",
    "単位：円（税抜）",
    [
        "型番 | 品名 | 口径 | 電源 | 標準価格 / 本体 | 標準価格 / ケーブル | 質量（kg） | 納期 | 担当",
        "WP-10 | 小型ポンプ | 25mm | 単相100V | 38,400 | 4,200 | 6.5 | 2週間 | 大庭",
        "WP-15 | 小型ポンプ | 32mm | 単相100V | 45,900 | 4,200 | 8.2 | 2週間 | 大庭",
        "WP-20 | 中型ポンプ | 40mm | 三相200V | 72,600 | 5,800 | 14.0 | 3週間 | 三宅",
        "WP-20S | 中型ポンプ（耐蝕） | 40mm | 三相200V | 98,100 | 5,800 | 14.6 | 5週間 | 三宅",
        "WP-40 | 大型ポンプ | 50mm | 三相200V | 151,000 | 7,700 | 27.3 | 5週間 | 野口",
    ],
)
TIERS = Files().add(
    "Cable price list.pdf",
    "# Cable price list, all prices in GBP",
    [
        "Model | Description | Price each / 1-9 | Price each / 10-49 | Price each / 50+",
        "CB-1 | Patch cable, short | £4.50 | £4.05 | £3.60",
        "CB-2 | Patch cable, long | £7.25 | £6.53 | £5.80",
        "CB-2X | Patch cable, shielded | £9.99 | £8.99 | £7.99",
    ],
)
STAFF = Files().add(
    "Staff list.xlsx",
    "# Staff list, Harbour office",
    [
        "No | Name | Team | Grade | Annual leave | Joined | Salary",
        "1 | Ivo Marsh | Sales | B | 24 days | 3 May 2019 | £31,200",
        "2 | Ada Quist | Sales | A | 28 days | 12 January 2015 | £44,750",
        "3 | Rhys Polder | Repairs | B | 25 days | 1 June 2021 | £29,900",
        "4 | Mina Corr | Repairs | C | 22 days | 20 March 2023 | £26,050",
        "5 | Tom Elder | Accounts | B | 25 days | 7 July 2018 | £35,400",
    ],
)
CLAIM = Files().add(
    "Expense claim June.xlsx",
    "# Expense claim June",
    [
        "Date | Type | Description | Net | VAT | Gross",
        "02 Jun 2025 | Rail | Hull return | £80.00 | £0.00 | £80.00",
        "03 Jun 2025 | Hotel | One night | £90.00 | £18.00 | £108.00",
        "09 Jun 2025 | Rail | York single | £31.40 | £0.00 | £31.40",
        " | | Total | £201.40 | £18.00 | £219.40",
    ],
)
BUDGET = Files().add(
    "部門別予算.xlsx",
    "# 部門別予算 2025年度",
    "単位：千円",
    [
        "部門 | 4月 / 予算 | 4月 / 実績 | 5月 / 予算 | 5月 / 実績",
        "製造部 | 52,000 | 48,300 | 58,000 | 49,700",
        "営業部 | 18,000 | 21,400 | 21,000 | 15,900",
        "物流部 | 9,500 | 9,100 | 9,800 | 10,200",
        "合計 | 79,500 | 78,800 | 88,800 | 75,800",
    ],
)
WASTE = Files().add(
    "資源回収日程.html",
    "# 資源回収日程（浜北町）",
    [
        "地区 | 燃えるごみ | プラスチック | びん・缶",
        "東町 | 月・木 | 水 | 第1金",
        "西町 | 火・金 | 木 | 第2金",
        "浜町 | 水・土 | 火 | 第1月",
        "沖田 | 水・土 | 金 | 第3月",
        "丘の上 | 月・木 | 火 | 第2水",
    ],
)
STOCK = Files().add(
    "部品在庫.csv",
    [
        "品番 | 品名 | 在庫数 | 単位 | 発注点 | 最終入庫日 | 仕入先",
        *(f"KT-{n:03} | ねじ{n} | {200 + n} | 個 | 50 | 2025/03/{1 + n % 28:02} | 北辰商会" for n in range(40)),
        "KT-900 | 歯車 | 7 | 個 | 30 | 2025/05/30 | 丸越工業",
        "KT-901 | 軸受 | 12 | 個 | 10 | 2024/11/02 | 丸越工業",
        "KT-902 | 滑車 | 480 | 個 | 20 | 2025/01/15 | 丸越工業",
    ],
)
SPECS = Files().add(
    "Meters data sheet.pdf",
    "# LX meters",
    [
        "Item | LX-1 | LX-2",
        "Range | 0 to 500 lx | 0 to 9000 lx",
        "Battery life | 60 h | 95 h",
        "Weight | 240 g | 195 g",
        "Length | 182 mm | 170 mm",
    ],
)
SEATS = Files().add(
    "クラウド料金表.docx",
    "# クラウド会計 料金表",
    [
        "利用人数 | 月額（1人あたり）",
        "1～50人 | 900円",
        "51～200人 | 780円",
        "201人以上 | 690円",
    ],
)
SPARES = Files().add(
    "消耗品.md",
    "# 消耗品価格表",
    [
        "品番 | 品名 | 価格（円）",
        "FT-1 | フィルター | 1,200",
        "FT-2 | 大型フィルター | 2,300",
        "GS-1 | 校正ガス | 8,000",
    ],
    "10個以上は5%引き（校正ガスを除く）。",
)
DUTY = Files().add(
    "停電記録.xlsx",
    "# 停電記録",
    [
        "拠点 | 開始 | 終了 | 影響台数",
        "本館 | 8:52 | 11:37 | 14",
        "別館 | 9:10 | 9:55 | 6",
        "倉庫 | 13:00 | 14:20 | 9",
    ],
)
RESULT = Files().add(
    "Quarter results.pptx",
    "# Quarter results by region (£k)",
    [
        "Region | Q1 2025 | Q2 2025 | Change",
        "Uplands | 412 | 455 | +43",
        "Lowlands | 388 | 402 | +14",
        "Islands | 97 | 81 | ▲16",
    ],
)
BOLTS = Files().add(
    "締結部品.csv",
    "# 締結部品 一覧",
    [
        "品番 | 品名 | 在庫数 | 標準卸値 | 最終入庫日",
        "B-1 | 六角ボルト 小 | 120 | 12円 | 2025/03/01",
        "B-2 | 六角ボルト 大 | 380 | 15円 | 2025/03/02",
        "N-1 | ナット 小 | 75 | 8円 | 2025/03/03",
        "N-2 | ナット 大 | 60 | 9円 | 2025/03/04",
    ],
)
WAGES = Files().add("謝礼.xlsx", "# 外部人材の謝礼", ["区分 | 謝礼（1時間）", "講師 | 8,500円", "助手 | 3,000円"])
DISKS = Files().add("設備.xlsx", "# 大型設備", ["型番 | 価格", "DS-1 | 5,250万円", "DS-2 | 1億2,000万円"])
ORDERS = Files().add(
    "注文一覧.csv",
    [
        "注文番号 | 納品先 | 数量 | 金額",
        "P-1 | 本町・西町 | 300 | ￥12,000",
        "P-2 | 東町 | 45 | ￥9,000",
        "P-3 | 本町 | １，２００ | ￥48,000",
    ],
)


@pytest.mark.parametrize(
    ("files", "question", "operation", "said"),
    [
        # a column of a few rows
        (PUMPS, "口径", "column", ["WP-10", "25mm", "WP-20S", "40mm", "WP-40", "50mm"]),
        (PUMPS, "水中ポンプの納期は？", "column", ["WP-10", "2週間", "WP-40", "5週間"]),
        (PUMPS, "型番", "column", ["WP-10", "WP-15", "WP-20", "WP-20S", "WP-40"]),
        (STAFF, "What is the annual leave?", "column", ["Ivo Marsh", "24 days", "Mina Corr", "22 days"]),
        # the smallest and the largest
        (PUMPS, "水中ポンプの本体価格が一番安いのはどれですか。", "extreme", ["WP-10", "38,400円"]),
        (PUMPS, "水中ポンプで本体が最も高い型番は？", "extreme", ["WP-40", "151,000円"]),
        (PUMPS, "三相200Vの水中ポンプで質量が一番軽いのは？", "extreme", ["WP-20", "14.0"]),
        (PUMPS, "水中ポンプで納期が最も長い型番を教えてください", "extreme", ["WP-20S", "WP-40", "5週間"]),
        (STAFF, "Who in the Harbour office has the highest salary?", "extreme", ["Ada Quist", "£44,750"]),
        (STAFF, "Which person in Repairs has the longest annual leave?", "extreme", ["Rhys Polder", "25 days"]),
        (STAFF, "Who joined most recently?", "extreme", ["Mina Corr", "20 March 2023"]),
        (STAFF, "What is the lowest salary in the Sales team?", "extreme", ["Ivo Marsh", "£31,200"]),
        (STOCK, "在庫数が一番少ない品番は？", "extreme", ["KT-900", "歯車", "7"]),
        (STOCK, "丸越工業の部品で在庫が最も多いのはどれ？", "extreme", ["KT-902", "480"]),
        (STOCK, "最終入庫日が最も古い品番はどれですか", "extreme", ["KT-901", "2024/11/02"]),
        (RESULT, "Which region had the largest change in the quarter results?", "extreme", ["Uplands", "43"]),
        (RESULT, "Which region had the smallest Q2 2025 result?", "extreme", ["Islands", "81"]),
        # sums
        (CLAIM, "What is the total gross of the expense claim for June?", "sum", ["£219.40"]),
        (CLAIM, "What is the total net for rail in the June expense claim?", "sum", ["£111.40", "80.00", "31.40"]),
        (BUDGET, "4月の予算の合計はいくらですか", "sum", ["79,500千円"]),
        (BUDGET, "製造部と営業部の5月実績を合わせるといくらですか", "sum", ["65,600千円"]),
        (PUMPS, "WP-20の本体とケーブルを合わせていくらですか", "sum", ["78,400円", "72,600", "5,800"]),
        (PUMPS, "WP-10とWP-15の本体価格の合計は？", "sum", ["84,300円"]),
        (STAFF, "What is the total salary of the Repairs team?", "sum", ["£55,950"]),
        (DUTY, "停電記録の影響台数は全部で何台ですか", "sum", ["29"]),
        (STOCK, "丸越工業の在庫数の合計は", "sum", ["499"]),
        # how many
        (STAFF, "How many people are in the Repairs team?", "count", ["2", "Rhys Polder", "Mina Corr"]),
        (STAFF, "How many staff have grade B?", "count", ["3"]),
        (WASTE, "燃えるごみが月・木の地区はいくつありますか", "count", ["2", "東町", "丘の上"]),
        (STOCK, "仕入先が丸越工業の品番は何件ありますか", "count", ["3件"]),
        (STOCK, "在庫数が発注点を下回っている品番は何件ですか", "count", ["1件", "KT-900"]),
        # differences
        (PUMPS, "WP-20とWP-20Sの本体価格の差はいくらですか", "difference", ["25,500円"]),
        (PUMPS, "WP-40の本体はWP-20よりいくら高いですか", "difference", ["78,400円"]),
        (SPECS, "What is the difference in weight between the LX-1 and the LX-2?", "difference", ["45 g"]),
        (SPECS, "How much longer is the battery life of the LX-2 than that of the LX-1?", "difference", ["35 h"]),
        (RESULT, "What is the difference between Q1 2025 and Q2 2025 for Uplands?", "difference", ["£43k"]),
        (STAFF, "How much more salary does Ada Quist get than Tom Elder?", "difference", ["£9,350"]),
        (DUTY, "本館の停電の開始と終了の差は何分ですか", "difference", ["2時間45分", "165分"]),
        (DUTY, "本館の停電は何分続きましたか", "duration", ["2時間45分", "8:52～11:37"]),
        (BUDGET, "物流部の5月の予算と実績の差はいくらですか", "difference", ["400千円"]),
        (BUDGET, "部門別予算で5月の実績が最も多い部門は", "extreme", ["製造部", "49,700千円"]),
        # which of two
        (PUMPS, "WP-15とWP-20では、質量はどちらが軽いですか", "which", ["WP-15", "8.2"]),
        (PUMPS, "WP-10とWP-20Sはどちらが納期が短いですか", "which", ["WP-10", "2週間"]),
        (SPECS, "Which is heavier, the LX-1 or the LX-2?", "which", ["LX-1", "240 g"]),
        (STAFF, "Who has more annual leave, Mina Corr or Tom Elder?", "which", ["Tom Elder", "25 days"]),
        (BUDGET, "製造部と営業部では4月の実績が多いのはどちら？", "which", ["製造部", "48,300"]),
        # products
        (TIERS, "How much do 12 CB-2 cost in total?", "product", ["£78.36", "12 × £6.53", "10-49"]),
        (TIERS, "What is the total price of 60 units of CB-1?", "product", ["£216.00", "£3.60"]),
        (TIERS, "CB-2Xを9本注文すると合計いくらですか", "product", ["£89.91"]),
        (PUMPS, "WP-15の本体を3台買うといくらになりますか", "product", ["137,700円", "45,900円"]),
        (SEATS, "クラウド会計を120人で使うと月額はいくらですか", "product", ["93,600円", "780円"]),
        (SPARES, "FT-1を12個買うと合計いくらですか", "product", ["13,680円"]),
        (SPARES, "FT-2を3個買うといくらですか", "product", ["6,900円"]),
        (SPARES, "GS-1を10個買うといくらになりますか", "product", ["80,000円"]),
        (WAGES, "講師に3時間お願いすると謝礼はいくらですか", "product", ["25,500円"]),
        (DISKS, "DS-1を4個買うと合計いくらですか", "product", ["21,000万円"]),
        (ORDERS, "注文一覧で数量が一番多い注文番号は？", "extreme", ["P-3", "1,200"]),
        # a word of the cells, a part of a header, what is done with it
        (BOLTS, "ボルトの在庫数の合計はいくつですか", "sum", ["500", "120", "380"]),
        (BOLTS, "ナットで卸値が一番高いのはどれですか", "extreme", ["N-2", "9円"]),
        (BOLTS, "お客様にB-1を30個まとめて売ると標準卸値でいくらになりますか", "product", ["360円"]),
        # rows
        (WASTE, "燃えるごみが水・土の地区はどこですか", "rows", ["浜町", "沖田"]),
        (WASTE, "プラスチックが火の地区は？", "rows", ["浜町", "丘の上"]),
        (PUMPS, "納期が5週間の型番はどれですか", "rows", ["WP-20S", "WP-40"]),
        (PUMPS, "大庭が担当の型番を教えてください", "rows", ["WP-10", "WP-15"]),
        (STAFF, "Which people have grade B?", "rows", ["Ivo Marsh", "Rhys Polder", "Tom Elder"]),
        (STAFF, "Who is in the Sales team?", "rows", ["Ivo Marsh", "Ada Quist"]),
        (STOCK, "在庫数が20個以下の品番はどれですか", "rows", ["KT-900", "KT-901"]),
        (PUMPS, "質量が10kg以上の水中ポンプの型番は？", "rows", ["WP-20", "WP-20S", "WP-40"]),
        (WASTE, "プラスチックが火曜日の地区はどこですか", "rows", ["浜町", "丘の上"]),
        (ORDERS, "納品先が本町の注文番号はどれですか", "rows", ["P-1", "P-3"]),
        (STAFF, "Who has annual leave of at least 25 days?", "rows", ["Ada Quist", "Rhys Polder", "Tom Elder"]),
    ],
)
def test_an_answer_is_computed(files: Files, question: str, operation: str, said: list[str]) -> None:
    found = files.ask(question)
    assert found is not None
    assert found.operation == operation, found.text
    missing = [one for one in said if squeezed(one) not in squeezed(found.text)]
    assert not missing, found.text


TWO = Files()
TWO.add("東支店価格表.csv", ["型番 | 価格（円）", "A-1 | 100", "A-2 | 150"])
TWO.add("西支店価格表.csv", ["型番 | 価格（円）", "A-1 | 110", "A-2 | 140"])
MIXED = Files().add("送料.xlsx", "# 送料表", ["地域 | 送料", "本州 | 800円", "北海道 | 15ドル", "沖縄 | 2,000円"])
ASKED = Files().add("送料.xlsx", "# 送料表", ["地域 | 送料", "本州 | 800円", "離島 | 要問合せ", "沖縄 | 2,000円"])
HIDDEN = Files().add(
    "集計.xlsx", "# 出荷集計", ["工場 | 出荷数", "第一 | 120", "第二 | 80", "第三 | 50", "全工場 | 250"]
)
UNNAMED = Files().add("集計.xlsx", "# 出荷集計", ["工場 | 出荷数", "第一 | 120", "第二 | 80", " | 200"])
TWO_PRICES = Files().add("価格.csv", "# 計器価格", ["型番 | 定価 | 特価", "B-1 | 900 | 700", "B-2 | 950 | 650"])
SHEETS = Files().add(
    "名簿.xlsx",
    "# 本社",
    ["氏名 | 部署 | 内線", "原 一 | 総務 | 101", "関 次郎 | 経理 | 102"],
    "# 支店",
    ["氏名 | 部署 | 内線", "堀 三郎 | 総務 | 201", "辻 花 | 総務 | 202"],
)
PACKED = Files().add(
    "文具.csv", "# 文具価格表", ["品番 | 品名 | 価格", "N-1 | 付箋（10個入） | 500円", "N-2 | 鉛筆 | 80円"]
)
ROOMS = Files().add(
    "使用料.docx", "# 施設使用料", "単位：円", ["施設 | 午前 | 午後", "会議室 | 1,100 | 1,500", "和室 | 900 | 950"]
)
NIGHTS = Files().add("勤務.xlsx", "# 勤務の班", ["班 | 開始 | 終了", "日勤 | 8:30 | 17:00", "夜勤 | 22:00 | 6:00"])
LOTS = Files().add("部材.csv", "# 部材価格", ["品番 | 価格 | 最低ロット", "LT-1 | 120円 | 10", "LT-2 | 80円 | 1"])


@pytest.mark.parametrize(
    ("files", "question"),
    [
        (TWO_PRICES, "計器で一番安いのはどれですか"),  # which of two prices
        (TWO, "価格が一番安い型番は？"),  # which of two tables
        (MIXED, "送料が一番高い地域は？"),  # yen and dollars
        (ASKED, "送料が一番高い地域は？"),  # a cell that cannot be read
        (HIDDEN, "出荷集計の出荷数の合計は？"),  # the last row is the sum of the others
        (UNNAMED, "出荷集計の出荷数の合計は？"),  # a row without a name
        (SHEETS, "総務は何人いますか"),  # which of two sheets
        (PACKED, "N-1を3個買うといくらですか"),  # a price of ten
        (PUMPS, "防爆形の水中ポンプで一番安いのは？"),  # a condition that no cell tells
        (PUMPS, "一番安い冷蔵庫はどれですか"),  # another thing
        (PUMPS, "WP-30の本体とケーブルを合わせていくらですか"),  # no such row
        (PUMPS, "水中ポンプの平均価格は？"),  # not computed here
        (PUMPS, "2番目に安い水中ポンプは？"),
        (PUMPS, "WP-20の標準価格はいくらですか"),  # a lookup
        (PUMPS, "WP-20とWP-20Sの違いは何ですか"),  # of what
        (PUMPS, "水中ポンプは何台ありますか"),  # no column of stock
        (PUMPS, "ケーブルの質量が一番重いのは？"),  # cable is a price column here
        (STAFF, "Who has the highest bonus?"),  # no such column
        (STAFF, "How many days of annual leave does Tom Elder have?"),  # a lookup
        (STAFF, "How many people work in Marketing?"),  # no such team
        (STAFF, "What is the average salary in Sales?"),
        (STAFF, "Why does Ada Quist have the highest salary?"),
        (TIERS, "What is the unit price of CB-2 for 12 units?"),  # a lookup
        (TIERS, "How much do 12 CB-9 cost in total?"),  # no such row
        (TIERS, "What is the total for 12 CB-1 and 5 CB-2?"),  # two quantities
        (TIERS, "How much do 12 CB-2 cost in total including VAT?"),
        (CLAIM, "What is the total mileage of the June expense claim?"),
        (SPECS, "Which has the longer cable, the LX-1 or the LX-2?"),
        (SPECS, "Which is heavier, the LX-1 or the LX-3?"),
        (PUMPS, "防爆形で本体が一番安いのは？"),  # what no cell tells, all else being told
        (PUMPS, "寒冷地仕様のWP-20を本体とケーブル合わせていくらですか"),
        (PUMPS, "WP-20の本体とケーブルを輸出価格で合わせるといくら？"),
        (STAFF, "What is the total pension of the Repairs team?"),
        (STAFF, "Who in the Berlin office has the highest salary?"),
        (STAFF, "How many people with a licence are in the Repairs team?"),
        (TIERS, "How much do 12 waterproof CB-2 cost in total?"),
        (WASTE, "資源ごみが水・土の地区は？"),
        (STAFF, "Does Ada Quist have the highest salary?"),  # yes or no
        (PUMPS, "一番安い水中ポンプは本体が4万円以下ですか"),
        (WAGES, "講師を3人お願いすると謝礼はいくらですか"),  # a price of an hour, not of a person
        (ROOMS, "会議室を3時間使うといくらですか"),  # a price of a morning
        (ROOMS, "会議室を12人で使うといくらですか"),
        (ROOMS, "会議室の夜間は何時間続きますか"),
        (NIGHTS, "夜勤の班は何時間続きますか"),  # ends on the next day
        (LOTS, "LT-1を3個買うといくらですか"),  # at least ten
        (BUDGET, "予算の合計はいくらですか"),  # April's or May's
        (BUDGET, "6月の予算の合計はいくらですか"),
        (WASTE, "燃えるごみが水・土の地区の人口の合計は？"),
        (SEATS, "クラウド会計の最大利用人数は？"),
        (STOCK, "在庫数が10箱以下の品番はどれですか"),  # counted in another unit
        (DUTY, "本館の停電の影響はいくらですか"),
        (RESULT, "What share of the total did Uplands have in Q2 2025?"),
        (PUMPS, "WP-20の口径は？"),  # a lookup
        (PUMPS, "冷蔵庫の納期は？"),  # another thing
        (PUMPS, "質量と口径"),  # two columns
        (STAFF, "Who has the annual leave of a director?"),
    ],
)  # fmt: skip
def test_what_is_not_certain_is_not_computed(files: Files, question: str) -> None:
    found = files.ask(question)
    assert found is None, found and found.text


def editions(old: str, new: str, rows_old: list[str], rows_new: list[str]) -> Files:
    files = Files()
    for name, year, rows in ((old, 2024, rows_old), (new, 2025, rows_new)):
        period = fiscal_year(year)
        edition = DocumentEdition(
            f"doc{year - 2024}", family="手数料一覧", period=period, name=f"{year}年度", valid_from=period.first
        )
        files.add(name, ["種類 | 手数料（円）", *rows], edition=edition)
    return files


FEES = editions(
    "手数料一覧_2024年度.pdf", "手数料一覧_2025年度.pdf",
    ["住民票の写し | 300", "印鑑証明 | 300", "再交付 | 500"],
    ["住民票の写し | 350", "印鑑証明 | 300", "再交付 | 450"],
)  # fmt: skip


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("住民票の写しの手数料は昨年度からいくら上がりましたか", ["50円増", "300円", "350円"]),
        ("再交付の手数料は2024年度と2025年度でいくら違いますか", ["50円減", "500円", "450円"]),
        ("印鑑証明の手数料は前年度からいくら値上がりしましたか", ["変わっていません"]),
    ],
)
def test_a_change_between_two_editions(question: str, said: list[str]) -> None:
    found = FEES.ask(question)
    assert found is not None and found.operation == "difference"
    assert all(one in found.text for one in said), found.text
    assert {line.document_id for line in found.lines} == {"doc0", "doc1"}


def test_the_edition_that_holds_is_computed_from() -> None:
    found = FEES.ask("手数料一覧で手数料が一番高い種類は？")
    assert found is not None and "再交付" in found.text and "450円" in found.text
    found = FEES.ask("2024年度の手数料一覧で手数料が一番高い種類は？")
    assert found is not None and "500円" in found.text
    assert FEES.ask("2023年度の手数料一覧で手数料が一番高い種類は？") is None


def test_the_same_cell_of_two_branches() -> None:
    found = TWO.ask("A-1の価格は東支店と西支店でいくら違いますか")
    assert found is not None and found.text.startswith("10円（") and found.operation == "difference"
    found = TWO.ask("A-2の価格は東支店と西支店ではどちらが安いですか")
    assert found is not None and found.text.startswith("西") and "140円" in found.text
    assert {line.document_id for line in found.lines} == {"doc0", "doc1"}
    assert TWO.ask("A-2の価格は東支店と南支店ではどちらが安いですか") is None
    assert TWO.ask("A-2の価格はどちらの支店が安いですか") is None


def test_a_long_document_is_read_whole_or_not_at_all() -> None:
    rows = [f"Q-{n} | {n + 1}円" for n in range(5_000)]
    files = Files().add("長い価格表.csv", "# 長い価格表", ["型番 | 価格", *rows])
    found = files.ask("長い価格表で価格が一番高い型番は？")
    assert found is not None and "Q-4999" in found.text
    files = Files().add("長い価格表.csv", "# 長い価格表", ["型番 | 価格", *rows, "Q-X | 1円"])
    assert files.ask("長い価格表で価格が一番高い型番は？") is None
