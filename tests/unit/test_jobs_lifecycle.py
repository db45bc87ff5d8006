"""The state machine of jobs over a real SQLite, without a broker."""

from __future__ import annotations

from core.database import Database
from core.jobs import JobStore
from core.settings import Settings
from core.tables import Job, Tenant
from core.types import JobKind, JobStatus


def make_job(jobs: JobStore, database: Database, tenant: Tenant) -> Job:
    with database.write() as session:
        return jobs.create(
            session, tenant_id=tenant.id, kind=JobKind.INGEST, subject_id="doc_1", arguments={"generation": 1}
        )


def test_a_job_runs_and_succeeds(database: Database, settings: Settings, tenant: Tenant) -> None:
    jobs = JobStore(database, settings, None)
    job = make_job(jobs, database, tenant)
    assert job.status == JobStatus.QUEUED

    lease = jobs.claim(job.id, "worker-1")
    assert lease is not None and lease.attempt == 1 and lease.arguments == {"generation": 1}
    with lease.running():
        lease.progress("embed", 0.5)
        lease.check()
        assert jobs.get(job.id, tenant.id).progress == 0.5
        lease.succeed()
    done = jobs.get(job.id, tenant.id)
    assert (done.status, done.progress, done.error) == (JobStatus.SUCCEEDED, 1.0, None)
    assert jobs.claim(job.id, "worker-2") is None
