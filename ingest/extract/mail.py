"""EML through the standard library, MSG through python-oxmsg: subject as heading, headers, body, then attachments.

An attachment is a section of the same document, under a heading with its name: who finds the passage also finds the
mail around it, and the mail's groups hold for both. One that cannot be read is named with its code in `quality`.
"""

from __future__ import annotations

import email
import email.policy
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from core.errors import ExtractionFailed, TsumugiError
from core.types import BlockKind, ExtractedDocument
from ingest.encoding import decode_text
from ingest.extract.builder import TextBuilder
from ingest.extract.html import extract_html

Reader = Callable[[bytes, str], ExtractedDocument]
MAX_ATTACHMENTS = 200
_HEADERS = ("From", "To", "Cc", "Date")
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
    builder.add(BlockKind.PARAGRAPH, "\n".join(f"{name}: {value}" for name, value in mail.headers if value))
    if any(text.strip() for text in mail.plain):
        for text in mail.plain:
            for paragraph in text.split("\n\n"):
                builder.add(BlockKind.PARAGRAPH, paragraph)
    else:
        for page in mail.html:
            raw = page.encode() if isinstance(page, str) else page
            builder.include(extract_html(raw, max_chars=max_chars))
    report = _write_attachments(mail.attachments, read, builder)
    return builder.build(media_type, title=mail.subject or None, quality={"engine": engine, "attachments": report})


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
