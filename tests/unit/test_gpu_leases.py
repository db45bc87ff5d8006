"""GPU memory between serving and training, with the driver's list given by hand."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from core import gpu as gpu_module
from core.database import Database
from core.errors import InvalidInput, Postponed
from core.gpu import MEMORY_SHARE_VARIABLE, Gpu, GpuLeases, gpus_of_this_machine, serving_pause
from core.jobs import JobLease, JobStore
from core.settings import GpuSettings, Settings
from core.tables import GpuLease, Job, Tenant
from core.tables.base import utc_now
from core.types import JobKind
from tests.tiny_llama import build_tiny_llama
from tuning.gpu_need import gpu_need, hold_gpu
from tuning.recipe import load_recipe
from workers.base import run_job

GIB = 2**30
ONE = [Gpu(0, 80 * GIB)]
TWO = [Gpu(0, 80 * GIB), Gpu(1, 40 * GIB)]


class Generator:
    """Remembers whether it sleeps."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def sleep(self) -> None:
        self.said.append("sleep")

    def wake(self) -> None:
        self.said.append("wake")


@pytest.fixture
def jobs(database: Database, settings: Settings) -> JobStore:
    return JobStore(database, settings, None)


def running(jobs: JobStore, database: Database, tenant: Tenant, name: str) -> JobLease:
    with database.write() as session:
        job = jobs.create(session, tenant_id=tenant.id, kind=JobKind.TUNING, subject_id=name)
    lease = jobs.claim(job.id)
    assert lease is not None
    return lease


def leases(database: Database, gpus: list[Gpu], **settings: object) -> GpuLeases:
    return GpuLeases(database, GpuSettings.model_validate(settings), probe=lambda: gpus, machine="m")


def test_a_machine_without_a_gpu_lends_nothing_and_stops_nobody(
    jobs: JobStore, database: Database, tenant: Tenant
) -> None:
    with leases(database, []).held(running(jobs, database, tenant, "a"), 10 * GIB) as grant:
        assert grant is None


def test_serving_keeps_its_share_and_the_rest_is_lent_once(jobs: JobStore, database: Database, tenant: Tenant) -> None:
    lender = leases(database, ONE, serving_share=0.5)
    first, second = (running(jobs, database, tenant, name) for name in "ab")
    with lender.held(first, 30 * GIB) as grant:
        assert grant is not None and grant.memory_bytes == 30 * GIB
        assert grant.environment == {"CUDA_VISIBLE_DEVICES": "0", MEMORY_SHARE_VARIABLE: "0.3750"}
        with pytest.raises(Postponed) as busy, lender.held(second, 11 * GIB):
            pass
        assert busy.value.code == "gpu_busy"
        with lender.held(second, 10 * GIB) as beside:
            assert beside is not None and beside.gpu.index == 0
    with lender.held(second) as whole:
        assert whole is not None and whole.memory_bytes == 40 * GIB
    with database.read() as session:
        assert not session.scalars(select(GpuLease)).all()


def test_what_no_gpu_can_ever_lend_is_refused_at_once(jobs: JobStore, database: Database, tenant: Tenant) -> None:
    with (
        pytest.raises(InvalidInput) as refused,
        leases(database, ONE).held(running(jobs, database, tenant, "a"), 41 * GIB),
    ):
        pass
    assert refused.value.code == "gpu_too_small" and refused.value.extra["lendable_bytes"] == 40 * GIB


def test_of_several_gpus_the_emptiest_is_lent_and_only_those_that_are_named(
    jobs: JobStore, database: Database, tenant: Tenant
) -> None:
    first, second = (running(jobs, database, tenant, name) for name in "ab")
    lender = leases(database, TWO)
    with lender.held(first, 30 * GIB) as one, lender.held(second, 15 * GIB) as two:
        assert one is not None and two is not None and (one.gpu.index, two.gpu.index) == (0, 1)
    with leases(database, TWO, devices=[1]).held(first, 5 * GIB) as named:
        assert named is not None and named.environment["CUDA_VISIBLE_DEVICES"] == "1"


def test_the_lease_of_a_dead_worker_is_void(jobs: JobStore, database: Database, tenant: Tenant) -> None:
    lender = leases(database, ONE)
    dead, next_one = (running(jobs, database, tenant, name) for name in "ab")
    held = lender.held(dead)
    held.__enter__()
    with pytest.raises(Postponed), lender.held(next_one):
        pass
    with database.write() as session:
        session.get_one(Job, dead.job_id).attempt += 1  # the sweeper gave the job to another worker
    with lender.held(next_one) as grant:
        assert grant is not None


def test_a_generator_that_can_sleep_does_so_and_wakes_whatever_happens(
    jobs: JobStore, database: Database, tenant: Tenant
) -> None:
    generator = Generator()
    lender = GpuLeases(
        database, GpuSettings(while_training="sleep"), sleeper=generator, probe=lambda: ONE, machine="m"
    )  # fmt: skip
    lease = running(jobs, database, tenant, "a")
    with pytest.raises(RuntimeError), lender.held(lease, 10 * GIB) as grant:
        assert grant is not None and grant.memory_bytes == 80 * GIB and generator.said == ["sleep"]
        with database.read() as session:
            assert serving_pause(session, utc_now()) == 60.0
        with database.write() as session:
            session.get_one(Job, lease.job_id).progress = 0.25
        with database.read() as session:
            wait = serving_pause(session, utc_now() + timedelta(seconds=100))
            assert wait is not None and 290 < wait < 310  # a quarter took 100 s
        raise RuntimeError("out of memory")
    assert generator.said == ["sleep", "wake"]
    with database.read() as session:
        assert serving_pause(session, utc_now()) is None


