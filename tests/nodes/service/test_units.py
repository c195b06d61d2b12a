"""The units that are shipped: what systemd thinks of them, and what they become."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath

import pytest

from airdraft.nodes.cli.units import UNITS, config_of, files_for, unit_for
from airdraft.nodes.config.settings import CoordinatorConfig, DraftConfig, StageConfig, TargetConfig
from airdraft.nodes.config.sources import load
from airdraft.nodes.gateway.config import GatewayConfig
from airdraft.nodes.keys.keyring import private_endpoint

COMMAND = str(Path(sys.executable).with_name("airdraft"))
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
CONFIGS = {
    "coordinator": CoordinatorConfig,
    "gateway": GatewayConfig,
    "target": TargetConfig,
    "draft": DraftConfig,
    "stage": StageConfig,
}
ROLES = tuple(CONFIGS)
# Exposure in tenths, as `systemd-analyze security --threshold` counts: issue figures of the design.
MOST_EXPOSED = {
    "airdraft-coordinator.service": 5,
    "airdraft-gateway.service": 12,
    "airdraft-draft@.service": 15,
    "airdraft-stage@.service": 15,
    "airdraft-target@.service": 15,
}

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here"
)


@pytest.fixture
def units(tmp_path):
    """All units as they would be installed, in one directory. The path of the command has blanks
    and percent signs."""
    command = tmp_path / "100 %h of my projects" / "airdraft"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    for path, text in files_for(str(command)).items():
        if path.parent == PurePosixPath("/etc/systemd/system"):
            (tmp_path / path.name).write_text(text)
    return tmp_path


def analyze(*arguments):
    command = ["systemd-analyze", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def verified(units, names):
    paths = [str(units / name.replace("@.", "@one.")) for name in names]
    return analyze("verify", "--man=no", "--recursive-errors=no", *paths)


@needs_systemd
def test_systemd_finds_nothing_to_say_about_the_units(units):
    made = verified(units, [*SERVICES, "airdraft.target"])
    assert (made.returncode, made.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("name", SERVICES)
def test_services_are_shut_in(units, name):
    offline = "security", "--offline=yes", "--no-pager"
    threshold = f"--threshold={MOST_EXPOSED[name]}"
    made = analyze(*offline, threshold, str(units / name))
    assert made.returncode == 0, made.stdout.splitlines()[-1:]


@pytest.mark.parametrize("name", SERVICES)
def test_services_may_call_what_they_die_without(name):
    """libzmq aborts where a thread may not have its priority: sched_setscheduler, of @resources."""
    key, wanted = "SystemCallFilter=", {"@resources", "sched_setscheduler"}
    lines = [line for line in (UNITS / name).read_text().splitlines() if line.startswith(key)]
    filters = [line.removeprefix(key) for line in lines]
    # The last line that speaks of it counts.
    *_, last = [words for words in filters if wanted & set(words.removeprefix("~").split())]
    assert not last.startswith("~")


@pytest.mark.parametrize("name", ["airdraft-target@.service", "airdraft-draft@.service"])
def test_services_that_read_what_strangers_write_may_confine_it(name):
    """By calls that @system-service does not have: a filter for all threads, and Landlock."""
    last = [
        line.removeprefix("SystemCallFilter=").split()
        for line in (UNITS / name).read_text().splitlines()
        if line.startswith("SystemCallFilter=")
    ][-1]
    assert {"seccomp", "landlock_create_ruleset", "landlock_restrict_self"} == set(last)


def settings_of(role: str) -> dict[str, list[str]]:
    """What a service's unit says, by key; lists of words."""
    found: dict[str, list[str]] = {}
    for path in UNITS.glob(f"airdraft-{role}*.service"):
        for line in path.read_text().splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                found.setdefault(key, []).extend(value.split())
    return found


def rules_of(file: str) -> list[list[str]]:
    return [words for words in map(str.split, (UNITS / file).read_text().splitlines()) if words]


def test_the_groups_of_services_are_made_where_there_are_none():
    """A service does not start where a supplementary group of it is missing."""
    made = {words[1] for words in rules_of("sysusers.d/airdraft.conf") if words[0] in ("u", "g")}
    # Of every system, with a number that is not ours to choose.
    made |= {"video"}
    for role in ROLES:
        own = settings_of(role)
        assert {*own["User"], *own["Group"], *own.get("SupplementaryGroups", [])} <= made, role


