"""What an adapter version is bound to, and the digests that prove it. Nothing here imports torch.

The content digest is SHA-256 over the sorted pairs (file name, SHA-256) of the weights and of `adapter_config.json` in
canonical form. The canonical form drops where the base lay on the machine that trained it, so that the same training
result has the same digest everywhere.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import AdapterRefused
from core.tables.base import utc_now
from generation.adapters.header import read_header
from generation.prompt import PROMPT_VERSION

if TYPE_CHECKING:
    from generation.models import BaseModelInfo

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MANIFEST_FILE = "manifest.json"
UNSAFE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib"})
"""Formats that can run code when read, or that we have no reader for. None is ever opened."""

_PACKAGES = ("torch", "transformers", "peft", "trl", "tokenizers", "safetensors", "tsumugi")
_MACHINE_KEYS = frozenset({"base_model_name_or_path", "revision", "peft_version", "inference_mode", "auto_mapping"})
"""Keys of adapter_config.json that say where or with what it was made, not what it is."""


class FileDigest(BaseModel):
    """One file of an adapter folder."""

    model_config = ConfigDict(frozen=True)

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class ProbeFingerprint(BaseModel):
    """What the adapter does to the last logits of one probe prompt: the tokens it moves most, and by how much."""

    model_config = ConfigDict(frozen=True)

    token_ids: list[int]
    shifts: list[float]
    """Logit with the adapter minus logit without it, both less their mean over the vocabulary; float32 arithmetic."""
    logprob_shifts: list[float] | None = None
    """The same of log-probabilities, which is all that a server tells; None in older manifests."""


class Fingerprint(BaseModel):
    """Effect of an adapter on fixed probe prompts."""

    model_config = ConfigDict(frozen=True)

    probes: list[ProbeFingerprint]
    probes_version: str


class Manifest(BaseModel):
    """The card of an adapter version; `manifest.json` in its folder."""

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: int = 1
    base_name: str
    base_digest: str
    tokenizer_digest: str
    template_digest: str
    prompt_version: str
    content_digest: str
    files: dict[str, FileDigest]
    dataset_version: str | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    code_revision: str | None = None
    packages: dict[str, str] = Field(default_factory=dict)
    gate_passed: bool | None = None
    gate_report_sha256: str | None = None
    fingerprint: Fingerprint | None = None
    created_at: datetime = Field(default_factory=utc_now)
    notes: dict[str, Any] = Field(default_factory=dict)


def canonical_json(value: object) -> bytes:
    """One byte string per value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256_of(value: object) -> str:
    """SHA-256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """`adapter_config.json` without what depends on the machine; sets that PEFT writes in any order are sorted."""
    kept = {key: value for key, value in config.items() if key not in _MACHINE_KEYS and value is not None}
    for key in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(kept.get(key), list):
            kept[key] = sorted(kept[key])
    return kept


def read_config(folder: Path) -> dict[str, Any]:
    """Read `adapter_config.json`.

    Raises:
        AdapterRefused: it is missing or no JSON object (`adapter_bad_config`).
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
    except FileNotFoundError as error:
        raise AdapterRefused(f"the adapter has no {CONFIG_FILE}", code="adapter_bad_config") from error
    except (ValueError, RecursionError) as error:
        raise AdapterRefused(f"{CONFIG_FILE} is not valid JSON: {error}", code="adapter_bad_config") from error
    if not isinstance(config, dict):
        raise AdapterRefused(f"{CONFIG_FILE} must hold a JSON object", code="adapter_bad_config")
    try:
        canonical_json(config)
    except UnicodeEncodeError as error:
        detail = f"{CONFIG_FILE} holds half of a surrogate pair"
        raise AdapterRefused(detail, code="adapter_bad_config") from error
    return config


def content_digest(folder: Path) -> str:
    """Digest that names an adapter's content; see the module docstring.

    Raises:
        AdapterRefused: a file is missing or unreadable.
    """
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise AdapterRefused(f"the adapter has no {WEIGHTS_FILE}", code="adapter_bad_config")
    return sha256_of(
        [[CONFIG_FILE, sha256_of(canonical_config(read_config(folder)))], [WEIGHTS_FILE, sha256_file(weights)]]
    )


