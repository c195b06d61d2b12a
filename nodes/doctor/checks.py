"""Runs all checks of this machine in the order in which a user reads them; checks its settings,
libllama and airdraft's kernels."""

import difflib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from airdraft.mesh.endpoints import check_bind
from airdraft.mesh.errors import EndpointError, InsecureEndpointError, KeysError
from airdraft.nodes.catalog import Catalog, default_cache_dir
from airdraft.nodes.config.settings import (
    STAGE_ENDPOINT_FOR_ALL,
    ConfigError,
    CoordinatorConfig,
    DraftConfig,
    ServeConfig,
    StageConfig,
    TargetConfig,
)
from airdraft.nodes.config.sources import load, schema_of, variable_of
from airdraft.nodes.doctor import keys, machine, models
from airdraft.nodes.doctor.finding import Finding, fail, note, ok, warn
from airdraft.nodes.engine.cores import read
from airdraft.nodes.engine.kernels.library import Kernels
from airdraft.nodes.engine.llama_abi import build_name, kernels
from airdraft.nodes.engine.protocol import EngineError
from airdraft.nodes.gateway.config import GatewayConfig, admits_anybody
from airdraft.nodes.keys.keyring import Keyring

Config = CoordinatorConfig | ServeConfig | TargetConfig | DraftConfig | StageConfig | GatewayConfig
ROLES: Mapping[str, type[Config]] = {
    "target": TargetConfig,
    "draft": DraftConfig,
    "stage": StageConfig,
    "coordinator": CoordinatorConfig,
    "gateway": GatewayConfig,
    "serve": ServeConfig,
}
# What an environment configures where no role is named. `serve` is all of them in one, and a stage
# is for models that one machine cannot hold.
_USUAL = [role for role in ROLES if role not in ("serve", "stage")]
# Variables that are not settings of a role.
_OTHERS = ("AIRDRAFT_CACHE", "AIRDRAFT_KERNELS", "AIRDRAFT_KEYS", "AIRDRAFT_LAW1_CASES")


@dataclass(frozen=True, slots=True)
class Asked:
    """What to check. configs: role -> its file, or None for the environment alone."""

    configs: Mapping[str, Path | None]
    environ: Mapping[str, str]
    ring: Keyring
    root: Path = Path("/")


def roles_in(environ: Mapping[str, str]) -> list[str]:
    """Returns the roles that an environment may configure.

    AIRDRAFT_LISTEN is an endpoint for a coordinator and HOST:PORT for a gateway, so it is meant for
    one of them.
    """
    if not (listen := environ.get("AIRDRAFT_LISTEN")):
        return _USUAL
    other = "gateway" if "://" in listen else "coordinator"
    return [role for role in _USUAL if role != other]


def all_local(asked: Asked) -> list[Finding]:
    """Run all checks except those of the mesh."""
    checked = [check_config(r, p, asked.environ) for r, p in asked.configs.items()]
    configs = [config for _, config in checked if config is not None]
    return [
        *_software(asked),
        *[finding for finding, _ in checked],
        *check_environment(asked.environ),
        *_models(configs, asked),
        *_machine(asked.root),
        *keys.check_keys(asked.ring),
        *_endpoints(configs, asked),
    ]


def _software(asked: Asked) -> list[Finding]:
    try:
        build = build_name()
    except EngineError as error:
        return [fail(str(error), _REINSTALL)]
    library = ok(f"libllama of llama-cpp-python {build.partition(' ')[0]}")
    isa = check_isa(build, _cpu_flags(asked.root), platform.machine())
    return [library, isa, check_kernels(kernels())]


def _cpu_flags(root: Path) -> frozenset[str]:
    lines = read(root / "proc/cpuinfo").splitlines()
    flags = [line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))]
    return frozenset(flags[0].split()) if flags else frozenset()


def _models(configs: list[Config], asked: Asked) -> list[Finding]:
    cache = default_cache_dir(asked.environ)
    catalog = Catalog(cache)
    engines = [c.engine for c in configs if isinstance(c, TargetConfig | DraftConfig | ServeConfig)]
    checked = [models.check_model(engine, catalog) for engine in engines]
    num_bytes = sum(path.stat().st_size for _, path in checked if path is not None)
    meminfo = read(asked.root / "proc/meminfo")
    memory = models.check_memory(num_bytes, meminfo)
    return [models.check_cache(cache), *[finding for finding, _ in checked], memory]


