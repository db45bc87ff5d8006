"""Blob store in an S3-compatible bucket (AWS, MinIO, Ceph, SeaweedFS), keyed by SHA-256 as the folder is.

An object appears whole or not at all, so a name that exists holds its bytes. What is read is compared with its name all
the same: an answer that a proxy has cut or a store has damaged is an error, not a document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.blobs import copy_checked, is_digest
from core.errors import NotFound, Unavailable
from core.s3 import open_s3_client, s3_error_code, s3_errors
from core.settings import BlobSettings

_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})


class S3BlobStore:
    """Blobs as objects `PREFIXab/cdef...`. Thread-safe."""

    def __init__(self, settings: BlobSettings) -> None:
        """Connect lazily.

        Raises:
            Unavailable: `blob_store_misconfigured`: no bucket is named; `s3_client_missing`: boto3 is not installed.
        """
        if settings.bucket is None:
            raise Unavailable("blobs.store = 's3' needs blobs.bucket", code="blob_store_misconfigured", retryable=False)
        self._bucket = settings.bucket
        self._prefix = settings.prefix
        self._client: Any = open_s3_client(settings, "blobs.store = 's3'")

    def put(self, data: bytes) -> str:
        """Store bytes; returns their hex SHA-256.

        Raises:
            Unavailable: the store does not take them.
        """
        digest = hashlib.sha256(data).hexdigest()
        if self._size(digest) != len(data):
            self._call("put_object", digest, Body=data, ContentType="application/octet-stream")
        return digest

    def get(self, digest: str) -> bytes:
        """Read a blob.

        Raises:
            NotFound: it is not there.
            Unavailable: the store does not answer, or answers with other bytes.
        """
        answer = self._call("get_object", digest)
        try:
            data: bytes = answer["Body"].read()
        except s3_errors() as error:
            raise Unavailable(
                f"reading blob {digest[:12]} broke off: {error}", code="blob_store_unavailable"
            ) from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise Unavailable(f"blob {digest[:12]} is not what it was stored as", code="blob_damaged")
        return data

    def put_file(self, path: Path) -> str:
        """Store a file's bytes, in parts where it is large; returns their hex SHA-256.

        Raises:
            Unavailable: the store does not take them.
        """
        with path.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
            size = source.tell()
            if self._size(digest) != size:
                source.seek(0)
                key = self._key(digest)
                try:
                    self._client.upload_fileobj(source, self._bucket, key)
                except s3_errors() as error:
                    raise Unavailable(f"the blob store failed: {error}", code="blob_store_unavailable") from error
        return digest

    def copy_to(self, digest: str, path: Path) -> int:
        """Write a blob into a file; returns its size in bytes.

        Raises:
            NotFound: it is not there.
            Unavailable: the store does not answer, or `blob_damaged`: answers with other bytes.
        """
        answer = self._call("get_object", digest)
        try:
            return copy_checked(answer["Body"], digest, path)
        except s3_errors() as error:
            raise Unavailable(
                f"reading blob {digest[:12]} broke off: {error}", code="blob_store_unavailable"
            ) from error

    def exists(self, digest: str) -> bool:
        """Whether the blob is there."""
        return self._size(digest) is not None

    def delete(self, digest: str) -> None:
        """Drop a blob; an unknown one is ignored."""
        self._call("delete_object", digest)

    def list(self) -> Iterator[tuple[str, int]]:
        """Every blob with its size in bytes, for backup and doctor; other objects of the bucket are passed over."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        try:
            for page in pages:
                for entry in page.get("Contents", ()):
                    digest = str(entry["Key"]).removeprefix(self._prefix).replace("/", "", 1)
                    if is_digest(digest):
                        yield digest, int(entry["Size"])
        except s3_errors() as error:
            raise Unavailable(f"the blob store does not list: {error}", code="blob_store_unavailable") from error

    def ping(self) -> str:
        """Raise Unavailable unless the bucket can be reached; returns its name."""
        try:
            self._client.head_bucket(Bucket=self._bucket)
        except s3_errors() as error:
            raise Unavailable(f"the blob store does not answer: {error}", code="blob_store_unavailable") from error
        return self._bucket

    def close(self) -> None:
        """Give up connections."""
        self._client.close()

    def _size(self, digest: str) -> int | None:
        try:
            return int(self._call("head_object", digest)["ContentLength"])
        except NotFound:
            return None

    def _call(self, operation: str, digest: str, **arguments: Any) -> Any:
        if not is_digest(digest):
            raise NotFound(f"no blob {digest!r}")
        try:
            return getattr(self._client, operation)(Bucket=self._bucket, Key=self._key(digest), **arguments)
        except s3_errors() as error:
            if s3_error_code(error) in _MISSING:
                raise NotFound(f"no blob {digest}") from error
            raise Unavailable(f"the blob store failed: {error}", code="blob_store_unavailable") from error

    def _key(self, digest: str) -> str:
        return f"{self._prefix}{digest[:2]}/{digest[2:]}"
