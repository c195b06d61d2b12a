"""`airdraft install-units`: adapts systemd units to this machine or one user, and installs them."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

import click

from airdraft.mesh.whole_files import write_whole
from airdraft.nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET
from airdraft.nodes.config.sources import environment

_NEXT_SYSTEM = """
next:
  runuser -u airdraft-target -- env AIRDRAFT_CACHE=/var/cache/airdraft/target \
HF_HOME=/var/cache/airdraft/target/huggingface {command} models pull {target}
  runuser -u airdraft-draft -- env AIRDRAFT_CACHE=/var/cache/airdraft/draft \
{command} models pull {draft}
  systemctl enable --now airdraft.target airdraft-coordinator airdraft-target@target \
airdraft-draft@draft airdraft-gateway
other machines: docs/guides/deploy.md"""
_NEXT_USER = """
next:
  {command} models pull
  systemctl --user enable --now airdraft.target airdraft-coordinator airdraft-target@target \
airdraft-draft@draft airdraft-gateway
to keep them running after you log out: loginctl enable-linger"""

# Unit files are written for the system's manager and a command at this path.
_SHIPPED_COMMAND = "/usr/bin/airdraft"
# What makes systemd know the files that were written.
_SYSTEM_COMMANDS = (
    "systemd-sysusers airdraft.conf",
    "systemd-tmpfiles --create airdraft.conf",
    "systemctl daemon-reload",
)
_USER_COMMANDS = ("systemctl --user daemon-reload",)
_SUFFIXES = (".service", ".socket", ".target")
# A user's commands look for a mesh without keys at the private socket, which others cannot open.
_MESH_LISTENS = "ListenStream=127.0.0.1:7411"
_PRIVATE = """\
ListenStream=%t/airdraft/mesh.sock
DirectoryMode=0700
SocketMode=0600
RemoveOnStop=yes"""
# What the units of a user lack: the settings below the marker, and comments, which may be about
# them. A user's manager has no network-online.target.
_LEFT_OUT = re.compile(
    r"^# -- for the system's manager only.*?(?=^\[)|^#.*?\n"
    r"|^\w+=network-online\.target\n| network-online\.target$",
    re.DOTALL | re.MULTILINE,
)


# Folders that system services cannot see: ProtectHome=, PrivateTmp=.
HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")

# The folder of the unit files.
UNITS = Path(__file__).parents[2] / "systemd"


def config_of(home: PurePosixPath, config: str = "") -> PurePosixPath:
    """Return the folder of a user's settings. config: XDG_CONFIG_HOME, if it is set."""
    return PurePosixPath(config) if config.startswith("/") else home / ".config"


def files_for(command: str, user: PurePosixPath | None = None) -> dict[PurePosixPath, str]:
    """Return the texts of the files to install: units that start `command`, sample settings, and
    for the system its users and folders.

    user: The settings folder of the user for whose manager they are; None for the system's.
    """
    directory, etc = UNITS, PurePosixPath("/etc")
    units = etc / "systemd" / "system" if user is None else user / "systemd" / "user"
    found = {
        units / path.name: unit_for(path.read_text(), command, is_user=user is not None)
        for path in sorted(directory.iterdir())
        if path.suffix in _SUFFIXES
    }
    for sample in sorted((directory / "etc").glob("*.toml")):
        found[(user or etc) / "airdraft" / sample.name] = sample.read_text()
    for path in sorted(directory.glob("*.d/*.conf")) if user is None else ():
        found[etc / path.parent.name / path.name] = path.read_text()
    return found


def unit_for(text: str, command: str, *, is_user: bool) -> str:
    """Return a shipped unit with the path of the command, adapted to a user's manager if wanted."""
    text = text.replace(_SHIPPED_COMMAND, _for_systemd(command))
    if not is_user:
        return text
    text = _LEFT_OUT.sub("", text).replace(_MESH_LISTENS, _PRIVATE)
    return text.replace("multi-user.target", "default.target")


def _for_systemd(path: str) -> str:
    """Return a path as a word of ExecStart=, where blanks separate words and % is special."""
    escaped = path.replace("%", "%%")
    return f'"{escaped}"' if " " in path else escaped


# -- the command ----------------------------------------------------------------------------------


@click.command("install-units")
@click.option(
    "--user", "is_user", is_flag=True, help="Install for your user's systemd, without root."
)
@click.option("--root", default="/", metavar="DIR", help="Write below this directory instead of /.")
def install_units_command(is_user: bool, root: str) -> None:
    """Install systemd units and sample settings, and make the users and folders of services.

    Existing settings are kept, and nothing is started.

    \b
    Examples:
      sudo airdraft install-units
      airdraft install-units --user --root /tmp/look-at-it
    """
    if not sys.platform.startswith("linux"):
        raise click.UsageError("systemd exists only on Linux: there is nothing to install here")
    user = None
    if is_user:
        home, config = PurePosixPath(Path.home()), environment().get("XDG_CONFIG_HOME", "")
        user = config_of(home, config)
    command = _command()
    if not is_user and root == "/" and command.startswith(HIDDEN):
        raise click.UsageError(
            f"{command}: system services cannot see this directory; install airdraft elsewhere, "
            f"for example in a virtual environment at /opt/airdraft, or use --user"
        )
    for place, text in files_for(command, user).items():
        path = Path(root) / place.relative_to("/")
        click.echo(f"{_install(text, path)} {path}")
    if root == "/":
        for line in _USER_COMMANDS if is_user else _SYSTEM_COMMANDS:
            _run(line)
    said = _NEXT_USER if is_user else _NEXT_SYSTEM
    shown = shlex.quote(command)
    click.echo(said.format(command=shown, target=DEFAULT_TARGET, draft=DEFAULT_DRAFT))


def _command() -> str:
    """Return the absolute path of this command, which units need."""
    beside = Path(sys.executable).with_name("airdraft")
    if beside.exists():
        return str(beside)
    found = shutil.which(sys.argv[0]) or shutil.which("airdraft")
    if found is None:
        raise click.UsageError("the command airdraft is not on the PATH: install the package first")
    return str(Path(found).absolute())


def _run(line: str) -> None:
    """Run a command of systemd. Without systemd it is left to the user, as in an image."""
    if not Path("/run/systemd/system").is_dir() or shutil.which(line.split()[0]) is None:
        click.echo(f"systemd does not run here; where it does, run: {line}")
        return
    done = subprocess.run(line.split(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise click.ClickException(f"{line} failed: {reason}")


def _install(text: str, path: Path) -> str:
    """Install one file and return a word for what was done."""
    try:
        before = path.read_bytes() if path.exists() else None
        data = text.encode()
        if before == data:
            return "unchanged"
        if before is not None and path.suffix == ".toml":
            # Settings are the user's own.
            return "kept"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
        # Independent of the umask, because services read their settings as another user.
        path.chmod(0o644)
    except OSError as error:
        reason = error.strerror or str(error)
        raise click.ClickException(
            f"{path} cannot be written ({reason}): run it as root, or with --user"
        ) from None
    return "written" if before is None else "replaced"
