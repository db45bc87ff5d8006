"""Many clients that stream answers at once: whole streams, flat memory, quantiles of latency.

    python -m benchmarks.load [--clients 200] [--seconds 300] [--warm-up 60] [--url URL --api-key KEY] [--json FILE]

Starts an embedded service of its own, unless a URL is given. A client that is told 429 waits as long as `Retry-After`
says and asks again; its wait is not part of the latencies, which are of streams that were let in. Ends with 1 when a
stream broke off, an answer was neither 200 nor 429, or memory grew by more than 5 %: resident memory of the service's
own process, the median of the last quarter of the time after the warm-up over that of the first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from cli.service_process import ServiceProcess
from core.settings import load_settings

DOCUMENTS = {
    "handbook.md": "# Leave\n\nFull-time staff have 22 days of annual leave.\n\n# Travel\n\nMeals: $58 a day.\n",
    "規程.md": "# 休暇\n\n正社員の年次有給休暇は二十日です。\n\n# 出張\n\n出張の日当は一日五千円です。\n",
}
QUESTIONS = [
    "How many days of annual leave do full-time staff have?",
    "What is the meal allowance?",
    "正社員の年次有給休暇は何日ですか。",
    "出張の日当はいくらですか。",
]
MAX_TOKENS = 24
GROWTH_LIMIT = 0.05
SAMPLE_EVERY_S = 1.0


@dataclass
class Seen:
    """What all clients together have seen."""

    outcomes: Counter[str] = field(default_factory=Counter)
    first_ms: list[float] = field(default_factory=list)
    whole_ms: list[float] = field(default_factory=list)
    retry_after_missing: int = 0
    memory: list[tuple[float, int]] = field(default_factory=list)
    """Seconds since the start, bytes."""


async def _client(http: httpx.AsyncClient, number: int, deadline: float, seen: Seen) -> None:
    rng = random.Random(number)
    while time.monotonic() < deadline:
        body = {"question": rng.choice(QUESTIONS), "stream": True, "max_tokens": MAX_TOKENS}
        started = time.perf_counter()
        place = "before an answer"
        try:
            async with http.stream("POST", "/v1/ask", json=body) as response:
                place = f"in an answer of {response.status_code}"
                if response.status_code == 429:
                    await response.aread()
                    seen.outcomes[f"429 {response.json().get('code')}"] += 1
                    wait = response.headers.get("retry-after")
                    seen.retry_after_missing += wait is None
                    left_s = max(0.0, deadline - time.monotonic())
                    await asyncio.sleep(min(float(wait or 1) * rng.uniform(1.0, 1.5), left_s))
                    continue
                if response.status_code != 200:
                    seen.outcomes[f"status {response.status_code}"] += 1
                    continue
                first, last = None, ""
                async for line in response.aiter_lines():
                    if line.startswith("event: "):
                        last = line.removeprefix("event: ")
                        if first is None and last == "token":
                            first = time.perf_counter()
                ended = time.perf_counter()
                if last != "done" or first is None:
                    seen.outcomes[f"dropped after '{last}'"] += 1
                    continue
                seen.outcomes["whole"] += 1
                seen.first_ms.append((first - started) * 1000)
                seen.whole_ms.append((ended - started) * 1000)
        except httpx.HTTPError as error:
            seen.outcomes[f"broken {place}: {type(error).__name__}"] += 1


async def _watch(pid: int, begun: float, deadline: float, seen: Seen) -> None:
    process = psutil.Process(pid)
    while time.monotonic() < deadline:
        seen.memory.append((time.monotonic() - begun, process.memory_info().rss))
        await asyncio.sleep(SAMPLE_EVERY_S)


async def _run(url: str, key: str, clients: int, seconds: float, pid: int | None) -> Seen:
    seen = Seen()
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    headers = {"Authorization": f"Bearer {key}"}
    begun = time.monotonic()
    deadline = begun + seconds
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=300, trust_env=False) as http:
        tasks = [_client(http, number, deadline, seen) for number in range(clients)]
        if pid is not None:
            tasks.append(_watch(pid, begun, deadline, seen))
        await asyncio.gather(*tasks)
    return seen


def report_of(seen: Seen, *, clients: int, seconds: float, warm_up: float) -> dict[str, Any]:
    """The figures; `ok` says whether all demands were met."""
    refused = sum(count for name, count in seen.outcomes.items() if name.startswith("429"))
    broken = sum(seen.outcomes.values()) - refused - seen.outcomes["whole"]
    growth = _growth(seen.memory, warm_up)
    return {
        "clients": clients,
        "seconds": seconds,
        "streams_whole": seen.outcomes["whole"],
        "streams_dropped": broken,
        "refused_429": refused,
        "outcomes": dict(seen.outcomes),
        "first_token_ms": _quantiles(seen.first_ms),
        "whole_stream_ms": _quantiles(seen.whole_ms),
        "memory_growth": growth,
        "memory_mib": [round(size / 2**20) for _, size in seen.memory[:: max(1, len(seen.memory) // 12)]],
        "ok": broken == 0
        and seen.outcomes["whole"] > 0
        and seen.retry_after_missing == 0
        and (growth is None or growth <= GROWTH_LIMIT),
    }


def _growth(memory: list[tuple[float, int]], warm_up: float) -> float | None:
    after = [size for at, size in memory if at >= warm_up]
    quarter = len(after) // 4
    if quarter < 2:
        return None
    return statistics.median(after[-quarter:]) / statistics.median(after[:quarter]) - 1


def _quantiles(values: list[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100)
    return {name: round(cuts[at], 1) for name, at in (("p50", 49), ("p95", 94), ("p99", 98))}


def _fill(url: str, key: str) -> None:
    """Upload the documents and wait until they are ready."""
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=120, trust_env=False) as http:
        for name, text in DOCUMENTS.items():
            body = {"text": text, "filename": name, "external_id": f"load-{name}"}
            item = http.post("/v1/documents", json=body).raise_for_status().json()["items"][0]
            with http.stream("GET", f"/v1/jobs/{item['job']['id']}/events") as events:
                for _ in events.iter_lines():
                    pass


def _print(report: dict[str, Any]) -> None:
    print(f"{report['clients']} clients, {report['seconds']:g} s")
    print(
        f"  whole streams {report['streams_whole']}, dropped {report['streams_dropped']}, 429 {report['refused_429']}"
    )
    for name in ("first_token_ms", "whole_stream_ms"):
        print(f"  {name}: " + ", ".join(f"{cut} {value:,.0f}" for cut, value in report[name].items()))
    growth = report["memory_growth"]
    shown = "not measured" if growth is None else f"{growth:+.1%} after the warm-up (limit {GROWTH_LIMIT:.0%})"
    print(f"  memory: {shown}; MiB {report['memory_mib']}")
    print(f"  outcomes: {report['outcomes']}")
    print("ok" if report["ok"] else "NOT MET")


def main() -> int:
    """Run it; 1 when a demand is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--warm-up", type=float, default=60.0)
    parser.add_argument("--url")
    parser.add_argument("--api-key")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.url:
        _fill(given.url, given.api_key)
        seen = asyncio.run(_run(given.url, given.api_key, given.clients, given.seconds, None))
    else:
        seen = _run_own(given.clients, given.seconds)
    report = report_of(seen, clients=given.clients, seconds=given.seconds, warm_up=given.warm_up)
    _print(report)
    if given.json:
        given.json.write_text(json.dumps(report, indent=2), encoding="utf-8")
    return 0 if report["ok"] else 1


def _run_own(clients: int, seconds: float) -> Seen:
    with tempfile.TemporaryDirectory(prefix="tsumugi-load-") as folder:
        models = load_settings().models_dir
        if models.is_dir():  # prepared once, by whichever start came first
            (Path(folder) / "models").symlink_to(models.resolve())
        service = ServiceProcess(Path(folder))
        print(f"service ready after {service.start():.0f} s", flush=True)
        try:
            _fill(service.url, service.admin_key)
            return asyncio.run(_run(service.url, service.admin_key, clients, seconds, service.pid))
        finally:
            service.stop()


if __name__ == "__main__":
    sys.exit(main())
