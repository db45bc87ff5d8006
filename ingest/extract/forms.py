"""Forms: label and value side by side, several pairs a row, as 方眼紙 sheets and application forms have them."""

from __future__ import annotations

from collections.abc import Sequence

from core.table_text import write_row
from ingest.extract.cell_kinds import closed_up, inline_pair, is_dash, is_label, is_note, is_remark, is_value
from ingest.extract.cells import Cell, Row, filled, origins

_MAX_LABEL = 40
_LEVEL_SEPARATOR = " / "
_SAMPLE_ROWS = 200


def is_list_of_fields(rows: Sequence[Row]) -> bool:
    """Columns without a header: what it is and its value, once or several times in a row."""
    if not rows or len(rows[0]) % 2:
        return False
    sample = rows[:_SAMPLE_ROWS]
    if len(rows[0]) == 2 and _has_inline_pairs(sample):
        return True
    pairs = [pair for row in sample for pair in zip(row[::2], row[1::2], strict=True)]
    labels = [label.text for label, value in pairs if label is not None and value is not None]
    if not labels or any(is_value(label) or is_note(label) or len(label) > _MAX_LABEL for label in labels):
        return False
    if len(rows[0]) == 2:
        return True
    values = [value.text for _, value in pairs if value is not None]
    return len(set(labels)) == len(labels) and any(is_value(value) for value in values)


def opens_with_values(rows: Sequence[Row]) -> bool:
    """The first row of several pairs holds values already: it heads nothing."""
    if not rows or len(rows[0]) < 4 or not is_list_of_fields(rows):
        return False
    return any(cell is not None and is_value(cell.text) for cell in rows[0][1::2])


def is_form(rows: Sequence[Row]) -> bool:
    """Labels stand left of their values in most rows of three columns or more; no row heads the others."""
    sample = [row for row in rows[:_SAMPLE_ROWS] if filled(row)]
    if not sample or len(sample[0]) < 3:
        return False
    if _has_inline_pairs(sample):
        return True
    at_label = at_value = labels_named = values_named = 0
    shapes = set()
    for row in sample:
        cells = _without_group(row)
        shapes.add(tuple(at for at, _ in origins(row)))
        for label, value in zip(cells[::2], cells[1::2], strict=False):
            at_label += 1
            labels_named += _names(label)
            if value.text:
                at_value += 1
                values_named += _names(value)
            if is_value(label.text) or is_note(label.text):
                return False
    if not at_label or labels_named * 10 < at_label * 6 or (labels_named - values_named) * 2 < at_label:
        return False
    if len(sample) > 2 and len(shapes) == 1:  # rows of one shape: a table, unless labels and values alternate
        return len(sample[0]) >= 4 and values_named * 5 <= at_value
    return True


def form_lines(rows: Sequence[Row], *, in_place: bool = False) -> list[str]:
    """A line `label: value` a pair; what has no partner stands alone. A label merged over rows goes before the others.

    in_place: every other cell is a label, whatever it says; so it is in two columns.
    """
    lines = []
    for row in rows:
        cells = origins(row)
        group = ""
        if len(cells) > 2 and cells[0][1].rows > 1 and _names(cells[1][1]) and len(cells) % 2:
            group = closed_up(cells[0][1].text) + _LEVEL_SEPARATOR
            cells = cells[1:]
        at = 0
        paired = len(cells) % 2 == 0 and (in_place or all(_names(cell) for _, cell in cells[::2]))
        while at < len(cells):
            cell = cells[at][1]
            following = cells[at + 1][1] if at + 1 < len(cells) else None
            pair = inline_pair(cell.text)
            if pair is not None:
                lines.append(write_row([group + pair[0]], [pair[1]]))
                at += 1
            elif (
                following is not None
                and not inline_pair(following.text)
                and (paired or len(row) == 2 or _is_pair(cell, following))
            ):
                lines.append(write_row([group + closed_up(cell.text)], [following.text]))
                at += 2
            else:
                lines.append(write_row([], [cell.text]))
                at += 1
    return lines


def _has_inline_pairs(rows: Sequence[Row]) -> bool:
    """Many cells hold a label and its value both."""
    texts = [cell.text for row in rows for cell in filled(row)]
    return sum(inline_pair(text) is not None for text in texts) * 5 >= len(texts) * 2 > 0


def _is_pair(label: Cell, value: Cell) -> bool:
    if is_value(label.text) or is_note(label.text) or len(label.text) > _MAX_LABEL:
        return False
    if not _names(label) and is_remark(value.text) and not is_value(value.text):
        return False
    return not (_names(label) and _names(value) and not is_dash(value.text)) or not _names(value)


def _without_group(row: Row) -> list[Cell]:
    cells = filled(row)
    if len(cells) % 2 and cells[0].rows > 1:
        return cells[1:]
    return cells


def _names(cell: Cell) -> bool:
    return cell.header or cell.strong or is_label(closed_up(cell.text))
