"""What ingest costs beside the embedding it cannot do without, and beside LlamaIndex's pipeline on the same texts.

    python -m benchmarks.ingest [--data FOLDER] [--limit 60] [--json FILE]

All figures come from one process in one run, so the machine cancels out. Ingest is the whole of it: upload, job,
extraction in a child process, chunking, both vectors, index, switch; with the service's number of worker threads. Raw
embedding is one call of the embedder on the very texts that ingest embedded (passages in a language that the model does
not know are indexed by their words alone). At a `ratio` of 1 all else would be free. The reference of
`times_llama_index` is described in `benchmarks.ingest_reference`; it is compared by documents, not by chunks.
`products_s` is what the matrix products of the model's linear layers take for the same tokens, one after the other with
nothing between them; `most_times_llama_index` is how much faster than the reference these alone would be.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import select

from benchmarks.ingest_reference import llama_index_pipeline
from benchmarks.ingested import Ingested, open_ingested
from core.interpreter import take_short_turns
from core.log import configure
from core.settings import load_settings
from core.tables import ChunkRow, Document, DocumentGeneration
from core.types import DocumentStatus
from ingest.upload import Upload
from ingest.vectors import is_covered
from retrieval.embedders.minilm import MiniLmEmbedder
from retrieval.text import indexed_text
from workers.base import run_job

_PRODUCT_ROWS = 4_096
"""Tokens of a batch, as the embedder has them."""
_PRODUCT_TRIES = 20
EXAMPLES = Path(__file__).parent.parent / "examples" / "documents"


def read_uploads(folder: Path, limit: int) -> list[Upload]:
    """`limit` uploads from the files of a folder, each file again under another name when there are too few."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise ValueError(f"no files in {folder}")
    return [
        Upload(f"{number // len(files)}-{file.name}", file.read_bytes())
        for number, file in ((n, files[n % len(files)]) for n in range(limit))
    ]


def measure(service: Ingested, uploads: Sequence[Upload], threads: int) -> dict[str, Any]:
    """Ingest the uploads, then embed the same texts; seconds, and the ratio of both throughputs."""
    started = time.perf_counter()
    accepted = service.ingest.service.accept(service.principal, uploads)
    accept_s = time.perf_counter() - started
    with ThreadPoolExecutor(threads) as pool:
        jobs = [item.job.id for item in accepted if item.job is not None]
        list(pool.map(lambda job_id: run_job(service.jobs, job_id, service.ingest.pipeline.run), jobs))
    ingest_s = time.perf_counter() - started
    ids = [item.document.id for item in accepted]
    passages, failed = _indexed(service, ids)
    embedder = service.retrieval.embedder
    texts = [indexed for indexed, passage in passages if is_covered(passage, embedder)]
    started = time.perf_counter()
    embedder.encode_passages(texts)
    embed_s = time.perf_counter() - started
    figures = {
        "documents": len(uploads),
        "failed": failed,
        "chunks": len(passages),
        "embedded": len(texts),
        "accept_s": round(accept_s, 3),
        "ingest_s": round(ingest_s, 3),
        "embed_s": round(embed_s, 3),
        "documents_per_s": round(len(uploads) / ingest_s, 2),
        "chunks_per_s": round(len(passages) / ingest_s, 1),
        "raw_chunks_per_s": round(len(texts) / embed_s, 1),
        "ratio": round(embed_s / ingest_s, 3),
    }
    if isinstance(embedder, MiniLmEmbedder):
        figures["products_s"] = round(product_seconds(embedder, texts), 3)
    return figures


def product_seconds(embedder: MiniLmEmbedder, texts: Sequence[str]) -> float:
    """Seconds of the linear layers' products over the tokens of these texts, in the embedder's number type."""
    import torch

    tokens = sum(min(embedder.count_tokens(text) + 2, embedder.max_tokens) for text in texts)
    matrices = embedder.encoder.matrices()
    seconds: dict[tuple[int, ...], float] = {}
    with torch.inference_mode():
        for matrix in matrices:
            if matrix.shape not in seconds:
                rows = torch.randn(_PRODUCT_ROWS, matrix.shape[1]).to(matrix.dtype)
                product = partial(torch.nn.functional.linear, rows, matrix)
                seconds[matrix.shape] = min(_timed(product) for _ in range(_PRODUCT_TRIES)) / _PRODUCT_ROWS
    return tokens * sum(seconds[matrix.shape] for matrix in matrices)


def _timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _indexed(service: Ingested, document_ids: Sequence[str]) -> tuple[list[tuple[str, str]], int]:
    """(what is embedded, the passage) of every chunk, and how many documents are not ready."""
    with service.db.read() as session:
        rows = session.execute(
            select(ChunkRow, Document.filename, DocumentGeneration.title)
            .join(Document, Document.id == ChunkRow.document_id)
            .join(
                DocumentGeneration,
                (DocumentGeneration.document_id == ChunkRow.document_id)
                & (DocumentGeneration.generation == ChunkRow.generation),
            )
            .where(ChunkRow.document_id.in_(document_ids))
        ).all()
        ready = session.scalars(
            select(Document.id).where(Document.id.in_(document_ids), Document.status == DocumentStatus.READY.value)
        ).all()
    texts = [(indexed_text(filename, title, chunk.heading, chunk.text), chunk.text) for chunk, filename, title in rows]
    return texts, len(document_ids) - len(ready)


def _extracted(service: Ingested) -> list[tuple[str, str]]:
    """(file name, extracted text) of every ready document."""
    with service.db.read() as session:
        rows = session.execute(
            select(Document.filename, DocumentGeneration.text_sha256)
            .join(DocumentGeneration, DocumentGeneration.document_id == Document.id)
            .where(Document.active_generation == DocumentGeneration.generation)
        ).all()
    return [(name, service.blobs.get(digest).decode()) for name, digest in rows if digest]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=EXAMPLES, help="folder of documents (default: the examples)")
    parser.add_argument("--limit", type=int, default=60, help="number of documents")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    configure("ERROR", json=False)
    take_short_turns()  # as the service does
    with open_ingested() as service:
        started = time.perf_counter()
        warm_up = [Upload("warm-up.txt", b"Libraries load with the first document.")]
        measure(service, warm_up, 1)
        figures = {"warm_up_s": round(time.perf_counter() - started, 2)}
        threads = load_settings().ingest.worker_threads
        figures |= measure(service, read_uploads(arguments.data, arguments.limit), threads)
        texts = _extracted(service)
        reference = llama_index_pipeline(texts, service.retrieval.embedder.max_tokens)
    figures |= {
        "llama_index_s": round(reference.seconds, 3),
        "llama_index_chunks": reference.chunks,
        "times_llama_index": round(reference.seconds / figures["ingest_s"], 2),
    }
    if "products_s" in figures:
        figures["most_times_llama_index"] = round(reference.seconds / figures["products_s"], 2)
    report = json.dumps(figures, indent=2)
    print(report)
    if arguments.json is not None:
        arguments.json.write_text(report + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
