"""`tsumugi beat`: the clock of the server topology. Two at once do no harm, so it may be restarted by starting another.

Canaries are rolled back from here whatever the engine is. To start or promote one by rule, the version must be loaded
where it is to serve: with a generator over HTTP this process can do that; with one inside the api processes it cannot,
and such a promotion waits for a person.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import structlog

from cli.server.parts import open_parts
from core.settings import Settings

log = structlog.stdlib.get_logger(__name__)


def run_beat(settings: Settings, wait_for_stop: Callable[[], None], on_ready: Callable[[], None]) -> int:
    """Sweep jobs, publish delayed messages, judge schedules, watch canaries until told to stop."""
    from erasure.retention import Retention
    from generation.adapters.registry import AdapterRegistry
    from generation.build import build_remote
    from generation.canary.monitor import CanaryMonitor
    from tuning.schedules import SchedulesService
    from tuning.service import TuningService
    from workers.beat import Beat
    from workers.context import WorkerContext

    with ExitStack() as stack:
        parts = open_parts(settings, stack, "beat")
        remote = build_remote(settings, parts.db)
        if remote is not None:
            stack.callback(remote.engine.close)
        engine, base = (remote.engine, remote.base) if remote is not None else (None, None)
        registry = AdapterRegistry(parts.db, settings, engine, base=base)
        context = WorkerContext(
            settings=settings,
            jobs=parts.jobs,
            schedules=SchedulesService(parts.db, TuningService(parts.db, parts.jobs, settings)),
            canaries=CanaryMonitor(parts.db, registry),
            retention=Retention(parts.db, settings, parts.blobs),
        )
        beat = Beat(context)
        beat.start()
        log.info("beat.started")
        on_ready()
        wait_for_stop()
        ended = beat.stop()
        log.info("beat.stopped", clean=ended)
        return 0 if ended else 1
