"""Bytes to text in the encodings that Japanese companies have on their disks."""

from __future__ import annotations

import contextlib
import time

import pytest

from benchmarks.encoded_texts import encoded_texts
from benchmarks.encodings import outcome
from core.errors import ExtractionFailed
from ingest.encoding import clean_text, decode_text, decoding, known_encoding
from ingest.extract import extract_document

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
    decoded = decode_text(text.encode("cp932"))
    assert (decoded.text, decoded.encoding, decoded.guessed) == (text, "cp932", True)


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
    decoded = decode_text(text.encode(encoding))
    assert (decoded.text, decoded.encoding, decoded.guessed) == (text, encoding, True)


def test_a_thousand_office_texts_are_read_to_the_last_character() -> None:
    wrong = [(text.encoding, outcome(text), text.text[:60]) for text in encoded_texts(1000)]
    assert [item for item in wrong if item[1] != "right"] == []


@pytest.mark.parametrize("text", ["品,数\r\n茶,1\r\n", "ﾅｶﾞﾉ,1\n", "№\n", "髙﨑,①\n", "3号,ﾊ\n"])
def test_a_twelve_byte_file_is_enough(text: str) -> None:
    decoded = decode_text(text.encode("cp932"))
    assert (decoded.text, decoded.encoding) == (clean_text(text), "cp932")
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        assert decode_text(text.encode(encoding)).text == clean_text(text)


@pytest.mark.parametrize("share", [1, 10, 1000])
def test_one_japanese_line_among_ascii_lines(share: int) -> None:
    text = "no,city,count\n" + "1,Kobe,0\n" * share + "2,京都,3\n"
    for encoding in ("cp932", "euc_jp"):
        decoded = decode_text(text.encode(encoding))
        assert (decoded.text, decoded.encoding) == (text, encoding)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xad\xa1\xad\xea\xfc\xe2\xf9\xf5\xba\xea", "①㈱髙﨑崎"),
        (b"\x8f\xf4\xab\xbb\xb3\xc5\xc4", "㈱山田"),
        (b"\x8e\xb6\x8e\xde,\x8f\xb0\xa1\xc5\xec", "ｶﾞ,丂東"),
    ],
)
def test_euc_jp_of_vendors(data: bytes, text: str) -> None:
    with decoding("euc_jp"):
        assert decode_text(data).text == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x1b$B2q5D\x1b(B-\x1b$B-!-j\x1b(B\n", "会議-①㈱\n"),
        (b"\x1b(I6^=\x1b(B,1", "ｶﾞｽ,1"),
        (b"\x1b$B2q5D\nnext", "会議\nnext"),
        ("丂".encode("iso2022_jp_ext"), "丂"),
        ("噓と俠".encode("iso2022_jp_2004"), "噓と俠"),
    ],
)
def test_iso_2022_jp_of_mail_programs(data: bytes, text: str) -> None:
    decoded = decode_text(data)
    assert (decoded.text, decoded.encoding, decoded.guessed) == (text, "iso-2022-jp", False)


def test_a_terminal_log_is_no_iso_2022_jp() -> None:
    assert decode_text(b"\x1b(Bok\x1b[0m\n").encoding == "utf-8"


def test_emoji_put_into_cp932_as_utf_8_cost_one_mark_each_and_nothing_behind_them() -> None:
    text = "鈴木,よろしくお願いします{}\n佐藤,了解です。{}資料は添付のとおりです\n"
    data = text.encode("cp932").replace(b"{}", "🤗".encode())
    decoded = decode_text(data)
    assert (decoded.text, decoded.encoding, decoded.replaced) == (text.replace("{}", "\ufffd"), "cp932", 2)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Année,Où,Élève\nprix,été,déjà\n", "cp1252"),
        ("Señor Muñoz – 12 €\n", "cp1252"),
        ("Прайс-лист на товары и услуги, цена без НДС\n", "koi8-r"),
        ("Прайс-лист на товары и услуги, цена без НДС\n", "cp1251"),
        ("Τιμοκατάλογος προϊόντων και υπηρεσιών\n", "cp1253"),
        ("产品和服务价格表，数量合计，北京市朝阳区\n", "gb18030"),
        ("產品和服務價格表，數量合計，臺北市信義區\n", "big5"),
        ("제품 및 서비스 가격표입니다. 서울특별시\n", "cp949"),
        ("רשימת מחירים של מוצרים ושירותים\n", "cp1255"),
    ],
)
def test_files_of_others_stay_theirs(text: str, encoding: str) -> None:
    assert decode_text(text.encode(encoding)).text == text


@pytest.mark.parametrize("word", ["Größe", "naïve", "½", "0.3°", "ПДВ", "안녕", "é"])
def test_short_utf_8_stays_utf_8(word: str) -> None:
    assert decode_text(word.encode()).encoding == "utf-8"


def test_a_wrong_western_charset_in_a_page_is_not_believed_against_plain_japanese() -> None:
    page = '<html><head><meta charset="iso-8859-1"></head><body><p>基本料金は千円です</p></body></html>'
    document = extract_document(page.encode("cp932"), "a.html", max_chars=1000)
    assert "基本料金は千円です" in document.text and document.encoding == "cp932"


def test_what_was_guessed_and_replaced_stands_in_the_quality() -> None:
    data = "見積書,金額\n".encode("cp932") * 3 + "緑茶".encode("cp932") + b"\xf0\x9f\x98\x80"
    quality = extract_document(data, "a.csv", max_chars=1000).quality
    assert quality["encoding_guessed"]["encoding"] == "cp932"
    assert quality["encoding_guessed"]["alternative"] not in {None, "cp932"}
    assert quality["replaced_characters"] == 1
    plain = extract_document("見積書".encode(), "a.csv", max_chars=1000).quality
    assert "encoding_guessed" not in plain and "replaced_characters" not in plain


def test_the_encoding_given_with_the_upload_is_obeyed_or_the_document_fails() -> None:
    assert extract_document("ﾃﾞ".encode("cp932"), "a.txt", max_chars=100, encoding="cp932").text == "ﾃﾞ"
    assert extract_document("Ã".encode(), "a.txt", max_chars=100, encoding="cp1252").encoding == "cp1252"
    with pytest.raises(ExtractionFailed) as caught:
        extract_document("見積書を送ります".encode("cp932"), "a.txt", max_chars=100, encoding="utf-8")
    assert caught.value.code == "encoding_mismatch"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Shift_JIS", "cp932"),
        ("windows-31j", "cp932"),
        ("EUC-JP", "euc_jp"),
        ("ISO-2022-JP", "iso-2022-jp"),
        ("UTF8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("latin1", "cp1252"),
        ("hex", None),
        ("idna", None),
        ("unicode_escape", None),
        ("../../x", None),
        ("klingon", None),
        ("a" * 41, None),
    ],
)
def test_names_of_encodings(name: str, known: str | None) -> None:
    assert known_encoding(name) == known


@pytest.mark.parametrize(
    "unit", [b"\x1b$B", b"\xf0\x9f\x98", b"\x81", b"\xb1", b"caf\xe9 ", b"\xad\xa1\xff", b"\x8f\xf4"]
)
def test_megabytes_of_one_thing_take_linear_time(unit: bytes) -> None:
    def seconds(size: int) -> float:
        data = unit * (size // len(unit))
        started = time.process_time()
        with contextlib.suppress(ExtractionFailed):
            decode_text(data)
        return time.process_time() - started

    seconds(100_000)
    assert seconds(4_000_000) < 8 * seconds(1_000_000) + 0.5
