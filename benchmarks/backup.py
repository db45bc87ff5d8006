"""Backup and restore: size, seconds and rate, beside a plain tar of the data dir and beside embedding anew.

    python -m benchmarks.backup [--chunks 20000] [--embed 1000] [--json FILE]

The data dir is that of `benchmarks.scale` (seeded vectors, rows and points as the service writes them) with a blob for
each document's source. The reference of a backup is `tar` over the same stopped data dir, in this run; that of a
restore is the same with `--no-vectors`, on a smaller system of `--embed` chunks, as embedding takes much longer.
"""

from __future__ import annotations

import argparse
import json
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from benchmarks.scale import fill
from cli.backup.bring import bring_back
from cli.backup.take import from_index, take_backup
from core.blobs import open_blobs
from core.database import Database
from core.log import configure
from core.settings import Settings, load_settings
from core.tables import ChunkRow, DocumentGeneration

QUIET = {"say": lambda _line: None}


def make_system(folder: Path, chunks: int) -> Settings:
    """A filled data dir whose documents have their sources."""
    settings = load_settings(data_dir=folder)
    folder.mkdir()
    fill(settings, None, chunks)
    db, blobs = Database(settings.database_url), open_blobs(settings)
    with db.write() as session:
        for document_id in session.scalars(select(DocumentGeneration.document_id)).all():
            texts = session.scalars(
                select(ChunkRow.text).where(ChunkRow.document_id == document_id).order_by(ChunkRow.ordinal)
            )
            digest = blobs.put("".join(texts).encode())
            session.execute(
                update(DocumentGeneration)
                .where(DocumentGeneration.document_id == document_id)
                .values(source_sha256=digest, text_sha256=digest)
            )
    db.close()
    return settings


def tree_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measured(action: Any) -> tuple[float, Any]:
    """(seconds, result)."""
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


def measure(folder: Path, chunks: int, embed: int) -> dict[str, Any]:
    """All figures; systems and backups are below `folder`."""
    settings = make_system(folder / "system", chunks)
    plain = folder / "plain.tar"

    def tar_all() -> None:
        with tarfile.open(plain, "w") as tar:
            tar.add(settings.data_dir, arcname="data")

    figures: dict[str, Any] = {"chunks": chunks, "data_dir_mib": round(tree_bytes(settings.data_dir) / 2**20, 1)}
    plain_s, _ = measured(tar_all)
    figures["plain_tar"] = {"s": round(plain_s, 2), "mib": round(plain.stat().st_size / 2**20, 1)}
    plain.unlink()
    for name in ("backup.tar", "backup.tar.gz", "backup"):
        place = folder / name
        seconds, card = measured(
            lambda place=place: take_backup(settings, str(place), vectors=from_index(settings), **QUIET)
        )
        content = card.blob_bytes + sum(entry.bytes for entry in card.files.values())
        size = place.stat().st_size if place.is_file() else tree_bytes(place)
        target = load_settings(data_dir=folder / f"from-{name}")
        target.data_dir.mkdir()
        back_s, done = measured(
            lambda place=place, target=target: bring_back(target, str(place), with_vectors=True, **QUIET)
        )
        assert done.points == chunks and done.embedded == 0, done
        figures[name] = {
            "mib": round(size / 2**20, 1), "backup_s": round(seconds, 2), "over_plain_tar": round(seconds / plain_s, 2),
            "backup_mib_s": round(content / 2**20 / seconds, 1), "restore_s": round(back_s, 2),
            "restore_mib_s": round(content / 2**20 / back_s, 1),
        }  # fmt: skip
    small = make_system(folder / "small", embed)
    take_backup(small, str(folder / "small.tar"), vectors=from_index(small), **QUIET)
    both = {}
    for name, vectors in (("kept", True), ("embedded", False)):
        target = load_settings(data_dir=folder / f"small-{name}")
        target.data_dir.mkdir()
        both[name], done = measured(
            lambda target=target, vectors=vectors: bring_back(
                target, str(folder / "small.tar"), with_vectors=vectors, **QUIET
            )
        )
        assert done.embedded == (0 if vectors else embed)
    figures["restore_of"] = {
        "chunks": embed, "with_vectors_s": round(both["kept"], 2), "embedding_s": round(both["embedded"], 2),
        "ratio": round(both["embedded"] / both["kept"], 1),
    }  # fmt: skip
    return figures


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--embed", type=int, default=1_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    configure("WARNING")
    with tempfile.TemporaryDirectory(prefix="tsumugi-backup-benchmark-") as folder:
        figures = measure(Path(folder), options.chunks, options.embed)
    text = json.dumps(figures, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