def tensor_shapes(weights: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file, from its header alone.

    Raises:
        AdapterRefused: as for `header.read_header`.
    """
    return {name: entry.shape for name, entry in read_header(weights).items()}


def refuse_unsafe_files(names: Iterable[str]) -> None:
    """Refuse file names that stand for pickles or unknown weights.

    Raises:
        AdapterRefused: with code `adapter_unsafe_file`.
    """
    for name in names:
        if Path(name).suffix.lower() in UNSAFE_SUFFIXES:
            raise AdapterRefused(
                f"'{name}' may run code when it is read; adapters are taken as safetensors only",
                code="adapter_unsafe_file",
                extra={"file": name},
            )


def package_versions() -> dict[str, str]:
    """Versions of the packages that shape a training result, where installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def build_manifest(
    folder: Path,
    base: BaseModelInfo,
    *,
    dataset_version: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    code_revision: str | None = None,
    gate_report: Mapping[str, Any] | None = None,
    gate_passed: bool | None = None,
    fingerprint: Fingerprint | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Manifest:
    """Bind the adapter in `folder` to the base it was trained on and to how it was made.

    base: the model whose weights were under the adapter during training, exactly.

    Raises:
        AdapterRefused: `folder` is not an adapter.
    """
    return Manifest(
        base_name=base.name,
        base_digest=base.digest,
        tokenizer_digest=base.tokenizer_digest,
        template_digest=base.template_digest,
        prompt_version=PROMPT_VERSION,
        content_digest=content_digest(folder),
        files={
            name: FileDigest(sha256=sha256_file(folder / name), bytes=(folder / name).stat().st_size)
            for name in (CONFIG_FILE, WEIGHTS_FILE)
        },
        dataset_version=dataset_version,
        recipe=dict(recipe or {}),
        code_revision=code_revision,
        packages=package_versions(),
        gate_passed=gate_passed,
        gate_report_sha256=sha256_of(dict(gate_report)) if gate_report is not None else None,
        fingerprint=fingerprint,
        notes=dict(notes or {}),
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` in one step."""
    temporary = folder / f".{MANIFEST_FILE}.new"
    temporary.write_text(manifest.model_dump_json(indent=2) + "\n", "utf-8")
    temporary.replace(folder / MANIFEST_FILE)


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json`.

    Raises:
        AdapterRefused: it is missing or malformed (`adapter_bad_manifest`).
    """
    try:
        return Manifest.model_validate_json((folder / MANIFEST_FILE).read_text("utf-8"))
    except FileNotFoundError as error:
        raise AdapterRefused(f"the adapter in {folder.name} has no manifest", code="adapter_bad_manifest") from error
    except (ValidationError, ValueError, RecursionError) as error:
        raise AdapterRefused(f"the manifest is not readable: {error}", code="adapter_bad_manifest") from error


def verify(folder: Path, base: BaseModelInfo) -> Manifest:
    """Check an adapter folder against its manifest and the base; the fingerprint is the engine's part.

    Raises:
        AdapterRefused: `adapter_digest_mismatch`, `adapter_wrong_base`, `adapter_wrong_tokenizer`,
            `adapter_wrong_template`, `adapter_wrong_prompt`, `adapter_bad_manifest` or `adapter_unsafe_file`.
    """
    manifest = read_manifest(folder)
    refuse_unsafe_files(entry.name for entry in folder.iterdir())
    for name, digest in manifest.files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file() or sha256_file(path) != digest.sha256:
            raise AdapterRefused(
                f"'{name}' is not the file the manifest was made for",
                code="adapter_digest_mismatch",
                extra={"file": name},
            )
    if not {CONFIG_FILE, WEIGHTS_FILE} <= set(manifest.files) or content_digest(folder) != manifest.content_digest:
        raise AdapterRefused("the content is not what the manifest was made for", code="adapter_digest_mismatch")
    checks = (
        ("adapter_wrong_base", "base weights", manifest.base_digest, base.digest),
        ("adapter_wrong_tokenizer", "tokenizer", manifest.tokenizer_digest, base.tokenizer_digest),
        ("adapter_wrong_template", "chat template", manifest.template_digest, base.template_digest),
        ("adapter_wrong_prompt", "prompt version", manifest.prompt_version, PROMPT_VERSION),
    )
    for code, what, trained, serving in checks:
        if trained != serving:
            raise AdapterRefused(
                f"trained on {what} {trained[:12]} ({manifest.base_name}), but {base.name} has {serving[:12]}",
                code=code,
                extra={"trained": trained, "serving": serving},
            )
    return manifest
