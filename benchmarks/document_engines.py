"""Extraction libraries side by side on the same files: why the extractors use the ones they use (docs/adr/0012).

Run by `python -m benchmarks.documents --data DIR --engines`. Libraries that the project does not depend on (pypdf,
openpyxl) are measured where they are installed. All run in this process, without the sandbox: times are their own.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import TsumugiError
from ingest.encoding import decode_text
from ingest.extract import extract_document
from ingest.extract.container import open_container
from ingest.quality import garbled_share

MAX_CHARS = 50_000_000
PDF_PAGES = 40
OURS = "this service"
_CODECS = {"SHIFT_JIS": "cp932", "GB2312": "gb18030", "EUC-KR": "cp949"}
"""What is called so in practice."""
_SPACES = re.compile(r"\s+")


@dataclass(slots=True)
class Tally:
    """What one engine made of some files."""

    seconds: float = 0.0
    failed: int = 0
    texts: dict[str, str] = field(default_factory=dict)


def measure(engines: dict[str, Callable[[bytes], str]], files: Sequence[Path]) -> dict[str, Tally]:
    """Every engine over every file; a file that an engine raises on counts as failed."""
    tallies = {name: Tally() for name in engines}
    for path in files:
        data = path.read_bytes()
        for name, engine in engines.items():
            started = time.perf_counter()
            try:
                tallies[name].texts[str(path)] = engine(data)
            except Exception:  # noqa: BLE001 - libraries raise what they like; that is what is counted
                tallies[name].failed += 1
            tallies[name].seconds += time.perf_counter() - started
    return tallies


def pairs(text: str) -> set[str]:
    """Unordered neighbouring characters without white space: the engines disagree on order, and on spaces."""
    dense = _SPACES.sub("", text)
    return {"".join(sorted(dense[at : at + 2])) for at in range(len(dense) - 1)}


def pdf_engines() -> dict[str, Callable[[bytes], str]]:
    """PDF: two engines with a check, and each alone."""

    def pdfium(data: bytes) -> str:
        import pypdfium2

        document = pypdfium2.PdfDocument(data)
        return "\n".join(document[at].get_textpage().get_text_range() for at in range(min(PDF_PAGES, len(document))))

    def pdfminer(data: bytes) -> str:
        from pdfminer.high_level import extract_text

        return str(extract_text(io.BytesIO(data), maxpages=PDF_PAGES))

    def pypdf(data: bytes) -> str:
        from pypdf import PdfReader

        return "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(data)).pages[:PDF_PAGES])

    engines: dict[str, Callable[[bytes], str]] = {
        OURS: ours("a.pdf", PDF_PAGES),
        "pypdfium2": pdfium,
        "pdfminer.six": pdfminer,
    }
    return engines | ({"pypdf": pypdf} if importlib.util.find_spec("pypdf") else {})


def word_engines() -> dict[str, Callable[[bytes], str]]:
    """DOCX: straight from its XML, and by python-docx."""

    def python_docx(data: bytes) -> str:
        import docx

        document = docx.Document(io.BytesIO(data))
        cells = [cell.text for table in document.tables for row in table.rows for cell in row.cells]
        return "\n".join([paragraph.text for paragraph in document.paragraphs] + cells)

    return {OURS: ours("a.docx"), "python-docx": python_docx}


def workbook_engines() -> dict[str, Callable[[bytes], str]]:
    """XLSX: calamine, and openpyxl."""

    def openpyxl(data: bytes) -> str:
        from openpyxl import load_workbook

        book = load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        rows = (row for sheet in book.worksheets for row in sheet.iter_rows(values_only=True))
        return "\n".join(" ".join(str(cell) for cell in row if cell is not None) for row in rows)

    engines: dict[str, Callable[[bytes], str]] = {OURS: ours("a.xlsx")}
    return engines | ({"openpyxl": openpyxl} if importlib.util.find_spec("openpyxl") else {})


def ours(name: str, pages: int | None = None) -> Callable[[bytes], str]:
    """The extractor for a file name, without pages beyond the first so many."""

    def read(data: bytes) -> str:
        document = extract_document(data, name, max_chars=MAX_CHARS)
        if pages is None:
            return document.text
        return "\n".join(document.text[b.start : b.end] for b in document.blocks if (b.page or 1) <= pages)

    return read


def decoders() -> dict[str, Callable[[bytes], str]]:
    """Legacy encodings: evidence first, then chardet; each of two judges alone."""

    def chardet(data: bytes) -> str:
        import chardet as judge

        return data.decode(str(judge.detect(data)["encoding"]))

    def charset_normalizer(data: bytes) -> str:
        from charset_normalizer import from_bytes

        return str(from_bytes(data).best())

    return {OURS: lambda data: decode_text(data).text, "chardet": chardet, "charset-normalizer": charset_normalizer}


def print_extraction(what: str, tallies: dict[str, Tally]) -> None:
    """Seconds, files, characters, kana, noise, and the share of what at least two other readers agree on."""
    print(f"\n{what}")
    print(f"  {'engine':20} {'s':>7} {'failed':>6} {'visible':>9} {'kana':>7} {'noise':>6} {'agreed':>7} {'< 0.9':>6}")
    names = [name for name in tallies if name != OURS] if len(tallies) > 2 else list(tallies)
    agreed: dict[str, set[str]] = {}
    for path in {path for tally in tallies.values() for path in tally.texts}:
        seen = Counter(pair for name in names for pair in pairs(tallies[name].texts.get(path, "")))
        agreed[path] = {pair for pair, count in seen.items() if count >= 2}
    for name, tally in tallies.items():
        text = "".join(tally.texts.values())
        shares = [
            len(pairs(tally.texts.get(path, "")) & wanted) / len(wanted) for path, wanted in agreed.items() if wanted
        ]
        print(
            f"  {name:20} {tally.seconds:7.2f} {tally.failed:6} {len(_SPACES.sub('', text)):9}"
            f" {sum('ぁ' <= char <= 'ヿ' for char in text):7} {garbled_share(text):6.3f}"
            f" {sum(shares) / max(1, len(shares)):7.4f} {sum(share < 0.9 for share in shares):6}"
        )


def print_decoding(files: Sequence[Path]) -> None:
    """How many files of known encodings each judge decodes to the very text. The folder's name is the encoding."""
    known = [path for path in files if path.parent.parent.name == "txt_encodings"]
    if not known:
        return
    print("\nlegacy encodings, files decoded exactly")
    truths = {}
    for path in known:
        name = {"SHIFT_JIS": "cp932", "CP932": "cp932", "GB2312": "gb18030", "EUC-KR": "cp949"}.get(
            path.parent.name, path.parent.name
        )
        try:
            truths[str(path)] = decode_text(path.read_bytes().decode(name).encode()).text
        except UnicodeError:
            continue
    for name, tally in measure(decoders(), [Path(path) for path in truths]).items():
        japanese = [path for path in truths if Path(path).parent.name in {"CP932", "SHIFT_JIS", "EUC-JP"}]
        right = [path for path, truth in truths.items() if _same(tally.texts.get(path), truth)]
        print(
            f"  {name:20} {tally.seconds:7.2f} s   all {len(right)} of {len(truths)}"
            f"   Japanese {len(set(right) & set(japanese))} of {len(japanese)}"
        )


def _same(text: str | None, truth: str) -> bool:
    return text is not None and _SPACES.sub("", text) == _SPACES.sub("", truth)


def compare(files: Sequence[Path]) -> None:
    """Print all comparisons that the files allow."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # pdfminer and pypdf say of each odd object that it is odd
    by_kind: dict[str, list[Path]] = {}
    for path in files:
        by_kind.setdefault(path.suffix.lower(), []).append(path)
    groups: dict[str, list[Path]] = {}
    for path in by_kind.get(".pdf", []):
        groups.setdefault(f"PDF, folder {path.parent.name}, first {PDF_PAGES} pages", []).append(path)
    for what, paths in sorted(groups.items()):
        print_extraction(what, measure(pdf_engines(), paths))
    print_extraction("DOCX", measure(word_engines(), [path for path in by_kind.get(".docx", []) if _opens(path)]))
    print_extraction("XLSX", measure(workbook_engines(), by_kind.get(".xlsx", [])))
    print_decoding(files)


def _opens(path: Path) -> bool:
    try:
        with open_container(path.read_bytes(), "DOCX"):
            return True
    except TsumugiError:
        return False
