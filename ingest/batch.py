"""A ZIP or TAR upload as the uploads of its members, each a document of its own with a stable name.

What may be an archive is told here by its first bytes and its name; all else about it is found out in a child process
with limits. An archive that cannot be taken apart stays one upload: its job then fails with the code that says why, and
it waits in the failed inbox like any other file, instead of refusing the files that came with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from core.archives import Unpack
from core.contents import on_disk
from core.errors import ExtractionFailed, InvalidInput, TooLarge, Unavailable
from core.names import one_spelling
from ingest.extract.archive import ALL, MAX_ARCHIVE_BYTES, MAX_ARCHIVE_MEMBERS, label_of
from ingest.extract.detect import may_be_batch
from ingest.upload import MAX_EXTERNAL_ID_CHARS, Upload, checked_upload


@dataclass(slots=True)
class Budget:
    """What all archives of one request may unpack to together: as much as one alone, in twice as many files."""

    bytes: int = MAX_ARCHIVE_BYTES
    members: int = 2 * MAX_ARCHIVE_MEMBERS
    room: Callable[[int], int] = lambda size: size
    """How much of so many bytes there is room for on the disk.

    Raises:
        Unavailable: `storage_full`: for nothing.
    """


def unpacked(
    upload: Upload, folder: Path, unpack: Unpack, *, max_bytes: int, budget: Budget | None = None
) -> list[Upload]:
    """The members of an archive, or the upload itself when it is none, or cannot be taken apart.

    `external_id` of a member is ARCHIVE!/PATH, where ARCHIVE is the upload's own, else its file name: the same archive
    again replaces its members one by one, and leaves those alone that have not changed. Empty members are left out.
    folder: where the members wait. budget: of the request, over all its archives.

    Raises:
        TooLarge: the archives of the request pass their budget.
        Unavailable: there is no room for them on the disk, or no process to unpack them.
    """
    if not may_be_batch(upload.data, upload.filename):
        return [upload]
    budget = budget or Budget()
    room = budget.room(budget.bytes)
    wanted = replace(ALL, left_bytes=room, left_members=budget.members, encoding=upload.encoding, batch=upload.filename)
    try:
        members = unpack(upload.data, folder, wanted)
    except ExtractionFailed as error:
        if error.retryable:
            raise Unavailable(error.detail, code=error.code) from error
        if error.code != "over_budget":
            return [upload]
        if room < budget.bytes:
            raise Unavailable("the disk has no room for what the archive holds", code="storage_full") from error
        raise TooLarge(
            "the archives of one request unpack to more than is taken; send them one by one",
            extra={"limit": MAX_ARCHIVE_BYTES},
        ) from error
    budget.bytes -= sum(member.size for member in members)
    budget.members -= len(members)
    prefix = upload.external_id or upload.filename
    parts: list[Upload] = []
    seen: set[str] = set()
    for index, member in enumerate(members):
        if not member.size or member.path is None:
            continue
        label = label_of(member.name, index)
        external_id = one_spelling(f"{prefix}!/{label}")
        if external_id in seen or len(external_id) > MAX_EXTERNAL_ID_CHARS:
            return [upload]  # two members of one name, or names without end: not a batch that can be followed
        seen.add(external_id)
        metadata = None if upload.metadata is None else dict(upload.metadata)
        part = replace(upload, filename=label, data=on_disk(member.path), external_id=external_id, metadata=metadata)
        try:
            parts.append(checked_upload(part, max_bytes=max_bytes))
        except (InvalidInput, TooLarge):
            return [upload]
    return parts or [upload]
