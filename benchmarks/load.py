"""Many clients that stream answers at once: whole streams, flat memory, quantiles of latency.

    python -m benchmarks.load [--clients 200] [--seconds 300] [--warm-up 60] [--json FILE]
    python -m benchmarks.load --server [--rate-limit 1200] [...]
    python -m benchmarks.load --url URL --api-key KEY [...]

Starts an embedded service of its own; with `--server`, two api processes, two ingest workers and beat over PostgreSQL
and Redis, each api asked by half of the clients (from a checkout with `tests/`, whose stand-ins of Qdrant, of vLLM and
of the embedder it uses; needs Debian's postgresql). A client that is told 429 waits as long as `Retry-After` says and
asks again; its wait is not part of the latencies, which are of streams that were let in. Ends with 1 when a stream
broke off, an answer was neither 200 nor 429, or a process grew by more than 5 %: its resident memory, the median of
the last quarter of the time after the warm-up over that of the first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
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
    memory: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    """Seconds since the start and bytes, of each process."""


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


async def _watch(pids: Mapping[str, int], begun: float, deadline: float, seen: Seen) -> None:
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    while time.monotonic() < deadline:
        for name, process in processes.items():
            seen.memory.setdefault(name, []).append((time.monotonic() - begun, process.memory_info().rss))
        await asyncio.sleep(SAMPLE_EVERY_S)


async def _run(urls: Sequence[str], key: str, clients: int, seconds: float, pids: Mapping[str, int]) -> Seen:
    seen = Seen()
    each = -(-clients // len(urls))
    limits = httpx.Limits(max_connections=each, max_keepalive_connections=each)
    headers = {"Authorization": f"Bearer {key}"}
    async with contextlib.AsyncExitStack() as stack:
        ways = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=300, trust_env=False)
            )
            for url in urls
        ]
        begun = time.monotonic()
        deadline = begun + seconds
        tasks = [_client(ways[number % len(ways)], number, deadline, seen) for number in range(clients)]
        await asyncio.gather(*tasks, _watch(pids, begun, deadline, seen))
    return seen


def report_of(seen: Seen, *, clients: int, seconds: float, warm_up: float) -> dict[str, Any]:
    """The figures; `ok` says whether all demands were met."""
    refused = sum(count for name, count in seen.outcomes.items() if name.startswith("429"))
    broken = sum(seen.outcomes.values()) - refused - seen.outcomes["whole"]
    growth = {name: _growth(memory, warm_up) for name, memory in seen.memory.items()}
    most = max((value for value in growth.values() if value is not None), default=None)
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
        "memory_mib": {
            name: [round(size / 2**20) for _, size in memory[:: max(1, len(memory) // 12)]]
            for name, memory in seen.memory.items()
        },
        "ok": broken == 0
        and seen.outcomes["whole"] > 0
        and seen.retry_after_missing == 0
        and (most is None or most <= GROWTH_LIMIT),
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
    for name, growth in report["memory_growth"].items():
        shown = "not measured" if growth is None else f"{growth:+.1%} after the warm-up (limit {GROWTH_LIMIT:.0%})"
        print(f"  memory of {name}: {shown}; MiB {report['memory_mib'][name]}")
    print(f"  outcomes: {report['outcomes']}")
    print("ok" if report["ok"] else "NOT MET")


def main() -> int:
    """Run it; 1 when a demand is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--warm-up", type=float, default=60.0)
    parser.add_argument("--server", action="store_true", help="the server topology's processes")
    parser.add_argument(
        "--rate-limit", type=int, default=1200, help="server: requests a minute of the key; more are told 429 [1200]"
    )
    parser.add_argument("--url")
    parser.add_argument("--api-key")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.url:
        _fill(given.url, given.api_key)
        seen = asyncio.run(_run([given.url], given.api_key, given.clients, given.seconds, {}))
    elif given.server:
        seen = _run_server(given.clients, given.seconds, given.rate_limit)
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
            return asyncio.run(_run([service.url], service.admin_key, clients, seconds, {"service": service.pid}))
        finally:
            service.stop()


def _run_server(clients: int, seconds: float, rate_limit: int) -> Seen:
    from tests.server_processes import ServerTopology

    settings = {"TSUMUGI_HTTP__REQUESTS_PER_MINUTE_KEY": str(rate_limit)}
    with ServerTopology(load_settings().models_dir.resolve(), settings=settings) as topology:
        topology.start_all()
        print("processes ready", flush=True)
        urls = [topology.url(name) for name in ("api-1", "api-2")]
        _fill(urls[0], topology.admin_key)
        pids = {name: daemon.process.pid for name, daemon in topology.processes.items() if daemon.process is not None}
        return asyncio.run(_run(urls, topology.admin_key, clients, seconds, pids))


if __name__ == "__main__":
    sys.exit(main())
