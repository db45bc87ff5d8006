"""How versions of a family come to serve: by hand or by rule, over which canary, under which promise; and to whom."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from core.database import ReadSession, WriteSession
from core.errors import FieldError, InvalidInput
from core.tables.canary import FamilyPolicy
from generation.canary.bounds import fewest_conversations


class Promotion(StrEnum):
    """Who moves a version on."""

    BY_HAND = "by_hand"
    BY_RULE = "by_rule"


class Figure(StrEnum):
    """What may go wrong in a conversation. Each is an event that a conversation has or has not."""

    DOWN_VOTE = "down_vote"
    """Somebody rated an answer down."""
    REFUSAL = "refusal"
    """An answer was refused."""
    UNCITED = "uncited"
    """An answer was given without one verified citation."""
    SLOW = "slow"
    """An answer took longer than nine in ten did before the trial."""
    ERROR = "error"
    """An answer broke off with an error."""


DEFAULT_WEIGHTS: dict[Figure, float] = {
    Figure.DOWN_VOTE: 0.3,
    Figure.REFUSAL: 0.2,
    Figure.UNCITED: 0.2,
    Figure.SLOW: 0.1,
    Figure.ERROR: 0.2,
}


class Policy(BaseModel):
    """Policy of one family; what is left out has the default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    promotion: Promotion = Field(
        Promotion.BY_HAND,
        description="by_rule: what passes the gate becomes the canary by itself, and the champion if its trial passes.",
    )
    canary_percent: int = Field(20, ge=1, le=50, description="Share of conversations of a canary started by rule.")
    canary_conversations: int = Field(
        400, ge=20, le=1_000_000, description="Sample size: conversations of the canary after which its trial ends."
    )
    false_alarm: float = Field(
        0.02, gt=0, le=0.2, description="Largest chance, over the whole trial, to roll back a canary that is no worse."
    )
    settle_s: float = Field(
        900, ge=1, le=7 * 86_400, description="A conversation is counted so long after its first answer, in seconds."
    )
    weights: dict[Figure, float] = Field(
        default_factory=lambda: dict(DEFAULT_WEIGHTS), description="Share of the evidence by figure; 0 leaves it out."
    )
    slow_after_ms: float | None = Field(
        None, gt=0, description="What counts as slow; default: the slowest tenth of the answers before the trial."
    )
    max_worse: float = Field(
        0.05,
        ge=0,
        le=1,
        description="By rule, a trial is promoted if no figure's share is worse by more, with 95 % certainty.",
    )
    idle_days: float = Field(
        7, gt=0, le=365, description="A canary that no conversation fell to for so long ends, and says so."
    )
    groups: list[str] | None = Field(
        None,
        max_length=100,
        description="Groups that the family serves; null is the whole tenant. Rows that one of them may not read are "
        "never trained on.",
    )

    @field_validator("weights")
    @classmethod
    def _usable(cls, value: dict[Figure, float]) -> dict[Figure, float]:
        if any(not 0 <= weight <= 1 for weight in value.values()) or not any(value.values()):
            raise ValueError("weights lie in 0..1 and one of them is above 0")
        return value

    @field_validator("groups")
    @classmethod
    def _named(cls, value: list[str] | None) -> list[str] | None:
        if value is None:
            return None
        names = sorted({name.strip() for name in value})
        if not names or not all(0 < len(name) <= 200 for name in names) or "*" in names:
            raise ValueError("name one group at least, or null for the whole tenant")
        return names


def parse_policy(body: Mapping[str, Any]) -> Policy:
    """A policy from outside.

    Raises:
        InvalidInput: `invalid_policy`; `errors` names fields.
    """
    try:
        policy = Policy.model_validate(dict(body))
    except ValidationError as error:
        errors = [FieldError(".".join(map(str, e["loc"])), e["msg"], e["type"]) for e in error.errors()]
        raise InvalidInput("the policy cannot be used", code="invalid_policy", errors=errors) from error
    needed = fewest_conversations(policy.max_worse)
    if policy.promotion is Promotion.BY_RULE and (needed is None or policy.canary_conversations < needed):
        least = "no number is enough" if needed is None else f"at least {needed} are needed"
        detail = (
            f"{policy.canary_conversations} conversations can never show that a canary is worse by "
            f"{policy.max_worse:g} at most: {least}"
        )
        fields = [FieldError("canary_conversations", detail, "too_few_conversations")]
        raise InvalidInput(detail, code="invalid_policy", errors=fields)
    return policy


def policy_of(session: ReadSession | WriteSession, family_id: str) -> Policy:
    """The policy in force."""
    row = session.get(FamilyPolicy, family_id)
    return Policy.model_validate(row.policy) if row is not None else Policy()
