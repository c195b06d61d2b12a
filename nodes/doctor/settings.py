"""Checks configuration files and the environment."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from nodes.config.settings import ConfigError, CoordinatorConfig, DraftConfig, TargetConfig, load
from nodes.doctor.finding import Finding, fail, ok, warn

Config = CoordinatorConfig | TargetConfig | DraftConfig
ROLES: Mapping[str, type[Config]] = {
    "target": TargetConfig,
    "draft": DraftConfig,
    "coordinator": CoordinatorConfig,
}
# Variables that are not settings of a role.
_OTHERS = ("AIRDRAFT_CACHE", "AIRDRAFT_KERNELS", "AIRDRAFT_KEYS", "AIRDRAFT_LAW1_CASES")


def check_config(
    role: str, path: Path | None, environ: Mapping[str, str]
) -> tuple[Finding, Config | None]:
    """Return the finding, and the configuration if it is valid. path: None for no file."""
    where = str(path) if path is not None else "environment and defaults"
    try:
        config = load(ROLES[role], path, {}, environ)
    except ConfigError as error:
        return fail(f"configuration of a {role}: {error}", "correct that key"), None
    return ok(f"configuration of a {role} from {where}"), config


def check_environment(environ: Mapping[str, str], known: frozenset[str]) -> list[Finding]:
    """Report unknown variables AIRDRAFT_... . known: the dotted keys of all roles."""
    names = {"AIRDRAFT_" + key.upper().replace(".", "__") for key in known} | set(_OTHERS)
    findings = []
    for name in sorted(environ):
        if name.startswith("AIRDRAFT_") and name not in names:
            # The common prefix would make all names similar, so it is not compared.
            ends = {known.removeprefix("AIRDRAFT_"): known for known in names}
            near = difflib.get_close_matches(name.removeprefix("AIRDRAFT_"), ends, n=1)
            mend = f"did you mean {ends[near[0]]}?" if near else "unset it"
            findings.append(warn(f"{name} in the environment has no effect", mend))
    return findings
