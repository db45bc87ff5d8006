"""Registry, routing and engine together: SQLite, real files, a tiny real model."""

from __future__ import annotations

import io
import shutil
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
import torch
from sqlalchemy import select

from core.access import Principal
from core.errors import AdapterRefused, Conflict, GateFailed, InvalidInput, NotFound, UnsupportedFormat
from core.settings import GenerationSettings, load_settings
from core.tables import AdapterAlias, AdapterVersion, AliasEvent, AuditEntry
from core.types import AdapterStatus, Scope
from generation.adapters.manifest import read_manifest
from generation.adapters.registry import AdapterRegistry
from generation.adapters.routing import Router
from generation.engines.transformers_engine import TransformersEngine
from tests.tiny_adapters import PROMPTS, ask, save_letter_adapter, save_random_adapter
from tests.tiny_llama import build_tiny_llama


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return build_tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def engine(base):
    engine = TransformersEngine(base, GenerationSettings(max_adapters=4), dtype=torch.float32)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    for letter in "ab":
        save_letter_adapter(base, root / letter, letter)
    for seed in (1, 2):
        save_random_adapter(base, root / f"noise{seed}", seed=seed)
    return root


@pytest.fixture
def registry(database, settings, engine, base):
    return AdapterRegistry(database, settings, engine, base=base)


@pytest.fixture
def router(database, settings):
    return Router(database, settings)


@pytest.fixture
def admin(tenant):
    return Principal(tenant.id, "key_admin", frozenset({Scope.ADMIN}), frozenset())


def register(registry, tenant_id, folder: Path, status=AdapterStatus.CANDIDATE, family="house"):
    return registry.register_version(
        tenant_id, family, folder, status=status, gate_report={"verdict": status}, manifest=read_manifest(folder)
    )


def test_the_same_content_is_the_same_version_and_the_folder_is_whole(registry, tenant, folders, settings, database):
    first = register(registry, tenant.id, folders / "noise1")
    again = register(registry, tenant.id, folders / "noise1")
    second = register(registry, tenant.id, folders / "noise2")
    elsewhere = register(registry, tenant.id, folders / "noise1", family="support")
    assert (first.version, again.version, second.version, elsewhere.version) == ("v1", "v1", "v2", "v1")
    assert first.id == again.id != elsewhere.id
    stored = sorted(path.name for path in settings.adapters_dir.iterdir())
    assert stored == sorted({first.digest, second.digest}), "one folder per content, nothing half-made"
    manifest = read_manifest(settings.adapters_dir / first.digest)
    assert manifest.fingerprint is not None
    assert str(settings.data_dir) not in (settings.adapters_dir / first.digest / "adapter_config.json").read_text()


def test_a_damaged_folder_is_replaced_when_the_content_comes_again(registry, tenant, folders, settings):
    version = register(registry, tenant.id, folders / "noise1")
    stored = settings.adapters_dir / version.digest
    (stored / "adapter_model.safetensors").write_bytes(b"cut off")
    assert register(registry, tenant.id, folders / "noise1").id == version.id
    assert (stored / "adapter_model.safetensors").stat().st_size > 100


def test_without_an_engine_the_fingerprint_is_made_by_a_child(database, settings, tenant, folders, base, engine):
    alone = AdapterRegistry(database, settings, None, base=base)
    version = register(alone, tenant.id, folders / "noise2")
    assert version.manifest["fingerprint"]["probes"]
    engine.ensure_adapter(Router(database, settings).resolve(tenant.id, f"house@{version.version}"))


def test_promote_rollback_and_what_they_leave_behind(registry, router, admin, tenant, folders, database):
    assert router.resolve(tenant.id, None) is None
    v1 = register(registry, tenant.id, folders / "noise1")
    v2 = register(registry, tenant.id, folders / "noise2")
    assert router.resolve(tenant.id, "tsumugi:house") is None, "a family without champion is answered by the base"
    assert registry.promote(admin, "house", "v1").from_version is None
    registry.promote(admin, "house", "v2", reason="nicer")
    for name in (None, "tsumugi", "tsumugi:house", "house", "house@v2", "tsumugi:house@v2"):
        assert router.resolve(tenant.id, name).version == "v2"
    assert router.resolve(tenant.id, "house@v1").digest == v1.digest
    back = registry.rollback(admin, "house", reason="too nice")
    assert (back.from_version, back.to_version) == ("v2", "v1") and back.effective_ms < 1000
    assert registry.rollback(admin, "house").to_version is None, "one step further is the base"
    assert router.resolve(tenant.id, None) is None
    with pytest.raises(Conflict) as nothing:
        registry.rollback(admin, "house")
    assert nothing.value.code == "nothing_to_roll_back"
    assert registry.rollback(admin, "house", "v2").to_version == "v2"
    assert registry.rollback(admin, "house", "base").to_version is None
    with database.read() as session:
        events = session.scalars(select(AliasEvent).order_by(AliasEvent.revision)).all()
        assert [(e.action, e.from_version, e.to_version, e.revision) for e in events] == [
            ("promote", None, "v1", 1), ("promote", "v1", "v2", 2), ("rollback", "v2", "v1", 3),
            ("rollback", "v1", None, 4), ("rollback", None, "v2", 5), ("rollback", "v2", None, 6),
        ]  # fmt: skip
        assert all(event.effective_ms is not None and event.actor == admin.actor for event in events)
        actions = session.scalars(select(AuditEntry.action)).all()
        assert sorted(actions) == ["adapter.promote"] * 2 + ["adapter.rollback"] * 4
    assert v2.id != v1.id


