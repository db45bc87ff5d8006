"""The embedded service while it is killed, its index is wiped, its disk is full and its bucket answers after 20 s.

    python -m benchmarks.embedded_chaos [--documents 60] [--queries 300] [--victims killed,index-wiped,...]
                                        [--away-s 60] [--json FILE]

The load and the verdict are those of `benchmarks.server_chaos`; `tsumugi doctor` looks at everything in the end. Its
blobs are in a bucket, its data dir on a small disk of its own, which needs root; from a checkout with `tests/`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

from benchmarks.server_chaos import AWAY_S, DISK_BYTES, RESERVE_BYTES, fill_for, finish, run_chaos, serving_chunks
from cli.service_process import ServiceProcess
from tests.slow_bucket import Bucket
from tests.small_disk import mounted

VICTIMS = ("killed", "bucket-slow", "index-wiped", "disk-full", "killed")


class Embedded:
    """The service, its bucket and its disk."""

    def __init__(self, service: ServiceProcess, bucket: Bucket, disk: Path) -> None:
        self._service, self._bucket, self._disk = service, bucket, disk
        self.admin_key = service.admin_key

    def urls(self) -> list[str]:
        """The service; it takes another port each time it starts."""
        return [self._service.url]

    def hurt(self, victim: str, away_s: float, pause: threading.Event) -> None:
        """See `VICTIMS`."""
        if victim == "bucket-slow":
            self._bucket.slow_for(away_s, pause)
        elif victim == "disk-full":
            fill_for(self._disk, away_s, pause)
        else:
            self._service.kill()
            if victim == "index-wiped":
                shutil.rmtree(self._service.data_dir / "index")
            self._service.start(600.0)

    def compare(self) -> tuple[int, int, list[str]]:
        """What `tsumugi doctor` finds in the stopped system."""
        from cli.doctor import examine
        from core.database import open_database
        from core.settings import load_settings
        from retrieval.build import build_retrieval

        self._service.stop()
        bucket = {name.removeprefix("TSUMUGI_BLOBS__").lower(): value for name, value in self._bucket.settings.items()}
        settings = load_settings(data_dir=self._service.data_dir, blobs=bucket)
        found, _ = examine(settings, repair=False)
        database = open_database(settings)
        retrieval = build_retrieval(settings, database)
        try:
            with database.read() as session:
                wanted = serving_chunks(session)
            return retrieval.index.count(), wanted, [f"{one.check} {one.object_id}: {one.problem}" for one in found]
        finally:
            retrieval.close()
            database.close()


def main() -> int:
    """Start the service, run, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=60)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--victims", default=",".join(VICTIMS))
    parser.add_argument("--away-s", type=float, default=AWAY_S)
    parser.add_argument("--models", type=Path, help="folder of prepared models, as `DATA_DIR/models`; default makes it")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    def say(line: str) -> None:
        print(line, flush=True)

    with ExitStack() as stack:
        disk = stack.enter_context(mounted(Path(tempfile.mkdtemp()) / "disk", DISK_BYTES))
        models = arguments.models or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data_dir = disk / "data"
        data_dir.mkdir()
        (data_dir / "models").symlink_to(models.resolve())
        bucket = stack.enter_context(Bucket())
        settings = {**bucket.settings, "TSUMUGI_STORAGE__RESERVE_BYTES": str(RESERVE_BYTES)}
        service = ServiceProcess(data_dir, settings=settings)
        stack.callback(service.stop)
        service.start(600.0)
        report = run_chaos(
            Embedded(service, bucket, disk),
            documents=arguments.documents,
            queries=arguments.queries,
            say=say,
            victims=arguments.victims.split(","),
            away_s=arguments.away_s,
        )
    return finish(report, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
