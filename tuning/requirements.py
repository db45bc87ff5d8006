"""What a recipe needs beside rows, asked at the request: an engine that serves it, reward models, judges, a teacher."""

from __future__ import annotations

import json
from pathlib import Path

from sqlalchemy.orm import Session

from core.errors import InvalidInput, NotFound
from core.settings import Settings
from core.tables.tuning import TuningRun
from tuning.kinds import Method, Serving, why_not_served
from tuning.merge_sources import find_sources
from tuning.recipe import DistillMethod, GrpoMethod, MergeMethod, Recipe, RlooMethod, stages_of
from tuning.reward_accuracy import why_unproven


def serving_of(settings: Settings) -> Serving:
    """Which generator answers in this installation."""
    return Serving.IN_PROCESS if settings.generation.engine == "transformers" else Serving.REMOTE


def require_served(recipe: Recipe, serving: Serving) -> None:
    """Refuse what would be trained and could not answer anybody; a run for export may train it.

    Raises:
        InvalidInput: `adapter_kind_not_served`; `extra` has the adapter, the engine and the reason.
    """
    if recipe.export or recipe.method is Method.REWARD:
        return
    reason = why_not_served(recipe.adapter, serving)
    if reason is None and recipe.lora is not None and recipe.lora.experts:
        reason = "factors on the weights of experts are mixed by no engine here"
    if reason is not None:
        raise InvalidInput(
            f"adapter '{recipe.adapter}' cannot be served by the {serving} engine: {reason}. "
            'Ask with "export": true to train it for download',
            code="adapter_kind_not_served",
            extra={"adapter": recipe.adapter.value, "engine": serving.value, "reason": reason},
        )


def require_parts(session: Session, settings: Settings, tenant_id: str, recipe: Recipe) -> None:
    """Everything that a stage refers to is there.

    Raises:
        NotFound: `reward_model_not_found` or `teacher_not_found`.
        InvalidInput: `no_judges`, a reward asks for judges and the settings name none; `reward_model_unproven`, see
            `reward_accuracy`; `cannot_merge`, see `find_sources`.
    """
    if isinstance(recipe, DistillMethod):
        teacher_folder(settings, recipe)
    if isinstance(recipe, MergeMethod):
        find_sources(session, tenant_id, recipe, settings.adapters_dir)
    if not isinstance(recipe, GrpoMethod | RlooMethod):
        return
    for reward in recipe.online.rewards:
        if reward.kind == "judge" and not settings.tuning.judges:
            raise InvalidInput("a reward asks for judges; tuning.judges names none", code="no_judges")
        if reward.run is not None:
            run = session.get(TuningRun, reward.run)
            if run is None or run.tenant_id != tenant_id or run.method != Method.REWARD.value:
                raise NotFound(f"no reward model of a run '{reward.run}'", code="reward_model_not_found")
            if "artefact" not in run.progress:
                raise NotFound(f"run '{reward.run}' has made no reward model yet", code="reward_model_not_found")
            reason = why_unproven(run.progress["artefact"])
            if reason is not None:
                raise InvalidInput(
                    f"the reward model of run '{reward.run}' cannot steer a training: {reason}",
                    code="reward_model_unproven",
                )


def teacher_folder(settings: Settings, recipe: DistillMethod) -> Path:
    """Folder of the larger model.

    Raises:
        NotFound: `teacher_not_found`.
    """
    name = recipe.distill.teacher
    root = settings.models_dir / "teachers"
    if Path(name).name != name or not (root / name / "config.json").is_file():
        raise NotFound(f"no teacher '{name}' below {root}", code="teacher_not_found")
    return root / name


def judges_for(recipe: Recipe, settings: Settings) -> dict[str, str]:
    """Environment that tells a training process the judges, where its rewards ask for them.

    By environment and not in a file of the run: the settings hold keys.
    """
    stages = [stage for stage in stages_of(recipe) if isinstance(stage, GrpoMethod | RlooMethod)]
    if not any(reward.kind == "judge" for stage in stages for reward in stage.online.rewards):
        return {}
    judges = []
    for judge in settings.tuning.judges:
        key = judge.api_key.get_secret_value() if judge.api_key is not None else None
        judges.append({**judge.model_dump(mode="json"), "api_key": key})
    return {
        "TSUMUGI_TUNING__JUDGES": json.dumps(judges),
        "TSUMUGI_TUNING__TUNED_MODEL_FAMILY": settings.tuning.tuned_model_family,
    }
