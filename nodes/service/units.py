"""Adapts the unit files that airdraft ships to a machine. Pure but for reading them.

In `systemd/` they are written for the system's manager and a command at /usr/bin/airdraft.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_SHIPPED_COMMAND = "/usr/bin/airdraft"
_SUFFIXES = (".service", ".socket", ".target")
# The settings that a user's manager supports without privileges. It ignores or refuses all others.
_FOR_USERS = frozenset(
    {
        *("Description", "Documentation", "PartOf", "Requires", "After", "Wants"),
        *("ConditionPathExists", "StartLimitIntervalSec", "StartLimitBurst"),
        *("Type", "NotifyAccess", "ExecStart", "Environment", "KillMode", "WatchdogSec"),
        *("Restart", "RestartSec", "RestartSteps", "RestartMaxDelaySec"),
        *("RestartPreventExitStatus", "TimeoutStartSec", "TimeoutStopSec"),
        # State and cache directories are left out, because keys and models are in the places where
        # the user's own commands look for them.
        *("UMask", "ConfigurationDirectory", "ConfigurationDirectoryMode", "NoNewPrivileges"),
        *("LimitCORE", "MemoryMax", "MemorySwapMax", "TasksMax"),
        *("ListenStream", "FileDescriptorName", "Backlog", "NoDelay", "WantedBy", "Also"),
    }
)
# A user's commands look for a mesh without keys at the private socket, which others cannot open.
_MESH_LISTENS = "ListenStream=127.0.0.1:7411"
_PRIVATE = (
    "ListenStream=%t/airdraft/mesh.sock",
    "DirectoryMode=0700",
    "SocketMode=0600",
    "RemoveOnStop=yes",
)
# The cache folder of a system service's own user.
_ROLE_CACHE = "Environment=AIRDRAFT_CACHE="
_SYSTEM_TARGETS = ("network-online.target", "multi-user.target")


@dataclass(frozen=True, slots=True)
class Shipped:
    """A file to install. keeps: An existing file is not overwritten."""

    path: PurePosixPath
    text: str
    keeps: bool = False


@dataclass(frozen=True, slots=True)
class Places:
    """The directories of one service manager."""

    units: PurePosixPath
    settings: PurePosixPath
    is_user: bool = False


# Folders that system services cannot see: ProtectHome=, PrivateTmp=.
HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")

SYSTEM = Places(PurePosixPath("/etc/systemd/system"), PurePosixPath("/etc/airdraft"))
# The units of a distribution's package; those in SYSTEM take precedence.
PACKAGED = PurePosixPath("/usr/lib/systemd/system")


def of_user(home: PurePosixPath, config: str = "") -> Places:
    """Return the places of a user's manager. config: XDG_CONFIG_HOME, if it is set."""
    base = PurePosixPath(config) if config.startswith("/") else home / ".config"
    return Places(base / "systemd" / "user", base / "airdraft", is_user=True)


def shipped_directory() -> Path:
    """Return the folder of the unit files: in the package or, if it has none, in the checkout."""
    packaged = Path(__file__).with_name("shipped")
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "systemd"


def files_for(places: Places, command: str) -> list[Shipped]:
    """Return the files to install: units that start `command`, and samples of settings."""
    directory = shipped_directory()
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
    """Return a shipped unit with the path of the command, adapted to a user's manager if wanted."""
    text = text.replace(_SHIPPED_COMMAND, command)
    return "\n".join(_without_privileges(text)) + "\n" if is_user else text


def _without_privileges(text: str) -> Iterator[str]:
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if not equals or line.startswith("#"):
            # Comments may describe settings that are left out, so they are left out, too.
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
