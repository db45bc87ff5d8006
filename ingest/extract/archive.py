"""Archives as batches: each member of a ZIP, TAR or TAR.GZ becomes a document of its own when the archive is uploaded.

Members are named, never written: a path in an archive is a label here, whatever it says, and an archive with a link or
a device in it is refused. Archives inside archives are not opened; they become documents that fail with
`nested_archive`, so that a quine unpacks once and no further.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from core.archives import Member, Wanted, check, unpack
from core.contents import Content
from core.errors import ExtractionFailed
from ingest.extract.detect import is_batch_archive

MAX_ARCHIVE_MEMBERS = 2_000
MAX_ARCHIVE_BYTES = 512 * 2**20
_MAX_RATIO = 200
ALL = Wanted(MAX_ARCHIVE_BYTES, MAX_ARCHIVE_MEMBERS, MAX_ARCHIVE_BYTES, MAX_ARCHIVE_MEMBERS, _MAX_RATIO)


def unpack_wanted(archive: Content, folder: Path, wanted: Wanted) -> list[Member]:
    """`core.archives.unpack`; where a batch is wanted, of nothing else. Runs in the extraction child.

    Raises:
        ExtractionFailed: as there, or `not_a_batch`.
    """
    if wanted.batch is not None and not is_batch_archive(archive, wanted.batch):
        raise ExtractionFailed("it is a document, or named as one", code="not_a_batch")
    return unpack(archive, folder, wanted)


def label_of(name: str, index: int) -> str:
    """What a member is called: relative, without dots, slashes forward."""
    parts = [part for part in name.replace("\\", "/").split("/") if part.strip() not in {"", ".", ".."}]
    return "/".join(parts) or f"member-{index + 1}"


def refuse_archive(data: bytes) -> NoReturn:
    """Say why an archive that came as one document was not taken apart.

    Raises:
        ExtractionFailed: as `core.archives.unpack`, `empty_archive`, else `nested_archive`.
    """
    if not check(data, ALL):
        raise ExtractionFailed("there is no file with content in the archive", code="empty_archive")
    raise ExtractionFailed(
        "an archive inside an archive or a mail is not opened; upload it alone", code="nested_archive"
    )
