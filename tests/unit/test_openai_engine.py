"""The HTTP generator against a small real server on localhost."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from core.errors import AdapterRefused, TooLarge, Unavailable
from core.types import AdapterRef, AnswerFormat, GenerationRequest, Message
from generation.engines.openai_engine import OpenAIEngine

ADAPTER = AdapterRef("house", "v3", "d" * 64, "/nowhere")


class Server:
    """Answers by script: each request takes the next behaviour, the last one stays."""

    def __init__(self):
        self.script, self.bodies, self.release = ["answer"], [], threading.Event()
        self.listing = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                self.send_response(200 if self.path == "/v1/models" and outer.listing else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_POST(self):
                outer.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                act = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                if isinstance(act, int):
                    body = json.dumps({"error": {"message": "maximum context length is 10"}}).encode()
                    self.send_response(act)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                    return
                self.send_response(200)
                self.end_headers()
                for piece in ("倉庫は", "九時", "です。"):
                    self.event({"choices": [{"delta": {"content": piece}, "finish_reason": None}]})
                    if act == "hang":
                        outer.release.wait(30)
                    if act == "break":
                        return
                self.event({"choices": [{"delta": {}, "finish_reason": "length"}]})
                self.event({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7}})
                self.wfile.write(b"data: [DONE]\n\n")

            def event(self, body):
                self.wfile.write(f"data: {json.dumps(body)}\n\n".encode())
                self.wfile.flush()

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def server():
    server = Server()
    yield server
    server.release.set()
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def engine(server):
    engine = OpenAIEngine(server.url, "big-model", adapter_models={"house@v3": "big-model-house-v3"}, api_key="k")
    yield engine
    server.release.set()
    engine.close()


def ask(adapter=None, **options):
    return GenerationRequest((Message("user", "いつ開きますか"),), adapter, 20, **options)


def test_streams_pieces_and_reports_what_the_server_counted(engine, server):
    handle = engine.submit(ask(stop=("\n",), seed=4))
    assert list(handle) == ["倉庫は", "九時", "です。"]
    result = handle.result()
    assert (result.text, result.finish_reason) == ("倉庫は九時です。", "length")
    assert (result.prompt_tokens, result.completion_tokens) == (11, 7)
    assert server.bodies[0]["model"] == "big-model" and server.bodies[0]["stop"] == ["\n"]


def test_formats_go_to_the_server_in_openais_form(engine, server):
    schema = '{"type":"object","properties":{"a":{"type":"string"}}}'
    engine.submit(ask(answer_format=AnswerFormat("leave", schema))).result()
    engine.submit(ask(answer_format=AnswerFormat())).result()
    engine.submit(ask()).result()
    formats = [body.get("response_format") for body in server.bodies]
    shape = {"name": "leave", "schema": json.loads(schema), "strict": True}
    assert formats == [{"type": "json_schema", "json_schema": shape}, {"type": "json_object"}, None]


def test_ping_says_whether_the_server_can_be_asked(engine, server):
    assert engine.ping() == "big-model" and not server.bodies
    server.listing = False
    with pytest.raises(Unavailable, match="503"):
        engine.ping()
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(Unavailable) as unreachable:
        OpenAIEngine(server.url, "big-model").ping()
    assert unreachable.value.code == "generator_unreachable"


def test_adapters_are_models_by_configured_name_and_no_others(engine, server):
    assert engine.submit(ask(ADAPTER)).result().adapter == ADAPTER
    assert server.bodies[0]["model"] == "big-model-house-v3"
    unknown = AdapterRef("house", "v4", "e" * 64, "/nowhere")
    for call in (lambda: engine.ensure_adapter(unknown), lambda: engine.submit(ask(unknown))):
        with pytest.raises(AdapterRefused) as refused:
            call()
        assert refused.value.code == "adapter_not_served"
    assert len(server.bodies) == 1


def test_tries_again_before_the_first_byte_only(engine, server):
    server.script = [503, 429, "answer"]
    assert engine.submit(ask()).result().text == "倉庫は九時です。"
    assert len(server.bodies) == 3
    server.script = ["break"]
    handle = engine.submit(ask())
    with pytest.raises(Unavailable):
        handle.result()
    assert len(server.bodies) == 4


def test_a_refusal_is_not_tried_again(engine, server):
    server.script = [400]
    with pytest.raises(TooLarge) as refused:
        engine.submit(ask()).result()
    assert refused.value.code == "context_length_exceeded" and len(server.bodies) == 1


def test_cancel_ends_the_stream(engine, server):
    server.script = ["hang"]
    handle = engine.submit(ask())
    assert next(iter(handle)) == "倉庫は"
    handle.cancel()
    server.release.set()
    assert handle.result().finish_reason == "cancelled"


def test_a_server_that_is_not_there_is_unavailable(server):
    engine = OpenAIEngine("http://127.0.0.1:9/v1", "m", attempts=1)
    with pytest.raises(Unavailable):
        engine.submit(ask()).result()
    engine.close()
    with pytest.raises(Unavailable):
        engine.submit(ask())
