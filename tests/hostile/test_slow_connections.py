"""Connections that send half a request: they end by themselves, and others are answered meanwhile."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import httpx
import pytest
import structlog
import uvicorn

from cli.connections import bounded_protocol
from cli.serving import listen
from core.settings import HttpSettings


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def served(**settings: Any) -> Iterator[tuple[str, int]]:
    listener = listen("127.0.0.1", 0)
    listener.listen(512)  # whoever comes before the server runs waits
    protocol = bounded_protocol(HttpSettings(**settings))
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, log_config=None, lifespan="off", timeout_keep_alive=75))
    thread = Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        yield listener.getsockname()[:2]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)
        listener.close()


def ended(connection: socket.socket, within_s: float) -> bool:
    connection.settimeout(within_s)
    try:
        while connection.recv(4096):
            pass
        return True
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def test_other_requests_are_answered_beside_1100_half_sent_ones() -> None:
    with structlog.testing.capture_logs() as logs, served(max_connections=200, header_timeout_s=60) as place:
        half_sent = []
        try:
            for _ in range(1_100):
                connection = socket.create_connection(place, timeout=10)
                connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
                half_sent.append(connection)
                if len(half_sent) > 300:
                    half_sent.pop(0).close()
            for _ in range(5):
                assert httpx.get(f"http://{place[0]}:{place[1]}/", timeout=10).text == "ok"
        finally:
            for connection in half_sent:
                connection.close()
    assert len([line for line in logs if line["event"] == "http.connections_full"]) == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
    ],
)
def test_half_a_request_ends(sent: bytes) -> None:
    with served(header_timeout_s=0.3, body_silence_s=0.3) as place, socket.create_connection(place) as connection:
        connection.sendall(sent)
        if b"\r\n\r\nGET" in sent:
            assert b"200 OK" in connection.recv(4096)
        assert ended(connection, 20)


def test_more_bytes_do_not_lengthen_the_time_of_a_head() -> None:
    with served(header_timeout_s=1) as place, socket.create_connection(place) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        began = time.monotonic()
        while not ended(connection, 0.1):
            assert time.monotonic() < began + 30
            try:
                connection.sendall(b"x")
            except ConnectionError:
                break


def test_an_idle_connection_is_kept_and_makes_room_at_the_limit() -> None:
    with served(header_timeout_s=0.2, max_connections=8) as place, socket.create_connection(place) as idle:
        for _ in range(2):
            idle.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"200 OK" in idle.recv(4096)
            assert not ended(idle, 1.0)
        others = [socket.create_connection(place) for _ in range(8)]
        assert ended(idle, 10)
        for other in others:
            other.close()


def test_with_every_place_at_work_the_next_is_told_to_come_back() -> None:
    with served(max_connections=8) as place:
        busy = [socket.create_connection(place) for _ in range(8)]
        for connection in busy:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
        time.sleep(0.5)
        answer = httpx.get(f"http://{place[0]}:{place[1]}/", timeout=10)
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        for connection in busy:
            connection.sendall(b"defghi")
            assert b"200 OK" in connection.recv(4096)
            connection.close()
