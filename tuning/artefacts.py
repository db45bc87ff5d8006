"""What a run made that no version serves: a reward model, or an adapter trained for export. One archive per run."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

from core.ports import BlobStore

MEDIA_TYPE = "application/x-tar"


def keep_artefact(blobs: BlobStore, folder: Path, kind: str) -> dict[str, Any]:
    """Store the files of `folder` as one archive; the same files give the same archive, byte by byte.

    Returns what is shown with the run: `{kind, digest, bytes, files}`.
    """
    buffer = io.BytesIO()
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in names:
            data = (folder / name).read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    data = buffer.getvalue()
    return {"kind": kind, "digest": blobs.put(data), "bytes": len(data), "files": names}


def unpack_artefact(blobs: BlobStore, artefact: dict[str, Any], folder: Path) -> Path:
    """Put an artefact's files into `folder`, which appears whole or not at all; one that is there is taken as it is."""
    if folder.is_dir():
        return folder
    staging = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(blobs.get(artefact["digest"]))) as archive:
        archive.extractall(staging, filter="data")
    staging.rename(folder)
    return folder
