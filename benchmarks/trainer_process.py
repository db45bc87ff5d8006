"""A trainer as a process: its events are read and timed here, and it ends after so many seconds whatever it does.

The clock starts with the event that ends the warm-up, not with the process: imports, loading and first allocations are
no part of a rate. What a side has measured when its time is up counts; a side without two events says what it printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Limits:
    """seconds: of the whole process, its start included. warm_up: first steps that are not counted."""

    seconds: float
    warm_up: int


def follow(command: Sequence[str], errors: Path, limits: Limits) -> dict[str, Any]:
    """Run a trainer to its end or to its time; rate, losses and counts, or what went wrong.

    Each `step` event brings `step`, `loss` and `tokens` (seen so far, padding left out). Tokens with loss of one pass
    come in the `start` event.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    environment.setdefault("OMP_WAIT_POLICY", "passive")  # a thread that waits by spinning would count as work
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    events: list[tuple[float, dict[str, Any]]] = []
    work: dict[int, float] = {}
    start: dict[str, Any] = {}
    begun = time.perf_counter()
    with (
        errors.open("w") as log,
        subprocess.Popen(  # noqa: S603 - our own module
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=ROOT
        ) as process,
    ):
        late = threading.Timer(limits.seconds, process.kill)
        late.start()
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "error":
                late.cancel()
                return {"error": event["code"], "detail": event["detail"]}
            if event["event"] == "start":
                start = event
            elif event["event"] == "step":
                events.append((time.perf_counter(), event))
                work[event["step"]] = _cpu_seconds(process.pid)
        process.wait()
        late.cancel()
    settled = [(at, event) for at, event in events if event["step"] >= limits.warm_up]
    if len(settled) < 2:
        said = errors.read_text("utf-8", errors="replace")[-600:]
        return {"error": f"{len(events)} events in {time.perf_counter() - begun:.0f} s", "detail": said}
    (first_at, first), (last_at, last) = settled[0], settled[-1]
    tokens = last["tokens"] - first["tokens"]
    return {
        "tokens_per_s": round(tokens / (last_at - first_at), 1),
        "tokens_per_cpu_s": round(tokens / (work[last["step"]] - work[first["step"]]), 1),
        "tokens": tokens,
        "supervised_tokens_of_a_pass": start.get("supervised_tokens"),
        "steps": last["step"],
        "steps_measured": last["step"] - first["step"],
        "seconds_measured": round(last_at - first_at, 1),
        "losses": {event["step"]: round(event["loss"], 4) for _, event in events},
        "start_s": round(events[0][0] - begun, 1),
        "complete": process.returncode == 0,
    }


def _cpu_seconds(pid: int) -> float:
    """Work of a process's threads so far: what a machine that others use too changes least."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def python(*arguments: str) -> list[str]:
    """Command of a module of this interpreter."""
    return [sys.executable, "-m", *arguments]
