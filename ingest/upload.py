"""One upload and the checks that need nothing but the upload itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from core.access import PUBLIC_GROUP
from core.contents import Content, size_of
from core.errors import FieldError, InvalidInput, TooLarge
from core.names import one_spelling
from core.repositories.documents import DEFAULT_COLLECTION
from ingest.encoding import MAX_ENCODING_NAME, known_encoding
from ingest.validity import NOTHING_SAID, Validity

MAX_FILENAME_CHARS = 255
MAX_EXTERNAL_ID_CHARS = 512
MAX_PASSWORD_CHARS = 256
MAX_GROUPS = 64
MAX_GROUP_CHARS = 200
MAX_METADATA_BYTES = 16 * 2**10
MAX_METADATA_KEYS = 64
_COLLECTION = re.compile(r"[^\W_][\w.\- ]{0,98}\Z")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls, and the direction marks that make `gpj.exe` read as `exe.jpg`."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One file with what the caller says about it.

    groups: an empty list opens it to the whole tenant; None does so for a new document, and keeps what a replaced one
    has. metadata: None likewise keeps what a replaced one has. encoding: what text is in, None to have it judged.
    password: opens what is encrypted among the bytes, before they are stored, and is itself stored nowhere.
    """

    filename: str
    data: Content
    external_id: str | None = None
    groups: Sequence[str] | None = None
    metadata: Mapping[str, Any] | None = None
    collection: str | None = None
    validity: Validity = NOTHING_SAID
    """When it holds and what it supersedes; what is not said stays as it is, and is found in the text of a new one."""
    encoding: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def collection_name(self) -> str:
        """The collection meant."""
        return self.collection or DEFAULT_COLLECTION


def checked_upload(upload: Upload, *, max_bytes: int) -> Upload:
    """The upload with a clean file name, or an error that names the field.

    Raises:
        TooLarge: more than `max_bytes`.
        InvalidInput: `empty_file`, `invalid_filename`, `invalid_collection`, `invalid_external_id`, `invalid_groups`,
            `invalid_metadata`, `invalid_validity`, `invalid_supersedes`, `encoding_unknown`, `invalid_password`.
    """
    filename = clean_filename(upload.filename)
    size = size_of(upload.data)
    if not size:
        raise _invalid("file", f"'{filename}' is empty", "empty_file")
    if size > max_bytes:
        raise TooLarge(
            f"'{filename}' has {size} bytes, the limit is {max_bytes}",
            extra={"limit": max_bytes, "actual": size},
        )
    if upload.password is not None and len(upload.password) > MAX_PASSWORD_CHARS:
        raise _invalid("password", f"at most {MAX_PASSWORD_CHARS} characters", "invalid_password")
    return replace(
        upload,
        filename=filename,
        encoding=_encoding(upload.encoding),
        password=upload.password or None,
        collection=checked_collection(upload.collection or DEFAULT_COLLECTION),
        external_id=_external_id(upload.external_id),
        groups=None if upload.groups is None else checked_groups(upload.groups),
        metadata=None if upload.metadata is None else checked_metadata(upload.metadata),
        validity=_validity(upload),
    )


def clean_filename(name: str) -> str:
    """Last path component in NFC without control or direction characters, at most 255 long, extension kept."""
    name = one_spelling(name).replace("\\", "/").rsplit("/", 1)[-1]
    name = _UNPRINTABLE.sub("", name).strip()
    if name in {"", ".", ".."}:
        raise _invalid("filename", "a file needs a name", "invalid_filename")
    if len(name) > MAX_FILENAME_CHARS:
        stem, dot, suffix = name.rpartition(".")
        keep = suffix if dot and len(suffix) <= 16 else ""
        name = (stem or name)[: MAX_FILENAME_CHARS - len(keep) - 1] + (f".{keep}" if keep else "")
    return name


def checked_collection(name: str) -> str:
    """A collection's name in NFC.

    Raises:
        InvalidInput: `invalid_collection`.
    """
    name = one_spelling(name).strip()
    if not _COLLECTION.match(name):
        raise _invalid(
            "collection",
            "1 to 99 letters, digits, spaces, dots, dashes or underscores, a letter or digit first",
            "invalid_collection",
        )
    return name


def checked_supersedes(value: str) -> str:
    """A document id or an external id in NFC.

    Raises:
        InvalidInput: `invalid_supersedes`.
    """
    value = one_spelling(value)
    if not value or len(value) > MAX_EXTERNAL_ID_CHARS or _UNPRINTABLE.search(value):
        detail = f"a document id or external id of 1 to {MAX_EXTERNAL_ID_CHARS} printable characters"
        raise _invalid("supersedes", detail, "invalid_supersedes")
    return value


def _validity(upload: Upload) -> Validity:
    said = upload.validity
    if said.valid_from is not None and said.valid_until is not None and said.valid_until < said.valid_from:
        detail = f"{said.valid_until} is before valid_from {said.valid_from}"
        raise _invalid("valid_until", detail, "invalid_validity")
    if said.supersedes is None:
        return said
    supersedes = checked_supersedes(said.supersedes)
    if supersedes == _external_id(upload.external_id):
        raise _invalid("supersedes", "a document cannot take its own place", "invalid_supersedes")
    return replace(said, supersedes=supersedes)


def _encoding(name: str | None) -> str | None:
    if name is None or not name.strip():
        return None
    known = known_encoding(name)
    if known is None:
        raise _invalid(
            "encoding",
            f"{name[:MAX_ENCODING_NAME]!r} is no encoding of text; name one such as cp932, euc-jp, iso-2022-jp, utf-8",
            "encoding_unknown",
        )
    return known


def _external_id(value: str | None) -> str | None:
    if value is None or value == "":
        return None
    value = one_spelling(value)
    if len(value) > MAX_EXTERNAL_ID_CHARS or _UNPRINTABLE.search(value):
        raise _invalid("external_id", f"at most {MAX_EXTERNAL_ID_CHARS} printable characters", "invalid_external_id")
    return value


def checked_groups(groups: Sequence[str]) -> tuple[str, ...]:
    """Group names, sorted; none for the whole tenant. Raises InvalidInput `invalid_groups`."""
    if isinstance(groups, str) or len(groups) > MAX_GROUPS:
        raise _invalid("groups", f"a list of at most {MAX_GROUPS} group names", "invalid_groups")
    for group in groups:
        bad = not isinstance(group, str) or not group.strip() or len(group) > MAX_GROUP_CHARS
        if bad or _UNPRINTABLE.search(group):
            raise _invalid("groups", f"a group name has 1 to {MAX_GROUP_CHARS} printable characters", "invalid_groups")
    return () if PUBLIC_GROUP in groups else tuple(sorted(set(map(one_spelling, groups))))


def checked_metadata(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Metadata as a new mapping. Raises InvalidInput `invalid_metadata`."""
    if not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
        raise _invalid("metadata", "a JSON object", "invalid_metadata")
    try:
        size = len(json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode("utf-8"))
    except (TypeError, ValueError, RecursionError) as error:
        raise _invalid("metadata", f"not JSON: {error}", "invalid_metadata") from error
    if size > MAX_METADATA_BYTES or len(metadata) > MAX_METADATA_KEYS:
        raise _invalid(
            "metadata", f"at most {MAX_METADATA_KEYS} keys and {MAX_METADATA_BYTES} bytes of JSON", "invalid_metadata"
        )
    return dict(metadata)


def _invalid(location: str, detail: str, code: str) -> InvalidInput:
    return InvalidInput(detail, code=code, errors=[FieldError(location, detail, code)])
