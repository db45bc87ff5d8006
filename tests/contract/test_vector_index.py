"""The same cases on Edge, on the client's in-memory mode, over REST, and on a real server where one is given; and in
collections with shards for tenants, where t1 shares one with the others or has its own.

`TSUMUGI_TEST_QDRANT_URL` names a Qdrant server (1.19 or newer), `TSUMUGI_TEST_QDRANT_API_KEY` its key; each test makes
a collection there and drops it.
"""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr
from qdrant_client import QdrantClient

from core.ports import VectorIndex
from core.settings_qdrant import QdrantSettings
from core.types import AccessFilter, Found, IndexPoint, SparseVector
from retrieval.index.connection import Connection, connect
from retrieval.index.edge import EdgeIndex
from retrieval.index.server import ServerIndex
from tests.qdrant_standin import serve

DIM = 8
ALL = AccessFilter("t1", None)


def point(
    number: int,
    *,
    tenant: str = "t1",
    document: str | None = None,
    generation: int = 1,
    groups: tuple[str, ...] = ("*",),
    collection: str = "c1",
    terms: dict[int, float] | None = None,
) -> IndexPoint:
    rng = random.Random(number)
    weights = terms or {rng.randrange(40): rng.random() + 0.5 for _ in range(6)}
    return IndexPoint(
        id=str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))),
        tenant_id=tenant,
        collection_id=collection,
        document_id=document or f"d{number}",
        generation=generation,
        ordinal=0,
        groups=groups,
        dense=tuple(rng.uniform(-1, 1) for _ in range(DIM)),
        sparse=SparseVector(tuple(sorted(weights)), tuple(weights[key] for key in sorted(weights))),
    )


SERVER_URL = os.environ.get("TSUMUGI_TEST_QDRANT_URL")
SERVER_KEY = os.environ.get("TSUMUGI_TEST_QDRANT_API_KEY")
KINDS = (
    "edge",
    "memory",
    "rest",
    pytest.param("server", marks=pytest.mark.skipif(not SERVER_URL, reason="no TSUMUGI_TEST_QDRANT_URL: no server")),
)


@pytest.fixture(scope="module")
def standin_url() -> Iterator[str]:
    with serve() as (url, _):
        yield url


def settings_of(kind: str, standin_url: str) -> QdrantSettings:
    """Settings that reach the real server, or the stand-in."""
    if kind == "server" and SERVER_URL:
        return QdrantSettings(url=SERVER_URL, api_key=SecretStr(SERVER_KEY) if SERVER_KEY else None)
    return QdrantSettings(url=standin_url)


