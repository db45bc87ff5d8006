"""What a base said to the shipped questions, kept between runs: the same base answers them alike each time.

Half of an evaluation is the base's part, and most of it are these questions. Nothing of a tenant is kept: rows and
documents are asked anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tuning.items import EvaluationItem, SystemOutput

_SHIPPED = frozenset({"probe", "neutral"})
_VERSION = "1"
"""Part of every key; another way of decoding or reading needs another."""
_MOST = 5_000
_ADAPTER: TypeAdapter[dict[str, SystemOutput]] = TypeAdapter(dict[str, SystemOutput])


class KnownAnswers:
    """Outputs of one base on one device. path: a file that may not be there yet; None keeps nothing."""

    def __init__(self, path: Path | None, place: str, max_new_tokens: int) -> None:
        self._path = path
        self._place = place
        self._limit = max_new_tokens
        self._known = _read(path)

    def of(self, items: Sequence[EvaluationItem]) -> dict[str, SystemOutput]:
        """{item id: output} of those that are known under this limit of tokens."""
        found = {item.id: self._known.get(self._key(item)) for item in items if item.source in _SHIPPED}
        return {key: output for key, output in found.items() if output is not None}

    def keep(self, items: Sequence[EvaluationItem], outputs: dict[str, SystemOutput]) -> None:
        """Add outputs to the shipped ones among `items`, in one step; the newest stay where there are too many."""
        new = {self._key(item): outputs[item.id] for item in items if item.source in _SHIPPED and item.id in outputs}
        if self._path is None or new.keys() <= self._known.keys():
            return
        self._known = dict(list((_read(self._path) | new).items())[-_MOST:])
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.new")
        temporary.write_bytes(_ADAPTER.dump_json(self._known))
        temporary.replace(self._path)

    def _key(self, item: EvaluationItem) -> str:
        asked = item.model_dump(mode="json", include={"prompt", "reference", "raw"})
        what = [_VERSION, self._place, self._limit if not item.raw else 0, asked]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _read(path: Path | None) -> dict[str, SystemOutput]:
    if path is None or not path.exists():
        return {}
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except ValidationError:  # of an earlier release: asked anew
        return {}
