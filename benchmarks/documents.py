"""What becomes of each file of a folder in the real extractor: status, time, characters, pages, quality, error code.

    python -m benchmarks.documents --data DIR [--limit N] [--json FILE]
    python -m benchmarks.documents --data DIR --engines      extraction libraries side by side

Ends with 1 when a file is neither read nor refused with a code of its own, or passes its limits.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.document_engines import compare
from core.errors import TsumugiError
from core.settings import load_settings
from ingest.sandbox import Sandbox


@dataclass(frozen=True, slots=True)
class FileResult:
    """One file. kana: characters U+3041 to U+30FF of the text; kana_40: those of the first 40 pages."""

    path: str
    status: str
    seconds: float
    characters: int = 0
    kana: int = 0
    kana_40: int = 0
    pages: int | None = None
    quality: float | None = None
    encoding: str | None = None
    code: str | None = None
    retryable: bool = False
    detail: str | None = None


def _kana(text: str) -> int:
    return sum("\u3041" <= character <= "\u30ff" for character in text)


def read_file(sandbox: Sandbox, path: Path, name: str) -> FileResult:
    """Extract one file and say what came of it."""
    started = time.perf_counter()
    try:
        document = sandbox.extract(path.read_bytes(), path.name)
    except TsumugiError as error:
        seconds = round(time.perf_counter() - started, 3)
        return FileResult(
            name, "failed", seconds, code=error.code, retryable=error.retryable, detail=error.detail[:300]
        )
    seconds = round(time.perf_counter() - started, 3)
    early = "".join(document.text[b.start : b.end] for b in document.blocks if (b.page or 1) <= 40)
    return FileResult(
        name,
        "ready",
        seconds,
        characters=len(document.text),
        kana=_kana(document.text),
        kana_40=_kana(early),
        pages=document.page_count,
        quality=document.quality.get("score"),
        encoding=document.encoding,
    )


def main() -> int:
    """Run over a folder and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of files, or one file")
    parser.add_argument("--limit", type=int, help="so many files at most")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--engines", action="store_true", help="compare extraction libraries instead")
    arguments = parser.parse_args()
    data: Path = arguments.data
    files = [data] if data.is_file() else sorted(path for path in data.rglob("*") if path.is_file())
    files = files[: arguments.limit]
    if arguments.engines:
        compare(files)
        return 0
    settings = load_settings().ingest
    results: list[FileResult] = []
    with tempfile.TemporaryDirectory() as folder:
        sandbox = Sandbox(settings, Path(folder))
        print(f"{'status':7} {'s':>7} {'chars':>9} {'kana':>7} {'kana40':>7} {'pages':>5} {'score':>6}  code / file")
        try:
            for path in files:
                result = read_file(sandbox, path, str(path.relative_to(data)) if path != data else path.name)
                results.append(result)
                print(
                    f"{result.status:7} {result.seconds:7.2f} {result.characters:9} {result.kana:7} {result.kana_40:7}"
                    f" {result.pages or '-':>5} {'-' if result.quality is None else f'{result.quality:.3f}':>6}"
                    f"  {(result.code + ' ') if result.code else ''}{result.path}",
                    flush=True,
                )
        finally:
            sandbox.close()
        left = [path.name for path in Path(folder).iterdir()]
    codes = Counter(result.code for result in results if result.code)
    ready = sum(result.status == "ready" for result in results)
    slowest = max((result.seconds for result in results), default=0.0)
    crashed = [result.path for result in results if result.code == "extraction_crashed"]
    print(f"\n{len(results)} files: {ready} ready, {len(results) - ready} failed with a code; slowest {slowest:.1f} s")
    print(f"codes: {dict(codes.most_common())}")
    print(f"crashed: {crashed or 'none'}; left in the temp folder: {left or 'nothing'}")
    if arguments.json:
        summary = {"ready": ready, "files": len(results), "codes": codes, "slowest_s": slowest, "left_behind": left}
        arguments.json.write_text(
            json.dumps({**summary, "results": [asdict(result) for result in results]}, ensure_ascii=False, indent=1)
        )
    return 1 if crashed or left else 0


if __name__ == "__main__":
    sys.exit(main())
