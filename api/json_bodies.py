"""JSON bodies bounded by what they are made of: parsing one and checking it holds the interpreter for all who ask.

A text of 16 MiB is one string and takes no time; as many bytes of small members take seconds.
"""

from __future__ import annotations

from typing import Final

from core.errors import TooLarge

UNLOOKED_BYTES: Final = 2**17
MAX_STRINGS: Final = 200_000
"""Names of members included."""
MAX_BARE_BYTES: Final = 2**20
"""Outside of strings: numbers, brackets, commas."""


def refuse_wide(body: bytes) -> None:
    """Look at a body before it is parsed, in time that grows with its length alone.

    Raises:
        TooLarge: it has more strings than MAX_STRINGS, or more than MAX_BARE_BYTES beside them.
    """
    if len(body) <= UNLOOKED_BYTES:
        return
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 2 * MAX_STRINGS:
        raise TooLarge(f"the body has over {MAX_STRINGS} strings", extra={"limit": MAX_STRINGS})
    if sum(map(len, plain.split(b'"')[::2])) > MAX_BARE_BYTES:
        raise TooLarge(f"the body has over {MAX_BARE_BYTES} bytes beside its strings", extra={"limit": MAX_BARE_BYTES})