def test_the_gate_has_the_last_word_unless_somebody_signs_for_it(registry, router, admin, tenant, folders):
    register(registry, tenant.id, folders / "noise1", AdapterStatus.REJECTED)
    with pytest.raises(GateFailed):
        registry.promote(admin, "house", "v1")
    with pytest.raises(InvalidInput) as unsigned:
        registry.promote(admin, "house", "v1", force=True)
    assert unsigned.value.code == "reason_required"
    with pytest.raises(NotFound):
        router.resolve(tenant.id, "house@v1")
    registry.promote(admin, "house", "v1", force=True, reason="the customer wants it")
    assert router.resolve(tenant.id, "house@v1").version == "v1"


def test_another_tenant_finds_nothing(registry, router, admin, tenant, other_tenant, folders):
    register(registry, tenant.id, folders / "noise1")
    stranger = Principal(other_tenant.id, "key_other", frozenset({Scope.ADMIN}), frozenset())
    for call in (
        lambda: registry.promote(stranger, "house", "v1"),
        lambda: registry.rollback(stranger, "house"),
        lambda: router.resolve(other_tenant.id, "tsumugi:house"),
        lambda: router.resolve(other_tenant.id, "tsumugi:house@v1"),
    ):
        with pytest.raises(NotFound):
            call()
    assert router.model_names(stranger) == ["tsumugi", "tsumugi:base"]
    assert router.model_names(admin) == ["tsumugi", "tsumugi:base", "tsumugi:house", "tsumugi:house@v1"]
    for name in ("gpt-4", "tsumugi:nobody", "tsumugi:house@v9", "tsumugi:house@", "tsumugi:", ""):
        if name.strip(":") in {"", "tsumugi"}:
            continue
        with pytest.raises(NotFound):
            router.resolve(tenant.id, name)


def test_a_lost_race_for_the_alias_is_told(registry, admin, tenant, folders, engine, database, monkeypatch):
    register(registry, tenant.id, folders / "noise1")
    register(registry, tenant.id, folders / "noise2")
    registry.promote(admin, "house", "v1")
    ensure = engine.ensure_adapter

    def somebody_is_faster(adapter):
        monkeypatch.undo()
        ensure(adapter)
        registry.promote(admin, "house", "v1")

    monkeypatch.setattr(engine, "ensure_adapter", somebody_is_faster)
    with pytest.raises(Conflict) as lost:
        registry.promote(admin, "house", "v2")
    assert lost.value.code == "alias_moved"
    with database.read() as session:
        assert session.get_one(AdapterAlias, (session.scalars(select(AdapterVersion)).first().family_id, "champion"))


def test_a_canary_takes_its_share_and_sticks(registry, router, admin, tenant, folders):
    register(registry, tenant.id, folders / "noise1")
    register(registry, tenant.id, folders / "noise2")
    registry.promote(admin, "house", "v1")
    with pytest.raises(InvalidInput):
        registry.promote(admin, "house", "v2", canary_percent=100)
    registry.promote(admin, "house", "v2", canary_percent=25)
    served = {f"c{n}": router.resolve(tenant.id, None, f"c{n}").version for n in range(400)}
    assert 60 <= sum(version == "v2" for version in served.values()) <= 140
    assert all(router.resolve(tenant.id, None, name).version == served[name] for name in list(served)[:40])
    assert router.resolve(tenant.id, None, None).version == "v1"
    ended = registry.rollback(admin, "house")
    assert (ended.alias, ended.from_version, ended.to_version) == ("canary", "v2", "v1")
    assert {router.resolve(tenant.id, None, name).version for name in list(served)[:40]} == {"v1"}
    registry.promote(admin, "house", "v2", canary_percent=25)
    registry.promote(admin, "house", "v2")
    assert {router.resolve(tenant.id, None, name).version for name in list(served)[:40]} == {"v2"}


