"""Composition of the generation side: which engine, which base, which registry. Called only by process roots."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from core.blobs import open_blobs
from core.database import Database
from core.errors import Unavailable
from core.ports import Engine
from core.settings import Settings
from generation.adapters.registry import AdapterRegistry
from generation.adapters.routing import Router
from generation.answer import AnswerService, Stamp
from generation.canary.monitor import CanaryMonitor
from generation.canary.shadow import ShadowRunner
from generation.models import CARD_FILE, BaseModelInfo, describe_base, prepare_apart, read_card
from generation.template import require_template
from retrieval.document_text import DocumentTexts
from retrieval.live import Retrieval


@dataclass(frozen=True, slots=True)
class Generation:
    """Everything that answers."""

    base: BaseModelInfo | None
    """None where a server that takes no adapters generates: nothing here knows its weights."""
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
    """The base in process: the folder that the settings name, or the prepared model with the starter merged in.

    A folder without a card is read whole for its digest, which takes seconds per gigabyte at each start.

    Raises:
        Unavailable: `generator_misconfigured`: the folder holds no model, or one without a chat template; see also
            `models.read_card`.
    """
    folder = settings.generation.base_folder
    if folder is not None:
        if not any(folder.glob("*.safetensors")):
            raise Unavailable(f"no safetensors in {folder}", code="generator_misconfigured", retryable=False)
        described = (folder / CARD_FILE).is_file()
        return require_template(read_card(folder) if described else describe_base(folder, folder.resolve().name))
    return prepare_apart(settings.models_dir, starter_folder())


@dataclass(frozen=True, slots=True)
class Remote:
    """A generator over HTTP, with what adapters are checked against where it takes any."""

    engine: Engine
    base: BaseModelInfo | None


def build_remote(settings: Settings, db: Database) -> Remote | None:
    """The generator over HTTP that the settings name; None where answers are made in process. Never imports torch.

    Raises:
        Unavailable: `generator_misconfigured`: no URL, or more than one where only one is used.
    """
    chosen = settings.endpoint
    if settings.generation.engine == "transformers":
        return None
    if not chosen.urls:
        raise Unavailable("endpoint.urls is empty", code="generator_misconfigured", retryable=False)
    if settings.generation.engine == "vllm":
        from generation.engines.vllm_engine import VllmEngine

        base = remote_base(settings)
        return Remote(VllmEngine(chosen, settings.generation, base, adapters_dir=settings.adapters_dir), base)
    key = chosen.api_key.get_secret_value() if chosen.api_key else None
    from generation.engines.openai_engine import OpenAIEngine

    if len(chosen.urls) > 1:
        raise Unavailable(
            "engine 'openai' takes one URL; put a load balancer before several servers",
            code="generator_misconfigured",
            retryable=False,
        )
    engine = OpenAIEngine(
        chosen.urls[0],
        chosen.model,
        api_key=key,
        max_parallel=chosen.max_parallel,
        max_queue=settings.generation.max_queue,
        connect_timeout_s=chosen.connect_timeout_s,
        read_timeout_s=chosen.read_timeout_s,
        attempts=chosen.attempts,
    )
    return Remote(engine, None)


def remote_base(settings: Settings) -> BaseModelInfo:
    """The base that the servers hold: a folder with a card, which is read without its weights.

    Raises:
        Unavailable: there is no such folder; `tsumugi models card` writes the card of any model.
    """
    folder = settings.generation.base_folder
    return require_template(read_card(folder)) if folder is not None else build_base(settings)


def build_engine(settings: Settings, base: BaseModelInfo) -> Engine:
    """The in-process generator over `base`."""
    from generation.engines.transformers_engine import TransformersEngine

    return TransformersEngine(base, settings.generation)


def build_generation(settings: Settings, db: Database, retrieval: Retrieval) -> Generation:
    """Base, engine, adapters and answers of a process that serves. Champions are loaded in the background."""
    remote = build_remote(settings, db)
    if remote is None:
        base = build_base(settings)
        remote = Remote(build_engine(settings, base), base)
    registry = AdapterRegistry(db, settings, remote.engine, base=remote.base)
    router = Router(db, settings)
    stamp = Stamp(index_version=retrieval.index_version, embedder=retrieval.embedder.name)
    shadows = ShadowRunner(db, remote.engine)
    texts = DocumentTexts(db, open_blobs(settings))
    answers = AnswerService(
        db, retrieval.searcher, remote.engine, router, settings, stamp=stamp, beside=shadows, texts=texts
    )
    threading.Thread(target=registry.warm, name="warm-adapters", daemon=True).start()
    return Generation(
        base=remote.base,
        engine=remote.engine,
        registry=registry,
        router=router,
        answers=answers,
        canaries=CanaryMonitor(db, registry),
        shadows=shadows,
    )
