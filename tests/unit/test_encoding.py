"""Bytes to text in the encodings that Japanese companies have on their disks."""

from __future__ import annotations

import pytest

from core.errors import ExtractionFailed
from ingest.encoding import DecodedText, clean_text, decode_text

LONG = "経費精算は月末までに申請してください。領収書（①㈱～）が必要です。\r\nカタカナとABCと１２３も混ざる。\n" * 6


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("cp932", "cp932"),
        ("euc_jis_2004", None),
    ],
)
def test_each_encoding_comes_out_as_written(encoding: str, named: str | None) -> None:
    text = LONG if encoding != "euc_jis_2004" else LONG.replace("㈱～", "")
    decoded = decode_text(text.encode(encoding))
    assert decoded.text == text.replace("\r\n", "\n")
    assert decoded.replaced == 0
    assert named is None or decoded.encoding == named


def test_iso_2022_jp_is_known_by_its_escapes() -> None:
    text = "会議室の予約は総務課へ。"
    assert decode_text(text.encode("iso2022_jp")).text == text
    assert decode_text(text.encode("iso2022_jp")).encoding == "iso-2022-jp"


@pytest.mark.parametrize("encoding", ["euc_jp", "cp932", "utf-16-le"])
def test_one_short_line_of_kana_is_enough(encoding: str) -> None:
    for text in ("カタカナだけのテキスト", "これはとてもみじかいぶんしょうです。"):
        assert decode_text(text.encode(encoding)).text == text


def test_a_declared_charset_is_believed_only_if_it_decodes() -> None:
    assert decode_text("料金表".encode("cp932"), declared="Shift_JIS").text == "料金表"
    assert decode_text("料金表".encode(), declared="Shift_JIS").text == "料金表"
    assert decode_text(b"plain", declared="hex_codec").text == "plain"


def test_a_few_broken_bytes_are_marked_and_many_are_refused() -> None:
    decoded = decode_text(("本文です。" * 100).encode() + b"\xff")
    assert decoded.text.startswith("本文です。") and decoded.replaced <= 1
    with pytest.raises(ExtractionFailed) as caught:
        decode_text(bytes([0x81, 0xFF, 0xA0, 0x8F, 0xFD]) * 50)
    assert caught.value.code == "unknown_encoding"


def test_line_ends_controls_and_lone_surrogates_are_cleaned() -> None:
    assert clean_text("a\r\nb\rc\u2028d\x00e\x1bf\ud800") == "a\nb\nc\ndef\ufffd"


@pytest.mark.parametrize(
    "text", ["品名,単価\n緑茶,120\n", "見積書 株式会社山田", "東京都", "商品①,㈱山田商店,第二営業部"]
)
def test_a_short_list_of_kanji_without_kana_is_japanese(text: str) -> None:
    assert decode_text(text.encode("cp932")) == DecodedText(text, "cp932")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("“Hello” he said – ‘yes’", "cp1252"),
        ("Größe Übergröße Änderung", "cp1252"),
        ("가격표 상품명 단가", "cp949"),
        ("Preis – 10€ “gut”", "cp1252"),
    ],
)
def test_short_texts_of_others_are_not_taken_for_kanji(text: str, encoding: str) -> None:
    assert decode_text(text.encode(encoding)) == DecodedText(text, encoding)
