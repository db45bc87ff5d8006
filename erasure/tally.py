"""What has been erased so far: for each kind how much, a digest over all of it, and the first ones by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

NAMED = 200
"""Things of a kind that the certificate names one by one; the digest is over all."""


class Tally:
    """Counts and digests by kind. Digests, never text: they prove to whoever has the text what was erased."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        """stored: `to_json` of an earlier attempt."""
        self._kinds: dict[str, dict[str, Any]] = {kind: dict(value) for kind, value in stored.items()}

    def add(self, kind: str, name: str, sha256: str) -> None:
        """One thing, with the SHA-256 of its content."""
        entry = self._kinds.setdefault(kind, {"count": 0, "sha256": "", "items": []})
        entry["count"] += 1
        entry["sha256"] = hashlib.sha256(f"{entry['sha256']}{name}:{sha256}".encode()).hexdigest()
        if len(entry["items"]) < NAMED:
            entry["items"] = [*entry["items"], {"id": name, "sha256": sha256}]

    def add_row(self, kind: str, name: str, row: Mapping[str, Any]) -> None:
        """One row of a table."""
        self.add(kind, name, digest_of(row))

    def count(self, kind: str) -> int:
        """How much of a kind."""
        return int(self._kinds.get(kind, {}).get("count", 0))

    def to_json(self) -> dict[str, Any]:
        """{kind: {count, sha256, items: [{id, sha256}]}}; sha256 chains `previous + id:sha256` in order of erasing."""
        return {kind: dict(self._kinds[kind]) for kind in sorted(self._kinds)}


def digest_of(value: Any) -> str:
    """SHA-256 over a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()
