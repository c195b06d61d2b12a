"""The page as a text: what it may do, and what it never does."""

import base64
import hashlib
import json
import re
from importlib.resources import files

import pytest

from airdraft.nodes.coordinator.requests.book import OUTCOMES
from airdraft.nodes.gateway import page as page_module
from airdraft.nodes.gateway.page import SCRIPTS, STYLE, page
from airdraft.nodes.telemetry.counts import FATES, TOKEN_KINDS
from tests.nodes.gateway.calls import gateway_of, get, open_app
from tests.nodes.gateway.fake_mesh import FakeMesh

_FOLDER = files(page_module.__name__)
LEAST_CONTRAST = 4.5


def policy() -> dict[str, str]:
    parts = (part.partition(" ") for part in page()[1].split("; "))
    return {name: value for name, _, value in parts}


def test_its_own_script_and_style_may_run_and_nothing_else() -> None:
    text = page()[0].decode()
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy()[directive] == f"'sha256-{digest}'"
    assert policy()["default-src"] == "'none'"
    assert policy()["frame-ancestors"] == "'none'"
    # Neither attribute would run.
    assert not re.search(r"""\s(?:style|on[a-z]+)=["']""", text)


def test_it_is_one_file() -> None:
    text = page()[0].decode()
    found = re.findall(r"""(?:src|href|action)=["']([^"']*)""", text)
    assert all(address.startswith(("#", "data:")) for address in found), found
    assert "url(" not in text
    assert "@import" not in text
    # A namespace is no address that is asked for.
    outside = set(re.findall(r"https?://[^\s\"')]+", text)) - {"http://www.w3.org/2000/svg"}
    assert outside == set()


def test_every_file_of_the_folder_is_in_it() -> None:
    names = {entry.name for entry in _FOLDER.iterdir() if not entry.name.startswith("__")}
    assert names == {"page.html", STYLE, *SCRIPTS}


def words_of(name: str) -> set[str]:
    """The labels that guesses.js has words for, in an object of this name."""
    script = (_FOLDER / "guesses.js").read_text()
    (found,) = re.findall(rf"const {name} = {{(.*?)}};", script, re.DOTALL)
    return set(re.findall(r"^\s*(\w+): \"", found, re.MULTILINE))


def test_it_has_words_for_every_label_of_the_status_document() -> None:
    assert words_of("KINDS") == set(TOKEN_KINDS)
    assert words_of("FATES") == set(FATES)


def test_every_outcome_that_a_client_did_not_choose_counts_as_failed() -> None:
    script = (_FOLDER / "tables.js").read_text()
    (found,) = re.findall(r"const FAILURES = (\[.*?\]);", script)
    assert {"done", "cancelled", "left"} == set(OUTCOMES) - set(json.loads(found))


def colours() -> dict[str, tuple[str, str]]:
    style = (_FOLDER / STYLE).read_text()
    rows = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style)
    return {name: (light, dark) for name, light, dark in rows}


def luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        *((text, ground) for text in ("text", "quiet") for ground in ("ground", "card", "sunk")),
        *((text, "card") for text in ("good", "warn", "bad", "target", "draft", "slate")),
        *(("text", ground) for ground in ("accepted", "corrected", "bonus")),
        ("on-accent", "target"),
    ],
)
def test_texts_are_well_above_their_ground(scheme: int, text: str, ground: str) -> None:
    one, other = (luminance(colours()[name][scheme]) for name in (text, ground))
    contrast = (max(one, other) + 0.05) / (min(one, other) + 0.05)
    assert contrast >= LEAST_CONTRAST


async def test_it_is_served_to_anybody_with_headers_that_hold_it() -> None:
    app = open_app(gateway_of(FakeMesh()), is_open=False)
    call = await get(app, "/")
    assert call.status == 200
    assert call.headers["content-type"] == "text/html; charset=utf-8"
    assert call.headers["content-security-policy"] == page()[1]
    assert call.headers["x-content-type-options"] == "nosniff"
    assert call.headers["referrer-policy"] == "no-referrer"
    assert call.headers["x-frame-options"] == "DENY"
    assert call.headers["cache-control"] == "no-store"
