"""Unpack an uploaded adapter. An archive is hostile until proven otherwise: nothing in it decides where bytes go."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from core.errors import AdapterRefused, TooLarge, UnsupportedFormat
from generation.adapters.manifest import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE, refuse_unsafe_files

MAX_MEMBERS = 256
MAX_TOTAL_BYTES = 2 * 2**30
MAX_TEXT_BYTES = 2**20
"""adapter_config.json and manifest.json are small; anything longer is not what it says."""

_WANTED = frozenset({CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE})


def unpack(data: bytes, folder: Path) -> None:
    """Write the adapter's own files from a .tar, .tar.gz or .zip into `folder`, flat; others (a README) are left out.

    Raises:
        UnsupportedFormat: it is no such archive.
        TooLarge: too many members or bytes.
        AdapterRefused: a pickle, a link or a path that leaves the archive (`adapter_unsafe_file`); files missing, or in
            more than one folder (`adapter_bad_config`).
    """
    folders: set[PurePosixPath] = set()
    seen: set[str] = set()
    try:
        for name, size, source in _members(data):
            path = _checked(name)
            refuse_unsafe_files([path.name])
            if path.name not in _WANTED or _is_hidden(path):
                continue
            if path.name != WEIGHTS_FILE and size > MAX_TEXT_BYTES:
                raise TooLarge(f"'{path.name}' has {size} bytes", extra={"limit": MAX_TEXT_BYTES, "actual": size})
            folders.add(path.parent)
            if path.name in seen or len(folders) > 1:
                raise AdapterRefused("the archive holds more than one adapter", code="adapter_bad_config")
            seen.add(path.name)
            _copy(source, folder / path.name, size)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise UnsupportedFormat(f"the archive cannot be read: {error}", code="unsupported_archive") from error
    missing = {CONFIG_FILE, WEIGHTS_FILE} - seen
    if missing:
        raise AdapterRefused(f"the archive has no {' and no '.join(sorted(missing))}", code="adapter_bad_config")


def _members(data: bytes) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and content of each regular file; sizes are bounded before anything is read."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        yield from _zip_members(data)
    else:
        yield from _tar_members(data)


def _zip_members(data: bytes) -> Iterator[tuple[str, int, IO[bytes]]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        _check_bounds(len(entries), sum(entry.file_size for entry in entries))
        for entry in entries:
            mode = entry.external_attr >> 16
            if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise AdapterRefused(f"'{entry.filename}' is a link or device", code="adapter_unsafe_file")
            if not entry.is_dir():
                with archive.open(entry) as source:
                    yield entry.filename, entry.file_size, source


def _tar_members(data: bytes) -> Iterator[tuple[str, int, IO[bytes]]]:
    count = total = 0
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|*") as archive:
        for entry in archive:
            count, total = count + 1, total + entry.size
            _check_bounds(count, total)
            if entry.isdir():
                continue
            if not entry.isreg():
                raise AdapterRefused(f"'{entry.name}' is a link or device", code="adapter_unsafe_file")
            source = archive.extractfile(entry)
            assert source is not None
            yield entry.name, entry.size, source


def _check_bounds(count: int, total: int) -> None:
    if count > MAX_MEMBERS:
        raise TooLarge(f"the archive has over {MAX_MEMBERS} members", extra={"limit": MAX_MEMBERS})
    if total > MAX_TOTAL_BYTES:
        raise TooLarge(f"the archive unpacks to over {MAX_TOTAL_BYTES} bytes", extra={"limit": MAX_TOTAL_BYTES})


def _checked(name: str) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.name or ":" in path.parts[0]:
        raise AdapterRefused(f"'{name}' points out of the archive", code="adapter_unsafe_file")
    return path


def _is_hidden(path: PurePosixPath) -> bool:
    """Apple's archiver adds `__MACOSX/._name` beside every file."""
    return any(part.startswith(("._", "__MACOSX")) for part in path.parts)


def _copy(source: IO[bytes], target: Path, size: int) -> None:
    left = size
    with target.open("wb") as file:
        while left > 0 and (piece := source.read(min(left, 2**20))):
            file.write(piece)
            left -= len(piece)
    if left or source.read(1):
        raise AdapterRefused(f"'{target.name}' is not as long as the archive says", code="adapter_unsafe_file")
