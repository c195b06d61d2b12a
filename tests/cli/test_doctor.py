import json
from pathlib import Path

from airdraft.nodes.cli.doctor import text_of
from airdraft.nodes.doctor.finding import note, ok, warn
from tests.cli.commands import Commands
from tests.nodes.api.toy_mesh import toy_mesh


def test_a_mesh_that_works(commands: Commands) -> None:
    with toy_mesh() as mesh:
        asked = ("doctor", "--json", "--connect", mesh.endpoint)
        found = json.loads(commands.printed(*asked, AIRDRAFT_ENGINE__MODEL="toy:1"))
    assert {row["level"] for row in found} <= {"ok", "note", "warn"}
    text = "\n".join(row["what"] for row in found)
    for part in ("sending 200 kB to it takes", "target target-0: toy-1", "draft draft: toy-0.8"):
        assert part in text


def test_what_is_wrong_is_told_with_what_to_do(commands: Commands, tmp_path: Path) -> None:
    where = f"ipc://{tmp_path}/nobody"
    done = commands.run("doctor", "--connect", where, AIRDRAFT_ENGINE__MODEL="toy:1")
    assert (done.returncode, done.stderr) == (1, "")
    assert f"fail  no coordinator answered at {where}" in done.stdout
    assert "-> start a mesh with `airdraft serve`" in done.stdout
    path = tmp_path / "t.toml"
    path.write_text("[engine]\nmodel = 'toy:1'\nthread = 2\n")
    done = commands.run("doctor", "--local", "--role", "target", "--config", str(path))
    assert done.returncode == 1
    assert "unknown key engine.thread, did you mean engine.threads?" in done.stdout


def test_the_link_is_that_of_the_configuration(commands: Commands, tmp_path: Path) -> None:
    path = tmp_path / "d.toml"
    with toy_mesh() as mesh:
        path.write_text(f"connect = '{mesh.endpoint}'\n[engine]\nmodel = 'toy:1'\n")
        asked = ("doctor", "--role", "draft", "--config", str(path), "-v")
        assert f"coordinator at {mesh.endpoint}: answers" in commands.run(*asked).stdout


def test_what_is_right_is_counted_and_shown_if_asked_for() -> None:
    findings = [ok("fine"), note("hm"), warn("bad", "mend it")]
    text = "note  hm\nwarn  bad\n      -> mend it\n1 ok, 1 note, 1 warn"
    assert text_of(findings, verbose=False) == text
    assert text_of(findings, verbose=True) == "ok    fine\n" + text
