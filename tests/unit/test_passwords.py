"""Files opened with the password that came with them."""

from __future__ import annotations

import io
import logging
import zipfile
from pathlib import Path

import pytest

from core.contents import head_of
from core.errors import ExtractionFailed, InvalidInput
from core.settings import Settings
from ingest.extract import extract_document
from ingest.extract.decrypt import may_be_locked, unlock
from ingest.keyring import Keyring
from ingest.upload import Upload
from tests.locked_files import (
    ASCII_PASSWORD,
    PASSWORD,
    locked_pdf,
    locked_word,
    locked_zip,
    old_locked_zip,
    word_file,
)


def test_a_pdf_opens_and_comes_out_the_same_each_time() -> None:
    data = locked_pdf()
    assert may_be_locked(data)
    first = unlock(data, ASCII_PASSWORD)
    assert first is not None and first == unlock(data, ASCII_PASSWORD)
    assert extract_document(first, "a.pdf", max_chars=1000).text.strip() == "The fare is 320 yen."
    assert unlock(first, ASCII_PASSWORD) is None


def test_a_word_file_opens() -> None:
    data = locked_word()
    assert may_be_locked(data)
    opened = unlock(data, PASSWORD)
    assert (opened is not None and opened == word_file()) or opened == unlock(data, PASSWORD)
    assert "日当は三千円です。" in extract_document(opened, "a.docx", max_chars=1000).text


def test_archives_of_both_kinds_open() -> None:
    modern = unlock(locked_zip({"規程/旅費.txt": "日当".encode(), "空.txt": b""}), PASSWORD)
    assert modern is not None
    with zipfile.ZipFile(io.BytesIO(modern)) as archive:
        assert archive.namelist() == ["規程/旅費.txt", "空.txt"]
        assert archive.read("規程/旅費.txt").decode() == "日当"
    for password in ("sakura", "桜"):
        old = old_locked_zip("旅費.txt".encode("cp932"), "日当".encode(), password.encode("cp932"))
        opened = unlock(old, password)
        assert opened is not None
        with zipfile.ZipFile(io.BytesIO(opened)) as archive:
            assert archive.namelist() == ["旅費.txt"] and archive.read("旅費.txt").decode() == "日当"


@pytest.mark.parametrize(
    "data",
    [locked_pdf(), locked_word(), locked_zip({"a.txt": b"abc"}), old_locked_zip(b"a.txt", b"abc" * 99, b"right")],
    ids=["pdf", "word", "aes", "zipcrypto"],
)
def test_a_wrong_password_says_so(data: bytes) -> None:
    for number in range(4):
        with pytest.raises(ExtractionFailed) as caught:
            unlock(data, f"wrong-{number}")
        assert caught.value.code == "wrong_password"
        assert "wrong-" not in caught.value.detail


def test_what_has_no_password_is_left_alone() -> None:
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as archive:
        archive.writestr("a.txt", "abc")
    for data in (b"text", plain.getvalue(), word_file(), b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)):
        assert unlock(data, "x") is None
    assert not may_be_locked(b"text") and not may_be_locked(b"%PDF-1.7 /Encryp" + bytes(2**20))


def test_without_a_password_the_old_codes_stand() -> None:
    for data, name, code in (
        (locked_pdf(), "a.pdf", "encrypted_pdf"),
        (locked_word(), "a.docx", "encrypted_docx"),
        (locked_zip({"a.txt": b"abc"}), "a.zip", "encrypted_archive"),
    ):
        with pytest.raises(ExtractionFailed) as caught:
            extract_document(data, name, max_chars=1000)
        assert caught.value.code == code


def test_the_keyring_opens_in_a_child_and_leaves_nothing_behind(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    upload = Upload("a.docx", locked_word(), password=PASSWORD)
    assert PASSWORD not in repr(upload)
    with Keyring(settings, "tenant", tmp_path) as keyring:
        opened = keyring.unlocked(upload)
        assert keyring.unlocked(Upload("b.txt", b"text", password=PASSWORD)).data == b"text"
        with pytest.raises(InvalidInput) as caught:
            keyring.unlocked(Upload("c.pdf", locked_pdf(), password=PASSWORD))
        assert caught.value.code == "wrong_password"
        other = Upload("d.pdf", locked_pdf(), password=PASSWORD)
        assert keyring.unlocked(other, or_as_it_is=True) is other
    assert head_of(opened.data).startswith(b"PK")
    left = [path for path in Path(settings.data_dir).rglob("*") if path.is_file()]
    assert not [path for path in left if PASSWORD.encode() in path.read_bytes()]
    assert not list((settings.data_dir / "tmp" / "unlock").iterdir())
    assert PASSWORD not in caplog.text
