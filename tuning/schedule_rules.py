"""What a schedule says: its request, its conditions, and the moments that its cron line means in its time zone."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.errors import FieldError, InvalidInput
from tuning.chain import BASE_START, START_PATTERN
from tuning.service import FAMILY_PATTERN


class QuietHours(BaseModel):
    """Hours of the day, in the schedule's time zone, in which nothing starts; over midnight if `end` comes first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: time
    end: time

    @model_validator(mode="after")
    def _some_hours(self) -> QuietHours:
        if self.start == self.end or self.start.tzinfo is not None or self.end.tzinfo is not None:
            raise ValueError("quiet hours start and end at two different times of the day, such as 09:00 and 18:00")
        return self

    def ends_at(self, moment: datetime, zone: ZoneInfo) -> datetime | None:
        """The end of the quiet hours that a moment lies in, in UTC; None outside of them."""
        local = moment.astimezone(zone)
        now = local.time()
        over_midnight = self.start > self.end
        if not ((self.start <= now or now < self.end) if over_midnight else self.start <= now < self.end):
            return None
        day = local.date() + timedelta(days=int(over_midnight and now >= self.start))
        return datetime.combine(day, self.end, tzinfo=zone).astimezone(UTC)


class Conditions(BaseModel):
    """What must hold for a due schedule to run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_new_rows: int = Field(0, ge=0, description="Valid rows uploaded since the family's last run that did not fail.")
    min_drift: float | None = Field(
        None, gt=0, le=1, description="By how much the share of down-votes, refusals or uncited answers rose, at least."
    )
    drift_days: int = Field(7, ge=1, le=90, description="The last so many days are compared with as many before them.")
    cool_down_hours: float = Field(0, ge=0, le=24 * 90, description="Hours since the family's last run ended.")
    quiet_hours: QuietHours | None = Field(
        None, description="Nothing starts in them; what falls due is started at their end."
    )
    free_worker: bool = Field(False, description="Only while no other run, of any family, is queued or running.")


class RunTemplate(BaseModel):
    """The run a schedule asks for; the family is the schedule's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str | None = None
    recipe: str | None = None
    dataset_ids: list[str] | None = None
    overrides: dict[str, Any] | None = None
    start_from: str = Field(BASE_START, pattern=START_PATTERN, description="As in a tuning run.")


class ScheduleRequest(BaseModel):
    """Body of a new schedule, and the whole of a changed one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str = Field(pattern=FAMILY_PATTERN)
    cron: str = Field(max_length=120, description="Five fields: minute, hour, day, month, weekday.")
    timezone: str = Field("UTC", max_length=64, description="IANA name, such as Asia/Tokyo.")
    conditions: Conditions = Conditions()
    request: RunTemplate = RunTemplate()
    enabled: bool = True


def next_moment(cron: str, timezone: str, after: datetime) -> datetime:
    """First moment of a cron line after another, in UTC.

    Raises:
        InvalidInput: `invalid_cron`, or `invalid_timezone`.
    """
    from croniter import CroniterError, croniter

    try:
        zone = ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:  # ZoneInfo tells unknown, malformed and unreadable names apart
        raise field_error("timezone", f"no time zone '{timezone}'", "invalid_timezone") from error
    if len(cron.split()) != 5:
        raise field_error("cron", "five fields: minute, hour, day, month, weekday", "invalid_cron")
    fixed_hour = not cron.split()[1].startswith("*")
    try:
        moments = croniter(cron, after.astimezone(zone))
        found: datetime = moments.get_next(datetime)
        # When clocks are set back an hour comes twice. Who names the hour means one of them: the first.
        while fixed_hour and _comes_again(found, zone):
            found = moments.get_next(datetime)
    except (CroniterError, ValueError, KeyError, AttributeError) as error:
        raise field_error("cron", f"not a cron line, or one that never comes: {error}", "invalid_cron") from error
    return found.astimezone(UTC)


def _comes_again(moment: datetime, zone: ZoneInfo) -> bool:
    """Whether the clock on the wall showed this very time an hour, or half of one, before."""
    return moment.astimezone(UTC).astimezone(zone).fold == 1


def field_error(location: str, detail: str, code: str) -> InvalidInput:
    """An error of one field of a schedule."""
    return InvalidInput(f"{location}: {detail}", code=code, errors=[FieldError(location, detail, code)])
