"""Logs carry ids and never secrets, whether ours or a library's, as JSON or for a terminal."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from core.log import bound, configure

SECRET = "tsu_" + "q" * 43


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_json_lines_with_bound_ids() -> None:
    stream = io.StringIO()
    configure("INFO", json=True, stream=stream)
    with bound(job_id="job_1", attempt=2):
        structlog.stdlib.get_logger("ours").info("job.started", title="紬")
        logging.getLogger("theirs").warning("took %d ms", 12)
    logging.getLogger("theirs").debug("too quiet")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["event"], first["job_id"], first["attempt"], first["title"]) == ("job.started", "job_1", 2, "紬")
    assert (second["event"], second["logger"], second["job_id"]) == ("took 12 ms", "theirs", "job_1")
    assert first["timestamp"].endswith("Z") and second["level"] == "warning"


@pytest.mark.parametrize("as_json", [True, False])
def test_secrets_are_masked_wherever_they_stand(as_json: bool) -> None:
    stream = io.StringIO()
    configure("INFO", json=as_json, stream=stream)
    log = structlog.stdlib.get_logger("ours")
    log.info("a", secret=SECRET, api_key="x1y2z3", nested={"authorization": "x1y2z3", "items": [f"Bearer {SECRET}"]})
    log.info(f"key {SECRET} was used", url="redis://user:x1y2z3@host/0")
    logging.getLogger("theirs").warning("header %s", SECRET)
    try:
        raise ValueError(f"bad key {SECRET}")
    except ValueError:
        log.exception("failed")
    text = stream.getvalue()
    assert SECRET not in text and "x1y2z3" not in text
    assert "ValueError" in text and "***" in text


def test_counts_of_tokens_are_no_secrets() -> None:
    stream = io.StringIO()
    configure("INFO", json=True, stream=stream)
    structlog.stdlib.get_logger("ours").info("done", prompt_tokens=12)
    assert json.loads(stream.getvalue())["prompt_tokens"] == 12
