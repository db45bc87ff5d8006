"""docker-compose.yml and what ships with it, where no Docker engine runs: read, and held against the settings.

The commands of our services are run as plain processes by `tests/e2e/test_server_cases.py`, taken from the same file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.metrics import HttpMetrics
from cli.server.parts import server_settings
from core.measures import observe_answer
from core.settings import Settings, load_settings
from tests.server_processes import compose_command

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name for name, service in SERVICES.items() if service["image"].startswith("tsumugi")}
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)(?::-(.*?))?\}(?!\})")


def filled(value: str) -> str:
    """As compose fills it in without a .env: the defaults."""
    return VARIABLE.sub(lambda found: found[2] or "", value)


def test_services_and_profiles() -> None:
    by_profile: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        for profile in service.get("profiles", ["default"]):
            by_profile.setdefault(profile, set()).add(name)
    assert by_profile["default"] == {"api", "worker-ingest", "beat", "postgres", "redis", "qdrant", "blobs", "embedder"}
    assert by_profile["gpu"] == {"vllm", "worker-tuning"}
    assert by_profile["observe"] == {"prometheus", "grafana"}
    assert {"api", "worker-ingest", "beat", "worker-tuning"} == OURS


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_locked_down(name: str) -> None:
    service = SERVICES[name]
    image, _, tag = service["image"].partition(":")
    assert image and re.search(r"\d+\.\d+", tag), "pinned to a version"
    assert service["user"].partition(":")[0] not in {"", "0", "root"}
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])
    assert ("ports" in service) == (name == "api"), "nothing is published but the API"
    for mount in service.get("volumes", ()):
        source = mount.partition(":")[0]
        assert source in COMPOSE["volumes"] or (ROOT / source).is_dir()
    for secret in service.get("secrets", ()):
        assert COMPOSE["secrets"][secret]["file"].startswith("./secrets/")
    assert "PASSWORD" not in " ".join(key for key in service.get("environment", {}) if not key.endswith("FILE"))


@pytest.mark.parametrize("name", sorted(OURS))
def test_settings_of_our_services_are_settings(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each variable and secret is a setting that exists, and the server topology starts with them."""
    service = SERVICES[name]
    secrets = {
        "TSUMUGI_DATABASE__URL": "postgresql://tsumugi:p@postgres/tsumugi",
        "TSUMUGI_BROKER__URL": "redis://:p@redis:6379/0",
    }
    for secret in service["secrets"]:
        (tmp_path / secret).write_text(secrets.get(secret, "a secret"), "utf-8")
    for key, value in service["environment"].items():
        monkeypatch.setenv(key, filled(value))
        if key != "TSUMUGI_SECRETS_DIR":
            assert_is_setting(key)
    for secret in service["secrets"]:
        assert_is_setting(secret)
    monkeypatch.setenv("TSUMUGI_SECRETS_DIR", str(tmp_path))
    settings = server_settings()
    assert settings.database_url == secrets["TSUMUGI_DATABASE__URL"]
    assert settings.generation.engine == "vllm" and settings.endpoint.urls == ("http://vllm:8000/v1",)
    assert settings.qdrant.api_key is not None and settings.qdrant.api_key.get_secret_value() == "a secret"
    assert settings.blobs.store == "s3" and settings.blobs.access_key_id is not None
    assert settings.worker.port == 9100 and settings.http.drain_notice_s == 5


def assert_is_setting(name: str) -> None:
    model: Any = Settings
    for part in name.removeprefix("TSUMUGI_").lower().split("__"):
        assert part in model.model_fields, f"{name} is no setting"
        model = model.model_fields[part].annotation


def test_a_folder_of_secrets_that_is_not_there_is_no_silence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TSUMUGI_SECRETS_DIR", str(tmp_path / "missing"))
    with pytest.raises(Exception, match="missing"):
        load_settings()


def test_env_example_is_complete() -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    used = {found[1]: found[2] for found in VARIABLE.finditer(text)}
    lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert given == used


def test_commands_of_our_services_are_commands() -> None:
    assert {name: compose_command(name)[0] for name in OURS} == {
        "api": "api", "worker-ingest": "worker", "worker-tuning": "worker", "beat": "beat",
    }  # fmt: skip


def test_alerts_and_dashboard_use_figures_that_exist() -> None:
    metrics = HttpMetrics()
    metrics.add_job_gauge(lambda: {("ingest", "queued"): 1})
    metrics.observe("GET", "/v1/ask", 200, 0.1)
    metrics.answers.labels("answered").inc()
    observe_answer("house@v3", {"retrieve": 10.0, "first_token": 20.0, "generate": 30.0, "total": 40.0}, 7)
    told = set(re.findall(r"^([a-z_]+)", metrics.render().decode(), re.MULTILINE))
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    panels = json.loads((ROOT / "deploy/grafana/dashboards/tsumugi.json").read_text("utf-8"))["panels"]
    asked = [rule["expr"] for rule in rules] + [target["expr"] for panel in panels for target in panel["targets"]]
    used = set(re.findall(r"\btsumugi_[a-z_]+", " ".join(asked)))
    assert used and used <= told
    headings = (ROOT / "docs/runbook.md").read_text("utf-8")
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", line[3:].lower()).replace(" ", "-") for line in re.findall(r"^## .*", headings, re.M)
    }
    for rule in rules:
        file, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (ROOT / file).is_file() and anchor in anchors, anchor


def test_the_image_copies_every_package() -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8")
    copied = set(re.findall(r"^COPY ([a-z]+) \1$", text, re.MULTILINE))
    kept = set(re.findall(r"^!([a-z]+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE))
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert copied == packages == kept
    assert re.findall(r"^FROM .* AS (\w+)$", text, re.MULTILINE) == ["base", "slim", "gpu"]
    assert text.count("\nUSER 10001:10001") == 2


def test_the_image_of_the_ingest_worker_reads_all_that_the_embedded_service_reads() -> None:
    image = SERVICES["worker-ingest"].get("build", COMPOSE["x-tsumugi"]["build"])["target"]
    stage = (ROOT / "Dockerfile").read_text("utf-8").partition(f" AS {image}\n")[2].partition("\nFROM ")[0]
    (extras,) = re.findall(r"'\.\[([a-z0-9,]+)\]'", stage)
    assert {"ingest", "ocr"} <= set(extras.split(","))
