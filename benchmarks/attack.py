"""Attacks by one tenant, or by nobody, while another searches, asks and uploads: what that other one notices.

    python -m benchmarks.attack [--only NAME ...] [--seconds 20] [--most-mib 2048] [--models DIR] [--json FILE]

Starts an embedded service in an empty data dir. Between attacks the other tenant is measured at rest, in the same run:
a busy machine slows both. An attack passes when `/healthz` answers within a second throughout, the other's p95 of
searches and of answers stays under five times that at rest, its uploads become ready, and the summed PSS of the process
tree stays under the bound. Ends with 1 when one does not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.attack_kinds import ATTACKS, Attacker
from cli.client import ApiProblem
from cli.service_process import ServiceProcess

REST_S = 15.0
SETTLE_S = 180.0
PATIENCE_S = 60.0
"""How much longer an attack goes on while too little of the other tenant's has ended in it."""
ENOUGH = 8
HEALTH_LIMIT_S = 1.0
RATIO_LIMIT = 5.0
TEXT = "# 手当\n\n出張の日当は一日五千円です。\n\n# Leave\n\nStaff number {n} have {n} days of annual leave a year.\n"
QUESTIONS = ("出張の日当はいくらですか。", "How many days of annual leave do staff have?")


@dataclass
class Noticed:
    """What the other tenant and the probe saw in one span of time."""

    search_ms: list[float] = field(default_factory=list)
    answer_ms: list[float] = field(default_factory=list)
    health_ms: list[float] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    peak_mib: float = 0.0

    @property
    def enough(self) -> bool:
        """Whether a p95 says something, and an upload became ready."""
        return min(len(self.search_ms), len(self.answer_ms)) >= ENOUGH and bool(self.ready_s)


@dataclass(frozen=True)
class Line:
    """One attack in the table."""

    attack: str
    ok: bool
    health_worst_ms: float
    health_at_rest_ms: float
    search_p95_ms: float
    search_ratio: float
    answer_p95_ms: float
    answer_ratio: float
    uploads_ready: int
    upload_slowest_s: float
    peak_mib: float
    answers: dict[str, int]
    failures: list[str]


def p95(values: list[float]) -> float:
    """Of the times; the only one, if there is one, and infinity if there is none."""
    if len(values) < 2:
        return values[0] if values else float("inf")
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


class Other:
    """The tenant that is not attacked, and a probe without a key: five threads that note what they see."""

    def __init__(self, service: ServiceProcess, key: str) -> None:
        self._service = service
        self._headers = {"Authorization": f"Bearer {key}"}
        self._over = threading.Event()
        self._number = 0
        self.noticed = Noticed()
        works = (self._search, self._ask, self._upload, self._probe, self._weigh)
        self._threads = [threading.Thread(target=self._again, args=(work,), daemon=True) for work in works]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End and wait."""
        self._over.set()
        for thread in self._threads:
            thread.join(120)

    def span(self) -> Noticed:
        """What was seen since the last call."""
        seen, self.noticed = self.noticed, Noticed()
        return seen

    def _again(self, work: Callable[[httpx.Client, int], None]) -> None:
        with self._client() as client:
            while not self._over.is_set():
                self._number += 1
                try:
                    work(client, self._number)
                except (httpx.HTTPError, psutil.Error) as error:
                    self.noticed.failures.append(f"{work.__name__.strip('_')}: {type(error).__name__}")
                    self._over.wait(0.5)

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self._service.url, headers=self._headers, timeout=60, trust_env=False)

    def _post(self, client: httpx.Client, path: str, body: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        began = time.perf_counter()
        answer = client.post(path, json=body)
        answer.raise_for_status()
        return (time.perf_counter() - began) * 1000, answer.json()

    def _search(self, client: httpx.Client, number: int) -> None:
        took, _ = self._post(client, "/v1/search", {"query": f"{QUESTIONS[number % 2]} {number}", "limit": 5})
        self.noticed.search_ms.append(took)
        self._over.wait(0.1)

    def _ask(self, client: httpx.Client, number: int) -> None:
        body = {"question": f"{QUESTIONS[number % 2]} ({number})", "max_tokens": 24, "temperature": 0.0}
        took, _ = self._post(client, "/v1/ask", body)
        self.noticed.answer_ms.append(took)
        self._over.wait(0.1)

    def _upload(self, client: httpx.Client, number: int) -> None:
        began = time.monotonic()
        body = {"text": TEXT.format(n=number), "filename": f"staff-{number}.md"}
        job = self._post(client, "/v1/documents", body)[1]["items"][0]["job"]
        while job["status"] in {"queued", "running"} and not self._over.wait(0.1):
            job = client.get(f"/v1/jobs/{job['id']}").raise_for_status().json()
        if job["status"] == "succeeded":
            self.noticed.ready_s.append(time.monotonic() - began)
        elif not self._over.is_set():
            self.noticed.failures.append(f"upload: {job['error']}")
        self._over.wait(1.0)

    def _probe(self, _: httpx.Client, __: int) -> None:
        began = time.perf_counter()
        httpx.get(f"{self._service.url}/healthz", timeout=60, trust_env=False).raise_for_status()
        self.noticed.health_ms.append((time.perf_counter() - began) * 1000)
        self._over.wait(0.1)

    def _weigh(self, _: httpx.Client, __: int) -> None:
        total = 0
        for process in self._service.family():
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue  # it has ended since it was listed
        self.noticed.peak_mib = max(self.noticed.peak_mib, total / 2**20)
        self._over.wait(0.5)


def run(models: Path | None, chosen: dict[str, Any], seconds: float, most_mib: float) -> list[Line]:
    """Each attack between two spans at rest; prints a line of each."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        if models is not None:
            (data_dir / "models").symlink_to(models.resolve())
        service = ServiceProcess(data_dir)
        service.start()
        other = None
        try:
            keys = {name: _tenant(service, name) for name in ("other", "attacker")}
            other = Other(service, keys["other"])
            other.start()
            time.sleep(REST_S)  # the first answers load what answers need
            other.span()
            rest = _rest(other)
            print(
                f"at rest: search p50 {statistics.median(rest.search_ms):.0f} p95 {p95(rest.search_ms):.0f} ms, answer"
                f" p50 {statistics.median(rest.answer_ms):.0f} p95 {p95(rest.answer_ms):.0f} ms, health worst"
                f" {max(rest.health_ms):.0f} ms, {rest.peak_mib:.0f} MiB",
                flush=True,
            )
            lines = []
            for name, attack in chosen.items():
                over = threading.Event()
                attacker = Attacker(service.url, keys["attacker"], over)
                thread = threading.Thread(target=attack, args=(attacker,), daemon=True)
                thread.start()
                attacker.begun.wait()
                other.span()
                until = time.monotonic() + seconds
                while time.monotonic() < until or not (other.noticed.enough or time.monotonic() > until + PATIENCE_S):
                    time.sleep(0.2)
                seen = other.span()
                over.set()
                thread.join(180)
                _settle(service, keys["attacker"])
                after = _rest(other)
                lines.append(_line(name, seen, _both(rest, after), attacker.answers, most_mib))
                _show(lines[-1])
                rest = after
            return lines
        finally:
            if other is not None:
                other.stop()
            service.stop()


