"""Names of settings that do not exist: an error with the nearest that does, since a misspelt limit is no limit."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

from pydantic import BaseModel, ValidationError

from core.errors import InvalidInput

OTHER_VARIABLES = frozenset({"URL", "API_KEY", "SECRETS_DIR", "KEY", "PUBLISH", "DATA", "SCHEMA_EXAMPLES"})
"""Of the commands, of docker-compose.yml and of tests, but none of the settings."""
_PREFIX = "TSUMUGI_"


def refuse_unknown(model: type[BaseModel], variables: Mapping[str, str], file: Path) -> None:
    """Check the first level of names; the sections check their own.

    Raises:
        InvalidInput: `invalid_settings`, in one line.
    """
    for name in _names_of(variables):
        first = name.partition("__")[0].lower()
        if first not in model.model_fields:
            raise _unknown(f"{_PREFIX}{name}", first, model, lambda near: f"{_PREFIX}{near.upper()}")
    try:
        written = tomllib.loads(file.read_text("utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{file} cannot be read: {error}", code="invalid_settings") from error
    for name, value in written.items():
        if name not in model.model_fields:
            shown = f"[{name}]" if isinstance(value, dict) else name
            raise _unknown(f"{shown} in {file}", name, model, str)


def in_one_line(error: ValidationError, model: type[BaseModel]) -> InvalidInput:
    """What is wrong with a setting that is not taken: first with one that does not exist."""
    found = error.errors(include_url=False, include_input=False)
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])  # what is missing is misspelt
    place = [str(part) for part in first["loc"]]
    name = ".".join(place) or "settings"
    if first["type"] == "extra_forbidden":
        section = _section_of(model, place[:-1])
        return _unknown(name, place[-1], section, lambda near: ".".join([*place[:-1], near]))
    return InvalidInput(f"setting {name}: {first['msg']}", code="invalid_settings")


def _names_of(variables: Mapping[str, str]) -> Iterator[str]:
    for variable, value in sorted(variables.items()):
        name = variable.upper()
        short = name.removeprefix(_PREFIX)
        if short == name or short in OTHER_VARIABLES or short.startswith("TEST_"):
            continue
        address = value.startswith(("tcp://", "udp://")) or {"SERVICE", "TCP", "UDP"} & set(short.split("_"))
        if address and "__" not in short:
            continue  # set by Kubernetes in every container, for services whose name begins with `tsumugi`
        yield short


def _section_of(model: type[BaseModel], place: list[str]) -> type[BaseModel]:
    for part in place:
        field = model.model_fields.get(part)
        kinds = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
    return model


def _unknown(shown: str, name: str, model: type[BaseModel], write: Callable[[str], str]) -> InvalidInput:
    near = get_close_matches(name, model.model_fields, n=1)
    told = f"; did you mean {write(near[0])}?" if near else ""
    return InvalidInput(f"unknown setting {shown}{told}", code="invalid_settings")
