"""A shard that was purged holds no byte of what was deleted, and answers as before, also while it is being written."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from core.types import AccessFilter, IndexPoint, SparseVector
from retrieval.index.edge import EdgeIndex
from retrieval.index.edge_rewrite import place_of_new, settle

DIM = 16
GONE, STAYS = "doc_gone" + 24 * "f", "doc_stays" + 23 * "0"
ACCESS = AccessFilter("ten_a", None)


def point(number: int, document_id: str) -> IndexPoint:
    chance = random.Random(f"{document_id}{number}")
    dense = tuple(chance.gauss(0, 1) for _ in range(DIM))
    return IndexPoint(
        id=f"{number:08x}-0000-4000-8000-{'f' if document_id == GONE else '0':0>12}",
        tenant_id="ten_a",
        collection_id="col",
        document_id=document_id,
        generation=1,
        ordinal=number,
        groups=("*",),
        dense=dense,
        sparse=SparseVector((1, 2, 10 + number), (1.0 + number / 100, 0.5, 2.0)),  # no two alike
        sentences=(dense, dense[::-1]),
        bridge=dense[:8],
    )


@pytest.fixture
def index(tmp_path: Path) -> EdgeIndex:
    made = EdgeIndex(tmp_path / "shard", dim=DIM, sentences=True, bridge=8)
    made.upsert([point(number, STAYS) for number in range(600)])
    made.upsert([point(number, GONE) for number in range(40)])
    made.delete_document(GONE, tenant_id="t1")
    made.flush()
    return made


def files_with(folder: Path, text: str) -> list[str]:
    found = [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]
    return [path.relative_to(folder).as_posix() for path in found]


def answers(index: EdgeIndex) -> list[object]:
    dense, sparse = [1.0] * DIM, SparseVector((1, 15), (1.0, 1.0))
    ids = [hit.id for hit in index.search_dense(dense, ACCESS, 5)]
    # float16 vectors were normalised when they were stored, and are once more: the last digit may turn
    scores = {key: round(score, 2) for key, score in index.score_sentences(dense, ids, ACCESS).items()}
    bridge = [hit.id for hit in index.search_bridge(dense[:8], ACCESS, 5)]
    return [ids, [hit.id for hit in index.search_sparse(sparse, ACCESS, 5)], scores, bridge, index.count()]


def test_bytes_of_deleted_points_are_gone_and_the_rest_answers_as_before(index: EdgeIndex, tmp_path: Path) -> None:
    assert files_with(tmp_path, GONE), "the engine purges by itself: there is nothing left to do here"
    before = answers(index)
    assert index.purge(lambda: None)
    assert files_with(tmp_path, GONE) == []
    assert files_with(tmp_path, STAYS)
    assert answers(index) == before
    index.upsert([point(900, STAYS)])
    index.close()
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]
    again = EdgeIndex(tmp_path / "shard", dim=DIM, sentences=True, bridge=8)
    assert again.count() == 601
    assert set(again._shard.info().payload_schema) == {
        "tenant_id", "collection_id", "document_id", "groups", "generation",
    }  # fmt: skip
    again.close()


def test_searches_and_writes_go_on_meanwhile(index: EdgeIndex) -> None:
    stop, failed, asked = threading.Event(), [], []

    def ask() -> None:
        while not stop.is_set():
            try:
                asked.append(len(index.search_dense([1.0] * DIM, ACCESS, 5)))
                index.count()
            except BaseException as error:
                failed.append(error)
                raise

    def write() -> None:
        for number in range(1000, 1040):
            index.upsert([point(number, STAYS)])

    threads = [threading.Thread(target=ask), threading.Thread(target=ask), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        index.purge(lambda: None)
    threads[2].join()
    stop.set()
    for thread in threads[:2]:
        thread.join()
    assert not failed and set(asked) == {5}
    assert index.count() == 640
    index.close()


def test_work_that_is_stopped_leaves_the_shard_as_it_was(index: EdgeIndex, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def step() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        index.purge(step)
    assert index.count() == 600
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]
    index.close()


@pytest.mark.parametrize("moved", ["the old one only", "both"])
def test_an_exchange_that_was_cut_short_loses_nothing(index: EdgeIndex, tmp_path: Path, moved: str) -> None:
    index.close()
    folder = tmp_path / "shard"
    folder.rename(tmp_path / "shard.old")
    place_of_new(folder).mkdir()
    if moved == "both":  # the old one is still there to be removed
        (tmp_path / "shard.old").rename(folder)
        (tmp_path / "shard.old").mkdir()
    settle(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]
    again = EdgeIndex(folder, dim=DIM, sentences=True, bridge=8)
    assert again.count() == 600
    again.close()
