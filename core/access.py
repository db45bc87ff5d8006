"""Who may see what. `access_filter` is the one place where a principal becomes a filter, for SQL and index alike.

A document with no groups carries PUBLIC_GROUP and is read by its whole tenant. Otherwise one shared group is enough.
An admin key sees every group of its own tenant, and nothing of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, and_, exists

from core.errors import Forbidden
from core.names import one_spelling
from core.tables.documents import Document, DocumentGroup
from core.types import AccessFilter, Scope

PUBLIC_GROUP = "*"


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller."""

    tenant_id: str
    key_id: str
    scopes: frozenset[Scope]
    groups: frozenset[str]

    @property
    def actor(self) -> str:
        """How audit rows name the caller."""
        return f"key:{self.key_id}"

    def allows(self, scope: Scope) -> bool:
        """Whether the caller holds `scope`; ADMIN holds all."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def require(self, scope: Scope) -> None:
        """Raise Forbidden unless the caller holds `scope`."""
        if not self.allows(scope):
            raise Forbidden(f"this key lacks the scope '{scope.value}'", extra={"scope": scope.value})


def access_filter(principal: Principal, *, collection_id: str | None = None) -> AccessFilter:
    """Turn a principal into the filter that every read of documents, chunks and points goes through."""
    # As written too: keys and points older than the one spelling hold groups as they came.
    held = {PUBLIC_GROUP, *principal.groups, *map(one_spelling, principal.groups)}
    groups = None if Scope.ADMIN in principal.scopes else frozenset(held)
    return AccessFilter(tenant_id=principal.tenant_id, groups=groups, collection_id=collection_id)


def kept_groups(principal: Principal) -> list[str] | None:
    """What is kept of a principal with work that is done later in its name; None reads all of its tenant."""
    return None if Scope.ADMIN in principal.scopes else sorted(principal.groups)


def in_the_name_of(tenant_id: str, groups: Sequence[str] | None) -> Principal:
    """Who may read what the one that asked for the work may read. groups: as `kept_groups` gave them."""
    scopes = frozenset({Scope.ADMIN}) if groups is None else frozenset[Scope]()
    return Principal(tenant_id, "", scopes, frozenset(groups or ()))


def narrowed(access: AccessFilter, document_ids: frozenset[str]) -> AccessFilter:
    """The same filter for some documents only."""
    known = access.document_ids
    return replace(access, document_ids=document_ids if known is None else document_ids & known)


def documents_visible(access: AccessFilter) -> ColumnElement[bool]:
    """SQL side of the filter: a condition on `documents`."""
    conditions: list[ColumnElement[bool]] = [Document.tenant_id == access.tenant_id]
    if access.collection_id is not None:
        conditions.append(Document.collection_id == access.collection_id)
    if access.document_ids is not None:
        conditions.append(Document.id.in_(sorted(access.document_ids)))
    if access.groups is not None:
        conditions.append(
            exists().where(
                DocumentGroup.document_id == Document.id, DocumentGroup.group_name.in_(sorted(access.groups))
            )
        )
    return and_(*conditions)


def stored_groups(groups: list[str] | None) -> tuple[str, ...]:
    """Groups as stored with a document and its points: one spelling, sorted, unique, PUBLIC_GROUP when none."""
    return tuple(sorted(set(map(one_spelling, groups)))) if groups else (PUBLIC_GROUP,)
