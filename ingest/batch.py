"""A ZIP or TAR upload as the uploads of its members, each a document of its own with a stable name.

An archive that cannot be taken apart stays one upload: its job then fails with the code that says why, and it waits in
the failed inbox like any other file, instead of refusing the files that came with it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from core.archives import Budget
from core.contents import size_of
from core.environment import environment_fault
from core.errors import ExtractionFailed, InvalidInput, TooLarge
from core.names import one_spelling
from ingest.extract.archive import unpack_archive
from ingest.extract.detect import is_batch_archive
from ingest.upload import MAX_EXTERNAL_ID_CHARS, Upload, checked_upload


def unpacked(upload: Upload, folder: Path, *, max_bytes: int, budget: Budget | None = None) -> list[Upload]:
    """The members of an archive, or the upload itself when it is none, or cannot be taken apart.

    `external_id` of a member is ARCHIVE!/PATH, where ARCHIVE is the upload's own, else its file name: the same archive
    again replaces its members one by one, and leaves those alone that have not changed. Empty members are left out.
    folder: where members that are not small wait. budget: of the request, over all its archives.

    Raises:
        TooLarge: the archives of the request pass their budget.
        Unavailable: `storage_full`: there is no room for them.
    """
    try:
        if not is_batch_archive(upload.data, upload.filename):
            return [upload]
        members = unpack_archive(upload.data, folder, upload.encoding, budget)
    except ExtractionFailed as error:
        fault = environment_fault(error)
        if fault is not None:
            raise fault from error
        return [upload]
    prefix = upload.external_id or upload.filename
    parts: list[Upload] = []
    seen: set[str] = set()
    for member in members:
        external_id = one_spelling(f"{prefix}!/{member.path}")
        if not size_of(member.data) or external_id in seen or len(external_id) > MAX_EXTERNAL_ID_CHARS:
            if not size_of(member.data):
                continue
            return [upload]  # two members of one name, or names without end: not a batch that can be followed
        seen.add(external_id)
        metadata = None if upload.metadata is None else dict(upload.metadata)
        part = replace(upload, filename=member.path, data=member.data, external_id=external_id, metadata=metadata)
        try:
            parts.append(checked_upload(part, max_bytes=max_bytes))
        except (InvalidInput, TooLarge):
            return [upload]
    return parts
