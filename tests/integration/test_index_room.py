"""The index in process on a disk that fills: writes are refused while there is room, and the process lives."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from core.errors import Unavailable
from retrieval.index.edge import EdgeIndex
from tests.integration.test_edge_upkeep import points
from tests.small_disk import small_disk

MIB = 2**20
RESERVE = 64 * MIB


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_writes_stop_in_order_and_go_on_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = RESERVE
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(2 * RESERVE, 2 * RESERVE - free, free))
    index = EdgeIndex(tmp_path / "i", dim=4, reserve_bytes=RESERVE)
    index.upsert(points(20))

    free = RESERVE // 2 - 1
    for write in (lambda: index.upsert(points(1, first=20)), index.optimize):
        with pytest.raises(Unavailable) as refused:
            write()
        assert (refused.value.code, refused.value.retryable) == ("storage_full", True)
    with pytest.raises(Unavailable):
        EdgeIndex(tmp_path / "another", dim=4, reserve_bytes=RESERVE)
    index.delete_points([point.id for point in points(5)])
    index.set_access("d", tenant_id="t1", collection_id="c2", groups=["*"])
    assert index.count() == 15, "what makes room goes on"

    free = RESERVE // 8 - 1
    for write in (
        lambda: index.delete_document("d", tenant_id="t1"),
        lambda: index.set_access("d", tenant_id="t1", collection_id="c", groups=["*"]),
    ):
        with pytest.raises(Unavailable):
            write()
    assert index.count() == 15, "and is asked as ever"

    free = RESERVE
    index.upsert(points(5))
    index.delete_document("nobody", tenant_id="t1")
    assert index.count() == 20
    index.close()


WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from core.errors import Unavailable
from core.types import AccessFilter
from retrieval.index.edge import EdgeIndex
from tests.integration.test_edge_upkeep import points
def wide(count, first):
    return [replace(point, dense=point.dense * 64) for point in points(count, first=first)]
index = EdgeIndex(Path(sys.argv[1]), dim=256, reserve_bytes=int(sys.argv[2]))
kept = index.count()
try:
    for first in range(kept, 10**9, 256):
        index.upsert(wide(256, first))
        kept += 256
except Unavailable as full:
    print(full.code, kept)
assert index.count() == kept
index.delete_points([point.id for point in wide(256, kept - 256)])
index.flush()
assert index.search_dense([1.0] * 256, AccessFilter("t", None), 3)
index.close()
print("alive")
"""


def write_until_full(folder: Path, reserve_bytes: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WRITER, str(folder), str(reserve_bytes)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_small_disk_is_filled_to_the_reserve_and_not_to_death(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 96 * MIB) as disk:
        first = write_until_full(disk / "i", 96 * MIB)
        assert first.returncode == 0, first.stderr
        said, alive = first.stdout.splitlines()
        code, kept = said.split()
        assert (code, alive) == ("storage_full", "alive") and int(kept) > 256
        assert shutil.disk_usage(disk).free > 30 * MIB
        again = write_until_full(disk / "i", 48 * MIB)  # what was written is there, and more room takes more
        assert again.returncode == 0, again.stderr
        assert int(again.stdout.split()[1]) > int(kept)
        # Why there is a reserve: without one the engine is ended by a signal, and with it the whole service.
        assert write_until_full(disk / "i", 0).returncode < 0
