"""Figures of the stages of work, in the process-wide registry that /metrics prints and worker processes may serve.

Labels are closed sets or names that operators make (adapter versions), never ids of documents, keys or tenants.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Histogram

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
BASE: Final = "base"
"""Label of answers without an adapter."""

STAGE_SECONDS: Final = Histogram(
    "tsumugi_stage_seconds",
    "Seconds of a stage: queue_wait, extract, chunk, embed, index ... of jobs; retrieve and generate of answers.",
    ["stage"],
    buckets=_SECONDS,
)
FIRST_TOKEN_SECONDS: Final = Histogram(
    "tsumugi_first_token_seconds",
    "Seconds from a question to the first piece of a generated answer, by adapter version.",
    ["adapter"],
    buckets=_SECONDS,
)
TOKENS_PER_SECOND: Final = Histogram(
    "tsumugi_answer_tokens_per_second",
    "Generated tokens a second of one answer after its first piece, by adapter version.",
    ["adapter"],
    buckets=(1, 2, 5, 10, 20, 40, 80, 160, 320, 640),
)
GENERATED_TOKENS: Final = Counter("tsumugi_generated_tokens", "Tokens generated, by adapter version.", ["adapter"])
FOREIGN_POINTS: Final = Counter(
    "tsumugi_index_foreign_points", "Hits of a search that were no points of ours and were skipped; see doctor."
)


def observe_stage(stage: str, seconds: float) -> None:
    """Count one pass through a stage."""
    STAGE_SECONDS.labels(stage).observe(max(0.0, seconds))


def observe_answer(adapter: str | None, timings_ms: dict[str, float], completion_tokens: int) -> None:
    """Count one generated answer. timings_ms: as in answers: retrieve, first_token (since the question), total."""
    label = adapter or BASE
    observe_stage("generate", timings_ms["generate"] / 1000)
    GENERATED_TOKENS.labels(label).inc(completion_tokens)
    first = timings_ms.get("first_token")
    if first is None:
        return
    FIRST_TOKEN_SECONDS.labels(label).observe(first / 1000)
    seconds = (timings_ms["total"] - first) / 1000
    if completion_tokens > 1 and seconds > 0:
        TOKENS_PER_SECOND.labels(label).observe((completion_tokens - 1) / seconds)