def test_twenty_swaps_under_four_askers(registry, router, admin, tenant, folders, engine):
    """No request fails, every text is of the version in its stamp, every rollback acts within a second."""
    letters = {register(registry, tenant.id, folders / letter).version: letter * 12 for letter in "ab"}
    plain = {prompt: engine.submit(ask(prompt)).result().text for prompt in PROMPTS}
    registry.promote(admin, "house", "v1")
    stop, answers, failures, answered = threading.Event(), [], [], threading.Condition()

    def asker(number):
        while not stop.is_set():
            prompt = PROMPTS[(number + len(answers)) % len(PROMPTS)]
            try:
                adapter = router.resolve(tenant.id, None)
                result = engine.submit(ask(prompt, adapter)).result()
                with answered:
                    answers.append((prompt, adapter.version if adapter else None, result))
                    answered.notify_all()
            except Exception as error:
                with answered:
                    failures.append(error)
                    answered.notify_all()
                raise

    def await_answer_of(version):
        """Swap again only when somebody was served by this version: swaps that nobody meets prove nothing."""
        seen = len(answers)
        with answered:
            answered.wait_for(lambda: failures or version in {stamp for _, stamp, _ in answers[seen:]}, timeout=60)

    threads = [threading.Thread(target=asker, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    effective = []
    try:
        for _ in range(10):
            promoted = registry.promote(admin, "house", "v2")
            assert router.resolve(tenant.id, None).version == promoted.to_version == "v2"
            await_answer_of("v2")
            back = registry.rollback(admin, "house")
            assert router.resolve(tenant.id, None).version == back.to_version == "v1"
            effective.append(back.effective_ms)
            await_answer_of("v1")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    for prompt, version, result in answers:
        expected = letters[version] if version else plain[prompt]
        assert result.text == expected, f"stamped {version}"
    assert {version for _, version, _ in answers} == {"v1", "v2"} and len(answers) >= 20
    assert max(effective) < 1000


def archive(folder: Path, *, names=("adapter_config.json", "adapter_model.safetensors"), prefix="adapter/") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in names:
            tar.add(folder / name, arcname=prefix + name)
    return buffer.getvalue()


def test_an_imported_adapter_serves_only_by_force(registry, router, admin, tenant, folders, settings):
    version = registry.import_archive(admin, "bought", archive(folders / "noise1"))
    assert (version.version, version.status, version.source) == ("v1", "candidate", "import")
    assert version.manifest["fingerprint"]["probes"] and version.reasons
    with pytest.raises(GateFailed):
        registry.promote(admin, "bought", "v1")
    registry.promote(admin, "bought", "v1", force=True, reason="measured elsewhere")
    assert router.resolve(tenant.id, "bought").version == "v1"
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        for name in ("adapter_config.json", "adapter_model.safetensors", "manifest.json"):
            file.write(folders / "noise2" / name, name)
    proven = registry.import_archive(admin, "bought", zipped.getvalue())
    assert proven.version == "v2"
    assert version.manifest["notes"]["unproven"] == ["base weights", "tokenizer", "chat template", "prompt version"]
    assert any("without a manifest" in reason for reason in version.reasons)
    assert "unproven" not in proven.manifest["notes"] and len(proven.reasons) == 1
    assert not list(settings.adapters_dir.glob(".*")), "no work folder is left"


def test_what_must_not_be_imported(registry, admin, folders, tmp_path, base):
    def refused(data, code):
        with pytest.raises((AdapterRefused, UnsupportedFormat)) as error:
            registry.import_archive(admin, "bought", data)
        assert error.value.code == code

    refused(b"not an archive", "unsupported_archive")
    refused(b"", "unsupported_archive")
    refused(archive(folders / "noise1", names=["adapter_config.json"]), "adapter_bad_config")
    pickled = tmp_path / "pickled"
    shutil.copytree(folders / "noise1", pickled)
    (pickled / "adapter_model.bin").write_bytes(b"\x80\x04.")
    refused(archive(pickled, names=["adapter_config.json", "adapter_model.bin"]), "adapter_unsafe_file")
    other = build_tiny_llama(tmp_path / "other")
    narrow = shutil.copytree(folders / "noise1", tmp_path / "narrow")
    from safetensors.torch import load_file, save_file

    weights = load_file(narrow / "adapter_model.safetensors")
    save_file({k: t[:, :8].contiguous() for k, t in weights.items()}, narrow / "adapter_model.safetensors")
    refused(archive(narrow), "adapter_wrong_base")
    assert other.digest == base.digest
    moved = shutil.copytree(folders / "noise1", tmp_path / "moved")
    manifest = (moved / "manifest.json").read_text().replace(base.digest, "f" * 64)
    (moved / "manifest.json").write_text(manifest)
    names = ("adapter_config.json", "adapter_model.safetensors", "manifest.json")
    refused(archive(moved, names=names), "adapter_wrong_base")


def test_warm_start_loads_what_a_rollback_would_need(registry, admin, tenant, folders, database, base, tmp_path):
    register(registry, tenant.id, folders / "noise1")
    register(registry, tenant.id, folders / "noise2")
    registry.promote(admin, "house", "v1")
    registry.promote(admin, "house", "v2")
    fresh = TransformersEngine(base, GenerationSettings(max_adapters=2), dtype=torch.float32)
    try:
        settings = load_settings(data_dir=registry._dir.parent)
        AdapterRegistry(database, settings, fresh, base=base).warm()
        assert [name.split("-")[0] for name in fresh.loaded_adapters()] == ["house@v1", "house@v2"]
    finally:
        fresh.close()
