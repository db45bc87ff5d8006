"""Base of request bodies. Text that a database or UTF-8 cannot hold is refused here, wherever it hides in the JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from core.moments import as_utc

MAX_DEPTH: Final = 32
MAX_UNKNOWN: Final = 100
"""Members that are told of one by one: half a million errors take seconds to write."""


class RequestBody(BaseModel):
    """A JSON object with known fields only: a misspelt option is an error, not a default. null counts as left out."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _clean(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > len(cls.model_fields) + MAX_UNKNOWN:
            raise PydanticCustomError("too_many_members", "an object of {count} members", {"count": len(value)})
        refuse_bad_text(value)
        return {name: item for name, item in value.items() if item is not None} if isinstance(value, dict) else value


Moment = Annotated[datetime, AfterValidator(as_utc)]
"""A time in UTC; without a zone it is taken for UTC."""
AwareMoment = Annotated[AwareDatetime, AfterValidator(as_utc)]
"""The same, which must have a zone."""


class ResponseBody(BaseModel):
    """An answer of the API, filled from a row or a dataclass."""

    model_config = ConfigDict(from_attributes=True)


def refuse_bad_text(value: Any, depth: int = 0) -> None:
    """Walk a JSON value.

    Raises:
        PydanticCustomError: `invalid_text` for NUL or a lone surrogate, `too_deep` for nesting over MAX_DEPTH.
    """
    if depth > MAX_DEPTH:
        raise PydanticCustomError("too_deep", "nested deeper than {limit} levels", {"limit": MAX_DEPTH})
    if isinstance(value, str):
        if not is_storable(value):
            raise PydanticCustomError("invalid_text", "text holds NUL or half of a surrogate pair")
    elif isinstance(value, dict):
        for key, item in value.items():
            refuse_bad_text(key, depth + 1)
            refuse_bad_text(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            refuse_bad_text(item, depth + 1)


def is_storable(text: str) -> bool:
    """Whether text can be stored and sent as UTF-8 without NUL."""
    if "\x00" in text:
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class Warned(ResponseBody):
    """Something that was done, and may not be what was meant. `code` is stable: `no_passages`, `other_family`, ..."""

    code: str
    detail: str
