"""The folder blob store."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from core.blobs import FolderBlobStore
from core.errors import NotFound


def test_bytes_come_back_and_are_stored_once(tmp_path: Path) -> None:
    store = FolderBlobStore(tmp_path)
    digest = store.put(b"data")
    before = store.path_of(digest).stat().st_ino
    assert digest == hashlib.sha256(b"data").hexdigest() == store.put(b"data")
    assert (store.get(digest), store.exists(digest)) == (b"data", True)
    assert store.path_of(digest).stat().st_ino == before
    store.delete(digest)
    store.delete(digest)
    with pytest.raises(NotFound):
        store.get(digest)


@pytest.mark.parametrize("damaged", [b"", b"dat", b"dota"])
def test_a_damaged_file_is_replaced_by_the_next_put(tmp_path: Path, damaged: bytes) -> None:
    store = FolderBlobStore(tmp_path)
    digest = store.put(b"data")
    store.path_of(digest).write_bytes(damaged)
    store.put(b"data")
    assert store.get(digest) == b"data"


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63])
def test_only_digests_name_blobs(tmp_path: Path, digest: str) -> None:
    with pytest.raises(NotFound):
        FolderBlobStore(tmp_path).path_of(digest)


def test_what_a_killed_process_was_writing_is_dropped(tmp_path: Path) -> None:
    store = FolderBlobStore(tmp_path)
    digest = store.put(b"whole")
    unfinished = store.path_of(digest).parent / ".new-cut"
    unfinished.write_bytes(b"ha")
    assert store.drop_unfinished() == 1 and not unfinished.exists()
    assert store.get(digest) == b"whole" and store.drop_unfinished() == 0
