"""Scanned pages, made on the spot: text drawn as a picture, and pictures as pages of a PDF."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pypdfium2
import pytest
from PIL import Image, ImageDraw, ImageFont

FONTS = (
    "/usr/share/fonts/opentype/ipafont-gothic/ipag.ttf",
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/fonts-japanese-gothic.ttf",
)
ENGLISH = ("Travel expenses", "Employees receive a daily allowance of 2,300 yen", "for every day away from the office.")
JAPANESE = ("出張旅費規程", "日当は一日につき二千三百円とする。", "宿泊費の上限は一泊九千円である。")


def need_ocr(*languages: str) -> None:
    """Skip, naming what to install, where no engine reads these languages (Tesseract's names)."""
    from ingest.extract.ocr import ocr_engine
    from ingest.extract.ocr_tesseract import tesseract_languages

    there = {"jpn", "eng"} if ocr_engine() == "rapidocr" else set((tesseract_languages() or "").split("+"))
    if not set(languages) <= there:
        pytest.skip("OCR IS NOT TESTED HERE: pip install 'tsumugi[ocr]'")


def need_converter() -> None:
    """Skip, naming what to install, where LibreOffice is missing."""
    if shutil.which("soffice") is None:
        pytest.skip(
            "CONVERSION OF DOC AND PPT IS NOT TESTED HERE: apt-get install --no-install-recommends libreoffice-writer"
            " libreoffice-impress libreoffice-calc"
        )


def picture(lines: Sequence[str], *, size: int = 44, japanese: bool = False) -> Image.Image:
    """An A4 page at 200 dpi with lines of text."""
    page = Image.new("L", (1654, 2339), 255)
    font = ImageFont.load_default(size)
    if japanese:
        path = next((path for path in FONTS if Path(path).exists()), None)
        if path is None:
            pytest.skip("OCR OF JAPANESE IS NOT TESTED HERE: apt-get install fonts-ipafont-gothic")
        font = ImageFont.truetype(path, size)
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        draw.text((180, 220 + 2 * size * number), line, font=font, fill=0)
    return page


def scanned_pdf(pages: Sequence[Image.Image]) -> bytes:
    """A PDF of pictures, without a text layer."""
    target = io.BytesIO()
    pages[0].save(target, "PDF", resolution=200, save_all=True, append_images=list(pages[1:]))
    return target.getvalue()


def joined_pdf(parts: Sequence[bytes]) -> bytes:
    """The pages of several PDFs in one."""
    whole = pypdfium2.PdfDocument.new()
    for part in parts:
        whole.import_pages(pypdfium2.PdfDocument(part))
    target = io.BytesIO()
    whole.save(target)
    return target.getvalue()


def converted(source: Path, target: str, folder: Path) -> bytes:
    """A file in another format, by LibreOffice."""
    subprocess.run(
        [
            "soffice", f"-env:UserInstallation=file://{folder}/profile", "--headless", "--convert-to", target,
            "--outdir", str(folder), str(source),
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return (folder / f"{source.stem}.{target}").read_bytes()
