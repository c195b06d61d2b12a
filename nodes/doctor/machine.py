"""Checks the machine: memory, temperatures, clock rates, and whether an address is free."""

import contextlib
import errno
import socket
from pathlib import Path

from airdraft.mesh.endpoints import ipc_path, listens
from airdraft.nodes.doctor.finding import Finding, note, ok, warn
from airdraft.nodes.engine.cores import sizes_in

_MUCH_SWAP_BYTES = 256 << 20
_HOT_BELOW_TRIP_C = 10.0
_HOT_C = 85.0
_SLOW_SHARE = 0.6


def check_swap(meminfo: str) -> Finding:
    sizes = sizes_in(meminfo)
    used = sizes["SwapTotal"] - sizes["SwapFree"]
    if used > _MUCH_SWAP_BYTES:
        return warn(
            f"{used >> 20} MiB are swapped out: passes that wait for swap are slow",
            "use a smaller model or fewer cells, or end other programs",
        )
    return ok(f"swap: {used >> 20} MiB in use")


def check_thermal(root: Path = Path("/")) -> Finding:
    """Compare temperatures with those at which the machine throttles. root: of /sys."""
    zones = []
    for folder in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        with contextlib.suppress(OSError, ValueError):
            celsius = int((folder / "temp").read_text()) / 1000
            limits = []
            for path in folder.glob("trip_point_*_type"):
                if path.read_text().strip() in ("passive", "hot", "critical"):
                    temp = path.with_name(path.name.replace("_type", "_temp"))
                    limits.append(int(temp.read_text()) / 1000 - _HOT_BELOW_TRIP_C)
            limit = min((limit for limit in limits if limit > 0), default=_HOT_C)
            name = (folder / "type").read_text().strip()
            zones.append((celsius - limit, f"hottest: {name} at {celsius:.0f} C"))
    if not zones:
        return note("no temperatures can be read here")
    above, text = max(zones)
    if above >= 0:
        return warn(
            f"{text}, near the temperature at which it throttles",
            "use better cooling, a lower power mode, or fewer engine threads",
        )
    return ok(text)


def check_frequency(root: Path = Path("/")) -> Finding:
    """Compare the limits of the cores' frequencies with what they can do. root: of /sys."""
    limits_khz, num_throttled = [], 0
    for folder in sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*")):
        with contextlib.suppress(OSError, ValueError):
            limit_khz = int((folder / "cpufreq/scaling_max_freq").read_text())
            most_khz = int((folder / "cpufreq/cpuinfo_max_freq").read_text())
            if limit_khz < _SLOW_SHARE * most_khz:
                return warn(
                    f"{folder.name} is limited to {limit_khz / 1e6:.1f} of "
                    f"{most_khz / 1e6:.1f} GHz",
                    "check the power mode and heat: `nvpmodel`, `cpupower frequency-info`",
                )
            limits_khz.append(limit_khz)
            num_throttled += int((folder / "thermal_throttle/core_throttle_count").read_text())
    if not limits_khz:
        return note("no CPU frequencies can be read here")
    if num_throttled:
        return note(f"the CPU was throttled {num_throttled} times since the machine was started")
    return ok(f"CPU up to {max(limits_khz) / 1e6:.1f} GHz, not throttled")


def check_port(endpoint: str) -> Finding:
    """Check whether a role can bind there."""
    if is_free(endpoint):
        return ok(f"{endpoint} is free")
    return note(f"a process listens at {endpoint}", "fine if it is airdraft; `ss -ltnp` names it")


def is_free(endpoint: str) -> bool:
    """Whether no process on this machine listens at a socket file, or at a TCP address."""
    if (path := ipc_path(endpoint)) is not None:
        return not listens(path)
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    with socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]*"), int(port) if port.isdigit() else 0))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True
