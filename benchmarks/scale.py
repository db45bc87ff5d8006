"""The embedded index when it is full: search times, restart, memory; and many small files, with a kill in the middle.

    python -m benchmarks.scale [--chunks 200000] [--data FOLDER] [--keep FOLDER] [--json FILE]
    python -m benchmarks.scale --files 1000 [--kill] [--json FILE]

The first form fills a data dir without embedding anything: vectors are seeded random ones around a thousand centres,
three for the sentences of each chunk, because embedding 200,000 chunks takes two cores more than an hour. Words are
real where `--data` holds SQuAD-shaped files (sentences of all paragraphs, thrown together anew for each chunk), else
made with Zipf's frequencies. Rows, points and bookkeeping are those of the service, which is then started on them:
ready means /readyz, so the check of index against database is in it. Searches go through the service's own searcher;
`search` is what they take beyond the query's embedding.

The second form uploads small files to a running service; with `--kill` it is killed (SIGKILL) when half are ready and
started again. It ends with 1 when one is lost, doubled or not found by its own words.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psutil
from sqlalchemy import insert, select

from benchmarks.squad import load_paragraphs
from cli.client import Client
from cli.service_process import ServiceProcess
from core.access import PUBLIC_GROUP, Principal, access_filter
from core.database import Database
from core.keys import ensure_bootstrap
from core.log import configure
from core.migrate import upgrade
from core.repositories.documents import insert_chunks, point_id
from core.repositories.index_versions import note_content
from core.settings import Settings, load_settings
from core.tables import Collection, Document, DocumentGeneration, DocumentGroup
from core.types import Chunk, DocumentStatus, IndexPoint, Scope
from ingest.sentences import split_sentences
from retrieval.build import build_retrieval
from retrieval.index.edge import EdgeIndex
from retrieval.live import OpenVersion

_SEED = 17
_DOCUMENT_CHUNKS = 20
_CENTRES = 1_000
_SENTENCES = 3
_DOCUMENTS_AT_ONCE = 50
_QUERIES = 200
_UPLOADS_AT_ONCE = 50


def texts_of(data: Path | None, count: int) -> Iterator[str]:
    """`count` passages, none like another."""
    generator = Random(_SEED)
    if data is not None:
        sentences = [
            paragraph.text[start:end].strip()
            for paragraph in load_paragraphs(data)
            for start, end in split_sentences(paragraph.text)
        ]
        for number in range(count):
            yield f"{' '.join(generator.sample(sentences, _SENTENCES + 1))} ({number})"
        return
    words = [f"{generator.choice('bcdfghklmnprst')}{generator.choice('aeiou')}{n:x}" for n in range(30_000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    for number in range(count):
        yield f"{' '.join(generator.choices(words, weights, k=120))} ({number})"


def fill(settings: Settings, data: Path | None, chunks: int) -> dict[str, Any]:
    """Write documents, chunk rows and points as ingest would, without extraction and embedding."""
    db = Database(settings.database_url)
    upgrade(db)
    tenant_id = ensure_bootstrap(db, settings).tenant_id
    retrieval = build_retrieval(settings, db)
    version = retrieval.active
    with db.read() as session:
        collection_id = session.scalars(select(Collection.id).where(Collection.tenant_id == tenant_id)).one()
    generator = np.random.default_rng(_SEED)
    centres = generator.standard_normal((_CENTRES, version.embedder.dim), dtype=np.float32)
    started = time.perf_counter()
    documents = list(_grouped(texts_of(data, chunks), _DOCUMENT_CHUNKS))
    for first in range(0, len(documents), _DOCUMENTS_AT_ONCE):
        part = {f"doc_{at:032x}": documents[at] for at in range(first, min(first + _DOCUMENTS_AT_ONCE, len(documents)))}
        _rows(db, version, tenant_id, collection_id, part)
        for document_id, texts in part.items():
            version.index.upsert(_points(version, tenant_id, collection_id, document_id, texts, centres, generator))
    version.index.flush()
    filled = time.perf_counter() - started
    assert isinstance(version.index, EdgeIndex)
    version.index.optimize()  # as the service does by itself once nothing is written for a while
    graphs = time.perf_counter() - started - filled
    figures = {"fill_s": round(filled, 1), "graphs_s": round(graphs, 1), "points": version.index.count()}
    retrieval.close()
    db.close()
    return figures


def _grouped(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    group: list[str] = []
    for text in texts:
        group.append(text)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _rows(
    db: Database, version: OpenVersion, tenant_id: str, collection_id: str, documents: dict[str, list[str]]
) -> None:
    with db.write() as session:
        for document_id, texts in documents.items():
            name = f"{document_id}.txt"
            session.add(
                Document(
                    id=document_id, tenant_id=tenant_id, collection_id=collection_id, filename=name,
                    status=DocumentStatus.READY.value, latest_generation=1, active_generation=1,
                )
            )  # fmt: skip
            session.flush()
            session.add(DocumentGroup(document_id=document_id, group_name=PUBLIC_GROUP))
            session.execute(
                insert(DocumentGeneration).values(
                    document_id=document_id, generation=1, tenant_id=tenant_id, source_sha256="0" * 64, filename=name,
                    byte_size=0, chunk_count=len(texts), index_version=version.id, quality={},
                )
            )  # fmt: skip
            starts = np.cumsum([0, *(len(text) for text in texts)]).tolist()
            chunks = [
                Chunk(at, starts[at], starts[at + 1], text, None, None, len(text) // 4) for at, text in enumerate(texts)
            ]
            insert_chunks(session, tenant_id, document_id, 1, chunks, version.chunk_set)
            note_content(session, [version.id], document_id, 1, {version.id: len(texts)})


def _points(
    version: OpenVersion,
    tenant_id: str,
    collection_id: str,
    document_id: str,
    texts: Sequence[str],
    centres: np.ndarray[Any, np.dtype[np.float32]],
    generator: np.random.Generator,
) -> list[IndexPoint]:
    near = centres[generator.integers(0, len(centres), len(texts))]
    shape = (len(texts), 1 + _SENTENCES, centres.shape[1])
    vectors = near[:, None, :] + generator.standard_normal(shape, dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    return [
        IndexPoint(
            id=point_id(document_id, 1, at, version.chunk_set),
            tenant_id=tenant_id,
            collection_id=collection_id,
            document_id=document_id,
            generation=1,
            ordinal=at,
            groups=(PUBLIC_GROUP,),
            dense=tuple(vectors[at, 0].tolist()),
            sparse=version.lexical.encode_passage(text),
            sentences=tuple(tuple(one.tolist()) for one in vectors[at, 1:]),
        )
        for at, text in enumerate(texts)
    ]


def search(settings: Settings, data: Path | None, chunks: int) -> dict[str, Any]:
    """Searches through the service's own searcher; milliseconds."""
    db = Database(settings.database_url)
    tenant_id = ensure_bootstrap(db, settings).tenant_id
    retrieval = build_retrieval(settings, db)
    principal = Principal(tenant_id, "benchmark", frozenset({Scope.ADMIN}), frozenset())
    inside = Principal(tenant_id, "reader", frozenset({Scope.QUERY}), frozenset({"staff"}))
    figures: dict[str, Any] = {}
    queries = _queries(data, chunks)
    try:
        for name, who in (("admin", principal), ("reader", inside)):
            timings: list[dict[str, float]] = []
            for query in queries:
                timings.append(dict(retrieval.searcher.search(query, access_filter(who), 5).timings_ms))
            beyond = [one["total"] - one.get("embed", 0.0) for one in timings[10:]]
            figures[f"search_p50_ms_{name}"] = round(statistics.median(beyond), 1)
            figures[f"search_p95_ms_{name}"] = round(statistics.quantiles(beyond, n=20)[-1], 1)
            steps = sorted({step for one in timings for step in one} - {"total"})
            figures[f"steps_p95_ms_{name}"] = {
                step: round(statistics.quantiles([one.get(step, 0.0) for one in timings[10:]], n=20)[-1], 1)
                for step in steps
            }
        figures["rss_mib"] = psutil.Process().memory_info().rss // 2**20
    finally:
        retrieval.close()
        db.close()
    return figures


