"""The error tree of the product. HTTP statuses are mapped at the edge (`api/errors.py`), never here.

    TsumugiError                    anything this product raises on purpose
      InvalidInput                  the caller sent something that cannot be used as it is
        UnsupportedFormat           the bytes are of no format that an extractor takes
        TooLarge                    a size, length or count limit was passed
      NotFound                      no such object *for this principal*: absent and forbidden look the same
      Conflict                      the state of the object does not allow it (a compare-and-swap lost, say)
      Unauthenticated               no key, or one that is unknown, expired or revoked
      Forbidden                     the key is good but lacks the scope
      ExtractionFailed              a document could not be read; carries whether a retry can help
      AdapterRefused                an adapter does not fit the base, has no effect, or is not safe to load
      GateFailed                    a rejected version was asked to serve without `force`
      DatasetRejected               a training set cannot be used as it is
      Unavailable                   a dependency does not answer now; the same call may work later
      Cancelled                     the work was cancelled by a user; not a failure
      Interrupted                   this process is stopping; the work goes back to the queue; not a failure
      LeaseLost                     another attempt owns the job now; the holder must stop writing
      DataDirBusy                   another process owns this data dir

Every error carries `code`, a stable machine-readable string that clients may switch on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field of an input that was refused: where it is, what is wrong, under which code."""

    location: str
    detail: str
    code: str = "invalid"


class TsumugiError(Exception):
    """Base of all errors raised on purpose.

    `detail` says what failed, on which object, and what the caller can do.
    """

    default_code: ClassVar[str] = "internal"
    retryable: bool = False

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        errors: Sequence[FieldError] = (),
        extra: Mapping[str, Any] | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.default_code
        self.errors = tuple(errors)
        self.extra = dict(extra or {})
        if retryable is not None:
            self.retryable = retryable


class InvalidInput(TsumugiError):
    """The caller sent something that cannot be used as it is."""

    default_code = "invalid_input"


class UnsupportedFormat(InvalidInput):
    """The bytes are of no format that an extractor takes."""

    default_code = "unsupported_format"


class TooLarge(InvalidInput):
    """A size, length or count limit was passed; `extra` holds `limit` and, where known, `actual`."""

    default_code = "too_large"


class NotFound(TsumugiError):
    """No such object for this principal. Another tenant's object is answered in the same words."""

    default_code = "not_found"


class Conflict(TsumugiError):
    """The object's state does not allow the call."""

    default_code = "conflict"


class Unauthenticated(TsumugiError):
    """No key, or one that is unknown, expired or revoked."""

    default_code = "unauthenticated"


class Forbidden(TsumugiError):
    """The key is good, but lacks the scope."""

    default_code = "forbidden"


class ExtractionFailed(TsumugiError):
    """A document could not be read; `retryable` says whether the same bytes can work another time."""

    default_code = "extraction_failed"


class AdapterRefused(TsumugiError):
    """An adapter does not fit the base, has no effect, or is not safe to load."""

    default_code = "adapter_refused"


class GateFailed(TsumugiError):
    """A rejected version was asked to serve without `force`."""

    default_code = "gate_failed"


class DatasetRejected(TsumugiError):
    """A training set cannot be used as it is; `errors` names lines."""

    default_code = "dataset_rejected"


class Unavailable(TsumugiError):
    """A dependency does not answer now; the same call may work later."""

    default_code = "unavailable"
    retryable = True


class Cancelled(TsumugiError):
    """The work was cancelled by a user."""

    default_code = "cancelled"


class Interrupted(TsumugiError):
    """The process that does the work is stopping. The work goes back to the queue and costs no attempt."""

    default_code = "interrupted"
    retryable = True


class Postponed(TsumugiError):
    """Something that the work needs is taken now. The work goes back to the queue for a while and costs no attempt."""

    default_code = "postponed"
    retryable = True


class LeaseLost(TsumugiError):
    """Another attempt owns the job now; the holder must stop writing."""

    default_code = "lease_lost"


class DataDirBusy(TsumugiError):
    """Another process owns this data dir."""

    default_code = "data_dir_busy"
