"""A version's gate report as a page to read: Markdown for a terminal or a ticket, HTML with pictures for a browser.

The pictures are inline SVG made here, so the page is one file that loads nothing. Every text in it is escaped: names
and reasons come from data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from typing import Any

_WIDTH, _HEIGHT, _MARGIN = 640, 220, 44
_ROW = 22
_GOOD, _BAD, _INK, _PALE = "#1a7f37", "#b42318", "#24292f", "#d0d7de"


@dataclass(frozen=True, slots=True)
class VersionReport:
    """All that a page shows of a version."""

    name: str
    """FAMILY@VERSION"""
    status: str
    source: str
    created_at: datetime
    reasons: Sequence[str]
    gate: Mapping[str, Any] | None
    """`tuning.gate.GateReport`, as stored; None where it passed no gate here."""
    loss_curve: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else there is to say of it, in order: dataset version, base, recipe ..."""


def as_markdown(report: VersionReport) -> str:
    """The page without pictures."""
    lines = [f"# {_md(report.name)}: {_md(report.status)}", ""]
    lines += [f"- {_md(name)}: {_md(value)}" for name, value in _facts(report)]
    lines += ["", *_verdict_lines(report)]
    checks = _checks(report)
    if checks:
        lines += [
            "",
            "| | check | against | version | reference | difference | bounds | n | skipped | |",
            "|---|---|---|---:|---:|---:|---|---:|---:|---|",
        ]
        for check in checks:
            mark = "passed" if check.get("passed") else "advice" if check.get("advisory") else "**failed**"
            bounds = f"{_number(check.get('ci_low'))} .. {_number(check.get('ci_high'))}"
            cells = (
                mark,
                _md(check.get("name")),
                _md(check.get("against")),
                _number(check.get("candidate")),
                _number(check.get("reference")),
                _signed(check.get("difference")),
                bounds,
                str(check.get("n", 0)),
                str(check.get("skipped", 0)),
                _md(check.get("reason") or ""),
            )
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {_md(line)}" for line in _power(report))] if _power(report) else []
    points = _points(report)
    if points:
        first, last = points[0], points[-1]
        lines += ["", f"Loss {first[1]:.3f} at step {first[0]:g} to {last[1]:.3f} at step {last[0]:g}."]
    lines += [f"- {_md(note)}" for note in (report.gate or {}).get("notes", [])]
    return "\n".join(lines) + "\n"


def as_html(report: VersionReport) -> str:
    """The page with the loss curve and the intervals of all checks."""
    title = escape(f"{report.name}: {report.status}")
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _facts(report))
    verdict = "".join(f"<li>{escape(line.removeprefix('- '))}</li>" for line in _verdict_lines(report) if line)
    rows = "".join(
        "<tr><td>{mark}</td><td>{name}</td><td>{against}</td><td>{candidate}</td><td>{reference}</td>"
        "<td>{difference}</td><td>{bounds}</td><td>{n}</td><td>{skipped}</td><td>{reason}</td></tr>".format(
            mark="passed" if check.get("passed") else "advice" if check.get("advisory") else "<strong>failed</strong>",
            name=escape(str(check.get("name"))),
            against=escape(str(check.get("against"))),
            candidate=_number(check.get("candidate")),
            reference=_number(check.get("reference")),
            difference=_signed(check.get("difference")),
            bounds=f"{_number(check.get('ci_low'))} .. {_number(check.get('ci_high'))}",
            n=escape(str(check.get("n", 0))),
            skipped=escape(str(check.get("skipped", 0))),
            reason=escape(str(check.get("reason") or "")),
        )
        for check in _checks(report)
    )
    head = "".join(
        f"<th>{name}</th>"
        for name in ("", "check", "against", "version", "reference", "difference", "bounds", "n", "skipped", "")
    )
    notes = "".join(f"<li>{escape(str(note))}</li>" for note in (report.gate or {}).get("notes", []))
    power = "".join(f"<li>{escape(line)}</li>" for line in _power(report))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>'
        "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#24292f}"
        "table{border-collapse:collapse;font-size:13px}td,th{border:1px solid #d0d7de;padding:.2rem .5rem;"
        "text-align:left}dl{display:grid;grid-template-columns:max-content auto;gap:.1rem 1rem}dd{margin:0}"
        f"</style></head><body><h1>{title}</h1><dl>{facts}</dl><h2>Verdict</h2><ul>{verdict}</ul>"
        + (f"<h2>Differences</h2>{intervals_svg(_checks(report))}<table><tr>{head}</tr>{rows}</table>" if rows else "")
        + (f"<h2>What these sizes can see</h2><ul>{power}</ul>" if power else "")
        + (f"<h2>Loss</h2>{loss_svg(_points(report))}" if _points(report) else "")
        + (f"<h2>Notes</h2><ul>{notes}</ul>" if notes else "")
        + "</body></html>\n"
    )


