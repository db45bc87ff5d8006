"""What goes into an answer and what comes out: the values and protocols around `generation.answer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from core.access import Principal
from core.editions import DocumentEdition
from core.ports import Bridge
from core.types import AccessFilter, AnswerFormat, Citation, Message, Passage
from generation.adapters.routing import Route
from generation.canary.shadow import ShadowRequest

NO_PASSAGES: Final = "no_passages"
"""Nothing that the caller may read was found at all."""
BELOW_THRESHOLD: Final = "below_threshold"
"""The best passage is under the calibrated relevance: the model was not asked."""
NOT_IN_PASSAGES: Final = "not_in_passages"
"""The model read the passages and said that they do not hold the answer."""


class SearchResult(Protocol):
    """What a search gives back."""

    @property
    def passages(self) -> Sequence[Passage]:
        """Best first."""
        ...

    @property
    def timings_ms(self) -> dict[str, float]:
        """By stage."""
        ...

    @property
    def refusal_threshold(self) -> float:
        """Relevance under which nothing is answered, for the language of the query."""
        ...

    @property
    def index_version(self) -> str:
        """Version that all passages came from; empty where there are no versions."""
        ...

    @property
    def embedder(self) -> str:
        """Name of that version's embedder."""
        ...

    @property
    def siblings(self) -> Mapping[str, Sequence[DocumentEdition]]:
        """{document id: other editions of it that the caller may read}."""
        ...

    @property
    def bridge(self) -> Bridge | None:
        """What compares meanings across languages; None without a multilingual arm."""
        ...


class Search(Protocol):
    """The part of retrieval that answers need."""

    def search(self, query: str, access: AccessFilter, limit: int, *, expand_tokens: int | None = None) -> SearchResult:
        """Best passages first, grown to their sections where that is asked for."""
        ...


class Routing(Protocol):
    """The part of adapter routing that answers need."""

    def route(
        self,
        principal: Principal,
        model: str | None,
        conversation_id: str | None,
        *,
        user: str | None = None,
        request_id: str | None = None,
    ) -> Route:
        """Pin a version for the request of a caller."""
        ...


class Beside(Protocol):
    """Takes answers that a shadow version is to be measured on."""

    def offer(self, given: ShadowRequest) -> None:
        """Take it or drop it; never waits."""
        ...


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """A finished answer in the shape of the public contract."""

    id: str
    answer: str
    refused: bool
    refusal_reason: str | None
    citations: tuple[Citation, ...]
    provenance: dict[str, Any]
    usage: dict[str, int]
    timings_ms: dict[str, float]
    finish_reason: str = "stop"
    passages: tuple[Passage, ...] = field(default=(), repr=False)
    reasoning: str | None = None
    confidence: float | None = None
    """Calibrated probability that the answer is right; None where nothing was calibrated (curated, JSON)."""
    evidence: tuple[dict[str, Any], ...] = ()
    """The units that the answer stands on, best first."""
    alternatives: tuple[dict[str, Any], ...] = ()
    """What other rows or editions say."""
    nearest: tuple[dict[str, Any], ...] = ()
    """Lines offered with a refusal."""


@dataclass(frozen=True, slots=True)
class AnswerEvent:
    """One event of an answer: 'meta', 'reasoning', 'token', 'citation' or 'done'; one field beside `kind` is set."""

    kind: str
    meta: dict[str, Any] | None = None
    text: str | None = None
    citation: Citation | None = None
    record: AnswerRecord | None = None


@dataclass(frozen=True, slots=True)
class Stamp:
    """What answers are stamped with beside the adapter, where the search does not say which version it came from."""

    index_version: str
    embedder: str


@dataclass(frozen=True, slots=True)
class AskOptions:
    """How to answer; None takes the default of the settings."""

    collection: str | None = None
    conversation_id: str | None = None
    user: str | None = None
    """Whoever asks, as the client calls them; draws for canaries where there is no conversation."""
    adapter: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    history: tuple[Message, ...] = ()
    expand_tokens: int | None = None
    answer_format: AnswerFormat | None = None
    """JSON instead of text."""
    examples: int = 0
    """Curated answers shown before the question as examples of how to answer."""
    reasoning: bool = False
    """Write the reasoning first, apart from the answer."""
    best_of: int = 1
    """Candidates of which the best is given."""
    recorded: bool = True
    """False: of an evaluation. It is answered as any other and counts for nothing: no row, no failure, no shadow."""
