"""Names, queues and acknowledgement of tasks; and that nothing loads Celery before it is needed."""

from __future__ import annotations

import subprocess
import sys

from core.queue import FIRST_TASK_OF_KIND, QUEUE_OF_TASK, CeleryTaskQueue, InspectableQueue, Task
from core.settings import Settings
from core.types import JobKind
from workers.app import create_celery


def test_every_task_is_registered_with_a_queue(settings: Settings) -> None:
    app = create_celery(settings, "redis://localhost:1/0")
    app.finalize()
    ours = {name for name in app.tasks if not name.startswith("celery.")}
    assert ours == {task.value for task in Task} == {task.value for task in QUEUE_OF_TASK}
    assert set(FIRST_TASK_OF_KIND) == set(JobKind)


def test_short_tasks_are_acknowledged_late_and_trainings_early(settings: Settings) -> None:
    tasks = create_celery(settings, "redis://localhost:1/0").tasks
    late = {name: tasks[name].acks_late for name in ("ingest.document", "delete.document", "tuning.train")}
    assert late == {"ingest.document": True, "delete.document": True, "tuning.train": False}


def test_the_application_takes_json_and_keeps_no_results(settings: Settings) -> None:
    conf = create_celery(settings, "redis://localhost:1/0").conf
    assert conf.accept_content == ["json"] and conf.task_serializer == "json"
    assert conf.task_ignore_result and conf.result_backend is None
    assert conf.broker_transport_options["visibility_timeout"] == settings.broker.visibility_timeout_s


def test_two_applications_do_not_share_tasks(settings: Settings) -> None:
    one, two = (create_celery(settings, "redis://localhost:1/0") for _ in range(2))
    assert one.tasks["ingest.document"] is not two.tasks["ingest.document"]


def test_the_queue_can_be_looked_into() -> None:
    assert isinstance(CeleryTaskQueue("redis://localhost:1/0"), InspectableQueue)


def test_core_loads_no_celery() -> None:
    code = (
        "import sys, core.jobs, core.queue, core.outbox, core.keys, core.migrate, core.log;"
        "assert not {'celery', 'kombu', 'redis', 'torch'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
