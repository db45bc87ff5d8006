"""Pages and Markdown: what a reader sees of them, and none of the menus around it."""

from __future__ import annotations

import time

import pytest

from core.types import ExtractedDocument
from ingest.extract import extract_document
from ingest.extract.html import extract_html


def read(source: str, filename: str = "a.html") -> ExtractedDocument:
    return extract_document(source.encode(), filename, max_chars=100_000)


def blocks(document: ExtractedDocument) -> list[tuple[str, str]]:
    return [(block.kind.value, document.text[block.start : block.end]) for block in document.blocks]


def lines(source: str, filename: str = "a.html") -> list[str]:
    return [text for _, text in blocks(read(source, filename))]


def test_a_table_of_a_wiki_keeps_its_cells_whole() -> None:
    table = (
        "<table><tbody><tr><th><p>拠点</p></th><th><p>当番</p></th><th><p>電話</p></th></tr>"
        "<tr><td><p>倉庫A</p></td><td><ul><li>佐野</li><li>戸田</li></ul></td><td><p>内線71</p><p>夜間 72</p></td></tr>"
        "<tr><td rowspan=2><p>工場</p></td><td>森<br>林</td><td>内線80</td></tr>"
        "<tr><td>原</td><td>内線81</td></tr></table>"
    )
    assert lines(table) == [
        "拠点: 倉庫A | 当番: ・佐野 ・戸田 | 電話: 内線71 夜間 72\n"
        "拠点: 工場 | 当番: 森 林 | 電話: 内線80\n"
        "拠点: 工場 | 当番: 原 | 電話: 内線81"
    ]


def test_captions_are_titles_and_layout_is_read_in_order() -> None:
    layout = (
        "<table width='100%'><tr><td><img alt='ロゴ'></td><td>社内報</td></tr></table>"
        "<table role=presentation><tr><td><h2>献立</h2><p>今週</p></td><td><p>来週</p></td></tr></table>"
        "<table><caption>定食の値段</caption><tr><td>品<td>円<tr><td>焼魚<td>640</table>"
    )
    assert blocks(read(layout)) == [
        ("paragraph", "ロゴ 社内報"),
        ("heading", "献立"),
        ("paragraph", "今週"),
        ("paragraph", "来週"),
        ("heading", "定食の値段"),
        ("table", "品: 焼魚 | 円: 640"),
    ]


def test_readings_stand_behind_the_words() -> None:
    source = (
        "<p>集合は<ruby>若<rp>(</rp><rt>わか</rt><rp>)</rp></ruby><ruby>葉<rt>ば</rt></ruby>橋、"
        "<ruby>雨天<rt>うてん</rt></ruby>は<ruby><rb>中</rb><rt>ちゅう</rt>止<rt>し</rt></ruby>。</p>"
    )
    assert lines(source) == ["集合は若葉橋、雨天は中止。（ルビ: 若葉=わかば、雨天=うてん、中止=ちゅうし）"]


def test_struck_and_hidden_text_is_left_out_and_counted() -> None:
    source = (
        "<style>.old, p.gone { text-decoration: line-through } #tmp{display:none}"
        "@media print{.screen{display:none}.menu2{display:none}}</style>"
        "<p>定価 <s>9,800円</s> <del>9,000円</del> <span style='text-decoration:line-through red'>8,700円</span>"
        " <b class='x old'>8,600円</b> 8,500円</p><p class=gone>廃番</p><p id=tmp>下書き</p><p class=screen>見える</p>"
        "<p class=menu2>これも</p>"
    )
    document = read(source)
    assert [text for _, text in blocks(document)] == ["定価 8,500円", "見える", "これも"]
    assert (document.quality["struck_left_out"], document.quality["hidden_left_out"]) == (26, 3)


def test_menus_are_left_out_and_the_headers_of_articles_are_not() -> None:
    source = (
        "<body><header><div>会社名</div><nav><a href=/>ホーム</a></nav></header>"
        "<div id=cookie-banner>Cookieを使います</div>"
        "<div role=navigation>現在地</div><aside>広告</aside><ul><li>くらし</li></ul>"
        "<main><article><header><h1>停電のお知らせ</h1><p>総務課</p></header><p>九日の午後に止まる。</p>"
        "<aside>非常灯はつく。</aside><footer>問合せは内線55</footer></article></main>"
        "<footer><a href=/p>個人情報</a> (c) 2030</footer><footer>改訂 2030年5月</footer></body>"
    )
    document = read(source)
    assert [text for _, text in blocks(document)] == [
        "停電のお知らせ", "総務課", "九日の午後に止まる。", "非常灯はつく。", "問合せは内線55", "改訂 2030年5月"
    ]  # fmt: skip
    assert document.quality["navigation_left_out"] > 20


def test_a_page_that_is_all_menu_is_read_whole() -> None:
    assert "ガス" in read("<nav><ul><li>水道の手続き<li>ガスの手続き</ul></nav><p>案内</p>").text


def test_list_numbers_are_those_shown() -> None:
    source = (
        "<ol start=3><li>三<li value=7>七<li>八</ol><ol type=a><li>a<li>b</ol><ol reversed><li>二<li>一</ol>"
        "<ol style='list-style-type: katakana-iroha'><li>初</ol><ol start=x><li>一</ol>"
    )
    assert lines(source) == ["3. 三", "7. 七", "8. 八", "a. a", "b. b", "2. 二", "1. 一", "イ. 初", "1. 一"]


