"""Scanned pages and old Office files, read inside the sandbox by the real engines where they are installed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pptx
import pytest
from PIL import Image

from core.errors import ExtractionFailed
from core.settings import IngestSettings
from ingest.extract.ocr_tesseract import installed_languages
from ingest.sandbox import Sandbox
from tests.scans import (
    ENGLISH,
    JAPANESE,
    converted,
    joined_pdf,
    need_converter,
    need_ocr,
    picture,
    scanned_pdf,
)
from tests.unit.test_extract import pdf

DOCUMENTS = Path(__file__).parents[2] / "examples" / "documents"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    made = Sandbox(IngestSettings(), tmp_path_factory.mktemp("extract"))
    yield made
    made.close()


def test_a_scanned_english_page_is_read(sandbox: Sandbox) -> None:
    need_ocr("eng")
    document = sandbox.extract(scanned_pdf([picture(ENGLISH)]), "scan.pdf")
    assert "daily allowance of 2,300 yen" in " ".join(document.text.split())
    assert document.quality["pages_by_ocr"] == [1]
    assert document.quality["pages_not_read"] == []
    assert document.quality["ocr_confidence"] > 0.8
    assert 0.8 < document.quality["score"] < 1.0, "OCR is never as sure as a text layer"


def test_a_scanned_japanese_page_is_read_without_spaces_between_letters(sandbox: Sandbox) -> None:
    need_ocr("jpn", "eng")
    document = sandbox.extract(scanned_pdf([picture(JAPANESE, japanese=True)]), "規程.pdf")
    assert "日当は一日につき二千三百円" in document.text


def test_a_page_on_its_head_is_turned_before_it_is_read(sandbox: Sandbox) -> None:
    need_ocr("eng")
    page = picture((*ENGLISH, *ENGLISH, *ENGLISH)).rotate(180, fillcolor=255)
    target = io.BytesIO()
    page.save(target, "PNG")
    assert "daily allowance" in " ".join(sandbox.extract(target.getvalue(), "photo.png").text.split())


@pytest.mark.parametrize("turn", [90, 270])
def test_a_page_on_its_side_is_turned_before_it_is_read(sandbox: Sandbox, turn: int) -> None:
    need_ocr("jpn", "eng")
    page = picture((*JAPANESE, *JAPANESE), japanese=True).rotate(turn, expand=True, fillcolor=255)
    document = sandbox.extract(scanned_pdf([page]), "横.pdf")
    assert "日当は一日につき二千三百円" in document.text
    first = next(place for place in document.places if "日当" in place.text)
    # the second line from the top: near the left edge after a quarter turn to the left, near the right one otherwise
    assert (first.x0 < 0.5) == (turn == 90)
    assert first.y1 - first.y0 > first.x1 - first.x0


def test_labels_and_values_of_a_scanned_form_stand_on_one_line(sandbox: Sandbox) -> None:
    need_ocr("jpn", "eng")
    page = picture(("納品書",), japanese=True)
    pairs = (("伝票番号", "DN-5521"), ("納品場所", "第二倉庫"), ("納品日", "令和7年5月9日"), ("数量", "48箱"))
    for at, (label, value) in enumerate(pairs):
        for x, text in ((180, label), (620, value)):
            part = picture((text,), japanese=True).crop((180, 210, 900, 280))
            page.paste(part, (x, 500 + 110 * at))
    lines = sandbox.extract(scanned_pdf([page.rotate(1.2, fillcolor=255)]), "納品書.pdf").text.split("\n")
    assert "納品場所: 第二倉庫" in lines
    assert "納品日: 令和7年5月9日" in lines


def test_vertical_lines_are_read_from_right_to_left(sandbox: Sandbox) -> None:
    need_ocr("jpn", "eng")
    if "jpn_vert" not in installed_languages():
        pytest.skip("VERTICAL JAPANESE IS NOT TESTED HERE: apt-get install tesseract-ocr-jpn-vert")
    # The upright page turned by a quarter is no vertical writing: letters have to stand, line by line downwards.
    letters = [list(line) for line in (*JAPANESE, *JAPANESE)]
    page = Image.new("L", (1654, 2339), 255)
    for column, line in enumerate(letters):
        cell = picture(line, japanese=True, size=44).crop((180, 220, 240, 220 + 88 * len(line)))
        squeezed = Image.new("L", (60, 50 * len(line)), 255)
        for row in range(len(line)):
            squeezed.paste(cell.crop((0, 88 * row, 60, 88 * row + 50)), (0, 50 * row))
        page.paste(squeezed, (1300 - 110 * column, 220))
    document = sandbox.extract(scanned_pdf([page]), "縦.pdf")
    assert "宿泊費" in document.text
    assert document.text.index("出張旅費") < document.text.index("宿泊費")


def test_a_mixed_pdf_reads_both_kinds_of_page_and_leaves_blank_ones_alone(sandbox: Sandbox) -> None:
    need_ocr("eng")
    typed = pdf([[(72, 700, 12, "The notice period is three months, counted from the end of the month.")]])
    data = joined_pdf([typed, scanned_pdf([picture(ENGLISH)]), pdf([[]])])
    document = sandbox.extract(data, "mixed.pdf")
    assert document.page_count == 3
    assert document.quality["pages_by_ocr"] == [2]
    assert document.quality["pages_without_text"] == [3]
    assert document.quality["pages_not_read"] == []
    assert {block.page for block in document.blocks} == {1, 2}


def test_pages_beyond_the_time_for_ocr_are_reported(tmp_path: Path) -> None:
    need_ocr("eng")
    box = Sandbox(IngestSettings(ocr_s=0.001), tmp_path)
    try:
        document = box.extract(scanned_pdf([picture(ENGLISH), picture(ENGLISH)]), "long.pdf")
    finally:
        box.close()
    assert document.quality["pages_by_ocr"] == [1]
    assert document.quality["pages_not_read"] == [2]
    assert document.quality["score"] < 0.6


def test_a_picture_without_letters_is_not_read_as_noise(sandbox: Sandbox) -> None:
    need_ocr("eng")
    noise = Image.effect_noise((300, 400), 120)
    with pytest.raises(ExtractionFailed) as caught:
        sandbox.extract(scanned_pdf([noise]), "noise.pdf")
    assert (caught.value.code, caught.value.retryable) == ("no_text_layer", False)


@pytest.fixture(scope="module")
def old_handbook(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    need_converter()
    old = converted(DOCUMENTS / "handbook-ja.docx", "doc", tmp_path_factory.mktemp("doc"))
    assert old.startswith(b"\xd0\xcf\x11\xe0")
    return old


def test_an_old_word_file_is_read_and_nothing_is_left_behind(sandbox: Sandbox, old_handbook: bytes) -> None:
    before = strays()
    document = sandbox.extract(old_handbook, "旧規程.doc")
    assert "休暇" in document.text
    assert any(block.kind.value == "heading" for block in document.blocks)
    with pytest.raises(ExtractionFailed):
        sandbox.extract(old_handbook[:1024] + b"\0" * 512 + "WordDocument".encode("utf-16-le"), "b.doc")
    assert strays() == before
    assert list(sandbox._work_dir.iterdir()) == []


def strays() -> set[Path]:
    """What LibreOffice leaves in /tmp where it can."""
    return set(Path("/tmp").glob("OSL_PIPE*")) | set(Path("/tmp").glob("lu*.tmp"))


def test_an_old_presentation_is_read(sandbox: Sandbox, tmp_path: Path) -> None:
    need_converter()
    made = pptx.Presentation()
    slide = made.slides.add_slide(made.slide_layouts[1])
    slide.shapes.title.text = "価格改定"
    slide.placeholders[1].text = "四月から一割上げる。"
    made.save(str(tmp_path / "deck.pptx"))
    document = sandbox.extract(converted(tmp_path / "deck.pptx", "ppt", tmp_path), "deck.ppt")
    assert "価格改定" in document.text and "四月から" in document.text


def test_an_old_workbook_is_read_without_the_converter(sandbox: Sandbox, tmp_path: Path) -> None:
    need_converter()  # it only makes the file
    (tmp_path / "prices.csv").write_text("name,price\ngreen tea,120\n", encoding="utf-8")
    old = converted(tmp_path / "prices.csv", "xls", tmp_path)
    assert old.startswith(b"\xd0\xcf\x11\xe0")
    assert "name: green tea | price: 120" in sandbox.extract(old, "prices.xls").text


def test_an_old_word_file_in_a_mail_is_read(sandbox: Sandbox, old_handbook: bytes) -> None:
    message = EmailMessage()
    message["Subject"] = "規程"
    message["From"] = "a@example.com"
    message.set_content("see attachment")
    message.add_attachment(old_handbook, maintype="application", subtype="msword", filename="handbook.doc")
    assert "休暇" in sandbox.extract(bytes(message), "mail.eml").text
