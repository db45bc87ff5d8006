"""How a serving process ends: what runs is answered, and its data dir stays its own until it is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from cli.data_dir import exclusive
from cli.serving import listen, serve, url_of
from core.database import Database
from core.errors import DataDirBusy
from core.settings import HttpSettings, Settings
from tests.api_app import Api, build_api

ASK = {"question": "days?"}
CHAT = {"model": "tsumugi", "messages": [{"role": "user", "content": "days?"}]}


class Served:
    """An application without workers."""

    def __init__(self, api: Api) -> None:
        self.app = api.app
        self._draining = api.services.draining

    def begin_drain(self) -> None:
        self._draining.set()

    def finish_drain(self, timeout_s: float) -> None:
        """No jobs."""

    def hurry(self) -> None:
        """No jobs."""


class Asker(threading.Thread):
    """One request, begun before the process is told to stop."""

    def __init__(self, url: str, api: Api, path: str, body: dict[str, object]) -> None:
        super().__init__()
        self._request = (url + path, body, {"Authorization": f"Bearer {api.admin}"})
        self.answer: httpx.Response | None = None

    def run(self) -> None:
        url, body, headers = self._request
        self.answer = httpx.post(url, json=body, headers=headers, timeout=30)


@pytest.fixture
def api(settings: Settings, database: Database) -> Api:
    """Its generator waits for ever after the first piece."""
    api = build_api(settings, database)
    api.engine.gate = threading.Event()
    return api


def serve_and_stop(
    api: Api,
    number: signal.Signals,
    settings: HttpSettings,
    askers: list[tuple[str, dict[str, object]]],
    then: Callable[[str], None] | None = None,
) -> list[httpx.Response]:
    """Serve, ask, send the signal when all are with the generator, and return the answers."""
    listener = listen("127.0.0.1", 0)
    begun = [Asker(url_of(listener), api, path, body) for path, body in askers]

    def disturb() -> None:
        for asker in begun:
            asker.start()
        while len(api.engine.handles) < len(begun):
            threading.Event().wait(0.02)
        os.kill(os.getpid(), number)
        if then is not None:
            then(url_of(listener))

    told = threading.Thread(target=disturb)
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        asyncio.run(serve(Served(api), listener, settings, told.start))
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    told.join(30)
    for asker in begun:
        asker.join(30)
    return [asker.answer for asker in begun if asker.answer is not None]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_outlives_the_drain_is_answered_503(api: Api, number: signal.Signals) -> None:
    wanted = [("/v1/ask", ASK), ("/v1/ask", {**ASK, "stream": True}), ("/v1/chat/completions", CHAT),
              ("/v1/chat/completions", {**CHAT, "stream": True})]  # fmt: skip
    plain, stream, chat, chat_stream = serve_and_stop(api, number, HttpSettings(drain_timeout_s=0.5), wanted)
    for answer in (plain, chat):
        assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (503, "interrupted", True)
        assert int(answer.headers["retry-after"]) > 0
    assert chat.json()["error"]["code"] == "interrupted", "what OpenAI's client reads"
    for answer in (stream, chat_stream):
        assert answer.status_code == 200 and '"code":"interrupted"' in answer.text.splitlines()[-2]
    assert all(handle.cancelled.wait(10) for handle in api.engine.handles)


def test_what_ends_in_time_is_answered(api: Api) -> None:
    gate = api.engine.gate
    assert gate is not None
    (answer,) = serve_and_stop(
        api, signal.SIGTERM, HttpSettings(drain_timeout_s=20.0), [("/v1/ask", ASK)], lambda _url: gate.set()
    )
    assert (answer.status_code, answer.json()["answer"]) == (200, "25 days [1].")


def test_a_new_request_is_taken_during_the_notice_and_refused_after_it(api: Api) -> None:
    seen: list[int | None] = []

    def ask_again(url: str) -> None:
        headers = {"Authorization": f"Bearer {api.admin}"}
        with httpx.Client(base_url=url, headers=headers, timeout=20) as client:
            while not api.services.draining.is_set():
                threading.Event().wait(0.02)
            seen.append(client.get("/v1/documents").status_code)
            while not api.app.state.draining.refuses:
                threading.Event().wait(0.02)
            try:
                seen.append(client.get("/v1/documents").status_code)
            except httpx.TransportError:
                seen.append(None)

    settings = HttpSettings(drain_notice_s=1.0, drain_timeout_s=0.5)
    serve_and_stop(api, signal.SIGTERM, settings, [("/v1/ask", ASK)], ask_again)
    assert seen[0] == 200 and seen[1] in (503, None)


def test_asked_twice_it_does_not_wait(api: Api) -> None:
    settings = HttpSettings(drain_timeout_s=60.0)
    answers = serve_and_stop(
        api, signal.SIGTERM, settings, [("/v1/ask", ASK)], lambda _url: os.kill(os.getpid(), signal.SIGINT)
    )
    assert [answer.status_code for answer in answers] == [503]


LINGERS = """
import sys, threading
from pathlib import Path
from cli.data_dir import exclusive
with exclusive(Path(sys.argv[1]), "tsumugi up", until_exit=True):
    threading.Thread(target=sys.stdin.read).start()
print("left", flush=True)
"""


@pytest.fixture
def lingering(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has left the block, and of which a thread still works."""
    command = [sys.executable, "-c", LINGERS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "left\n"
        yield process


def test_a_data_dir_is_locked_until_its_process_is_gone(tmp_path: Path, lingering: subprocess.Popen[str]) -> None:
    with pytest.raises(DataDirBusy) as refused, exclusive(tmp_path, "tsumugi up"):
        pass
    assert refused.value.extra["pid"] == lingering.pid
    lingering.communicate()
    with exclusive(tmp_path, "tsumugi up"):
        pass


def test_threads_that_never_end_do_not_keep_a_process_alive() -> None:
    code = (
        "import threading; from cli.serving import end_by_force; end_by_force(0.5); "
        "threading.Thread(target=threading.Event().wait).start()"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
