"""Files made to break a reader. Each must end in text or in a code, in bounded time, and leave the service standing."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from reportlab.pdfgen.canvas import Canvas

from core.errors import Cancelled, ExtractionFailed, TsumugiError, Unavailable
from core.settings import IngestSettings
from ingest.sandbox import Sandbox

DOCUMENT = '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>{}</w:body></w:document>'
PARAGRAPH = "<w:p><w:r><w:t>{}</w:t></w:r></w:p>"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    settings = IngestSettings(
        extract_timeout_s=20, extract_cpu_s=10, extract_memory_bytes=2**29, extract_max_chars=200_000
    )
    box = Sandbox(settings, tmp_path_factory.mktemp("extract"))
    yield box
    box.close()


def code_of(sandbox: Sandbox, data: bytes, filename: str) -> str:
    """`ok`, or the code of the error."""
    try:
        sandbox.extract(data, filename)
    except TsumugiError as error:
        assert not error.retryable, error.detail
        return error.code
    return "ok"


def docx(document: bytes, **parts: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", document)
        for name, content in parts.items():
            archive.writestr(name, content)
    return target.getvalue()


def pdf(text: str = "A page of text.") -> bytes:
    target = io.BytesIO()
    canvas = Canvas(target)
    canvas.drawString(72, 700, text)
    canvas.save()
    return target.getvalue()


def encrypted_pdf() -> bytes:
    target = io.BytesIO()
    canvas = Canvas(target, encrypt="secret")
    canvas.drawString(72, 700, "hidden")
    canvas.save()
    return target.getvalue()


def billion_laughs() -> bytes:
    entities = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(9))
    doctype = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "ha">{entities}]>'
    return (doctype + DOCUMENT.format(PARAGRAPH.format("&a9;"))).encode()


def external_entity(path: Path) -> bytes:
    doctype = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file://{path}">]>'
    return (doctype + DOCUMENT.format(PARAGRAPH.format("&e;"))).encode()


@pytest.mark.parametrize(
    ("make", "filename", "codes"),
    [
        (lambda: docx(DOCUMENT.format(PARAGRAPH.format("a" * 40_000_000)).encode()), "bomb.docx", {"zip_bomb"}),
        (lambda: docx(billion_laughs()), "laughs.docx", {"unsafe_xml"}),
        (lambda: docx(b"<w:document"), "broken.docx", {"broken_docx"}),
        (lambda: docx(DOCUMENT.format(PARAGRAPH.format("x")).encode())[:-30], "cut.docx", {"broken_docx"}),
        (
            lambda: docx(DOCUMENT.format("<w:p>" * 5_000 + "</w:p>" * 5_000).encode()),
            "deep.docx",
            {"broken_docx", "no_text", "too_deeply_nested"},
        ),
        (lambda: docx(DOCUMENT.format(PARAGRAPH.format("y" * 300_000)).encode()), "long.docx", {"text_too_long"}),
        (
            lambda: b"<div>" * 200_000 + b"deep" + b"</div>" * 200_000,
            "deep.html",
            {"ok", "no_text", "too_deeply_nested"},
        ),
        (lambda: b"<table><tr>" * 20_000 + b"x", "tables.html", {"ok", "no_text", "extraction_timeout"}),
        (lambda: b"> " * 50_000 + b"quote", "quotes.md", {"ok", "no_text", "too_deeply_nested"}),
        (lambda: b"[" * 100_000, "brackets.md", {"ok", "extraction_timeout"}),
        (("a" + "\u0301" * 100_000).encode, "zalgo.txt", {"ok"}),
        (lambda: b"y" * 300_000, "long.txt", {"text_too_long"}),
        (lambda: pdf()[:400], "cut.pdf", {"broken_pdf", "no_text_layer"}),
        (encrypted_pdf, "locked.pdf", {"encrypted_pdf"}),
        (lambda: docx(DOCUMENT.format("").encode()).replace(b"word/", b"xord/"), "renamed.pdf", {"not_a_pdf"}),
        (lambda: b"MZ" + os.urandom(4000), "setup.txt", {"unsupported_format"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_ends_in_text_or_in_a_code(sandbox: Sandbox, make: object, filename: str, codes: set[str]) -> None:
    started = time.monotonic()
    assert code_of(sandbox, make(), filename) in codes  # type: ignore[operator]
    assert time.monotonic() - started < 45
    assert sandbox.extract(b"still here", "a.txt").text == "still here"


def test_an_external_entity_reads_no_file(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("password")
    assert code_of(sandbox, docx(external_entity(tmp_path / "secret")), "xxe.docx") == "unsafe_xml"


def crash_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, **limits: object) -> Sandbox:
    """A sandbox whose plain-text extractor does what a broken library would."""
    package = tmp_path / "broken"
    package.mkdir()
    (package / "sitecustomize.py").write_text(
        "import ingest.extract.text as text\n"
        "def broken(data, *, max_chars):\n" + "".join(f"    {line}\n" for line in body.splitlines()) + "\n"
        "text.extract_text = broken\n"
    )
    monkeypatch.syspath_prepend(str(package))
    settings = IngestSettings(**{"extract_timeout_s": 20, "extract_cpu_s": 10, **limits})  # type: ignore[arg-type]
    return Sandbox(settings, tmp_path / "work")


@pytest.mark.parametrize(
    ("body", "limits", "code"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", {}, "extraction_crashed"),
        ("raise ValueError('no')", {}, "extraction_crashed"),
        ("return broken(data, max_chars=max_chars)", {}, "too_deeply_nested"),
        ("x = []\nwhile True: x.append(bytearray(10**7))", {"extract_memory_bytes": 2**29}, "extraction_out_of_memory"),
        ("while True: pass", {"extract_timeout_s": 1.0}, "extraction_timeout"),
        ("while True: pass", {"extract_cpu_s": 1}, "extraction_timeout"),
        ("import subprocess\nsubprocess.run(['sleep', '60'])", {"extract_timeout_s": 1.0}, "extraction_timeout"),
        ("open('big', 'wb').write(b'x' * 200_000_000)", {"extract_max_chars": 1_000}, "text_too_long"),
        ("import socket; socket.create_connection(('127.0.0.1', 80), 1)", {}, "extraction_crashed"),
        ("import os; assert 'SECRET' not in os.environ, 'leak'; raise ValueError('clean')", {}, "extraction_crashed"),
    ],
)  # fmt: skip
def test_a_reader_that_goes_wrong_fails_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, limits: dict[str, object], code: str
) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    box = crash_with(monkeypatch, tmp_path, body, **limits)
    try:
        with pytest.raises(ExtractionFailed) as caught:
            box.extract(b"text", "a.txt")
        assert caught.value.code == code, caught.value.detail
        assert "leak" not in caught.value.detail
        assert box.extract(b"# fine", "a.md").text == "fine"
        assert list((tmp_path / "work").iterdir()) == []
    finally:
        box.close()


@pytest.mark.parametrize(
    ("body", "error", "code"),
    [
        ("raise OSError(28, 'No space left on device')", Unavailable, "storage_full"),
        ("raise OSError(122, 'Disk quota exceeded')", Unavailable, "storage_full"),
        ("raise OSError(5, 'Input/output error')", Unavailable, "storage_failed"),
        ("raise OSError(30, 'Read-only file system')", Unavailable, "storage_failed"),
        (
            "try: raise OSError(28, 'No space left on device')\n"
            "except OSError as error: raise ValueError('a library in its own words') from error",
            Unavailable,
            "storage_full",
        ),
        (
            "from core.errors import ExtractionFailed\n"
            "try: raise OSError(28, 'No space left on device')\n"
            "except OSError: raise ExtractionFailed('damaged', code='broken_document')",
            Unavailable,
            "storage_full",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ExtractionFailed, "extraction_killed"),
        ("open('/nothing/there')", ExtractionFailed, "extraction_crashed"),
    ],
)
def test_what_the_machine_does_is_no_fault_of_the_document(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, error: type[TsumugiError], code: str
) -> None:
    box = crash_with(monkeypatch, tmp_path, body)
    try:
        with pytest.raises(error) as caught:
            box.extract(b"text", "a.txt")
        assert caught.value.code == code, caught.value.detail
        assert caught.value.retryable is (code != "extraction_crashed")
        assert box.extract(b"# fine", "a.md").text == "fine"
    finally:
        box.close()


def test_a_killed_mother_is_replaced_and_the_document_read(sandbox: Sandbox) -> None:
    assert sandbox.extract(b"one", "a.txt").text == "one"
    mother = sandbox._alive()
    os.kill(mother._process.pid, signal.SIGKILL)
    mother._process.wait()
    assert sandbox.extract(b"two", "a.txt").text == "two"


def test_what_poll_raises_ends_the_extraction_and_its_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    box = crash_with(
        monkeypatch, tmp_path, "import time\nopen('pid', 'w').write(str(__import__('os').getpid()))\ntime.sleep(60)"
    )
    seen: list[int] = []

    def cancel() -> None:
        for pid in (tmp_path / "work").glob("*/pid"):
            seen.append(int(pid.read_text()))
            raise Cancelled("stop")

    try:
        with pytest.raises(Cancelled):
            box.extract(b"text", "a.txt", poll=cancel)
        deadline = time.monotonic() + 5
        while Path(f"/proc/{seen[0]}").exists() and time.monotonic() < deadline:
            threading.Event().wait(0.02)
        assert not Path(f"/proc/{seen[0]}").exists()
    finally:
        box.close()


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def test_a_mother_is_there_only_while_something_is_extracted(tmp_path: Path) -> None:
    before = children()
    box = Sandbox(IngestSettings(), tmp_path, idle_s=0.2)
    try:
        assert children() == before, "nothing is started before there is work"
        for text in ("one", "two"):
            assert box.extract(text.encode(), "a.txt").text == text
            deadline = time.monotonic() + 20
            while children() != before and time.monotonic() < deadline:
                threading.Event().wait(0.02)
            assert children() == before
    finally:
        box.close()


def test_a_mother_at_work_is_not_idle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    box = crash_with(monkeypatch, tmp_path, "import time\ntime.sleep(1.5)")
    box._idle_s = 0.05
    try:
        first = box._alive()
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(box.extract, b"text", "slow.txt")
            while not box._running:
                threading.Event().wait(0.01)
            for number in range(5):
                assert box.extract(b"# fine", f"{number}.md").text == "fine"
                threading.Event().wait(0.1)
            assert isinstance(slow.exception(30), ExtractionFailed), "it gives nothing, but it ran to its end"
        assert box._mother is first or box._mother is None
    finally:
        box.close()


def test_closing_ends_every_process(tmp_path: Path) -> None:
    box = Sandbox(IngestSettings(), tmp_path)
    box.extract(b"x", "a.txt")
    pid = box._alive()._process.pid
    box.close()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(ExtractionFailed):
        box.extract(b"x", "a.txt")


def test_nothing_outlives_a_service_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, threading; from pathlib import Path; from core.settings import IngestSettings;"
        "from ingest.sandbox import Sandbox; box = Sandbox(IngestSettings(), Path(sys.argv[1]));"
        "box.extract(b'x', 'a.txt'); print(box._alive()._process.pid, flush=True); threading.Event().wait()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    service = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, env=environment)
    assert service.stdout is not None
    mother = psutil.Process(int(service.stdout.readline()))
    service.kill()
    service.wait()
    _, alive = psutil.wait_procs([mother], timeout=10)
    assert not alive or mother.status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif("TSUMUGI_DATA" not in os.environ, reason="needs the shared documents: set TSUMUGI_DATA")
@pytest.mark.parametrize(("name", "kana"), [("jo.pdf", 610), ("nlp2004slides.pdf", 722)])
def test_japanese_pdfs_keep_their_kana(sandbox: Sandbox, name: str, kana: int) -> None:
    data = (Path(os.environ["TSUMUGI_DATA"]) / "documents" / "pdf_ja" / name).read_bytes()
    text = sandbox.extract(data, name).text
    assert sum("\u3041" <= character <= "\u30ff" for character in text) >= kana


def test_nothing_is_written_outside_the_folder(sandbox: Sandbox, tmp_path: Path) -> None:
    if sandbox.files != "landlock":
        pytest.skip("this kernel has no Landlock: only file permissions limit what an extractor writes")
    script = (
        "import sys; from pathlib import Path; from ingest.landlock import write_only_below;"
        "import ctypes; ctypes.CDLL(None).prctl(38, 1, 0, 0, 0);"
        "inside, outside = map(Path, sys.argv[1:]);"
        "assert write_only_below(inside); (inside / 'a').write_text('x'); (inside / 'a').unlink();"
        "open('/dev/null', 'w').write('x');"
        "tried = [lambda: (outside / 'new').write_text('x'), lambda: (outside / 'old').write_text('x'),"
        " lambda: (outside / 'old').unlink(), lambda: (outside / 'd').mkdir(),"
        " lambda: (outside / 'l').symlink_to('/')]\n"
        "for attempt in tried:\n"
        "    try: attempt()\n"
        "    except PermissionError: continue\n"
        "    sys.exit('written')\n"
    )
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "old").write_text("kept")
    done = subprocess.run([sys.executable, "-c", script, str(inside), str(outside)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in outside.iterdir()] == ["old"] and (outside / "old").read_text() == "kept"


def workbook_bomb() -> bytes:
    laughs = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(9))
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", f'<!DOCTYPE x [<!ENTITY a0 "ha">{laughs}]><workbook>&a9;</workbook>')
    return target.getvalue()


def zip_in_zip(depth: int) -> bytes:
    data = b"at the bottom"
    for level in range(depth):
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{level}.zip" if level else "a.txt", data)
        data = target.getvalue()
    return data


@pytest.mark.parametrize(
    ("data", "filename", "codes"),
    [
        (workbook_bomb, "prices.xlsx", {"unsafe_xml"}),
        (lambda: workbook_bomb()[:-40], "prices.xlsx", {"broken_document"}),
        (lambda: zip_in_zip(30), "batch.zip", {"nested_archive"}),
        (lambda: b"{\\rtf1 " + b"{" * 200_000, "a.rtf", {"broken_document", "no_text", "ok"}),
        (
            lambda: b"Subject: x\n" + b"Content-Type: multipart/mixed; boundary=a\n\n--a\n" * 300,
            "a.eml",
            {"ok", "too_deeply_nested", "broken_document", "extraction_timeout"},
        ),
        (lambda: b'a,"' + b"x" * 500_000, "a.csv", {"broken_document", "text_too_long"}),
    ],
)
def test_new_formats_under_attack(sandbox: Sandbox, data: object, filename: str, codes: set[str]) -> None:
    assert code_of(sandbox, data(), filename) in codes  # type: ignore[operator]
