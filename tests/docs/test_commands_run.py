"""Commands of the README and the guides do what they are said to do, where they end by themselves.

Long form: `AIRDRAFT_GUIDES=1 pytest tests/docs/test_commands_run.py`, some minutes. They run beside
`airdraft serve` with the default models, in a folder of their own and with keys of their own.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Commands
from tests.cli.serving import serving

pytestmark = [
    pytest.mark.model,
    pytest.mark.slow,
    pytest.mark.skipif("AIRDRAFT_GUIDES" not in os.environ, reason="the long form was not wanted"),
]
ROOT = Path(__file__).parents[2]
GUIDES = sorted(f"docs/guides/{path.name}" for path in (ROOT / "docs" / "guides").glob("*.md"))
PAGES = ("README.md", "docs/start.md", *GUIDES)
# They run until they are stopped, read a terminal, or need another machine, a key or a download.
# Those of services run in `packaging/try-in-container`.
_NOT_HERE = re.compile(
    r"^(up|serve|coordinator|target|draft|gateway|chat|join|keys|apikeys|install-units)\b"
    r"|^top$|^models (pull|files|rm)|OWNER/REPO|-7b|my-target|TARGET|config target|--connect"
)
_COMMAND = re.compile(r"^    airdraft ((?:.*\\\n)*.*)$", re.MULTILINE)


def commands() -> Iterator[tuple[str, str]]:
    """Pages with the arguments of the commands in their code blocks."""
    for page in PAGES:
        for found in _COMMAND.findall((ROOT / page).read_text()):
            words = found.replace("\\\n", " ")
            is_marked = "not run" in words
            words = re.split(r"\s#\s?", words)[0].strip()
            if not is_marked and not _NOT_HERE.search(words):
                yield page, words


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    folder = tmp_path_factory.mktemp("guides")
    with pytest.MonkeyPatch.context() as patch:
        # Commands that name no mesh find the one at this user's socket.
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        with serving(folder, ("serve",)) as made:
            yield made.commands


FOUND = list(dict.fromkeys(commands()))


def test_there_are_commands_to_run() -> None:
    assert len(FOUND) >= 15
    assert {"README.md", "docs/start.md", "docs/guides/observe.md"} <= {page for page, _ in FOUND}


@pytest.mark.parametrize(("page", "words"), FOUND, ids=[words for _, words in FOUND])
def test_a_command_of_a_page_ends_well(page: str, words: str, mesh: Commands) -> None:
    # What they write does not belong into the checkout.
    arguments = [
        str(mesh.tmp / word) if re.fullmatch(r"FILE|[a-z-]+\.(json|jsonl|gguf)", word) else word
        for word in shlex.split(words)
    ]
    done = mesh.run(*arguments)
    assert done.returncode == 0, f"{page}: airdraft {words}: {done.stderr}"
