"""Makes a release of this checkout: `make release VERSION=x.y.z`.

The section Unreleased of CHANGELOG.md becomes that of the version, with today's date in UTC. The
version is set, both are committed and tagged, and the wheels are built. Nothing is pushed.
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHANGELOG = "CHANGELOG.md"
PROJECT = "pyproject.toml"
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_UNRELEASED = re.compile(r"^## Unreleased[ \t]*\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


class ReleaseError(Exception):
    """The release cannot be made; the text says why."""


def order(version: str) -> tuple[int, ...]:
    """The numbers of a version. Raises ReleaseError."""
    if not _VERSION.fullmatch(version):
        raise ReleaseError(f"VERSION = {version!r}: three numbers are accepted, such as 1.2.3")
    return tuple(int(part) for part in version.split("."))


def released(changelog: str, version: str, date: str) -> str:
    """The changelog with the section Unreleased as that of a version, and a new, empty one.

    date: YYYY-MM-DD. Raises ReleaseError.
    """
    if re.search(rf"^## {re.escape(version)}\b", changelog, re.MULTILINE):
        raise ReleaseError(f"{CHANGELOG} has a section {version} already")
    found = _UNRELEASED.search(changelog)
    if found is None:
        raise ReleaseError(f"{CHANGELOG} has no section Unreleased")
    content = found[1].strip("\n")
    # Headings alone tell nothing.
    if not re.search(r"^(?!#)\s*\S", content, re.MULTILINE):
        raise ReleaseError(f"the section Unreleased of {CHANGELOG} is empty")
    section = f"## Unreleased\n\n## {version} - {date}\n\n{content}\n"
    rest = changelog[found.end() :]
    return changelog[: found.start()] + section + (f"\n{rest}" if rest else "")


def with_version(project: str, version: str) -> str:
    """pyproject.toml with another version. Raises ReleaseError."""
    present = tomllib.loads(project)["project"]["version"]
    if order(version) < order(present):
        raise ReleaseError(f"VERSION = {version}: {present} is newer")
    text, num = re.subn(r'^version = ".*"$', f'version = "{version}"', project, flags=re.MULTILINE)
    if num != 1 or tomllib.loads(text)["project"]["version"] != version:
        raise ReleaseError(f"{PROJECT} has {num} lines with a version instead of one")
    return text


def changes(root: Path, version: str, date: str) -> dict[str, str]:
    """The files that a release changes, and what they will say. Raises ReleaseError."""
    texts = {
        CHANGELOG: released((root / CHANGELOG).read_text(), version, date),
        PROJECT: with_version((root / PROJECT).read_text(), version),
    }
    return {name: text for name, text in texts.items() if text != (root / name).read_text()}


def commands(version: str, names: list[str]) -> list[list[str]]:
    """What is run once the files are written."""
    return [
        ["git", "commit", "--quiet", "--message", f"Version {version}", "--", *names],
        ["git", "tag", "--annotate", "--message", f"Version {version}", f"v{version}"],
        ["make", "wheels"],
    ]


def check_repository(version: str) -> None:
    """Raises ReleaseError where the tree is not clean, or the tag is there."""
    if changed := _output("git", "status", "--porcelain"):
        raise ReleaseError(f"the tree is not clean: {changed.splitlines()[0].strip()}")
    if _output("git", "tag", "--list", f"v{version}"):
        raise ReleaseError(f"the tag v{version} is there already")


def _output(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip("\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done")
    given = parser.parse_args()
    order(given.version)
    check_repository(given.version)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    texts = changes(ROOT, given.version, date)
    for name, text in texts.items():
        if given.dry_run:
            print(f"would change {name}")
        else:
            (ROOT / name).write_text(text)
    for command in commands(given.version, list(texts)):
        if given.dry_run:
            print("would run", " ".join(command))
        else:
            subprocess.run(command, cwd=ROOT, check=True)
    if not given.dry_run:
        print(f"Version {given.version} is tagged, its wheels are in dist/. Push commit and tag.")


if __name__ == "__main__":
    try:
        main()
    except (ReleaseError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