def _tenant(service: ServiceProcess, name: str) -> str:
    with service.client() as admin:
        admin.post("/v1/admin/tenants", {"name": name})
        body = {"name": name, "tenant": name, "scopes": ["query", "ingest", "feedback", "tune"]}
        return str(admin.post("/v1/admin/keys", body)["secret"])


def _rest(other: Other) -> Noticed:
    other.span()
    time.sleep(REST_S)
    return other.span()


def _both(before: Noticed, after: Noticed) -> Noticed:
    return Noticed(
        before.search_ms + after.search_ms, before.answer_ms + after.answer_ms, before.health_ms + after.health_ms
    )


def _settle(service: ServiceProcess, key: str) -> None:
    """Cancel what the attack left in the queue, and wait for what runs."""
    deadline = time.monotonic() + SETTLE_S
    with service.client(key) as client:
        while time.monotonic() < deadline:
            left = [job for status in ("queued", "running") for job in _jobs(client, status)]
            if not left:
                return
            for job in left:
                with contextlib.suppress(ApiProblem):  # it has ended since it was listed
                    client.request("POST", f"/v1/jobs/{job['id']}/cancel")
            time.sleep(0.5)


def _jobs(client: Any, status: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/v1/jobs?status={status}&limit=100")["items"]
    return found


def _line(name: str, seen: Noticed, rest: Noticed, answers: dict[str, int], most_mib: float) -> Line:
    worst = max(seen.health_ms, default=float("inf"))
    search, answer = p95(seen.search_ms), p95(seen.answer_ms)
    ratios = search / p95(rest.search_ms), answer / p95(rest.answer_ms)
    ok = (
        worst <= HEALTH_LIMIT_S * 1000
        and max(ratios) < RATIO_LIMIT
        and bool(seen.ready_s)
        and not seen.failures
        and seen.peak_mib <= most_mib
    )
    return Line(
        name, ok, _whole(worst), _whole(max(rest.health_ms)), _whole(search), round(ratios[0], 2),
        _whole(answer), round(ratios[1], 2),
        len(seen.ready_s), round(max(seen.ready_s, default=0.0), 1), round(seen.peak_mib), answers, seen.failures[:5],
    )  # fmt: skip


def _whole(value: float) -> float:
    """Without decimals; infinity where there was none."""
    return round(value) if math.isfinite(value) else value


def _show(line: Line) -> None:
    print(
        f"{'pass' if line.ok else 'FAIL'}  {line.attack:<28} health {line.health_worst_ms:>5.0f} ms (at rest"
        f" {line.health_at_rest_ms:.0f})"
        f"  search {line.search_p95_ms:>6.0f} ms {line.search_ratio:>5.2f}x  answer {line.answer_p95_ms:>6.0f} ms"
        f" {line.answer_ratio:>5.2f}x  uploads {line.uploads_ready:>3} slowest {line.upload_slowest_s:>5.1f} s"
        f"  {line.peak_mib:>5.0f} MiB  {line.answers} {line.failures}",
        flush=True,
    )


def main() -> int:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(ATTACKS), metavar="NAME", help="these attacks alone")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of an attack")
    parser.add_argument("--most-mib", type=float, default=2048, help="bound on the summed PSS of the process tree")
    parser.add_argument("--models", type=Path, help="folder of prepared models, kept between runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    chosen = {name: ATTACKS[name] for name in arguments.only or ATTACKS}
    lines = run(arguments.models, chosen, arguments.seconds, arguments.most_mib)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(line) for line in lines], ensure_ascii=False, indent=1) + "\n")
    return 0 if all(line.ok for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
