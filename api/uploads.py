"""Uploaded bytes, as multipart or as a raw body. Parts wait on disk; the limits of `api.limits` hold for all of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from email.message import Message
from pathlib import Path
from typing import Any, Final, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartParser

from api.schemas.base import is_storable, refuse_bad_text
from api.tenant_threads import TenantThreads
from core.access import Principal
from core.contents import IN_MEMORY_BYTES, Content, keep, size_of
from core.errors import FieldError, InvalidInput
from ingest.encoding import known_encoding

Result = TypeVar("Result")

MAX_FILES: Final = 1000
MAX_FIELDS: Final = 50
MAX_FIELD_BYTES: Final = 2**20
MultiPartParser.spool_max_size = 2**16  # of a part while it comes in: there may be MAX_FILES of them


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """One file of a request."""

    filename: str
    data: Content


@dataclass(frozen=True, slots=True)
class UploadForm:
    """Files named `file`, in order, and the plain fields; unknown fields are errors."""

    files: tuple[UploadedFile, ...]
    fields: dict[str, str]


def media_type_of(request: Request) -> str:
    """Content type without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def in_store(request: Request, caller: Principal, call: Callable[[], Result]) -> Result:
    """Run a call that stores bytes in one of the threads for that; a tenant has a share of them."""
    threads: TenantThreads = request.app.state.storing
    return await threads.run(caller.tenant_id, call)


async def read_form(request: Request, allowed_fields: Sequence[str], folder: Path) -> UploadForm:
    """Read a multipart form; what passes IN_MEMORY_BYTES, over all its files, waits in `folder`.

    Raises:
        InvalidInput: `invalid_request` for fields that are unknown, repeated or not text.
    """
    _refuse_odd_charset(request)
    async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES) as form:
        _refuse_unknown(form, allowed_fields)
        fields = {name: _text_field(form, name) for name in allowed_fields if name in form}
        files: list[UploadedFile] = []
        room = IN_MEMORY_BYTES
        for item in form.getlist("file"):
            if isinstance(item, str):
                raise refuse("file", "the part has no file name; send it as a file", "invalid_request")
            data = await run_in_threadpool(_kept, item, folder / str(len(files)), room)
            room -= size_of(data) if isinstance(data, bytes) else 0
            files.append(UploadedFile(item.filename or "", data))
    return UploadForm(tuple(files), fields)


def _kept(item: UploadFile, path: Path, room: int) -> Content:
    return item.file.read() if (item.size or 0) <= room else keep(item.file, path)


def _refuse_odd_charset(request: Request) -> None:
    """A `charset` of the form is used for names and fields: Python has codecs that raise what nobody expects."""
    header = Message()
    header["content-type"] = request.headers.get("content-type", "").replace("\x00", "")
    charset = header.get_param("charset")
    if charset is not None and known_encoding(str(charset)) is None:
        raise refuse("charset", "the form's charset is none that text is written in", "malformed_body")


def _refuse_unknown(form: FormData, allowed: Sequence[str]) -> None:
    for name in form:
        if name != "file" and name not in allowed:
            raise refuse(name[:100], f"unknown field; there are file, {', '.join(allowed)}", "invalid_request")


def _text_field(form: FormData, name: str) -> str:
    values = form.getlist(name)
    if len(values) > 1:
        raise refuse(name, "given more than once", "invalid_request")
    value = values[0]
    if isinstance(value, UploadFile):
        raise refuse(name, "a file was sent where text belongs", "invalid_request")
    if not is_storable(value):
        raise refuse(name, "text holds NUL or half of a surrogate pair", "invalid_text")
    return value


def parse_json_field(fields: dict[str, str], name: str, kind: type[list[Any]] | type[dict[str, Any]]) -> Any:
    """A form field that holds JSON of one kind; None when absent or empty.

    Raises:
        InvalidInput: `invalid_groups`, `invalid_metadata` ...: not JSON, or of another kind.
    """
    text = fields.get(name, "")
    if not text.strip():
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refuse(name, f"not JSON: {error}", f"invalid_{name}") from error
    if not isinstance(value, kind):
        wanted = "a list" if kind is list else "an object"
        raise refuse(name, f"must be {wanted} in JSON", f"invalid_{name}")
    try:
        refuse_bad_text(value)
    except ValueError as error:
        raise refuse(name, str(error), f"invalid_{name}") from error
    return value


def parse_date_field(fields: dict[str, str], name: str) -> date | None:
    """A form field that holds a day, such as 2025-04-01; None when absent or empty.

    Raises:
        InvalidInput: `invalid_date`: it is no such day.
    """
    text = fields.get(name, "").strip()
    if not text:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007 - a day has no zone
    except ValueError as error:
        raise refuse(name, "must be a day such as 2025-04-01", "invalid_date") from error


def refuse(field: str, detail: str, code: str) -> InvalidInput:
    """Error about one field of an upload."""
    return InvalidInput(f"{field}: {detail}", code=code, errors=[FieldError(f"body.{field}", detail, code)])


async def read_upload(request: Request, allowed_fields: Sequence[str], default_name: str, folder: Path) -> UploadForm:
    """Exactly one file, as multipart `file` or as the raw body (its name from Content-Disposition or `default_name`).

    Raises:
        InvalidInput: `missing_file`, and all of `read_form`.
    """
    if media_type_of(request) == "multipart/form-data":
        form = await read_form(request, allowed_fields, folder)
        if len(form.files) != 1:
            raise refuse("file", f"exactly one file is taken, {len(form.files)} came", "missing_file")
        return form
    data = await _body(request, folder / "body")
    if not size_of(data):
        raise refuse("file", "the body is empty; send the file as the body or as multipart `file`", "missing_file")
    name = _file_name(request.headers.get("content-disposition", "attachment")) or default_name
    fields = {name: request.query_params[name] for name in allowed_fields if name in request.query_params}
    return UploadForm((UploadedFile(name, data),), fields)


async def _body(request: Request, path: Path) -> Content:
    with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as spool:
        async for block in request.stream():
            await run_in_threadpool(spool.write, block)
        size = spool.tell()
        spool.seek(0)
        return spool.read() if size <= IN_MEMORY_BYTES else await run_in_threadpool(keep, spool, path)


def _file_name(disposition: str) -> str | None:
    """From a Content-Disposition; None where it holds none, or one in a charset that cannot be."""
    header = Message()
    try:
        header["content-disposition"] = disposition
        return header.get_filename()
    except (UnicodeError, LookupError, ValueError):  # filename*=idna''... and others that are no encodings of text
        return None
