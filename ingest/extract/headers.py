"""Which rows of a table are its header: as the format marks them, else judged by merges, kinds of value and words."""

from __future__ import annotations

from collections.abc import Sequence

from ingest.extract.cell_kinds import (
    could_head,
    header_text,
    is_calendar,
    is_column_name,
    is_dash,
    is_label,
    is_note,
    is_section,
    is_total,
    is_unit,
    is_value,
    is_weekday,
    rises,
    unit_of,
)
from ingest.extract.cells import Cell, Row, filled, origins

MAX_LEVELS = 5
_SAMPLE_ROWS = 200
"""Rows looked at below a supposed header: enough to judge by, whatever the length of the table."""
_LEVEL_SEPARATOR = " / "


def header_depth(rows: Sequence[Row]) -> int:
    """How many of the first rows are header; 0 where the table has none. At least one row is left for data."""
    if len(rows) < 2:
        return 0
    marked = _marked(rows)
    if marked:
        return marked
    depth = _spanned_depth(rows)
    if depth >= len(rows) or not all(_heads(row) for row in rows[:depth]) or not _is_sublevel(rows, depth):
        depth = 1
    if _units_differ(rows):
        return _with_sublevels(rows, depth)
    if not _heads(rows[0]):
        return 0
    if depth == 1 and not fills_gaps(rows, 1) and not _is_header(rows):
        return 0
    return _with_sublevels(rows, depth)


def is_marked(row: Row) -> bool:
    """The format says that the whole row is header."""
    return all(cell.header for cell in filled(row))


