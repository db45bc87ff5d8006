"""Buckets of S3-compatible stores as sources: `s3://BUCKET/PREFIX`. What has not changed is not read.

A store names the content of an object by its ETag; with the size it is the revision that tells whether an object has
changed. It is no digest of the bytes (a multipart upload has another ETag for the same bytes), so a new revision only
means that the bytes are read and sent, and the service then says whether they are new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from cli.output import CommandFailed
from cli.sources import SourceDocument, Unreadable
from core.s3 import open_s3_client, s3_error_code, s3_errors
from core.settings import Settings

SCHEME = "s3://"


def bucket_name(url: str) -> tuple[str, str]:
    """(bucket, prefix) of `s3://BUCKET/PREFIX`.

    Raises:
        CommandFailed: it is none.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise CommandFailed(f"'{url}' is no address of a bucket: s3://BUCKET/PREFIX", exit_code=2)
    return parts.netloc, parts.path.lstrip("/")


def bucket_documents(url: str, settings: Settings) -> Iterator[SourceDocument]:
    """Every object below a prefix; keys are paths below it. Folder marks, empty objects and hidden names are left out.

    A prefix means a folder: `s3://b/rules` holds `rules/a.pdf`, not `rules-old/a.pdf`.

    Raises:
        CommandFailed: the bucket cannot be listed: nothing is deleted then.
        Unavailable: `s3_client_missing`.
    """
    bucket, prefix = bucket_name(url)
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    client = open_s3_client(settings.s3, "a bucket as a source")
    try:
        yield from _objects(client, bucket, prefix, settings.http.max_upload_bytes)
    except s3_errors() as error:
        raise CommandFailed(f"{url} cannot be listed ({s3_error_code(error)}): {error}") from error
    finally:
        client.close()


def _objects(client: Any, bucket: str, prefix: str, max_bytes: int) -> Iterator[SourceDocument]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", ()):
            key = str(entry["Key"])
            path = PurePosixPath(key.removeprefix(prefix))
            if key.endswith("/") or not entry["Size"] or any(part.startswith(".") for part in path.parts):
                continue
            etag = str(entry["ETag"]).strip('"')
            yield SourceDocument(
                key=key.removeprefix(prefix),
                filename=path.name,
                sha256=None,
                read=_reader(client, bucket, key, int(entry["Size"]), max_bytes),
                revision=f"{etag}:{entry['Size']}",
            )


def _reader(client: Any, bucket: str, key: str, size: int, max_bytes: int) -> Callable[[], bytes]:
    def read() -> bytes:
        if size > max_bytes:
            raise Unreadable("too_large", f"the object has {size} bytes, the limit is {max_bytes}")
        try:
            data: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except s3_errors() as error:  # gone meanwhile, archived, forbidden: the others can still be read
            raise Unreadable("source_unreadable", f"{s3_error_code(error)}: {error}") from error
        return data

    return read
