"""docs/reference has what the code declares, in its generated parts and in some tables by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import airdraft.nodes.gateway
from airdraft.mesh.messages import PROTOCOL_VERSION
from airdraft.nodes.service import runtime
from airdraft.nodes.telemetry.counts import FATES, PLAIN_TEXTS
from bench.pages.command import FOLDER, outdated
from bench.pages.markdown import PageError, with_parts
from bench.pages.settings import ROLES, settings_of


def rows(page: str) -> set[str]:
    """The first cells of all tables of a page."""
    lines = (FOLDER / page).read_text(encoding="utf-8").splitlines()
    return {line.strip("| ").split(" | ")[0].strip("`") for line in lines if line.startswith("| ")}


def test_no_page_is_out_of_date() -> None:
    found = [path.name for path, _ in outdated()]
    assert not found, "run `python -m bench pages`"


def test_the_page_of_the_protocol_has_its_version() -> None:
    text = (FOLDER / "protocol.md").read_text(encoding="utf-8")
    assert f"The protocol has version {PROTOCOL_VERSION}." in text


def test_a_part_is_written_between_its_markers_and_nowhere_else() -> None:
    page = "a\n<!-- generated: x -->\nold\n<!-- end -->\nb\n"
    made = with_parts(page, {"x": lambda: "new"})
    assert made == "a\n<!-- generated: x -->\n\nnew\n\n<!-- end -->\nb\n"
    assert with_parts(made, {"x": lambda: "new"}) == made


@pytest.mark.parametrize("parts", [{}, {"x": str, "y": str}])
def test_markers_that_are_not_those_of_the_parts_are_an_error(parts: dict[str, type[str]]) -> None:
    with pytest.raises(PageError, match="x"):
        with_parts("<!-- generated: x -->\n<!-- end -->\n", parts)


@pytest.mark.parametrize("role", ROLES)
def test_every_setting_has_a_meaning_in_whole_sentences(role: str) -> None:
    for key, _, meaning in settings_of(ROLES[role]()):
        assert re.match(r"[A-Z`].*\.$", meaning), key


def test_the_page_of_exit_codes_has_all_of_them() -> None:
    codes = {value for name, value in vars(runtime).items() if name.startswith("EXIT_")}
    assert {str(code) for code in codes} <= rows("exit-codes.md")


def test_every_label_of_the_status_document_is_explained() -> None:
    assert {*PLAIN_TEXTS, *FATES} <= rows("metrics-and-status.md")


def test_every_status_of_an_error_is_explained() -> None:
    table = " ".join(rows("http-api.md"))
    sources = Path(airdraft.nodes.gateway.__file__).parent.glob("*.py")
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    raised = set(re.findall(r"ApiError\(\s*(\d{3})", text))
    assert {"400", "404"} <= raised
    assert {status for status in raised if status not in table} == set()
