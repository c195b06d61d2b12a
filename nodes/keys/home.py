"""Where a user, or a service, has its keys and its own mesh."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from mesh.endpoints import ipc_path
from mesh.errors import EndpointError

_SOCKET = "mesh.sock"


def default_keys_dir(environ: Mapping[str, str]) -> Path:
    """AIRDRAFT_KEYS, else the state directory that systemd gave, else the user's config."""
    if chosen := environ.get("AIRDRAFT_KEYS"):
        return Path(chosen)
    if state := environ.get("STATE_DIRECTORY"):
        return Path(state.split(":")[0]) / "keys"
    config = environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(config) / "airdraft" / "keys"


def default_public_dir(environ: Mapping[str, str]) -> Path | None:
    """The directory `public` beside the state directory that systemd gave, None if there is none.

    Services of one machine have a user and a state directory each, and this one in common.
    """
    state = environ.get("STATE_DIRECTORY")
    if not state or environ.get("AIRDRAFT_KEYS"):
        return None
    public = Path(state.split(":")[0]).with_name("public")
    return public if public.is_dir() else None


def private_endpoint(environ: Mapping[str, str]) -> str:
    """A socket file in the user's runtime directory, else below the user's cache.

    "" for a service with a state directory: services of a machine are several users.
    """
    if environ.get("STATE_DIRECTORY"):
        return ""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        return f"ipc://{Path(runtime) / 'airdraft' / _SOCKET}"
    cache = environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return f"ipc://{base / 'airdraft' / 'run' / _SOCKET}"


def make_private(endpoint: str) -> None:
    """Make the directory of a private endpoint. Raises EndpointError where others may enter it."""
    path = ipc_path(endpoint)
    assert path is not None
    directory = Path(path).parent
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = directory.lstat()
    except OSError as error:
        reason = f"{directory} cannot be made ({error.strerror}): choose another with --listen"
        raise EndpointError(endpoint, reason) from error
    is_ours = stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid()
    if not is_ours or info.st_mode & 0o077:
        reason = f"others may enter {directory}: make it yours with mode 700, or choose --listen"
        raise EndpointError(endpoint, reason)
