"""`airdraft install-units`: installs systemd services for this machine or one user."""

import shutil
import sys
from pathlib import Path, PurePosixPath

import click

from mesh.whole_files import write_whole
from nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET
from nodes.config.settings import environment
from nodes.service.units import HIDDEN, PACKAGED, SYSTEM, Shipped, files_for, of_user

_NEXT_SYSTEM = """
next:
  systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload
  runuser -u airdraft-target -- env AIRDRAFT_CACHE=/var/cache/airdraft/target \
{command} models pull {target}
  runuser -u airdraft-draft -- env AIRDRAFT_CACHE=/var/cache/airdraft/draft \
{command} models pull {draft}
  systemctl enable --now airdraft.target airdraft-coordinator airdraft-target@target \
airdraft-draft@draft airdraft-gateway
other machines: docs/guides/deploy.md"""
_NEXT_USER = """
next:
  systemctl --user daemon-reload
  {command} models pull
  systemctl --user enable --now airdraft.target airdraft-coordinator airdraft-target@target \
airdraft-draft@draft airdraft-gateway
to keep them running after you log out: loginctl enable-linger"""


@click.command("install-units")
@click.option(
    "--user", "is_user", is_flag=True, help="Install for your user's systemd, without root."
)
@click.option("--dry-run", is_flag=True, help="Only show what would be written.")
@click.option("--root", default="/", metavar="DIR", help="Write below this directory instead of /.")
def install_units_command(is_user: bool, dry_run: bool, root: str) -> None:
    """Install systemd units and sample settings. Existing settings are kept.

    \b
    Examples:
      sudo airdraft install-units
      airdraft install-units --user --dry-run
    """
    if not sys.platform.startswith("linux"):
        raise click.UsageError("systemd exists only on Linux: there is nothing to install here")
    packaged = Path(root) / PACKAGED.relative_to("/")
    if not is_user and (packaged / "airdraft.target").exists():
        raise click.UsageError(
            f"{packaged} already has airdraft's units from a package, and new ones would override "
            f"its upgrades; sample settings are in /usr/share/doc/airdraft/examples"
        )
    places = SYSTEM
    if is_user:
        home, config = PurePosixPath(Path.home()), environment().get("XDG_CONFIG_HOME", "")
        places = of_user(home, config)
    command = _command()
    if not is_user and root == "/" and not dry_run and command.startswith(HIDDEN):
        raise click.UsageError(
            f"{command}: system services cannot see this directory; install airdraft elsewhere, "
            f"for example in a virtual environment at /opt/airdraft, or use --user"
        )
    for shipped in files_for(places, command):
        path = Path(root) / shipped.path.relative_to("/")
        click.echo(f"{_install(shipped, path, dry_run=dry_run)} {path}")
    if not dry_run:
        said = _NEXT_USER if is_user else _NEXT_SYSTEM
        click.echo(said.format(command=command, target=DEFAULT_TARGET, draft=DEFAULT_DRAFT))


def _command() -> str:
    """Return the absolute path of this command, which units need."""
    found = shutil.which(sys.argv[0]) or shutil.which("airdraft")
    beside = Path(sys.executable).with_name("airdraft")
    if beside.exists():
        return str(beside)
    if found is None:
        raise click.UsageError("the command airdraft is not on the PATH: install the package first")
    return str(Path(found).absolute())


def _install(shipped: Shipped, path: Path, *, dry_run: bool) -> str:
    """Install one file and return a word for what was done, or would be with dry_run."""
    try:
        before = path.read_text() if path.exists() else None
        if before == shipped.text:
            return "unchanged"
        if before is not None and shipped.keeps:
            return "kept"
        if not dry_run:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, shipped.text.encode())
            # Independent of the umask, because services read their settings as another user.
            path.chmod(0o644)
    except OSError as error:
        reason = error.strerror or str(error)
        raise click.ClickException(
            f"{path} cannot be written ({reason}): run it as root, or with --user"
        ) from None
    verb = "written" if before is None else "replaced"
    return f"would be {verb}:" if dry_run else verb
