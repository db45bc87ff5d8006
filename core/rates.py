"""Rate limits: a token bucket per key and per tenant, kept in Redis so that all processes of a service share them.

Without Redis (it restarts, or none is configured) each process counts for itself: a caller then gets up to the limit
from each process, which is wrong in the harmless direction; refusing everybody would be an outage of our own making.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

log = structlog.stdlib.get_logger(__name__)

WINDOW_S: Final = 60
RETRY_REDIS_S: Final = 5.0
"""After a failure Redis is left alone for so long: a dead broker must not cost every request its time-out."""
_TIMEOUT_S: Final = 0.25
_LOCAL_KEPT: Final = 10_000

_TAKE: Final = """
local now = redis.call('TIME')
now = tonumber(now[1]) + tonumber(now[2]) / 1000000
local window = tonumber(ARGV[1])
local state = {}
local allowed = 1
for i, key in ipairs(KEYS) do
  local quota = tonumber(ARGV[1 + i])
  local found = redis.call('HMGET', key, 'left', 'at')
  local left = tonumber(found[1]) or quota
  local at = tonumber(found[2]) or now
  left = math.min(quota, left + math.max(0, now - at) * quota / window)
  if left < 1 then allowed = 0 end
  state[i] = left
end
local answer = {allowed}
for i, key in ipairs(KEYS) do
  local left = state[i] - allowed
  redis.call('HSET', key, 'left', tostring(left), 'at', tostring(now))
  redis.call('EXPIRE', key, window * 2)
  answer[i + 1] = tostring(left)
end
return answer
"""
"""All buckets give a token or none does: a request that the tenant's bucket refuses costs the key's nothing."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """One limit: `quota` requests in WINDOW_S, all of which may come at once."""

    name: str
    """As in the headers: `key` or `tenant`."""
    subject: str
    quota: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a caller stands with one bucket after a request."""

    bucket: Bucket
    left: float

    @property
    def remaining(self) -> int:
        """Requests that may follow at once."""
        return max(0, math.floor(self.left))

    @property
    def retry_after_s(self) -> int:
        """Seconds until one request may follow; 0 where it may now."""
        return math.ceil(max(0.0, 1 - self.left) * WINDOW_S / self.bucket.quota)

    @property
    def reset_s(self) -> int:
        """Seconds until the bucket is full again."""
        return math.ceil(max(0.0, self.bucket.quota - self.left) * WINDOW_S / self.bucket.quota)


class RateLimiter:
    """Takes tokens from buckets. Thread-safe."""

    def __init__(self, redis_url: str | None) -> None:
        self._redis: Any = None
        self._script: Any = None
        self._silent_until = 0.0
        self._lock = threading.Lock()
        self._local: dict[str, tuple[float, float]] = {}
        if redis_url is not None:
            import redis

            # kombu writes socket URLs its own way.
            url = redis_url.replace("redis+socket://", "unix://", 1)
            self._redis = redis.Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
            self._script = self._redis.register_script(_TAKE)

    def take(self, buckets: Sequence[Bucket]) -> tuple[bool, list[Standing]]:
        """Take one token of each bucket, or none of any; whether it was given, and where each bucket stands."""
        if not buckets:
            return True, []
        if self._script is not None and time.monotonic() >= self._silent_until:
            from redis.exceptions import RedisError

            try:
                keys = [f"tsumugi:rate:{bucket.name}:{bucket.subject}" for bucket in buckets]
                answer = self._script(keys=keys, args=[WINDOW_S, *(bucket.quota for bucket in buckets)])
            except (RedisError, OSError) as error:
                self._silent_until = time.monotonic() + RETRY_REDIS_S
                log.warning("rates.redis_unavailable", detail=type(error).__name__)
            else:
                left = [float(value) for value in answer[1:]]
                return bool(answer[0]), [Standing(*pair) for pair in zip(buckets, left, strict=True)]
        return self._take_locally(buckets)

    def close(self) -> None:
        """Give back connections."""
        if self._redis is not None:
            self._redis.close()

    def _take_locally(self, buckets: Sequence[Bucket]) -> tuple[bool, list[Standing]]:
        now = time.monotonic()
        with self._lock:
            if len(self._local) > _LOCAL_KEPT:  # idle ones are full again, which is what a missing one counts as
                self._local = {key: one for key, one in self._local.items() if now - one[1] < WINDOW_S}
            states = []
            for bucket in buckets:
                left, at = self._local.get(f"{bucket.name}:{bucket.subject}", (float(bucket.quota), now))
                states.append(min(bucket.quota, left + (now - at) * bucket.quota / WINDOW_S))
            allowed = min(states) >= 1
            states = [left - allowed for left in states]
            for bucket, left in zip(buckets, states, strict=True):
                self._local[f"{bucket.name}:{bucket.subject}"] = (left, now)
        return allowed, [Standing(bucket, left) for bucket, left in zip(buckets, states, strict=True)]
