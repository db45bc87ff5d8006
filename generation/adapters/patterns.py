"""Patterns of an adapter's configuration, which come from a file: matched by RE2, whose time is linear in the text.

PEFT hands such patterns to `re`, where one of twenty characters can run for years. What PEFT is given here holds no
pattern: `without_patterns` writes out the modules that each of them names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import re2  # type: ignore[import-untyped]

ALL_LINEAR = "all-linear"
_BY_MODULE = ("rank_pattern", "alpha_pattern")
_NAMES = ("target_modules", "exclude_modules")
_MAX_BYTES = 1 << 20


def value_for(config: Mapping[str, Any], name: str, module: str, default: float) -> float:
    """A module's number by `rank_pattern` or `alpha_pattern`, the first that fits, as PEFT reads it."""
    patterns: Mapping[str, float] = config.get(name) or {}
    if module in patterns:  # written out by `without_patterns`
        return patterns[module]
    return next((value for pattern, value in patterns.items() if _of_module(pattern).match(module)), default)


def is_named(names: str | Collection[str], module: str) -> bool:
    """Whether `target_modules` or `exclude_modules` names a module."""
    if isinstance(names, str):
        return names == ALL_LINEAR or compiled(names).fullmatch(module) is not None
    return module in names or any(module.endswith(f".{name}") for name in names)


def without_patterns(config: Mapping[str, Any], modules: Collection[str]) -> dict[str, Any]:
    """The configuration with each pattern replaced by the modules of the base that it names."""
    written = dict(config)
    for name in _NAMES:
        value = config.get(name)
        if isinstance(value, str) and value != ALL_LINEAR:
            written[name] = sorted(module for module in modules if is_named(value, module))
    for name in _BY_MODULE:
        if config.get(name):
            found = ((module, value_for(config, name, module, -1)) for module in sorted(modules))
            written[name] = {module: value for module, value in found if value != -1}
    return written


@lru_cache(maxsize=256)
def compiled(pattern: str) -> Any:
    """A pattern for RE2.

    Raises:
        ValueError: RE2 cannot read it, or it would need too much memory.
    """
    options = re2.Options()
    options.max_mem = _MAX_BYTES
    options.log_errors = False
    try:
        return re2.compile(pattern, options=options)
    except re2.error as error:
        raise ValueError(f"not a pattern that can be matched: {error}") from error


def _of_module(pattern: str) -> Any:
    compiled(pattern)  # alone, lest its brackets close ours
    return compiled(rf"(?:.*\.)?(?:{pattern})$")
