"""EML through the standard library, MSG through python-oxmsg: subject as heading, headers, body, then attachments.

An attachment is a section of the same document, under a heading with its name: who finds the passage also finds the
mail around it, and the mail's groups hold for both. One that cannot be read is named with its code in `quality`.
Earlier mails that a mail quotes are sections too, under who wrote them and when: the newest is what stands above.
"""

from __future__ import annotations

import email
import email.policy
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from core.errors import ExtractionFailed, TsumugiError
from core.table_text import write_row
from core.types import BlockKind, ExtractedDocument
from ingest.encoding import decode_text
from ingest.extract.builder import TextBuilder
from ingest.extract.html import extract_html
from ingest.extract.mail_quotes import RECEIVERS, Part, opening, split_quotes
from ingest.extract.text import text_blocks

Reader = Callable[[bytes, str], ExtractedDocument]
MAX_ATTACHMENTS = 200
_HEADERS = ("From", "To", "Cc", "Date")
_BODY_LEVEL = 2
_MAX_BODIES = 50
_STUB_SHARE = 0.4
_MAX_STUB_CHARS = 400
_STUB = re.compile(
    r"HTML|browser|view (?:it|this|the) |ブラウザ|表示できない|表示されない|対応していない|ご覧いただけ", re.IGNORECASE
)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(slots=True)
class _Mail:
    subject: str
    headers: list[tuple[str, str]]
    plain: list[str] = field(default_factory=list)
    html: list[bytes | str] = field(default_factory=list)
    attachments: list[tuple[str, bytes]] = field(default_factory=list)


