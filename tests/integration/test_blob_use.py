"""A blob store that answers late, or not at all: who waits for it, who does not, and what is there in the end."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from core.access import Principal
from core.blobs import FolderBlobStore
from core.database import Database
from core.errors import Conflict, Unavailable
from core.jobs import JobStore
from core.repositories.blob_use import drop_unused, storing
from core.settings import Settings
from core.tables import Document, Job
from core.tenants import create_tenant
from core.types import Scope
from ingest.accept import IngestService
from ingest.removal import Removal
from ingest.upload import Upload

IN_TIME_S = 15.0
"""Bound of what must go on; a call that hangs at the gate takes 20 s."""


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Bucket(FolderBlobStore):
    """Calls for some blobs take until the gate is opened, at most 20 s."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.slow: set[tuple[str, str]] = set()
        self.away = False
        self.arrived = threading.Event()
        self.gate = threading.Event()

    def _pass(self, operation: str, digest: str) -> None:
        if self.away:
            raise Unavailable("the bucket is away", code="blob_store_unavailable")
        if (operation, digest) in self.slow:
            self.arrived.set()
            self.gate.wait(20.0)

    def put(self, data: bytes) -> str:
        self._pass("put", digest_of(data))
        return super().put(data)

    def delete(self, digest: str) -> None:
        self._pass("delete", digest)
        super().delete(digest)


class Service:
    """Uploads and deletions with their jobs; no index."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self.db = db
        self.bucket = Bucket(settings.blobs_dir)
        with db.write() as session:
            tenant = create_tenant(session, "slow-bucket")
        self.principal = Principal(tenant.id, "key_1", frozenset({Scope.ADMIN}), frozenset())
        self.jobs = JobStore(db, settings, None)
        self.ingest = IngestService(db, self.bucket, self.jobs, settings)
        no_index: Any = SimpleNamespace(live=lambda: [])
        self.removal = Removal(db, self.bucket, no_index)

    def upload(self, data: bytes, name: str) -> str:
        (accepted,) = self.ingest.accept(self.principal, [Upload(name, data, external_id=name)])
        return accepted.document.id

    def delete(self, document_id: str) -> str:
        """Returns the job that has yet to run."""
        job = self.ingest.delete(self.principal, document_id).job
        assert job is not None
        return job.id

    def work(self, job_id: str) -> None:
        lease = self.jobs.claim(job_id)
        assert lease is not None
        self.removal.document(lease)

    def others_go_on(self) -> None:
        """An upload, a deletion with its job, and reading, of bytes that nobody waits for."""
        document_id = self.upload(b"something else", "else.txt")
        self.work(self.delete(document_id))
        with self.db.read() as session:
            assert session.get(Document, document_id) is None
        assert not self.bucket.exists(digest_of(b"something else"))
        assert self.ingest.list(self.principal).items is not None


@pytest.fixture(params=["sqlite", "postgresql"])
def service(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Service]:
    name = "database" if request.param == "sqlite" else "postgres_database"
    service = Service(request.getfixturevalue(name), settings)
    yield service
    service.bucket.gate.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def held_up(service: Service, waiting: Future[Any]) -> None:
    """The call stands at the gate while everything else is done."""
    assert service.bucket.arrived.wait(IN_TIME_S)
    with ThreadPoolExecutor(1) as others:
        others.submit(service.others_go_on).result(IN_TIME_S)
    assert not waiting.done()


def test_an_upload_that_the_bucket_holds_up_holds_up_nobody_else(service: Service, pool: ThreadPoolExecutor) -> None:
    data = b"stored slowly"
    service.bucket.slow.add(("put", digest_of(data)))
    waiting = pool.submit(service.upload, data, "slow.txt")
    held_up(service, waiting)
    service.bucket.gate.set()
    assert waiting.result(IN_TIME_S)
    assert service.bucket.get(digest_of(data)) == data


def test_a_deletion_that_the_bucket_holds_up_holds_up_only_the_same_bytes(
    service: Service, pool: ThreadPoolExecutor
) -> None:
    data = b"dropped slowly"
    job_id = service.delete(service.upload(data, "a.txt"))
    service.bucket.slow.add(("delete", digest_of(data)))
    deleting = pool.submit(service.work, job_id)
    held_up(service, deleting)
    again = pool.submit(service.upload, data, "b.txt")  # must not count on bytes that are about to go
    held_up(service, again)
    service.bucket.gate.set()
    deleting.result(IN_TIME_S)
    assert again.result(IN_TIME_S)
    assert service.bucket.get(digest_of(data)) == data


def test_bytes_that_are_being_stored_again_outlive_the_deletion_of_their_last_user(
    service: Service, pool: ThreadPoolExecutor
) -> None:
    data = b"stored while the only copy goes"
    job_id = service.delete(service.upload(data, "a.txt"))
    service.bucket.slow.add(("put", digest_of(data)))
    again = pool.submit(service.upload, data, "b.txt")
    assert service.bucket.arrived.wait(IN_TIME_S)
    deleting = pool.submit(service.work, job_id)
    held_up(service, deleting)
    service.bucket.gate.set()
    assert again.result(IN_TIME_S)
    deleting.result(IN_TIME_S)
    assert service.bucket.get(digest_of(data)) == data


def test_a_refused_upload_leaves_no_bytes_behind(service: Service) -> None:
    service.upload(b"mine", "taken.txt")
    with service.db.write() as session:
        session.execute(text("UPDATE document_groups SET group_name = 'others'"))
    outsider = Principal(service.principal.tenant_id, "key_2", frozenset({Scope.INGEST}), frozenset({"sales"}))
    with pytest.raises(Conflict):
        service.ingest.accept(outsider, [Upload("taken.txt", b"not mine", external_id="taken.txt")])
    assert not service.bucket.exists(digest_of(b"not mine"))
    with pytest.raises(ZeroDivisionError), storing(service.db, service.bucket, [b"mine", b"new"]):
        raise ZeroDivisionError
    assert service.bucket.exists(digest_of(b"mine"))  # a row names it: another upload's
    assert not service.bucket.exists(digest_of(b"new"))


def test_a_deletion_goes_on_where_the_bucket_cut_it_off(service: Service) -> None:
    data = b"not dropped at once"
    job_id = service.delete(service.upload(data, "a.txt"))
    service.bucket.away = True
    with pytest.raises(Unavailable):
        service.work(job_id)
    assert service.bucket.exists(digest_of(data))
    service.bucket.away = False
    with service.db.write() as session:
        session.get_one(Job, job_id).status = "queued"
    service.work(job_id)  # the rows are gone: only the job knows which bytes are left
    assert not service.bucket.exists(digest_of(data))
    assert service.jobs.get(job_id, service.principal.tenant_id).status == "succeeded"


def test_a_lock_that_is_lost_with_its_connection_commits_nothing(
    postgres_database: Database, settings: Settings
) -> None:
    service = Service(postgres_database, settings)
    with pytest.raises(OperationalError):  # noqa: SIM117 - the commit is what must not be
        with storing(service.db, service.bucket, [b"x"]) as still_held, service.db.write() as session:
            session.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                    " AND pid <> pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE"
                    " datname = current_database())"
                )
            )
            create_tenant(session, "never-committed")
            still_held()
    with service.db.read() as session:
        assert session.execute(text("SELECT count(*) FROM tenants WHERE name = 'never-committed'")).scalar() == 0
    drop_unused(service.db, service.bucket, [digest_of(b"x")])  # a new connection serves
