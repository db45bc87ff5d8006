"""Members of a row that no training follows: told at the upload, because their author may count on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuning.datasets.formats import TURN_KEYS, DatasetFormat

MAX_LINES = 20
"""Lines named for each member; the count is of all."""
MAX_MEMBERS = 50
_READ = {
    DatasetFormat.ALPACA: {"instruction", "input", "output", "history"},
    DatasetFormat.SHAREGPT: set(),
    DatasetFormat.MESSAGES: set(),
    DatasetFormat.PROMPT_COMPLETION: {"prompt", "completion"},
    DatasetFormat.PREFERENCE: {"prompt", "instruction", "input", "chosen", "rejected"},
    DatasetFormat.UNPAIRED: {"prompt", "instruction", "completion", "label", "kto_tag"},
}
_ALWAYS = {"passages", "system", *TURN_KEYS}
_NAMES = {"id", "idx", "index", "uuid", "source", "category", "dataset", "lang", "language", "tags", "metadata", "type"}
"""Members by which people keep order in their files: nobody expects them to be trained on."""
_TURN_READ = {
    "role",
    "from",
    "name",
    "content",
    "value",
    "text",
    "tool_calls",
    "function_call",
    "tool_call_id",
    *_NAMES,
}
_DETAILS = {
    "tools": "tools are not defined in the service's prompt; rows that call them are left out of training",
    "functions": "tools are not defined in the service's prompt; rows that call them are left out of training",
    "weight": "turns have no weights: the last answer is trained on, what comes before it is context",
    "weights": "turns have no weights: the last answer is trained on, what comes before it is context",
    "earlier_turns": "only the last answer of a row is trained on; earlier ones are context",
    "system": "a row's own system message is left out: the service has one of its own",
}
_UNKNOWN = "not a member of this format; nothing is trained on it"


def members_of(row: Mapping[str, Any], shape: DatasetFormat, content: Mapping[str, Any]) -> set[str]:
    """Names of what a row has and no training follows.

    row: as uploaded. content: its canonical form.
    """
    found = {str(key)[:80] for key in set(row) - _READ[shape] - _ALWAYS - _NAMES if row[key] not in (None, [], {}, "")}
    for key in TURN_KEYS:
        turns = row.get(key)
        for turn in turns if isinstance(turns, list) else []:
            if isinstance(turn, Mapping):
                found |= {str(name)[:80] for name in set(turn) - _TURN_READ if turn[name] is not None}
    messages = content["messages"]
    if any(turn["role"] == "system" for turn in messages):
        found.add("system")
    if any(turn["role"] == "assistant" and "tool_calls" not in turn for turn in messages[:-1]):
        found.add("earlier_turns")
    return found


class Untrained:
    """Counts such members over the rows of a set."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, Any]] = {}

    def add(self, line: int, members: set[str]) -> None:
        """Members of one row."""
        for member in sorted(members):
            if member not in self._found and len(self._found) >= MAX_MEMBERS:
                continue
            entry = self._found.setdefault(member, {"rows": 0, "lines": [], "detail": _DETAILS.get(member, _UNKNOWN)})
            entry["rows"] += 1
            if len(entry["lines"]) < MAX_LINES:
                entry["lines"].append(line)

    def report(self) -> dict[str, dict[str, Any]]:
        """{member: {"rows", "lines", "detail"}} for a set's report."""
        return dict(sorted(self._found.items()))
