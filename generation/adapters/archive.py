"""Unpack an uploaded adapter. An archive is hostile until proven otherwise: nothing in it decides where bytes go."""

from __future__ import annotations

import gzip
import re
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from core.archives import ArchiveTooLarge, GuardedHeader, open_zip
from core.contents import Content, opened
from core.errors import AdapterRefused, TooLarge, UnsupportedFormat
from generation.adapters.manifest import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE, refuse_unsafe_files

MAX_MEMBERS = 256
MAX_TOTAL_BYTES = 2 * 2**30
MAX_TEXT_BYTES = 2**20
"""adapter_config.json and manifest.json are small; anything longer is not what it says."""

MAX_NAMED = 100
"""Files left out that are named."""

_GZIP = b"\x1f\x8b"
_WANTED = frozenset({CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE})
_CHECKPOINT = re.compile(r"checkpoint-[0-9]{1,12}")
_TRAINERS = re.compile(
    r"(?:optimizer|scheduler)\.(?:pt|bin)|scaler\.pt|training_args\.bin|rng_state(?:_[0-9]{1,6})?\.pth|"
    r"random_states_[0-9]{1,6}\.pkl"
)
"""State that Trainer, TRL and Accelerate put beside what they trained: pickles, never read, of no use for serving."""


def unpack(content: Content, folder: Path) -> list[str]:
    """Write the adapter's own files from a .tar, .tar.gz or .zip into `folder`, flat; others (a README) are left out.

    An output folder of a trainer is taken as it is: without the state of its optimiser, and without its checkpoints
    where an adapter is beside them. Returns the names of what was left out, the first MAX_NAMED of them.

    Raises:
        UnsupportedFormat: it is no such archive.
        TooLarge: too many members or bytes.
        AdapterRefused: a pickle, a link or a path that leaves the archive (`adapter_unsafe_file`); files missing, or in
            more than one folder (`adapter_bad_config`).
    """
    left_out: list[str] = []
    found: dict[PurePosixPath, Path] = {}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".parts-") as work:
        try:
            for name, size, source in _members(content):
                path = _checked(name)
                if _is_hidden(path):
                    continue
                if path.name not in _WANTED:
                    if not is_trainer_state(path.name):
                        refuse_unsafe_files([path.name])
                    left_out.append(str(path))
                    continue
                if path.name != WEIGHTS_FILE and size > MAX_TEXT_BYTES:
                    raise TooLarge(f"'{path.name}' has {size} bytes", extra={"limit": MAX_TEXT_BYTES, "actual": size})
                part = found.setdefault(path.parent, Path(work) / str(len(found)))
                part.mkdir(exist_ok=True)
                if (part / path.name).exists():
                    raise AdapterRefused(f"the archive holds '{path}' twice", code="adapter_bad_config")
                _copy(source, part / path.name, size)
        except ArchiveTooLarge as error:
            raise TooLarge(f"the archive is not taken: {error}", extra={"limit": MAX_MEMBERS}) from error
        except (
            tarfile.TarError,
            zlib.error,
            zipfile.BadZipFile,
            EOFError,
            OSError,
            RuntimeError,
            NotImplementedError,
        ) as error:
            raise UnsupportedFormat(f"the archive cannot be read: {error}", code="unsupported_archive") from error
        chosen = _the_adapter(list(found))
        for parent, part in found.items():
            for file in sorted(part.iterdir()):
                if parent == chosen:
                    file.rename(folder / file.name)
                else:
                    left_out.append(str(parent / file.name))
    missing = sorted(name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file())
    if missing:
        raise AdapterRefused(f"the archive has no {' and no '.join(missing)}", code="adapter_bad_config")
    return sorted(left_out)[:MAX_NAMED]


def is_trainer_state(name: str) -> bool:
    """Whether a file name is of the state that trainers keep beside what they trained."""
    return _TRAINERS.fullmatch(name) is not None


def _the_adapter(parents: list[PurePosixPath]) -> PurePosixPath | None:
    """The folder of the archive that is the adapter, the only one but for checkpoints beside it; None: no folder is."""
    own = [one for one in parents if not (_CHECKPOINT.fullmatch(one.name) and one.parent in parents)]
    if len(own) > 1:
        names = ", ".join(f"'{one}'" for one in sorted(own)[:5])
        raise AdapterRefused(f"the archive holds more than one adapter: {names}", code="adapter_bad_config")
    return own[0] if own else None


def _members(content: Content) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and content of each regular file; sizes are bounded before anything is read."""
    with opened(content) as file:
        zipped = zipfile.is_zipfile(file)
        file.seek(0)
        yield from _zip_members(file) if zipped else _tar_members(file)


def _zip_members(file: IO[bytes]) -> Iterator[tuple[str, int, IO[bytes]]]:
    with open_zip(file) as archive:
        entries = archive.infolist()
        _check_bounds(len(entries), sum(entry.file_size for entry in entries))
        for entry in entries:
            mode = entry.external_attr >> 16
            if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise AdapterRefused(f"'{entry.filename}' is a link or device", code="adapter_unsafe_file")
            if not entry.is_dir():
                with archive.open(entry) as source:
                    yield entry.filename, entry.file_size, source


def _tar_members(file: IO[bytes]) -> Iterator[tuple[str, int, IO[bytes]]]:
    count = total = 0
    stream: Any = file
    packed = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    if packed:  # no other compression: their decoders take the memory that a header asks for
        stream = gzip.GzipFile(fileobj=file)
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=GuardedHeader) as archive:
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
