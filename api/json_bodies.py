"""JSON bodies bounded by what they are made of: parsing one and checking it holds the interpreter for all who ask.

A text of 16 MiB is one string and takes no time; as many bytes of small members take seconds.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Final

from starlette.types import Message, Receive

from core.errors import TooLarge, Unavailable

UNLOOKED_BYTES: Final = 2**17
MAX_STRINGS: Final = 200_000
"""Names of members included."""
MAX_BARE_BYTES: Final = 2**20
"""Outside of strings: numbers, brackets, commas."""
FREE_BYTES: Final = 2**17
"""Of each body; what most have."""
TENANT_BYTES: Final = 64 * 2**20
"""Of one tenant's bodies that are in memory at once, besides FREE_BYTES of each."""


class BodyRoom:
    """Room for bodies that are read into memory, by tenant: many long ones at once must not fill the process."""

    def __init__(self, tenant_bytes: int = TENANT_BYTES) -> None:
        self._tenant_bytes = tenant_bytes
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()

    def body(self, tenant_id: str, receive: Receive) -> CountedBody:
        """A body of a tenant; leave it when it was answered."""
        return CountedBody(self, tenant_id, receive)

    def take(self, tenant_id: str, size: int) -> None:
        """Hold so many bytes more.

        Raises:
            Unavailable: `too_many_at_once`.
        """
        with self._lock:
            if size and self._held[tenant_id] + size > self._tenant_bytes:
                raise Unavailable(
                    f"bodies of this tenant's other requests hold {self._tenant_bytes} bytes; wait for one to end",
                    code="too_many_at_once",
                    extra={"limit": self._tenant_bytes, "retry_after_s": 1},
                )
            self._held[tenant_id] += size
            if not self._held[tenant_id]:
                del self._held[tenant_id]


class CountedBody:
    """What a request has sent of its body, counted as it comes."""

    def __init__(self, room: BodyRoom, tenant_id: str, receive: Receive) -> None:
        self._room = room
        self._tenant_id = tenant_id
        self._receive = receive
        self._read = 0

    async def receive(self) -> Message:
        """The next message.

        Raises:
            Unavailable: as `BodyRoom.take`.
        """
        message = await self._receive()
        read = self._read + len(message.get("body", b""))
        self._room.take(self._tenant_id, _counted(read) - _counted(self._read))
        self._read = read
        return message

    def leave(self) -> None:
        """Give the room back; once."""
        self._room.take(self._tenant_id, -_counted(self._read))
        self._read = 0


def _counted(size: int) -> int:
    return max(0, size - FREE_BYTES)


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