@contextmanager
def open_index(kind: str, folder: Path, standin_url: str, *, idf: bool = True) -> Iterator[VectorIndex]:
    """An empty index of one kind."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    if kind == "edge":
        edge = EdgeIndex(folder, dim=DIM, idf=idf, sentences=True, bridge=4)
        yield edge
        edge.close()
        return
    settings = settings_of(kind, standin_url)
    connection = Connection([QdrantClient(":memory:")]) if kind == "memory" else connect(settings)
    index = ServerIndex(
        connection,
        name,
        dim=DIM,
        idf=idf,
        sentences=True,
        bridge=4,
        settings=settings,
        tenant_shards=kind in {"shared", "apart"},
        own_shards=lambda: ["t1"] if kind == "apart" else [],
    )
    yield index
    index.drop()
    index.close()


@pytest.fixture(params=(*KINDS, "shared", "apart"))
def index(request: pytest.FixtureRequest, tmp_path: Path, standin_url: str) -> Iterator[VectorIndex]:
    with open_index(request.param, tmp_path, standin_url) as opened:
        yield opened


QUERY = SparseVector((1, 2, 3, 5, 8, 13, 21, 34), (1.0, 0.4, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0))


def test_upsert_overwrites_and_counts(index: VectorIndex) -> None:
    index.upsert([point(1), point(2)])
    index.upsert([point(2), point(3, document="d2", generation=2)])
    assert index.count() == 3
    assert index.count(document_id="d2") == 2
    assert index.count(document_id="d2", generation=2) == 1
    assert {(p.document_id, p.generation) for p in index.scan()} == {("d1", 1), ("d2", 1), ("d2", 2)}


def test_vectors_come_out_as_they_went_in(index: VectorIndex) -> None:
    """Dense vectors are normalised by the index; a point of an unknown language has none."""
    whole = replace(point(1), sentences=(point(2).dense or (), point(3).dense or ()))
    index.upsert([whole, replace(point(4), dense=None), *(point(number) for number in range(10, 300))])
    found = {one.id: one for one in index.vectors()}
    assert len(found) == 292
    assert found[point(4).id].dense is None and found[point(4).id].sparse.indices == point(4).sparse.indices
    kept = found[whole.id]
    assert kept.sparse.values == pytest.approx(whole.sparse.values, rel=1e-6)
    for stored, given in zip((kept.dense, *kept.sentences), (whole.dense, *whole.sentences), strict=True):
        assert stored is not None and given is not None
        length = sum(value * value for value in given) ** 0.5
        assert stored == pytest.approx([value / length for value in given], abs=2e-3)


def test_deletion_by_document_generation_and_id(index: VectorIndex) -> None:
    index.upsert([point(n, document="d", generation=n) for n in (1, 2, 3)] + [point(9)])
    index.delete_document("d", tenant_id="t1", keep_generation=2)
    assert {(p.document_id, p.generation) for p in index.scan()} == {("d", 2), ("d9", 1)}
    index.delete_points([point(9).id, str(uuid.uuid4())])
    index.delete_points([])
    index.delete_document("d", tenant_id="t1")
    index.delete_document("never there", tenant_id="t1")
    assert index.count() == 0


def test_filter_is_tenant_and_any_group_and_collection(index: VectorIndex) -> None:
    terms = {1: 1.0}
    index.upsert(
        [
            point(1, terms=terms),
            point(2, terms=terms, groups=("hr", "it")),
            point(3, terms=terms, groups=("legal",)),
            point(4, terms=terms, collection="c2"),
            point(5, terms=terms, tenant="t2"),
        ]
    )
    query, vector = SparseVector((1,), (1.0,)), point(1).dense or ()
    for access, expected in (
        (ALL, {"d1", "d2", "d3", "d4"}),
        (AccessFilter("t1", frozenset({"*"})), {"d1", "d4"}),
        (AccessFilter("t1", frozenset({"*", "it"})), {"d1", "d2", "d4"}),
        (AccessFilter("t1", frozenset({"*"}), "c2"), {"d4"}),
        (AccessFilter("t2", None), {"d5"}),
        (AccessFilter("t3", None), set()),
    ):
        assert {p.document_id for p in index.search_sparse(query, access, 10)} == expected
        assert {p.document_id for p in index.search_dense(vector, access, 10)} == expected
        ids = [point(n).id for n in range(1, 6)]
        assert len(index.score_dense(vector, ids, access)) == len(expected)
        assert len(index.score_sparse(query, ids, access)) == len(expected)


def test_access_changes_without_new_vectors(index: VectorIndex) -> None:
    index.upsert(
        [point(1, terms={1: 1.0}), point(2, terms={1: 1.0}), point(3, document="d1", generation=2, terms={1: 1.0})]
    )
    before = {one.id: one for one in index.vectors()}
    index.set_access("d1", tenant_id="t1", collection_id="c9", groups=("hr", "it"))
    index.set_access("never there", tenant_id="t1", collection_id="c9", groups=("hr",))
    query, vector = SparseVector((1,), (1.0,)), point(1).dense or ()
    for access, expected in (
        (AccessFilter("t1", frozenset({"*"})), {"d2"}),
        (AccessFilter("t1", frozenset({"*", "it"})), {"d1", "d2"}),
        (AccessFilter("t1", None, "c9"), {"d1"}),
        (AccessFilter("t2", None), set()),
    ):
        assert {p.document_id for p in index.search_sparse(query, access, 9)} == expected
        assert {p.document_id for p in index.search_dense(vector, access, 9)} == expected
    assert {one.id: one for one in index.vectors()} == before
    assert index.count(document_id="d1", generation=2) == 1


def test_a_filter_on_documents_narrows_what_access_allows(index: VectorIndex) -> None:
    index.upsert([point(n, terms={1: 1.0}, groups=("hr",) if n == 2 else ("*",)) for n in range(1, 5)])
    named = frozenset({"d1", "d2", "absent"})
    for groups, expected in ((None, {"d1", "d2"}), (frozenset({"*"}), {"d1"})):
        access = AccessFilter("t1", groups, document_ids=named)
        assert {p.document_id for p in index.search_sparse(SparseVector((1,), (1.0,)), access, 9)} == expected
        assert {p.document_id for p in index.search_dense(point(1).dense or (), access, 9)} == expected


def test_points_sharing_no_term_are_absent_and_an_empty_query_finds_nothing(index: VectorIndex) -> None:
    index.upsert([point(1, terms={1: 1.0}), point(2, terms={2: 1.0})])
    assert [p.document_id for p in index.search_sparse(SparseVector((2,), (1.0,)), ALL, 10)] == ["d2"]
    assert index.search_sparse(SparseVector((), ()), ALL, 10) == []
    assert index.score_sparse(SparseVector((), ()), [point(1).id], ALL) == {}
    assert index.score_dense(point(1).dense or (), [], ALL) == {}


def test_scores_of_given_points_equal_those_of_the_search(index: VectorIndex) -> None:
    index.upsert([point(n) for n in range(60)])
    dense = index.search_dense(point(7).dense or (), ALL, 10)
    again = index.score_dense(point(7).dense or (), [p.id for p in dense], ALL)
    assert dense[0].document_id == "d7"
    assert again == pytest.approx({p.id: p.score for p in dense}, abs=1e-5)
    sparse = index.search_sparse(QUERY, ALL, 10)
    assert index.score_sparse(QUERY, [p.id for p in sparse], ALL) == pytest.approx(
        {p.id: p.score for p in sparse}, abs=1e-5
    )


def test_both_arms_at_once_are_the_arms_alone(index: VectorIndex) -> None:
    index.upsert([replace(point(n), sentences=(point(n).dense or (),)) for n in range(40)])
    vector = point(7).dense or ()
    found = index.find(vector, QUERY, ALL, 10)
    assert [p.id for p in found.dense] == [p.id for p in index.search_dense(vector, ALL, 10)]
    assert [p.id for p in found.sparse] == [p.id for p in index.search_sparse(QUERY, ALL, 10)]
    ids = [point(n).id for n in range(5)]
    scores = index.score(vector, QUERY, ALL, by_dense=ids, by_sparse=ids[:3], by_sentences=ids[1:])
    assert scores.dense == pytest.approx(index.score_dense(vector, ids, ALL))
    assert scores.sparse == pytest.approx(index.score_sparse(QUERY, ids[:3], ALL))
    assert scores.sentences == pytest.approx(index.score_sentences(vector, ids[1:], ALL))
    assert index.find(None, SparseVector((), ()), ALL, 10) == Found([], [])


def test_a_passage_is_as_near_as_its_nearest_sentence(index: VectorIndex) -> None:
    towards = [tuple(float(n == axis) for n in range(DIM)) for axis in range(DIM)]
    parts = {1: (towards[0], towards[1]), 2: (towards[2],), 3: ()}
    index.upsert([replace(point(n), sentences=sentences) for n, sentences in parts.items()])
    index.upsert([replace(point(4, tenant="t2"), sentences=(towards[1],))])
    ids = [point(n).id for n in (1, 2, 3, 4)]
    assert index.score_sentences(towards[1], ids, ALL) == pytest.approx({ids[0]: 1.0, ids[1]: 0.0}, abs=1e-3)
    assert index.score_sentences(towards[1], [], ALL) == {}
    assert index.score_sentences(towards[1], ids[:1], AccessFilter("t2", None)) == {}


def test_a_point_without_a_dense_vector_is_found_by_its_words_only(index: VectorIndex) -> None:
    whole = point(1, terms={1: 1.0})
    index.upsert([IndexPoint(**{name: getattr(whole, name) for name in whole.__slots__} | {"dense": None})])
    assert len(index.search_sparse(SparseVector((1,), (1.0,)), ALL, 5)) == 1
    assert index.search_dense(whole.dense or (), ALL, 5) == []


@pytest.mark.parametrize("idf", [True, False])
@pytest.mark.parametrize("kind", KINDS[1:])
def test_every_implementation_agrees_with_edge_on_order_and_scores(
    kind: str, idf: bool, tmp_path: Path, standin_url: str
) -> None:
    with (
        open_index("edge", tmp_path, standin_url, idf=idf) as edge,
        open_index(kind, tmp_path, standin_url, idf=idf) as other,
    ):
        for index in (edge, other):
            index.upsert([point(n, groups=("*",) if n % 3 else ("hr",)) for n in range(300)])
            index.upsert([point(n, tenant="t2") for n in range(300, 400)])
            index.delete_points([point(n).id for n in range(0, 300, 7)])
        dense = point(5).dense or ()
        for access in (ALL, AccessFilter("t1", frozenset({"*"})), AccessFilter("t2", None)):
            for mine, theirs in (
                (edge.search_dense(dense, access, 25), other.search_dense(dense, access, 25)),
                (edge.search_sparse(QUERY, access, 25), other.search_sparse(QUERY, access, 25)),
            ):
                assert [p.score for p in mine] == pytest.approx([p.score for p in theirs], abs=1e-4)
                assert {p.id for p in mine[:20]} <= {p.id for p in theirs}  # ties at the end may fall either way
            ids = [p.id for p in edge.scan()]
            assert {p.id for p in other.scan()} == set(ids)
            assert edge.score_sparse(QUERY, ids, access) == pytest.approx(
                other.score_sparse(QUERY, ids, access), abs=1e-4
            )


def test_idf_counts_the_tenants_own_points_only(index: VectorIndex) -> None:
    index.upsert([point(n, terms={n: 1.0, 99: 1.0}) for n in range(5)])
    query = SparseVector((1, 99), (1.0, 1.0))
    before = index.search_sparse(query, ALL, 5)
    index.upsert([point(n, tenant="t2", terms={1: 1.0}) for n in range(100, 160)])
    assert index.search_sparse(query, ALL, 5) == before


def test_idf_counts_the_points_of_the_collection_that_is_asked(index: VectorIndex) -> None:
    index.upsert([point(n, terms={n: 1.0, 99: 1.0}) for n in range(5)])
    query = SparseVector((1, 99), (1.0, 1.0))
    access = AccessFilter("t1", frozenset({"*"}), "c1")
    before = index.search_sparse(query, access, 5)
    index.upsert([point(n, collection="c2", groups=("hr",), terms={1: 1.0}) for n in range(100, 160)])
    assert index.search_sparse(query, access, 5) == before
    ids = [found.id for found in before]
    assert index.score_sparse(query, ids, access) == pytest.approx({found.id: found.score for found in before})


def test_the_bridge_finds_by_its_own_vectors(index: VectorIndex) -> None:
    index.upsert([replace(point(n), bridge=tuple(float(n == at) for at in range(4))) for n in range(4)])
    index.upsert([point(8), replace(point(9, tenant="t2"), bridge=(0.0, 1.0, 0.0, 0.0))])
    found = index.search_bridge((0.1, 1.0, 0.0, 0.0), ALL, 2)
    assert [hit.document_id for hit in found] == ["d1", "d0"] and found[0].score == pytest.approx(0.995, abs=1e-3)
    kept = {one.id: one.bridge for one in index.vectors()}
    assert kept[point(2).id] == pytest.approx((0.0, 0.0, 1.0, 0.0)) and kept[point(8).id] is None


def test_learnt_weights_are_multiplied_as_they_are(tmp_path: Path, standin_url: str) -> None:
    for kind in ("edge", "memory", "rest"):
        with open_index(kind, tmp_path / kind, standin_url, idf=False) as index:
            index.upsert([point(1, terms={1: 0.5, 2: 0.25}), point(2, terms={2: 2.0})])
            hits = index.search_sparse(SparseVector((1, 2), (0.5, 1.0)), ALL, 5)
            assert [(p.document_id, p.score) for p in hits] == [("d2", pytest.approx(2.0)), ("d1", pytest.approx(0.5))]
