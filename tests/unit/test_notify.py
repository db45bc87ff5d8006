"""Events between threads and asyncio tasks of one process."""

from __future__ import annotations

import asyncio
import threading

from core.notify import Notifier


def test_an_event_between_two_waits_is_not_lost() -> None:
    notifier = Notifier()
    with notifier.subscribe("job:1") as subscription:
        notifier.publish("job:1")
        notifier.publish("job:2")
        assert subscription.wait(0)
        assert not subscription.wait(0)


def test_waiters_wake_from_another_thread() -> None:
    notifier = Notifier()
    with notifier.subscribe("t") as subscription:
        threading.Timer(0.02, notifier.publish, ["t"]).start()
        assert subscription.wait(10)
    assert not notifier.wait("t", 0.01)


def test_asyncio_waiters_take_no_thread() -> None:
    notifier = Notifier()

    async def listen() -> tuple[bool, bool]:
        with notifier.subscribe_async("t") as subscription:
            threading.Timer(0.02, notifier.publish, ["t"]).start()
            return await subscription.wait(10), await subscription.wait(0.01)

    assert asyncio.run(listen()) == (True, False)


def test_topics_without_subscribers_leave_nothing_behind() -> None:
    notifier = Notifier()
    for number in range(100):
        notifier.publish(f"job:{number}")
        with notifier.subscribe(f"job:{number}"), notifier.subscribe(f"job:{number}"):
            pass
    assert notifier._callbacks == {}
