"""The examples of docs/reference/python-library.md, against a toy mesh."""

import re
from pathlib import Path

import pytest

import nodes.api
from tests.nodes.api.toy_mesh import toy_mesh

PAGE = "docs/reference/python-library.md"
TEXT = (Path(__file__).parents[3] / PAGE).read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
CALLS = ("open_client(", "connect(")


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
    assert names <= {*nodes.api.__all__, "TimeoutError"}
    assert all(hasattr(nodes.api, name) for name in nodes.api.__all__)
