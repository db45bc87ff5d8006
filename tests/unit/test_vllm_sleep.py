"""vLLM servers are sent to sleep for a training, and woken whatever comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from core.errors import Unavailable
from core.settings import GeneratorEndpointSettings
from generation.engines.vllm_sleep import VllmSleeper
from tests.vllm_standin import ExtractBackend, Replica, serve


@pytest.fixture
def replicas() -> Iterator[list[tuple[str, Replica]]]:
    with ExitStack() as stack:
        found = [Replica(ExtractBackend()) for _ in range(2)]
        yield [(stack.enter_context(serve(replica)), replica) for replica in found]


def sleeper(*urls: str) -> VllmSleeper:
    return VllmSleeper(GeneratorEndpointSettings(urls=urls, connect_timeout_s=1.0))


def test_all_sleep_and_all_wake(replicas: list[tuple[str, Replica]]) -> None:
    both = sleeper(*(url for url, _ in replicas))
    both.sleep()
    assert [replica.asleep for _, replica in replicas] == [True, True]
    both.wake()
    assert [replica.asleep for _, replica in replicas] == [False, False]


def test_when_one_refuses_the_others_are_woken_again(replicas: list[tuple[str, Replica]]) -> None:
    (one, awake), (two, stubborn) = replicas
    stubborn.faults.no_sleep_mode = True
    with pytest.raises(Unavailable) as refused:
        sleeper(one, two).sleep()
    assert refused.value.code == "sleep_refused" and not refused.value.retryable
    assert not awake.asleep


def test_one_that_is_gone_does_not_keep_the_others_asleep(replicas: list[tuple[str, Replica]]) -> None:
    (one, replica), _ = replicas
    replica.asleep = True
    with pytest.raises(Unavailable):
        sleeper("http://127.0.0.1:9/v1", one).wake()
    assert not replica.asleep
