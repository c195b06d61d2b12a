"""`airdraft install-units` as somebody types it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.commands import Commands, error_line


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def install(commands: Commands, root: Path, *arguments: str) -> str:
    home = {"HOME": "/home/a", "XDG_CONFIG_HOME": ""}
    return commands.printed("install-units", *arguments, "--root", str(root), **home)


def test_settings_that_are_there_stay_and_units_are_brought_up_to_date(
    commands: Commands, root: Path
) -> None:
    printed = install(commands, root, "--dry-run")
    assert not root.exists()
    assert all(line.startswith("would be written: ") for line in printed.splitlines())
    install(commands, root)
    units = root / "etc/systemd/system"
    names = {path.name for path in units.iterdir()}
    assert {"airdraft-coordinator.service", "airdraft-target@.service", "airdraft.target"} <= names
    mine = root / "etc/airdraft/target.toml"
    # The comment is Latin-1, not UTF-8.
    mine.write_bytes(b"mine = true  # f\xfcr\n")
    unit = units / "airdraft-gateway.service"
    shipped = unit.read_text()
    unit.write_text("old\n")
    printed = install(commands, root)
    assert mine.read_bytes() == b"mine = true  # f\xfcr\n"
    assert unit.read_text() == shipped
    assert {f"kept {mine}", f"replaced {unit}"} <= set(printed.splitlines())


def test_units_of_a_package_are_not_hidden(commands: Commands, root: Path) -> None:
    packaged = root / "usr/lib/systemd/system"
    packaged.mkdir(parents=True)
    (packaged / "airdraft.target").write_text("")
    done = commands.run("install-units", "--root", str(root))
    assert done.returncode == 2
    assert error_line(done).startswith(f"{packaged} already has airdraft's units")
    assert not (root / "etc").exists()
    # A user's own go to the user's directory.
    assert "systemctl --user" in install(commands, root, "--user")
    assert (root / "home/a/.config/systemd/user/airdraft.target").exists()


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="systemctl is not here")
@pytest.mark.parametrize(
    ("user", "wanted_by"), [((), "multi-user.target"), (("--user",), "default.target")]
)
def test_what_is_said_comes_next_starts_all_after_a_reboot(
    commands: Commands, root: Path, user: tuple[str, ...], wanted_by: str
) -> None:
    printed = install(commands, root, *user)
    line = next(part for part in printed.splitlines() if "enable --now" in part)
    names = line.split("--now", 1)[1].split()
    units = root / ("home/a/.config/systemd/user" if user else "etc/systemd/system")
    if user:
        # Where the tool looks for a system's.
        (root / "etc/systemd").mkdir(parents=True)
        units = units.rename(root / "etc/systemd/system")
    enabled = ["systemctl", f"--root={root}", "enable", *names]
    subprocess.run(enabled, check=True, capture_output=True, timeout=120)
    assert (units / f"{wanted_by}.wants" / "airdraft.target").is_symlink()
    wanted = {path.name for path in (units / "airdraft.target.wants").iterdir()}
    assert {"airdraft-target@target.service", "airdraft-draft@draft.service"} <= wanted
