"""Everything in a folder of hostile files uploaded at once, while queries run: files, limits, query times.

    python -m benchmarks.hostile --data DIR [--limit N] [--json FILE]

Starts a service of its own. Ends with 1 when a file is neither ready nor failed with a code, an extractor passes its
memory limit, something is left in the temp folder, or the query p95 is more than twice its idle figure: that of queries
at the same pace over the same documents once all is quiet. `idle_before_p95_ms` is over one document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from cli.client import ApiProblem, Client
from cli.service_process import ServiceProcess
from core.settings import load_settings

QUERIES = ["有給休暇は何日ですか", "travel allowance per day", "料金の支払い方法", "how to file an expense report"]
SEED = "# 就業規則\n\n有給休暇は年に二十日です。\n\nThe travel allowance is 3,000 yen per day.\n"
IDLE_QUERIES = 150
BATCH_FILES = 20
QUERY_EVERY_S = 0.2


def _query(client: Client, number: int) -> float:
    started = time.perf_counter()
    # A number makes each one new: the service remembers the vectors of queries.
    client.post("/v1/search", {"query": f"{QUERIES[number % len(QUERIES)]} {number}", "limit": 5})
    return (time.perf_counter() - started) * 1000


def _idle(client: Client, first: int) -> list[float]:
    """Times of queries with nothing else to do, at the pace of those beside the upload."""
    times = []
    for number in range(first, first + IDLE_QUERIES):
        times.append(_query(client, number))
        time.sleep(QUERY_EVERY_S)
    return times


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


class _Watcher(threading.Thread):
    """Largest resident memory of each extraction process, sampled; extractors are told by their command line."""

    def __init__(self, service: ServiceProcess) -> None:
        super().__init__(daemon=True)
        self._service = service
        self.done = threading.Event()
        self.largest_bytes = 0
        self.most_processes = 0

    def run(self) -> None:
        while not self.done.wait(0.1):
            count = 0
            for process in self._service.family():
                try:
                    if "ingest.zygote" in process.cmdline():
                        count += 1
                        self.largest_bytes = max(self.largest_bytes, process.memory_info().rss)
                except psutil.Error:
                    continue  # it has ended since it was listed
            self.most_processes = max(self.most_processes, count)


def _upload(client: Client, files: list[Path], data: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Upload in batches; a file that is refused at the door is told with the code it was refused under."""
    items: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    for first in range(0, len(files), BATCH_FILES):
        batch = files[first : first + BATCH_FILES]
        for group in (batch,) if len(batch) == 1 else (batch, *([path] for path in batch)):
            try:
                parts = [("file", (str(path.relative_to(data)).replace("/", "_"), path.read_bytes())) for path in group]
                items += client.request("POST", "/v1/documents", files=parts).json()["items"]
            except ApiProblem as problem:
                if len(group) == 1:
                    refused[group[0].name] = problem.code
                    continue
                continue  # one of them is refused: they are sent one by one instead
            if group is batch:
                break
    return items, refused


def run(data: Path, limit: int | None) -> dict[str, Any]:
    """Do it; returns the figures."""
    files = sorted(path for path in data.rglob("*") if path.is_file())[:limit]
    memory_limit = load_settings().ingest.extract_memory_bytes
    with tempfile.TemporaryDirectory() as folder:
        service = ServiceProcess(Path(folder))
        service.start()
        watcher = _Watcher(service)
        try:
            with service.client() as client:
                seed = client.post("/v1/documents", {"text": SEED, "filename": "seed.md"})["items"][0]
                client.follow_job(seed["job"]["id"])
                for number in range(10):
                    _query(client, -1 - number)
                before = _idle(client, 0)
                watcher.start()
                started = time.perf_counter()
                busy: list[float] = []
                with ThreadPoolExecutor(1) as pool, service.client() as uploader:
                    upload = pool.submit(_upload, uploader, files, data)
                    while not upload.done():
                        busy.append(_query(client, IDLE_QUERIES + len(busy)))
                        time.sleep(QUERY_EVERY_S)
                items, refused = upload.result()
                pending = {item["job"]["id"] for item in items if item["job"]}
                while pending:
                    busy.append(_query(client, IDLE_QUERIES + len(busy)))
                    time.sleep(QUERY_EVERY_S)
                    if len(busy) % 10 == 0:
                        running = [
                            *client.items("/v1/jobs", status="queued"),
                            *client.items("/v1/jobs", status="running"),
                        ]
                        pending &= {job["id"] for job in running}
                seconds = time.perf_counter() - started
                watcher.done.set()
                watcher.join()
                idle = _idle(client, IDLE_QUERIES + len(busy))
                documents = [client.get(f"/v1/documents/{item['document']['id']}") for item in items]
                left = [path.name for path in (Path(folder) / "tmp" / "extract").iterdir()]
        finally:
            watcher.done.set()
            service.stop()
    statuses = Counter(document["status"] for document in documents)
    codes = Counter(document["error"]["code"] for document in documents if document["error"])
    uncoded = [
        document["filename"]
        for document in documents
        if document["status"] != "ready" and not (document["status"] == "failed" and document["error"])
    ]
    return {
        "files": len(files),
        "documents": len(documents),
        "refused": refused,
        "seconds": round(seconds, 1),
        "statuses": statuses,
        "codes": codes,
        "uncoded": uncoded,
        "crashed": codes["extraction_crashed"],
        "extractor_largest_mib": watcher.largest_bytes // 2**20,
        "extractor_limit_mib": memory_limit // 2**20,
        "extractor_processes": watcher.most_processes,
        "left_in_temp": left,
        "queries": len(busy),
        "idle_before_p95_ms": round(_p95(before), 1),
        "idle_p95_ms": round(_p95(idle), 1),
        "busy_p95_ms": round(_p95(busy), 1),
        "p95_ratio": round(_p95(busy) / _p95(idle), 2),
    }


def main() -> int:
    """Run and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of hostile files")
    parser.add_argument("--limit", type=int, help="so many files at most")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    figures = run(arguments.data, arguments.limit)
    for name, value in figures.items():
        print(f"{name:24} {dict(value) if isinstance(value, Counter) else value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, ensure_ascii=False, indent=1))
    bad = figures["uncoded"] or figures["left_in_temp"] or figures["p95_ratio"] > 2
    return 1 if bad or figures["extractor_largest_mib"] > figures["extractor_limit_mib"] else 0


if __name__ == "__main__":
    sys.exit(main())
