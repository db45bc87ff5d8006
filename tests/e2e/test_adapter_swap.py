"""Promote and roll back under load: no failed request, and every text is in the voice of the version in its stamp."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cli.client import ApiProblem, Client
from cli.service_process import ServiceProcess
from tests.e2e.conftest import EXAMPLES, base_folder, upload_and_wait
from tests.e2e.voices import voice_archives

ASKERS = 4
MOVES = 20
QUESTIONS = ["What does error code E-17 mean?", "避難場所はどこですか。", "What is the largest meeting room called?"]


@pytest.fixture(scope="module")
def service(make_service: Callable[..., ServiceProcess]) -> ServiceProcess:
    """A service that gives the model's words as they are: in them is heard which version spoke."""
    plain = make_service("voices", TSUMUGI_GENERATION__COMPOSE="model")
    plain.start()
    with plain.client() as client:
        upload_and_wait(client, sorted((EXAMPLES / "documents").iterdir()))
    return plain


@pytest.fixture(scope="module")
def voices(client_of_module: Client, prepared_models: Path) -> dict[str, str]:
    """Version to word, both imported into the family `voice`."""
    texts = [(EXAMPLES / "documents" / name).read_text("utf-8") for name in ("support-faq.md", "faq-ja.md")]
    archives = voice_archives(base_folder(prepared_models), ["river", "stone"], texts)
    versions = {}
    for word, archive in archives.items():
        path = "/v1/admin/adapters/house/versions"
        versions[client_of_module.post(path, files={"file": (f"{word}.tar", archive)})["version"]] = word
    return versions


@pytest.fixture(scope="module")
def client_of_module(service: ServiceProcess) -> Any:
    with service.client() as opened:
        yield opened


def test_an_imported_version_needs_force_to_serve(client_of_module: Client, voices: dict[str, str]) -> None:
    with pytest.raises(ApiProblem):
        client_of_module.post("/v1/admin/adapters/house/promote", {"version": next(iter(voices))})


def test_moves_under_load(service: ServiceProcess, client_of_module: Client, voices: dict[str, str]) -> None:
    admin, (first, second) = client_of_module, list(voices)
    force = {"force": True, "reason": "voices for a test"}
    admin.post("/v1/admin/adapters/house/promote", {"version": first, **force})
    done = threading.Event()
    answers: list[dict[str, Any]] = []

    def ask_on(number: int) -> None:
        with service.client() as client:
            while not done.is_set():
                question = QUESTIONS[(number + len(answers)) % len(QUESTIONS)]
                answers.append(client.post("/v1/ask", {"question": question, "max_tokens": 8}))

    effective = []
    with ThreadPoolExecutor(ASKERS) as pool:
        askers = [pool.submit(ask_on, number) for number in range(ASKERS)]
        try:
            for _ in range(MOVES // 2):
                seen = len(answers)
                admin.post("/v1/admin/adapters/house/promote", {"version": second, **force})
                answer = admin.post("/v1/ask", {"question": QUESTIONS[0], "max_tokens": 8})
                assert answer["provenance"]["adapter"] == f"house@{second}"
                moved = admin.post("/v1/admin/adapters/house/rollback", {"reason": "back again"})
                assert (moved["from"], moved["to"]) == (second, first)
                effective.append(moved["effective_ms"])
                answer = admin.post("/v1/ask", {"question": QUESTIONS[1], "max_tokens": 8})
                assert answer["provenance"]["adapter"] == f"house@{first}"
                while len(answers) < seen + ASKERS and not any(asker.done() for asker in askers):
                    done.wait(0.05)
        finally:
            done.set()
        for asker in askers:
            asker.result()  # raises what a request raised
    by_stamp: dict[str, set[str]] = {}
    for answer in answers:
        by_stamp.setdefault(answer["provenance"]["adapter"], set()).update(answer["answer"].split())
    assert by_stamp == {f"house@{version}": {word} for version, word in voices.items()}
    assert max(effective) < 1000


def test_history_and_return_to_the_base(client_of_module: Client, voices: dict[str, str]) -> None:
    admin = client_of_module
    events = list(admin.items("/v1/admin/adapters/house/history"))
    assert len(events) >= MOVES + 1
    assert all(event["actor"] for event in events)
    moved = admin.post("/v1/admin/adapters/house/rollback", {"reason": "to where it began"})
    assert moved["to"] is None
    answer = admin.post("/v1/ask", {"question": QUESTIONS[0]})
    assert answer["provenance"]["adapter"] is None
    assert not set(answer["answer"].split()) & set(voices.values())
