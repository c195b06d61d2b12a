"""The settings of each role, from the dataclasses that hold them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.pages.dataclass_docs import meanings_of
from bench.pages.markdown import code, item
from nodes.config.settings import (
    ClientConfig,
    ConfigError,
    CoordinatorConfig,
    DraftConfig,
    TargetConfig,
    load,
)
from nodes.gateway.config import GatewayConfig

ROLES = {
    "coordinator": CoordinatorConfig,
    "target": TargetConfig,
    "draft": DraftConfig,
    "gateway": GatewayConfig,
    "client": ClientConfig,
}
# Out of the range of every number, and in the form of nothing.
_NO_NUMBER = -(10**15)
_NO_TEXT = "?" * 65


@dataclass(frozen=True, slots=True)
class Setting:
    """accepted: what an error says of a value that is not; "" where all are."""

    key: str
    default: Any
    meaning: str
    accepted: str

    @property
    def variable(self) -> str:
        return "AIRDRAFT_" + self.key.upper().replace(".", "__")


def settings_of(role: str) -> Iterator[Setting]:
    """Raises KeyError for a setting whose docstring does not say what it means."""
    kind = ROLES[role]
    yield from _of(kind, kind(), "")


def _of(root: type, config: Any, prefix: str) -> Iterator[Setting]:
    meanings = meanings_of(type(config))
    for field in dataclasses.fields(config):
        key, value = prefix + field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _of(root, value, key + ".")
        else:
            yield Setting(key, value, meanings[field.name], _accepted(root, key, value))


def _accepted(root: type, key: str, default: Any) -> str:
    if isinstance(default, bool):
        return ""
    wrong = _NO_TEXT if isinstance(default, str) else type(default)(_NO_NUMBER)
    try:
        load(root, None, {key: wrong}, {})
    except ConfigError as error:
        found = re.fullmatch(rf"{re.escape(key)} = .*?: (.*) (?:is|are) accepted", str(error))
        return "" if found is None else found[1]
    return ""


def settings(role: str) -> str:
    return "\n".join(_line(setting) for setting in settings_of(role))


def _line(setting: Setting) -> str:
    default = setting.default
    shown = str(default).lower() if isinstance(default, bool) else repr(default).replace("'", '"')
    kind = {"str": "text", "int": "integer", "float": "number", "bool": "boolean"}
    said = f"{code(setting.key)} ({kind[type(default).__name__]}, default {code(shown)}, "
    said += f"{code(setting.variable)}): {setting.meaning}"
    if setting.accepted:
        accepted = re.sub(r"\b\d{5,}\b", lambda found: f"{int(found[0]):,}", setting.accepted)
        said += f" Accepted: {accepted}."
    return item(said)
