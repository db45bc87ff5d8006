"""Tables drawn with ruling lines: the grid that the lines make, with cells merged where no line parts them.

Open sides are closed where level lines reach beyond the outermost upright ones, as in many Japanese tables. Tables with
level lines only take their columns from the white space between words (`pdf_columns`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ingest.extract.pdf_page import Box
from ingest.extract.pdf_rules import Rule, Rules

_TOUCH = 3.0
"""Points within which lines meet, and within which two of them are one border."""
_OPEN = 6.0
"""How far level lines must reach beyond the last upright one to make a column of their own."""
_COVERED = 0.7
"""Share of a cell's side that a line must run along to be its border."""
_MAX_RULES = 1_200
_MAX_CELLS = 20_000


@dataclass(frozen=True, slots=True)
class Span:
    """A cell: its first row and column, and how many of each it covers."""

    row: int
    column: int
    rows: int = 1
    columns: int = 1


@dataclass(frozen=True, slots=True)
class Lattice:
    """Borders of a table: xs ascending, ys descending (rows from the top). cells: by row and column."""

    xs: tuple[float, ...]
    ys: tuple[float, ...]
    cells: dict[tuple[int, int], Span]

    @property
    def box(self) -> Box:
        """The outer border."""
        return self.xs[0], self.ys[-1], self.xs[-1], self.ys[0]

    def cell_at(self, x: float, y: float) -> Span | None:
        """The cell that a point lies in."""
        column = bisect_right(self.xs, x) - 1
        row = bisect_right(self.ys, -y, key=lambda border: -border) - 1
        return self.cells.get((row, column))

    def borders(self, span: Span) -> Box:
        """The box of a cell."""
        return (
            self.xs[span.column],
            self.ys[span.row + span.rows],
            self.xs[span.column + span.columns],
            self.ys[span.row],
        )


def lattices_of(rules: Rules) -> list[Lattice]:
    """Grids of at least two cells that the lines of a page make, from the top of the page."""
    if len(rules.level) > _MAX_RULES or len(rules.upright) > _MAX_RULES:
        return []
    found = [_lattice(level, upright) for level, upright in _groups(rules.level, rules.upright) if level and upright]
    grids = [grid for grid in found if grid is not None and len(set(grid.cells.values())) > 1]
    return sorted(grids, key=lambda grid: -grid.ys[0])


def bands_of(rules: Rules, taken: Sequence[Lattice]) -> list[tuple[float, float, list[float]]]:
    """Stacks of level lines without upright ones: (left, right, their heights from the top), three lines or more."""
    stacks: list[list[Rule]] = []
    for rule in sorted(rules.level, key=lambda rule: -rule.at):
        if any(_within(rule, grid.box) for grid in taken):
            continue
        for stack in stacks:
            if abs(stack[0].start - rule.start) <= _OPEN and abs(stack[0].stop - rule.stop) <= _OPEN:
                stack.append(rule)
                break
        else:
            stacks.append([rule])
    return [
        (min(rule.start for rule in stack), max(rule.stop for rule in stack), [rule.at for rule in stack])
        for stack in stacks
        if len(stack) >= 3
    ]


def plain_lattice(xs: Sequence[float], ys: Sequence[float]) -> Lattice:
    """A grid without merged cells."""
    cells = {(row, column): Span(row, column) for row in range(len(ys) - 1) for column in range(len(xs) - 1)}
    return Lattice(tuple(xs), tuple(ys), cells)


def _groups(level: Sequence[Rule], upright: Sequence[Rule]) -> list[tuple[list[Rule], list[Rule]]]:
    """Lines that hang together by touching."""
    parent = list(range(len(level) + len(upright)))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    for i, across in enumerate(level):
        for j, down in enumerate(upright):
            if (
                across.start - _TOUCH <= down.at <= across.stop + _TOUCH
                and down.start - _TOUCH <= across.at <= down.stop + _TOUCH
            ):
                parent[root(len(level) + j)] = root(i)
    groups: dict[int, tuple[list[Rule], list[Rule]]] = defaultdict(lambda: ([], []))
    for i, rule in enumerate(level):
        groups[root(i)][0].append(rule)
    for j, rule in enumerate(upright):
        groups[root(len(level) + j)][1].append(rule)
    return list(groups.values())


def _lattice(level: Sequence[Rule], upright: Sequence[Rule]) -> Lattice | None:
    xs = _borders([rule.at for rule in upright], [(rule.start, rule.stop) for rule in level])
    ys = _borders([rule.at for rule in level], [(rule.start, rule.stop) for rule in upright])[::-1]
    rows, columns = len(ys) - 1, len(xs) - 1
    if rows < 1 or columns < 1 or rows * columns > _MAX_CELLS:
        return None
    by_x, by_y = _by_border(upright, xs), _by_border(level, ys)
    parent = {(row, column): (row, column) for row in range(rows) for column in range(columns)}

    def root(cell: tuple[int, int]) -> tuple[int, int]:
        while parent[cell] != cell:
            parent[cell] = parent[parent[cell]]
            cell = parent[cell]
        return cell

    for row in range(rows):
        for column in range(columns):
            if column + 1 < columns and not _covered(by_x[column + 1], ys[row + 1], ys[row]):
                parent[root((row, column + 1))] = root((row, column))
            if row + 1 < rows and not _covered(by_y[row + 1], xs[column], xs[column + 1]):
                parent[root((row + 1, column))] = root((row, column))
    members: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for cell in parent:
        members[root(cell)].append(cell)
    cells: dict[tuple[int, int], Span] = {}
    for group in members.values():
        top, left = min(row for row, _ in group), min(column for _, column in group)
        height = max(row for row, _ in group) - top + 1
        width = max(column for _, column in group) - left + 1
        whole = height * width == len(group)  # a shape that is no box stays in pieces
        for row, column in group:
            cells[row, column] = Span(top, left, height, width) if whole else Span(row, column)
    return Lattice(tuple(xs), tuple(ys), cells)


def _borders(places: Sequence[float], reach: Sequence[tuple[float, float]]) -> list[float]:
    """Places of borders, ascending, with those that the lines across reach beyond."""
    borders: list[float] = []
    for place in sorted(places):
        if not borders or place - borders[-1] > _TOUCH:
            borders.append(place)
    starts = sorted(start for start, _ in reach)
    stops = sorted(stop for _, stop in reach)
    # the median line decides, so that one long rule under a heading opens no column
    if borders and starts[len(starts) // 2] < borders[0] - _OPEN:
        borders.insert(0, starts[len(starts) // 2])
    if borders and stops[len(stops) // 2] > borders[-1] + _OPEN:
        borders.append(stops[len(stops) // 2])
    return borders


def _by_border(rules: Sequence[Rule], borders: Sequence[float]) -> list[list[Rule]]:
    return [[rule for rule in rules if abs(rule.at - border) <= _TOUCH] for border in borders]


def _covered(rules: Sequence[Rule], start: float, stop: float) -> bool:
    length = sum(max(0.0, min(rule.stop, stop) - max(rule.start, start)) for rule in rules)
    return length >= _COVERED * (stop - start)


def _within(rule: Rule, box: Box) -> bool:
    return box[1] - _TOUCH <= rule.at <= box[3] + _TOUCH and rule.start < box[2] and rule.stop > box[0]
