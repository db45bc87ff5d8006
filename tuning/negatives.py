"""Real negatives: passages of the tenant's live index that look right and do not hold the answer.

They are read with the access of somebody in no group: what only some may read must not end up in an adapter that
everybody is served.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from core.access import Principal, access_filter
from core.language import language_of
from core.types import AccessFilter, Language, Passage, Scope
from generation.prompt import PromptPassage, is_not_found
from tuning.render import answer_of, carries, cited_claims, question_of, sentences
from tuning.sizes import RunSize

_CANDIDATES = 8


class SearchResult(Protocol):
    """What a search gives back."""

    @property
    def passages(self) -> Sequence[Passage]:
        """Best first."""
        ...

    @property
    def refusal_threshold(self) -> float:
        """Relevance under which the service itself would refuse."""
        ...


class Search(Protocol):
    """The part of retrieval that negatives come from."""

    def search(self, query: str, access: AccessFilter, limit: int) -> SearchResult:
        """Best passages first."""
        ...


class Negatives:
    """Passages of the live index that look right and do not hold the answer."""

    def __init__(self, search: Search | None, tenant_id: str, size: RunSize) -> None:
        self._search = search
        self._size = size
        anybody = Principal(tenant_id, "tuning", frozenset({Scope.QUERY}), frozenset())
        self._access = access_filter(anybody)
        self.documents: set[tuple[str, int]] = set()
        """(document, generation) of every passage given so far."""

    def of(self, content: Mapping[str, Any], generator: random.Random) -> list[PromptPassage]:
        """Negatives for one row, best match first."""
        own = content.get("passages", [])
        count = generator.choice(self._size.negatives)
        if not own or self._search is None or not count:
            return []
        found = self._search.search(question_of(content), self._access, _CANDIDATES)
        answer = answer_of(content)
        refusal = is_not_found(answer)
        claims = cited_claims(answer) or (answer,)
        titled = all(passage.get("title") for passage in own)
        chosen: list[PromptPassage] = []
        for passage in found.passages:
            if len(chosen) == count:
                break
            # Above its own threshold the service holds a passage for an answer: it may be one to this question.
            if refusal and passage.relevance >= found.refusal_threshold:
                continue
            if not refusal and carries(passage.text, claims):
                continue
            # Titles only on the negatives would tell which passage is the right one.
            text = (
                passage.text
                if self._size.negative_chars is None
                else shortened(passage.text, self._size.negative_chars)
            )
            self.documents.add((passage.document_id, passage.generation))
            chosen.append(PromptPassage(text, (passage.heading or passage.filename) if titled else None))
        return chosen


def shortened(text: str, max_chars: int) -> str:
    """Leading whole sentences within `max_chars` (half of it in Japanese); at least the first, cut if need be."""
    japanese = language_of(text) is Language.JAPANESE
    limit, space = (max_chars // 2, "") if japanese else (max_chars, " ")
    kept = ""
    for sentence in sentences(text):
        if kept and len(kept) + len(sentence) + 1 > limit:
            break
        kept = f"{kept}{space}{sentence}".strip()
    return kept[: limit * 2]
