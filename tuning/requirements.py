"""What a recipe needs beside rows, asked at the request: an engine that serves it, reward models, judges, a teacher."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from core.errors import InvalidInput, NotFound
from core.settings import Settings
from core.tables.tuning import TuningRun
from generation.adapters.forms import BOTTLENECK
from generation.adapters.manifest import CONFIG_FILE
from generation.engines.capability import refusal_of
from tuning.kinds import AdapterKind, Method
from tuning.launching import require_package
from tuning.merge_sources import find_sources
from tuning.recipe import DistillMethod, GrpoMethod, MergeMethod, Recipe, RlooMethod, stages_of
from tuning.reward_accuracy import why_unproven

_VIRTUAL_TYPES = {AdapterKind.PREFIX: "PREFIX_TUNING", AdapterKind.PROMPT: "PROMPT_TUNING"}


def require_served(session: Session, settings: Settings, tenant_id: str, recipe: Recipe) -> None:
    """Refuse what would be trained and could not answer anybody; a run for export may train it.

    Raises:
        InvalidInput: `adapter_kind_not_served`; `extra` has the adapter, the engine and the reason.
    """
    if recipe.export or recipe.method is Method.REWARD:
        return
    ranks = _ranks_of(session, settings, tenant_id, recipe)
    reason = refusal_of(settings, written_config(recipe, source_ranks=ranks))
    if reason is not None:
        engine = settings.generation.engine
        raise InvalidInput(
            f"adapter '{recipe.adapter}' cannot be served by the engine '{engine}': {reason}. "
            'Ask with "export": true to train it for download',
            code="adapter_kind_not_served",
            extra={"adapter": recipe.adapter.value, "engine": engine, "reason": reason},
        )


def written_config(recipe: Recipe, *, source_ranks: Sequence[int] = ()) -> dict[str, Any]:
    """What `adapter_config.json` will say of the adapter that a recipe makes, as far as engines ask for it.

    source_ranks: of the versions that are merged, as far as they are known.
    `export.write_adapter` writes it; a test holds the two together.
    """
    kind = recipe.adapter
    if isinstance(recipe, MergeMethod):
        ranks = sum(source_ranks) if recipe.merge.combination == "cat" else next(iter(source_ranks), None)
        return {"peft_type": "LORA", "r": recipe.merge.rank or ranks}
    if kind in _VIRTUAL_TYPES:
        return {"peft_type": _VIRTUAL_TYPES[kind]}
    if kind is AdapterKind.BOTTLENECK and recipe.bottleneck is not None:
        return {"peft_type": BOTTLENECK, "r": recipe.bottleneck.width}
    if kind is AdapterKind.FULL and recipe.full is not None:
        return {"peft_type": "LORA", "r": recipe.full.rank}
    lora = recipe.factors
    return {
        "peft_type": "LORA",
        "r": lora.rank * (2 if kind is AdapterKind.PISSA else 1),
        "use_dora": kind is AdapterKind.DORA,
        "target_parameters": ["experts"] if lora.experts else None,
        "bias": "none",
        "init_lora_weights": True,
    }


def require_parts(session: Session, settings: Settings, tenant_id: str, recipe: Recipe) -> None:
    """Everything that a stage refers to is there.

    Raises:
        NotFound: `reward_model_not_found` or `teacher_not_found`.
        InvalidInput: `no_judges`, a reward asks for judges and the settings name none; `reward_model_unproven`, see
            `reward_accuracy`; `cannot_merge`, see `find_sources`; `deepspeed_missing`.
    """
    require_package(recipe.devices.strategy)
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


def _ranks_of(session: Session, settings: Settings, tenant_id: str, recipe: Recipe) -> list[int]:
    """Ranks of the versions that a recipe merges, as far as their files are here; none for another recipe."""
    if not isinstance(recipe, MergeMethod):
        return []
    found = []
    for version in find_sources(session, tenant_id, recipe, settings.adapters_dir):
        path = settings.adapters_dir / version.digest / CONFIG_FILE
        rank = json.loads(path.read_text("utf-8")).get("r") if path.is_file() else None
        if isinstance(rank, int):
            found.append(rank)
    return found


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
