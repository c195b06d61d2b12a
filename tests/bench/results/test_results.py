"""Results as files, and reports of them."""

import dataclasses
import json
import sys

import click
import pytest
from click.testing import CliRunner

from bench.__main__ import bench
from bench.load.figures import Asked, Slo, figures_of
from bench.options import listed
from bench.peers.command import peers_command
from bench.results.command import benchmarks, benchmarks_command, report_command
from bench.results.making import cells_of, this_machine, typed_command
from bench.results.report import markdown, section
from bench.results.schema import (
    SCHEMA,
    Cell,
    Machine,
    ResultError,
    Results,
    System,
    Value,
    from_json,
    to_json,
)

MACHINE = Machine(
    processor="a processor",
    num_cores=2,
    memory_bytes=8 << 30,
    flags=("avx2",),
    kernel="6.1",
    python="3.11.2",
)


CELL = Cell(
    suite="peers",
    place="Q8_0, chat, 1 stream",
    system="ours",
    reference="theirs",
    ratios=(Value(metric="tokens/s", unit="x", value=1.2, low=1.1, high=1.3),),
)


def results(*cells, **changes):
    made = Results(
        schema=SCHEMA,
        made_at="2026-11-25T12:00:00+00:00",
        command="python -m bench peers",
        commit="abc",
        machine=MACHINE,
        systems=(System(name="ours", version="1", settings="1 thread"),),
        cells=cells,
        skipped=("tightwad: not installed",),
    )
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data.update(schema="other/1"), "schema: "),
        (lambda data: data.pop("machine"), "machine: Field required"),
        (lambda data: data.update(more=1), "more: Unexpected"),
        (lambda data: data["cells"][0].update(place=3), "cells.0.place: "),
        (lambda data: data["cells"].append(7), "cells.1: "),
        (lambda data: data["machine"].update(num_cores=True), "machine.num_cores: "),
        (lambda data: data["cells"][0]["ratios"][0].update(value="x"), "ratios.0.value: "),
        (lambda data: data.update(cells={}), "cells: "),
    ],
)
def test_what_is_no_result_is_refused_with_the_place(change, says):
    data = json.loads(to_json(results(CELL)))
    assert from_json(json.dumps(data)) == results(CELL)
    change(data)
    with pytest.raises(ResultError) as error:
        from_json(json.dumps(data))
    assert says in str(error.value)
    for text in ("", "[]", "{"):
        with pytest.raises(ResultError):
            from_json(text)


def figures(rate):
    request = Asked(0.0, tuple(k / rate for k in range(1, 11)))
    return figures_of([request], Slo(1.0, 1.0))


def test_cells_have_figures_of_each_and_ratios_of_ours_to_each_other():
    turns = [[figures(20.0), figures(10.0)], [figures(24.0), None]]
    ours, theirs, pair = cells_of("peers", "here", ["ours", "theirs"], turns, ["ours"])
    assert (ours.system, theirs.system, pair.reference) == ("ours", "theirs", "theirs")
    by_metric = {value.metric: value for value in ours.values}
    assert by_metric["tokens/s"].value == pytest.approx(22.0)
    assert {value.metric for value in pair.ratios} == {"tokens/s", "decode tokens/s"}
    # Compared in the turns that both had.
    assert (ours.note, theirs.note) == ("", "1 of 2 turns")
    assert pair.ratios[0].value == pytest.approx(2.0)
    failed = figures_of([Asked(0.0, (), "reset")], Slo(1.0, 1.0))
    (made,) = cells_of("peers", "here", ["ours"], [[failed]], ["ours"])
    assert made.note == "1 of 1 failed"


def test_turns_without_a_good_request_count() -> None:
    bad = figures_of([Asked(0.0, (9.0, 18.0))], Slo(1.0, 1.0))
    assert bad.metrics["goodput"] == 0.0
    turns = [[bad], [bad], [figures(20.0)]]
    (made,) = cells_of("peers", "here", ["ours"], turns, ["ours"])
    (goodput,) = (value for value in made.values if value.metric == "goodput")
    assert (goodput.value, goodput.low) == (0.0, 0.0)


