"""Every regular expression of the code base takes time in proportion to its text, whatever the text."""

from __future__ import annotations

import re

import pytest

from tests.pattern_growth import Used, compiled_patterns, growth, written_patterns

MADE = {
    "generation/control_marks.py: '|'.join(map(re.escape, spelt)) or '(?!)'",
    "ingest/plausibility.py: f'[{letters}](?=[{capitals}])'",
    "ingest/plausibility.py: f'[{letters}]{{3}}|[{capitals}]{{3}}'",
    "retrieval/index/collections.py: re.escape(settings.collection) + '-[0-9a-f]{16}'",
    "tuning/metrics.py: before + words + after",
    "tuning/questions.py: f'(?<![0-9０-９]){re.escape(old)}(?![0-9０-９])'",
}
"""Patterns made while running: of our own letters, or of text that is escaped. Never add one that a file wrote."""


def test_no_pattern_grows_faster_than_its_text() -> None:
    compiled, (written, _) = compiled_patterns(), written_patterns()
    assert len(compiled) > 200 and len(written) > 10, "the walk found too few patterns to mean anything"
    slow = {used.place: found for used in [*compiled, *written] if (found := growth(used)) is not None}
    assert not slow, slow


def test_no_pattern_comes_from_outside() -> None:
    _, hidden = written_patterns()
    assert set(hidden) == MADE


@pytest.mark.parametrize(
    "pattern",
    [
        r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+){1,4}",
        r"[.!?]+[\"')]*(?=\s|\Z)",
        r"<!--.*?-->",
        r"\s+$",
        r"(.*\.)?((a+)+b)$",
        r"(?:\s*x)*\s*y",
    ],
)
def test_the_measure_knows_what_is_not_linear(pattern: str) -> None:
    assert growth(Used("planted", re.compile(pattern), anchored=False)) is not None


def test_the_measure_lets_what_is_linear_pass() -> None:
    for pattern in (r"[^\W_]+", r"a{1,200}b", r"(?<![.])[.]+"):
        assert growth(Used("planted", re.compile(pattern), anchored=False)) is None, pattern