def _queries(data: Path | None, chunks: int) -> list[str]:
    generator = Random(_SEED + 1)
    if data is not None:
        questions = [question.question for paragraph in load_paragraphs(data) for question in paragraph.questions]
        return generator.sample(questions, min(_QUERIES, len(questions)))
    passages = list(texts_of(None, 500))
    return [" ".join(generator.sample(generator.choice(passages).split(), 8)) for _ in range(_QUERIES)]


def restart(folder: Path) -> dict[str, Any]:
    """Starts of the service on the filled data dir, behind one that prepares the base: after a stop, after a kill."""
    service = ServiceProcess(folder)
    service.start(timeout_s=600)
    service.stop()
    seconds = service.start(timeout_s=600)
    service.kill()
    killed = service.start(timeout_s=600)
    try:
        with service.client() as client:
            for number in range(20):
                client.post("/v1/search", {"query": f"what is kept in store {number}", "limit": 5})
        memory: dict[str, int] = {}
        for process in service.family():
            memory[process.name()] = memory.get(process.name(), 0) + process.memory_info().rss // 2**20
    finally:
        service.stop()
    return {"restart_s": round(seconds, 1), "restart_after_kill_s": round(killed, 1), "service_rss_mib": memory}


def many_files(count: int, *, kill: bool) -> dict[str, Any]:
    """Upload `count` small files; every one must be ready once and found by its own words."""
    with tempfile.TemporaryDirectory(prefix="tsumugi-benchmark-") as folder:
        service = ServiceProcess(Path(folder))
        service.start()
        try:
            started = time.perf_counter()
            with service.client() as client:
                for first in range(0, count, _UPLOADS_AT_ONCE):
                    names = range(first, min(first + _UPLOADS_AT_ONCE, count))
                    client.request("POST", "/v1/documents", files=[_file(number) for number in names])
                accepted = time.perf_counter() - started
                if kill:
                    _wait(client, count // 2)
            restarted = None
            if kill:
                service.kill()
                restarted = round(service.start(), 1)
            with service.client() as client:
                _wait(client, count)
                seconds = time.perf_counter() - started
                documents = list(client.items("/v1/documents"))
                lost = [number for number in range(0, count, max(1, count // 100)) if not _found(client, number)]
        finally:
            service.stop()
    statuses: dict[str, int] = {}
    for document in documents:
        statuses[document["status"]] = statuses.get(document["status"], 0) + 1
    found = [document["filename"] for document in documents]
    return {
        "files": count,
        "accept_s": round(accepted, 1),
        "seconds": round(seconds, 1),
        "restart_s": restarted,
        "statuses": statuses,
        "missing": count - len(set(found)),
        "doubled": len(found) - len(set(found)),
        "not_found": lost,
    }


def _file(number: int) -> tuple[str, tuple[str, bytes]]:
    text = (
        f"Box {number} stands on shelf K{number * 7 + 1} and holds {number * 13 + 5} bolts.\n"
        f"棚{number}の点検日は{number % 28 + 1}日です。\n"
    )
    return ("file", (f"box-{number}.txt", text.encode()))


def _found(client: Client, number: int) -> bool:
    found = client.post("/v1/search", {"query": f"Which box stands on shelf K{number * 7 + 1}?", "limit": 3})["items"]
    return any(item["filename"] == f"box-{number}.txt" for item in found)


def _wait(client: Client, ready: int) -> None:
    """Return when so many documents are ready, or nothing is under way any more."""
    while True:
        statuses = [document["status"] for document in client.items("/v1/documents")]
        if statuses.count("ready") >= ready or not {"queued", "processing"} & set(statuses):
            return
        time.sleep(1.0)  # another process works


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=200_000, help="chunks in the index")
    parser.add_argument("--data", type=Path, help="SQuAD-shaped files whose words are used")
    parser.add_argument("--keep", type=Path, help="data dir to fill, or to use as it is when it is filled")
    parser.add_argument("--files", type=int, help="upload so many small files instead")
    parser.add_argument("--kill", action="store_true", help="with --files: kill the service in the middle")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    configure("ERROR", json=False)
    if arguments.files:
        figures = many_files(arguments.files, kill=arguments.kill)
        bad = figures["missing"] or figures["doubled"] or figures["not_found"]
        bad = bad or figures["statuses"] != {"ready": arguments.files}
    else:
        with tempfile.TemporaryDirectory(prefix="tsumugi-benchmark-") as temporary:
            folder = arguments.keep or Path(temporary)
            settings = load_settings(data_dir=folder)
            figures = {"chunks": arguments.chunks}
            if not (folder / "tsumugi.sqlite3").exists():
                figures |= fill(settings, arguments.data, arguments.chunks)
            figures |= search(settings, arguments.data, arguments.chunks)
            figures |= restart(folder)
            used = sum(path.stat().st_blocks * 512 for path in settings.index_dir.rglob("*") if path.is_file())
            figures["index_mib"] = used // 2**20
        bad = figures["search_p95_ms_admin"] > 30 or figures["restart_s"] > 10
    print(json.dumps(figures, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