def test_each_of_ours_is_compared_with_those_that_are_not_before_it() -> None:
    names = ["a", "b", "theirs"]
    turns = [[figures(20.0), figures(10.0), figures(5.0)]]
    pairs = [(c.system, c.reference) for c in cells_of("s", "p", names, turns, ["a", "b"])]
    assert pairs[3:] == [("a", "b"), ("a", "theirs"), ("b", "theirs")]
    # One that did not run has no pairs.
    alone = cells_of("s", "p", names[1:], [turns[0][1:]], ["a", "b"])
    assert [(c.system, c.reference) for c in alone[2:]] == [("b", "theirs")]


def test_a_report_and_a_section_have_rows_of_ours_beside_the_others() -> None:
    turns = [[figures(20.0), figures(16.0), figures(5.0)]] * 2
    names, ours = ["ours", "ours too", "theirs"], ["ours", "ours too"]
    made = [
        cell for place in ("here", "there") for cell in cells_of("s", place, names, turns, ours)
    ]
    # One did not run at one of the places.
    made = [cell for cell in made if (cell.place, cell.reference) != ("there", "theirs")]
    text = markdown(results(*made))
    assert "| here | ours | 20.0 | 20.0 | 50 ms | 50 ms |" in text
    assert "| here | ours | theirs | 4.00 (4.00 to 4.00) |" in text
    text = section(results(*made))
    assert "| here | 20.0 | 1.25 (1.25 to 1.25) | 4.00 (4.00 to 4.00) |\n" in text
    assert "| there | 20.0 | 1.25 (1.25 to 1.25) | - |\n" in text
    # It is of the first of ours.
    assert "has all rows, *ours too* too." in text
    assert "| here | 16.0 |" not in text


def test_a_result_describes_this_machine_and_does_not_tell_where_files_lie(monkeypatch):
    made = this_machine()
    assert min(made.num_cores, made.memory_bytes) >= 1
    assert made.kernel
    typed = ["--out", "/home/somebody/r.json", "--llama-server=/home/somebody/server", "--quick"]
    monkeypatch.setattr("sys.argv", ["x", "peers", *typed])
    wanted = "python -m bench peers --out r.json --llama-server=server --quick"
    assert typed_command() == wanted


def test_a_result_that_is_none_is_refused(tmp_path):
    path = tmp_path / "result.json"
    for text, says in ((None, "No such file"), ("{}", "schema: Field required")):
        if text is not None:
            path.write_text(text)
        done = CliRunner().invoke(report_command, [str(path)])
        assert done.exit_code == 1
        assert says in done.output
    path.write_bytes(b"\xac")
    assert CliRunner().invoke(report_command, [str(path)]).output.startswith("Error: ")
    path.write_text(to_json(results(CELL)))
    done = CliRunner().invoke(report_command, [str(path)])
    assert done.exit_code == 0
    assert "| Q8_0, chat, 1 stream | ours | theirs |" in done.output


def test_a_folder_that_is_missing_is_told_before_anything_is_measured(tmp_path):
    out = tmp_path / "none" / "result.json"
    wrong = CliRunner().invoke(peers_command, ["--quick", "--out", str(out)])
    assert wrong.exit_code == 2
    assert "is not an existing folder" in wrong.output
    wrong = CliRunner().invoke(bench, ["paper", "--quick", "--out", "/dev/null/x"])
    assert "Error: /dev/null/x: Not a directory" in wrong.output


