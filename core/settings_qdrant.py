"""Settings of a Qdrant server as the index."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from core.settings_base import Section


class QdrantSettings(Section):
    """A Qdrant server as the index."""

    url: str = Field(
        "http://127.0.0.1:6333",
        description="REST address of the server; several of a cluster, with commas between, are tried in turn.",
    )
    api_key: SecretStr | None = Field(None, description="API key of the server.")
    collection: str = Field(
        "tsumugi", pattern=r"^[A-Za-z0-9_-]{1,60}$", description="Alias of the serving collection, and prefix of names."
    )
    timeout_s: float = Field(30.0, ge=1, description="Limit of one call with all its retries.")
    search_timeout_s: float = Field(10.0, ge=1, description="Limit of all calls of one search together.")
    pool_size: int = Field(16, ge=1, description="Connections kept open by each process.")
    upsert_batch: int = Field(128, ge=1, le=1024, description="Points in one write, cut further by their bytes.")
    shards: int = Field(1, ge=1, description="Shards of a new collection; IDF is counted in each by itself.")
    replicas: int = Field(1, ge=1, description="Copies of each shard in a new collection; three, or one.")
    write_consistency: int | None = Field(
        None, ge=1, description="Copies that must confirm a write; default is a majority of three or more, else one."
    )
    write_ordering: Literal["weak", "medium", "strong"] = Field(
        "medium", description="Order of concurrent writes between copies; weak may undo a deletion on one of them."
    )
    read_consistency: Literal["majority", "quorum", "all"] | None = Field(
        None, description="How many copies must agree on a read; default is one. Others fail with one node down."
    )
    m: int = Field(16, ge=4, le=128, description="Links per point in the graph over all points; more finds better.")
    payload_m: int = Field(16, ge=4, le=128, description="Links per point in each tenant's graph; more finds better.")
    ef_construct: int = Field(128, ge=8, le=1024, description="Beam while a graph is built; more finds better.")
    full_scan_kb: int = Field(
        150_000,
        ge=10,
        description="Vectors that pass a filter up to which all are compared: 100,000 points of 384 dimensions.",
    )
    hnsw_ef: int = Field(256, ge=8, description="Beam of a query over a graph.")
    quantization: Literal["none", "scalar", "binary"] = Field(
        "none", description="Short codes in memory: scalar needs a quarter, binary 1/32 (1,024 dimensions or more)."
    )
    oversampling: float | None = Field(
        None, ge=1, le=10, description="Candidates per hit scored again in full; default 2, 4 for short binary codes."
    )
    vectors_on_disk: bool = Field(False, description="Keep full vectors on disk; sensible with quantization only.")

    @field_validator("url")
    @classmethod
    def _are_addresses(cls, value: str) -> str:
        addresses = [part.strip() for part in value.split(",")]
        for address in addresses:
            parts = urlsplit(address)
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError(f"'{address}' is not an address such as http://host:6333")
        return ",".join(addresses)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses of the nodes, in the order in which they are tried."""
        return tuple(self.url.split(","))

    @property
    def confirmations(self) -> int:
        """Copies that confirm a write: as configured, else a majority where one is left when a node is lost."""
        if self.write_consistency is not None:
            return min(self.write_consistency, self.replicas)
        return self.replicas // 2 + 1 if self.replicas > 2 else 1

    def doubts(self) -> list[str]:
        """What of this is known to go wrong in a cluster; see docs/embedders.md."""
        found = []
        if self.replicas == 2 and self.confirmations == 2:
            found.append("qdrant.write_consistency 2 of 2 copies: one that is slow for a moment is taken for dead")
        if self.replicas > 1 and self.write_ordering == "weak":
            found.append("qdrant.write_ordering weak: several processes leave copies different for good")
        if self.read_consistency is not None:
            found.append(f"qdrant.read_consistency {self.read_consistency}: searches fail while a node is down")
        if self.replicas > 1 and len(self.addresses) == 1:
            found.append("qdrant.url names one node of several: with it gone, the cluster cannot be reached")
        if self.shards > 1:
            found.append("qdrant.shards above 1: each counts IDF by itself, which moves scores and some first hits")
        return found
