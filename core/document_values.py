"""Metadata as SQL finds it: each value under a key as numbers that an index can hold.

Metadata is JSON of the caller's own types, and a filter compares it by rules of its own (docs/filters.md): text after
NFKC, 1 is not true, one element of a list is enough. To compare documents one by one takes seconds where there are
100,000. So each value has a row of `document_values`, written with the document: equal values, equal hashes of 64 bits.
"""

from __future__ import annotations

import hashlib
import math
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from core.moments import read_moment

MAX_KEY_CHARS = 500
"""Longer keys cannot be asked for."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def key_hash(tenant_id: str, key: str) -> int:
    """Of a tenant's key: what others store under the same name is no work for this one."""
    return _hash(tenant_id, "key", key)


def value_hash(tenant_id: str, key: str, value: Any) -> int:
    """Equal for values that a filter calls equal, and for all that it can compare with nothing."""
    if isinstance(value, str):
        return _hash(tenant_id, key, "text", unicodedata.normalize("NFKC", value))
    if isinstance(value, bool):
        return _hash(tenant_id, key, "bool", str(value))
    if isinstance(value, int):
        return _hash(tenant_id, key, "number", hex(value))
    if isinstance(value, float) and math.isfinite(value):
        whole = value.is_integer()
        return _hash(tenant_id, key, "number", hex(int(value)) if whole else value.hex())
    return _hash(tenant_id, key, "other")


def number_of(value: Any) -> float | None:
    """A finite number for comparing; None for all else. Whole numbers beyond 2**53 are rounded."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return sys.float_info.max if value > 0 else -sys.float_info.max
    return number if math.isfinite(number) else None


def moment_number(moment: datetime) -> int:
    """Microseconds since 1970."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def values_of(document_id: str, tenant_id: str, metadata: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of a document's metadata. A key that is null or an empty list has none: it is missing."""
    for key, value in metadata.items():
        if len(key) > MAX_KEY_CHARS or value is None or value == []:
            continue
        hashed = key_hash(tenant_id, key)
        rows = {}
        for item in value if isinstance(value, list) else [value]:
            moment = read_moment(item) if isinstance(item, str) else None
            value_of = value_hash(tenant_id, key, item)
            rows[value_of] = {
                "key": hashed,
                "value": value_of,
                "document_id": document_id,
                "number": number_of(item),
                "moment": None if moment is None else moment_number(moment[0]),
            }
        yield from rows.values()


def _hash(*parts: str) -> int:
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True)
