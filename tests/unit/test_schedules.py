"""Schedules on a real database: moments, conditions, and what is done when two want the same."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from sqlalchemy import select

from api.schemas.tuning import ScheduleChange
from core.access import Principal
from core.blobs import FolderBlobStore
from core.database import Database
from core.errors import Conflict, DatasetRejected, InvalidInput, NotFound
from core.jobs import JobStore
from core.settings import Settings
from core.tables import AdapterFamily, Answer, AuditEntry, DatasetRow, Job, OutboxMessage, Schedule, Tenant, TuningRun
from core.types import Scope
from tuning.datasets.service import DatasetService
from tuning.schedule_rules import next_moment
from tuning.schedules import SchedulesService, ScheduleView
from tuning.service import TuningService

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Bench:
    """Services of one tenant over a real database."""

    def __init__(self, database: Database, settings: Settings, tenant: Tenant) -> None:
        self.db = database
        self.principal = Principal(tenant.id, "key_test", frozenset({Scope.TUNE}), frozenset())
        self.jobs = JobStore(database, settings, None)
        self.datasets = DatasetService(database, FolderBlobStore(settings.blobs_dir))
        self.tuning = TuningService(database, self.jobs, settings)
        self.schedules = SchedulesService(database, self.tuning)

    def upload(self, count: int, salt: str = "a", family: str | None = None) -> str:
        rows = [{"instruction": f"{salt} {n}?", "output": f"Answer {salt} {n}."} for n in range(count)]
        data = "\n".join(json.dumps(row) for row in rows).encode()
        return self.datasets.upload(self.principal, data, f"{salt}.jsonl", family=family).dataset.id

    def schedule(self, **changes: object) -> ScheduleView:
        return self.schedules.create(self.principal, {"family": "house", "cron": "0 3 * * *", **changes})

    def make_due(self, schedule_id: str, moment: datetime) -> None:
        with self.db.write() as session:
            session.get_one(Schedule, schedule_id).next_at = moment

    def end_run(self, run_id: str | None, status: str = "succeeded") -> None:
        with self.db.write() as session:
            run = session.get_one(TuningRun, run_id)
            session.get_one(Job, run.job_id).status = status

    def runs(self) -> int:
        with self.db.read() as session:
            return len(session.scalars(select(TuningRun)).all())


@pytest.fixture
def bench(database: Database, settings: Settings, tenant: Tenant) -> Bench:
    return Bench(database, settings, tenant)


def outcome(view: ScheduleView) -> dict[str, object]:
    assert view.last_outcome is not None
    return view.last_outcome


def test_a_due_schedule_makes_one_run_in_its_own_name(bench: Bench) -> None:
    bench.upload(30)
    schedule = bench.schedule(conditions={"min_new_rows": 30})
    bench.make_due(schedule.id, NOW - timedelta(minutes=1))
    (judged,) = bench.schedules.run_due(NOW)
    assert outcome(judged)["reason"] == "started" and outcome(judged)["new_rows"] == 30
    assert judged.next_at == datetime(2026, 3, 2, 3, 0, tzinfo=UTC)
    run = bench.tuning.get(bench.principal, str(judged.last_run_id))
    assert run.schedule_id == schedule.id and run.status == "queued" and run.requested_by is None
    with bench.db.read() as session:
        entry = session.scalars(select(AuditEntry).where(AuditEntry.action == "tuning_run.create")).one()
        assert entry.actor == f"schedule:{schedule.id}"
        assert session.scalars(select(OutboxMessage)).one().task == "tuning.prepare"
    assert bench.schedules.run_due(NOW) == [] and bench.runs() == 1


def test_a_moment_missed_for_days_runs_once(bench: Bench) -> None:
    bench.upload(30)
    schedule = bench.schedule(cron="*/5 * * * *")
    bench.make_due(schedule.id, NOW - timedelta(days=3))
    (judged,) = bench.schedules.run_due(NOW)
    assert judged.next_at == NOW + timedelta(minutes=5)
    assert bench.schedules.run_due(NOW + timedelta(seconds=30)) == [] and bench.runs() == 1


def test_too_few_new_rows_are_counted_since_the_last_run_that_did_not_fail(bench: Bench) -> None:
    bench.upload(30)
    schedule = bench.schedule(conditions={"min_new_rows": 10})
    bench.make_due(schedule.id, NOW)
    (first,) = bench.schedules.run_due(NOW)
    bench.end_run(first.last_run_id)
    bench.upload(4, "b")
    bench.make_due(schedule.id, NOW)
    (second,) = bench.schedules.run_due(NOW)
    assert {key: outcome(second)[key] for key in ("reason", "new_rows", "needed")} == {
        "reason": "not_enough_new_rows", "new_rows": 4, "needed": 10,
    }  # fmt: skip
    bench.end_run(first.last_run_id, "failed")  # it used up nothing: its rows are new again
    bench.make_due(schedule.id, NOW)
    (third,) = bench.schedules.run_due(NOW)
    assert outcome(third)["reason"] == "started" and outcome(third)["new_rows"] == 34


def test_two_runs_of_a_family_never_overlap(bench: Bench) -> None:
    bench.upload(30)
    one, two = bench.schedule(), bench.schedule(cron="0 4 * * *")
    for schedule in (one, two):
        bench.make_due(schedule.id, NOW - timedelta(seconds=1 if schedule is two else 2))
    first, second = bench.schedules.run_due(NOW)
    assert outcome(first)["reason"] == "started"
    assert outcome(second)["reason"] == "run_in_progress" and outcome(second)["run_id"] == first.last_run_id
    with pytest.raises(Conflict) as busy:
        bench.schedules.run_now(bench.principal, two.id)
    assert busy.value.code == "run_in_progress" and bench.runs() == 1


def test_run_now_ignores_conditions(bench: Bench) -> None:
    bench.upload(30)
    schedule = bench.schedule(conditions={"min_new_rows": 1000})
    view = bench.schedules.run_now(bench.principal, schedule.id)
    assert outcome(view)["reason"] == "run_now" and bench.runs() == 1


def test_a_request_that_can_no_longer_run_is_an_outcome_and_not_a_crash(bench: Bench) -> None:
    schedule = bench.schedule()
    bench.make_due(schedule.id, NOW)
    (judged,) = bench.schedules.run_due(NOW)
    assert outcome(judged)["code"] == "too_few_rows" and bench.runs() == 0
    assert judged.next_at is not None and judged.next_at > NOW


def test_disabled_and_deleted_schedules_rest(bench: Bench) -> None:
    bench.upload(30)
    one, two = bench.schedule(), bench.schedule()
    assert bench.schedules.update(bench.principal, one.id, {"enabled": False}).next_at is None
    bench.schedules.delete(bench.principal, two.id)
    assert bench.schedules.run_due(NOW + timedelta(days=4000)) == []
    with pytest.raises(NotFound):
        bench.schedules.get(bench.principal, two.id)


def test_another_tenant_sees_no_schedule_dataset_or_run(bench: Bench, other_tenant: Tenant) -> None:
    dataset = bench.upload(30)
    schedule = bench.schedule()
    run_id = str(bench.schedules.run_now(bench.principal, schedule.id).last_run_id)
    stranger = Principal(other_tenant.id, "key_other", frozenset({Scope.ADMIN}), frozenset())
    for call in (
        lambda: bench.schedules.get(stranger, schedule.id),
        lambda: bench.schedules.run_now(stranger, schedule.id),
        lambda: bench.schedules.delete(stranger, schedule.id),
        lambda: bench.datasets.get(stranger, dataset),
        lambda: bench.datasets.rows(stranger, dataset),
        lambda: bench.tuning.get(stranger, run_id),
        lambda: bench.tuning.cancel(stranger, run_id),
        lambda: bench.tuning.create_run(stranger, {"family": "house", "dataset_ids": [dataset]}),
    ):
        with pytest.raises(NotFound):
            call()
    assert not bench.schedules.list(stranger).items
    assert not bench.datasets.list(stranger).items
    assert not bench.tuning.list(stranger).items


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"family": "base"}, "reserved_family"),
        ({"family": "a@b"}, "invalid_input"),
        ({"family": "house", "method": "ppo"}, "method_not_supported"),
        ({"family": "house", "recipe": "nope"}, "recipe_not_found"),
        ({"family": "house", "overrides": {"optimiser.learning_rate": -1}}, "invalid_recipe"),
        ({"family": "house", "overrides": {"optimiser.speed": 1}}, "invalid_recipe"),
        ({"family": "house", "dataset_ids": ["dst_nope"]}, "dataset_not_found"),
        ({"family": "house", "dataset_ids": []}, "no_datasets"),
        ({"family": "house"}, "too_few_rows"),
        ({"family": "house", "colour": "red"}, "invalid_input"),
    ],
)
def test_a_run_that_cannot_work_is_refused_before_anything_is_queued(bench: Bench, body: dict, code: str) -> None:
    bench.upload(23)
    with pytest.raises((InvalidInput, NotFound)) as refused:
        bench.tuning.create_run(bench.principal, body)
    assert refused.value.code == code and bench.runs() == 0


def test_preferences_are_no_examples_to_imitate(bench: Bench) -> None:
    rows = [{"prompt": f"{n}?", "chosen": "a", "rejected": "b"} for n in range(40)]
    data = json.dumps(rows).encode()
    dataset = bench.datasets.upload(bench.principal, data, "pairs.json").dataset
    with pytest.raises(InvalidInput) as refused:
        bench.tuning.create_run(bench.principal, {"family": "house", "dataset_ids": [dataset.id]})
    assert refused.value.code == "dataset_not_supervised"
    with pytest.raises(InvalidInput) as none_left:
        bench.tuning.create_run(bench.principal, {"family": "house"})
    assert none_left.value.code == "too_few_rows"


def test_the_same_rows_again_are_the_same_dataset(bench: Bench) -> None:
    good = b'{"instruction": "Q?", "output": "A."}\n'
    first = bench.datasets.upload(bench.principal, good, "one.jsonl")
    again = bench.datasets.upload(bench.principal, good + b"{broken\n", "two.jsonl")
    assert first.created and not again.created and again.dataset.id == first.dataset.id
    assert again.report["invalid_lines"] == {"not_json": [2]} and first.report["invalid_lines"] == {}
    page = bench.datasets.rows(bench.principal, first.dataset.id)
    assert [(row.line, row.lineage["source"]) for row in page.items] == [(1, "upload")]
    with bench.db.read() as session:
        assert len(session.scalars(select(DatasetRow)).all()) == 1
    with pytest.raises(DatasetRejected):
        bench.datasets.upload(bench.principal, b"", "empty.jsonl")


@pytest.mark.parametrize(
    ("cron", "timezone", "after", "wanted"),
    [
        ("0 3 * * *", "UTC", "2026-03-01T12:00+00:00", "2026-03-02T03:00+00:00"),
        ("0 3 * * *", "Asia/Tokyo", "2026-03-01T12:00+00:00", "2026-03-01T18:00+00:00"),
        ("30 9 * * 1", "Asia/Tokyo", "2026-03-01T12:00+00:00", "2026-03-02T00:30+00:00"),
        ("0 12 * * *", "Europe/Berlin", "2026-03-28T12:00+00:00", "2026-03-29T10:00+00:00"),  # the clock jumps
    ],
)
def test_cron_is_read_in_its_time_zone(cron: str, timezone: str, after: str, wanted: str) -> None:
    assert next_moment(cron, timezone, datetime.fromisoformat(after)) == datetime.fromisoformat(wanted)


@pytest.mark.parametrize(
    ("cron", "timezone", "code"),
    [
        ("every day", "UTC", "invalid_cron"),
        ("0 3 * *", "UTC", "invalid_cron"),
        ("0 3 * * * *", "UTC", "invalid_cron"),
        ("61 3 * * *", "UTC", "invalid_cron"),
        ("0 0 31 2 *", "UTC", "invalid_cron"),
        ("0 3 * * *", "Mars/Olympus", "invalid_timezone"),
        ("0 3 * * *", "../etc/passwd", "invalid_timezone"),
    ],
)
def test_bad_cron_lines_and_zones_are_refused(bench: Bench, cron: str, timezone: str, code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        bench.schedule(cron=cron, timezone=timezone)
    assert refused.value.code == code


def test_an_hour_that_comes_twice_triggers_once_and_one_that_is_skipped_still_triggers() -> None:
    zone = "America/New_York"  # clocks go forward on 8 March and back on 1 November 2026
    back = datetime(2026, 10, 31, 12, 0, tzinfo=UTC)
    first = next_moment("30 1 * * *", zone, back)
    second = next_moment("30 1 * * *", zone, first)
    assert first == datetime(2026, 11, 1, 5, 30, tzinfo=UTC)
    assert second == datetime(2026, 11, 2, 6, 30, tzinfo=UTC), "not at 06:30 of the first, when it is 01:30 again"
    every = [first]
    for _ in range(3):
        every.append(next_moment("*/30 * * * *", zone, every[-1]))
    assert {later - earlier for earlier, later in pairwise(every)} == {timedelta(minutes=30)}, "by time passed"
    gap = next_moment("30 2 * * *", zone, datetime(2026, 3, 7, 12, 0, tzinfo=UTC))
    assert gap == datetime(2026, 3, 8, 7, 0, tzinfo=UTC), "02:30 does not exist: the first moment after it"


@pytest.mark.parametrize(
    ("now", "wanted"),
    [
        ("2026-03-02T00:00+00:00", "2026-03-02T09:00+00:00"),  # 09:00 in Tokyo, the quiet hours begin
        ("2026-03-02T08:59+00:00", "2026-03-02T09:00+00:00"),
        ("2026-03-02T09:00+00:00", None),
        ("2026-03-01T23:59+00:00", None),
    ],
)
def test_what_falls_due_in_quiet_hours_runs_once_at_their_end(bench: Bench, now: str, wanted: str | None) -> None:
    bench.upload(30)
    schedule = bench.schedule(
        cron="0 3 * * *", timezone="Asia/Tokyo", conditions={"quiet_hours": {"start": "09:00", "end": "18:00"}}
    )
    moment = datetime.fromisoformat(now)
    bench.make_due(schedule.id, moment - timedelta(hours=3))
    (judged,) = bench.schedules.run_due(moment)
    if wanted is None:
        assert outcome(judged)["reason"] == "started"
        return
    assert outcome(judged)["reason"] == "quiet_hours" and judged.next_at == datetime.fromisoformat(wanted)
    (again,) = bench.schedules.run_due(datetime.fromisoformat(wanted))
    assert outcome(again)["reason"] == "started" and bench.runs() == 1


def test_quiet_hours_over_midnight_and_without_length(bench: Bench) -> None:
    bench.upload(30)
    night = {"quiet_hours": {"start": "22:00", "end": "06:00"}}
    schedule = bench.schedule(timezone="Europe/Paris", cron="0 * * * *", conditions=night)
    for hour, end in ((4, datetime(2026, 3, 1, 5, 0, tzinfo=UTC)), (21, datetime(2026, 3, 2, 5, 0, tzinfo=UTC))):
        moment = datetime(2026, 3, 1, hour, 30, tzinfo=UTC)
        bench.make_due(schedule.id, moment)
        (judged,) = bench.schedules.run_due(moment)
        assert datetime.fromisoformat(str(outcome(judged)["until"])) == end
    with pytest.raises(InvalidInput):
        bench.schedule(conditions={"quiet_hours": {"start": "06:00", "end": "06:00"}})


def test_a_family_cools_down_and_a_busy_worker_is_waited_for(bench: Bench) -> None:
    bench.upload(30)
    bench.upload(30, "b", family="other")
    schedule = bench.schedule(conditions={"cool_down_hours": 24})
    other = bench.schedule(family="other", conditions={"free_worker": True})
    bench.make_due(schedule.id, NOW)
    (first,) = bench.schedules.run_due(NOW)
    bench.make_due(other.id, NOW)
    (busy,) = bench.schedules.run_due(NOW)
    assert outcome(busy)["reason"] == "worker_busy" and busy.next_at == NOW + timedelta(minutes=5)
    bench.end_run(first.last_run_id)
    with bench.db.write() as session:
        session.scalars(select(Job)).one().finished_at = NOW
    (started,) = bench.schedules.run_due(NOW + timedelta(minutes=5))
    assert outcome(started)["reason"] == "started"
    bench.make_due(schedule.id, NOW + timedelta(hours=2))
    (cooling,) = bench.schedules.run_due(NOW + timedelta(hours=2))
    assert outcome(cooling)["reason"] == "cooling_down" and bench.runs() == 2
    assert cooling.next_at == min(NOW + timedelta(hours=24), next_moment("0 3 * * *", "UTC", NOW + timedelta(hours=2)))


def test_drift_asks_for_a_rise_over_enough_answers(bench: Bench, tenant: Tenant) -> None:
    bench.upload(30)
    schedule = bench.schedule(conditions={"min_drift": 0.1, "drift_days": 7})

    def judged_at(moment: datetime) -> dict[str, object]:
        bench.make_due(schedule.id, moment)
        (judged,) = bench.schedules.run_due(moment)
        return outcome(judged)

    assert judged_at(NOW)["reason"] == "no_drift", "no family yet"
    with bench.db.write() as session:
        family = AdapterFamily(tenant_id=tenant.id, name="house")
        session.add(family)
        session.flush()
        for day in range(14):
            for number in range(10):
                session.add(
                    Answer(
                        tenant_id=tenant.id, family_id=family.id, question="?", answer="!",
                        refused=number < (4 if day < 7 else 1), citations=[{"verified": True}],
                        created_at=NOW - timedelta(days=day, hours=1),
                    )
                )  # fmt: skip
    found = judged_at(NOW)
    assert found["reason"] == "started"
    assert {key: found["drift"][key] for key in ("figure", "before", "now", "rise")} == {
        "figure": "refusal", "before": 0.1, "now": 0.4, "rise": 0.3,
    }  # fmt: skip


def test_a_clock_that_was_ahead_does_not_put_a_schedule_to_sleep(bench: Bench) -> None:
    bench.upload(30)
    schedule = bench.schedule()
    wrong = NOW + timedelta(days=400)
    bench.make_due(schedule.id, NOW)
    (judged,) = bench.schedules.run_due(wrong)
    assert judged.next_at is not None and judged.next_at > wrong
    assert bench.schedules.run_due(NOW) == [] and bench.runs() == 1
    mended = bench.schedules.get(bench.principal, schedule.id)
    assert mended.next_at == next_moment("0 3 * * *", "UTC", NOW) and outcome(mended)["reason"] == "clock_went_back"


def test_a_clock_set_back_a_little_triggers_nothing_twice(bench: Bench) -> None:
    bench.upload(30)
    schedule = bench.schedule(cron="0 12 * * *")
    bench.make_due(schedule.id, NOW)
    (judged,) = bench.schedules.run_due(NOW + timedelta(seconds=1))
    for seconds in (-2, 0, 30):
        assert bench.schedules.run_due(NOW + timedelta(seconds=seconds)) == []
    assert bench.runs() == 1 and judged.next_at == NOW + timedelta(days=1)


def test_a_schedule_survives_a_restart(bench: Bench, settings: Settings) -> None:
    bench.upload(30)
    schedule = bench.schedule()
    bench.make_due(schedule.id, NOW)
    reopened = Database(settings.database_url)
    try:
        tuning = TuningService(reopened, JobStore(reopened, settings, None), settings)
        (judged,) = SchedulesService(reopened, tuning).run_due(NOW)
        assert outcome(judged)["reason"] == "started"
    finally:
        reopened.close()
    assert bench.schedules.run_due(NOW) == [] and bench.runs() == 1


def test_many_beats_at_once_make_one_run(bench: Bench) -> None:
    bench.upload(30)
    for schedule in (bench.schedule(), bench.schedule(cron="0 4 * * *")):
        bench.make_due(schedule.id, NOW)
    with ThreadPoolExecutor(8) as pool:
        judged = [view for views in pool.map(lambda _n: bench.schedules.run_due(NOW), range(8)) for view in views]
    assert sorted(str(outcome(view)["reason"]) for view in judged) == ["run_in_progress", "started"]
    assert bench.runs() == 1


def test_only_rows_that_the_family_did_not_have_are_new(bench: Bench) -> None:
    bench.upload(30)
    schedule = bench.schedule(conditions={"min_new_rows": 5})
    bench.make_due(schedule.id, NOW)
    (first,) = bench.schedules.run_due(NOW)
    bench.end_run(first.last_run_id)
    bench.upload(32)  # the thirty again, and two more: another set, and two new rows
    bench.upload(40, "b", family="other")
    bench.make_due(schedule.id, NOW + timedelta(days=1))
    (waiting,) = bench.schedules.run_due(NOW + timedelta(days=1))
    assert (outcome(waiting)["reason"], outcome(waiting)["new_rows"]) == ("not_enough_new_rows", 2)
    rows = [json.dumps({"instruction": "何日?", "output": "25日。", "note": n}) for n in range(9)]
    bench.datasets.upload(bench.principal, "\n".join(rows).encode(), "same.jsonl")  # nine times the same row
    bench.make_due(schedule.id, NOW + timedelta(days=2))
    (still,) = bench.schedules.run_due(NOW + timedelta(days=2))
    assert outcome(still)["new_rows"] == 3
    bench.upload(34)
    bench.make_due(schedule.id, NOW + timedelta(days=3))
    (started,) = bench.schedules.run_due(NOW + timedelta(days=3))
    assert (outcome(started)["reason"], outcome(started)["new_rows"]) == ("started", 5)


def test_rows_are_new_for_what_the_method_learns_from(bench: Bench) -> None:
    pairs = [json.dumps({"prompt": f"p{n}?", "chosen": f"good {n}", "rejected": f"bad {n}"}) for n in range(30)]
    bench.datasets.upload(bench.principal, "\n".join(pairs).encode(), "pairs.jsonl")
    bench.upload(50)
    schedule = bench.schedule(conditions={"min_new_rows": 30}, request={"method": "dpo"})
    bench.make_due(schedule.id, NOW)
    (judged,) = bench.schedules.run_due(NOW)
    assert (outcome(judged)["reason"], outcome(judged)["new_rows"]) == ("started", 30)


def test_a_schedule_whose_set_is_gone_says_so(bench: Bench) -> None:
    gone = bench.upload(30)
    schedule = bench.schedule(request={"dataset_ids": [gone]})
    bench.datasets.delete(bench.principal, gone)
    bench.make_due(schedule.id, NOW)
    (judged,) = bench.schedules.run_due(NOW)
    assert (outcome(judged)["reason"], outcome(judged)["code"]) == ("refused", "dataset_not_found")


def test_a_change_of_one_condition_leaves_the_others(bench: Bench) -> None:
    night = {"start": "22:00", "end": "06:00"}
    schedule = bench.schedule(
        conditions={"min_new_rows": 20, "cool_down_hours": 24, "quiet_hours": night}, request={"method": "dpo"}
    )

    def change(**body: object) -> ScheduleView:
        return bench.schedules.update(bench.principal, schedule.id, ScheduleChange.model_validate(body).changes())

    changed = change(conditions={"min_new_rows": 5}, request={"start_from": "champion"})
    assert (changed.conditions["min_new_rows"], changed.conditions["cool_down_hours"]) == (5, 24)
    assert changed.conditions["quiet_hours"] == {"start": "22:00:00", "end": "06:00:00"}
    assert (changed.request["method"], changed.request["start_from"]) == ("dpo", "champion")
    lifted = change(conditions={"quiet_hours": None}, cron=None)
    assert lifted.conditions["quiet_hours"] is None and lifted.conditions["min_new_rows"] == 5
    assert lifted.cron == schedule.cron
    with pytest.raises(InvalidInput):
        bench.schedules.update(bench.principal, schedule.id, {"conditions": {"min_new_rows": -1}})