def loss_svg(points: Sequence[tuple[float, float]]) -> str:
    """The loss over steps. points: (step, loss), finite, ascending in step."""
    if not points:
        return ""
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    left, right, low, high = min(steps), max(steps), min(0.0, *losses), max(losses)

    def at(step: float, loss: float) -> str:
        x = _MARGIN + (step - left) / ((right - left) or 1) * (_WIDTH - 2 * _MARGIN)
        y = _HEIGHT - _MARGIN - (loss - low) / ((high - low) or 1) * (_HEIGHT - 2 * _MARGIN)
        return f"{x:.1f},{y:.1f}"

    path = " ".join(at(step, loss) for step, loss in points)
    ticks = "".join(
        f'<text x="{_MARGIN - 6}" y="{at(left, value).split(",")[1]}" text-anchor="end">{value:.2f}</text>'
        for value in (low, (low + high) / 2, high)
    ) + "".join(
        f'<text x="{at(step, low).split(",")[0]}" y="{_HEIGHT - _MARGIN + 16}" text-anchor="middle">{step:g}</text>'
        for step in sorted({left, right})
    )
    bottom = _HEIGHT - _MARGIN
    axes = f'<path d="M{_MARGIN},{_MARGIN} V{bottom} H{_WIDTH - _MARGIN}" fill="none" stroke="{_PALE}"/>'
    return _svg(
        _HEIGHT, "Loss over training steps",
        f'{axes}<polyline points="{path}" fill="none" stroke="{_INK}" stroke-width="1.5"/>{ticks}',
    )  # fmt: skip


def intervals_svg(checks: Sequence[Mapping[str, Any]]) -> str:
    """Difference and bounds of each check on one scale, zero marked; undefined ones say so."""
    values = [float(check[key]) for check in checks for key in ("ci_low", "ci_high") if _finite(check.get(key))]
    reach = max([abs(value) for value in values] or [1.0]) or 1.0
    label = 190

    def x(value: float) -> float:
        return label + (value / reach + 1) / 2 * (_WIDTH - label - 16)

    height = _ROW * len(checks) + 34
    parts = [f'<path d="M{x(0):.1f},10 V{height - 22}" stroke="{_PALE}"/>']
    for number, check in enumerate(checks):
        y = 20 + number * _ROW
        name = escape(f"{check.get('name')} / {check.get('against')}")
        parts.append(f'<text x="{label - 8}" y="{y + 4}" text-anchor="end">{name}</text>')
        colour = _GOOD if check.get("passed") else _BAD
        if not all(_finite(check.get(key)) for key in ("ci_low", "ci_high", "difference")):
            parts.append(f'<text x="{x(0) + 6:.1f}" y="{y + 4}" fill="{_BAD}">undefined</text>')
            continue
        low, high, middle = (x(float(check[key])) for key in ("ci_low", "ci_high", "difference"))
        parts.append(f'<path d="M{low:.1f},{y} H{high:.1f}" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<circle cx="{middle:.1f}" cy="{y}" r="4" fill="{colour}"/>')
    for value in (-reach, 0.0, reach):
        parts.append(f'<text x="{x(value):.1f}" y="{height - 6}" text-anchor="middle">{value:+.2f}</text>')
    return _svg(height, "Differences from each reference, with their bounds", "".join(parts))


def _svg(height: int, title: str, body: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" font-family="sans-serif" font-size="11" fill="{_INK}"><title>{escape(title)}</title>{body}</svg>'
    )


def _facts(report: VersionReport) -> list[tuple[str, str]]:
    fixed = [("created", report.created_at.isoformat(timespec="seconds")), ("source", report.source)]
    return [*fixed, *((name, str(value)) for name, value in report.facts.items() if value not in (None, "", [], {}))]


def _verdict_lines(report: VersionReport) -> list[str]:
    if report.gate is None:
        return ["- It passed no gate here."]
    if not report.reasons and not (report.gate.get("reasons") or []):
        return ["- Every check passed."]
    return [f"- {_md(reason)}" for reason in (report.gate.get("reasons") or report.reasons)]


def _checks(report: VersionReport) -> list[Mapping[str, Any]]:
    checks = (report.gate or {}).get("checks") or []
    return sorted(checks, key=lambda check: (bool(check.get("passed")), bool(check.get("advisory"))))


def _power(report: VersionReport) -> list[str]:
    """What each check could have seen, in words."""
    return [
        f"{check.get('name')} against {check.get('against')}: {check['power'].get('text')}"
        for check in (report.gate or {}).get("checks") or []
        if isinstance(check.get("power"), Mapping)
    ]


def _points(report: VersionReport) -> list[tuple[float, float]]:
    found = [
        (float(point["step"]), float(point["loss"]))
        for point in report.loss_curve
        if _finite(point.get("step")) and _finite(point.get("loss"))
    ]
    return sorted(found)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: Any) -> str:
    return f"{value:.3f}" if _finite(value) else "none"


def _signed(value: Any) -> str:
    return f"{value:+.3f}" if _finite(value) else "none"


def _md(value: Any) -> str:
    """One line of text that no table or heading of the page breaks on."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
