"""API keys. A secret is `tsu_` and 256 random bits; only its SHA-256 is stored, and it is shown once."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy import or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from core import audit
from core.access import PUBLIC_GROUP, Principal
from core.database import Database, ReadSession, WriteSession
from core.errors import Conflict, FieldError, InvalidInput, NotFound, Unauthenticated
from core.names import one_spelling
from core.settings import Settings
from core.tables.base import utc_now
from core.tables.tenancy import ApiKey, Tenant
from core.tenants import DEFAULT_TENANT, create_tenant
from core.types import Scope

log = structlog.stdlib.get_logger(__name__)

PREFIX = "tsu_"
SECRET_PATTERN = re.compile(r"tsu_[A-Za-z0-9_-]{43}")
"""32 bytes in unpadded base64url."""

ADMIN_KEY_NAME = "admin"
USE_RECORDED_EVERY_S = 60.0


def create_key(
    session: WriteSession,
    *,
    tenant_id: str,
    name: str,
    scopes: Sequence[str | Scope],
    groups: Sequence[str] = (),
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Add a key; returns it with its secret, which exists nowhere else.

    Raises:
        InvalidInput: empty name, no or unknown scopes, a group that is empty or '*', an expiry not in the future.
    """
    checked = _checked_scopes(scopes)
    errors = _other_errors(name, groups, expires_at)
    if errors:
        raise InvalidInput(
            f"the key cannot be made: {errors[0].location}: {errors[0].detail}", code="invalid_key", errors=errors
        )
    secret = PREFIX + secrets.token_urlsafe(32)
    key = _key_row(tenant_id, name, secret, checked, sorted(set(map(one_spelling, groups))), expires_at)
    session.add(key)
    session.flush()
    return key, secret


def authenticate(db: Database, secret: str) -> Principal:
    """Turn a secret into a principal. One indexed read; when the key was used is recorded aside, once a minute.

    Raises:
        Unauthenticated: malformed, unknown, expired or revoked, all in the same words.
    """
    refused = Unauthenticated("this API key is unknown, expired or revoked")
    if not SECRET_PATTERN.fullmatch(secret):
        raise refused
    with db.read() as session:
        key = session.scalars(select(ApiKey).where(ApiKey.secret_sha256 == _digest(secret))).one_or_none()
    now = utc_now()
    if key is None or key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
        raise refused
    if key.last_used_at is None or now - key.last_used_at > timedelta(seconds=USE_RECORDED_EVERY_S):
        _record_use(db, key.id)
    return Principal(
        tenant_id=key.tenant_id,
        key_id=key.id,
        scopes=frozenset(Scope(scope) for scope in key.scopes),
        groups=frozenset(key.groups),
    )


def list_keys(session: ReadSession, tenant_id: str) -> list[ApiKey]:
    """A tenant's keys, oldest first; revoked ones included, so that the audit trail keeps its names."""
    return list(
        session.scalars(select(ApiKey).where(ApiKey.tenant_id == tenant_id).order_by(ApiKey.created_at, ApiKey.id))
    )


def revoke_key(session: WriteSession, *, tenant_id: str, key_id: str) -> ApiKey:
    """Make a key useless from the next request on; revoking twice is fine.

    Raises:
        NotFound: this tenant has no such key.
    """
    key = session.scalars(select(ApiKey).where(ApiKey.id == key_id, ApiKey.tenant_id == tenant_id)).one_or_none()
    if key is None:
        raise NotFound(f"no key '{key_id}'")
    key.revoked_at = key.revoked_at or utc_now()
    return key


