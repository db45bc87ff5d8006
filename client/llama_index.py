"""A LlamaIndex retriever over the service: `pip install tsumugi[llama-index]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from client.aio import AsyncTsumugi
from client.models import Passage
from client.sync import Tsumugi


class TsumugiRetriever(BaseRetriever):  # type: ignore[misc]
    """Passages as nodes. `score` is the calibrated relevance, so that postprocessors may cut by it.

    node_id is the chunk's id; metadata holds document_id, filename, page, heading, start and end (code points of the
    extracted text) and generation.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        limit: int = 5,
        collection: str | None = None,
        filters: Mapping[str, Any] | None = None,
        expand_tokens: int | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self._url, self._key, self._timeout_s = url, key, timeout_s
        self._options: dict[str, Any] = {
            "limit": limit, "collection": collection, "filters": filters, "expand_tokens": expand_tokens,
        }  # fmt: skip
        self._client = Tsumugi(url, key, timeout_s=timeout_s)
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _nodes(self._client.search(query_bundle.query_str, **self._options))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        # A client of the running event loop: a kept one would be bound to the loop that used it first.
        async with AsyncTsumugi(self._url, self._key, timeout_s=self._timeout_s) as client:
            return _nodes(await client.search(query_bundle.query_str, **self._options))


def _nodes(passages: Sequence[Passage]) -> list[NodeWithScore]:
    return [
        NodeWithScore(
            node=TextNode(id_=passage.chunk_id, text=passage.text, metadata=metadata_of(passage)),
            score=passage.relevance,
        )
        for passage in passages
    ]


def metadata_of(passage: Passage) -> dict[str, Any]:
    """Where a passage is from."""
    names = ("document_id", "filename", "page", "heading", "start", "end", "generation")
    return {name: getattr(passage, name) for name in names}
