"""Where backups are kept: a tar file, a folder, or `s3://BUCKET/PREFIX`. Written whole or not at all.

A tar file and a folder appear under their names by a rename. A bucket has none: there the card comes last, and a place
without a card holds no backup.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from cli.backup.card import BLOB_NAME, CARD, FILE_NAME
from cli.buckets import SCHEME, bucket_name
from core.errors import InvalidInput, Unavailable
from core.s3 import open_s3_client, s3_error_code, s3_errors
from core.settings import Settings

SPARE_BYTES = 256 * 2**20
"""Left free on the disk when an archive is unpacked."""

_COMPRESSED = (".tar.gz", ".tgz")
_PLAIN = (".tar",)


class Target(Protocol):
    """A backup that is being written."""

    def add(self, name: str, path: Path) -> None:
        """Take a copy of a file."""
        ...


class _Tar:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def add(self, name: str, path: Path) -> None:
        with path.open("rb") as file:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = os.fstat(file.fileno()).st_size, 0o600, int(path.stat().st_mtime)
            self._tar.addfile(entry, file)


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, name: str, path: Path) -> None:
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copyfile(path, target)
        target.chmod(0o600)


class _Bucket:
    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self._client, self._bucket, self._prefix = client, bucket, prefix
        self.written: list[str] = []

    def add(self, name: str, path: Path) -> None:
        self._client.upload_file(str(path), self._bucket, self._prefix + name)
        self.written.append(self._prefix + name)

    def drop(self) -> None:
        for key in self.written:
            self._client.delete_object(Bucket=self._bucket, Key=key)


@contextmanager
def written(place: str, settings: Settings) -> Iterator[Target]:
    """Write a backup in the block; it is there when the block ends well, and nothing of it when it does not.

    Raises:
        InvalidInput: `backup_exists`: a folder or prefix that holds something. A tar file is replaced.
        Unavailable: `backup_place_unavailable`: the bucket cannot be written.
    """
    if place.startswith(SCHEME):
        with _bucket(place, settings) as (client, bucket, prefix):
            if client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents"):
                raise InvalidInput(f"{place} holds something already", code="backup_exists")
            target = _Bucket(client, bucket, prefix)
            try:
                yield target
            except BaseException:
                target.drop()
                raise
        return
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((*_COMPRESSED, *_PLAIN)):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
        os.close(handle)
        try:
            # The lowest level: blobs are mostly compressed already, and rows shrink well at any.
            options: dict[str, Any] = {"compresslevel": 1} if path.name.endswith(_COMPRESSED) else {}
            mode = "w:gz" if options else "w"
            with tarfile.open(temporary, mode, **options) as tar:  # type: ignore[call-overload]
                yield _Tar(tar)
            _sync(Path(temporary))
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InvalidInput(f"{path} holds something already", code="backup_exists")
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))  # mode 0700
    try:
        yield _Folder(folder)
        folder.replace(path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def opened(place: str, settings: Settings, work: Path) -> Iterator[Path]:
    """A folder with the files of a backup; unpacked or fetched into `work` where it is none.

    Raises:
        InvalidInput: `backup_unreadable`: it cannot be read, or names what no backup holds.
        Unavailable: `backup_place_unavailable`; `storage_full`: there is no room to unpack it.
    """
    if place.startswith(SCHEME):
        with _bucket(place, settings) as (client, bucket, prefix):
            _fetch(client, bucket, prefix, work)
        yield work
        return
    path = Path(place)
    if path.is_dir():
        yield path
        return
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.isreg() or not _is_ours(member.name):
                    raise InvalidInput(
                        f"{path} holds '{member.name[:100]}', which no backup does", code="backup_unreadable"
                    )
                _require_room(work, member.size)
                tar.extract(member, work, filter="data")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise InvalidInput(f"{path} is no readable archive of ours: {error}", code="backup_unreadable") from error
    yield work


def _fetch(client: Any, bucket: str, prefix: str, work: Path) -> None:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", ()):
            name = str(entry["Key"]).removeprefix(prefix)
            if not _is_ours(name):
                raise InvalidInput(f"the bucket holds '{name[:100]}', which no backup does", code="backup_unreadable")
            _require_room(work, int(entry["Size"]))
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, str(entry["Key"]), str(work / name))


@contextmanager
def _bucket(place: str, settings: Settings) -> Iterator[tuple[Any, str, str]]:
    bucket, prefix = bucket_name(place)
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    client = open_s3_client(settings.s3, "a bucket for backups")
    try:
        yield client, bucket, prefix
    except s3_errors() as error:
        raise Unavailable(
            f"{place} does not answer as it should ({s3_error_code(error)}): {error}", code="backup_place_unavailable"
        ) from error
    finally:
        client.close()


def _is_ours(name: str) -> bool:
    return name == CARD or bool(FILE_NAME.fullmatch(name) or BLOB_NAME.fullmatch(name))


def _require_room(folder: Path, size: int) -> None:
    if shutil.disk_usage(folder).free < size + SPARE_BYTES:
        raise Unavailable(f"{folder} has no room for another {size} bytes", code="storage_full")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
