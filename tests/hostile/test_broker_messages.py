"""Whatever lies in the broker, the worker goes on: wrong encodings, unknown tasks, wrong arguments, plain garbage."""

from __future__ import annotations

import base64
import json
import pickle
import uuid
from pathlib import Path

import pytest

from core.database import Database
from core.jobs import JobLease, JobStore
from core.queue import CeleryTaskQueue, Queue
from core.settings import Settings
from core.tables import Tenant
from core.types import JobKind, JobStatus
from tests.conftest import RedisServer
from workers.app import create_celery
from workers.beat import Beat
from workers.context import WorkerContext, set_context
from workers.threads import ThreadsWorker


class Detonator:
    """Unpickling it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.write_text, (self.path, "boom"))


class Pipeline:
    def run(self, lease: JobLease) -> None:
        lease.check()

    def delete(self, lease: JobLease) -> None:
        raise AssertionError


def message(task: str, body: bytes, content_type: str = "application/json", encoding: str = "utf-8") -> str:
    """A message as kombu lays it into a Redis list."""
    task_id = str(uuid.uuid4())
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": encoding,
            "content-type": content_type,
            "headers": {"lang": "py", "task": task, "id": task_id, "root_id": task_id, "retries": 0},
            "properties": {
                "correlation_id": task_id,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": "ingest"},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )


def arguments(**kwargs: object) -> bytes:
    return json.dumps([[], kwargs, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]).encode()


@pytest.mark.timeout(60)
def test_bad_messages_do_not_stop_the_worker(
    database: Database, settings: Settings, tenant: Tenant, redis_server: RedisServer, tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb"
    pickled = pickle.dumps(([], {"job_id": Detonator(bomb)}, {}))
    client = redis_server.client()
    for bad in (
        message("ingest.document", pickled, "application/x-python-serialize", "binary"),
        message("ingest.document", b"{not json"),
        message("ingest.document", arguments()),
        message("ingest.document", arguments(job_id="job_of_nobody")),
        message("ingest.document", arguments(job_id={"a": [1]})),
        message("os.system", arguments(command="touch /tmp/x")),
        message("ingest.document", json.dumps("a string").encode()),
        "not even a message",
        "[1, 2]",
    ):
        client.rpush("ingest", bad)

    quick = settings.jobs.model_copy(update={"resend_after_s": 1.0, "sweep_every_s": 0.5})
    settings = settings.model_copy(update={"jobs": quick})
    queue = CeleryTaskQueue(redis_server.url)
    jobs = JobStore(database, settings, queue)
    context = WorkerContext(settings=settings, jobs=jobs, ingest_pipeline=Pipeline())
    set_context(context)
    beat = Beat(context)
    beat.start()
    worker = ThreadsWorker(create_celery(settings, redis_server.url), [Queue.INGEST], 1)
    with database.write() as session:
        job = jobs.create(session, tenant_id=tenant.id, kind=JobKind.INGEST, subject_id="doc_1", priority=9)
    worker.start()
    try:
        assert jobs.wait(job.id, tenant.id, 30.0).status == JobStatus.SUCCEEDED
        assert worker.alive
        assert queue.depth(Queue.INGEST) == 0
    finally:
        assert worker.stop(15.0) and beat.stop()
        queue.close()
        set_context(None)
    assert not bomb.exists()
