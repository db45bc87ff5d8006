"""Passwords that come with uploads: used once, in an extraction child, on the bytes as they come in.

The unlocked bytes are what is stored (docs/adr/0018): the password is in the memory of the request, of the mother of
the extractors and of one child, and nowhere else, and reading the document again needs none.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from core.contents import head_of
from core.errors import ExtractionFailed, FieldError, InvalidInput, Unavailable
from core.settings import Settings
from core.turns import Turns
from ingest.extract.decrypt import ZIP_MAGIC, may_be_locked
from ingest.sandbox import Sandbox
from ingest.upload import Upload

_TURNS = Turns()
"""At unlocking; each has processes of its own."""


class Keyring:
    """Unlocks the uploads of one request. Its processes are started for the first locked file, and end with it."""

    def __init__(self, settings: Settings, tenant_id: str, folder: Path) -> None:
        """folder: where what was unlocked waits."""
        self._settings = settings
        self._tenant_id = tenant_id
        self._folder = folder
        self._open = ExitStack()
        self._sandbox: Sandbox | None = None
        self._deadline = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def unlocked(self, upload: Upload, *, or_as_it_is: bool = False) -> Upload:
        """The upload without a password in its bytes; unchanged where there is none, or none was given.

        or_as_it_is: for members of archives, whose passwords may differ; their documents then fail by themselves. A
        ZIP among them is not opened anyway.

        Raises:
            InvalidInput: `wrong_password`, or `unlock_failed` for a file that cannot be unlocked within the limits.
            Unavailable: `uploads_busy`: others are being unlocked.
        """
        if upload.password is None or not may_be_locked(upload.data):
            return upload
        if or_as_it_is and head_of(upload.data).startswith(ZIP_MAGIC):
            return upload
        if or_as_it_is and self._sandbox is not None and time.monotonic() > self._deadline:
            return upload
        try:
            opened = self._started().unlock(
                upload.data, upload.filename, upload.password, self._folder, encoding=upload.encoding
            )
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
            self._open.enter_context(_TURNS.turn(self._tenant_id, self._settings.ingest.extract_timeout_s))
            self._sandbox = Sandbox(self._settings.ingest, self._settings.data_dir / "tmp" / "unlock")
            self._open.callback(self._sandbox.close)
            self._deadline = time.monotonic() + self._settings.ingest.extract_timeout_s
        return self._sandbox