def extract_eml(data: bytes, read: Reader, *, max_chars: int) -> ExtractedDocument:
    """Extract a mail. `read` extracts an attachment by content and name."""
    if data.startswith(_UTF16):
        data = data.decode("utf-16", errors="replace").encode()
    try:
        message = email.message_from_bytes(data, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        mail = _Mail(_header(message, "Subject"), [(name, _header(message, name)) for name in _HEADERS])
        _collect(message, mail)
    except (ValueError, LookupError, AttributeError, IndexError, TypeError) as error:
        raise ExtractionFailed(f"the mail cannot be read: {error}", code="broken_document") from error
    return _write(mail, read, "message/rfc822", "email", max_chars)


def extract_msg(data: bytes, read: Reader, *, max_chars: int) -> ExtractedDocument:
    """Extract an Outlook message.

    Raises:
        ExtractionFailed: `broken_document`, `encrypted_document`, `text_too_long`.
    """
    from oxmsg import Message

    try:
        message = Message.load(io.BytesIO(data))
        sent = message.sent_date
        receivers = ", ".join(f"{item.name} <{item.email_address}>" for item in message.recipients)
        mail = _Mail(
            message.subject or "",
            [("From", message.sender or ""), ("To", receivers), ("Date", sent.isoformat() if sent else "")],
            plain=[message.body] if message.body else [],
            html=[message.html_body] if message.html_body else [],
            attachments=[
                (item.file_name or "attachment", item.file_bytes) for item in message.attachments if item.file_bytes
            ],
        )
        protected = (message.message_class or "").lower().endswith((".smime", "rpmsg"))
    except MemoryError:
        raise
    except Exception as error:
        raise ExtractionFailed(f"the message cannot be read: {error}", code="broken_document") from error
    if any(name.lower().endswith((".rpmsg", ".p7m")) for name, _ in mail.attachments) or protected:
        raise ExtractionFailed("the message is encrypted; save it decrypted", code="encrypted_document")
    return _write(mail, read, "application/vnd.ms-outlook", "python-oxmsg", max_chars)


def _header(message: EmailMessage, name: str) -> str:
    """One header, decoded; raw bytes that no encoded word wraps are judged like any text."""
    try:
        value = str(message.get(name, ""))
    except (ValueError, LookupError, AttributeError, IndexError, TypeError):
        value = next((str(raw) for key, raw in message.raw_items() if key.lower() == name.lower()), "")
    value = " ".join(value.split())
    raw = value.encode("utf-8", "surrogateescape")
    if not any("\ud800" <= character <= "\udfff" for character in value):
        return value
    try:
        return decode_text(raw).text
    except ExtractionFailed:
        return raw.decode("utf-8", "replace")


def _collect(message: EmailMessage, mail: _Mail) -> None:
    stack: list[Any] = [message]
    while stack:
        part = stack.pop()
        kind = part.get_content_type()
        if kind == "message/rfc822" and part is not message:
            inner = part.get_payload()
            for item in inner if isinstance(inner, list) else []:
                mail.attachments.append(("message.eml", item.as_bytes()))
            continue
        if part.is_multipart():
            stack.extend(reversed(part.get_payload()))
            continue
        payload = part.get_payload(decode=True) or b""
        name = part.get_filename()
        if part.get_content_disposition() == "attachment" or (name and not kind.startswith("text/")):
            mail.attachments.append((name or "attachment", payload))
        elif kind == "text/html":
            mail.html.append(payload)
        elif kind.startswith("text/") and payload:
            mail.plain.append(decode_text(payload, declared=part.get_content_charset()).text)


def _write(mail: _Mail, read: Reader, media_type: str, engine: str, max_chars: int) -> ExtractedDocument:
    builder = TextBuilder(max_chars=max_chars)
    builder.add(BlockKind.HEADING, mail.subject, level=1)
    _write_headers([*mail.headers, ("Subject", mail.subject)], builder)
    plain = "\n\n".join(text.strip("\n") for text in mail.plain if text.strip())
    pages = [
        extract_html(page.encode() if isinstance(page, str) else page, max_chars=max_chars)
        for page in mail.html[:_MAX_BODIES]
    ]
    if pages and _is_stub(plain, sum(len(page.text) for page in pages)):
        for page in pages:
            _write_page(page, mail, builder)
    else:
        _write_plain(plain, mail, builder)
    report = _write_attachments(mail.attachments, read, builder)
    return builder.build(media_type, title=mail.subject or None, quality={"engine": engine, "attachments": report})


def _write_headers(headers: Sequence[tuple[str, str]], builder: TextBuilder) -> None:
    """Who wrote when and about what on one line, as one is asked with the other; those who got it on the next."""
    rows: list[list[tuple[str, str]]] = [[], []]
    for name, value in headers:
        rows[name.lower() in RECEIVERS].append((name, value))
    lines = [write_row([name for name, _ in row], [value for _, value in row]) for row in rows]
    builder.add(BlockKind.TABLE, "\n".join(line for line in lines if line))


def _is_stub(plain: str, page_chars: int) -> bool:
    """Whether the text only says that there is a page: empty, much shorter, or telling its reader to look elsewhere."""
    length = len(plain.strip())
    if length < _STUB_SHARE * page_chars:
        return True
    return length < _MAX_STUB_CHARS and length < page_chars and bool(_STUB.search(plain))


def _write_plain(text: str, mail: _Mail, builder: TextBuilder) -> None:
    for number, part in enumerate(split_quotes(text)):
        _write_opening(part, mail, builder, first=not number)
        words = "\n".join(part.lines).strip("\n")
        for block in text_blocks(words, titled=False):
            level = _BODY_LEVEL + (block.level or 1) if block.kind is BlockKind.HEADING else None
            builder.add(block.kind, words[block.start : block.end], level=level)


def _write_page(page: ExtractedDocument, mail: _Mail, builder: TextBuilder) -> None:
    """An HTML body; a paragraph that opens an earlier mail begins a section, as in a text."""
    for block in page.blocks:
        words = page.text[block.start : block.end]
        if block.kind is BlockKind.PARAGRAPH:
            lines = words.split("\n")
            opened = opening(lines)
            if opened is not None:
                _write_opening(opened[0], mail, builder)
                words = "\n".join(lines[opened[1] :])
        level = _BODY_LEVEL + (block.level or 1) if block.kind is BlockKind.HEADING else None
        builder.add(block.kind, words, level=level)


def _write_opening(part: Part, mail: _Mail, builder: TextBuilder, *, first: bool = False) -> None:
    """The heading of an earlier mail, or of the mail's own words where they go on below one."""
    words = mail.subject + builder.start
    japanese = any("\u3040" <= character <= "\u30ff" for character in words)
    if part.title is not None:
        before = "以前のメール" if japanese else "Earlier mail"
        builder.add(BlockKind.HEADING, f"{before}: {part.title}" if part.title else before, level=_BODY_LEVEL)
        _write_headers(part.headers, builder)
    elif not first:
        sender = next((value for name, value in mail.headers if name == "From"), "")
        builder.add(BlockKind.HEADING, f"{'返信' if japanese else 'Reply'}: {sender}".rstrip(": "), level=_BODY_LEVEL)


def _write_attachments(
    attachments: Sequence[tuple[str, bytes]], read: Reader, builder: TextBuilder
) -> list[dict[str, str | None]]:
    report: list[dict[str, str | None]] = []
    for index, (name, payload) in enumerate(attachments):
        code: str | None = None
        if index >= MAX_ATTACHMENTS:
            code = "too_many_attachments"
        else:
            try:
                document = read(payload, name)
            except TsumugiError as error:
                if error.code == "text_too_long":
                    raise
                code = error.code
            else:
                builder.add(BlockKind.HEADING, name, level=2)
                builder.include(document)
        report.append({"name": name[:200], "error": code})
    return report
