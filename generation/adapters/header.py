"""The header of a safetensors file, read whole and held against the file before any reader of tensors sees it.

Form: 8 bytes little-endian length N, N bytes of JSON {name: {dtype, shape, data_offsets: [start, end]}}, then the bytes
of all tensors without gaps (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import AdapterRefused

if TYPE_CHECKING:
    import torch

MAX_HEADER_BYTES = 100_000_000
"""The limit of the format's own readers."""
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor as the header names it. dtype: such as F32 or BF16."""

    dtype: str
    shape: tuple[int, ...]


def read_header(weights: Path) -> dict[str, TensorEntry]:
    """Tensors of a safetensors file by name, from its header alone.

    Raises:
        AdapterRefused: not a safetensors file (`adapter_unsafe_file`), or one whose header and bytes disagree: cut
            off, overlapping, of unknown types (`adapter_bad_weights`).
    """
    try:
        size = weights.stat().st_size
        with weights.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER_BYTES:
                raise ValueError("header too long")
            text = file.read(length)
        if len(text) < length and text[:1] == b"{":
            raise _damaged(weights, f"it ends inside of its header, after {size} bytes")
        header = json.loads(text)
        if not isinstance(header, dict):
            raise ValueError("the header is not an object")
    except (OSError, ValueError, RecursionError, struct.error) as error:
        raise AdapterRefused(f"{weights.name} is not a safetensors file", code="adapter_unsafe_file") from error
    entries: dict[str, TensorEntry] = {}
    spans: list[tuple[int, int]] = []
    for name, given in header.items():
        if name == "__metadata__":
            continue
        entry, span = _entry(weights, name, given)
        entries[name] = entry
        spans.append(span)
    _check_spans(weights, spans, size - 8 - length)
    return entries


def load_tensors(weights: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file, on the CPU.

    Raises:
        AdapterRefused: as for `read_header`, and whatever else the reader of the format finds (`adapter_bad_weights`).
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read_header(weights)
    try:
        tensors: dict[str, torch.Tensor] = load_file(weights)
        return tensors
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(weights, str(error)) from error


def _entry(weights: Path, name: str, given: Any) -> tuple[TensorEntry, tuple[int, int]]:
    if not _is_text(name):
        raise _damaged(weights, "a tensor's name is not Unicode text")
    if not isinstance(given, Mapping) or not {"dtype", "shape", "data_offsets"} <= set(given):
        raise _damaged(weights, f"'{name}' is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = given["dtype"], given["shape"], given["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise _damaged(weights, f"'{name}' is of an unknown type")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise _damaged(weights, f"shape or place of '{name}' is not a list of numbers")
    start, end = offsets
    if (end - start) * 8 != math.prod(shape) * _BITS[dtype]:
        raise _damaged(weights, f"'{name}' is {shape} of {dtype}, which is not {end - start} bytes")
    return TensorEntry(dtype, tuple(shape)), (start, end)


def _check_spans(weights: Path, spans: list[tuple[int, int]], held: int) -> None:
    """The tensors must fill what follows the header, one behind the other."""
    position = 0
    for start, end in sorted(spans):
        if start != position:
            raise _damaged(weights, "its tensors overlap or leave gaps")
        position = end
    if position != held:
        raise _damaged(weights, f"it holds {max(held, 0)} bytes of weights where its header names {position}")


def _are_sizes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 8
        and all(type(number) is int and 0 <= number < 2**53 for number in value)
    )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in name


def _damaged(weights: Path, why: str) -> AdapterRefused:
    return AdapterRefused(f"{weights.name} is damaged: {why}", code="adapter_bad_weights")
