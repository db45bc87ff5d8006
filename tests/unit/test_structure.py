"""Headings that words make in any format, and lines of plain text that say one thing each."""

from __future__ import annotations

import io
import time

import docx
import pytest
from pptx import Presentation
from pptx.util import Emu

from core.types import Block, BlockKind, ExtractedDocument
from ingest.extract import extract_document
from ingest.extract.structure import with_structure
from ingest.extract.text import text_blocks


def read(data: bytes | str, filename: str = "a.txt") -> ExtractedDocument:
    raw = data.encode() if isinstance(data, str) else data
    return extract_document(raw, filename, max_chars=1_000_000)


def blocks(document: ExtractedDocument) -> list[tuple[str, str]]:
    return [(block.kind.value, document.text[block.start : block.end]) for block in document.blocks]


def headings(source: str) -> list[str]:
    return [" ".join(text.split()) for kind, text in blocks(read(source)) if kind == "heading"]


def test_articles_stand_above_their_paragraphs_with_their_captions() -> None:
    source = (
        "貸与規程\n\n第一章　総則\n　（目的）\n第一条　この規程は貸与を定める。\n２　貸与は無償とする。\n　（返却）\n"
        "第二条の二　七日以内に返す。\n　一　本体\n　二　充電器\n　　　附　則\nこの規程は即日施行する。\n"
    )
    assert blocks(read(source)) == [
        ("heading", "貸与規程"),
        ("heading", "第一章　総則"),
        ("heading", "（目的）\n第一条"),
        ("paragraph", "この規程は貸与を定める。"),
        ("list_item", "２　貸与は無償とする。"),
        ("heading", "（返却）\n第二条の二"),
        ("paragraph", "七日以内に返す。"),
        ("list_item", "一　本体"),
        ("list_item", "二　充電器"),
        ("heading", "附　則"),
        ("paragraph", "この規程は即日施行する。"),
    ]
    levels = [block.level for block in read(source).blocks if block.kind is BlockKind.HEADING]
    assert levels == [1, 3, 5, 5, 3]


def test_mentions_of_articles_are_no_headings() -> None:
    assert headings("件名\n\n第３条　について伺います。\n返事を待つ。\n") == ["件名"]
    assert headings("件名\n\n第1条の規定により、\n第2条第3項を準用し、\n第5条を除く。\n") == ["件名"]
    assert headings("目次\n\n第1章 総則 ………… 1\n第2章 雑則 ………… 9\n") == ["目次"]


def test_numbered_sections_are_headings_and_numbered_items_are_not() -> None:
    minutes = "会議\n\n１．実績\n　四月は九百台。\n２．その他\n　次回は九日。\n"
    assert headings(minutes) == ["会議", "１．実績", "２．その他"]
    assert headings("手順\n\n1. 電源を切る\n2. 蓋を外す\n3. 弁を閉じる\n") == ["手順"]
    assert headings("会議\n\n３．実績\n　四月は九百台。\n９．その他\n　次回は九日。\n") == ["会議"]


@pytest.mark.parametrize(
    ("question", "answer"), [("Q1. 鍵は", "A1. 守衛室。"), ("Ｑ：鍵は", "Ａ：守衛室。"), ("問3　鍵は", "答3　守衛室。")]
)
def test_a_question_is_the_heading_of_its_answer(question: str, answer: str) -> None:
    document = docx.Document()
    document.add_paragraph(question)
    document.add_paragraph(answer)
    target = io.BytesIO()
    document.save(target)
    expected = [("heading", question), ("paragraph", answer)]
    assert blocks(read(target.getvalue(), "a.docx")) == expected
    assert [text for _, text in blocks(read(f"{question}\n{answer}\n"))] == [question, answer]


def test_what_names_a_table_is_its_heading() -> None:
    source = "| 品 | 円 |\n|---|---|\n| 茶 | 90 |\n"
    found = blocks(read(f"# 価格\n\n表2　飲料\n\n（単位：円）\n\n{source}\n次の表のとおり。\n\n{source}", "a.md"))
    assert [text for kind, text in found if kind == "heading"] == ["価格", "表2　飲料"]


