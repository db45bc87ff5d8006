"""What a certificate says: what was erased, by digest; what became of the adapters; what could not be reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.database import Database
from core.settings import Settings
from core.tables import AdapterFamily, AdapterVersion, Erasure, TuningRun
from erasure.tally import digest_of

EVERYWHERE = {
    "backups": "copies taken before; a restore brings it back, so erase again after one, or take the backup anew",
    "clients": "answers, exports and copies that callers, browsers and connected programs hold",
    "logs": "what processes, proxies and collectors of logs have written",
    "memory": "of running processes: loaded adapters and caches, until these are evicted or the processes end",
    "medium": "blocks that the file system or the disk has freed and not yet overwritten; snapshots of either",
}
POSTGRES = {"database_log": "write-ahead log files not yet recycled, their archives, and replicas' copies of them"}
QDRANT = {"index_server": "segments of the Qdrant server until it writes them anew; they hold vectors and ids, no text"}
S3 = {"object_versions": "earlier versions and delete markers of a bucket with versioning, and its replicas"}
SERVER = {
    "other_machines": "work folders of training runs there: each worker removes its own within a minute of running"
}
VLLM = {"generator_cache": "prefix caches of the generator's servers, until they are evicted"}


def not_reached(settings: Settings, db: Database, names: Mapping[str, int]) -> list[dict[str, str]]:
    """[{what, why}]. names: places whose names hold the text and were left."""
    told = dict(EVERYWHERE)
    told |= {} if db.is_sqlite else POSTGRES
    told |= QDRANT if settings.retrieval.index == "qdrant" else {}
    told |= S3 if settings.blobs.store == "s3" else {}
    told |= SERVER if settings.topology == "server" else {}
    told |= VLLM if settings.generation.engine != "transformers" else {}
    for place, count in sorted(names.items()):
        told[place] = f"{count} name(s) that other rows and requests speak of; rename or delete them"
    return [{"what": what, "why": why} for what, why in told.items()]


def make_certificate(session: Session, erasure: Erasure, settings: Settings, db: Database) -> dict[str, Any]:
    """The certificate of an erasure that is whole; `sha256` is over all the rest, as JSON with sorted keys."""
    assert erasure.begun_at is not None and erasure.finished_at is not None
    selector = {name: value for name, value in erasure.selector.items() if name != "text"}
    told: dict[str, Any] = {
        "erasure_id": erasure.id,
        "kind": erasure.kind,
        "selector": selector,
        "tenant_id": erasure.subject_tenant_id,
        "asked_by": erasure.asked_by,
        "asked_at": erasure.created_at.isoformat(),
        "begun_at": erasure.begun_at.isoformat(),
        "finished_at": erasure.finished_at.isoformat(),
        "retire": erasure.retire,
        "erased": erasure.tally,
        "purged": erasure.found.get("purged", {}),
        "adapters": version_facts(session, erasure.found.get("versions", [])) or erasure.found.get("adapters", []),
        "retrained": erasure.retrains,
        "not_reached": not_reached(settings, db, erasure.found.get("names", {})),
    }
    return {**told, "sha256": digest_of(told)}


def version_facts(session: Session, version_ids: list[str]) -> list[dict[str, Any]]:
    """[{version, sha256, status, run_id, datasets}] of versions that saw what is to be forgotten, oldest first."""
    found = []
    query = select(AdapterVersion).where(AdapterVersion.id.in_(version_ids)).order_by(AdapterVersion.created_at)
    for version in session.scalars(query):
        family = session.get_one(AdapterFamily, version.family_id)
        run = session.get(TuningRun, version.run_id) if version.run_id else None
        found.append(
            {
                "version": f"{family.name}@{version.version}",
                "sha256": version.digest,
                "status": version.status,
                "run_id": version.run_id,
                "datasets": list(run.dataset_ids) if run is not None else [],
            }
        )
    return found