def test_a_job_that_waits_for_a_gpu_costs_no_attempt(jobs: JobStore, database: Database, tenant: Tenant) -> None:
    lender = leases(database, ONE)
    holder = running(jobs, database, tenant, "a")
    with database.write() as session:
        waiting = jobs.create(session, tenant_id=tenant.id, kind=JobKind.TUNING, subject_id="b")

    def work(lease: JobLease) -> None:
        with lender.held(lease):
            pass

    with lender.held(holder):
        run_job(jobs, waiting.id, work)
    postponed = jobs.get(waiting.id, tenant.id)
    assert (postponed.status, postponed.failures, postponed.crashes) == ("queued", 0, 0)
    assert postponed.error is not None and postponed.error["code"] == "gpu_busy" and postponed.not_before is not None
    with database.write() as session:
        session.get_one(Job, waiting.id).not_before = None
    run_job(jobs, waiting.id, work)
    assert jobs.get(waiting.id, tenant.id).status == "succeeded"


def test_the_drivers_list_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    class Listed:
        stdout = "0, 81559\n1, 143771\nnot a line\n"

    monkeypatch.setattr(gpu_module.subprocess, "run", lambda *_args, **_options: Listed())
    assert gpus_of_this_machine() == [Gpu(0, 81559 * 2**20), Gpu(1, 143771 * 2**20)]


def rows_file(folder: Path) -> Path:
    row = {"prompt": [{"role": "user", "content": "x" * 900}], "completion": "y" * 300}
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(20)), "utf-8")
    return folder / "rows.jsonl"


def test_several_gpus_are_lent_whole_or_not_at_all(jobs: JobStore, database: Database, tenant: Tenant) -> None:
    lender = leases(database, [*TWO, Gpu(2, 40 * GIB)], serving_share=0.5)
    first, second = (running(jobs, database, tenant, name) for name in "ab")
    with lender.held(first, 15 * GIB, count=2) as grant:
        assert grant is not None and [gpu.index for gpu in grant.gpus] == [0, 1]
        assert grant.environment == {"CUDA_VISIBLE_DEVICES": "0,1", MEMORY_SHARE_VARIABLE: "0.1875"}
        with pytest.raises(Postponed), lender.held(second, 1 * GIB, count=2):
            pass
        with lender.held(second, 1 * GIB) as beside:
            assert beside is not None and beside.gpu.index == 0
    with pytest.raises(InvalidInput, match="on 2") as refused, lender.held(first, 30 * GIB, count=2):
        pass
    assert refused.value.code == "gpu_too_small"
    with pytest.raises(InvalidInput), lender.held(first, count=4):
        pass


def test_a_run_asks_for_what_it_is_estimated_to_need(
    jobs: JobStore, database: Database, tenant: Tenant, tmp_path: Path
) -> None:
    build_tiny_llama(tmp_path)
    rows = rows_file(tmp_path)
    recipe = load_recipe("style-cpu")
    lender = leases(database, ONE, serving_share=0.5)
    first, second = (running(jobs, database, tenant, name) for name in "ab")
    with hold_gpu(lender, first, tmp_path, recipe, rows) as grant:
        assert grant is not None and 2 * GIB < grant.memory_bytes < 3 * GIB
        with hold_gpu(lender, second, tmp_path, recipe, rows) as beside:  # two small ones fit beside each other
            assert beside is not None and beside.memory_bytes == grant.memory_bytes
    with hold_gpu(lender, first, tmp_path, load_recipe("dpo"), rows_of_pairs(rows)) as pairs:
        assert pairs is not None and 2 * GIB < pairs.memory_bytes < 4 * GIB
    with hold_gpu(lender, first, tmp_path, load_recipe("grpo"), rows) as whole:
        assert whole is not None and whole.memory_bytes == 40 * GIB, "what writing answers takes is not estimated"
    small = [Gpu(0, 3 * 2**20)]
    with hold_gpu(leases(database, small, serving_share=0.0), first, tmp_path, recipe, rows) as all_of_it:
        assert all_of_it is not None and all_of_it.memory_bytes == 3 * 2**20, "no more than there is"
    with hold_gpu(leases(database, []), first, tmp_path, recipe, rows) as none:
        assert none is None


def test_a_run_that_fits_no_gpu_is_refused_with_what_would_fit(
    jobs: JobStore, database: Database, tenant: Tenant, tmp_path: Path
) -> None:
    build_tiny_llama(tmp_path)
    recipe = load_recipe("style-cpu")
    rows = rows_file(tmp_path)
    need = gpu_need(tmp_path, recipe, rows, 10 * GIB).least
    lender = leases(database, [Gpu(0, need - 1)], serving_share=0.0)
    lease = running(jobs, database, tenant, "a")
    told = r"needs about .* would fit: batch\.accumulation 2"
    with (
        pytest.raises(InvalidInput, match=told) as refused,
        hold_gpu(lender, lease, tmp_path, recipe, rows),
    ):
        pytest.fail("it must not start")
    assert refused.value.code == "too_little_memory" and refused.value.extra["available"] == need - 1
    with database.read() as session:
        assert not session.scalars(select(GpuLease)).all()
    tokens = load_recipe("style-cpu", {"batch.tokens": 64_000})
    most = gpu_need(tmp_path, tokens, rows, 10 * GIB).least
    with pytest.raises(InvalidInput, match=r"batch\.tokens 32000"):
        gpu_need(tmp_path, tokens, rows, most - 1)


def rows_of_pairs(path: Path) -> Path:
    lines = [json.loads(line) | {"rejected": "z"} for line in path.read_text("utf-8").splitlines()]
    found = path.with_name("pairs.jsonl")
    found.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return found
