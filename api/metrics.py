"""Prometheus figures of the HTTP edge. Each app has its own registry, so that two apps in one process do not clash;
what other packages count goes to the process-wide registry and is printed after it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from core.database import Database
from core.tables import Job


class HttpMetrics:
    """Requests by route template and status, their seconds, and how many run now."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.in_flight = Gauge("tsumugi_http_in_flight", "Requests running now.", registry=self.registry)
        self._requests = Counter(
            "tsumugi_http_requests_total",
            "Finished requests.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "tsumugi_http_request_seconds",
            "Seconds from the request line to the last byte of the answer.",
            ["method", "route"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            registry=self.registry,
        )
        self.answers = Counter("tsumugi_answers_total", "Answers by outcome.", ["outcome"], registry=self.registry)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a finished request. Unknown methods share one label, so that a caller cannot grow the metric."""
        known = method if method in {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"} else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(known, route).observe(seconds)

    def add_job_gauge(self, count_jobs: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        """Show jobs by kind and status, counted at scrape time."""
        self.registry.register(_JobCollector(count_jobs))

    def add_truncation_counter(self, count: Callable[[], Mapping[str, int]]) -> None:
        """Show texts that were longer than an embedder reads, by embedder, counted at scrape time."""
        self.registry.register(_TruncationCollector(count))

    def render(self) -> bytes:
        """Text exposition of both registries."""
        return generate_latest(self.registry) + generate_latest(REGISTRY)


class JobCounts:
    """Jobs of all tenants by (kind, status). Counting takes a hundredth of the time at most, however many there are."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = threading.Lock()
        self._counts: Mapping[tuple[str, str], int] = {}
        self._good_until = 0.0

    def __call__(self) -> Mapping[tuple[str, str], int]:
        """Counted now, or not longer ago than a hundred times what counting took."""
        with self._lock:
            begun = time.monotonic()
            if begun >= self._good_until:
                with self._db.read() as session:
                    rows = session.execute(select(Job.kind, Job.status, func.count()).group_by(Job.kind, Job.status))
                    self._counts = {(kind, status): count for kind, status, count in rows}
                ended = time.monotonic()
                self._good_until = ended + 100 * (ended - begun)
            return self._counts


class _JobCollector(Collector):
    def __init__(self, count_jobs: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        self._count_jobs = count_jobs

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("tsumugi_jobs", "Jobs by kind and status.", labels=["kind", "status"])
        for (kind, status), count in sorted(self._count_jobs().items()):
            family.add_metric([kind, status], count)
        yield family


class _TruncationCollector(Collector):
    def __init__(self, count: Callable[[], Mapping[str, int]]) -> None:
        self._count = count

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        name, says = "tsumugi_embed_truncated", "Texts cut at the embedder's token limit since its load."
        family = CounterMetricFamily(name, says, labels=["embedder"])
        for embedder, count in sorted(self._count().items()):
            family.add_metric([embedder], count)
        yield family
