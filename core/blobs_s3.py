"""Blob store in an S3-compatible bucket (AWS, MinIO, Ceph, SeaweedFS), keyed by SHA-256 as the folder is.

An object appears whole or not at all, so a name that exists holds its bytes. What is read is compared with its name all
the same: an answer that a proxy has cut or a store has damaged is an error, not a document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from core.errors import NotFound, Unavailable
from core.settings import BlobSettings

_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})


class S3BlobStore:
    """Blobs as objects `PREFIXab/cdef...`. Thread-safe."""

    def __init__(self, settings: BlobSettings) -> None:
        """Connect lazily.

        Raises:
            Unavailable: `blob_store_misconfigured`: no bucket is named, or boto3 is not installed.
        """
        if settings.bucket is None:
            raise Unavailable("blobs.store = 's3' needs blobs.bucket", code="blob_store_misconfigured", retryable=False)
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise Unavailable(
                "blobs.store = 's3' needs boto3: install tsumugi[s3]", code="blob_store_misconfigured", retryable=False
            ) from error
        self._bucket = settings.bucket
        self._prefix = settings.prefix
        key_id, secret = settings.access_key_id, settings.secret_access_key
        # A session of its own: boto3's default one may not be made by two threads at once.
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=settings.endpoint_url,
            region_name=settings.region,
            aws_access_key_id=key_id.get_secret_value() if key_id else None,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            config=Config(
                connect_timeout=settings.connect_timeout_s,
                read_timeout=settings.read_timeout_s,
                retries={"total_max_attempts": settings.attempts, "mode": "standard"},
                max_pool_connections=32,
                s3={"addressing_style": "path" if settings.endpoint_url else "auto"},
                # Stores other than AWS need not know the newer checksum headers; the names are checksums already.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

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
        except _network_errors() as error:
            raise Unavailable(
                f"reading blob {digest[:12]} broke off: {error}", code="blob_store_unavailable"
            ) from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise Unavailable(f"blob {digest[:12]} is not what it was stored as", code="blob_damaged")
        return data

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
                    if _is_digest(digest):
                        yield digest, int(entry["Size"])
        except _network_errors() as error:
            raise Unavailable(f"the blob store does not list: {error}", code="blob_store_unavailable") from error

    def ping(self) -> str:
        """Raise Unavailable unless the bucket can be reached; returns its name."""
        try:
            self._client.head_bucket(Bucket=self._bucket)
        except _network_errors() as error:
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
        if not _is_digest(digest):
            raise NotFound(f"no blob {digest!r}")
        key = f"{self._prefix}{digest[:2]}/{digest[2:]}"
        try:
            return getattr(self._client, operation)(Bucket=self._bucket, Key=key, **arguments)
        except _network_errors() as error:
            response: dict[str, Any] = getattr(error, "response", {})
            if str(response.get("Error", {}).get("Code")) in _MISSING:
                raise NotFound(f"no blob {digest}") from error
            raise Unavailable(f"the blob store failed: {error}", code="blob_store_unavailable") from error


def _is_digest(digest: str) -> bool:
    return len(digest) == 64 and all(char in "0123456789abcdef" for char in digest)


def _network_errors() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    return (BotoCoreError, ClientError, HTTPError, OSError)
