"""Requests made up from the OpenAPI document (schemathesis): nothing is answered 5xx, every error is a coded problem.

Bounded: a few requests an operation, the same in each run. `TSUMUGI_SCHEMA_EXAMPLES=200` searches for longer.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase

from api.app import create_app
from core.database import Database
from core.settings import Settings
from generation.models import BaseModelInfo
from tests.api_app import build_api

EXAMPLES = int(os.environ.get("TSUMUGI_SCHEMA_EXAMPLES", "6"))
CODES = set(re.findall(r"^\| `(\w+)` \|", Path("docs/api-errors.md").read_text(encoding="utf-8"), re.MULTILINE))
NOT_HERE = {"index_not_here"}
"""Answered 503 with reason: this application has no index."""


def test_made_up_requests_get_answers_or_coded_problems(settings: Settings, database: Database) -> None:
    api = build_api(settings, database, BaseModelInfo(Path("nowhere"), "fake-base", "0" * 64, "1" * 64, "2" * 64))
    api.add_version()
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(api.services))
    headers = {"Authorization": f"Bearer {api.admin}"}
    problems: list[str] = []
    asked: dict[str, int] = {}

    def probe(operation: schemathesis.APIOperation) -> None:
        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def run(case: schemathesis.Case) -> None:
            response = case.call(headers=headers)
            asked[operation.label] = asked.get(operation.label, 0) + 1
            if response.status_code < 400:
                return
            kind = response.headers.get("content-type", [""])[0]
            body = response.json() if kind.startswith("application/problem+json") else {}
            code = body.get("code")
            ok = code in CODES and body.get("status") == response.status_code and body.get("request_id")
            if operation.path == "/readyz" or code in NOT_HERE:
                return
            if not ok or response.status_code >= 500:
                problems.append(f"{operation.label}: {response.status_code} {code} {response.content[:300]!r}")

        run()

    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path.endswith("/events"):
            continue  # endless by design
        probe(operation)
    assert not problems, "\n".join(sorted(set(problems))[:20])
    assert len(asked) > 50 and sum(asked.values()) > 150
