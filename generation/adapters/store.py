"""Adapter folders on disk, one per content digest. A folder appears whole or not at all and never changes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import AdapterRefused
from generation.adapters.manifest import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    FileDigest,
    Manifest,
    content_digest,
    read_config,
    read_manifest,
    refuse_unsafe_files,
    sha256_file,
    write_manifest,
)


@contextmanager
def staged(adapters_dir: Path, folder: Path, manifest: Manifest) -> Iterator[tuple[Path, Manifest]]:
    """A copy of an adapter beside its future place, under a manifest that fits the copy; gone afterwards.

    The copy names the base by its name: what PEFT wrote there is a path of the machine that trained.

    Raises:
        AdapterRefused: the folder is not what the manifest was made for, or holds files that are not safe.
    """
    refuse_unsafe_files(entry.name for entry in folder.iterdir())
    if content_digest(folder) != manifest.content_digest:
        raise AdapterRefused("the folder is not what the manifest was made for", code="adapter_digest_mismatch")
    adapters_dir.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=adapters_dir, prefix=".new-"))
    try:
        config = {**read_config(folder), "base_model_name_or_path": manifest.base_name}
        (work / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
        shutil.copyfile(folder / WEIGHTS_FILE, work / WEIGHTS_FILE)
        files = {
            name: FileDigest(sha256=sha256_file(work / name), bytes=(work / name).stat().st_size)
            for name in (CONFIG_FILE, WEIGHTS_FILE)
        }
        manifest = manifest.model_copy(update={"files": files})
        write_manifest(work, manifest)
        yield work, manifest
    finally:
        shutil.rmtree(work, ignore_errors=True)


def publish(adapters_dir: Path, work: Path, digest: str) -> Path:
    """Move a staged folder to its place. Content that is there already stays; a damaged copy of it is replaced."""
    target = adapters_dir / digest
    if target.exists() and is_whole(target, digest):
        return target
    work.chmod(0o755)
    for path in work.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if target.exists():
        target.rename(work.with_name(f"{work.name}.damaged"))
        shutil.rmtree(work.with_name(f"{work.name}.damaged"), ignore_errors=True)
    work.rename(target)
    return target


def is_whole(folder: Path, digest: str) -> bool:
    """Whether a stored folder still is the content it is named after."""
    try:
        manifest = read_manifest(folder)
        return manifest.content_digest == digest and content_digest(folder) == digest
    except AdapterRefused:
        return False
