"""vLLM servers that give their GPU memory back while a training has it: vLLM's sleep mode, over HTTP.

Level 1 moves the weights to the host's memory and drops the caches, so waking takes seconds and nothing is loaded from
disk. The servers need `--enable-sleep-mode` and VLLM_SERVER_DEV_MODE=1; users must not reach their routes for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import structlog

from core.errors import Unavailable
from core.settings import GeneratorEndpointSettings

log = structlog.stdlib.get_logger(__name__)

_LEVEL = 1


class VllmSleeper:
    """`core.gpu.Sleeper` over every replica of the settings."""

    def __init__(self, settings: GeneratorEndpointSettings) -> None:
        self._roots = [url.rstrip("/").removesuffix("/v1") for url in settings.urls]
        key = settings.api_key.get_secret_value() if settings.api_key else None
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = httpx.Timeout(settings.load_timeout_s, connect=settings.connect_timeout_s)

    def sleep(self) -> None:
        """Send all to sleep; when one does not, the others are woken again.

        Raises:
            Unavailable: `sleep_refused`: a server does not answer, or was not started with sleep mode.
        """
        asleep: list[str] = []
        for root in self._roots:
            try:
                self._post(root, f"sleep?level={_LEVEL}")
            except Unavailable:
                self._wake(asleep)
                raise
            asleep.append(root)

    def wake(self) -> None:
        """Wake all; each is tried, whatever the others do.

        Raises:
            Unavailable: one of them does not wake.
        """
        self._wake(self._roots)

    def _wake(self, roots: Sequence[str]) -> None:
        last: Unavailable | None = None
        for root in roots:
            try:
                self._post(root, "wake_up")
            except Unavailable as error:
                log.error("generator.not_woken", server=root, detail=error.detail)
                last = error
        if last is not None:
            raise last

    def _post(self, root: str, route: str) -> None:
        try:
            response = httpx.post(f"{root}/{route}", headers=self._headers, timeout=self._timeout, trust_env=False)
        except httpx.HTTPError as error:
            raise Unavailable(f"{root} does not answer: {error}", code="generator_unreachable") from error
        if response.status_code == httpx.codes.NOT_FOUND:
            raise Unavailable(f"{root} was not started with sleep mode", code="sleep_refused", retryable=False)
        if response.status_code != httpx.codes.OK:
            raise Unavailable(f"{root} answered {response.status_code} to {route}", code="generator_unreachable")
