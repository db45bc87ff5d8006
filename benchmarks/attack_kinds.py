"""The attacks of `benchmarks.attack`: each does its worst with a key of its own tenant or none, until told to end."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

MIB = 2**20
HALF_SENT = 1_100
AT_ONCE = 8
REPORT = "They came late, were counted twice, and were put where there was room; who asks is told so in writing. " * 4


@dataclass
class Attacker:
    """Somebody with a key of a tenant; whatever comes back is counted, and believed to be deserved."""

    url: str
    key: str
    over: threading.Event
    answers: dict[str, int] = field(default_factory=dict)
    begun: threading.Event = field(default_factory=threading.Event)
    """Set when what it needs is made and the first of it is sent."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, method: str, path: str, **what: object) -> None:
        """One request; a connection that breaks is an answer too."""
        self.begun.set()
        try:
            headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
            with httpx.Client(base_url=self.url, timeout=120, headers=headers, trust_env=False) as client:
                answer = client.request(method, path, **what)  # type: ignore[arg-type]
                told = str(answer.status_code)
        except httpx.HTTPError as error:
            told = type(error).__name__
        with self._lock:
            self.answers[told] = self.answers.get(told, 0) + 1

    def make_ready(self, text: str, filename: str) -> None:
        """Have a document read before the attack begins."""
        headers = {"Authorization": f"Bearer {self.key}"}
        with httpx.Client(base_url=self.url, timeout=120, headers=headers, trust_env=False) as client:
            answer = client.post("/v1/documents", json={"text": text, "filename": filename}).raise_for_status()
            job = answer.json()["items"][0]["job"]
            while job["status"] in {"queued", "running"} and not self.over.wait(0.2):
                job = client.get(f"/v1/jobs/{job['id']}").raise_for_status().json()

    def upload(self, files: list[tuple[str, bytes]], **fields: str) -> None:
        """Documents as one request."""
        self.send("POST", "/v1/documents", files=[("file", one) for one in files], data=fields)

    def flood(self, one: Callable[[int], None], at_once: int = AT_ONCE) -> None:
        """The same again and again from several threads until it is over."""

        def go(lane: int) -> None:
            number = lane
            while not self.over.is_set():
                one(number)
                number += at_once

        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(go, range(at_once)))


def half_sent(attacker: Attacker) -> None:
    """1,100 connections with half a head each, opened again as they are closed."""
    place = urlsplit(attacker.url)
    attacker.begun.set()
    opened: list[socket.socket] = []
    try:
        while not attacker.over.wait(0.2):
            opened = [one for one in opened if _alive(one)]
            while len(opened) < HALF_SENT and not attacker.over.is_set():
                try:
                    one = socket.create_connection((place.hostname, place.port), timeout=5)
                    one.sendall(b"POST /v1/ask HTTP/1.1\r\nHost: a\r\nX-Slow: ")
                except OSError:
                    break
                opened.append(one)
    finally:
        for one in opened:
            one.close()


def slow_bodies(attacker: Attacker) -> None:
    """Two hundred uploads that say a byte a second."""
    place = urlsplit(attacker.url)
    head = (
        f"POST /v1/documents HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {attacker.key}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n"
    )
    attacker.begun.set()
    opened = [socket.create_connection((place.hostname, place.port), timeout=5) for _ in range(200)]
    try:
        for one in opened:
            one.sendall(head.encode())
        while not attacker.over.wait(1.0):
            for one in opened:
                try:
                    one.sendall(b"-")
                except OSError:
                    continue
    finally:
        for one in opened:
            one.close()


