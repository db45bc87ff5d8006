"""How many characters of generated scans are read right: skewed, turned, noisy, Japanese and English.

    python -m benchmarks.ocr [--limit 50] [--engine rapidocr|tesseract] [--fonts FOLDER] [--json FILE]

Characters right is 1 minus the edit distance by the length, over NFKC without white space. Ends with 1 under 0.97.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import time
import unicodedata
from pathlib import Path

from core.errors import TsumugiError
from ingest.extract import extract_document
from ingest.extract.ocr import configure_ocr

FONTS = (
    "usr/share/fonts/opentype/ipafont-gothic/ipag.ttf",
    "usr/share/fonts/opentype/ipafont-mincho/ipam.ttf",
    "usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "usr/share/fonts/opentype/noto/NotoSerifCJK-Regular.ttc",
)
WANTED = 0.97
JAPANESE = (
    "空調設備の保守点検は、毎年四月と十月に実施する。", "見積金額は一式{n},800円（税別）です。",
    "担当は総務部施設管理課（内線{n}）まで。", "在庫が{n}個を下回ったときは、速やかに発注してください。",
    "振込先はみなと銀行本店営業部、普通預金{n}5678です。", "休業期間中のお問い合わせはメールで受け付けます。",
    "契約の更新を希望しない場合は、期間満了の三か月前までに書面で通知する。", "検査結果：合格　判定者：品質保証課",
    "会議室の利用時間は9:00から{h}:30までとします。", "株式会社ひなた商事　代表取締役　青木一郎",
    "ﾌｧｸｼﾐﾘでのご注文は承っておりません。", "第{h}条　甲は乙に対し、業務の遂行に必要な資料を貸与する。",
    "システムの計画停止は第二土曜日の深夜に行います。", "納期は令和7年{m}月{h}日、数量は{n}台です。",
)  # fmt: skip
ENGLISH = (
    "The order of {n} units will be delivered by 1{m} June 2025.",
    "Please return the signed copy to the Reading office.",
    "Unit price: GBP {n}.50 excluding VAT", "Meetings start at 9:{h} and end before lunch.",
    "Calibration certificates are valid for 12 months.", "Contact the service desk on extension {n}.",
    "Operating temperature: -10 to 50 degrees", "Invoice no. INV-2025-{n}",
)  # fmt: skip


def lines_of(seed: int, japanese: bool) -> list[str]:
    """Twelve lines of a page."""
    chance = random.Random(seed)
    return [
        chance.choice(JAPANESE if japanese else ENGLISH).format(
            n=chance.randrange(100, 999), h=chance.randrange(10, 29), m=chance.randrange(1, 9)
        )
        for _ in range(12)
    ]


def scan(seed: int, lines: list[str], font: str) -> tuple[bytes, int]:
    """A page at 200 dpi as a PNG, and its turn in degrees; every second one is askew by 1 to 2 degrees."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    chance = random.Random(seed)
    page = Image.new("L", (1654, 2339), 255)
    draw = ImageDraw.Draw(page)
    size = chance.choice((26, 29, 33, 40))
    for number, line in enumerate(lines):
        draw.text(
            (160, 200 + 2.2 * size * number), line, font=ImageFont.truetype(font, size), fill=chance.randrange(60)
        )
    askew = chance.choice((-1, 1)) * chance.uniform(1, 2) if seed % 2 else 0.0
    page = page.rotate(askew, fillcolor=255, resample=Image.Resampling.BICUBIC)
    turn = (0, 0, 90, 180, 270)[seed % 5]
    page = page.rotate(turn, expand=True, fillcolor=255)
    page = page.filter(ImageFilter.GaussianBlur(chance.uniform(0.3, 0.9)))
    pixels = page.load()
    assert pixels is not None
    for _ in range(4_000):
        x, y = chance.randrange(page.width), chance.randrange(page.height)
        pixels[x, y] = chance.randrange(256)
    target = io.BytesIO()
    page.save(target, "PNG", dpi=(200, 200))
    return target.getvalue(), turn


def characters_right(read: str, wanted: str) -> float:
    """1 minus edit distance by length, 0 at the least."""
    a, b = (unicodedata.normalize("NFKC", "".join(text.split())) for text in (read, wanted))
    row = list(range(len(b) + 1))
    for i, char in enumerate(a, start=1):
        above, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (char != other))
    return max(0.0, 1 - row[-1] / max(1, len(b)))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=50, help="so many scans")
    parser.add_argument("--engine", choices=("rapidocr", "tesseract"), default="rapidocr")
    parser.add_argument("--fonts", type=Path, help="a folder that holds the Debian packages' fonts unpacked")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    root = arguments.fonts or Path("/")
    fonts = [str(root / font) for font in FONTS if (root / font).exists()]
    if not fonts:
        print("no Japanese font is installed: apt-get install fonts-ipafont", file=sys.stderr)
        return 2
    configure_ocr(600.0, arguments.engine)
    results = []
    for seed in range(arguments.limit):
        japanese = seed % 3 != 2
        font = fonts[seed % len(fonts)]
        wanted = lines_of(seed, japanese)
        data, turn = scan(seed, wanted, font)
        started = time.process_time()
        try:
            read = extract_document(data, "scan.png", max_chars=1_000_000).text
        except TsumugiError as error:
            read = ""
            print(f"{seed}: {error.code}")
        right = characters_right(read, "".join(wanted))
        results.append(
            {"seed": seed, "japanese": japanese, "turn": turn, "right": right, "cpu_s": time.process_time() - started}
        )
        print(
            f"{seed:3} {'ja' if japanese else 'en'} {turn:3} {right:.4f} {results[-1]['cpu_s']:.1f} s",
            flush=True,
        )
    shares = {
        name: sum(item["right"] for item in part) / len(part)
        for name, part in (
            ("all", results),
            ("japanese", [item for item in results if item["japanese"]]),
            ("english", [item for item in results if not item["japanese"]]),
            ("turned", [item for item in results if item["turn"]]),
        )
        if part
    }
    cpu = sum(item["cpu_s"] for item in results) / max(1, len(results))
    print({name: round(share, 4) for name, share in shares.items()}, f"{cpu:.2f} s of CPU a page")
    if arguments.json:
        arguments.json.write_text(json.dumps({"shares": shares, "cpu_s": cpu, "results": results}, indent=1))
    return 0 if shares["all"] >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
