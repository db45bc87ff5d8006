"""The index in a process of the server topology: waited for at the start."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from core.errors import Unavailable

if TYPE_CHECKING:
    from cli.server.parts import Parts
    from retrieval.live import Retrieval

log = structlog.stdlib.get_logger(__name__)

_PAUSES_S = (1.0, 2.0, 5.0, 10.0)


def open_retrieval(parts: Parts, stopped: Callable[[float], bool]) -> Retrieval | None:
    """Open the version that serves, waiting for an index that is away; None when asked to stop meanwhile.

    stopped: waits for so many seconds; True when this process is to stop.

    Raises:
        Unavailable: it can never be opened so: of another kind, too old.
    """
    from core.migrate import start_alone
    from retrieval.build import build_retrieval

    for doubt in parts.settings.qdrant.doubts():
        log.warning("index.doubtful_setting", detail=doubt)
    tries = 0
    while True:
        try:
            with start_alone(parts.db):  # the first process registers the index version and makes its collection
                return build_retrieval(parts.settings, parts.db, refill_lost=True)
        except Unavailable as error:
            if not error.retryable:
                raise
            pause_s = _PAUSES_S[min(tries, len(_PAUSES_S) - 1)]
            log.warning("index.waited_for", code=error.code, detail=error.detail, pause_s=pause_s)
        tries += 1
        if stopped(pause_s):
            return None
