"""Passwords that come with uploads: used once, in an extraction child, on the bytes as they come in.

The unlocked bytes are what is stored (docs/adr/0018): the password is in the memory of the request, of the mother of
the extractors and of one child, and nowhere else, and reading the document again needs none.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import TracebackType
from typing import Self

from core.contents import whole
from core.errors import ExtractionFailed, FieldError, InvalidInput, Unavailable
from core.settings import Settings
from ingest.extract.decrypt import may_be_locked
from ingest.sandbox import Sandbox
from ingest.upload import Upload

_AT_ONCE = threading.BoundedSemaphore(2)
"""Requests that unlock at a time: each has processes of its own."""


class Keyring:
    """Unlocks the uploads of one request. Its processes are started for the first locked file, and end with it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sandbox: Sandbox | None = None
        self._deadline = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sandbox is not None:
            self._sandbox.close()
            _AT_ONCE.release()

    def unlocked(self, upload: Upload, *, or_as_it_is: bool = False) -> Upload:
        """The upload without a password in its bytes; unchanged where there is none, or none was given.

        or_as_it_is: for members of archives, whose passwords may differ; their documents then fail by themselves.

        Raises:
            InvalidInput: `wrong_password`, or `unlock_failed` for a file that cannot be unlocked within the limits.
            Unavailable: `busy_unlocking`: others are being unlocked.
        """
        if upload.password is None:
            return upload
        data = whole(upload.data)
        if not may_be_locked(data):
            return upload
        if or_as_it_is and self._sandbox is not None and time.monotonic() > self._deadline:
            return upload
        try:
            opened = self._started().unlock(data, upload.filename, upload.password, encoding=upload.encoding)
        except ExtractionFailed as error:
            if or_as_it_is and not error.retryable:
                return upload
            if error.retryable:
                raise Unavailable(error.detail, code=error.code) from error
            detail = f"'{upload.filename}': {error.detail}"
            if error.code == "wrong_password":
                raise InvalidInput(
                    detail, code="wrong_password", errors=[FieldError("body.password", detail)]
                ) from error
            raise InvalidInput(detail, code="unlock_failed") from error
        return upload if opened is None else replace(upload, data=opened)

    def _started(self) -> Sandbox:
        if self._sandbox is None:
            if not _AT_ONCE.acquire(timeout=self._settings.ingest.extract_timeout_s):
                raise Unavailable("other uploads are being unlocked", code="busy_unlocking")
            self._sandbox = Sandbox(self._settings.ingest, self._settings.data_dir / "tmp" / "unlock")
            self._deadline = time.monotonic() + self._settings.ingest.extract_timeout_s
        return self._sandbox
