"""Default places of a user's or service's keys and of the user's own mesh."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from mesh.endpoints import ipc_path
from mesh.errors import EndpointError

_SOCKET = "mesh.sock"


def default_keys_dir(environ: Mapping[str, str]) -> Path:
    """Return AIRDRAFT_KEYS, else `keys` in systemd's state directory or the user's config."""
    if chosen := environ.get("AIRDRAFT_KEYS"):
        return Path(chosen)
    if state := environ.get("STATE_DIRECTORY"):
        return Path(state.split(":")[0]) / "keys"
    config = environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(config) / "airdraft" / "keys"


def default_public_dir(environ: Mapping[str, str]) -> Path | None:
    """Return the directory `public` beside systemd's state directory, None if there is none.

    The services of one machine have separate users and state directories, and share this one.
    """
    state = environ.get("STATE_DIRECTORY")
    if not state or environ.get("AIRDRAFT_KEYS"):
        return None
    public = Path(state.split(":")[0]).with_name("public")
    return public if public.is_dir() else None


def private_endpoint(environ: Mapping[str, str]) -> str:
    """Return a socket file in the user's runtime directory, else below the user's cache.

    Returns "" for a service with a state directory, because the services are several users.
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
    """Create a private endpoint's directory. Raises EndpointError if other users may enter it."""
    path = ipc_path(endpoint)
    assert path is not None
    directory = Path(path).parent
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = directory.lstat()
    except OSError as error:
        reason = f"{directory} cannot be created ({error.strerror}): choose another with --listen"
        raise EndpointError(endpoint, reason) from error
    is_ours = stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid()
    if not is_ours or info.st_mode & 0o077:
        reason = (
            f"other users may enter {directory}: own it with mode 700, or choose another "
            f"endpoint with --listen"
        )
        raise EndpointError(endpoint, reason)
