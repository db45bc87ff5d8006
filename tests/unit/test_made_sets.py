"""Sets that the service makes itself, from feedback and curated answers: every blob that a row names is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from core.access import Principal
from core.blobs import FolderBlobStore
from core.database import Database
from core.migrate import upgrade
from core.repositories.blobs import named_blobs
from core.settings import Settings
from core.tables import Answer, Feedback, Tenant
from core.tables.base import utc_now
from core.tables.lineage import CuratedAnswer
from core.types import Scope
from tuning.datasets.feedback import FeedbackHarvester
from tuning.datasets.service import DatasetService


def test_every_blob_that_a_set_names_is_stored(database: Database, settings: Settings, tenant: Tenant) -> None:
    blobs = FolderBlobStore(settings.blobs_dir)
    datasets = DatasetService(database, blobs)
    principal = Principal(tenant.id, "key_test", frozenset({Scope.TUNE}), frozenset())
    uploaded = datasets.upload(
        principal, '{"instruction": "何日?", "output": "25日です。"}'.encode(), "a.jsonl"
    ).dataset
    with database.write() as session:
        session.add(Answer(id="ans_1", tenant_id=tenant.id, question="営業は何時から?", answer="9時からです。"))
        session.add(
            CuratedAnswer(
                tenant_id=tenant.id,
                created_by="key_test",
                created_at=utc_now(),
                question="休みは?",
                answer="日曜です。",
                question_key="q",
                passages=[],
            )
        )
        session.flush()
        session.add(Feedback(answer_id="ans_1", tenant_id=tenant.id, rating="up", consent=True))
    made = FeedbackHarvester(database, datasets).harvest(principal).datasets
    assert {one.dataset.format for one in made} == {"messages", "unpaired"}
    assert [one.dataset.source_sha256 for one in made] == [None, None]
    with database.read() as session:
        named = dict(named_blobs(session))
    assert named == {uploaded.source_sha256: f"the source of {uploaded.id}"}
    assert all(blobs.exists(digest) for digest in named)


@pytest.mark.parametrize(("source", "kept"), [("same", None), ("file", "f" * 64)])
def test_sets_made_before_are_mended_by_the_migration(tmp_path: Path, source: str, kept: str | None) -> None:
    db = Database(f"sqlite:///{tmp_path / 'old.sqlite3'}")
    upgrade(db, "0009")
    content = "c" * 64
    with db.engine.begin() as connection:
        connection.execute(text("INSERT INTO tenants (id, name, created_at) VALUES ('ten_1', 't', '2026-01-01')"))
        connection.execute(
            text(
                "INSERT INTO datasets (id, tenant_id, name, format, content_sha256, source_sha256, row_count,"
                " invalid_count, report, created_at)"
                " VALUES ('dst_1', 'ten_1', 'n', 'messages', :content, :source, 1, 0, '{}', '2026-01-01')"
            ),
            {"content": content, "source": content if source == "same" else "f" * 64},
        )
        connection.execute(
            text(
                "INSERT INTO dataset_rows (id, dataset_id, tenant_id, ordinal, line, content, content_sha256, lineage,"
                " created_at) VALUES ('row_1', 'dst_1', 'ten_1', 0, 1, '{}', :content, '{}', '2026-01-01')"
            ),
            {"content": content},
        )
    upgrade(db)
    with db.engine.connect() as connection:
        assert connection.execute(text("SELECT source_sha256 FROM datasets")).scalar_one() == kept
        assert connection.execute(text("SELECT count(*) FROM dataset_rows")).scalar_one() == 1, "rows outlive a rebuild"
    db.close()
