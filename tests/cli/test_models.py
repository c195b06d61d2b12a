import io
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import pytest
from click.testing import CliRunner, Result

from airdraft.nodes.catalog import DEFAULT_DRAFT, DEFAULT_TARGET, Catalog
from airdraft.nodes.catalog.entries import LocalFile
from airdraft.nodes.catalog.gguf import check_gguf
from airdraft.nodes.cli import models as module
from airdraft.nodes.cli.main import main
from tests.nodes.catalog.fakes import FakeHub, entry, gguf_bytes

CONTENT = gguf_bytes()


@pytest.fixture(autouse=True)
def _fake_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: type[FakeHub]
) -> Iterator[None]:
    (tmp_path / "source.gguf").write_bytes(CONTENT)
    source = LocalFile(tmp_path / "source.gguf")
    entries = {name: entry(name, CONTENT, source) for name in (DEFAULT_TARGET, DEFAULT_DRAFT)}
    entries["nice"] = entry("nice", CONTENT, source, terms="Be nice.")
    entries["gone"] = entry("gone", CONTENT, LocalFile(tmp_path / "nowhere"))
    monkeypatch.setattr(module, "Catalog", lambda root: Catalog(root, entries))
    monkeypatch.setenv("AIRDRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    hub.files["main", "m-Q8_0.gguf"] = CONTENT
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


class Airdraft(click.Command):
    """The whole command, as its script starts it."""

    def main(self, args: Sequence[str] = (), *_others: Any, **_more: Any) -> Any:  # type: ignore[override]
        with patch.object(sys, "argv", ["airdraft", *args]):
            main()


def airdraft_models(*arguments: str, stdin: io.BytesIO | None = None) -> Result:
    return CliRunner().invoke(Airdraft("airdraft"), ("models", *arguments), input=stdin)


def test_pull_without_a_name_brings_the_defaults(tmp_path: Path) -> None:
    result = airdraft_models("pull")
    folder = tmp_path / "cache" / "models"
    assert result.exit_code == 0
    names = (DEFAULT_TARGET, DEFAULT_DRAFT)
    assert result.stdout.split() == [str(folder / f"{name}.gguf") for name in names]
    assert result.stderr == "".join(f"{name}: licence MIT\n" for name in names)
    assert airdraft_models("pull").stderr == ""


def test_what_is_here_is_listed_found_and_removed(tmp_path: Path) -> None:
    airdraft_models("pull", DEFAULT_TARGET)
    lines = airdraft_models("list").stdout.splitlines()
    assert [line[0] for line in lines] == ["*", " ", " ", " "]
    assert "MIT" in lines[0]
    result = airdraft_models("path", DEFAULT_TARGET, "--verify")
    assert result.stdout == f"{tmp_path}/cache/models/{DEFAULT_TARGET}.gguf\n"
    Path(result.stdout.strip()).write_bytes(CONTENT[:-1] + b"X")
    assert airdraft_models("path", DEFAULT_TARGET, "--verify").exit_code == 1
    assert airdraft_models("rm", DEFAULT_TARGET).exit_code == 0
    assert airdraft_models("path", DEFAULT_TARGET).exit_code == 2


def test_parts_of_split_models_are_listed_and_removed(tmp_path: Path) -> None:
    part = tmp_path / "cache/stages/0123456789abcdef/big-0-16.gguf"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    (part.parent / "plan.json").write_text("{}")
    assert airdraft_models("list").stdout.splitlines()[-1].endswith(", a part of a split model")
    assert airdraft_models("rm", part.name).exit_code == 0
    assert [path.name for path in part.parent.iterdir()] == ["plan.json"]
    assert airdraft_models("rm", part.name).exit_code == 2


def test_a_repository_of_the_hub_is_a_name_and_what_others_have_is_listed(tmp_path: Path) -> None:
    place = tmp_path / ".lmstudio/models/owner/other/x.gguf"
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    result = airdraft_models("pull", "owner/name")
    assert result.exit_code == 0
    assert Path(result.stdout.strip()).read_bytes() == CONTENT
    assert result.stderr == "hf:owner/name/m-Q8_0.gguf: licence see its page\n"
    lines = airdraft_models("list").stdout.splitlines()
    assert [line.split()[1] for line in lines if line[0] == "*"] == [
        "hf:owner/name/m-Q8_0.gguf",
        "lmstudio:owner/other/x.gguf",
    ]
    for name in ("hf:owner/name/m-Q8_0.gguf", "owner/name:Q8_0"):
        assert airdraft_models("pull", name).stdout == result.stdout
    assert airdraft_models("rm", "hf:owner/name/m-Q8_0.gguf").exit_code == 0
    assert "hf:owner" not in airdraft_models("list").stdout


@pytest.mark.parametrize(
    ("arguments", "exit_code", "reason"),
    [
        (("pull", "smolm"), 2, f"did you mean {DEFAULT_TARGET}"),
        (("path", "none.gguf"), 2, "none.gguf not found"),
        (("rm", "nice"), 2, "nothing to remove"),
        (("pull", "nice"), 2, "--accept-terms"),
        (("pull", "owner/name:Q2_K"), 2, "owner/name has no Q2_K: it has m-Q8_0.gguf"),
        (("pull", "owner/gated"), 1, "set HF_TOKEN"),
        (("pull", "gone"), 2, "nowhere not found"),
        (("vocabulary", "{folder}/nobody", "{folder}/out"), 2, "not found"),
        (("vocabulary", "{folder}/broken.gguf", "{folder}/out"), 2, "is truncated"),
        (("vocabulary", "{folder}/source.gguf", "{folder}/no/out"), 1, "cannot be written"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, arguments: tuple[str, ...], exit_code: int, reason: str
) -> None:
    (tmp_path / "broken.gguf").write_bytes(CONTENT[:-1])
    result = airdraft_models(*(word.format(folder=tmp_path) for word in arguments))
    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()
    lines = result.stderr.splitlines()
    assert lines[:-1] == (["Be nice."] if "--accept-terms" in reason else [])
    assert lines[-1].startswith("error: ")
    assert reason in lines[-1]


class Terminal(io.BytesIO):
    """What somebody types."""

    def isatty(self) -> bool:
        return True


def test_terms_are_shown_and_accepted_by_an_option_or_at_a_terminal() -> None:
    result = airdraft_models("pull", "nice", "--accept-terms")
    assert result.exit_code == 0
    assert "Be nice." in result.stderr
    airdraft_models("rm", "nice")
    for answer, exit_code in ((b"n\n", 2), (b"y\n", 0)):
        result = airdraft_models("pull", "nice", stdin=Terminal(answer))
        assert result.exit_code == exit_code
        assert "Do you accept them?" in result.stderr


def test_a_vocabulary_is_all_that_a_file_says_without_its_tensors(tmp_path: Path) -> None:
    output = tmp_path / "vocabulary.gguf"
    result = airdraft_models("vocabulary", str(tmp_path / "source.gguf"), str(output))
    assert (result.exit_code, result.output) == (0, "")
    check_gguf(output)
    made = output.read_bytes()
    assert len(made) < len(CONTENT)
    # Magic and version, no tensors, then the keys as they were.
    assert made[:16] == CONTENT[:8] + bytes(8)
    assert CONTENT[16:].startswith(made[16:])


def test_a_vocabulary_does_not_replace_the_model_that_it_is_of(tmp_path: Path) -> None:
    source, link = tmp_path / "source.gguf", tmp_path / "link.gguf"
    link.symlink_to(source)
    for output in (source, link):
        result = airdraft_models("vocabulary", str(source), str(output))
        assert (result.exit_code, source.read_bytes()) == (2, CONTENT)
        assert f"{output} is the model file itself" in result.stderr