def _machine(root: Path) -> list[Finding]:
    return [
        machine.check_swap(read(root / "proc/meminfo")),
        machine.check_thermal(root),
        machine.check_frequency(root),
    ]


def _endpoints(configs: list[Config], asked: Asked) -> list[Finding]:
    """Check where coordinator and gateway listen and where the others connect."""
    findings = []
    for config in configs:
        try:
            if isinstance(config, CoordinatorConfig):
                endpoint = asked.ring.listen(config.listen)
                check_bind(endpoint)
                asked.ring.server_keys(endpoint)
                findings.append(machine.check_port(endpoint))
            else:
                asked.ring.link(config.connect)
            if isinstance(config, StageConfig):
                findings.append(machine.check_port(config.listen or STAGE_ENDPOINT_FOR_ALL))
            if isinstance(config, GatewayConfig):
                findings.append(machine.check_port(f"tcp://{config.listen}"))
                findings += _api_keys(config, asked.ring.directory)
        except (EndpointError, InsecureEndpointError) as error:
            what, _, mend = str(error).partition(": ")
            findings.append(fail(what, mend))
        except KeysError:
            # The checks of the keys report this.
            pass
    return findings


def _api_keys(config: GatewayConfig, keys_directory: Path) -> list[Finding]:
    try:
        admits_anybody(config.api_keys(keys_directory), config)
    except KeysError as error:
        what, _, mend = str(error).partition(": ")
        return [fail(what, mend)]
    return []


def check_config(
    role: str, path: Path | None, environ: Mapping[str, str]
) -> tuple[Finding, Config | None]:
    """Returns the finding, and the configuration if it is valid. path: None for no file."""
    where = str(path) if path is not None else "environment and defaults"
    try:
        config = load(ROLES[role], path, {}, environ)
    except ConfigError as error:
        return fail(f"configuration of a {role}: {error}", "correct that key"), None
    return ok(f"configuration of a {role} from {where}"), config


def check_environment(environ: Mapping[str, str]) -> list[Finding]:
    """Report variables AIRDRAFT_... that are neither settings of a role nor known otherwise."""
    names = {variable_of(key) for role in ROLES.values() for key in schema_of(role)} | set(_OTHERS)
    findings = []
    for name in sorted(environ):
        if name.startswith("AIRDRAFT_") and name not in names:
            # The common prefix would make all names similar, so it is not compared.
            ends = {known.removeprefix("AIRDRAFT_"): known for known in names}
            near = difflib.get_close_matches(name.removeprefix("AIRDRAFT_"), ends, n=1)
            mend = f"did you mean {ends[near[0]]}?" if near else "unset it"
            findings.append(warn(f"{name} in the environment has no effect", mend))
    return findings


_REINSTALL = (
    "pip install --force-reinstall --no-cache-dir llama-cpp-python==VERSION builds it again, which "
    "needs a C++ compiler (sudo apt-get install g++)"
)
# CPU features that make small passes fast.
_WANTED = {"x86_64": ("AVX2", "FMA", "F16C"), "aarch64": ("NEON", "DOTPROD")}


def check_isa(build: str, cpu_flags: frozenset[str], machine: str) -> Finding:
    """Check that the build uses the CPU's features. build: from llama_abi.build_name()."""
    used = {part.split("=")[0].split(":")[-1].strip() for part in build.split("|") if "= 1" in part}
    wanted = _WANTED.get(machine, ())
    names = {"NEON": "asimd", "DOTPROD": "asimddp"}
    unused = [f for f in wanted if names.get(f, f.lower()) in cpu_flags and f not in used]
    if unused:
        return warn(
            f"libllama was built without {', '.join(unused)}, which this CPU supports",
            f"build it on this machine: {_REINSTALL}",
        )
    features = ", ".join(sorted(used - {"LLAMAFILE", "OPENMP", "REPACK"})) or "none named"
    return ok(f"libllama uses {features}")


def check_kernels(found: Kernels) -> Finding:
    """Check that airdraft's kernels run, which are fast, and exact for any batch."""
    if not found.missing:
        return ok(f"airdraft's kernels run, with {found.name}")
    return note(
        f"libllama runs without airdraft's kernels, so it is slower and rarely exact: "
        f"{found.missing}",
        "python -m airdraft.nodes.engine.kernels.build",
    )
