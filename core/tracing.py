"""OpenTelemetry traces from the request to the worker. Off, and free, unless `telemetry.otlp_endpoint` is set.

The W3C trace context of the request that made a job rides in the job's arguments, because the database owns jobs: a
message may be lost or sent twice, the row stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog

from core.errors import Unavailable
from core.settings import TelemetrySettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

TRACEPARENT: Final = "traceparent"
"""Name of the trace context in headers and in a job's arguments."""

_tracer: Any = None


def start_tracing(settings: TelemetrySettings, role: str, processor: SpanProcessor | None = None) -> None:
    """Send spans of this process to the collector; called by process roots. role: `api`, `ingest`, `embedded` ...

    processor: takes the spans instead of the collector.

    Raises:
        Unavailable: `tracing_missing`: an endpoint is set and the extra `otel` is not installed.
    """
    global _tracer  # noqa: PLW0603 - one provider a process, as OpenTelemetry itself has it
    if settings.otlp_endpoint is None and processor is None:
        return
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ImportError as error:
        raise Unavailable(
            "telemetry.otlp_endpoint needs OpenTelemetry: install tsumugi[otel]",
            code="tracing_missing",
            retryable=False,
        ) from error
    provider = TracerProvider(
        resource=Resource.create({"service.name": settings.service_name, "service.role": role}),
        sampler=ParentBased(TraceIdRatioBased(settings.sampled_share)),
    )
    if processor is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.otlp_endpoint))
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("tsumugi")


def stop_tracing() -> None:
    """Send what is left and stop; called by process roots."""
    global _tracer  # noqa: PLW0603
    if _tracer is not None:
        from opentelemetry.sdk.trace import TracerProvider

        provider = getattr(_tracer, "_tracer_provider", None)
        if isinstance(provider, TracerProvider):
            provider.shutdown()
    _tracer = None


@contextmanager
def span(name: str, parent: str | None = None, **attributes: str | int | float) -> Iterator[None]:
    """A span around the block, with its trace id on every log line within. parent: a W3C `traceparent`."""
    if _tracer is None:
        yield
        return
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({TRACEPARENT: parent}) if parent else None
    with _tracer.start_as_current_span(name, context=context, attributes=attributes) as current:
        trace_id = f"{current.get_span_context().trace_id:032x}"
        with structlog.contextvars.bound_contextvars(trace_id=trace_id):
            yield


def record(name: str, seconds: float, **attributes: str | int | float) -> None:
    """A span that has just ended, inside the current one."""
    if _tracer is None:
        return
    ended = time.time_ns()
    _tracer.start_span(name, start_time=ended - int(seconds * 1e9), attributes=attributes).end(end_time=ended)


def with_trace(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a job with the trace context of whoever makes it, where there is one."""
    if _tracer is None:
        return dict(arguments)
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    found = carrier.get(TRACEPARENT)
    return {**arguments, TRACEPARENT: found} if found else dict(arguments)
