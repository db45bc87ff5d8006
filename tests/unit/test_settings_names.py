"""Settings that do not exist: one line that names the nearest one, and exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import InvalidInput
from core.settings import load_settings


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("TSUMUGI_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("toml", "variables", "named", "near"),
    [
        ("[htpp]\nport = 1\n", {}, "[htpp]", "http"),
        ("log_levle = 'INFO'\n", {}, "log_levle", "log_level"),
        ("[http]\nprot = 1\n", {}, "http.prot", "http.port"),
        ("[http.oidc]\nissuerr = 'https://a'\n", {}, "http.oidc.issuerr", "http.oidc.issuer"),
        ("", {"TSUMUGI_HTTTP__PORT": "1"}, "TSUMUGI_HTTTP__PORT", "TSUMUGI_HTTP"),
        ("", {"TSUMUGI_HTTP_PORT": "8080"}, "TSUMUGI_HTTP_PORT", "TSUMUGI_HTTP"),
        ("", {"TSUMUGI_HTTP__PROT": "1"}, "http.prot", "http.port"),
        ("", {"TSUMUGI_LOGLEVEL": "INFO"}, "TSUMUGI_LOGLEVEL", "TSUMUGI_LOG_LEVEL"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(
    toml: str, variables: dict[str, str], named: str, near: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("tsumugi.toml").write_text(toml)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput) as refused:
        load_settings()
    assert refused.value.code == "invalid_settings"
    assert named in refused.value.detail and f"did you mean {near}?" in refused.value.detail
    assert "\n" not in refused.value.detail


@pytest.mark.parametrize("toml", ["[http]\nport = 70000\n", "[http]\nport = 'a'\n", "http = 5\n", "[http\n"])
def test_a_value_that_is_not_taken_is_told_in_one_line(toml: str) -> None:
    Path("tsumugi.toml").write_text(toml)
    with pytest.raises(InvalidInput) as refused:
        load_settings()
    assert refused.value.code == "invalid_settings" and "\n" not in refused.value.detail


def test_names_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "TSUMUGI_URL", "TSUMUGI_API_KEY", "TSUMUGI_SERVICE_HOST",
        "TSUMUGI_API_PORT_8080_TCP_PROTO", "TSUMUGI_PORT", "TSUMUGI_PORT_8080_TCP_ADDR",
        "TSUMUGI_API_SERVICE_PORT_HTTP", "OTHER_SETTING",
    ):  # fmt: skip
        monkeypatch.setenv(name, "tcp://10.0.0.1:80")
    monkeypatch.setenv("TSUMUGI_HTTP__PORT", "9000")
    assert load_settings().http.port == 9000


def test_a_command_ends_with_one_line_and_2(tmp_path: Path) -> None:
    Path("tsumugi.toml").write_text("[retreival]\nlimit = 5\n")
    command = [sys.executable, "-m", "cli.main", "up", "--data-dir", str(tmp_path / "data")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert len(ended.stderr.strip().splitlines()) == 1 and "did you mean retrieval?" in ended.stderr
