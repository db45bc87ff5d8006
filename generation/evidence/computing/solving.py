"""The calculation that a question asks for over one grid."""

from __future__ import annotations

from collections.abc import Sequence

from generation.evidence.computing.amounts import multiply, sum_up
from generation.evidence.computing.calculations import Cue, Operation, Topic
from generation.evidence.computing.case import (
    Case,
    Found,
)
from generation.evidence.computing.differences import difference, duration
from generation.evidence.computing.quantities import (
    Scale,
)
from generation.evidence.computing.selections import count_rows, extreme, rows_that_meet, whole_column
from generation.evidence.question import Wanted


def solve(case: Case) -> Found | None:
    """The answer over one grid; None unless it is certain."""
    if case.naming.ambiguous or not case.bound_to_grid() or not case.grid.data:
        return None
    said = Wanted.YES_NO in case.question.wanted and not case.wording.text.endswith(("は?", "は", "は。"))
    if said:
        return None
    case.widen()
    own = {operation: case.own_cues(operation) for operation in Operation}
    asked = [operation for operation in Operation if own[operation]]
    several = [one for one in asked if one in {Operation.EXTREME, Operation.DIFFERENCE, Operation.WHICH}]
    if Operation.EXTREME in asked:
        alone = len(several) == 1 and Operation.SUM not in asked
        found = extreme(case, _of_rows(case, own[Operation.EXTREME])) if alone else None
    elif Operation.LASTS in asked:
        found = duration(case, own[Operation.LASTS])
    elif Operation.DIFFERENCE in asked or Operation.WHICH in asked:
        cues = own[Operation.WHICH] or own[Operation.DIFFERENCE]
        found = difference(case, cues, which=Operation.DIFFERENCE not in asked)
    elif Operation.SUM in asked or Operation.PRODUCT in asked or Operation.COUNT in asked:
        found = multiply(case, own[Operation.PRODUCT])
        if found is None and Operation.SUM in asked:
            found = sum_up(case, own[Operation.SUM])
        if found is None and Operation.COUNT in asked:
            found = count_rows(case, own[Operation.COUNT])
    elif Operation.ROWS in asked:
        found = rows_that_meet(case)
    else:
        found = None
    if found is None and set(asked) <= {Operation.ROWS, Operation.COLUMN} and own[Operation.COLUMN]:
        found = whole_column(case)
    return None if found is None or _unlabelled(case) else found


def _of_rows(case: Case, cues: Sequence[Cue]) -> Sequence[Cue]:
    """Without 最新 in "the cheapest of the latest list", which chooses the list."""
    others = [cue for cue in cues if Topic.DATE not in cue.topics]
    if others and len(others) < len(cues):
        case.used += [(cue.start, cue.end) for cue in cues if cue not in others]
        return others
    return cues


def _unlabelled(case: Case) -> bool:
    """Whether a row lacks the name that all others have, or the last is the sum of the others: a total in disguise."""
    column, data = case.grid.label, case.grid.data
    if column is None:
        column = next((at for at in range(len(case.grid.columns)) if not case.numeric(at)), None)
    if column is None:
        return False
    if any(not case.grid.rows[at].cells[column] for at in data):
        return True
    for value in range(len(case.grid.columns)):
        if value == column or len(data) < 3:
            continue
        read = [q.value for at in data if (q := case.quantity(at, value)) is not None and q.scale is Scale.NUMBER]
        if len(read) == len(data) and read[-1] > 0 and read[-1] == sum(read[:-1]):
            return True
    return False
