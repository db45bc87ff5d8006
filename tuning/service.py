"""Tuning runs as the API and the scheduler see them. A request is checked to the end before anything is queued.

Nothing here imports torch: the API process creates and shows runs, it never trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.access import Principal, kept_groups
from core.audit import record
from core.database import Database, WriteSession, lock_name
from core.errors import FieldError, InvalidInput, NotFound
from core.jobs.store import JobStore
from core.paging import Page, cut_page, newest_page
from core.settings import Settings
from core.tables.adapters import AdapterFamily, AdapterVersion
from core.tables.base import new_id
from core.tables.datasets import Dataset
from core.tables.tuning import TuningRun
from core.types import JobKind, Scope
from tuning.chain import BASE_START, START_PATTERN, check_parent, find_parent
from tuning.kinds import Method
from tuning.machines import RecipeChoice, choose_recipe
from tuning.recipe import Recipe, load_recipe, parse_recipe, stages_of
from tuning.requirements import require_parts, require_served
from tuning.run_view import RunView, view_of
from tuning.sets import choose_sets, count_rows, formats_of, told_before

FAMILY_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
"""No ':' and no '@': they separate the parts of a model name."""
RESERVED_FAMILIES = frozenset({"base"})
MIN_ROWS = 24
"""Fewer cannot be split into something to learn from and something to be judged on."""


class TuningRequest(BaseModel):
    """Body of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str = Field(pattern=FAMILY_PATTERN, description="Style the new version belongs to; made when absent.")
    method: str | None = Field(None, max_length=20, description="How to train; default: as the recipe says, or `sft`.")
    recipe: str | None = Field(None, max_length=64, description="Recipe name; default: the one of the method.")
    export: bool = Field(False, description="Train for download instead of serving; needed for kinds not served here.")
    dataset_ids: list[str] | None = Field(
        None, max_length=100, description="Training sets; default: all of the family that the method can learn from."
    )
    overrides: dict[str, Any] | None = Field(None, description="Values laid over the recipe.")
    start_from: str = Field(
        BASE_START,
        pattern=START_PATTERN,
        description="Whose weights training starts from, with a new optimiser: `base`, the family's `champion` (the "
        "base while there is none), or a version of it such as `v3`.",
    )


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks for a run: a key through the API, or a schedule."""

    reader: Principal
    """Whose rows the run may take."""
    actor: str
    key_id: str | None = None
    schedule_id: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request that can be run."""

    family: str
    recipe: Recipe
    dataset_ids: Sequence[str]
    row_count: int
    warnings: Sequence[dict[str, str]] = ()
    """[{code, detail}]: what the gate will not forgive, and what it will hardly see, known before any compute."""
    parent: AdapterVersion | None = None
    """Version that training starts from."""
    choice: RecipeChoice | None = None
    """Why this recipe, where the request named none."""


