from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core.errors import DataDirBusy, Unavailable
from retrieval.index.edge import EdgeIndex
from tests.contract.test_vector_index import ALL, DIM, point

_OPEN = "import sys; from pathlib import Path; from retrieval.index.edge import EdgeIndex; "


def test_a_second_owner_is_refused_by_name(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path, dim=DIM)
    code = _OPEN + f"EdgeIndex(Path({str(tmp_path)!r}), dim={DIM})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert other.returncode == 1 and "DataDirBusy" in other.stderr
    with pytest.raises(DataDirBusy):
        EdgeIndex(tmp_path, dim=DIM)
    index.close()
    EdgeIndex(tmp_path, dim=DIM).close()


def test_a_closed_index_says_so(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path, dim=DIM)
    index.close()
    index.close()
    with pytest.raises(Unavailable):
        index.count()


def test_points_survive_a_kill_without_flush(tmp_path: Path) -> None:
    code = (
        _OPEN + "from tests.contract.test_vector_index import point;"
        f"index = EdgeIndex(Path({str(tmp_path)!r}), dim={DIM});"
        "index.upsert([point(n) for n in range(500)]); index.delete_points([point(3).id]);"
        "print('written', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().strip() == "written"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert process.stdin is not None
    process.stdin.close()
    index = EdgeIndex(tmp_path, dim=DIM)
    assert index.count() == 499
    assert index.search_dense(point(8).dense or (), ALL, 1)[0].id == point(8).id
    index.close()


def test_reopening_keeps_points_and_payload_indexes(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path, dim=DIM)
    index.upsert([point(n) for n in range(10)])
    index.flush()
    index.close()
    index = EdgeIndex(tmp_path, dim=DIM)
    assert index.count() == 10 and len(list(index.scan())) == 10
    index.close()


def test_readers_run_beside_writers(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path, dim=DIM)
    index.upsert([point(n, document="fixed") for n in range(50)])
    errors: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                assert len(index.search_dense(point(1).dense or (), ALL, 5)) == 5
                assert index.count(document_id="fixed") == 50
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    def write(base: int) -> None:
        try:
            for n in range(base, base + 200, 20):
                index.upsert([point(m, document=f"w{base}") for m in range(n, n + 20)])
                index.flush()
            index.delete_document(f"w{base}", tenant_id="t1")
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(base,)) for base in (1000, 2000, 3000)]
    for thread in [*readers, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert errors == []
    assert index.count() == 50
    index.close()
