"""Composition of the generation side: which engine, which base, which registry. Called only by process roots."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from core.database import Database
from core.ports import Engine
from core.settings import Settings
from generation.adapters.registry import AdapterRegistry
from generation.adapters.routing import Router
from generation.answer import AnswerService, Stamp
from generation.canary.monitor import CanaryMonitor
from generation.canary.shadow import ShadowRunner
from generation.models import BaseModelInfo, prepare_base
from retrieval.live import Retrieval


@dataclass(frozen=True, slots=True)
class Generation:
    """Everything that answers."""

    base: BaseModelInfo
    engine: Engine
    registry: AdapterRegistry
    router: Router
    answers: AnswerService
    canaries: CanaryMonitor
    shadows: ShadowRunner

    def close(self) -> None:
        """Stop the generator."""
        self.shadows.close()
        self.engine.close()


def starter_folder() -> Path:
    """The shipped starter adapter: data of the `starter` package, found without importing it."""
    return Path(__file__).resolve().parent.parent / "starter"


def build_base(settings: Settings) -> BaseModelInfo:
    """The embedded base: the prepared model with the starter merged in."""
    return prepare_base(settings.models_dir, starter_folder())


def build_engine(settings: Settings, base: BaseModelInfo) -> Engine:
    """The in-process generator over `base`."""
    from generation.engines.transformers_engine import TransformersEngine

    return TransformersEngine(base, settings.generation)


def build_generation(settings: Settings, db: Database, retrieval: Retrieval) -> Generation:
    """Base, engine, adapters and answers of a process that serves. Champions are loaded in the background."""
    base = build_base(settings)
    engine = build_engine(settings, base)
    registry = AdapterRegistry(db, settings, engine, base=base)
    router = Router(db, settings)
    stamp = Stamp(index_version=retrieval.index_version, embedder=retrieval.embedder.name)
    shadows = ShadowRunner(db, engine)
    answers = AnswerService(db, retrieval.searcher, engine, router, settings, stamp=stamp, beside=shadows)
    threading.Thread(target=registry.warm, name="warm-adapters", daemon=True).start()
    return Generation(
        base=base,
        engine=engine,
        registry=registry,
        router=router,
        answers=answers,
        canaries=CanaryMonitor(db, registry),
        shadows=shadows,
    )
