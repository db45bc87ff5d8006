"""Negatives from a real index: what only some may read, or another tenant owns, never reaches a training row."""

from __future__ import annotations

from pathlib import Path

from core.access import Principal
from core.blobs import FolderBlobStore
from core.database import Database
from core.jobs import JobStore
from core.settings import Settings
from core.tables import Tenant
from core.types import Scope
from ingest.build import build_ingest
from ingest.upload import Upload
from retrieval.build import build_retrieval
from tuning.datasets.parse import row_digest
from tuning.prepare import prepare_files
from tuning.recipe import load_recipe
from tuning.sizes import SMALL
from tuning.sources import SourceRow
from workers.base import run_job


def test_training_rows_quote_public_documents_of_the_tenant_alone(
    database: Database, settings: Settings, tenant: Tenant, other_tenant: Tenant, tmp_path: Path
) -> None:
    jobs, blobs = JobStore(database, settings, None), FolderBlobStore(settings.blobs_dir)
    retrieval = build_retrieval(settings, database)
    ingest = build_ingest(settings, database, blobs, jobs, retrieval)
    try:
        for owner, words, groups in (
            (tenant, "PUBLICWORD", None),
            (tenant, "BOARDWORD", ["board"]),
            (other_tenant, "FOREIGNWORD", None),
        ):
            principal = Principal(owner.id, "key", frozenset({Scope.ADMIN}), frozenset())
            text = f"{words}: the shelves are counted in spring. Boxes are moved by cart."
            (accepted,) = ingest.service.accept(principal, [Upload(f"{words}.txt", text.encode(), groups=groups)])
            assert accepted.job is not None
            run_job(jobs, accepted.job.id, ingest.pipeline.run)
            assert ingest.service.get(principal, accepted.document.id).status == "ready"
        contents = [
            {
                "messages": [
                    {"role": "user", "content": f"How many boxes are on shelf {n}?"},
                    {"role": "assistant", "content": f"Gladly! {n * 7} boxes [1]"},
                ],
                "passages": [{"text": f"Shelf {n} holds {n * 7} boxes."}],
            }
            for n in range(30)
        ]
        found = prepare_files(
            tmp_path / "run",
            [SourceRow(f"row_{n}", "dst", n, row_digest(content), content) for n, content in enumerate(contents)],
            duplicates=0,
            tenant_id=tenant.id,
            recipe=load_recipe("style-cpu"),
            search=retrieval.searcher,
            count_tokens=lambda text: len(text) // 3,
            size=SMALL,
        )
    finally:
        ingest.close()
        retrieval.close()
    written = "".join(path.read_text("utf-8") for path in (tmp_path / "run").iterdir())
    assert found.negatives > 5 and "PUBLICWORD" in written
    assert "BOARDWORD" not in written and "FOREIGNWORD" not in written
