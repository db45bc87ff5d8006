"""What every group of settings has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of a group of settings: unknown names are errors, and nothing changes after start."""

    model_config = ConfigDict(extra="forbid", frozen=True)
