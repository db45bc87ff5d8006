"""API keys: secrets, scopes, expiry, revocation, last use, and the first start."""

from __future__ import annotations

import hashlib
import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from core import keys
from core.database import Database
from core.errors import Conflict, InvalidInput, NotFound, Unauthenticated
from core.keys import authenticate, create_key, ensure_bootstrap, list_keys, revoke_key
from core.settings import Settings
from core.tables import ApiKey, AuditEntry, Collection, Tenant
from core.tables.base import utc_now
from core.tenants import create_tenant, find_tenant
from core.types import Scope


def make_key(database: Database, tenant: Tenant, **options: object) -> tuple[ApiKey, str]:
    given: dict[str, object] = {"name": "k", "scopes": ["query"], **options}
    with database.write() as session:
        return create_key(session, tenant_id=tenant.id, **given)  # type: ignore[arg-type]


def test_a_key_authenticates_as_what_it_was_made(database: Database, tenant: Tenant) -> None:
    key, secret = make_key(database, tenant, scopes=["ingest", Scope.QUERY], groups=["sales", "hr", "sales"])
    principal = authenticate(database, secret)
    assert (principal.tenant_id, principal.key_id, principal.actor) == (tenant.id, key.id, f"key:{key.id}")
    assert principal.scopes == {Scope.QUERY, Scope.INGEST} and principal.groups == {"sales", "hr"}


def test_secrets_are_long_random_and_stored_only_hashed(database: Database, tenant: Tenant) -> None:
    made = [make_key(database, tenant) for _ in range(20)]
    secrets = {secret for _, secret in made}
    assert len(secrets) == 20 and all(keys.SECRET_PATTERN.fullmatch(secret) for secret in secrets)
    key, secret = made[0]
    assert key.secret_sha256 == hashlib.sha256(secret.encode()).hexdigest()
    with database.engine.connect() as connection:
        dump = str(connection.exec_driver_sql("SELECT * FROM api_keys").fetchall())
    assert secret not in dump and secret[4:] not in dump


def test_wrong_expired_and_revoked_keys_look_the_same(database: Database, tenant: Tenant, other_tenant: Tenant) -> None:
    expired, expired_secret = make_key(database, tenant, expires_at=utc_now() + timedelta(hours=1))
    revoked, revoked_secret = make_key(database, tenant)
    authenticate(database, expired_secret)
    with database.write() as session:
        session.execute(update(ApiKey).where(ApiKey.id == expired.id).values(expires_at=utc_now()))
        with pytest.raises(NotFound):
            revoke_key(session, tenant_id=other_tenant.id, key_id=revoked.id)
        first = revoke_key(session, tenant_id=tenant.id, key_id=revoked.id).revoked_at
        assert revoke_key(session, tenant_id=tenant.id, key_id=revoked.id).revoked_at == first
    said = set()
    for secret in (expired_secret, revoked_secret, "tsu_" + "A" * 43, "", "tsu_", "Bearer x", "tsu_" + "ü" * 43):
        with pytest.raises(Unauthenticated) as refused:
            authenticate(database, secret)
        said.add(refused.value.detail)
    assert len(said) == 1
    with database.read() as session:
        assert [key.id for key in list_keys(session, tenant.id)] == [expired.id, revoked.id]
        assert list_keys(session, other_tenant.id) == []


@pytest.mark.parametrize(
    ("options", "location"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["query", "root"]}, "scopes"),
        ({"name": " "}, "name"),
        ({"name": "n" * 101}, "name"),
        ({"groups": ["*"]}, "groups"),
        ({"groups": [""]}, "groups"),
        ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "expires_at"),
        ({"expires_at": datetime(2099, 1, 1)}, "expires_at"),  # noqa: DTZ001 - naive on purpose
    ],
)
def test_bad_keys_are_refused(database: Database, tenant: Tenant, options: dict[str, object], location: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        make_key(database, tenant, **options)
    assert refused.value.errors[0].location == location


def test_last_use_is_recorded_aside_and_at_most_once_a_minute(database: Database, tenant: Tenant) -> None:
    key, secret = make_key(database, tenant)
    with database.write() as session:
        session.scalars(select(ApiKey)).all()  # holds the write lock from here; authentication must not wait for it
        begun = utc_now()
        for _ in range(50):
            authenticate(database, secret)
        assert (utc_now() - begun).total_seconds() < 5
        threads = [thread for thread in threading.enumerate() if thread.name == "key-use"]
        assert len(threads) == 1
    threads[0].join(10)
    with database.read() as session:
        first = session.scalars(select(ApiKey.last_used_at).where(ApiKey.id == key.id)).one()
    assert first is not None
    for _ in range(5):
        authenticate(database, secret)
    assert not [thread for thread in threading.enumerate() if thread.name == "key-use"]


def test_the_first_start_makes_everything_once(database: Database, settings: Settings) -> None:
    first = ensure_bootstrap(database, settings)
    assert first.created and first.admin_key_file == settings.admin_key_file
    text = settings.admin_key_file.read_text()
    assert text.endswith("\n") and len(text.splitlines()) == 1
    assert settings.admin_key_file.stat().st_mode & 0o777 == 0o600
    principal = authenticate(database, text.strip())
    assert principal.scopes == {Scope.ADMIN} and principal.tenant_id == first.tenant_id
    with database.read() as session:
        assert session.scalars(select(Collection.name)).all() == ["default"]
        assert session.scalars(select(AuditEntry.action)).all() == ["key.create"]
        assert find_tenant(session, "default").id == first.tenant_id

    assert not ensure_bootstrap(database, settings).created
    assert settings.admin_key_file.read_text() == text
    assert [path.name for path in settings.data_dir.iterdir() if "admin" in path.name] == ["admin.key"]


def test_a_key_file_that_was_put_away_is_not_made_again(database: Database, settings: Settings) -> None:
    ensure_bootstrap(database, settings)
    secret = settings.admin_key_file.read_text().strip()
    settings.admin_key_file.unlink()
    assert not ensure_bootstrap(database, settings).created
    assert not settings.admin_key_file.exists()
    assert authenticate(database, secret).allows(Scope.TUNE)


def test_a_start_killed_between_file_and_database_is_completed(database: Database, settings: Settings) -> None:
    settings.data_dir.mkdir(exist_ok=True)
    settings.admin_key_file.write_text("tsu_" + "k" * 43 + "\n")
    assert ensure_bootstrap(database, settings).created
    assert authenticate(database, "tsu_" + "k" * 43).allows(Scope.ADMIN)


def test_a_key_file_that_holds_something_else_is_refused(database: Database, settings: Settings) -> None:
    settings.data_dir.mkdir(exist_ok=True)
    settings.admin_key_file.write_text("hunter2\n")
    with pytest.raises(InvalidInput) as refused:
        ensure_bootstrap(database, settings)
    assert refused.value.code == "invalid_admin_key_file" and "hunter2" not in refused.value.detail


def test_tenants_have_plain_unique_names(database: Database, tenant: Tenant) -> None:
    with database.write() as session:
        with pytest.raises(Conflict):
            create_tenant(session, "default")
        for name in ("", "Ümlaut", "a b", "-x", "x" * 101):
            with pytest.raises(InvalidInput):
                create_tenant(session, name)
