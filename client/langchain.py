"""A LangChain retriever over the service: `pip install tsumugi[langchain]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field, SecretStr

from client.aio import AsyncTsumugi
from client.models import Passage
from client.sync import Tsumugi


class TsumugiRetriever(BaseRetriever):  # type: ignore[misc]
    """Passages as documents: `retriever.invoke(question)`, `await retriever.ainvoke(question)`.

    id is the chunk's id; metadata holds document_id, filename, page, heading, start and end (code points of the
    extracted text), generation, score, and the calibrated relevance.
    """

    url: str
    key: SecretStr
    limit: int = Field(5, ge=1, le=100)
    collection: str | None = None
    filters: dict[str, Any] | None = None
    expand_tokens: int | None = Field(None, ge=0)
    timeout_s: float = 60.0

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        with Tsumugi(self.url, self.key.get_secret_value(), timeout_s=self.timeout_s) as client:
            return _documents(client.search(query, **self._options()))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        async with AsyncTsumugi(self.url, self.key.get_secret_value(), timeout_s=self.timeout_s) as client:
            return _documents(await client.search(query, **self._options()))

    def _options(self) -> dict[str, Any]:
        return {
            "limit": self.limit,
            "collection": self.collection,
            "filters": self.filters,
            "expand_tokens": self.expand_tokens,
        }


def _documents(passages: Sequence[Passage]) -> list[Document]:
    names = ("document_id", "filename", "page", "heading", "start", "end", "generation", "score", "relevance")
    return [
        Document(
            id=passage.chunk_id,
            page_content=passage.text,
            metadata={name: getattr(passage, name) for name in names},
        )
        for passage in passages
    ]