def stacked_tables(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Where tables begin and end that stand one under another without a blank row: a title, then another header."""
    starts = [0]
    first: Row | None = None
    for at, row in enumerate(rows):
        cells = filled(row)
        if first is None:
            first = row if len(cells) > 1 else None
            continue
        if at - starts[-1] < 2 or at + 2 >= len(rows) or len(cells) != 1 or not _is_title(row):
            continue
        head = filled(rows[at + 1])
        named = sum(is_label(cell.text) or cell.header for cell in head)
        if len(head) > 1 and _heads(rows[at + 1]) and named * 10 >= len(head) * 6 and not _same(rows[at + 1], first):
            starts.append(at)
            first = None
    return list(zip(starts, [*starts[1:], len(rows)], strict=True))


def _is_title(row: Row) -> bool:
    cell = row[0]
    return cell is not None and could_head(cell.text) and not is_note(cell.text) and not is_total(cell.text)


def header_texts(rows: Sequence[Row], width: int) -> list[str]:
    """Headers by column of the given header rows: levels joined, the same part once, gaps of upper levels carried."""
    levels: list[list[str]] = []
    for at, row in enumerate(rows):
        texts = [header_text(cell.text) if cell else "" for cell in row]
        if at + 1 < len(rows):
            texts = _carried(texts, rows[at + 1])
        levels.append(texts)
    headers = []
    for column in range(width):
        parts: list[str] = []
        for texts in levels:
            part = texts[column]
            if part and part not in parts:
                parts.append(part)
        headers.append(_LEVEL_SEPARATOR.join(parts))
    return headers


def _marked(rows: Sequence[Row]) -> int:
    """Rows down to the last of those that the format marks; names of groups above a marked row count as well."""
    depth = 0
    for at, row in enumerate(rows[: MAX_LEVELS + 1]):
        if filled(row) and is_marked(row):
            depth = at + 1
        elif depth or not _heads(row) or not _is_group_row(rows, at):
            break
    if depth == 1 and len(filled(rows[0])) == 1 and rows[0][0] is not None and len(rows[0]) > 1:
        return 0  # the corner alone: a row header, not a header row
    return min(depth, len(rows) - 1) if depth <= MAX_LEVELS else 1


def _is_group_row(rows: Sequence[Row], at: int) -> bool:
    """Fewer cells than the row below, or cells over several columns of it."""
    cells = filled(rows[at])
    below = filled(rows[at + 1]) if at + 1 < len(rows) else []
    return len(cells) < len(below) or any(cell.columns > 1 or cell.rows > 1 for cell in cells)


def _spanned_depth(rows: Sequence[Row]) -> int:
    """Rows that the cells of the first row reach over, where one of them heads several columns."""
    first = origins(rows[0])
    if not any(1 < cell.columns < len(rows[0]) for _, cell in first):
        return 1
    depth = max((min(cell.rows, MAX_LEVELS) for _, cell in first if cell.text), default=1)
    return max(depth, 2)


def _is_sublevel(rows: Sequence[Row], depth: int) -> bool:
    """The rows below the first name columns only where a cell of the first heads several, or reaches down."""
    for row in rows[1:depth]:
        for above, cell in zip(rows[0], row, strict=True):
            if cell is not None and cell is not above and above is not None and above.columns == 1:
                return False
    return True


def _heads(row: Row) -> bool:
    """Nothing in the row forbids that it is a header; counting values (days, years) may head columns."""
    cells = filled(row)
    texts = [cell.text for cell in cells]
    if len(texts) < 2 and not any(cell.columns > 1 for cell in cells):
        return False
    plain = [text for text in texts if not could_head(text)]
    if not plain:
        return True
    if not all(is_value(text) for text in plain):
        return False
    if _is_scale(texts):
        return True
    if not _is_series(plain):
        return False
    if len(plain) == len(texts) and row[0] is not None:  # nothing names what is counted
        return False
    return len(plain) >= 3 or all(is_calendar(text) for text in plain)


def _units_differ(rows: Sequence[Row]) -> bool:
    """A label and amounts in the first row, of other units than those below: 60サイズ above 800円."""
    first, below = rows[0], rows[1 : 1 + _SAMPLE_ROWS]
    amounts = [at for at, cell in enumerate(first) if cell is not None and is_value(cell.text)]
    if first[0] is None or 0 in amounts or len(amounts) < 2 or not could_head(first[0].text):
        return False
    for at in amounts:
        texts = [cell.text for row in below if (cell := row[at]) is not None and is_value(cell.text)]
        unit = unit_of(first[at].text)  # type: ignore[union-attr]
        if not texts or not unit or any(unit_of(text) == unit for text in texts):
            return False
    return True


def _is_scale(texts: Sequence[str]) -> bool:
    """A label and amounts that grow: 勤続年数, 6か月, 1年6か月, 2年6か月."""
    return len(texts) > 3 and is_label(texts[0]) and all(map(is_value, texts[1:])) and rises(texts[1:])


def _is_series(texts: Sequence[str]) -> bool:
    """Values all different and of one form, as days, months or years above columns are."""
    forms = {
        "".join("0" if character.isdigit() else character for character in text).replace("00", "0") for text in texts
    }
    forms = {"".join(c for c in form if c not in "月火水木金土日") for form in forms}
    return len(set(texts)) == len(texts) and len(forms) <= 2


def _is_header(rows: Sequence[Row]) -> bool:
    first = rows[0]
    below = [row for row in rows[1 : 1 + _SAMPLE_ROWS] if not _same(row, first)]
    cells = filled(first)
    texts = [cell.text for cell in cells]
    width = max(1, sum(any(row[at] and row[at].text for row in below) for at in range(len(first))))  # type: ignore[union-attr]
    if sum(bool(cell and cell.text) for cell in first) * 2 < width or any(is_section(text) for text in texts):
        return False
    if all(cell.strong for cell in cells) and not all(cell.strong for cell in filled(rows[-1])):
        return True
    labels = sum(is_label(text) or not could_head(text) for text in texts)
    if _is_scale(texts):
        return True
    lower_labels = _share_of_labels(below)
    if len(first) == 2:
        differ = _kinds_differ(first, below, 1)
        return (lower_labels < 0.5 and (labels == 2 or differ)) or (
            is_column_name(texts[0]) and (labels == 2 or differ)
        )
    if labels * 2 >= len(texts) and labels / len(texts) > lower_labels:
        return True
    if any(_kinds_differ(first, below, at) for at in range(len(first))):
        return True
    return len(below) >= 2 and len(set(texts)) == len(texts) and not _recurs(first, below)


def _share_of_labels(rows: Sequence[Row]) -> float:
    texts = [row[0].text for row in rows if row[0] and row[0].text]
    return sum(is_label(text) for text in texts) / len(texts) if texts else 0.0


def _same(row: Row, other: Row) -> bool:
    return [cell.text if cell else "" for cell in row] == [cell.text if cell else "" for cell in other]


def _kinds_differ(first: Row, below: Sequence[Row], column: int) -> bool:
    """A word above values."""
    head = first[column]
    if head is None or not head.text or is_value(head.text):
        return False
    cells = [row[column] for row in below]
    texts = [cell.text for cell in cells if cell and cell.text and not is_dash(cell.text)]
    return len(texts) > 0 and sum(is_value(text) for text in texts) >= 0.7 * len(texts)


def _recurs(first: Row, below: Sequence[Row]) -> bool:
    for at, head in enumerate(first):
        if head and head.text and any(row[at] and row[at].text == head.text for row in below):  # type: ignore[union-attr]
            return True
    return False


def _with_sublevels(rows: Sequence[Row], depth: int) -> int:
    while depth < min(len(rows) - 1, MAX_LEVELS) and (_qualifies(rows[depth]) or fills_gaps(rows, depth)):
        depth += 1
    return depth


def _qualifies(row: Row) -> bool:
    """A row of units or of weekdays below a header."""
    texts = [cell.text for cell in filled(row)]
    if len(texts) > 2 and sum(is_weekday(text) for text in texts) >= len(texts) - 1:
        return True
    return bool(texts) and all(not is_value(text) for text in texts) and all(is_unit(text) for text in texts)


def fills_gaps(rows: Sequence[Row], depth: int) -> bool:
    """The row names the columns that the one above left open: unmerged headers of several levels."""
    above, row = rows[depth - 1], rows[depth]
    if not _heads(row):
        return False
    open_columns = [at for at in range(1, len(above)) if _empty(above[at]) and not _empty(row[at])]
    texts = [cell.text for cell in filled(row)]
    if not open_columns or len(texts) < 2:
        return False
    repeated = len(set(texts)) < len(texts)
    closed = [at for at in range(len(above)) if not _empty(above[at]) and _empty(row[at])]
    return (repeated or bool(closed)) and any(
        _kinds_differ(row, rows[depth + 1 : depth + 1 + _SAMPLE_ROWS], at) for at in open_columns
    )


def _carried(texts: list[str], below: Row) -> list[str]:
    """An upper header stands for the open columns to its right that the next level names."""
    out = list(texts)
    for at in range(1, len(out)):
        if not out[at] and out[at - 1] and not _empty(below[at]) and not _empty(below[at - 1]):
            out[at] = out[at - 1]
    return out


def _empty(cell: Cell | None) -> bool:
    return cell is None or not cell.text