class TuningService:
    """Runs through the eyes of a principal; what belongs to another tenant does not exist."""

    def __init__(self, db: Database, jobs: JobStore, settings: Settings) -> None:
        self._db = db
        self._jobs = jobs
        self._settings = settings

    def create_run(
        self, principal: Principal, body: TuningRequest | Mapping[str, Any], *, request_id: str | None = None
    ) -> RunView:
        """Check a request and queue it.

        Raises:
            InvalidInput: `errors` names fields; `method_not_supported`, `invalid_recipe`, `too_few_rows`,
                `dataset_not_supervised`, `dataset_wrong_format`, `dataset_retired`, `reserved_family`,
                `adapter_kind_not_served`,
                `cannot_start_from`.
            NotFound: no such recipe, or no such dataset, reward model or teacher for this tenant.
        """
        principal.require(Scope.TUNE)
        requester = Requester(principal, principal.actor, principal.key_id, request_id=request_id)
        with self._db.write() as session:
            checked = self.check(session, principal, body)
            run = self.add(session, requester, checked)
        return self._show(run.id, principal.tenant_id)

    def check(
        self, session: WriteSession, reader: Principal, body: TuningRequest | Mapping[str, Any]
    ) -> CheckedRequest:
        """Everything that can be refused before compute, is refused here."""
        tenant_id = reader.tenant_id
        request = parse_request(body)
        if request.family in RESERVED_FAMILIES:
            raise InvalidInput(f"'{request.family}' is not a family's name", code="reserved_family")
        recipe, choice = self._recipe(request)
        stages = stages_of(recipe)
        for stage in stages:
            require_parts(session, self._settings, tenant_id, stage)
        require_served(session, self._settings, tenant_id, recipe)
        datasets = choose_sets(session, tenant_id, request.family, request.dataset_ids, formats_of(recipe))
        dataset_ids = [dataset.id for dataset in datasets]
        named = bool(request.dataset_ids)
        rows = self._enough_rows(session, reader, request.family, dataset_ids, named=named)
        parent = find_parent(session, tenant_id, request.family, request.start_from)
        if parent is not None:
            check_parent(session, parent, recipe, self._settings.adapters_dir)
        warnings = told_before(session, reader, datasets, recipe, rows)
        return CheckedRequest(request.family, recipe, dataset_ids, rows, warnings, parent, choice)

    def sets_of(self, session: Session, tenant_id: str, body: TuningRequest | Mapping[str, Any]) -> Sequence[str]:
        """Ids of the sets that a request would take; raises as `check` does for what it names."""
        request = parse_request(body)
        formats = formats_of(self._recipe(request)[0])
        return [one.id for one in choose_sets(session, tenant_id, request.family, request.dataset_ids, formats)]

    def add(self, session: WriteSession, requester: Requester, checked: CheckedRequest) -> TuningRun:
        """Run, job and audit row in the caller's transaction; the family too when it is new."""
        tenant_id = requester.reader.tenant_id
        lock_name(session, f"family:{tenant_id}:{checked.family}")  # it may not have a row yet
        family = family_named(session, tenant_id, checked.family)
        if family is None:
            family = AdapterFamily(id=new_id("fam"), tenant_id=tenant_id, name=checked.family)
            session.add(family)
            session.flush()
        run = TuningRun(
            id=new_id("run"),
            tenant_id=tenant_id,
            family_id=family.id,
            schedule_id=requester.schedule_id,
            method=checked.recipe.method,
            recipe=checked.recipe.model_dump(mode="json"),
            dataset_ids=list(checked.dataset_ids),
            parent_version_id=checked.parent.id if checked.parent is not None else None,
            progress=_told(checked),
            requested_by=requester.key_id,
            reader_groups=kept_groups(requester.reader),
        )
        session.add(run)
        job = self._jobs.create(session, tenant_id=run.tenant_id, kind=JobKind.TUNING, subject_id=run.id)
        run.job_id = job.id
        record(
            session,
            tenant_id=run.tenant_id,
            actor=requester.actor,
            action="tuning_run.create",
            object_id=run.id,
            detail={
                "family": checked.family,
                "recipe": checked.recipe.name,
                "rows": checked.row_count,
                "datasets": list(checked.dataset_ids),
                "starts_from": checked.parent.version if checked.parent is not None else BASE_START,
            },
            request_id=requester.request_id,
        )
        return run

    def again(
        self, session: WriteSession, requester: Requester, run: TuningRun, start_from: AdapterVersion | None
    ) -> TuningRun:
        """Queue a run with the recipe and the sets of an earlier one, as far as these are still in force.

        start_from: None is the base, as is a version whose weights do not fit or that saw what is gone.

        Raises:
            InvalidInput, NotFound: as `check`: too few rows are left, say.
        """
        recipe = parse_recipe(run.recipe)
        reader = requester.reader
        family = session.get_one(AdapterFamily, run.family_id)
        for stage in stages_of(recipe):
            require_parts(session, self._settings, run.tenant_id, stage)
        require_served(session, self._settings, run.tenant_id, recipe)  # the engine may be another one by now
        wanted = session.scalars(
            select(Dataset.id).where(
                Dataset.id.in_(run.dataset_ids), Dataset.deleted_at.is_(None), Dataset.retired_at.is_(None)
            )
        ).all()
        datasets = choose_sets(session, run.tenant_id, family.name, list(wanted), formats_of(recipe))
        rows = self._enough_rows(session, reader, family.name, [dataset.id for dataset in datasets], named=True)
        if start_from is not None:
            try:
                check_parent(session, start_from, recipe, self._settings.adapters_dir)
            except InvalidInput:
                start_from = None
        warnings = told_before(session, reader, datasets, recipe, rows)
        ids = [dataset.id for dataset in datasets]
        return self.add(session, requester, CheckedRequest(family.name, recipe, ids, rows, warnings, start_from))

    @staticmethod
    def _enough_rows(
        session: WriteSession, reader: Principal, family: str, dataset_ids: Sequence[str], *, named: bool
    ) -> int:
        rows = count_rows(session, reader, dataset_ids)
        if rows < MIN_ROWS:
            raise InvalidInput(
                f"{rows} different rows in {len(dataset_ids)} datasets"
                + ("" if named else f" of the family '{family}'")
                + f"; a run needs at least {MIN_ROWS}",
                code="too_few_rows",
                extra={"rows": rows, "needed": MIN_ROWS, "dataset_ids": list(dataset_ids)},
            )
        return rows

    def _recipe(self, request: TuningRequest) -> tuple[Recipe, RecipeChoice | None]:
        """The recipe that a request names, or the one of its method, or of the machine and why."""
        if request.method is not None and request.method not in set(Method):
            raise InvalidInput(
                f"method '{request.method}' is not supported; there are: {', '.join(Method)}",
                code="method_not_supported",
                errors=[FieldError("method", "not supported", "method_not_supported")],
            )
        name, choice = request.recipe, None
        if name is None:
            named = request.method not in {None, Method.SFT.value}
            choice = None if named else choose_recipe(self._settings)
            name = str(request.method) if choice is None else choice.name
        overrides = {**(request.overrides or {}), **({"export": True} if request.export else {})}
        recipe = load_recipe(name, overrides)
        if request.method is not None and recipe.method != request.method:
            raise InvalidInput(
                f"recipe '{name}' trains by '{recipe.method}', not by '{request.method}'",
                code="invalid_recipe",
                errors=[FieldError("method", f"the recipe says '{recipe.method}'", "other_method")],
            )
        return recipe, choice

    def list(
        self, principal: Principal, *, limit: int = 50, cursor: str | None = None, family: str | None = None
    ) -> Page[RunView]:
        """Newest first, of one family or of all."""
        principal.require(Scope.TUNE)
        query = select(TuningRun).where(TuningRun.tenant_id == principal.tenant_id)
        if family is not None:
            query = query.join(AdapterFamily, AdapterFamily.id == TuningRun.family_id).where(
                AdapterFamily.name == family
            )
        query = newest_page(query, TuningRun, cursor, limit)
        with self._db.read() as session:
            return cut_page([view_of(session, run) for run in session.scalars(query)], limit)

    def get(self, principal: Principal, run_id: str) -> RunView:
        """One run with its loss curve, gate report and job.

        Raises:
            NotFound: there is none in this tenant.
        """
        principal.require(Scope.TUNE)
        return self._show(run_id, principal.tenant_id)

    def cancel(self, principal: Principal, run_id: str, *, request_id: str | None = None) -> RunView:
        """Ask a run to stop; what it trained so far is kept as a checkpoint, and a retry of its job goes on from there.

        Raises:
            NotFound: there is none in this tenant.
            Conflict: it has ended.
        """
        principal.require(Scope.TUNE)
        view = self._show(run_id, principal.tenant_id)
        if view.job is not None:
            self._jobs.request_cancel(view.job.id, principal.tenant_id, actor=principal.actor, request_id=request_id)
        return self._show(run_id, principal.tenant_id)

    def _show(self, run_id: str, tenant_id: str) -> RunView:
        with self._db.read() as session:
            run = session.get(TuningRun, run_id)
            if run is None or run.tenant_id != tenant_id:
                raise NotFound(f"no tuning run '{run_id}'")
            return view_of(session, run)


def parse_request(body: TuningRequest | Mapping[str, Any]) -> TuningRequest:
    """Body to request.

    Raises:
        InvalidInput: `errors` names fields.
    """
    if isinstance(body, TuningRequest):
        return body
    try:
        return TuningRequest.model_validate(dict(body))
    except ValidationError as error:
        errors = [FieldError(".".join(map(str, e["loc"])), e["msg"], e["type"]) for e in error.errors()]
        raise InvalidInput("the tuning request cannot be used", errors=errors) from error


def family_named(session: Session, tenant_id: str, name: str) -> AdapterFamily | None:
    """A family of a tenant by name."""
    return session.scalar(select(AdapterFamily).where(AdapterFamily.tenant_id == tenant_id, AdapterFamily.name == name))


def _told(checked: CheckedRequest) -> dict[str, Any]:
    """What is known of a run before it starts."""
    told: dict[str, Any] = {"warnings": list(checked.warnings)} if checked.warnings else {}
    return told | ({"recipe_choice": checked.choice.to_json()} if checked.choice is not None else {})
