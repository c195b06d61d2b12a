"""`airdraft install-units` as somebody types it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.commands import Commands


@pytest.fixture
def commands(tmp_path):
    return Commands(tmp_path)


def test_units_and_samples_are_written_and_say_what_comes_next(commands, tmp_path):
    root = tmp_path / "root"
    made = commands.run("install-units", "--root", str(root))
    assert made.returncode == 0, made.stderr
    names = {path.name for path in (root / "etc/systemd/system").iterdir()}
    assert {"airdraft-coordinator.service", "airdraft-target@.service", "airdraft.target"} <= names
    assert "systemctl enable --now" in made.stdout


def test_settings_that_are_there_stay_and_units_are_brought_up_to_date(commands, tmp_path):
    root = tmp_path / "root"
    assert commands.run("install-units", "--root", str(root)).returncode == 0
    (root / "etc/airdraft/target.toml").write_text("mine = true\n")
    unit = root / "etc/systemd/system/airdraft-gateway.service"
    shipped = unit.read_text()
    unit.write_text("old\n")
    made = commands.run("install-units", "--root", str(root))
    assert made.returncode == 0
    assert (root / "etc/airdraft/target.toml").read_text() == "mine = true\n"
    assert unit.read_text() == shipped
    assert f"kept {root}/etc/airdraft/target.toml" in made.stdout.splitlines()
    assert f"replaced {unit}" in made.stdout.splitlines()


def test_a_dry_run_writes_nothing(commands, tmp_path):
    root = tmp_path / "root"
    made = commands.run("install-units", "--dry-run", "--root", str(root))
    assert made.returncode == 0
    assert not root.exists()
    assert all(line.startswith("would be written: ") for line in made.stdout.splitlines())


def test_units_of_a_user_go_to_the_user_s_own_directory(commands, tmp_path):
    root = tmp_path / "root"
    home = {"HOME": "/home/somebody", "XDG_CONFIG_HOME": ""}
    made = commands.run("install-units", "--user", "--root", str(root), **home)
    assert made.returncode == 0, made.stderr
    assert (root / "home/somebody/.config/systemd/user/airdraft.target").exists()
    assert "systemctl --user" in made.stdout


def test_units_of_a_package_are_not_hidden(commands, tmp_path):
    root = tmp_path / "root"
    packaged = root / "usr/lib/systemd/system"
    packaged.mkdir(parents=True)
    (packaged / "airdraft.target").write_text("")
    made = commands.run("install-units", "--root", str(root))
    assert made.returncode == 2
    assert made.stderr.startswith(f"error: {packaged} already has airdraft's units")
    assert made.stderr.count("\n") == 1
    assert not (root / "etc").exists()
    assert commands.run("install-units", "--user", "--root", str(root)).returncode == 0


def test_a_place_that_cannot_be_written_is_one_clear_line(commands, tmp_path):
    (tmp_path / "file").write_text("")
    made = commands.run("install-units", "--root", str(tmp_path / "file"))
    assert made.returncode == 1
    assert made.stderr.count("\n") == 1
    assert made.stderr.startswith("error: ")
    assert "cannot be written" in made.stderr


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="systemctl is not here")
@pytest.mark.parametrize(
    ("user", "wanted_by"), [((), "multi-user.target"), (("--user",), "default.target")]
)
def test_what_is_said_comes_next_starts_all_after_a_reboot(
    commands: Commands, tmp_path: Path, user: tuple[str, ...], wanted_by: str
) -> None:
    root = tmp_path / "root"
    made = commands.run("install-units", *user, "--root", str(root), HOME="/home/a")
    line = next(part for part in made.stdout.splitlines() if "enable --now" in part)
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
