"""Which code made an adapter: a digest over the sources that shape a training result.

Not a commit: an installed wheel has none, and a commit says nothing of a changed working copy.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

_SOURCES = {
    "tuning": (
        "train.py",
        "attach.py",
        "batches.py",
        "export.py",
        "lean_forward.py",
        "packing.py",
        "trainers.py",
        "methods/online.py",
        "methods/preference.py",
        "methods/rewards.py",
        "methods/sft.py",
        "methods/work.py",
        "rows.py",
        "template.py",
        "recipe.py",
        "render.py",
        "split.py",
        "negatives.py",
        "prepare.py",
    ),
    "generation": ("prompt.py", "chat.py", "control_marks.py"),
}


@cache
def code_revision() -> str:
    """First 16 hex digits of the SHA-256 over those files."""
    whole = hashlib.sha256()
    for package, names in _SOURCES.items():
        for name in names:
            whole.update(name.encode())
            whole.update((resources.files(package) / name).read_bytes())
    return whole.hexdigest()[:16]
