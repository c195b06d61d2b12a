"""The unit files that airdraft ships, and what they become on a machine. Pure but for reading them.

As they lie in `systemd/` they are for the system's manager and a command at /usr/bin/airdraft.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_SHIPPED_COMMAND = "/usr/bin/airdraft"
_SUFFIXES = (".service", ".socket", ".target")
# What a user's manager can do without privileges; it leaves out or refuses the rest.
_FOR_USERS = frozenset(
    {
        *("Description", "Documentation", "PartOf", "Requires", "After", "Wants"),
        *("ConditionPathExists", "StartLimitIntervalSec", "StartLimitBurst"),
        *("Type", "NotifyAccess", "ExecStart", "Environment", "KillMode", "WatchdogSec"),
        *("Restart", "RestartSec", "RestartSteps", "RestartMaxDelaySec"),
        *("RestartPreventExitStatus", "TimeoutStartSec", "TimeoutStopSec"),
        # No state and cache directories: keys and models are where the user's own commands look for
        # them.
        *("UMask", "ConfigurationDirectory", "ConfigurationDirectoryMode", "NoNewPrivileges"),
        *("LimitCORE", "MemoryMax", "MemorySwapMax", "TasksMax"),
        *("ListenStream", "FileDescriptorName", "Backlog", "NoDelay", "WantedBy", "Also"),
    }
)
# Where commands of a user look for a mesh without keys; nobody else can reach it.
_MESH_LISTENS = "ListenStream=127.0.0.1:7411"
_PRIVATE = (
    "ListenStream=%t/airdraft/mesh.sock",
    "DirectoryMode=0700",
    "SocketMode=0600",
    "RemoveOnStop=yes",
)
# Of one role's user alone.
_ROLE_CACHE = "Environment=AIRDRAFT_CACHE="
_SYSTEM_TARGETS = ("network-online.target", "multi-user.target")


@dataclass(frozen=True, slots=True)
class Shipped:
    """A file to install. keeps: one that is there already stays as it is."""

    path: PurePosixPath
    text: str
    keeps: bool = False


@dataclass(frozen=True, slots=True)
class Places:
    """Directories of one manager."""

    units: PurePosixPath
    settings: PurePosixPath
    is_user: bool = False


# What system services do not see: ProtectHome=, PrivateTmp=.
HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")

SYSTEM = Places(PurePosixPath("/etc/systemd/system"), PurePosixPath("/etc/airdraft"))
# Where a distribution's package puts them; those of SYSTEM go before them.
PACKAGED = PurePosixPath("/usr/lib/systemd/system")


def of_user(home: PurePosixPath, config: str = "") -> Places:
    """config: XDG_CONFIG_HOME, if it is set."""
    base = PurePosixPath(config) if config.startswith("/") else home / ".config"
    return Places(base / "systemd" / "user", base / "airdraft", is_user=True)


def shipped_directory() -> Path:
    """Where the unit files lie: in the package, or in the checkout that it is run from."""
    packaged = Path(__file__).with_name("shipped")
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "systemd"


def files_for(places: Places, command: str, directory: Path | None = None) -> list[Shipped]:
    """What is to be installed: units that start `command`, and samples of settings."""
    directory = directory or shipped_directory()
    found = []
    for path in sorted(directory.iterdir()):
        if path.suffix in _SUFFIXES:
            text = unit_for(path.read_text(), command, is_user=places.is_user)
            found.append(Shipped(places.units / path.name, text))
    samples = sorted((directory / "etc").glob("*.toml"))
    found += [Shipped(places.settings / p.name, p.read_text(), keeps=True) for p in samples]
    if places.is_user:
        return found
    for folder in (directory / "sysusers.d", directory / "tmpfiles.d"):
        there = PurePosixPath("/etc") / folder.name
        found += [Shipped(there / p.name, p.read_text()) for p in sorted(folder.glob("*.conf"))]
    return found


def unit_for(text: str, command: str, *, is_user: bool) -> str:
    """A shipped unit for where the command is, and for a user's manager if need be."""
    text = text.replace(_SHIPPED_COMMAND, command)
    return "\n".join(_without_privileges(text)) + "\n" if is_user else text


def _without_privileges(text: str) -> Iterator[str]:
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if not equals or line.startswith("#"):
            # What is said of settings that are left out would mislead.
            if line.startswith("[") or not line:
                yield line
            continue
        if line == _MESH_LISTENS:
            yield from _PRIVATE
            continue
        if key not in _FOR_USERS or line.startswith(_ROLE_CACHE):
            continue
        words = [word for word in value.split() if word not in _SYSTEM_TARGETS]
        if key == "WantedBy" and "multi-user.target" in value:
            words.insert(0, "default.target")
        if words or not any(name in value for name in _SYSTEM_TARGETS):
            yield f"{key}={value if words == value.split() else ' '.join(words)}"