def marks(attacker: Attacker) -> None:
    """Two files of 3 MB that are a letter and combining marks."""
    for name, mark in (("a.txt", "\u0301"), ("b.txt", "\u3099")):
        attacker.upload([(name, ("a" + mark * (3 * MIB // len(mark.encode()))).encode())])


def zips(attacker: Attacker) -> None:
    """Three ZIPs of 1.6 MB in one request that unpack to 1.5 GiB."""
    bomb = _zipped({f"{n}.txt": bytes(64 * MIB) for n in range(8)})
    attacker.flood(lambda n: attacker.upload([(f"{n}-{part}.zip", bomb) for part in range(3)]), 4)


def zips_under_the_limits(attacker: Attacker) -> None:
    """Archives that each pass every check: a hundred to one, and what they hold is nothing to read."""
    line = os.urandom(300).hex().encode() + b"." * 60_000 + b"\n"
    archive = _zipped({f"{n}.txt": line * 16 for n in range(120)})
    attacker.flood(lambda n: attacker.upload([(f"under-{n}.zip", archive)]), 4)


def entries(attacker: Attacker) -> None:
    """A ZIP whose directory has 600,000 entries, and a TAR.GZ of as many files."""
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 9, 9, len(entry) * 600_000, len(local), 0)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        header = tarfile.TarInfo("a").tobuf()
        archive.fileobj.write(header * 600_000)
    files = [("a.zip", local + entry * 600_000 + end), ("a.tgz", packed.getvalue())]
    attacker.flood(lambda n: attacker.upload([files[n % 2]]), 4)


def locked_zips(attacker: Attacker) -> None:
    """Fifty uploads at once with passwords that do not open them."""
    data = bytearray(_zipped({f"{n}.txt": os.urandom(1000) for n in range(500)}))
    for at in range(len(data)):
        if data[at : at + 4] == b"PK\x03\x04":
            data[at + 6] |= 1
        if data[at : at + 4] == b"PK\x01\x02":
            data[at + 8] |= 1
    attacker.flood(lambda n: attacker.upload([(f"{n}.zip", bytes(data))], password="guess"), 50)  # noqa: S106


def long_paths(attacker: Attacker) -> None:
    """Paths of 60 KB that look like tokens, without a key."""
    attacker.key = ""
    attacker.flood(lambda n: attacker.send("GET", "/" + "eyJ" * 20_000 + f"?{n}"))


def dots(attacker: Attacker) -> None:
    """Texts of dots: to be read, asked and searched for."""
    attacker.send("POST", "/v1/documents", json={"text": "." * 30_000, "filename": "dots.txt"})

    def one(number: int) -> None:
        text = "." * 7_900 + str(number)
        route, field_name = (("/v1/search", "query"), ("/v1/ask", "question"))[number % 2]
        attacker.send("POST", route, json={field_name: text})

    attacker.flood(one, 4)


def deep_json(attacker: Attacker) -> None:
    """JSON of 8 MB: nested without end, of numbers without end, of a million members."""
    bodies = (
        b'{"question": ' + b"[" * (8 * MIB),
        b'{"question": ' + b"9" * (8 * MIB) + b"}",
        b"{" + b",".join(b'"%07x": 1' % n for n in range(500_000)) + b"}",
    )
    kind = {"Content-Type": "application/json"}
    routes = ("/v1/ask", "/v1/search", "/v1/chat/completions", "/v1/documents")

    def one(number: int) -> None:
        headers = {**kind, "Authorization": f"Bearer {attacker.key}"}
        attacker.send("POST", routes[number % 4], content=bodies[number % 3], headers=headers)

    attacker.flood(one, 4)


def datasets(attacker: Attacker) -> None:
    """Training sets of 40,000 rows that differ in a number."""

    def one(number: int) -> None:
        rows = [
            {"instruction": f"Write to customer {number}-{n} about the invoice.", "output": f"Dear customer {n}, " * 8}
            for n in range(40_000)
        ]
        data = "\n".join(map(json.dumps, rows)).encode()
        attacker.send("POST", "/v1/datasets", files={"file": (f"{number}.jsonl", data)})

    attacker.flood(one, 2)


def many_documents(attacker: Attacker) -> None:
    """A thousand small documents in each request."""
    texts = [(f"{n}.txt", f"Note {n} says that {n * 7} of {n * 11} are here.".encode()) for n in range(1_000)]

    def one(number: int) -> None:
        attacker.upload([(name, data + b" %d" % number) for name, data in texts])

    attacker.flood(one, 2)


def many_questions(attacker: Attacker) -> None:
    """Forty questions at once, for the longest answers: of a document of its own, in a form that only a model gives."""
    matters = "\n\n".join(f"# Matter {n}\n\nMatter {n} is about {n * 7} boxes. " + REPORT for n in range(40))
    attacker.make_ready(matters, "matters.md")
    body = {"max_tokens": 256, "temperature": 1.0, "adapter": "base", "response_format": {"type": "json_object"}}
    attacker.flood(
        lambda n: attacker.send("POST", "/v1/ask", json={**body, "question": f"What is matter {n % 40} about? ({n})"}),
        40,
    )


def event_streams(attacker: Attacker) -> None:
    """Two hundred event streams that are opened, and never read."""
    attacker.flood(lambda _: _hold_stream(attacker), 200)


def _hold_stream(attacker: Attacker) -> None:
    attacker.begun.set()
    try:
        headers = {"Authorization": f"Bearer {attacker.key}"}
        with httpx.stream("GET", f"{attacker.url}/v1/events", headers=headers, timeout=60, trust_env=False) as answer:
            if answer.status_code != 200:
                attacker.over.wait(1)
            else:
                attacker.over.wait(20)
    except httpx.HTTPError:
        attacker.over.wait(1)


ATTACKS: dict[str, Callable[[Attacker], None]] = {
    "1,100 half-sent connections": half_sent,
    "200 bodies a byte a second": slow_bodies,
    "two 3 MB files of marks": marks,
    "three ZIPs of 1.6 MB": zips,
    "ZIPs just under the limits": zips_under_the_limits,
    "600,000 entries": entries,
    "50 locked ZIPs at once": locked_zips,
    "paths of 60 KB": long_paths,
    "texts of dots": dots,
    "deep and wide JSON": deep_json,
    "sets of 40,000 rows": datasets,
    "documents by the thousand": many_documents,
    "40 questions at once": many_questions,
    "200 event streams": event_streams,
}


def _zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def _alive(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        return bool(one.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False
