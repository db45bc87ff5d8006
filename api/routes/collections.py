"""Collections: list, make, rename, delete with all their documents."""

from __future__ import annotations

from fastapi import APIRouter, Request

from api.errors import request_id_of
from api.paging import PageQuery
from api.schemas.collections import CollectionBody, CollectionList, CollectionRequest, DeletedCollection
from api.schemas.jobs import JobBody
from api.security import Caller, GuardedRoute, ServicesOf, needs
from core.tables import Collection
from core.types import Scope

router = APIRouter(route_class=GuardedRoute, prefix="/v1/collections", tags=["documents"])


@router.get("", dependencies=[needs(Scope.QUERY, Scope.INGEST)])
def list_collections(caller: Caller, services: ServicesOf, page: PageQuery) -> CollectionList:
    """Collections, newest first; without those that hold only documents that the caller may not read."""
    found = services.ingest.collections.list(caller, limit=page.limit, cursor=page.cursor)
    items = [_body(one.collection, one.documents) for one in found.items]
    return CollectionList(items=items, next_cursor=found.next_cursor)


@router.post("", status_code=201, dependencies=[needs(Scope.INGEST)])
def add_collection(body: CollectionRequest, request: Request, caller: Caller, services: ServicesOf) -> CollectionBody:
    """Make an empty collection. An upload that names one makes it too."""
    made = services.ingest.collections.create(caller, body.name, request_id=request_id_of(request.scope))
    return _body(made, 0)


@router.patch("/{collection}", dependencies=[needs(Scope.ADMIN)])
def rename_collection(
    collection: str, body: CollectionRequest, request: Request, caller: Caller, services: ServicesOf
) -> CollectionBody:
    """Rename a collection, named by its name or id. Its documents stay in it."""
    request_id = request_id_of(request.scope)
    facts = services.ingest.collections.rename(caller, collection, body.name, request_id=request_id)
    return _body(facts.collection, facts.documents)


@router.delete("/{collection}", status_code=202, dependencies=[needs(Scope.ADMIN)])
def delete_collection(collection: str, request: Request, caller: Caller, services: ServicesOf) -> DeletedCollection:
    """Delete a collection with its documents: no search or answer sees them from now on; a job removes the rest."""
    name, job = services.ingest.collections.delete(caller, collection, request_id=request_id_of(request.scope))
    return DeletedCollection(name=name, job=JobBody.model_validate(job))


def _body(collection: Collection, documents: int) -> CollectionBody:
    return CollectionBody(id=collection.id, name=collection.name, documents=documents, created_at=collection.created_at)
