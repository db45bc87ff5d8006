"""A short run of the fuzzer: damaged documents of every format end in text or in a code that says what is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.settings import IngestSettings
from ingest.batch import unpacked
from ingest.extract.archive import unpack_wanted
from ingest.sandbox import Sandbox
from ingest.upload import Upload
from tests.hostile.fuzz import SEEDS, UNEXPECTED, mutant, outcome

ERRORS = (Path(__file__).parents[2] / "docs" / "api-errors.md").read_text("utf-8")
CODES = set(re.findall(r"^\| `([a-z0-9_]+)` \|", ERRORS, re.MULTILINE))
PICTURES = ("a.png", "a.tiff", "a.jpg")


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    limits = IngestSettings(extract_timeout_s=30, extract_cpu_s=20, extract_memory_bytes=2**30)
    box = Sandbox(limits, tmp_path_factory.mktemp("extract"))
    yield box
    box.close()


@pytest.mark.parametrize("name", SEEDS)
def test_mutants_end_in_text_or_in_a_code_of_their_own(sandbox: Sandbox, name: str) -> None:
    seed = SEEDS[name]()
    whole = "no_text" if name in PICTURES else "nested_archive" if name.startswith(("a.zip", "a.tar")) else "ok"
    assert outcome(sandbox, seed, name) in {whole, "ocr_unavailable"}, "the seed itself is read"
    for number in range(2 if name in PICTURES else 7):
        code = outcome(sandbox, mutant(seed, name, number), name)
        assert code in CODES | {"ok"}, f"{name}:{number}"
        assert code not in UNEXPECTED, f"{name}:{number} ended with {code}"


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.docx", "a.odt", "a.epub"])
def test_mutated_archives_never_break_an_upload(name: str, tmp_path: Path) -> None:
    """An error of a library that is not among the known ones would be told as a crash."""
    seed = SEEDS[name]()
    for number in range(120 if len(seed) < 20_000 else 30):
        data = mutant(seed, name, number)
        if data:
            folder = tmp_path / str(number)
            folder.mkdir()
            parts = unpacked(Upload(name, data), folder, unpack_wanted, max_bytes=10**6)
            assert parts and all(part.data for part in parts)


def test_a_damaged_document_is_not_taken_apart_as_a_batch(tmp_path: Path) -> None:
    """A book that has lost its mark is a broken book, not a batch of the files inside."""
    seed = SEEDS["a.odt"]().replace(b"application/vnd.oasis", b"application/vnd.0asis")
    assert len(unpacked(Upload("a.odt", seed), tmp_path, unpack_wanted, max_bytes=10**6)) == 1


@pytest.mark.parametrize(("name", "number"), [("a.zip", 1048), ("a.tiff", 1061), ("a.tiff", 5038), ("a.pptx", 5050)])
def test_mutants_that_once_broke_a_reader(sandbox: Sandbox, name: str, number: int) -> None:
    assert outcome(sandbox, mutant(SEEDS[name](), name, number), name) not in UNEXPECTED
