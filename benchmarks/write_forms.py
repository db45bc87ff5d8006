"""A large write to a Qdrant server as JSON over REST and as protobuf over gRPC: bytes and CPU of our side, in one run.

    python -m benchmarks.write_forms [--points 128] [--sentences 40] [--dim 384] [--json FILE]

Points are made as ingest makes them (a dense vector, 80 terms, a vector per sentence) and turned into what each client
would put on the wire. CPU is that of this process alone, median of rounds that alternate; what the server spends on
reading either is not seen. `json_before` is JSON with all digits of a double, as it was written before numbers were cut
to the digits that are kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time

import numpy as np
from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import RestToGrpc

from core.types import IndexPoint, SparseVector
from retrieval.index.names import DENSE, LEXICAL, SENTENCES, payload_of
from retrieval.index.server_points import WRITE_BYTES, batches, sparse_vector, to_point


def made_points(count: int, sentences: int, dim: int) -> list[IndexPoint]:
    """Passages with random vectors in single precision, as an embedder gives them."""
    rng = np.random.default_rng(5)
    points = []
    for number in range(count):
        rows = rng.normal(size=(sentences + 1, dim)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        vectors = [tuple(row) for row in rows.tolist()]
        terms = sorted(rng.choice(2**31, size=80, replace=False).tolist())
        weights = rng.uniform(0.5, 2.0, size=80).astype(np.float32).tolist()
        points.append(
            IndexPoint(
                id=str(uuid.UUID(int=number + 1)),
                tenant_id="ten_1",
                collection_id="col_1",
                document_id="doc_1",
                generation=1,
                ordinal=number,
                groups=("*",),
                dense=vectors[0],
                sparse=SparseVector(tuple(terms), tuple(weights)),
                sentences=tuple(vectors[1:]),
            )
        )
    return points


def as_json(points: Sequence[IndexPoint]) -> bytes:
    """The body of `PUT /collections/{name}/points`, as our index sends it."""
    return models.PointsList(points=[to_point(point) for point in points]).model_dump_json(exclude_unset=True).encode()


def as_json_before(points: Sequence[IndexPoint]) -> bytes:
    """The same with every digit."""
    made = [
        models.PointStruct(
            id=point.id,
            vector={
                LEXICAL: sparse_vector(point.sparse),
                DENSE: list(point.dense or ()),
                SENTENCES: [list(one) for one in point.sentences],
            },
            payload=payload_of(point),
        )
        for point in points
    ]
    return models.PointsList(points=made).model_dump_json(exclude_unset=True).encode()


def as_protobuf(points: Sequence[IndexPoint]) -> bytes:
    """The message of `Points.Upsert`, made by the client's own conversion."""
    made = [RestToGrpc.convert_point_struct(to_point(point)) for point in points]
    return bytes(grpc.UpsertPoints(collection_name="chunks", wait=True, points=made).SerializeToString())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=128)
    parser.add_argument("--sentences", type=int, default=40, help="of each passage")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--rounds", "--limit", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    points = made_points(arguments.points, arguments.sentences, arguments.dim)
    forms: dict[str, Callable[[Sequence[IndexPoint]], bytes]] = {
        "json_before": as_json_before,
        "json": as_json,
        "protobuf": as_protobuf,
    }
    spent: dict[str, list[float]] = {name: [] for name in forms}
    sizes: dict[str, int] = {}
    for _ in range(arguments.rounds):
        for name, make in forms.items():
            began = process_time()
            sizes[name] = len(make(points))
            spent[name].append(process_time() - began)
    figures = {
        name: {"mib": round(sizes[name] / 2**20, 2), "cpu_s": round(statistics.median(spent[name]), 3)}
        for name in forms
    }
    writes = len(list(batches([to_point(point) for point in points], arguments.points)))
    figures["writes"] = {"of_mib_at_most": WRITE_BYTES / 2**20, "number": writes}
    print(json.dumps(figures, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
