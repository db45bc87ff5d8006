"""An embedding endpoint against a small real server on localhost."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from core.errors import InvalidInput, Unavailable
from core.settings import Settings
from core.types import Language
from retrieval import build
from retrieval.embedders import endpoint
from retrieval.embedders.endpoint import EndpointEmbedder

KEY = "sk-not-to-be-shown"
DIM = 8


class Server:
    """Answers by script: each request takes the next act, the last one stays."""

    def __init__(self) -> None:
        self.script: list[Any] = ["answer"]
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                outer.keys.add(self.headers.get("Authorization"))
                act = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                status, answer = (
                    (act, {"error": "no"}) if isinstance(act, int) else (200, outer.answer(act, body["input"]))
                )
                data = json.dumps(answer).encode()
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, act: str, texts: list[str]) -> dict[str, Any]:
        width = DIM + 1 if act == "wide" else DIM
        data = [{"index": n, "embedding": [float(len(text)), *[1.0] * (width - 1)]} for n, text in enumerate(texts)]
        if act == "short":
            data = data[1:]
        if act == "zero":
            data[0]["embedding"] = [0.0] * width
        return {"data": data[::-1]}  # the order of the list is not promised, the index is


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(endpoint.time, "sleep", lambda _: None)
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


def opened(server: Server, **more: Any) -> EndpointEmbedder:
    return EndpointEmbedder(server.url, "m", dim=DIM, languages=frozenset(Language), api_key=KEY, timeout_s=5, **more)


def test_batches_come_back_in_order_normalised_with_their_prefixes(server: Server) -> None:
    embedder = opened(server, query_prefix="query: ", passage_prefix="passage: ", batch_texts=3, concurrency=2)
    texts = ["あ" * n for n in (9, 1, 4, 7, 2, 3, 5)]
    vectors = embedder.encode_passages(texts)
    assert vectors.shape == (7, DIM) and np.linalg.norm(vectors, axis=1) == pytest.approx([1] * 7)
    assert (vectors[:, 0] / vectors[:, 1]).round() == pytest.approx([len("passage: ") + len(text) for text in texts])
    assert embedder.encode_query("問い").shape == (DIM,)
    assert server.bodies[-1] == {"model": "m", "input": ["query: 問い"], "encoding_format": "float"}
    assert max(len(body["input"]) for body in server.bodies) == 3
    assert server.keys == {f"Bearer {KEY}"}
    assert embedder.encode_passages([]).shape == (0, DIM)
    embedder.close()


def test_long_texts_are_cut_by_the_estimate_and_counted_and_empty_ones_sent_as_a_space(server: Server) -> None:
    embedder = opened(server, max_tokens=50)
    embedder.encode_passages(["日" * 500, "abc " * 500, "短い", ""])
    sent = server.bodies[-1]["input"]
    assert [len(text) for text in sent] == [48, 144, 2, 1]
    assert embedder.truncated_total == 2
    embedder.close()


def test_only_what_may_pass_is_sent_again(server: Server) -> None:
    embedder = opened(server)
    server.bodies.clear()
    server.script = [503, 429, "answer"]
    embedder.encode_query("x")
    assert len(server.bodies) == 3
    found = {}
    for act, sent in ((500, 4), (400, 1), (401, 1), ("wide", 1), ("short", 1), ("zero", 1)):
        server.bodies.clear()
        server.script = [act]
        with pytest.raises(Unavailable) as raised:
            embedder.encode_query("x")
        assert len(server.bodies) == sent, act
        assert KEY not in str(raised.value)
        found[act] = (raised.value.code, raised.value.retryable)
    assert found == {
        500: ("embedder_busy", True),
        400: ("embedder_refused", False),
        401: ("embedder_unauthorised", False),
        "wide": ("embedder_dimension", False),
        "short": ("embedder_bad_answer", False),
        "zero": ("embedder_bad_answer", False),
    }
    embedder.close()


def test_a_wrong_dimension_or_a_dead_server_is_found_at_the_start(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.script = ["wide"]
    with pytest.raises(Unavailable, match="9"):
        opened(server)
    with pytest.raises(Unavailable) as raised:
        EndpointEmbedder(
            "http://127.0.0.1:9/v1", "m", dim=DIM, languages=frozenset(Language), api_key=KEY, timeout_s=1, attempts=2
        )
    assert raised.value.code == "embedder_unreachable" and raised.value.retryable
    assert KEY not in caplog.text


def test_what_changes_vectors_changes_the_digest(server: Server) -> None:
    digests = set()
    for more in ({}, {"query_prefix": "q: "}, {"passage_prefix": "q: "}, {"max_tokens": 99}):
        embedder = opened(server, **more)
        digests.add(embedder.digest)
        embedder.close()
    assert len(digests) == 4


def test_settings_choose_and_refuse(server: Server, settings: Settings) -> None:
    chosen = settings.embedding.model_copy(
        update={
            "url": server.url,
            "dim": DIM,
            "api_key": SecretStr(KEY),
            "model": "m",
            "languages": (Language.ENGLISH,),
        }
    )
    retrieval = settings.retrieval.model_copy(update={"embedder": "endpoint"})
    built = build.build_embedder(settings.model_copy(update={"retrieval": retrieval, "embedding": chosen}))
    assert isinstance(built, EndpointEmbedder) and built.languages == {Language.ENGLISH}
    built.close()
    with pytest.raises(InvalidInput) as raised:
        build.build_embedder(settings.model_copy(update={"retrieval": retrieval}))
    assert raised.value.code == "setting_missing"
    learnt = settings.retrieval.model_copy(update={"lexical": "bge-m3"})
    with pytest.raises(InvalidInput) as raised:
        build.build_lexical(settings.model_copy(update={"retrieval": learnt}), built)
    assert raised.value.code == "setting_conflict"