def test_lines_that_say_one_thing_are_items() -> None:
    source = (
        "日直\n\n9:05　来客\u3000三名\n10:40　点検\u3000異常なし\n\n担当：南\n内線：31\n\n"
        "品名\u3000\u3000数\n弁\u3000\u3000\u3000\u30004\n\n"
        "記録では弁が\n12. 交換されたとある。\n"
    )
    assert blocks(read(source)) == [
        ("heading", "日直"),
        ("list_item", "9:05　来客\u3000三名"),
        ("list_item", "10:40　点検\u3000異常なし"),
        ("list_item", "担当：南"),
        ("list_item", "内線：31"),
        ("list_item", "品名\u3000\u3000数"),
        ("list_item", "弁\u3000\u3000\u3000\u30004"),
        ("paragraph", "記録では弁が\n12. 交換されたとある。"),
    ]


def test_a_sentence_broken_in_an_indented_line_goes_on() -> None:
    source = "報告\n\n　原因は配管の\n　詰まりである。\n　対策\n　清掃する。\n"
    assert [text for _, text in blocks(read(source))][1:] == ["原因は配管の\n　詰まりである。", "対策", "清掃する。"]


def test_lines_of_a_log_stay_together_to_be_cut_between_them() -> None:
    log = "\n".join(f"2031-02-03T04:05:{n:02} INFO ready\n  detail {n}" for n in range(9))
    assert blocks(read(log)) == [("code", log)]


def test_blocks_cut_anew_cover_what_they_covered() -> None:
    text = "（目的）\n\n第1条　甲\n\n第2条　（定義）乙は丙。\n\n1. あ\nい\n2. う\nえ"
    parts = text.split("\n\n")
    starts = [text.index(part) for part in parts]
    given = tuple(Block(BlockKind.PARAGRAPH, at, at + len(part)) for at, part in zip(starts, parts, strict=True))
    document = ExtractedDocument(text, given, "text/plain")
    cut = with_structure(document)
    assert cut.text == text and len(cut.blocks) > len(given)
    assert all(a.end <= b.start for a, b in zip(cut.blocks, cut.blocks[1:], strict=False))
    covered = "".join(text[block.start : block.end] for block in cut.blocks)
    assert "".join(covered.split()) == "".join(text.split())


@pytest.mark.parametrize(
    "unit", ["第", "（", "1. ", "Q1. \n", "\u3000", "第1条\n", "・\n", "a：b\n", "1  2\n", "12:00 "]
)
def test_odd_texts_are_read_in_time(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    started = time.process_time()
    document = ExtractedDocument(text, tuple(text_blocks(text)), "text/plain")
    with_structure(document)
    assert time.process_time() - started < 10


def test_slides_number_their_lists_and_say_where_links_lead() -> None:
    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "計画"
    frame = slide.placeholders[1].text_frame
    frame.text = "着工"
    frame.add_paragraph().text = "検収"
    for paragraph in frame.paragraphs:
        numbers = paragraph._p.get_or_add_pPr().makeelement(
            "{http://schemas.openxmlformats.org/drawingml/2006/main}buAutoNum",
            {"type": "circleNumDbPlain", "startAt": "4"},
        )
        paragraph._p.get_or_add_pPr().append(numbers)
    box = slide.shapes.add_textbox(Emu(0), Emu(9_000_000), Emu(900_000), Emu(900_000)).text_frame.paragraphs[0]
    run = box.add_run()
    run.text, run.hyperlink.address = "資料", "https://x.example/d"
    struck = box.add_run()
    struck.text = "（旧版）"
    struck._r.get_or_add_rPr().set("strike", "sngStrike")
    hidden = deck.slides.add_slide(deck.slide_layouts[5])
    hidden.shapes.title.text = "予備"
    hidden._element.set("show", "0")
    table = hidden.shapes.add_table(3, 2, Emu(0), Emu(3_000_000), Emu(3_000_000), Emu(1_000_000)).table
    for index, text in enumerate(("部", "人", "製造", "4", "", "5")):
        table.cell(index // 2, index % 2).text = text
    table.cell(1, 0).merge(table.cell(2, 0))
    target = io.BytesIO()
    deck.save(target)
    document = read(target.getvalue(), "a.pptx")
    assert blocks(document) == [
        ("heading", "計画"),
        ("list_item", "④ 着工"),
        ("list_item", "⑤ 検収"),
        ("paragraph", "資料 (https://x.example/d)"),
        ("heading", "予備（非表示スライド）"),
        ("table", "部: 製造 | 人: 4\n部: 製造 | 人: 5"),
    ]
    assert (document.quality["hidden_slides"], document.quality["struck_left_out"]) == (1, 4)
