"""Collections of this system on a Qdrant server, whether or not a version knows them."""

from __future__ import annotations

import re
from functools import partial

from qdrant_client import QdrantClient

from core.errors import Unavailable
from core.settings_qdrant import QdrantSettings
from retrieval.index.connection import connect


def collections(settings: QdrantSettings) -> dict[str, int]:
    """{collection of this system: points}; those of another system whose name begins alike are not ours."""
    connection = connect(settings)
    where = f"the Qdrant server at {settings.url}"
    ours = re.compile(re.escape(settings.collection) + r"-[0-9a-f]{16}")
    try:
        found = connection.call(lambda client: client.get_collections(), where).collections
        names = sorted(one.name for one in found if ours.fullmatch(one.name))
        return {name: connection.call(partial(_points, name=name), where) for name in names}
    finally:
        connection.close()


def require_cluster(settings: QdrantSettings) -> None:
    """Refuse a server that runs by itself: it keeps no shard keys.

    Raises:
        Unavailable: `index_standalone`, or the server does not answer.
    """
    connection = connect(settings)
    try:
        status = connection.call(lambda client: client.cluster_status(), f"the Qdrant server at {settings.url}")
    finally:
        connection.close()
    if status.status != "enabled":
        raise Unavailable(
            "shards for tenants need a Qdrant cluster, which may be of one node: `cluster: {enabled: true}` in its"
            " configuration, and `--uri` at its start",
            code="index_standalone",
            retryable=False,
        )


def drop_collection(settings: QdrantSettings, name: str) -> None:
    """Delete a collection that belongs to no version; one that is gone already is fine."""
    connection = connect(settings)
    try:
        connection.call(lambda client: client.delete_collection(name), f"the index collection '{name}'")
    finally:
        connection.close()


def _points(client: QdrantClient, name: str) -> int:
    return client.count(name).count
