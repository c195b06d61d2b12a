"""What a release changes in the changelog and in pyproject.toml."""

from pathlib import Path

import pytest

from tests.packaged import release

__all__ = ["release"]

ROOT = Path(__file__).parents[1]

HEAD = "# Changelog\n\nThe form.\n\n"
ADDED = "### Added\n\n- A thing.\n"


@pytest.mark.parametrize("before", ["", "## 0.9.0 - 2026-01-01\n\n- An older thing.\n"])
def test_what_was_unreleased_becomes_the_version_and_the_rest_stays(release, before):
    text = HEAD + "## Unreleased\n\n" + ADDED + ("\n" if before else "") + before
    made = release.released(text, "1.0.0", "2026-12-01")
    expected = HEAD + "## Unreleased\n\n## 1.0.0 - 2026-12-01\n\n" + ADDED
    assert made == expected + ("\n" + before if before else "")


def test_a_second_release_begins_where_the_first_one_ended(release):
    first = release.released(HEAD + "## Unreleased\n\n" + ADDED, "1.0.0", "2026-12-01")
    with pytest.raises(release.ReleaseError, match="is empty"):
        release.released(first, "1.0.1", "2026-12-02")
    more = first.replace("## Unreleased\n", "## Unreleased\n\n- Another.\n")
    second = release.released(more, "1.0.1", "2026-12-02")
    assert second.index("## 1.0.1 - 2026-12-02\n\n- Another.\n") < second.index("## 1.0.0")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (HEAD, "no section Unreleased"),
        (HEAD + "## Unreleased\n\n### Added\n\n## 0.9.0\n\n- A.\n", "is empty"),
        (HEAD + "## Unreleased\n\n- A.\n\n## 1.0.0 - 2026-01-01\n\n- B.\n", "already"),
    ],
)
def test_a_changelog_that_is_not_ready_is_refused(release, text, reason):
    with pytest.raises(release.ReleaseError, match=reason):
        release.released(text, "1.0.0", "2026-12-01")


def test_the_version_is_set_and_only_that(release):
    before = '[project]\nname = "a"\nversion = "0.1.0"\nrequires-python = ">=3.11"\n'
    assert release.with_version(before, "0.2.0") == before.replace("0.1.0", "0.2.0")
    assert release.with_version(before, "0.1.0") == before
    with pytest.raises(release.ReleaseError, match="newer"):
        release.with_version(before, "0.0.9")
    for version in ("1.0", "v1.0.0", "1.0.0rc1", "01.0.0", ""):
        with pytest.raises(release.ReleaseError, match="three numbers"):
            release.order(version)


def test_the_files_of_this_checkout_can_be_released(release, tmp_path):
    for name in (release.CHANGELOG, release.PROJECT):
        text = (ROOT / name).read_text()
        # Just after a release nothing is unreleased.
        (tmp_path / name).write_text(text.replace("## Unreleased\n", "## Unreleased\n\n- A.\n", 1))
    changed = release.changes(tmp_path, "999.0.0", "2026-12-01")
    assert set(changed) == {release.CHANGELOG, release.PROJECT}
