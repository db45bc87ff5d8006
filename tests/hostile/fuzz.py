"""Mutated documents of every format through the real sandbox. `python -m tests.hostile.fuzz --minutes 5` runs longer.

Every mutant has a number that makes it again: `--only FORMAT:NUMBER --keep FILE` writes it down.
"""

from __future__ import annotations

import argparse
import gzip
import io
import random
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import docx
from PIL import Image
from pptx import Presentation

from core.errors import TsumugiError
from core.settings import IngestSettings
from ingest.sandbox import Sandbox
from tests.unit.test_archives import tarred
from tests.unit.test_extract import pdf
from tests.unit.test_formats import mail, workbook, zipped

DOCUMENTS = Path(__file__).parents[2] / "examples" / "documents"
UNEXPECTED = frozenset({"extraction_crashed", "extraction_timeout", "extraction_out_of_memory"})
"""Codes, but of the last resort: the reader should have said what is wrong, in its time and its memory."""
_NUMBERS = (
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x80\x00\x00\x00",
    b"-1",
    b"999999999999",
)
_MARKUP = (
    b"<", b">", b"</w:p>", b"<w:tbl>", b'"', b"&#0;", b"&x;", b"<!DOCTYPE a>", b"<![CDATA[", b"]]>", b"\x00", b"(((",
    b">>", b"<<", b"endobj", b"stream\n", b"{\\rtf1", b"\\'ff", b"\r\n\r\n", b"--", b"=?utf-8?b?/?=", b"\xef\xbb\xbf",
    b"\x1b$B", b"|---|\n", b"```\n", b"/Kids [1 0 R]", b"/Length 99999999", b"/Prev 0", b'colspan="100000"', b"../../",
    b"\xe3\x81",
)  # fmt: skip


def opendocument() -> bytes:
    name = "urn:oasis:names:tc:opendocument:xmlns"
    return zipped(
        {
            "mimetype": "application/vnd.oasis.opendocument.text",
            "content.xml": (
                f'<office:document-content xmlns:office="{name}:office:1.0" xmlns:text="{name}:text:1.0"'
                f' xmlns:table="{name}:table:1.0"><office:body><office:text>'
                '<text:h text:outline-level="1">規程</text:h>'
                "<text:p>日当は<text:s text:c='3'/>三千円。</text:p><table:table><table:table-row>"
                "<table:table-cell table:number-columns-repeated='2'><text:p>a</text:p></table:table-cell>"
                "</table:table-row></table:table></office:text></office:body></office:document-content>"
            ),
        }
    )


def book() -> bytes:
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": (
                '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
                '<rootfile full-path="p.opf"/></rootfiles></container>'
            ),
            "p.opf": (
                '<package xmlns="http://www.idpf.org/2007/opf"><metadata/><manifest><item id="a" href="a.xhtml"/>'
                '</manifest><spine><itemref idref="a"/></spine></package>'
            ),
            "a.xhtml": "<html><body><h1>一</h1><p>はじめに。</p><ul><li>項目</li></ul></body></html>",
        }
    )


def slides() -> bytes:
    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text, slide.placeholders[1].text = "価格改定", "四月から一割上げる。"
    target = io.BytesIO()
    deck.save(target)
    return target.getvalue()


def word() -> bytes:
    document = docx.Document()
    document.add_heading("就業規則", 1)
    document.add_paragraph("年次有給休暇は十二日である。")
    document.add_table(rows=2, cols=2).cell(0, 0).text = "左"
    target = io.BytesIO()
    document.save(target)
    return target.getvalue()


def picture(kind: str) -> bytes:
    target = io.BytesIO()
    Image.new("L", (24, 16), 255).save(target, kind)
    return target.getvalue()


