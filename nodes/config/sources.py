"""Reads the settings of a role: TOML file < AIRDRAFT_ environment < command line."""

import dataclasses
import difflib
import os
import tomllib
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from airdraft.nodes.config.settings import ConfigError

T = TypeVar("T")

# Settings that earlier versions had, and what to do instead.
_REMOVED: Final = {
    "classes.weights": "the class that has served goes on serving alone: leave it out",
    "engine.model_dir": "engine.model_sha256 says which file is accepted",
}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def load(
    config_class: type[T],
    path: Path | None,
    overrides: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
) -> T:
    """Load a role's configuration from all three sources.

    overrides: Values of the command line by dotted keys; None values are ignored. In the
    environment `engine.max_streams` is AIRDRAFT_ENGINE__MAX_STREAMS. Raises ConfigError.
    """
    values: dict[str, Any] = {}
    schema = schema_of(config_class)
    if path is not None:
        _merge_table(values, read_toml(path), "", schema, str(path))
    given = os.environ if environ is None else environ
    for key, says in _REMOVED.items():
        if variable_of(key) in given:
            raise ConfigError(f"{variable_of(key)} is no setting any more: {says}")
    keys = {variable_of(key): key for key in schema}
    for name, key in keys.items():
        if name in given:
            values[key] = _parse(name, given[name], schema[key])
    # Two underscores where there should be one, or the other way round, are easily overlooked.
    dense = {name.replace("_", ""): name for name in keys}
    for name in given.keys() - keys.keys():
        if name.startswith("AIRDRAFT_") and (meant := dense.get(name.replace("_", ""))):
            raise ConfigError(f"{name} is no setting: did you mean {meant}?")
    values |= {key: value for key, value in overrides.items() if value is not None}
    return _build(config_class, values)


def variable_of(key: str) -> str:
    """Returns the environment variable of a setting, such as AIRDRAFT_ENGINE__MAX_STREAMS."""
    return "AIRDRAFT_" + key.upper().replace(".", "__")


def environment() -> Mapping[str, str]:
    """Returns the process's environment, because only this module may read os.environ."""
    return os.environ


def read_toml(path: Path, what: str = "config file") -> dict[str, Any]:
    """Returns the content of a file. Raises ConfigError, which begins with `what`."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"{what} {path} not found") from None
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        # Invalid TOML or UTF-8, too long numbers, too deep tables, and NUL in the path.
        raise ConfigError(f"{what} {path} is not valid TOML: {error}") from error


def schema_of(config_class: type, prefix: str = "") -> dict[str, Any]:
    """Returns the types of all settings of a config class by their dotted keys."""
    schema: dict[str, Any] = {}
    hints = typing.get_type_hints(config_class)
    for item in dataclasses.fields(config_class):
        kind = hints[item.name]
        if dataclasses.is_dataclass(kind):
            schema |= schema_of(typing.cast(type, kind), f"{prefix}{item.name}.")
        else:
            schema[prefix + item.name] = kind
    return schema


def _merge_table(
    values: dict[str, Any],
    table: Mapping[str, Any],
    prefix: str,
    schema: dict[str, Any],
    where: str,
) -> None:
    """Add the settings of a table and of those in it to `values`, by their dotted keys."""
    for name, value in table.items():
        key = prefix + name
        if isinstance(value, dict) and any(k.startswith(key + ".") for k in schema):
            _merge_table(values, value, key + ".", schema, where)
        elif says := next(
            (says for k, says in _REMOVED.items() if (k + ".").startswith(key + ".")), ""
        ):
            raise ConfigError(f"{where}: {key} is no setting any more: {says}")
        elif key not in schema:
            # It may be in the wrong table.
            near = [known for known in schema if known.endswith(f".{name}")]
            near = near or difflib.get_close_matches(key, schema, n=1)
            hint = f", did you mean {near[0]}?" if near else f"; known: {', '.join(schema)}"
            raise ConfigError(f"{where}: unknown key {key}{hint}")
        else:
            values[key] = _checked(where, key, value, schema[key])


def _checked(where: str, key: str, value: Any, kind: Any) -> Any:
    """Returns a value of a TOML file. Raises ConfigError if its type is not the setting's."""
    if type(value) is int and kind is float:
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where}: {key} has too many digits") from None
    if type(value) is not kind:
        raise ConfigError(f"{where}: {key} = {value!r} is not of type {kind.__name__}")
    return value


def _parse(name: str, text: str, kind: Any) -> Any:
    """Returns the value of an environment variable as the type of its setting."""
    if kind is bool:
        if text.lower() not in _BOOLEANS:
            raise ConfigError(f"{name} = {text!r}: one of {', '.join(_BOOLEANS)} is accepted")
        return _BOOLEANS[text.lower()]
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{name} = {text!r} is not of type {kind.__name__}") from None


def _build(config_class: type[T], values: Mapping[str, Any]) -> T:
    """Returns a config with values by their dotted keys, which have one dot at most."""
    arguments: dict[str, Any] = {}
    for item in dataclasses.fields(config_class):  # type: ignore[arg-type]
        prefix = item.name + "."
        below = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
        if below:
            factory = typing.cast(Callable[[], Any], item.default_factory)
            arguments[item.name] = dataclasses.replace(factory(), **below)
        elif item.name in values:
            arguments[item.name] = values[item.name]
    return config_class(**arguments)
