"""Every document can be read: links lead somewhere, lines are short, pages are not too long.

Of docs/ alone `make docs` finds more: it reads pages as the site does.
"""

import functools
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINE = 120
MAX_LINES = 150
# Records and lists that grow, whose lines nobody wraps.
LONG_LINES_ALLOWED = ("CHANGELOG.md",)
# The first lines of a page that a command writes say so.
GENERATED = re.compile(r"\b(?:[Gg]enerated|[Mm]ade) by `|`python -m bench [^`]*` makes it\b")
# So are parts of a page, between two comments.
GENERATED_PART = re.compile(r"^<!-- generated: .*?^<!-- end -->", re.MULTILINE | re.DOTALL)
NUM_FIRST_LINES = 10

# In code brackets are no links: blocks, and spans.
_CODE = re.compile(
    r"^ *(```|~~~).*?^ *\1|^    [^\n]*$|(?<!`)(`+)(?!`).*?(?<!`)\2(?!`)", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"\]\(\s*<?([^()\s<>]+)|<(?:a|img)\b[^>]*\b(?:href|src)=[\"']([^\"']+)")
_ANCHOR = re.compile(r"^#{1,6} +(.*?)$|<[a-z]+\b[^>]*\bid=[\"']([^\"']+)", re.MULTILINE)
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
SHORT_PAGES = ["README.md", *(name for name in PAGES if name.startswith("docs/design/"))]


def links(text: str) -> list[str]:
    """The links of a page that lead into the checkout."""
    found = [inline or html for inline, html in _LINK.findall(_CODE.sub("", text))]
    return [target for target in found if not _ELSEWHERE.match(target)]


def slug(heading: str) -> str:
    """What a heading's anchor is called, at forges and in the site alike."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"[^\w\s-]", "", text.strip().lower())
    return re.sub(r"\s", "-", text)


@functools.cache
def anchors(path: Path) -> set[str]:
    """`make docs` knows of headings with the same words, too."""
    return {slug(heading) or html for heading, html in _ANCHOR.findall(path.read_text())}


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


@pytest.mark.parametrize("name", SHORT_PAGES)
def test_the_readme_and_each_design_page_are_short(name):
    assert len((ROOT / name).read_text().splitlines()) <= MAX_LINES


# -- what the checks themselves see --------------------------------------------------------------


def test_broken_links_and_anchors_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "there.md").write_text("# One\n\n## `two` words: [a](b.md)\n")
    page = tmp_path / "page.md"
    good = "[a](there.md) [b](there.md#two-words-a) [c](#here) [d](https://example.org/x.md)"
    code = "`[e](code.md)`\n\n    [f](code.md)\n\n```\n[g](code.md)\n```\n"
    page.write_text(f"# Here\n\n{good}\n{code}[d](gone.md) [e](there.md#three) [f](../out.md)\n")
    assert broken_links(page) == ["gone.md", "there.md#three", "../out.md"]


def test_only_an_address_or_a_generated_part_may_make_a_line_long():
    long = "x" * 130
    assert long_lines(f"https://example.org/{long}") == []
    assert len(long_lines(f"{' '.join(['x' * 30] * 5)} https://example.org/")) == 1
    page = f"a\n<!-- generated: b -->\n{long}\n<!-- end -->\n{long}\n"
    assert [said.split(":")[0] for said in long_lines(page)] == ["5"]
