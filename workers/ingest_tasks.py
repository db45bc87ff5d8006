"""Tasks of the write side. Acknowledged late: a document lasts seconds, so redelivery is a useful second net.

Building an index or a training set, or deleting a collection, may outlast Redis' visibility timeout; these
are acknowledged early, and the sweeper looks after them.
"""

from __future__ import annotations

from celery import Celery

from core.processes import yield_to_others
from core.queue import Task
from workers.base import run_job
from workers.context import get_context


def register(app: Celery) -> None:
    """Add the tasks to an application."""

    @app.task(name=Task.INGEST_DOCUMENT.value, acks_late=True, shared=False)  # type: ignore[untyped-decorator]
    def ingest_document(job_id: str) -> None:
        yield_to_others()
        context = get_context()
        assert context.ingest_pipeline is not None
        run_job(context.jobs, job_id, context.ingest_pipeline.run, in_turn=True)

    @app.task(name=Task.DELETE_DOCUMENT.value, acks_late=True, shared=False)  # type: ignore[untyped-decorator]
    def delete_document(job_id: str) -> None:
        yield_to_others()
        context = get_context()
        assert context.ingest_pipeline is not None
        run_job(context.jobs, job_id, context.ingest_pipeline.delete)

    @app.task(name=Task.DELETE_COLLECTION.value, acks_late=False, shared=False)  # type: ignore[untyped-decorator]
    def delete_collection(job_id: str) -> None:
        yield_to_others()
        context = get_context()
        assert context.ingest_pipeline is not None
        run_job(context.jobs, job_id, context.ingest_pipeline.delete_collection)

    @app.task(name=Task.DOCUMENT_ACCESS.value, acks_late=True, shared=False)  # type: ignore[untyped-decorator]
    def bring_access(job_id: str) -> None:
        context = get_context()
        assert context.ingest_pipeline is not None
        run_job(context.jobs, job_id, context.ingest_pipeline.bring_access)

    @app.task(name=Task.INDEX_BUILD.value, acks_late=False, shared=False)  # type: ignore[untyped-decorator]
    def build_index(job_id: str) -> None:
        yield_to_others()
        context = get_context()
        assert context.index_builder is not None
        run_job(context.jobs, job_id, context.index_builder.run)

    @app.task(name=Task.DATASET_BUILD.value, acks_late=False, shared=False)  # type: ignore[untyped-decorator]
    def build_dataset(job_id: str) -> None:
        yield_to_others()
        context = get_context()
        assert context.dataset_builder is not None
        run_job(context.jobs, job_id, context.dataset_builder.run)

    @app.task(name=Task.JUDGE_CALIBRATE.value, acks_late=False, shared=False)  # type: ignore[untyped-decorator]
    def calibrate_judge(job_id: str) -> None:
        context = get_context()
        assert context.judge_calibrator is not None
        run_job(context.jobs, job_id, context.judge_calibrator.run)