def test_terms_stand_with_what_describes_them_and_questions_above_their_answers() -> None:
    source = (
        "<h2>用語</h2><dl><dt>内示</dt><dd>発令前の知らせ。</dd><dt>甲</dt><dt>乙</dt><dd>当事者</dd><dd>署名者</dd>"
        "<dt>締切は？</dt><dd><p>毎月五日。</p></dd></dl>"
        "<details><summary>印鑑は要りますか</summary><p>要りません。</p></details>"
    )
    assert blocks(read(source)) == [
        ("heading", "用語"),
        ("list_item", "内示: 発令前の知らせ。"),
        ("list_item", "甲 / 乙: 当事者"),
        ("list_item", "甲 / 乙: 署名者"),
        ("heading", "締切は？"),
        ("paragraph", "毎月五日。"),
        ("heading", "印鑑は要りますか"),
        ("paragraph", "要りません。"),
    ]


def test_links_say_where_they_lead_unless_only_the_page_knows() -> None:
    source = (
        "<h2><a href='https://x.example/h'>様式</a></h2>"
        "<p><a href='https://x.example/f'>申請書</a>、<a href='/menu'>戻る</a>、<a href='#a'>上へ</a>、"
        "<a href='files/youshiki3.xlsx'>様式3</a>、<a href='mailto:a@x.example?subject=1'>窓口</a>、"
        "<a href='javascript:go()'>印刷</a>、<a href='https://x.example/'>https://x.example</a></p>"
    )
    assert blocks(read(source)) == [
        ("heading", "様式"),
        ("paragraph", "様式 (https://x.example/h)"),
        (
            "paragraph",
            "申請書 (https://x.example/f)、戻る、上へ、様式3 (files/youshiki3.xlsx)、窓口 (a@x.example)、印刷、"
            "https://x.example",
        ),
    ]


def test_fields_of_a_form_show_what_is_in_them() -> None:
    source = (
        "<p>氏名 <input value='堀 静'> <input type=hidden value=tok> <input type=checkbox checked>希望 "
        "<input type=radio>不要 <select><option>東<option selected>西</select> <textarea>備考なし</textarea></p>"
        "<input type=checkbox>"
    )
    assert lines(source) == ["氏名 堀 静 ☑希望 ☐不要 西 備考なし"]


def test_markdown_front_matter_is_kept_and_so_are_tables_in_html() -> None:
    source = (
        "---\ntitle: '機器一覧'\nowner: 設備課 # 2030\ntags: [空調, \"ポンプ\"]\nreview:\n  next: 2031-04-01\n  by:\n"
        "    - 大西\n    - 小西\nnote: >\n  夏期は\n  停止\n---\n"
        "# 機器\n\n<table>\n<tr><th>号機</th><th>出力</th></tr>\n\n"
        "<tr><td>P-1</td><td>~~7 kW~~<s>7 kW</s> 9 kW</td></tr>\n</table>\n\n| 室 | 台 |\n|---|--:|\n| 北 | ~~3~~ 4 |\n"
    )
    document = read(source, "a.md")
    assert document.title == "機器一覧"
    assert blocks(document)[1] == (
        "table",
        "title / タイトル: 機器一覧\nowner / 所管部署: 設備課\ntags / タグ: 空調, ポンプ\nreview / next: 2031-04-01\n"
        "review / by: 大西, 小西\nnote: 夏期は, 停止",
    )
    assert [blocks(document)[0], *blocks(document)[2:]] == [
        ("heading", "機器"),
        ("table", "号機: P-1 | 出力: ~~7 kW~~ 9 kW"),
        ("table", "室: 北 | 台: 4"),
    ]
    assert lines("---\n\n本文\n\n---\n", "a.md") == ["本文"], "a rule is not front matter"
    assert lines('+++\ntitle = "貸出"\n+++\n本文\n', "a.md") == ["title / タイトル: 貸出", "本文"]


def test_keys_of_front_matter_have_their_name_in_japanese_documents() -> None:
    source = "---\nOwner: 木下\nlast-updated: 2031-05-02\nvalid_until: 2032-03-31\nroom: B-2\n---\n本文\n"
    assert "\n".join(lines(source, "a.md")).split("\n") == [
        "Owner / 担当者: 木下",
        "last-updated / 更新日: 2031-05-02",
        "valid_until / 有効期限: 2032-03-31",
        "room: B-2",
        "本文",
    ]
    assert lines("---\nowner: Facilities\neffective_date: 2031-05-02\n---\nText\n", "a.md")[0].startswith(
        "owner: Facilities\n"
    )


def test_markdown_keeps_tasks_notes_and_line_breaks() -> None:
    source = "担当: 東\n期限: 金曜[^1]\n\n- [x] 済み\n- [ ] 未了\n\n[^1]: 祝日は前日。\n\n[t]: https://x.example\n\n詳細は[表][t]。\n"
    assert lines(source, "a.md") == [
        "担当: 東\n期限: 金曜[^1]",
        "- ☑ 済み",
        "- ☐ 未了",
        "[^1]: 祝日は前日。",
        "詳細は表 (https://x.example)。",
    ]


@pytest.mark.parametrize(
    "source",
    [
        "<div class='cookie'>" * 20_000,
        "<p><a href=" + "x" * 200_000 + ">y",
        "<style>" + "{" * 200_000 + "</style><p>z",
        "<style>" + ".a," * 150_000 + "{display:none}</style><p>z",
        "<ruby>" * 5_000 + "x",
        "<dl><dt>" * 5_000 + "x",
        "<s>" * 5_000 + "x",
        "<p style='text-decoration:" + " " * 100_000 + "'>z",
    ],
)
def test_odd_pages_are_read_in_time(source: str) -> None:
    started = time.process_time()
    extract_html(source.encode(), max_chars=1_000_000)
    assert time.process_time() - started < 10
