"""The settings of each role, from the dataclasses that hold them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from airdraft.nodes.config.settings import (
    ClientConfig,
    ConfigError,
    CoordinatorConfig,
    DraftConfig,
    ServeConfig,
    StageConfig,
    TargetConfig,
)
from airdraft.nodes.config.sources import load, schema_of, variable_of
from airdraft.nodes.gateway.config import GatewayConfig
from bench.pages.dataclass_docs import meanings_of
from bench.pages.markdown import code, item

ROLES = {
    "coordinator": CoordinatorConfig,
    "target": TargetConfig,
    "draft": DraftConfig,
    "stage": StageConfig,
    "gateway": GatewayConfig,
    "serve": ServeConfig,
    "client": ClientConfig,
}
# Out of the range of every number, and in the form of nothing.
_NO_NUMBER = -(10**15)
_NO_TEXT = "?" * 65


def settings(role: str) -> str:
    kind = ROLES[role]
    # Those of `serve` that are a coordinator's are listed there.
    left_out = schema_of(CoordinatorConfig) if kind is ServeConfig else {}
    shown = (setting for setting in settings_of(kind()) if setting[0] not in left_out)
    return "\n".join(_line(kind, *setting) for setting in shown)


def settings_of(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Key, default and meaning of each setting. Raises KeyError for one without a meaning."""
    meanings = meanings_of(type(config))
    for field in dataclasses.fields(config):
        key, value = prefix + field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from settings_of(value, key + ".")
        else:
            yield key, value, meanings[field.name]


def _line(root: type, key: str, default: Any, meaning: str) -> str:
    shown = str(default).lower() if isinstance(default, bool) else repr(default).replace("'", '"')
    kind = {"str": "text", "int": "integer", "float": "number", "bool": "boolean"}
    variable = variable_of(key)
    said = f"{code(key)} ({kind[type(default).__name__]}, default {code(shown)}, "
    said += f"{code(variable)}): {meaning}"
    if accepted := _accepted(root, key, default):
        accepted = re.sub(r"\b\d{5,}\b", lambda found: f"{int(found[0]):,}", accepted)
        said += f" Accepted: {accepted}."
    return item(said)


def _accepted(root: type, key: str, default: Any) -> str:
    """What an error says of a value that is not accepted; "" where all are."""
    if isinstance(default, bool):
        return ""
    wrong = _NO_TEXT if isinstance(default, str) else type(default)(_NO_NUMBER)
    try:
        load(root, None, {key: wrong}, {})
    except ConfigError as error:
        found = re.fullmatch(rf"{re.escape(key)} = .*?: (.*) (?:is|are) accepted", str(error))
        return "" if found is None else found[1]
    return ""
