"""What the service costs beside its engine: time to first token and tokens per second, through HTTP and without.

    python -m benchmarks.overhead [--rounds 3] [--concurrent 32] [--json FILE]

The whole embedded service, started as `tsumugi up` starts it, with the engine replaced by one that speaks at the pace
of an 8B model on an H100 (`benchmarks.paced_engine`). One side calls that engine with the rendered prompt; the other
asks `POST /v1/ask` with `stream: true` from another process: authentication, search over ingested documents with the
real embedder, prompt, stream, citations, the stored answer. Rounds alternate in one run, and service and client share
the machine's cores: run it on an idle one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

from benchmarks.generation import PASSAGES
from benchmarks.paced_engine import Pace, PacedEngine
from benchmarks.random_llama import build_model, build_tokenizer
from core.settings import load_settings
from core.types import GenerationRequest
from generation.prompt import PromptPassage, render_grounded

NEW_TOKENS = 128
_QUESTION = "When does the warehouse in Kawasaki open on Saturdays?"
Sample = tuple[float, int, float]
"""Seconds to the first token, tokens, seconds of retrieval inside the first."""


async def ask_often(url: str, key: str, concurrent: int, each: int) -> dict[str, Any]:
    """`concurrent` clients ask `each` questions one after the other, over bare sockets."""
    address = urlsplit(url)
    body = json.dumps({"question": _QUESTION, "stream": True, "max_tokens": NEW_TOKENS}).encode()
    head = (
        f"POST /v1/ask HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode()

    async def one() -> Sample:
        began = perf_counter()
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(head + body)
        first, last = None, b""
        while data := await reader.read(65536):
            if first is None and b"event: token" in data:
                first = perf_counter() - began
            last = (last + data)[-65536:]
        writer.close()
        if first is None or b"event: done" not in last:
            raise RuntimeError(f"no answer: {last[-500:]!r}")
        record = json.loads(last[last.rindex(b"event: done") :].split(b"data: ", 1)[1].split(b"\n", 1)[0])
        if record["refused"]:
            raise RuntimeError("the question was refused: the engine was not asked")
        return first, record["usage"]["completion_tokens"], record["timings_ms"]["retrieve"] / 1000

    async def client() -> list[Sample]:
        return [await one() for _ in range(each)]

    began = perf_counter()
    samples = [sample for row in await asyncio.gather(*(client() for _ in range(concurrent))) for sample in row]
    return _figures(samples, perf_counter() - began)


def call_often(engine: PacedEngine, concurrent: int, each: int) -> dict[str, Any]:
    """The same without a service: threads that submit the rendered prompt and read the stream."""
    messages = render_grounded(_QUESTION, [PromptPassage(text) for text in PASSAGES])

    def client(_number: int) -> list[Sample]:
        samples = []
        for _ in range(each):
            began = perf_counter()
            handle = engine.submit(GenerationRequest(messages, None, NEW_TOKENS))
            pieces = iter(handle)
            next(pieces)
            first = perf_counter() - began
            for _piece in pieces:
                pass
            samples.append((first, handle.result().completion_tokens, 0.0))
        return samples

    began = perf_counter()
    with ThreadPoolExecutor(concurrent) as pool:
        samples = [sample for row in pool.map(client, range(concurrent)) for sample in row]
    return _figures(samples, perf_counter() - began)


def _figures(samples: list[Sample], seconds: float) -> dict[str, Any]:
    firsts, tokens, retrieval = zip(*samples, strict=True)
    return {"first_s": firsts, "tokens_per_s": sum(tokens) / seconds, "retrieve_s": retrieval}


def measure(engine: PacedEngine, url: str, key: str, options: argparse.Namespace) -> dict[str, Any]:
    """Alternate rounds of both sides, one at a time and many at once."""

    def over_http(concurrent: int, each: int) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.overhead", "--client", url, str(concurrent), str(each)]
        done = subprocess.run(command, env={**os.environ, "TSUMUGI_KEY": key}, check=True, capture_output=True)  # noqa: S603
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    over_http(2, 2)
    report: dict[str, Any] = {}
    for name, concurrent, each in (("one", 1, options.each), ("many", options.concurrent, options.each)):
        alone, through = [], []
        for _ in range(options.rounds):
            alone.append(call_often(engine, concurrent, each))
            through.append(over_http(concurrent, each))
        firsts = [statistics.median(s for row in side for s in row["first_s"]) * 1000 for side in (alone, through)]
        speeds = [statistics.median(row["tokens_per_s"] for row in side) for side in (alone, through)]
        report[name] = {
            "concurrent": concurrent,
            "first_token_engine_ms": round(firsts[0], 2),
            "first_token_http_ms": round(firsts[1], 2),
            "first_token_overhead_ms": round(firsts[1] - firsts[0], 2),
            "of_it_retrieval_ms": round(statistics.median(s for row in through for s in row["retrieve_s"]) * 1000, 2),
            "tokens_per_s_engine": round(speeds[0], 1),
            "tokens_per_s_http": round(speeds[1], 1),
            "throughput_ratio": round(speeds[1] / speeds[0], 3),
        }
    return report


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Start the service around a paced engine, measure, stop it."""
    from cli.client import Client
    from cli.embedded import embedded_service
    from cli.serving import listen, serve, url_of
    from core.log import configure

    configure("WARNING")
    folder = work / "base"
    build_model("small", _float32(), _cpu()).save_pretrained(folder)
    build_tokenizer(4096).save_pretrained(folder)
    os.environ["TSUMUGI_GENERATION__BASE_FOLDER"] = str(folder)
    settings = load_settings(data_dir=work / "data")
    words = [f"{word} " for word in PASSAGES[0].split()]
    engine = PacedEngine("paced", words, Pace())
    report: dict[str, Any] = {}
    failures: list[BaseException] = []
    listener = listen("127.0.0.1", 0)
    chosen = patch("generation.build.build_engine", lambda _settings, _base: engine)
    with listener, chosen, embedded_service(settings, lambda _line: None) as service:
        url = url_of(listener)
        key = service.bootstrap.admin_key_file.read_text("ascii").strip()

        def drive() -> None:
            try:
                with Client(url, key) as client:
                    for number, passage in enumerate(PASSAGES):
                        name = f"passage-{number}.txt"
                        client.request("POST", "/v1/documents", files={"file": (name, passage.encode(), "text/plain")})
                    _wait_ready(client, len(PASSAGES))
                report.update(measure(engine, url, key, options))
            except BaseException as error:  # noqa: BLE001 - raised by the main thread
                failures.append(error)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=drive, name="drive")
        asyncio.run(serve(service, listener, settings.http, thread.start))
        thread.join()
    if failures:
        raise failures[0]
    return report


def _wait_ready(client: Any, count: int) -> None:
    deadline = perf_counter() + 120
    while perf_counter() < deadline:
        items = client.get("/v1/documents")["items"]
        if len(items) == count and all(item["status"] == "ready" for item in items):
            return
        threading.Event().wait(0.2)
    raise RuntimeError("the documents did not become ready")


def _float32() -> Any:
    import torch

    return torch.float32


def _cpu() -> Any:
    import torch

    return torch.device("cpu")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds of each row [3]")
    parser.add_argument("--each", type=int, default=5, help="questions of each client in a round [5]")
    parser.add_argument("--concurrent", type=int, default=32, help="clients at once in the second row [32]")
    parser.add_argument("--json", type=Path, help="also write the report here")
    parser.add_argument("--client", nargs=3, metavar=("URL", "CONCURRENT", "EACH"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.client:
        url, concurrent, each = options.client
        found = asyncio.run(ask_often(url, os.environ["TSUMUGI_KEY"], int(concurrent), int(each)))
        sys.stdout.write(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(prefix="tsumugi-benchmark-") as work:
        report = run(options, Path(work))
    text = json.dumps(report, indent=2)
    sys.stdout.write(text + "\n")
    if options.json:
        options.json.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