def rotate_key(session: WriteSession, *, tenant_id: str, key_id: str, overlap: timedelta) -> tuple[ApiKey, str, ApiKey]:
    """A successor with the same name and rights; the old key works on for `overlap`. Returns (new, secret, old).

    A successor of a key that expires lives as long as that one was made to live.

    Raises:
        NotFound: this tenant has no such key.
        Conflict: `key_ended`: it is revoked or expired, and so has nothing to hand on.
    """
    old = session.scalars(select(ApiKey).where(ApiKey.id == key_id, ApiKey.tenant_id == tenant_id)).one_or_none()
    if old is None:
        raise NotFound(f"no key '{key_id}'")
    now = utc_now()
    if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
        raise Conflict("the key is revoked or expired; make a new one", code="key_ended")
    lifetime = None if old.expires_at is None else now + (old.expires_at - old.created_at)
    secret = PREFIX + secrets.token_urlsafe(32)
    new = _key_row(tenant_id, old.name, secret, list(old.scopes), list(old.groups), lifetime)
    session.add(new)
    ends = now + overlap
    old.expires_at = ends if old.expires_at is None else min(old.expires_at, ends)
    session.flush()
    return new, secret, old


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What the first start left behind."""

    tenant_id: str
    admin_key_file: Path
    created: bool
    """Whether this start made the admin key."""


def default_tenant_id(db: Database) -> str:
    """Id of the tenant `default`, which every started service has."""
    with db.read() as session:
        return session.scalars(select(Tenant.id).where(Tenant.name == DEFAULT_TENANT)).one()


def ensure_bootstrap(db: Database, settings: Settings) -> Bootstrap:
    """Make the tenant `default` with its collection, and, once, the admin key in a file only its owner can read.

    Safe to repeat, and to be killed at any point: the file comes first and whole, and a file whose key is missing in
    the database is taken in. A key file that an operator moved away is not made again.
    """
    with db.read() as session:
        known = session.scalars(select(Tenant).where(Tenant.name == DEFAULT_TENANT)).first()
        has_admin = known is not None and (
            session.scalars(
                select(ApiKey.id).where(ApiKey.tenant_id == known.id, ApiKey.name == ADMIN_KEY_NAME)
            ).first()
            is not None
        )
    path = settings.admin_key_file
    if not path.exists():
        if has_admin and known is not None:
            return Bootstrap(known.id, path, created=False)
        _write_once(path, PREFIX + secrets.token_urlsafe(32))
    secret = path.read_text(encoding="ascii").strip()
    if not SECRET_PATTERN.fullmatch(secret):
        raise InvalidInput(f"{path} holds no API key; remove it and start again", code="invalid_admin_key_file")
    with db.write() as session:
        tenant = session.scalars(select(Tenant).where(Tenant.name == DEFAULT_TENANT)).first()
        if tenant is None:
            tenant = create_tenant(session, DEFAULT_TENANT)
        if session.scalars(select(ApiKey.id).where(ApiKey.secret_sha256 == _digest(secret))).first() is not None:
            return Bootstrap(tenant.id, path, created=False)
        key = _key_row(tenant.id, ADMIN_KEY_NAME, secret, [Scope.ADMIN.value], [], None)
        session.add(key)
        session.flush()
        audit.record(
            session,
            tenant_id=tenant.id,
            actor=audit.SYSTEM,
            action="key.create",
            object_id=key.id,
            detail={"name": ADMIN_KEY_NAME, "scopes": [Scope.ADMIN.value]},
        )
    return Bootstrap(tenant.id, path, created=True)


def _key_row(
    tenant_id: str, name: str, secret: str, scopes: list[str], groups: list[str], expires_at: datetime | None
) -> ApiKey:
    return ApiKey(
        tenant_id=tenant_id,
        name=name,
        secret_sha256=_digest(secret),
        scopes=scopes,
        groups=groups,
        expires_at=expires_at,
    )


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _checked_scopes(scopes: Sequence[str | Scope]) -> list[str]:
    known = {scope.value for scope in Scope}
    unknown = [str(scope) for scope in scopes if str(scope) not in known]
    if unknown or not scopes:
        detail = f"unknown scope '{unknown[0]}'" if unknown else "at least one scope is needed"
        raise InvalidInput(
            f"{detail}; there are {', '.join(sorted(known))}",
            code="invalid_scope",
            errors=[FieldError("scopes", detail, "invalid_scope")],
        )
    return sorted({str(scope) for scope in scopes})


def _other_errors(name: str, groups: Sequence[str], expires_at: datetime | None) -> list[FieldError]:
    errors = []
    if not 1 <= len(name.strip()) <= 100:
        errors.append(FieldError("name", "1 to 100 characters"))
    for group in groups:
        if not 1 <= len(group) <= 200 or group == PUBLIC_GROUP:
            errors.append(FieldError("groups", f"'{group[:50]}' is no group name: 1 to 200 characters, not '*'"))
    if expires_at is not None and (expires_at.tzinfo is None or expires_at <= utc_now()):
        errors.append(FieldError("expires_at", "a time in the future, with its time zone"))
    return errors


def _write_once(path: Path, line: str) -> None:
    """Write a line to a file that must not exist, so that it appears whole, synced and mode 0600, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".admin-")  # mkstemp: O_EXCL and 0600
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # fails if the name is taken, as O_EXCL does
    except FileExistsError:
        log.info("keys.admin_file_exists", path=str(path))
    finally:
        Path(temporary).unlink()


_use_lock = threading.Lock()
_use_recorded: dict[tuple[str, str], float] = {}


def _record_use(db: Database, key_id: str) -> None:
    """Set `last_used_at` from a thread of its own: a request must not wait for SQLite's write lock to read."""
    now = time.monotonic()
    with _use_lock:
        if now - _use_recorded.get((db.url, key_id), -USE_RECORDED_EVERY_S) < USE_RECORDED_EVERY_S:
            return
        _use_recorded[(db.url, key_id)] = now
    threading.Thread(target=_write_use, args=(db, key_id), name="key-use", daemon=True).start()


def _write_use(db: Database, key_id: str) -> None:
    now = utc_now()
    stale = now - timedelta(seconds=USE_RECORDED_EVERY_S)
    try:
        with db.write() as session:
            session.execute(
                update(ApiKey)
                .where(ApiKey.id == key_id, or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at <= stale))
                .values(last_used_at=now)
            )
    except SQLAlchemyError as error:
        log.warning("keys.use_not_recorded", key_id=key_id, detail=str(error))
