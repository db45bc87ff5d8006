"""Structured logs: JSON lines for machines, colours for a terminal. Ids come from context variables, secrets never in.

Bind `request_id` and `job_id` with `bound(...)`; every line within carries them, from any library.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_SECRET_NAME = re.compile(r"(^|_)(secret|password|passwd|authorization|api_key|token|cookie)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"tsu_[A-Za-z0-9_-]{8,}+|eyJ[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]++){0,4}+|(?<=://)[^\s/@:]*+:[^\s/@]++(?=@)"
)
"""Our keys, signed tokens, and user:password in URLs. What begins like a token is masked without its dots too: to look
for them first took time by the square of a path such as `/eyJeyJeyJ...`."""

MASK = "***"

_LOUD_LIBRARIES = ("httpx", "httpcore", "urllib3", "pdfminer", "alembic", "kombu", "celery.worker.strategy")


def configure(level: str = "INFO", json: bool = False, stream: TextIO | None = None) -> None:
    """Send our logs and those of all libraries to `stream` (stderr by default). Call once, in a process root."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.StackInfoRenderer(),
    ]
    target = stream or sys.stderr
    renderer: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if json
        else structlog.dev.ConsoleRenderer(colors=target.isatty(), exception_formatter=structlog.dev.plain_traceback)
    )
    # Tracebacks become text before the masking, so that it sees them too.
    last: list[Processor] = [structlog.processors.format_exc_info, mask_secrets, renderer]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _LOUD_LIBRARIES:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))


@contextmanager
def bound(**values: Any) -> Iterator[None]:
    """Add values to every log line of this thread or task within the block."""
    with structlog.contextvars.bound_contextvars(**values):
        yield


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace what looks like a secret, by its name or by its shape, at any depth."""
    return {name: MASK if _SECRET_NAME.search(name) else _masked(value) for name, value in event.items()}


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return _SECRET_VALUE.sub(MASK, value)
    if isinstance(value, dict):
        return {
            name: MASK if isinstance(name, str) and _SECRET_NAME.search(name) else _masked(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    return value
