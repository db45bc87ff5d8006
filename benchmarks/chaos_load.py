"""Clients of the chaos benchmark: they upload, replace, delete and ask through whichever api process answers, and judge
every answer by what they know to be true at that moment.

What is known of a document is one line of text: `Depot 17 keeps edition 2 of ...` in each of its paragraphs. An answer
is wrong when it shows a document after its deletion was confirmed, an edition older than one whose job had succeeded
before the query began, or two editions of one document at once.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

_SHOWN = re.compile(r"Depot (\d+) keeps edition (\d+)")
PARAGRAPHS = 24
LONGEST_TRY_S = 180.0


@dataclass
class Known:
    """What the clients know of one document."""

    number: int
    document_id: str = ""
    ready_edition: int = 0
    """Newest edition whose ingest is known to have succeeded."""
    deleted: bool = False


@dataclass
class Tally:
    """Counts of all clients. `wrong` holds what must not happen, in words."""

    answered: int = 0
    retryable: Counter[str] = field(default_factory=Counter)
    """Refused with a coded problem that says `retryable`, by code."""
    cut: int = 0
    """Requests whose process was killed under them."""
    not_taken: int = 0
    """Connections that a process which is away did not take."""
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def text_of(number: int, edition: int) -> str:
    """A document of several chunks."""
    line = f"Depot {number} keeps edition {edition} of the ledger"
    pages = range(PARAGRAPHS)
    return "\n\n".join(f"{line}, page {page}: barrel {number}-{page} was filled in {1800 + page}." for page in pages)


class Clients:
    """Requests against any of the api processes; the next one is tried when one is away."""

    def __init__(self, urls: Callable[[], list[str]], key: str, tally: Tally) -> None:
        """urls: addresses of the processes at this moment; one that was started anew may have another."""
        self._urls = urls
        self._turns = itertools.count()
        self._lock = threading.Lock()
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
            trust_env=False,
            # No kept connections: a killed process would otherwise be felt long after its restart.
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self.tally = tally

    def close(self) -> None:
        """Give up connections."""
        self._http.close()

    def once(self, method: str, path: str, **arguments: Any) -> httpx.Response | None:
        """One request; None when it was refused for now or its connection was cut. Anything else wrong is counted."""
        with self._lock:
            urls = self._urls()
            url = urls[next(self._turns) % len(urls)]
        tally = self.tally
        try:
            response = self._http.request(method, url + path, **arguments)
        except httpx.TransportError as error:
            with tally.lock:
                tally.not_taken += isinstance(error, httpx.ConnectError)
                tally.cut += not isinstance(error, httpx.ConnectError)
            return None
        if response.is_success or response.status_code == 404:
            return response
        problem = _problem(response)
        with tally.lock:
            if problem.get("retryable") is True and problem.get("code"):
                tally.retryable[problem["code"]] += 1
            else:
                tally.wrong.append(f"{method} {path}: {response.status_code} {response.text[:200]}")
        return None

    def until_done(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """The same, tried again until it is answered."""
        deadline = time.monotonic() + LONGEST_TRY_S
        while (response := self.once(method, path, **arguments)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{method} {path}: not answered within {LONGEST_TRY_S:.0f} s")
            time.sleep(0.2)  # what a client does on Retry-After
        return response

    def upload(self, known: Known, edition: int) -> None:
        """Send an edition and wait until its job has succeeded."""
        body = {
            "text": text_of(known.number, edition), "filename": f"depot-{known.number}.md",
            "external_id": f"depot-{known.number}", "collection": "chaos",
        }  # fmt: skip
        item = self.until_done("POST", "/v1/documents", json=body).json()["items"][0]
        known.document_id = item["document"]["id"]
        job = item.get("job")
        while job is not None and job["status"] not in {"succeeded", "failed", "cancelled"}:
            time.sleep(0.3)
            job = self.until_done("GET", f"/v1/jobs/{job['id']}").json()
        if job is not None and job["status"] != "succeeded":
            with self.tally.lock:
                self.tally.wrong.append(f"depot {known.number}: its job ended {job['status']}: {job['error']}")
            return
        document = self.until_done("GET", f"/v1/documents/{known.document_id}").json()
        while document["status"] != "ready":  # the same bytes were taken by a request whose answer was cut
            time.sleep(0.3)
            document = self.until_done("GET", f"/v1/documents/{known.document_id}").json()
        known.ready_edition = edition

    def delete(self, known: Known) -> None:
        """Delete it; once that is answered it must not be seen again."""
        self.until_done("DELETE", f"/v1/documents/{known.document_id}")
        known.deleted = True

    def ask(self, known: Known, *, answer: bool) -> bool:
        """Ask about a document; False when it was refused for now. answer: through the generator, else a search."""
        begun: Mapping[str, Any] = {"deleted": known.deleted, "edition": known.ready_edition}
        words = f"barrel {known.number}-3 of depot {known.number} filled in which year"
        if answer:
            response = self.once("POST", "/v1/ask", json={"question": words, "collection": "chaos"})
        else:
            response = self.once("POST", "/v1/search", json={"query": words, "limit": 10, "collection": "chaos"})
        if response is None:
            return False
        if response.status_code == 404:  # the collection is not there yet
            return True
        body = response.json()
        texts = [citation["quote"] for citation in body["citations"]] + [body["answer"]] if answer else [
            item["text"] for item in body["items"]
        ]  # fmt: skip
        self._judge(known, texts, begun)
        with self.tally.lock:
            self.tally.answered += 1
        return True

    def _judge(self, known: Known, texts: list[str], begun: Mapping[str, Any]) -> None:
        shown: dict[int, set[int]] = {}
        for text in texts:
            for number, edition in _SHOWN.findall(text):
                shown.setdefault(int(number), set()).add(int(edition))
        found = [f"depot {number} in editions {editions}" for number, editions in shown.items() if len(editions) > 1]
        ours = shown.get(known.number, set())
        if ours and begun["deleted"]:
            found.append(f"depot {known.number} after its deletion")
        if ours and min(ours) < begun["edition"]:
            found.append(f"depot {known.number} in edition {min(ours)} after edition {begun['edition']} was ready")
        with self.tally.lock:
            self.tally.wrong += found


def in_threads(count: int, work: Callable[[int], None]) -> list[threading.Thread]:
    """Start `work(n)` in threads; an error in one ends the process's wait with its text in `errors`."""
    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
