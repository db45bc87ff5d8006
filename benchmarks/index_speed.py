"""Searches of the index by this code and by an earlier commit's, turn by turn: through a server, and in Qdrant Edge.

    git worktree add --detach ../before COMMIT
    python -m benchmarks.index_speed --before ../before [--url http://...] [--rounds 3] [--json FILE]

The server is the stand-in of the tests, the same process for both, unless `--url` names a real one: eight threads ask
it for what one search of the product asks. The stand-in compares vectors in Python, so it is filled with few points and
shows what the calls cost, not the search behind them. Edge is asked by one thread without a filter, where both find the
right ones. Ratios are of medians over the rounds, this code over the earlier one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Figures = dict[str, float]


def probe(checkout: Path, where: str, points: int, seconds: float, threads: int) -> Figures:
    """Figures of one turn by the code of a checkout."""
    script = str(ROOT / "benchmarks" / "index_probe.py")
    done = subprocess.run(  # noqa: S603 - our own script
        # -P: the script's own folder holds modules that are named like packages of the checkout
        [sys.executable, "-P", script, where, str(points), str(seconds), str(threads)],
        env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{checkout}: {done.stderr[-2000:]}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def compare(before: Path, where: str, points: int, seconds: float, threads: int, rounds: int) -> dict[str, Figures]:
    """Medians of both over the rounds, and this code's over the earlier one's."""
    turns: dict[str, list[Figures]] = {"before": [], "now": []}
    for _ in range(rounds):
        for name, checkout in (("before", before), ("now", ROOT)):
            turns[name].append(probe(checkout, where, points, seconds, threads))
            print(where if where == "edge" else "server", name, turns[name][-1], flush=True)
    middle = {
        name: {key: statistics.median(one[key] for one in found) for key in found[0]} for name, found in turns.items()
    }
    ratio = {key: middle["now"][key] / middle["before"][key] for key in middle["now"]}
    return {**middle, "ratio": ratio}


@contextmanager
def served(url: str) -> Iterator[str]:
    """The given server, or a stand-in in a process of its own."""
    if url:
        yield url
        return
    from tests.server_processes import Daemon, free_port, wait_for

    port = free_port()
    log = Path(os.devnull)
    daemon = Daemon("qdrant", [sys.executable, "-m", "tests.qdrant_standin", "--port", str(port)], log)
    daemon.start()
    try:
        import httpx

        def answers() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        wait_for(answers, 120, "the Qdrant stand-in", lambda: daemon.alive)
        yield f"http://127.0.0.1:{port}"
    finally:
        daemon.kill()


def main() -> int:
    """Command line; 1 where the server is not twice as fast, or Edge slower than 0.9."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="checkout of the earlier commit")
    parser.add_argument("--url", default="", help="a Qdrant server; default is the tests' stand-in")
    parser.add_argument("--points", type=int, default=24, help="on the server")
    parser.add_argument("--edge-points", type=int, default=10_000)
    parser.add_argument("--rounds", "--limit", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    before = arguments.before.resolve()
    with served(arguments.url) as url:
        server = compare(before, url, arguments.points, arguments.seconds, 8, arguments.rounds)
    edge = compare(before, "edge", arguments.edge_points, arguments.seconds, 1, arguments.rounds)
    figures = {"server": server, "edge": edge}
    print(json.dumps(figures, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    faster, as_fast = server["ratio"]["searches_per_s"] >= 2.0, edge["ratio"]["searches_per_s"] >= 0.9
    return int(not (faster and as_fast))


if __name__ == "__main__":
    sys.exit(main())
