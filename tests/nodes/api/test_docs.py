"""The examples of docs/reference/python-library.md, against a toy mesh."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

import airdraft.nodes.api
from tests.nodes.api.toy_mesh import toy_mesh

PAGE = "docs/reference/python-library.md"
TEXT = (Path(__file__).parents[3] / PAGE).read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
CALLS = ("Client(", "connect(")


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_an_example_runs(
    index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRDRAFT_KEYS", str(tmp_path / "keys"))
    example = EXAMPLES[index]
    assert any(f"{call})" in example for call in CALLS)
    with toy_mesh() as mesh:
        for call in CALLS:
            example = example.replace(f"{call})", f'{call}"{mesh.endpoint}")')
        code = compile(example, PAGE, "exec")
        exec(code, {"__name__": "example"})  # noqa: S102 - our own page
    assert capsys.readouterr().out


def test_every_error_and_call_of_the_page_is_public() -> None:
    names = set(re.findall(r"`(\w+Error)`", TEXT))
    assert names
    assert names <= {*airdraft.nodes.api.__all__, "TimeoutError"}
    assert all(hasattr(airdraft, name) for name in airdraft.nodes.api.__all__)


def test_the_package_has_the_public_names_a_version_and_no_others() -> None:
    assert airdraft.Client is airdraft.nodes.api.Client
    assert airdraft.__version__ == version("airdraft")
    with pytest.raises(AttributeError, match="airdraft has no name 'client'"):
        _ = airdraft.client
    everything: dict[str, object] = {}
    exec("from airdraft import *", everything)  # noqa: S102 - what a program may write
    assert everything.keys() >= set(airdraft.nodes.api.__all__)
