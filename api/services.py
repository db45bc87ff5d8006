"""What the HTTP edge needs, handed over by the process root. Nothing here builds anything."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core import keys
from core.access import Principal
from core.database import Database
from core.settings import OidcSettings, Settings

if TYPE_CHECKING:
    from api.oidc import OidcVerifier
    from core.jobs import JobStore
    from core.notify import Notifier
    from core.ports import BlobStore, Engine
    from generation.adapters.registry import AdapterRegistry
    from generation.adapters.routing import Router
    from generation.answer import AnswerService
    from generation.evaluation.service import EvaluationService
    from ingest.accept import IngestService
    from ingest.page_images import PageImages
    from retrieval.live import PinnedSearcher
    from retrieval.switch import IndexService
    from tuning.datasets.service import DatasetService
    from tuning.schedules import SchedulesService
    from tuning.service import TuningService


@dataclass(frozen=True, slots=True)
class Check:
    """One dependency that /readyz asks. `probe` returns facts to show, or raises with what is wrong."""

    name: str
    probe: Callable[[], object]


@dataclass(slots=True)
class Probe:
    """One question to a dependency, running or answered."""

    answer: Future[dict[str, Any]]
    begun: float
    last: dict[str, Any] | None = None
    """What the question before this one was answered."""


@dataclass(slots=True)
class Services:
    """Everything that routes call. The same objects serve the queue; the edge adds nothing to what they may do."""

    settings: Settings
    db: Database
    jobs: JobStore
    notifier: Notifier
    blobs: BlobStore
    ingest: IngestService
    searcher: PinnedSearcher
    answers: AnswerService
    registry: AdapterRegistry
    router: Router
    engine: Engine
    tuning: TuningService
    datasets: DatasetService
    schedules: SchedulesService
    evaluations: EvaluationService
    page_images: PageImages
    checks: Sequence[Check] = ()
    redis_url: str | None = None
    """Where rate limits are counted for all processes together; None: each counts for itself."""
    oidc: OidcVerifier | None = None
    index: IndexService | None = None
    """None in a process that does not reach the index."""
    probes: dict[str, Probe] = field(default_factory=dict)
    """What each check was last asked, and what it answered; one question at a time."""
    draining: threading.Event = field(default_factory=threading.Event)
    """Set by the root on SIGTERM: /readyz says so, and long event streams end, so that connections can close."""

    def authenticate(self, secret: str) -> Principal:
        """Find the caller of a key, or of a token where those are taken.

        Raises:
            Unauthenticated: unknown, expired or revoked.
            Unavailable: the keys of the token issuer cannot be read.
        """
        if self.settings.http.oidc is not None and secret.count(".") == 2:  # an API key has no dot
            return self._verifier(self.settings.http.oidc).authenticate(secret)
        return keys.authenticate(self.db, secret)

    def _verifier(self, settings: OidcSettings) -> OidcVerifier:
        if self.oidc is None:
            from api.oidc import OidcVerifier

            self.oidc = OidcVerifier(settings, self.db)
        return self.oidc
