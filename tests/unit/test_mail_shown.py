"""Mails: what the newest one says told apart from what it quotes, whichever way its program quotes."""

from __future__ import annotations

from email.message import EmailMessage

import pytest

from core.types import ExtractedDocument
from ingest.extract import extract_document
from ingest.extract.mail_quotes import split_quotes


def mail(text: str, html: str | None = None, *, charset: str = "utf-8", subject: str = "検査の件") -> ExtractedDocument:
    message = EmailMessage()
    message["Subject"] = subject
    message["From"] = "関 <seki@maker.example>"
    message["To"] = "buyer@shop.example"
    message["Date"] = "Tue, 04 Mar 2031 10:00:00 +0900"
    message.set_content(text, charset=charset)
    if html is not None:
        message.add_alternative(html, subtype="html")
    return extract_document(message.as_bytes(), "a.eml", max_chars=100_000)


def blocks(document: ExtractedDocument) -> list[tuple[str, str]]:
    return [(block.kind.value, document.text[block.start : block.end]) for block in document.blocks]


def test_headers_are_rows_and_the_body_keeps_its_lines() -> None:
    body = "各位\n\n下記のとおりです。\n・東倉庫：三日\n・西倉庫：四日\n\n日　時：五日十時\n場　所：会議室\n"
    assert blocks(mail(body, charset="iso-2022-jp")) == [
        ("heading", "検査の件"),
        (
            "table",
            "From: 関 <seki@maker.example> | Date: Tue, 04 Mar 2031 10:00:00 +0900 | Subject: 検査の件\n"
            "To: buyer@shop.example",
        ),
        ("paragraph", "各位"),
        ("paragraph", "下記のとおりです。"),
        ("list_item", "・東倉庫：三日"),
        ("list_item", "・西倉庫：四日"),
        ("list_item", "日　時：五日十時"),
        ("list_item", "場　所：会議室"),
    ]


@pytest.mark.parametrize(
    ("quoted", "title"),
    [
        ("On Mon, 3 Mar 2031 at 09:00, Ann Buyer <ann@shop.example> wrote:\n> price 80", "Ann Buyer"),
        ("On Mon, 3 Mar 2031 at 09:00, Ann Buyer\n<ann@shop.example> wrote:\n> price 80", "Ann Buyer"),
        ("2031年3月3日(月) 9:00 堀 <hori@shop.example>:\n> price 80", "堀"),
        ("> 2031/03/03 9:00、堀 <hori@shop.example>のメール:\n> price 80", "堀"),
        (
            "-----Original Message-----\nFrom: Ann\nSent: Monday, 3 March 2031\nTo: Seki\n\nprice 80",
            "Ann, Monday, 3 March 2031",
        ),
        ("差出人: 堀\n送信日時: 2031年3月3日 9:00\n宛先: 関\n件名: 検査\n\nprice 80", "堀, 2031年3月3日 9:00"),
        ("---------- Forwarded message ---------\nFrom: Ann <a@shop.example>\nDate: 3 Mar 2031\n\nprice 80", "Ann"),
    ],
)
def test_each_way_to_quote_opens_a_section(quoted: str, title: str) -> None:
    found = blocks(mail(f"新しい単価は95円です。\n\n{quoted}\n"))
    at = [text for _, text in found].index("新しい単価は95円です。")
    kind, heading = found[at + 1]
    assert kind == "heading" and heading.startswith("以前のメール: ") and title in heading
    assert "price 80" in [text for _, text in found[at + 2 :]]


def test_nested_quotations_are_sections_one_by_one() -> None:
    text = (
        "ご確認ください。\n\n> 2031年3月3日(月) 9:00 堀 <h@x.example>:\n> 二通目\n>\n"
        ">> 2031年3月1日(土) 8:00 関 <s@x.example>:\n>> 一通目\n"
    )
    parts = split_quotes(text)
    assert [part.title for part in parts] == [
        None, "2031年3月3日(月) 9:00 堀 <h@x.example>", "2031年3月1日(土) 8:00 関 <s@x.example>"
    ]  # fmt: skip
    assert [[line for line in part.lines if line] for part in parts] == [["ご確認ください。"], ["二通目"], ["一通目"]]


def test_answers_between_quoted_lines_are_the_newest_mail() -> None:
    text = "On 3 Mar 2031, Ann wrote:\n> When?\nOn the ninth.\n> Who?\nSeki.\n"
    found = blocks(mail(text, subject="Visit"))[2:]
    assert found == [
        ("heading", "Earlier mail: On 3 Mar 2031, Ann wrote"),
        ("paragraph", "When?"),
        ("heading", "Reply: 関 <seki@maker.example>"),
        ("paragraph", "On the ninth.\n> Who?\nSeki."),
    ]


def test_the_page_is_taken_where_the_text_is_a_stub() -> None:
    table = "<table><tr><th>品<th>数</tr><tr><td>弁<td>4</tr></table>"
    page = f"<p>納期は九日です。</p>{table}<p>以上、よろしくお願いします。</p>"
    stub = mail("このメールはHTML形式です。ブラウザでご覧ください。", page)
    assert "品: 弁 | 数: 4" in stub.text and "ブラウザ" not in stub.text
    assert "納期は九日です。" in mail("\n", page).text
    whole = mail("納期は九日です。品は弁、数は4です。以上、よろしくお願いします。", page)
    assert "品: 弁" not in whole.text


def test_a_page_opens_earlier_mails_as_a_text_does() -> None:
    page = (
        "<div>承知しました。</div><div>On 3 Mar 2031, Ann wrote:<br></div>"
        "<blockquote><p>Please send two.</p></blockquote><div><b>From:</b> Seki<br><b>Sent:</b> 1 March<br>"
        "<b>To:</b> Ann<br><b>Subject:</b> Offer<br></div><p>One costs 5.</p>"
    )
    assert blocks(mail("", page))[2:] == [
        ("paragraph", "承知しました。"),
        ("heading", "以前のメール: On 3 Mar 2031, Ann wrote"),
        ("paragraph", "Please send two."),
        ("heading", "以前のメール: Seki, 1 March"),
        ("table", "From: Seki | Sent: 1 March | Subject: Offer\nTo: Ann"),
        ("paragraph", "One costs 5."),
    ]


def test_headers_in_plain_prose_open_nothing() -> None:
    assert [part.title for part in split_quotes("To: 各位\n件名: なし\n本文\n2031年3月3日: 開始\n")] == [None]
