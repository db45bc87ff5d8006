"""Tenants. Each has a collection `default` from its first moment."""

from __future__ import annotations

import re

from sqlalchemy import select

from core.database import Database, ReadSession, WriteSession, lock_name
from core.errors import Conflict, FieldError, InvalidInput, NotFound
from core.tables.documents import Collection
from core.tables.tenancy import Tenant

DEFAULT_TENANT = "default"
DEFAULT_COLLECTION = "default"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


def create_tenant(session: WriteSession, name: str) -> Tenant:
    """Add a tenant with its default collection.

    Raises:
        InvalidInput: the name is not made of a-z, 0-9, '.', '_' and '-'.
        Conflict: the name is taken.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            "a tenant's name has 1 to 100 of a-z, 0-9, '.', '_', '-' and begins with a letter or digit",
            code="invalid_tenant_name",
            errors=[FieldError("name", "not a tenant name")],
        )
    lock_name(session, f"tenant:{name}")
    if session.scalars(select(Tenant.id).where(Tenant.name == name)).first() is not None:
        raise Conflict(f"there is already a tenant '{name}'", code="tenant_exists")
    tenant = Tenant(name=name)
    session.add(tenant)
    session.flush()
    session.add(Collection(tenant_id=tenant.id, name=DEFAULT_COLLECTION))
    session.flush()
    return tenant


def tenants_apart(db: Database) -> list[str]:
    """Ids of the tenants whose points are to have a shard of their own."""
    with db.read() as session:
        return list(session.scalars(select(Tenant.id).where(Tenant.apart).order_by(Tenant.id)))


def find_tenant(session: ReadSession | WriteSession, name_or_id: str) -> Tenant:
    """A tenant by name or id.

    Raises:
        NotFound: there is none.
    """
    tenant = session.scalars(select(Tenant).where((Tenant.name == name_or_id) | (Tenant.id == name_or_id))).first()
    if tenant is None:
        raise NotFound(f"no tenant '{name_or_id}'")
    return tenant
