"""Real servers of the integration tests: PostgreSQL where it is installed, an S3 server in this process."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.database import Database
from core.migrate import upgrade
from core.settings import BlobSettings
from generation.models import BaseModelInfo
from tests.backed_up import make_settings, qdrant_url, sources  # noqa: F401
from tests.server_processes import Postgres, postgres_binaries
from tests.tiny_llama import build_tiny_llama


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModelInfo:
    """The tiny Llama, for the tests of a file; files with another base define their own."""
    return build_tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of the session."""
    if postgres_binaries() is None:
        pytest.skip("NOT TESTED: PostgreSQL, as it is not installed (apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="tsu-pg-", dir="/tmp"))
    folder.chmod(0o755)
    server = Postgres(folder)
    server.start()
    yield server
    server.daemon.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_database(postgres: Postgres) -> Iterator[Database]:
    """A migrated, empty PostgreSQL database."""
    database = Database(postgres.create(f"t{uuid.uuid4().hex[:12]}"))
    upgrade(database)
    yield database
    database.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_settings(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> BlobSettings:
    """Settings of an empty bucket."""
    import boto3

    settings = BlobSettings(
        store="s3", bucket=f"b-{uuid.uuid4().hex}", prefix="tsumugi/", endpoint_url=s3_server, attempts=1,
        access_key_id="test", secret_access_key="test",
    )  # fmt: skip
    client = boto3.client(
        "s3", endpoint_url=s3_server, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    client.create_bucket(Bucket=settings.bucket)
    client.close()
    return settings
