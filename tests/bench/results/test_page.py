"""The page of measurements is made of the data that is kept, and is up to date."""

import pytest
from click.testing import CliRunner

from bench.results.command import benchmarks_command
from bench.results.page import benchmarks


def test_the_committed_page_is_that_of_the_data():
    ran = CliRunner().invoke(benchmarks_command, ["--check"])
    assert ran.exit_code == 0, ran.output


def test_a_table_stands_where_the_template_names_a_file(tmp_path):
    (tmp_path / "benchmarks.md.in").write_text("# Page\n\n{{some.csv}}\n\nEnd.\n")
    (tmp_path / "some.csv").write_text('a,b\n1,"2, 3"\n')
    made = benchmarks(tmp_path)
    assert made == "# Page\n\n| a | b |\n| --- | --- |\n| 1 | 2, 3 |\n\nEnd.\n"


def test_a_file_that_is_missing_is_told(tmp_path):
    (tmp_path / "benchmarks.md.in").write_text("{{none.csv}}\n")
    with pytest.raises(OSError, match=r"none\.csv"):
        benchmarks(tmp_path)