@pytest.mark.parametrize("role", ROLES)
def test_a_role_has_a_user_and_directories_that_the_others_do_not_see(role):
    own = settings_of(role)
    assert own["User"] == own["Group"] == [f"airdraft-{role}"]
    assert own["StateDirectory"] == [f"airdraft/{role}"]
    assert own["StateDirectoryMode"] == ["0700"]
    rules = rules_of("tmpfiles.d/airdraft.conf")
    made = {words[1]: words[2:4] for words in rules if words[0] == "d"}
    mine = [f"/var/lib/airdraft/{role}"]
    mine += [f"/var/cache/{name}" for name in own.get("CacheDirectory", [])]
    for directory in mine:
        assert made[directory] == ["0700", f"airdraft-{role}"]
        inside = directory.replace("/var/lib", "%S").replace("/var/cache", "%C")
        for other in set(ROLES) - {role}:
            hidden = settings_of(other)["InaccessiblePaths"]
            assert {f"-{inside}", f"-{inside.rpartition('/')[0]}"} & set(hidden), (other, directory)
    # Only the coordinator says what its key is.
    written = own.get("ReadWritePaths", [])
    assert written == (["-%S/airdraft/public"] if role == "coordinator" else [])


@pytest.mark.parametrize("role", ["target", "draft"])
def test_nodes_see_what_their_processor_is_and_look_for_models_where_they_may_keep_them(role):
    """Without /proc/cpuinfo the calibrations of all devices would pass for one another's."""
    own = settings_of(role)
    assert own["ProcSubset"] == ["all"]
    assert f"AIRDRAFT_CACHE=%C/{own['CacheDirectory'][0]}" in own["Environment"]


@pytest.mark.parametrize("name", CONFIGS)
def test_samples_of_settings_load_and_so_would_what_they_leave_out(name, tmp_path):
    """Every commented setting is one that exists."""
    sample = UNITS / "etc" / f"{name}.toml"
    load(CONFIGS[name], sample, {}, environ={})
    lines = sample.read_text().splitlines()
    shown = [line.removeprefix("# ") if is_setting(line) else line for line in lines]
    path = tmp_path / "all.toml"
    path.write_text("\n".join(shown))
    load(CONFIGS[name], path, {}, environ={})
    assert {path.stem for path in sample.parent.glob("*.toml")} == set(CONFIGS)


def is_setting(line):
    inner = line.removeprefix("# ")
    try:
        return line.startswith("# ") and bool(tomllib.loads(inner))
    except tomllib.TOMLDecodeError:
        return False


def test_units_of_a_user_need_no_privileges():
    config = PurePosixPath("/home/somebody/.config")
    files = files_for("/home/somebody/bin/airdraft", config)
    assert {path.parent for path in files} == {config / "systemd" / "user", config / "airdraft"}
    for path, text in files.items():
        if path.suffix not in (".service", ".socket", ".target"):
            continue
        keys = {line.partition("=")[0] for line in text.splitlines()}
        privileged = ("User", "Group", "Private", "Protect", "RestrictA", "Capability", "IPAddress")
        assert not any(key.startswith(privileged) for key in keys)
        # A user's services share his keys and models with his commands.
        assert not keys & {"StateDirectory", "CacheDirectory"}
        assert "AIRDRAFT_CACHE" not in text
        assert "multi-user.target" not in text
        assert "network-online.target" not in text


def test_a_mesh_of_a_user_starts_with_the_session_where_only_the_user_s_commands_look():
    text = (UNITS / "airdraft-coordinator.socket").read_text()
    lines = unit_for(text, COMMAND, is_user=True).splitlines()
    endpoint = private_endpoint({"XDG_RUNTIME_DIR": "/run/user/1000"})
    streams = [line.partition("=")[2] for line in lines if line.startswith("ListenStream=")]
    assert [f"ipc://{s.replace('%t', '/run/user/1000')}" for s in streams] == [endpoint]
    assert {"DirectoryMode=0700", "SocketMode=0600"} <= set(lines)
    target = unit_for((UNITS / "airdraft.target").read_text(), COMMAND, is_user=True)
    assert "WantedBy=default.target" in target.splitlines()


@pytest.mark.parametrize(
    ("config", "base"), [("/h/conf", "/h/conf"), ("relative", "/h/.config"), ("", "/h/.config")]
)
def test_settings_of_a_user_lie_where_xdg_says(config, base):
    assert str(config_of(PurePosixPath("/h"), config)) == base