SEEDS: dict[str, Callable[[], bytes]] = {
    "a.txt": (DOCUMENTS / "office-guide.txt").read_bytes,
    "sjis.txt": (DOCUMENTS / "facilities-ja.txt").read_bytes,
    "a.md": (DOCUMENTS / "faq-ja.md").read_bytes,
    "a.html": (DOCUMENTS / "price-list-ja.html").read_bytes,
    "a.csv": lambda: "品名,単価\n緑茶,120\n\"紅茶, 缶\",\"1,200\"\n".encode("cp932"),
    "a.eml": lambda: mail(規程_txt="添付の本文。".encode(), 表_xlsx=workbook([["a", 1]])),
    "a.rtf": lambda: (
        rb"{\rtf1\ansi\ansicpg932{\fonttbl{\f0\fcharset128 MS Mincho;}}\f0 "
        rb"\'8f\'6f\'92\'a3\par \u12354?\u12356? ok\par}"
    ),
    "a.pdf": lambda: pdf([[(72, 700, 18, "Rules"), (72, 660, 12, "Leave is twelve days.")], [(72, 700, 12, "b")]]),
    "ja.pdf": (DOCUMENTS / "incident-2025-07-ja.pdf").read_bytes,
    "a.docx": word,
    "a.pptx": slides,
    "a.xlsx": lambda: workbook([["品名", "単価"], ["緑茶", 120], ["紅茶", 1.5]]),
    "a.odt": opendocument,
    "a.epub": book,
    "a.zip": lambda: zipped({"a.txt": "一つ目。", "b/c.md": "# 二つ目"}),
    "a.tar": lambda: tarred({"a.txt": "一つ目。".encode(), "b/c.md": b"# two"}, mode="w"),
    "a.tar.gz": lambda: tarred({"a.txt": "一つ目。".encode(), "b/c.md": b"# two"}),
    "a.png": lambda: picture("PNG"),
    "a.tiff": lambda: picture("TIFF"),
    "a.jpg": lambda: picture("JPEG"),
}  # fmt: skip


def mutant(seed: bytes, name: str, number: int) -> bytes:
    """The mutant of a number: the same for the same seed and number."""
    dice = random.Random(f"{name}:{number}")
    if seed.startswith(b"PK") and dice.random() < 0.7:
        return _inside_zip(seed, dice)
    if seed.startswith(b"\x1f\x8b") and dice.random() < 0.7:
        return gzip.compress(_bytes(gzip.decompress(seed), dice))
    return _bytes(seed, dice)


def _inside_zip(seed: bytes, dice: random.Random) -> bytes:
    """One or two members are mutated and packed again, so that readers get behind the checksums."""
    with zipfile.ZipFile(io.BytesIO(seed)) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    names = list(members)
    for name in dice.sample(names, min(len(names), dice.choice((1, 1, 2)))):
        what = dice.random()
        if what < 0.08:
            del members[name]
        elif what < 0.12:
            members[name] = members[dice.choice(list(members))]
        else:
            members[name] = _bytes(members[name], dice)
    return zipped(dict(members))


def _bytes(data: bytes, dice: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4, 12))):
        at = dice.randrange(len(made) + 1)
        size = dice.choice((1, 2, 4, 16, 200))
        match dice.randrange(8):
            case 0:
                made[at : at + size] = dice.randbytes(size)
            case 1:
                del made[at : at + size]
            case 2:
                made[at:at] = made[at : at + size] * dice.choice((1, 2, 50))
            case 3:
                made[at : at + 4] = dice.choice(_NUMBERS)
            case 4:
                made[at:at] = dice.choice(_MARKUP) * dice.choice((1, 1, 3, 500))
            case 5:
                del made[at:]
            case 6:
                other = dice.randrange(len(made) + 1)
                made[at : at + size] = made[other : other + size]
            case _:
                if at < len(made):
                    made[at] ^= 1 << dice.randrange(8)
    return bytes(made)


def outcome(sandbox: Sandbox, data: bytes, filename: str) -> str:
    """`ok`, or the code with which it ended."""
    try:
        sandbox.extract(data, filename)
    except TsumugiError as error:
        return error.code
    return "ok"


def main() -> None:
    """Fuzz until the time is up, and print what came out; exit 1 for codes of the last resort."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--first", type=int, default=1_000, help="number of the first mutant of each format")
    parser.add_argument("--only", help="FORMAT:NUMBER")
    parser.add_argument("--keep", type=Path, help="where to write the mutant of --only")
    given = parser.parse_args()
    seeds = {name: make() for name, make in SEEDS.items()}
    if given.only:
        name, number = given.only.rsplit(":", 1)
        given.keep.write_bytes(mutant(seeds[name], name, int(number)))
        return
    limits = IngestSettings(extract_timeout_s=20, extract_cpu_s=10, extract_memory_bytes=2**30)
    found: Counter[tuple[str, str]] = Counter()
    lost: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        box = Sandbox(limits, Path(folder))
        ends, number = time.monotonic() + given.minutes * 60, given.first
        while time.monotonic() < ends:
            for name, seed in seeds.items():
                code = outcome(box, mutant(seed, name, number), name)
                found[name, code] += 1
                if code in UNEXPECTED:
                    lost.append(f"{name}:{number} {code}")
            number += 1
        box.close()
    for (name, code), count in sorted(found.items()):
        print(f"{name:10} {code:28} {count}")
    print(f"{sum(found.values())} mutants, {len(lost)} ended with a code of the last resort", *lost, sep="\n  ")
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
