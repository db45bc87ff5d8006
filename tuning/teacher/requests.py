"""What may be asked of a teacher: rows from documents, or a set revised by written principles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from core.errors import FieldError, InvalidInput
from tuning.service import FAMILY_PATTERN

Principle = Annotated[str, Field(min_length=3, max_length=500)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    name: str = Field("teacher", min_length=1, max_length=180, description="Name of the set.")
    family: str | None = Field(
        None,
        pattern=FAMILY_PATTERN,
        description="Family of the sets; default: that of the revised set, or the default one.",
    )
    verify: bool = Field(True, description="Ask the teacher once more whether the passages carry what it wrote.")


class FromDocuments(_Request):
    """Questions that documents answer, with answers from them alone."""

    source: Literal["documents"]
    collection: str | None = Field(None, max_length=100, description="Only documents of this collection.")
    document_ids: list[str] | None = Field(None, min_length=1, max_length=1_000, description="Only these documents.")
    questions: int = Field(
        100, ge=1, le=5_000, description="Questions asked for; what the checks refuse is not made up."
    )
    per_passage: int = Field(2, ge=1, le=5, description="Questions about one passage.")
    style: str = Field("", max_length=1_000, description="How answers should sound.")
    must_be_found: bool = Field(
        True,
        description="Keep only questions for which the service's own search finds the passage among its best five.",
    )


class FromDataset(_Request):
    """The answers of a set, rewritten where they break a principle."""

    source: Literal["dataset"]
    dataset_id: str = Field(max_length=48, description="A set that shows answers to imitate.")
    principles: list[Principle] = Field(min_length=1, max_length=20, description="What every answer must keep.")
    rows: int = Field(500, ge=1, le=5_000, description="Rows looked at, from the first.")


BuildRequest = Annotated[FromDocuments | FromDataset, Field(discriminator="source")]
_ADAPTER: TypeAdapter[FromDocuments | FromDataset] = TypeAdapter(BuildRequest)


def parse_build(body: Mapping[str, Any]) -> FromDocuments | FromDataset:
    """Body to request.

    Raises:
        InvalidInput: `errors` names fields.
    """
    try:
        return _ADAPTER.validate_python(dict(body))
    except ValidationError as error:
        errors = [FieldError(".".join(map(str, e["loc"])), e["msg"], e["type"]) for e in error.errors()]
        raise InvalidInput("the build of a training set cannot be used", errors=errors) from error
