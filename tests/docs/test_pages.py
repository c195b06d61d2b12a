"""Every document can be read: links lead somewhere, lines are short, pages are not too long."""

import functools
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINE = 120
MAX_LINES_OF_README = 150
MAX_LINES_OF_DESIGN = 150
# Records and lists that grow, whose lines nobody wraps.
LONG_LINES_ALLOWED = ("CHANGELOG.md",)
# The first lines of a page that a command writes say so.
GENERATED = re.compile(r"\b(?:[Gg]enerated|[Mm]ade) by `|`python -m bench [^`]*` makes it\b")
# So are parts of a page, between two comments.
GENERATED_PART = re.compile(r"^<!-- generated: .*?^<!-- end -->", re.MULTILINE | re.DOTALL)
NUM_FIRST_LINES = 10

_FENCE = re.compile(r"^ {0,3}(```|~~~)")
_CODE_SPAN = re.compile(r"(`+)(?:.(?!\1))*?.\1(?!`)", re.DOTALL)
_INLINE_LINK = re.compile(
    r"(?<!\\)\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(\s*<?([^()\s<>]+(?:\([^()\s]*\))?)>?[^()]*\)"
)
_REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?([^\s<>]+)>?", re.MULTILINE)
_HTML_LINK = re.compile(r"""<(?:a|img)\b[^>]*\b(?:href|src)=["']([^"']+)["']""")
_HTML_ANCHOR = re.compile(r"""<[a-z]+\b[^>]*\b(?:id|name)=["']([^"']+)["']""")
_ELSEWHERE = re.compile(r"^(?:[a-z][a-z0-9+.-]*:|//)", re.IGNORECASE)


def tracked_pages() -> list[str]:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--", "*.md"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return sorted(name for name in listed.stdout.split("\0") if name and (ROOT / name).exists())


PAGES = tracked_pages()
DESIGN_PAGES = [name for name in PAGES if name.startswith("docs/design/")]


def prose(text: str) -> str:
    """The text with its code blocks and code spans emptied; lines keep their numbers."""
    lines, fence, was_blank, in_block = [], "", True, False
    for line in text.splitlines():
        found = _FENCE.match(line)
        if fence:
            fence = "" if found and found[1] == fence else fence
            lines.append("")
            continue
        if found:
            fence = found[1]
            lines.append("")
            continue
        # Four spaces are code where nothing stands before them that they continue.
        is_indented = line.startswith("    ") or (in_block and not line.strip())
        in_block = is_indented and (in_block or was_blank)
        was_blank = not line.strip()
        lines.append("" if in_block else line)
    return _CODE_SPAN.sub(lambda span: re.sub(r"[^\n]", " ", span[0]), "\n".join(lines))


def links(text: str) -> list[str]:
    found = prose(text)
    return [
        target
        for pattern in (_INLINE_LINK, _REFERENCE, _HTML_LINK)
        for target in pattern.findall(found)
        if not _ELSEWHERE.match(target)
    ]


def slug(heading: str) -> str:
    """What a heading's anchor is called, at forges and in the site alike."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"[^\w\s-]", "", text.strip().lower())
    return re.sub(r"\s", "-", text)


@functools.cache
def anchors(path: Path) -> frozenset[str]:
    text, found = path.read_text(), set()
    lines, quiet = text.splitlines(), prose(text).splitlines()
    for line, without_code in zip(lines, quiet, strict=True):
        heading = re.match(r"^#{1,6}\s+(.*?)\s*#*$", line) if without_code.startswith("#") else None
        if heading:
            name, number = slug(heading[1]), 0
            while (said := f"{name}-{number}" if number else name) in found:
                number += 1
            found.add(said)
    return frozenset(found | set(_HTML_ANCHOR.findall(text)))


def broken_links(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    broken = []
    for link in links(page.read_text()):
        place, _, anchor = unquote(link).partition("#")
        target = (page.parent / place).resolve() if place else page
        is_there = target.exists() and target.is_relative_to(ROOT.resolve())
        if is_there and anchor and target.suffix == ".md":
            is_there = anchor in anchors(target)
        if not is_there:
            broken.append(link)
    return broken


def is_wrapped(name: str) -> bool:
    """Whether somebody wraps the lines of a page: it is no record, and no command writes it."""
    first = "\n".join((ROOT / name).read_text().splitlines()[:NUM_FIRST_LINES])
    return name not in LONG_LINES_ALLOWED and not GENERATED.search(first)


def long_lines(text: str) -> list[str]:
    """Lines that are too long, but for an address that cannot be broken."""

    def can_be_broken(line: str) -> bool:
        rest = re.sub(r"\S*https?://\S+", "", line)
        return len(rest.strip()) > 0 and len(rest) > MAX_LINE

    kept = GENERATED_PART.sub(lambda part: "\n" * part[0].count("\n"), text)
    return [
        f"{number}: {line[:60]}"
        for number, line in enumerate(kept.splitlines(), 1)
        if len(line) > MAX_LINE and (can_be_broken(line) or "://" not in line)
    ]


@pytest.mark.parametrize("name", PAGES)
def test_links_and_anchors_lead_somewhere(name):
    assert broken_links((ROOT / name).resolve()) == []


@pytest.mark.parametrize("name", [name for name in PAGES if is_wrapped(name)])
def test_no_line_is_too_long(name):
    assert long_lines((ROOT / name).read_text()) == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_LINES_OF_README


@pytest.mark.parametrize("name", DESIGN_PAGES)
def test_a_design_page_is_short(name):
    assert len((ROOT / name).read_text().splitlines()) <= MAX_LINES_OF_DESIGN


# -- what the checks themselves see --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[a](one.md) `[b](two.md)`\n\n    [c](three.md)\n\n[e]: five.md", ["one.md", "five.md"]),
        ("```\n[d](four.md)\n```\n", []),
        ("- see\n    [a](one.md)\n", ["one.md"]),
        ("[a](https://example.org/x.md) [b](mailto:a@example.org) <https://example.org>", []),
    ],
    ids=["code and others", "a fence", "a list item that goes on", "other places"],
)
def test_links_are_found_that_lead_into_the_checkout(text, found):
    assert links(text) == found


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("Two machines: a mini PC", "two-machines-a-mini-pc"),
        ("`airdraft up` and its nodes", "airdraft-up-and-its-nodes"),
        ("See [Keys](keys.md)", "see-keys"),
    ],
)
def test_a_heading_has_the_anchor_that_forges_give_it(heading, expected):
    assert slug(heading) == expected


def test_broken_links_and_anchors_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "there.md").write_text("# One\n\n## Two words\n\n## Two words\n")
    page = tmp_path / "page.md"
    good = "[a](there.md) [b](there.md#two-words-1) [c](#here)"
    page.write_text(f"# Here\n\n{good} [d](gone.md) [e](there.md#three) [f](../outside.md)\n")
    assert broken_links(page) == ["gone.md", "there.md#three", "../outside.md"]


def test_only_an_address_may_make_a_line_long():
    word = "x" * 30
    assert long_lines(f"https://example.org/{'y' * 130}") == []
    assert len(long_lines(f"{' '.join([word] * 5)} https://example.org/")) == 1
    assert len(long_lines("| " + "z" * 130 + " |")) == 1


def test_a_generated_part_may_have_long_lines():
    long = "x" * 130
    page = f"a\n<!-- generated: b -->\n{long}\n<!-- end -->\n{long}\n"
    assert [said.split(":")[0] for said in long_lines(page)] == ["5"]
