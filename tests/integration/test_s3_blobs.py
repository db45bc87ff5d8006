"""The S3 blob store against a real S3 protocol server; the folder store answers the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.blobs import FolderBlobStore, open_blobs
from core.blobs_s3 import S3BlobStore
from core.errors import NotFound, Unavailable
from core.ports import BlobStore
from core.settings import BlobSettings, load_settings

UNKNOWN = "ab" * 32


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "folder":
        return FolderBlobStore(tmp_path)
    return S3BlobStore(request.getfixturevalue("s3_settings"))


def test_what_is_stored_is_read_back(store: BlobStore) -> None:
    for data in (b"", b"\x00\xff" * 1000, "紬".encode()):
        digest = store.put(data)
        assert store.put(data) == digest
        assert store.exists(digest)
        assert store.get(digest) == data
        store.delete(digest)
        store.delete(digest)
        assert not store.exists(digest)
        with pytest.raises(NotFound):
            store.get(digest)


def test_a_name_that_is_no_digest_reaches_nothing(store: BlobStore) -> None:
    for name in ("../../etc/passwd", "AB" * 32, "", UNKNOWN[:-1]):
        with pytest.raises(NotFound):
            store.get(name)


def test_bytes_that_the_store_changed_are_not_believed(s3_settings: BlobSettings) -> None:
    store = S3BlobStore(s3_settings)
    digest = store.put(b"what was uploaded")
    key = f"tsumugi/{digest[:2]}/{digest[2:]}"
    store._client.put_object(Bucket=s3_settings.bucket, Key=key, Body=b"what is there now")
    with pytest.raises(Unavailable) as caught:
        store.get(digest)
    assert caught.value.code == "blob_damaged"
    store._client.put_object(Bucket=s3_settings.bucket, Key=key, Body=b"cut")
    assert store.put(b"what was uploaded") == digest  # another length: written again
    assert store.get(digest) == b"what was uploaded"


def test_listing_passes_over_what_is_not_ours(s3_settings: BlobSettings) -> None:
    store = S3BlobStore(s3_settings)
    wanted = {(store.put(text.encode()), len(text.encode())) for text in ("one", "two", "三")}
    store._client.put_object(Bucket=s3_settings.bucket, Key="tsumugi/README", Body=b"x")
    store._client.put_object(Bucket=s3_settings.bucket, Key="elsewhere/ab", Body=b"x")
    assert set(store.list()) == wanted


def test_a_store_that_is_away_or_wrongly_set_up_says_so(s3_settings: BlobSettings) -> None:
    away = S3BlobStore(s3_settings.model_copy(update={"endpoint_url": "http://127.0.0.1:9", "connect_timeout_s": 1.0}))
    for call in (lambda: away.put(b"x"), lambda: away.get(UNKNOWN), away.ping, lambda: list(away.list())):
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.code == "blob_store_unavailable"
        assert caught.value.retryable
    with pytest.raises(Unavailable):
        S3BlobStore(s3_settings.model_copy(update={"bucket": "b-missing"})).ping()
    with pytest.raises(Unavailable) as caught:
        open_blobs(load_settings(blobs={"store": "s3"}))
    assert caught.value.code == "blob_store_misconfigured"