def test_a_compiler_that_is_missing_is_said_before_anything_is_compiled(monkeypatch):
    monkeypatch.setattr("bench.portable.build", lambda *_, **__: pytest.fail("it compiles"))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    wrong = CliRunner().invoke(bench, ["portable-kernels", "--arm-compiler", "no-such-g++"])
    assert wrong.exit_code == 1
    assert "no-such-g++ is missing" in wrong.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,x", "'1,x' is not a list of numbers"),
        ("1,3,4", "unknown: 3, 4; use 1, 2"),
        (",", "the list is empty"),
    ],
)
def test_a_list_that_cannot_be_is_refused_with_the_reason(text, says):
    values = listed(int, lambda: (1, 2))
    with pytest.raises(click.BadParameter, match=says):
        values(text)
    assert values("1,2,") == [1, 2]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("peers --streams 0", "numbers of 1 or more"),
        ("speed --streams 1,-4", "numbers of 1 or more"),
        ("peers --rates 0.01", "numbers of 0.3 or more"),
        ("peers --rates 4,-1", "numbers of 0.3 or more"),
        ("peers --rates 4,nan", "numbers of 0.3 or more"),
        ("chaos detect --over=", "the list is empty"),
        ("edge --rates-kbps 20,-1", "numbers of 0.001 or more"),
        ("first --lengths 0", "numbers of 1 or more"),
        ("law1 --prompts 0", "x>=1"),
        ("law1 --gammas 0,17", "unknown: 17"),
        ("distill sample --out x --width 0", "x>=1"),
        ("peers --turns 0", "x>=1"),
        ("speed --prompts 0", "x>=1"),
        ("bound --prompts 0", "x>=1"),
        ("speed --max-tokens 1", "x>=2"),
        ("bound --max-tokens 1", "x>=2"),
        ("first --repeats 0", "x>=1"),
        ("live machine --pairs 0", "x>=1"),
        ("live mixed --turns 0", "x>=1"),
        ("live edge --turns 0", "x>=1"),
        ("edge --turns 0", "x>=1"),
        ("sim --scenarios 0", "x>=1"),
        ("copies --seeds 0", "x>=1"),
        ("peers --rates inf", "finite numbers of 0.3 or more"),
        ("edge --seconds nan", "'nan' is not a number"),
        ("chaos links --seconds inf", "0.001<=x<inf"),
        ("chaos kills --mean-gap-s -1", "0.001<=x<inf"),
        ("live scale --pass-ms 0", "0.001<=x<inf"),
        ("live scale --per-target 0", "x>=1"),
        ("live edge --warm-up -1", "0<=x<inf"),
        ("speed --temperature nan", "'nan' is not a number"),
        ("distill train --out x --seed -1", "x>=0"),
        ("hostile --frames -1", "x>=0"),
        ("peers --llama-server /etc/passwd", "is not executable"),
        ("distill sample --out x --max-answer 2000", "1<=x<=768"),
    ],
)
def test_numbers_with_which_nothing_can_be_measured_are_refused(options, says):
    wrong = CliRunner().invoke(bench, options.split())
    assert wrong.exit_code == 2
    assert says in wrong.output


def test_a_library_that_is_missing_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "bench.distill.training.train", None)
    wrong = CliRunner().invoke(bench, ["distill", "train", "--out", str(tmp_path / "run")])
    assert wrong.exit_code == 1
    assert wrong.output.startswith("Error: bench.distill.training.train is not installed: `pip ")


def test_every_option_accepts_its_own_default():
    found = [(click.Context(bench), bench)]
    for context, command in found:
        for parameter in command.params:
            value = parameter.get_default(context)
            if isinstance(value, (str, int, float)):
                parameter.type_cast_value(context, value)
        if isinstance(command, click.Group):
            below = [command.get_command(context, n) for n in command.list_commands(context)]
            found += [(click.Context(each, parent=context), each) for each in below]
    assert len(found) > 30


def test_the_committed_page_is_that_of_the_data():
    ran = CliRunner().invoke(benchmarks_command, ["--check"])
    assert ran.exit_code == 0, ran.output


def test_a_table_stands_where_the_template_names_a_file_that_is_there(tmp_path):
    (tmp_path / "benchmarks.md.in").write_text("# Page\n\n{{some.csv}}\n\nEnd.\n")
    (tmp_path / "some.csv").write_text('a,b\n1,"2, 3"\n')
    made = benchmarks(tmp_path)
    assert made == "# Page\n\n| a | b |\n| --- | --- |\n| 1 | 2, 3 |\n\nEnd.\n"
    (tmp_path / "some.csv").unlink()
    with pytest.raises(OSError, match=r"some\.csv"):
        benchmarks(tmp_path)
