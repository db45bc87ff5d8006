"""A stand-in for a teacher: an HTTP server with the chat route of OpenAI's API that answers by rules, not by a model.

It reads the same fenced prompts that a model would. `faults` lets tests make it fail or misbehave.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Teacher:
    """What the server answers, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.fail_first = 0
        """So many requests are answered 503 before it works."""
        self.answer_suffix = ""
        """Put behind every answer that it writes."""
        self.confirms = True
        self.lock = threading.Lock()

    def reply(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body of one request."""
        with self.lock:
            self.asked.append(body)
            if self.fail_first > 0:
                self.fail_first -= 1
                return 503, {"error": {"message": "overloaded"}}
        text = self._text(body["messages"][0]["content"], parts_of(body))
        return 200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}

    def _text(self, system: str, parts: dict[str, str]) -> str:
        if system.startswith("You write the answer"):
            return self._answer(parts)
        if system.startswith("You write"):
            return json.dumps({"questions": questions_of(parts["Passage"])}, ensure_ascii=False)
        if system.startswith("You check"):
            return f"Verdict: {json.dumps({'supported': self.confirms, 'complete': True})}"
        if system.startswith("You review"):
            broken = [{"principle": 1, "how": "it shouts"}] if "!" in parts["Answer"] else []
            return json.dumps({"broken": broken})
        assert system.startswith("You rewrite"), system
        return parts["Answer"].replace("!", ".")

    def _answer(self, parts: dict[str, str]) -> str:
        passage = re.sub(r"^\[1\] \([^)]*\) ", "", parts["Passages"])
        subject = re.split(r" |は", parts["Question"].removeprefix("What about "))[0]
        for sentence in re.split(r"(?<=[.。])\s*", passage):
            if subject in sentence:
                ending = sentence[-1]
                return f"{sentence[:-1]}{self.answer_suffix} [1]{ending}"
        return "I could not find this in the documents."


def questions_of(passage: str) -> list[str]:
    """A question about the first sentence, and one that no later reader could understand."""
    if "。" in passage:
        return [f"{passage.split('は')[0]}は何日ですか。", "この文章は何について述べていますか。"]
    return [f"What about {passage.split(' ')[0]} in the rules?", "What does this passage say?"]


def parts_of(body: dict[str, Any]) -> dict[str, str]:
    """Fenced texts of a prompt by their titles."""
    user = body["messages"][1]["content"]
    return {title: text for title, _, text in re.findall(r"(?ms)^(\w+):\n(-{8}\w{12})\n(.*?)\n\2$", user)}


@contextmanager
def teacher_at() -> Iterator[tuple[str, Teacher]]:
    """Serve on a free port; yields the base URL and the teacher."""
    teacher = Teacher()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = self.path == "/v1/chat/completions" and {"model", "messages", "max_tokens"} <= set(body)
            status, answer = teacher.reply(body) if known else (404, {"error": {"message": "no such route"}})
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", teacher
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
