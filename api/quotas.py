"""What one key or tenant may ask of the service: requests a minute, and requests at once.

Checked after the key is known and before one byte of the body is read. Headers are the IETF draft's `RateLimit` fields.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from core.access import Principal
from core.errors import Unavailable
from core.rates import WINDOW_S, Bucket, RateLimiter, Standing
from core.settings import HttpSettings


class Quotas:
    """Limits of all callers of one process."""

    def __init__(self, settings: HttpSettings, redis_url: str | None) -> None:
        self._settings = settings
        limited = settings.requests_per_minute_key or settings.requests_per_minute_tenant
        self._limiter = RateLimiter(redis_url if limited else None)
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()

    def take(self, principal: Principal) -> dict[str, str]:
        """Count a request; the headers that its answer carries.

        Raises:
            Unavailable: `rate_limited`, with the seconds after which a request may follow.
        """
        quotas = (
            ("key", principal.key_id, self._settings.requests_per_minute_key),
            ("tenant", principal.tenant_id, self._settings.requests_per_minute_tenant),
        )
        buckets = [Bucket(name, subject, quota) for name, subject, quota in quotas if quota]
        allowed, standings = self._limiter.take(buckets)
        headers = _headers(standings)
        if not allowed:
            tightest = max(standings, key=lambda one: one.retry_after_s)
            raise RateLimited(
                f"{tightest.bucket.quota} requests a minute are allowed to one {tightest.bucket.name}",
                tightest.retry_after_s,
                headers,
            )
        return headers

    @contextmanager
    def running(self, principal: Principal) -> Iterator[None]:
        """Hold one of the key's places for requests at once.

        Raises:
            Unavailable: `too_many_at_once`.
        """
        limit = self._settings.concurrent_requests_key
        with self._lock:
            if limit and self._running[principal.key_id] >= limit:
                raise Unavailable(
                    f"{limit} requests of this key run already; wait for one to end",
                    code="too_many_at_once",
                    extra={"limit": limit, "retry_after_s": 1},
                )
            self._running[principal.key_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[principal.key_id] -= 1
                if not self._running[principal.key_id]:
                    del self._running[principal.key_id]

    def close(self) -> None:
        """Give back connections."""
        self._limiter.close()


class RateLimited(Unavailable):
    """Too many requests a minute."""

    default_code = "rate_limited"

    def __init__(self, detail: str, retry_after_s: int, headers: dict[str, str]) -> None:
        super().__init__(detail, extra={"retry_after_s": retry_after_s})
        self.headers = headers


def _headers(standings: list[Standing]) -> dict[str, str]:
    if not standings:
        return {}
    policies = ", ".join(f'"{one.bucket.name}";q={one.bucket.quota};w={WINDOW_S}' for one in standings)
    left = ", ".join(f'"{one.bucket.name}";r={one.remaining};t={one.reset_s}' for one in standings)
    tightest = min(standings, key=lambda one: one.remaining)
    return {
        "RateLimit-Policy": policies,
        "RateLimit": left,
        # What clients read that know the older drafts.
        "RateLimit-Limit": str(tightest.bucket.quota),
        "RateLimit-Remaining": str(tightest.remaining),
        "RateLimit-Reset": str(tightest.reset_s),
    }
