"""The HTTP client of the commands. Speaks the public contract only; knows nothing of the service's inside."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from cli.data_dir import running_service
from cli.output import EXIT_UNREACHABLE, EXIT_USAGE, CommandFailed
from core.settings import load_settings

FINAL_JOB = frozenset({"succeeded", "failed", "cancelled"})


class ApiProblem(CommandFailed):
    """The service answered with a problem document."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = dict(problem)
        self.code = str(problem.get("code", status))
        lines = [f"{problem.get('title', 'error')} ({status}, {self.code}): {problem.get('detail', '')}".rstrip(": ")]
        for error in problem.get("errors") or ():
            lines.append("  " + " ".join(str(error[key]) for key in ("location", "detail") if error.get(key)))
        super().__init__("\n".join(lines))


class Client:
    """A connection to one service."""

    def __init__(self, url: str, key: str, *, timeout_s: float = 300.0) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(timeout_s, connect=5.0),
            trust_env=False,  # the service is ours; a proxy of the environment is not on the way to it
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """One request; answers of 400 and above raise.

        Raises:
            ApiProblem: the service refused.
            CommandFailed: nobody answers (exit code 3).
        """
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error
        if response.is_error:
            raise ApiProblem(response.status_code, _problem_of(response))
        return response

    def get(self, path: str, **parameters: Any) -> Any:
        """GET, decoded."""
        return self.request(
            "GET", path, params={name: value for name, value in parameters.items() if value is not None}
        ).json()

    def post(self, path: str, body: Mapping[str, Any] | None = None, **arguments: Any) -> Any:
        """POST a JSON body (or `files`, `data`), decoded; None for an empty answer."""
        if body is not None:
            arguments["json"] = {name: value for name, value in body.items() if value is not None}
        response = self.request("POST", path, **arguments)
        return response.json() if response.content else None

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """PATCH a JSON body as it is, null included; decoded."""
        return self.request("PATCH", path, json=dict(body)).json()

    def delete(self, path: str) -> Any:
        """DELETE; the decoded answer if there is one."""
        response = self.request("DELETE", path)
        return response.json() if response.content else None

    def items(self, path: str, limit: int | None = None, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Every item of a list, page by page, `limit` at most."""
        cursor: str | None = None
        count = 0
        while True:
            page = self.get(path, cursor=cursor, limit=min(limit or 100, 100), **parameters)
            for item in page["items"]:
                yield item
                count += 1
                if limit is not None and count >= limit:
                    return
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def stream(self, method: str, path: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """Server-sent events as (event, decoded data)."""
        try:
            with self._http.stream(method, path, **arguments) as response:
                if response.is_error:
                    response.read()
                    raise ApiProblem(response.status_code, _problem_of(response))
                event, data = "message", list[str]()
                for line in response.iter_lines():
                    if line.startswith("event:"):
                        event = line[6:].strip()
                    elif line.startswith("data:"):
                        data.append(line[5:].removeprefix(" "))
                    elif not line and data:
                        text = "\n".join(data)
                        yield event, (json.loads(text) if text[:1] in '{["' else text)
                        event, data = "message", []
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error

    def download(self, path: str, target: Path) -> None:
        """GET into a file, a piece at a time. What breaks off raises, so a file that is there is whole.

        Raises:
            ApiProblem: the service refused.
            CommandFailed: nobody answers, or the answer broke off (exit code 3).
        """
        try:
            with self._http.stream("GET", path) as response:
                if response.is_error:
                    response.read()
                    raise ApiProblem(response.status_code, _problem_of(response))
                with target.open("wb") as file:
                    for piece in response.iter_bytes():
                        file.write(piece)
        except httpx.TransportError as error:
            target.unlink(missing_ok=True)
            raise unreachable(self.url, error) from error

    def follow_job(
        self, job_id: str, on_change: Callable[[dict[str, Any]], None] | None = None, *, timeout_s: float = 3600.0
    ) -> dict[str, Any]:
        """Watch a job by its events until it is final; a stream that ends early is opened again.

        Raises:
            CommandFailed: not final after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        job: dict[str, Any] = self.get(f"/v1/jobs/{job_id}")
        while job["status"] not in FINAL_JOB:
            if time.monotonic() > deadline:
                raise CommandFailed(f"job {job_id} is still {job['status']} after {timeout_s:.0f} s")
            for _event, data in self.stream("GET", f"/v1/jobs/{job_id}/events"):
                if isinstance(data, dict) and "status" in data:
                    job = data
                    if on_change is not None:
                        on_change(job)
                    if job["status"] in FINAL_JOB or time.monotonic() > deadline:
                        break
            if job["status"] not in FINAL_JOB:
                time.sleep(0.2)  # the stream ended before the job did: the service restarts, give it a moment
            job = self.get(f"/v1/jobs/{job_id}")
        return job


def unreachable(url: str, error: Exception) -> CommandFailed:
    """The failure that says that nobody answers there."""
    return CommandFailed(
        f"no answer from {url} ({type(error).__name__}); is the service running? Start it with `tsumugi up`",
        exit_code=EXIT_UNREACHABLE,
    )


def connect(data_dir: Path | None = None) -> Client:
    """Find URL and key: TSUMUGI_URL and TSUMUGI_API_KEY, else what the data dir says.

    Raises:
        CommandFailed: there is no service to be found (3), or no key for it (2).
    """
    settings = load_settings(**({"data_dir": data_dir} if data_dir is not None else {}))
    url = os.environ.get("TSUMUGI_URL")
    if not url:
        note = running_service(settings.data_dir)
        if note is None:
            raise CommandFailed(
                f"no service found: {settings.data_dir} names none and TSUMUGI_URL is not set; start one: tsumugi up",
                exit_code=EXIT_UNREACHABLE,
            )
        url = note.url
    key = os.environ.get("TSUMUGI_API_KEY")
    if not key:
        try:
            key = settings.admin_key_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise CommandFailed(
                f"no API key: TSUMUGI_API_KEY is not set, and {settings.admin_key_file}: {error.strerror}",
                exit_code=EXIT_USAGE,
            ) from error
    return Client(url, key)


def _problem_of(response: httpx.Response) -> dict[str, Any]:
    try:
        problem = response.json()
    except ValueError:
        problem = None
    return problem if isinstance(problem, dict) else {"title": response.reason_phrase, "detail": response.text[:500]}
