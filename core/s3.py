"""Connections to S3-compatible stores (AWS, MinIO, Ceph, SeaweedFS); the one place that makes boto3 clients."""

from __future__ import annotations

from typing import Any

from core.errors import Unavailable
from core.settings import S3Connection


def open_s3_client(settings: S3Connection, wanted_by: str) -> Any:
    """A boto3 client; connects when it is first used. wanted_by: named in the error where boto3 is missing.

    Raises:
        Unavailable: `s3_client_missing`: boto3 is not installed.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise Unavailable(
            f"{wanted_by} needs boto3: install tsumugi[s3]", code="s3_client_missing", retryable=False
        ) from error
    key_id, secret = settings.access_key_id, settings.secret_access_key
    # A session of its own: boto3's default one may not be made by two threads at once.
    return boto3.session.Session().client(
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
            # Stores other than AWS need not know the newer checksum headers; what is read is compared by its digest.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def s3_errors() -> tuple[type[Exception], ...]:
    """What a call of such a client raises when the store refuses, is away, or breaks off."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    return (Boto3Error, BotoCoreError, ClientError, HTTPError, OSError)


def s3_error_code(error: Exception) -> str:
    """Code that the store gave, or the name of the exception where it gave none."""
    response: dict[str, Any] = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code") or type(error).__name__)
