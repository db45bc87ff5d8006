"""Unpack an uploaded adapter. An archive is hostile until proven otherwise: nothing in it decides where bytes go."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path, PurePosixPath

from core.archives import Member, Unpack, Wanted
from core.archives import unpack as unpack_here
from core.contents import Content
from core.errors import AdapterRefused, ExtractionFailed, TooLarge, Unavailable, UnsupportedFormat
from generation.adapters.manifest import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE, refuse_unsafe_files

MAX_MEMBERS = 256
MAX_TOTAL_BYTES = 2 * 2**30
MAX_TEXT_BYTES = 2**20
"""adapter_config.json and manifest.json are small; anything longer is not what it says."""

MAX_NAMED = 100
"""Files left out that are named."""

_WANTED = frozenset({CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE})
_CHECKPOINT = re.compile(r"checkpoint-[0-9]{1,12}")
_TRAINERS = re.compile(
    r"(?:optimizer|scheduler)\.(?:pt|bin)|scaler\.pt|training_args\.bin|rng_state(?:_[0-9]{1,6})?\.pth|"
    r"random_states_[0-9]{1,6}\.pkl"
)
"""State that Trainer, TRL and Accelerate put beside what they trained: pickles, never read, of no use for serving."""


def unpack(content: Content, folder: Path, take: Unpack = unpack_here) -> list[str]:
    """Write the adapter's own files from a .tar, .tar.gz or .zip into `folder`, flat; others (a README) are left out.

    An output folder of a trainer is taken as it is: without the state of its optimiser, and without its checkpoints
    where an adapter is beside them. Returns the names of what was left out, the first MAX_NAMED of them.

    take: takes archives apart; services do so in a child process with limits.

    Raises:
        UnsupportedFormat: it is no such archive.
        TooLarge: too many members or bytes.
        AdapterRefused: a pickle, a link or a path that leaves the archive (`adapter_unsafe_file`); files missing, or in
            more than one folder (`adapter_bad_config`).
        Unavailable: it cannot be taken apart now.
    """
    left_out: list[str] = []
    found: dict[PurePosixPath, Path] = {}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".parts-") as work:
        for member in _members(content, Path(work), take):
            path = _checked(member.name)
            if _is_hidden(path):
                continue
            if path.name not in _WANTED or member.path is None:
                if not is_trainer_state(path.name):
                    refuse_unsafe_files([path.name])
                left_out.append(str(path))
                continue
            if path.name != WEIGHTS_FILE and member.size > MAX_TEXT_BYTES:
                raise TooLarge(
                    f"'{path.name}' has {member.size} bytes", extra={"limit": MAX_TEXT_BYTES, "actual": member.size}
                )
            part = found.setdefault(path.parent, Path(work) / f"part-{len(found)}")
            part.mkdir(exist_ok=True)
            if (part / path.name).exists():
                raise AdapterRefused(f"the archive holds '{path}' twice", code="adapter_bad_config")
            member.path.rename(part / path.name)
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


def _members(content: Content, folder: Path, take: Unpack) -> list[Member]:
    wanted = Wanted(MAX_TOTAL_BYTES, MAX_MEMBERS, MAX_TOTAL_BYTES, MAX_MEMBERS, only=tuple(sorted(_WANTED)))
    try:
        return take(content, folder, wanted)
    except ExtractionFailed as error:
        if error.retryable:
            raise Unavailable(error.detail, code=error.code) from error
        if error.code == "zip_bomb":
            raise TooLarge(error.detail, extra={"limit": MAX_TOTAL_BYTES}) from error
        if error.code == "unsafe_archive":
            raise AdapterRefused(error.detail, code="adapter_unsafe_file") from error
        raise UnsupportedFormat(error.detail, code="unsupported_archive") from error


def _checked(name: str) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.name or ":" in path.parts[0]:
        raise AdapterRefused(f"'{name}' points out of the archive", code="adapter_unsafe_file")
    return path


def _is_hidden(path: PurePosixPath) -> bool:
    """Apple's archiver adds `__MACOSX/._name` beside every file."""
    return any(part.startswith(("._", "__MACOSX")) for part in path.parts)
