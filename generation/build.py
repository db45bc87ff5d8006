"""Composition of the generation side: which engine, which base, which registry. Called only by process roots."""

from __future__ import annotations

from pathlib import Path

from core.ports import Engine
from core.settings import Settings
from generation.models import BaseModelInfo, prepare_base


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
