"""Ruling lines of a PDF page: strokes, thin boxes and the edges of filled ones, as the page shows them.

A page with thousands of paths is a drawing; its lines are not looked at.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ingest.extract.pdf_page import Box, Frame

_MAX_PATHS = 6_000
_MAX_SEGMENTS = 40_000
_MAX_POINTS_OF_PATH = 400
"""A path of more points is a curve, a glyph or a hatching."""
_SLACK = 1.0
"""How far the ends of a level line may be apart, in points."""
_THIN = 3.0
"""A box not higher than this is a line."""
_SHORTEST = 4.0
_JOIN = 2.5
"""Pieces of one line, so far apart, are one."""
_LIGHT = 250
"""Fills lighter than this, of 255 in each colour, are paper."""

Matrix = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Rule:
    """A line at `at` (y of a level one, x of an upright one), from `start` to `stop` along the other axis."""

    at: float
    start: float
    stop: float


@dataclass(slots=True)
class Rules:
    """Lines of a page, merged, and its shaded boxes."""

    level: list[Rule] = field(default_factory=list)
    upright: list[Rule] = field(default_factory=list)
    shaded: list[Box] = field(default_factory=list)


def rules_of(page: Any, frame: Frame) -> Rules:
    """Ruling lines of a pypdfium2 page. Empty for a drawing."""
    import pypdfium2.raw as pdfium

    found = Rules()
    matrices: dict[int, Matrix] = {}
    width, height = frame.size
    segments = 0
    for count, item in enumerate(page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_PATH], max_depth=5)):
        points = int(pdfium.FPDFPath_CountSegments(item.raw))
        segments += points
        if count >= _MAX_PATHS or segments > _MAX_SEGMENTS:
            return Rules()
        if points > _MAX_POINTS_OF_PATH:
            continue
        fill, stroke = ctypes.c_int(), ctypes.c_int()
        pdfium.FPDFPath_GetDrawMode(item.raw, fill, stroke)
        if not fill.value and not stroke.value:
            continue
        paper = not stroke.value and _is_light(item)
        for path in _subpaths(item, _multiply(_matrix(item), _outer(item, matrices)), frame):
            _take(path, found, filled=bool(fill.value), stroked=bool(stroke.value), paper=paper)
    inside = (-_SLACK, -_SLACK, width + _SLACK, height + _SLACK)
    found.level = _merged([rule for rule in found.level if inside[1] <= rule.at <= inside[3]])
    found.upright = _merged([rule for rule in found.upright if inside[0] <= rule.at <= inside[2]])
    return found


def _take(points: list[tuple[float, float]], found: Rules, *, filled: bool, stroked: bool, paper: bool) -> None:
    """A subpath as lines: a box by its edges, a thin one as one line, anything else by its straight strokes."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    if x1 - x0 <= _THIN or y1 - y0 <= _THIN:
        if paper:
            return
        if x1 - x0 > max(_SHORTEST, y1 - y0):
            found.level.append(Rule((y0 + y1) / 2, x0, x1))
        elif y1 - y0 > max(_SHORTEST, x1 - x0):
            found.upright.append(Rule((x0 + x1) / 2, y0, y1))
        return
    is_box = 4 <= len(points) <= 6 and all(
        min(x - x0, x1 - x) <= _SLACK and min(y - y0, y1 - y) <= _SLACK for x, y in points
    )
    if is_box and (filled or len(points) >= 5):
        if paper:
            return
        found.level += [Rule(y0, x0, x1), Rule(y1, x0, x1)]
        found.upright += [Rule(x0, y0, y1), Rule(x1, y0, y1)]
        if filled:
            found.shaded.append((x0, y0, x1, y1))
    elif stroked:
        for (ax, ay), (bx, by) in pairwise(points):
            if abs(ay - by) <= _SLACK and abs(ax - bx) > _SHORTEST:
                found.level.append(Rule((ay + by) / 2, min(ax, bx), max(ax, bx)))
            elif abs(ax - bx) <= _SLACK and abs(ay - by) > _SHORTEST:
                found.upright.append(Rule((ax + bx) / 2, min(ay, by), max(ay, by)))


def _subpaths(item: Any, matrix: Matrix, frame: Frame) -> Iterator[list[tuple[float, float]]]:
    """Straight subpaths as shown points; one with a curve in it is left out."""
    import pypdfium2.raw as pdfium

    points: list[tuple[float, float]] = []
    curved = False
    x, y = ctypes.c_float(), ctypes.c_float()
    for at in range(pdfium.FPDFPath_CountSegments(item.raw)):
        segment = pdfium.FPDFPath_GetPathSegment(item.raw, at)
        kind = pdfium.FPDFPathSegment_GetType(segment)
        if kind == pdfium.FPDF_SEGMENT_MOVETO:
            if len(points) > 1 and not curved:
                yield points
            points, curved = [], False
        curved = curved or kind == pdfium.FPDF_SEGMENT_BEZIERTO
        if not pdfium.FPDFPathSegment_GetPoint(segment, x, y):
            continue
        a, b, c, d, e, f = matrix
        points.append(frame.point(a * x.value + c * y.value + e, b * x.value + d * y.value + f))
        if pdfium.FPDFPathSegment_GetClose(segment) and len(points) > 2:
            points.append(points[0])
    if len(points) > 1 and not curved:
        yield points


def _is_light(item: Any) -> bool:
    """Whether a fill can hardly be seen: white boxes lie under the text of many a page."""
    import pypdfium2.raw as pdfium

    red, green, blue, alpha = (ctypes.c_uint() for _ in range(4))
    if not pdfium.FPDFPageObj_GetFillColor(item.raw, red, green, blue, alpha):
        return False
    return alpha.value < 10 or min(red.value, green.value, blue.value) >= _LIGHT


def _outer(item: Any, known: dict[int, Matrix]) -> Matrix:
    """What the forms around an object do to it."""
    container = item.container
    if container is None:
        return 1.0, 0.0, 0.0, 1.0, 0.0, 0.0
    key = ctypes.addressof(container.raw.contents)
    if key not in known:
        known[key] = _multiply(_matrix(container), _outer(container, known))
    return known[key]


def _matrix(item: Any) -> Matrix:
    a, b, c, d, e, f = item.get_matrix().get()
    return a, b, c, d, e, f


def _multiply(inner: Matrix, outer: Matrix) -> Matrix:
    a, b, c, d, e, f = inner
    g, h, i, j, k, m = outer
    return a * g + b * i, a * h + b * j, c * g + d * i, c * h + d * j, e * g + f * i + k, e * h + f * j + m


def _merged(rules: list[Rule]) -> list[Rule]:
    """Pieces of one line put together; double lines made one."""
    rows: list[list[Rule]] = []
    for rule in sorted(rules, key=lambda rule: rule.at):
        if rows and rule.at - rows[-1][0].at <= _JOIN:
            rows[-1].append(rule)
        else:
            rows.append([rule])
    merged: list[Rule] = []
    for row in rows:
        at = sum(rule.at for rule in row) / len(row)
        start: float | None = None
        stop = 0.0
        for rule in sorted(row, key=lambda rule: rule.start):
            if start is not None and rule.start <= stop + _JOIN:
                stop = max(stop, rule.stop)
                continue
            if start is not None:
                merged.append(Rule(at, start, stop))
            start, stop = rule.start, rule.stop
        if start is not None:
            merged.append(Rule(at, start, stop))
    return merged
