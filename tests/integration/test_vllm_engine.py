"""The vLLM engine against three strict stand-ins, each with a real tiny model: swaps under load, replicas that lie."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import select

from core.access import Principal
from core.database import Database
from core.errors import AdapterRefused, InvalidInput, TsumugiError, Unavailable
from core.settings import GenerationSettings, GeneratorEndpointSettings, Settings
from core.tables import AdapterVersion, AliasEvent, Tenant
from core.types import AdapterRef, AdapterStatus, Scope
from generation.adapters.fingerprint import measure_adapter
from generation.adapters.registry import AdapterRegistry
from generation.adapters.routing import Router
from generation.engines.vllm_engine import VllmEngine
from generation.models import BaseModelInfo
from tests.tiny_adapters import ask, save_random_adapter
from tests.tiny_llama import build_tiny_llama
from tests.vllm_standin import PeftBackend, Replica, serve

VERSIONS = 5
SWAPS = 50


@dataclass
class Bench:
    """Three replicas, the engine over them, a registry with five versions of `house`."""

    replicas: list[Replica]
    engine: VllmEngine
    registry: AdapterRegistry
    router: Router
    db: Database
    principal: Principal
    versions: list[AdapterRef]

    def serving(self) -> str | None:
        found = self.router.resolve(self.principal.tenant_id, "house")
        return found.version if found else None

    def refusals(self) -> list[str]:
        with self.db.read() as session:
            query = select(AliasEvent.reason).where(AliasEvent.action == "refused").order_by(AliasEvent.created_at)
            return [str(reason) for reason in session.scalars(query)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> BaseModelInfo:
    return build_tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def backends(tiny: BaseModelInfo) -> list[PeftBackend]:
    return [PeftBackend(tiny.path) for _ in range(3)]


@pytest.fixture
def bench(
    tiny: BaseModelInfo,
    backends: list[PeftBackend],
    database: Database,
    settings: Settings,
    tenant: Tenant,
    tmp_path: Path,
) -> Iterator[Bench]:
    with ExitStack() as stack:
        replicas = [Replica(backend) for backend in backends]
        urls = tuple(stack.enter_context(serve(replica)) for replica in replicas)
        endpoint = GeneratorEndpointSettings(urls=urls, attempts=3, breaker_failures=3, breaker_s=0.2)
        generation = GenerationSettings(engine="vllm", max_adapters=3, max_queue=4)
        chosen = settings.model_copy(update={"endpoint": endpoint, "generation": generation})
        engine = VllmEngine(endpoint, generation, tiny, adapters_dir=chosen.adapters_dir)
        stack.callback(engine.close)
        registry = AdapterRegistry(database, chosen, engine, base=tiny)
        principal = Principal(tenant.id, "key_test", frozenset({Scope.ADMIN}), frozenset())
        made = Bench(replicas, engine, registry, Router(database, chosen), database, principal, [])
        for seed in range(VERSIONS):
            made.versions.append(register(made, tiny, tmp_path / f"a{seed}", seed, chosen.adapters_dir))
        yield made


def register(bench: Bench, tiny: BaseModelInfo, folder: Path, seed: int, adapters_dir: Path) -> AdapterRef:
    manifest = save_random_adapter(tiny, folder, seed=seed)
    if seed % 2:  # as a training worker registers it; the others are measured by a replica
        manifest = manifest.model_copy(update={"fingerprint": measure_adapter(tiny.path, folder)})
    version = bench.registry.register_version(
        bench.principal.tenant_id, "house", folder, status=AdapterStatus.CANDIDATE, manifest=manifest
    )
    return AdapterRef("house", version.version, version.digest, str(adapters_dir / version.digest))


def test_fifty_swaps_under_load(bench: Bench) -> None:
    """No request fails, and each answer is that of the version it is stamped with."""
    expected = {ref.version: bench.engine.submit(ask("hello", ref)).result().text for ref in bench.versions}
    assert len(set(expected.values())) == VERSIONS
    stopping = threading.Event()
    wrong: list[str] = []
    answers = 0

    def load() -> None:
        nonlocal answers
        while not stopping.is_set():
            ref = bench.router.resolve(bench.principal.tenant_id, "house")
            try:
                text = bench.engine.submit(ask("hello", ref)).result().text
            except TsumugiError as error:
                wrong.append(f"{ref}: {error.code} {error.detail}")
                continue
            answers += 1
            if ref is not None and text != expected[ref.version]:
                wrong.append(f"{ref.version} answered as another")

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(SWAPS):
        target = bench.versions[(number * 3) % VERSIONS]
        if number % 7 == 6:
            bench.registry.rollback(bench.principal, "house", to="base")
            assert bench.serving() is None
            continue
        bench.registry.promote(bench.principal, "house", target.version)
        assert bench.serving() == target.version
        assert all(target.serving_name in replica.loaded for replica in bench.replicas)
    stopping.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert answers > SWAPS
    for replica in bench.replicas:
        assert len(replica.loaded) <= 3 + 1, "adapters over `max_adapters` are unloaded"
        assert all(name.startswith(("house@v", "measured-")) for name in replica.ever)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"refuse_loads": True}, "adapter_refused_by_server"),
        ({"ignore_adapters": True}, "adapter_no_effect"),
        ({"pretend_loads": True}, "adapter_no_effect"),
    ],
)
def test_the_alias_stays_when_one_replica_does_not_serve(bench: Bench, fault: dict[str, bool], code: str) -> None:
    first, second = bench.versions[:2]
    bench.registry.promote(bench.principal, "house", first.version)
    for name, value in fault.items():
        setattr(bench.replicas[1].faults, name, value)
    with pytest.raises(AdapterRefused) as caught:
        bench.registry.promote(bench.principal, "house", second.version)
    assert caught.value.code == code
    assert caught.value.detail.startswith("2 of 3 replicas")
    assert bench.engine.replicas[1].url in caught.value.detail
    assert bench.serving() == first.version
    (reason,) = bench.refusals()
    assert code in reason and bench.engine.replicas[1].url in reason
    assert second.serving_name not in bench.engine.loaded_adapters()
    for name in fault:
        setattr(bench.replicas[1].faults, name, False)
    bench.registry.promote(bench.principal, "house", second.version)
    assert bench.serving() == second.version
    assert bench.registry.rollback(bench.principal, "house").to_version == first.version  # a refusal is no step back


def test_another_adapter_under_the_name_is_noticed(bench: Bench) -> None:
    first, second = bench.versions[:2]
    bench.engine.ensure_adapter(first)
    bench.replicas[2].faults.answer_with = first.serving_name
    with pytest.raises(AdapterRefused) as caught:
        bench.engine.ensure_adapter(second)
    assert caught.value.code == "adapter_fingerprint_mismatch"


def test_a_replica_that_is_away_keeps_the_alias_too(bench: Bench, tiny: BaseModelInfo, settings: Settings) -> None:
    endpoint = GeneratorEndpointSettings(
        urls=(bench.engine.replicas[0].url, "http://127.0.0.1:9/v1"), connect_timeout_s=1.0, breaker_failures=2
    )
    engine = VllmEngine(endpoint, GenerationSettings(), tiny, adapters_dir=settings.adapters_dir)
    registry = AdapterRegistry(bench.db, settings, engine, base=tiny)
    with pytest.raises(Unavailable) as caught:
        registry.promote(bench.principal, "house", bench.versions[0].version)
    assert caught.value.code == "generator_unreachable" and bench.serving() is None
    assert "1 of 2" in engine.ping()
    for _ in range(6):  # answered by the other one, and soon without asking the dead one first
        assert engine.submit(ask("hello")).result().text
    assert engine.replicas[1].open or engine.replicas[1].in_flight == 0
    engine.close()


def test_a_server_that_lost_its_adapters_gets_them_again(bench: Bench) -> None:
    version = bench.versions[0]
    bench.engine.ensure_adapter(version)
    text = bench.engine.submit(ask("hello", version)).result().text
    for replica in bench.replicas:  # restarted: the names are gone, nobody told us
        replica.loaded.clear()
    assert bench.engine.submit(ask("hello", version)).result().text == text


def test_a_request_is_sent_again_only_while_nothing_was_answered(bench: Bench) -> None:
    text = bench.engine.submit(ask("hello")).result().text
    for replica in bench.replicas:
        replica.faults.statuses = [503]
        replica.served.clear()
    with pytest.raises(Unavailable) as caught:
        bench.engine.submit(ask("hello")).result()  # each of three tries met a refusal
    assert caught.value.code == "generator_busy" and caught.value.retryable
    assert bench.engine.submit(ask("hello")).result().text == text
    for replica in bench.replicas:
        replica.faults.break_after = 1
        replica.served.clear()
    handle = bench.engine.submit(ask("hello"))
    with pytest.raises(Unavailable):
        handle.result()
    assert sum(len(replica.served) for replica in bench.replicas) == 1
    for replica in bench.replicas:
        replica.faults.break_after = None


def test_what_is_over_the_queue_is_refused_with_a_time(bench: Bench, tiny: BaseModelInfo, settings: Settings) -> None:
    endpoint = GeneratorEndpointSettings(urls=(bench.engine.replicas[0].url,), max_parallel=1)
    engine = VllmEngine(endpoint, GenerationSettings(max_queue=1), tiny, adapters_dir=settings.adapters_dir)
    bench.replicas[0].faults.slow_s = 0.05
    running = [engine.submit(ask("hello")) for _ in range(2)]
    with pytest.raises(Unavailable) as caught:
        engine.submit(ask("hello"))
    assert caught.value.code == "queue_full" and caught.value.extra["retry_after_s"] > 0
    for handle in running:
        handle.cancel()
        handle.result()
    bench.replicas[0].faults.slow_s = 0.0
    engine.close()
    with pytest.raises(Unavailable):
        engine.submit(ask("hello"))


def test_retired_versions_are_unloaded(bench: Bench) -> None:
    version = bench.versions[0]
    bench.engine.ensure_adapter(version)
    bench.engine.retire_adapter(version)
    assert all(version.serving_name not in replica.loaded for replica in bench.replicas)
    assert bench.engine.loaded_adapters() == []


@pytest.mark.parametrize(
    ("config", "word"),
    [({"r": 32}, "rank 32"), ({"use_dora": True}, "DoRA"), ({"init_lora_weights": "pissa"}, "pissa")],
)
def test_what_vllm_cannot_load_is_not_registered(
    bench: Bench, tiny: BaseModelInfo, tmp_path: Path, config: dict[str, object], word: str
) -> None:
    folder = tmp_path / "odd"
    manifest = save_random_adapter(tiny, folder, seed=9, **config)
    with pytest.raises((AdapterRefused, InvalidInput), match=word) as caught:
        bench.registry.register_version(
            bench.principal.tenant_id, "odd", folder, status=AdapterStatus.CANDIDATE, manifest=manifest
        )
    assert caught.value.code == "adapter_unsupported"
    with bench.db.read() as session:
        assert len(session.scalars(select(AdapterVersion)).all()) == VERSIONS
