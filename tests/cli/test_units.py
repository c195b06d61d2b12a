"""`airdraft install-units` as somebody types it."""

import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from airdraft.nodes.cli.main import cli


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def invoked(root: Path, *arguments: str) -> Result:
    home = {"HOME": "/home/a", "XDG_CONFIG_HOME": ""}
    return CliRunner().invoke(cli, ["install-units", *arguments, "--root", str(root)], env=home)


def install(root: Path, *arguments: str) -> str:
    result = invoked(root, *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout.strip()


def test_settings_that_are_there_stay_and_units_are_brought_up_to_date(root: Path) -> None:
    install(root)
    units = root / "etc/systemd/system"
    names = {path.name for path in units.iterdir()}
    assert {"airdraft-coordinator.service", "airdraft-target@.service", "airdraft.target"} <= names
    mine = root / "etc/airdraft/target.toml"
    # The comment is Latin-1, not UTF-8.
    mine.write_bytes(b"mine = true  # f\xfcr\n")
    unit = units / "airdraft-gateway.service"
    shipped = unit.read_text()
    unit.write_text("old\n")
    printed = install(root)
    assert mine.read_bytes() == b"mine = true  # f\xfcr\n"
    assert unit.read_text() == shipped
    assert {f"kept {mine}", f"replaced {unit}"} <= set(printed.splitlines())


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="systemctl is not here")
@pytest.mark.parametrize(
    ("user", "wanted_by"), [((), "multi-user.target"), (("--user",), "default.target")]
)
def test_what_is_said_comes_next_starts_all_after_a_reboot(
    root: Path, user: tuple[str, ...], wanted_by: str
) -> None:
    printed = install(root, *user)
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
