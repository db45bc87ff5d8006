"""Fixtures of the contract tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from core.database import Database
from core.settings import Settings
from tests.api_app import Api, build_api, serve
from tests.integration.conftest import s3_server, s3_settings  # noqa: F401 - fixtures


@pytest.fixture
def api(settings: Settings, database: Database) -> Api:
    """The HTTP application over real services; search and generator are fakes."""
    return build_api(settings, database)


@pytest.fixture
def admin(api: Api) -> Iterator[TestClient]:
    """A client with the admin key of the default tenant."""
    with api.client() as client:
        yield client


@pytest.fixture
def api_url(api: Api) -> Iterator[str]:
    """The application behind a real server."""
    with serve(api.app) as url:
        yield url
