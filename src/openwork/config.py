"""Configs: frozen dataclasses filled from a TOML or JSON file and dotted overrides; an unknown key is an error.

    train = read_config(TrainConfig, "train.toml", ["model.d_model=256", "sparsity.density=1/64"])

A later source overrides an earlier one. Values are converted to the type of their field; numbers may be fractions.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from openwork.errors import UserError

T = TypeVar("T")


def read_config(kind: type[T], path: str | Path | None = None, overrides: Sequence[str] = ()) -> T:
    """A config of dataclass `kind` from the file `path` (TOML or JSON) and ``dotted.key=value`` overrides.

    Raises:
        UserError: unreadable file, unknown key (with the nearest known one), or a value of the wrong type.
    """
    content = _read(Path(path)) if path is not None else {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UserError(f"{override!r} is no setting; write it as key=value")
        _put(content, key.strip(), value.strip())
    return from_dict(kind, content)


def from_dict(kind: type[T], content: Mapping[str, Any], where: str = "") -> T:
    """A config of dataclass `kind` from a nested mapping, checked key by key."""
    types_of = typing.get_type_hints(kind)
    values = {}
    for key, value in content.items():
        name = f"{where}{key}"
        if key not in types_of:
            raise UserError(f"unknown key {name!r}; {_suggestion(key, types_of, where)}")
        values[key] = _convert(types_of[key], value, name)
    return kind(**values)


def to_dict(config: Any) -> dict[str, Any]:
    """The config as a nested dict of plain JSON values, as it reads back from a file."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def number(text: str, name: str) -> float:
    """The number that `text` says, which may be a fraction such as 1/64; a `UserError` names the setting `name`."""
    return _convert(float, text, name)


def numbers_in(text: str, name: str) -> list[float]:
    """The numbers that `text` lists with commas between them; a `UserError` names the setting `name`."""
    return [number(part.strip(), name) for part in text.split(",")]


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UserError(f"cannot read the config {path}: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"the config {path} is not valid {'JSON' if path.suffix == '.json' else 'TOML'}: {error}"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f'the config {path} holds no JSON object; write it as {{"key": value}}')
    return content


def _put(content: dict[str, Any], key: str, value: str) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise UserError(f"{key!r} goes into {parent!r}, which is a value; give one of the two")
    content[last] = value


def _suggestion(key: str, known: Mapping[str, Any], where: str) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {where + near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"


def _convert(kind: Any, value: Any, name: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, name)
    if origin is typing.Literal:
        if value not in arguments:
            raise UserError(f"{name} is {value!r}; choose one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, Sequence):
            raise UserError(f"{name} is {value!r}; it must be a list, or values with commas between them")
        return tuple(_convert(arguments[0], item, name) for item in items)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise UserError(
                f"{name} is {value!r}; it has keys of its own, such as {name}.{dataclasses.fields(kind)[0].name}"
            )
        return from_dict(typing.cast("type[Any]", kind), value, f"{name}.")
    return _number_or_text(kind, value, name)


MOST = 10**300
"""Above any number that means something, and below what floats overflow at."""


def _number_or_text(kind: type, value: Any, name: str) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if kind is int and not isinstance(value, bool):
            number = Fraction(str(value).replace("_", ""))
            if number.denominator == 1 and abs(number) < MOST:
                return int(number)
        if kind is float and not isinstance(value, bool):
            return float(Fraction(value)) if isinstance(value, str) and "/" in value else float(value)
        if kind is str:
            return str(value)
    except (ValueError, KeyError, TypeError, ArithmeticError):
        pass
    raise UserError(f"{name} is {value!r}; it must be of type {kind.__name__}")
