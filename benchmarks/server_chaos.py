"""The server topology while its parts die: two api and two ingest worker processes and beat over PostgreSQL and Redis.

    python -m benchmarks.server_chaos [--documents 300] [--queries 2000] [--victims worker-1,index-wiped,...]
                                      [--away-s 60] [--json FILE]

Documents are uploaded, a quarter replaced, a tenth deleted, and questions asked, all at once, while each process is
killed (SIGKILL) and started again in turn, Redis loses its data, PostgreSQL is restarted, the index is killed, away for
a minute, wiped, frozen (SIGSTOP) and without room on its disk, the bucket answers after 20 s, and the disk of our own
processes is full. Ends with 1 when a document is lost, doubled or
failed for good, an answer shows what is deleted, replaced or half ingested, or a refused request was not retryable.
From a checkout with `tests/`, whose stand-ins of Qdrant, S3 and the models it uses; needs Debian's postgresql, and to
be root for a small disk of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.chaos_load import Clients, Known, Tally, in_threads
from tests.server_processes import ServerTopology
from tests.slow_bucket import Bucket
from tests.small_disk import fill, mounted

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

UPLOADERS = 4
ASKERS = 4
REPLACE_EVERY = 4
DELETE_EVERY = 10
ASK_EVERY = 10
"""One question in so many goes through the generator; the others are searches."""
SETTLE_S = 240.0
INDEX = ("index-killed", "index-away", "index-full", "index-frozen", "index-wiped")
VICTIMS = ("worker-1", "api-1", "redis", "worker-2", "postgres", "api-2", "beat", *INDEX, "bucket-slow", "disk-full")
AWAY_S = 60.0
RESERVE_BYTES = 2**27
DISK_BYTES = 700 * 2**20


@dataclass
class Report:
    """What happened, in counts. `wrong` is empty when the system kept its promises."""

    documents: int
    replaced: int
    deleted: int
    queries_answered: int
    refused_retryable: dict[str, int]
    connections_cut: int
    """Requests that were running in a process when it was killed."""
    connections_not_taken: int
    """Requests to a process that was away; the client went on to the next one."""
    kills: list[str]
    ready: int
    points: int
    points_wanted: int
    seconds: float
    wrong: list[str]


class System(Protocol):
    """What is put under load and hurt."""

    admin_key: str

    def urls(self) -> list[str]:
        """Addresses that answer now, or will again."""
        ...

    def hurt(self, victim: str, away_s: float, pause: threading.Event) -> None:
        """Do something to it; return when that is over, though maybe not yet overcome."""
        ...

    def compare(self) -> tuple[int, int, list[str]]:
        """(points of the index, passages in the database, what does not fit together), when all is quiet."""
        ...


class Server:
    """The server topology, with its bucket and its disk where it has such."""

    def __init__(self, topology: ServerTopology, bucket: Bucket | None = None, disk: Path | None = None) -> None:
        self._topology, self._bucket, self._disk = topology, bucket, disk
        self.admin_key = topology.admin_key

    def urls(self) -> list[str]:
        """Both api processes."""
        return [self._topology.url("api-1"), self._topology.url("api-2")]

    def hurt(self, victim: str, away_s: float, pause: threading.Event) -> None:
        """See `VICTIMS`."""
        topology = self._topology
        if victim == "bucket-slow":
            assert self._bucket is not None
            self._bucket.slow_for(away_s, pause)
        elif victim == "disk-full":
            assert self._disk is not None
            fill_for(self._disk, away_s, pause)
        elif victim == "redis":
            topology.redis.lose_everything()
        elif victim == "postgres":
            topology.postgres.restart()
        elif victim in INDEX:
            topology.hurt_index(victim.removeprefix("index-"), away_s, pause)
        else:
            topology.processes[victim].kill()
            pause.wait(1.0)
            topology.restart(victim)
            if victim.startswith("api"):
                topology.wait_ready(victim)

    def compare(self) -> tuple[int, int, list[str]]:
        """As `tsumugi doctor` compares index and database."""
        return _compare_index(self._topology)


def fill_for(disk: Path, seconds: float, pause: threading.Event) -> None:
    """Fill a disk so far that the reserve is touched, then to its last byte, then make room again."""
    other = disk / "other"
    for left in (RESERVE_BYTES - 2 * 2**20, 0):
        fill(other, but_bytes=left)
        pause.wait(seconds / 2)
    other.unlink()


def run_chaos(
    system: System,
    *,
    documents: int,
    queries: int,
    say: Callable[[str], None],
    victims: Sequence[str] = VICTIMS,
    away_s: float = AWAY_S,
) -> Report:
    """Run load and kills on a started system until all is done and quiet again."""
    began = time.monotonic()
    tally = Tally()
    clients = Clients(system.urls, system.admin_key, tally)
    known = [Known(number) for number in range(documents)]
    left = iter(known)
    lock = threading.Lock()
    killed = threading.Event()
    taken = asked = 0

    def upload(_number: int) -> None:
        nonlocal taken
        while True:
            with lock:
                document = next(left, None)
                taken += 1
            if document is None:
                return
            try:
                clients.upload(document, 1)
                if document.number % REPLACE_EVERY == 1:
                    clients.upload(document, 2)
                if document.number % DELETE_EVERY == 0:
                    clients.delete(document)
            except TimeoutError as error:
                with tally.lock:
                    tally.wrong.append(str(error))

    def ask(number: int) -> None:
        nonlocal asked
        chosen = random.Random(number)
        while True:
            with lock:
                if asked >= queries and killed.is_set():
                    return
                asked += 1
                turn = asked
            while not clients.ask(known[chosen.randrange(documents)], answer=turn % ASK_EVERY == 0):
                time.sleep(0.3)

    uploaders, askers = in_threads(UPLOADERS, upload), in_threads(ASKERS, ask)
    kills = _kill_in_turn(system, victims, lambda: min(1.0, taken / documents), say, away_s)
    killed.set()
    for thread in [*uploaders, *askers]:
        thread.join()
    say(f"load ended after {time.monotonic() - began:.0f} s; waiting for the jobs")
    _settle(clients)
    alive = [document for document in known if not document.deleted]
    ready, points, wanted = _count(system, clients, alive, tally)
    clients.close()
    return Report(
        documents=documents,
        replaced=sum(document.ready_edition == 2 for document in known),
        deleted=sum(document.deleted for document in known),
        queries_answered=tally.answered,
        refused_retryable=dict(tally.retryable),
        connections_cut=tally.cut,
        connections_not_taken=tally.not_taken,
        kills=kills,
        ready=ready,
        points=points,
        points_wanted=wanted,
        seconds=round(time.monotonic() - began, 1),
        wrong=tally.wrong,
    )


def _kill_in_turn(
    system: System,
    victims: Sequence[str],
    progress: Callable[[], float],
    say: Callable[[str], None],
    away_s: float,
) -> list[str]:
    """Each process once, Redis with its data, PostgreSQL, spread over the uploads; one is back before the next goes."""
    done: list[str] = []
    pause = threading.Event()
    for turn, name in enumerate(victims):
        while progress() < (turn + 0.5) / (len(victims) + 1):
            pause.wait(0.2)
        say(f"{name} goes, {progress():.0%} of the documents sent")
        system.hurt(name, away_s, pause)
        done.append(name)
    return done


def _settle(clients: Clients) -> None:
    """Return when no job is queued or running."""
    deadline = time.monotonic() + SETTLE_S
    while any(
        clients.until_done("GET", "/v1/jobs", params={"status": status, "limit": 1}).json()["items"]
        for status in ("queued", "running")
    ):
        if time.monotonic() > deadline:
            return  # the counts below tell what is missing
        time.sleep(0.5)


def _count(system: System, clients: Clients, alive: list[Known], tally: Tally) -> tuple[int, int, int]:
    """Documents that are ready, points in the index, and points that there must be: once each."""
    rows: list[dict[str, Any]] = []
    cursor = None
    while True:
        query = {"collection": "chaos", "limit": 100, **({"cursor": cursor} if cursor else {})}
        page = clients.until_done("GET", "/v1/documents", params=query).json()
        rows += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    names = [row["external_id"] for row in rows]
    wanted = {f"depot-{document.number}" for document in alive}
    tally.wrong += [f"{name} is there {names.count(name)} times" for name in set(names) if names.count(name) > 1]
    tally.wrong += [f"{name} is lost" for name in sorted(wanted - set(names))]
    tally.wrong += [f"{name} is there after its deletion" for name in sorted(set(names) - wanted)]
    tally.wrong += [f"{row['external_id']} is {row['status']}" for row in rows if row["status"] != "ready"]
    points, expected, findings = system.compare()
    tally.wrong += findings
    return sum(row["status"] == "ready" for row in rows), points, expected


def serving_chunks(session: Session) -> int:
    """Chunks of the generations that serve: the points that an index should hold."""
    from sqlalchemy import func, select

    from core.tables import ChunkRow, Document

    serving = select(func.count()).select_from(ChunkRow).join(Document, Document.id == ChunkRow.document_id)
    return session.scalar(serving.where(ChunkRow.generation == Document.active_generation)) or 0


def _compare_index(topology: ServerTopology) -> tuple[int, int, list[str]]:
    """Points of the index against the chunk rows of the generations that serve, as `tsumugi doctor` compares them."""
    from core.database import Database
    from core.settings import load_settings
    from retrieval.build import build_retrieval
    from retrieval.reconcile import reconcile

    given = {name: value for name, value in topology.environment().items() if name.startswith("TSUMUGI_")}
    settings = load_settings(
        data_dir=topology.data_dir,
        database={"url": given["TSUMUGI_DATABASE__URL"]},
        retrieval={"index": "qdrant", "embedder": "endpoint"},
        qdrant={"url": given["TSUMUGI_QDRANT__URL"]},
        embedding={
            "url": given["TSUMUGI_EMBEDDING__URL"], "model": given["TSUMUGI_EMBEDDING__MODEL"], "dim": 384,
            "max_tokens": 256, "languages": ["en"],
        },
    )  # fmt: skip
    database = Database(settings.database_url)
    retrieval = build_retrieval(settings, database)
    try:
        report = reconcile(database, retrieval, repair=False)
        with database.read() as session:
            expected = serving_chunks(session)
        points = retrieval.count()
        findings = [] if report.clean else [f"index and database differ: {report}"]
        if points != expected:
            findings.append(f"{points} points, {expected} chunks")
        return points, expected, findings
    finally:
        retrieval.close()
        database.close()


def main() -> int:
    """Start everything, run, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--victims", default=",".join(VICTIMS))
    parser.add_argument("--away-s", type=float, default=AWAY_S)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    def say(line: str) -> None:
        print(line, flush=True)

    with ExitStack() as stack:
        models = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        disk = stack.enter_context(mounted(Path(tempfile.mkdtemp()) / "disk", DISK_BYTES))
        bucket = stack.enter_context(Bucket())
        settings = {**bucket.settings, "TSUMUGI_STORAGE__RESERVE_BYTES": str(RESERVE_BYTES)}
        topology = stack.enter_context(ServerTopology(models, settings=settings, data_dir=disk / "data"))
        topology.start_all()
        report = run_chaos(
            Server(topology, bucket, disk),
            documents=arguments.documents,
            queries=arguments.queries,
            say=say,
            victims=arguments.victims.split(","),
            away_s=arguments.away_s,
        )
    return finish(report, arguments.json)


def finish(report: Report, path: Path | None) -> int:
    """Print the counts, keep them; 1 where a promise was not kept."""
    text = json.dumps(asdict(report), ensure_ascii=False, indent=2)
    print(text)
    if path:
        path.write_text(text + "\n", "utf-8")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
