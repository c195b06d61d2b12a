"""Results as files, and reports of them."""

import json

import click
import pytest
from click.testing import CliRunner

from bench.__main__ import bench
from bench.equal_cores.command import equal_cores_command
from bench.options import listed
from bench.results.command import benchmarks, benchmarks_command
from bench.results.headline import headline
from bench.results.kept import KEPT
from bench.results.making import this_machine, typed_command
from bench.results.schema import (
    Cores,
    Machine,
    ResultError,
    Run,
    Skipped,
    Start,
    Turn,
    from_lines,
    to_line,
)
from bench.results.tables import cells_of, section

RUN = Run(
    made_at="2026-11-25T12:00:00+00:00",
    command="python -m bench equal-cores",
    commit="abc",
    machine=Machine(
        processor="a processor",
        num_cores=2,
        memory_bytes=8 << 30,
        flags=("avx2",),
        kernel="6.1",
        python="3.11.2",
    ),
    ways={"as it comes": "", "plain": "-md none", "lookup": "-md ngram", "llama.cpp, plain": ""},
    own=("as it comes", "plain", "lookup"),
    versions=("airdraft 1",),
    read_bytes_per_s={"2": 20e9},
    file_bytes={"real": 10**9},
)


def turns(cell, **speeds):
    """Turns of a cell, from the tokens/s of each way by turn."""
    names = {name.replace("_", " "): found for name, found in speeds.items()}
    if "llama" in names:
        names["llama.cpp, plain"] = names.pop("llama")
    return [
        Turn(
            cell=cell,
            turn=number,
            way=way,
            tokens_per_s=speed,
            first_token_s=0.25,
            cpu_s_a_token=0.05,
            num_texts=2,
            num_failed=int(speed == 0.0),
            error="reset" if speed == 0.0 else "",
            num_compared=2 * (way in ("as it comes", "lookup")),
            num_other_texts=0,
        )
        for way, found in names.items()
        for number, speed in enumerate(found)
    ]


def starts(cell, **counts):
    return [
        Start(cell=cell, turn=turn, way=name.replace("_", " "), num_tokens=count)
        for name, found in counts.items()
        for turn, count in enumerate(found)
    ]


CODE, CHAT = "real/code/1/2", "real/chat/4/2"
LINES = [
    RUN,
    Cores(cell=CODE, at_once=1.75),
    *turns(CODE, as_it_comes=(20.0, 30.0), plain=(10.0, 15.0), lookup=(16.0, 24.0), llama=(5, 5)),
    *starts(CODE, as_it_comes=(90, 90), lookup=(100, 100)),
    Skipped(cell=CHAT, way="lookup", reason="it was too slow"),
    *turns(CHAT, as_it_comes=(40.0, 40.0), plain=(50.0, 50.0)),
]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data.update(schema="other/1"), "schema"),
        (lambda data: data.pop("machine"), "machine: Field required"),
        (lambda data: data.update(more=1), "more: Unexpected"),
        (lambda data: data["machine"].update(num_cores="x"), "machine.num_cores: "),
        (lambda data: data.update(kind="none"), "kind"),
    ],
)
def test_what_is_no_result_is_refused_with_the_place(change, says):
    text = "".join(map(to_line, LINES))
    assert from_lines(text.encode()) == LINES
    data = json.loads(to_line(RUN))
    change(data)
    with pytest.raises(ResultError, match="line 1: ") as error:
        from_lines(json.dumps(data).encode())
    assert says in str(error.value)
    for wrong in (b"{}", b"[]", b"{", b"\xac", to_line(LINES[1]).encode()):
        with pytest.raises(ResultError):
            from_lines(wrong)


def test_what_comes_by_itself_is_compared_with_the_fastest_of_the_others():
    code, chat = cells_of(LINES)
    assert (code.best_other, code.best_llama) == ("lookup", "llama.cpp, plain")
    assert (chat.best_other, chat.best_llama) == ("plain", "")
    # In each of two turns 1.25 times lookup, 2 times plain, and 90 tokens to 100.
    assert str(code.ratio("lookup")) == "1.250 (1.250 to 1.250)"
    assert code.ratio("plain").median == 2.0
    assert code.start_ratio.median == pytest.approx(0.9)
    assert chat.start_ratio is None


def test_a_long_prompt_is_for_its_first_token_alone():
    reading = "real/long-prompt/1/2"
    lines = [RUN, *turns(reading, as_it_comes=(20.0,), plain=(10.0,), llama=(5.0,))]
    (cell,) = cells_of(lines)
    assert cell.ratio("plain") is None
    row = "| 1.5B, 0.5B: long prompt, 1 stream, 2 cores | - | - | - | 250, 250 ms | - |"
    assert row in section(lines)


def test_a_turn_that_failed_is_no_part_of_a_ratio():
    (cell,) = cells_of([RUN, *turns(CODE, as_it_comes=(20.0, 0.0), plain=(10.0, 10.0))])
    assert cell.ratio("plain").median == 2.0
    (none,) = cells_of([RUN, *turns(CODE, as_it_comes=(0.0,), plain=(10.0,))])
    assert none.ratio("plain") is None


def test_a_report_has_figures_of_all_ways_ratios_texts_and_the_bound_of_memory():
    text = section(LINES)
    assert "- *plain*: `-md none`\n" in text
    assert "at once did 1.8 times" in text
    assert ": code, 1 stream, 2 cores | 25.0; 50.0 | 12.5; 50.0 | 20.0; 50.0 | 5.00; 50.0 |" in text
    assert "| 40.0; 50.0 | 50.0; 50.0 | - | - |\n" in text
    assert "| 1.25 (1.25 to 1.25) lookup | 2.00 (2.00 to 2.00) |" in text
    assert "| 5.00 (4.00 to 6.00) plain | 250, 250 ms | 0.90 (0.90 to 0.90) |\n" in text
    assert "| 0.80 (0.80 to 0.80) plain | 0.80 (0.80 to 0.80) | - | 250, - ms | - |\n" in text
    # The square root of 1.25 x 0.8.
    assert "to the best other way is 1.000 over 2 cells" in text
    assert "Of 12 texts with guesses 0 differ" in " ".join(text.split())
    assert "failed" not in text
    # 20 GB/s over 1 GB, of which plain decoding has 12.5 passes.
    assert "1 stream, 2 cores | 20.0 | 1.00 | 20.0 | 12.5 | 0.62 |\n" in text
    assert "- lookup, real/chat/4/2: it was too slow\n" in text
    failed = section([RUN, *turns(CODE, as_it_comes=(20.0, 0.0), plain=(10.0, 10.0))])
    assert "1 of 8 requests failed." in failed
    assert section([]) == "No run is kept yet.\n"


def test_a_result_describes_this_machine_and_does_not_tell_where_files_lie(monkeypatch):
    made = this_machine()
    assert min(made.num_cores, made.memory_bytes) >= 1
    assert made.kernel
    typed = ["--out", "/home/somebody/r.json", "--llama-server=/home/somebody/server"]
    monkeypatch.setattr("sys.argv", ["x", "equal-cores", *typed])
    wanted = "python -m bench equal-cores --out r.json --llama-server=server"
    assert typed_command() == wanted


def test_a_folder_that_is_missing_is_told_before_anything_is_measured(tmp_path):
    out = tmp_path / "none" / "result.jsonl"
    wrong = CliRunner().invoke(equal_cores_command, ["--cells", "toy/chat/1/1", "--out", str(out)])
    assert wrong.exit_code == 1
    assert "No such file or directory" in wrong.output


def test_a_compiler_that_is_missing_is_said_before_anything_is_compiled(monkeypatch):
    monkeypatch.setattr("bench.portable.build", lambda *_, **__: pytest.fail("it compiles"))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    wrong = CliRunner().invoke(bench, ["portable", "--arm-compiler", "no-such-g++"])
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
        ("live gateway --streams 0", "numbers of 1 or more"),
        ("chaos detect --over=", "the list is empty"),
        ("law1 --gammas 0,17", "unknown: 17"),
        ("speed --prompts 0", "x>=1"),
        ("live edge --rates-kbps inf", "finite numbers of 0.001 or more"),
        ("live edge --seconds nan", "'nan' is not a number"),
        ("live edge --warm-up -1", "0<=x<inf"),
        ("live scale --pass-ms 0", "0.001<=x<inf"),
        ("equal-cores --llama-server /etc/passwd", "is not executable"),
        ("distill sample --out x --max-answer 2000", "1<=x<=768"),
    ],
)
def test_numbers_with_which_nothing_can_be_measured_are_refused(options, says):
    wrong = CliRunner().invoke(bench, options.split())
    assert wrong.exit_code == 2
    assert says in wrong.output


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


def test_the_headline_has_rows_of_equal_cores_as_soon_as_a_run_is_kept(tmp_path):
    for path in KEPT.glob("*.jsonl"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "run.jsonl").write_text("")
    without = headline(tmp_path, "run.jsonl")
    (tmp_path / "run.jsonl").write_text("".join(map(to_line, LINES)))
    made = headline(tmp_path, "run.jsonl")
    rows = [line for line in made.splitlines() if line not in without.splitlines()]
    what = "| 2 cores, as it comes: code, chat |"
    assert rows == [
        f"{what} plain, the same cores | 2.00, - | -, 0.80 |",
        f"{what} llama.cpp's server in its best mode, the same cores | 5.00, - | -, - |",
    ]


def test_all_kept_data_feeds_the_page_and_there_is_little_of_it():
    names = {path.name for path in KEPT.iterdir()}
    template = (KEPT / "benchmarks.md.in").read_text()
    assert {name for name in names if f"{{{{{name}}}}}" in template} == names - {"benchmarks.md.in"}
    assert sum(path.stat().st_size for path in KEPT.iterdir()) <= 200_000


def test_a_table_stands_where_the_template_names_a_file_that_is_there(tmp_path):
    (tmp_path / "benchmarks.md.in").write_text("# Page\n\n{{some.jsonl}}\n\nEnd.\n")
    some = tmp_path / "some.jsonl"
    columns = '{"columns": {"a": "{}", "b": "{:,}", "c": "{} ({} to {})"}}\n'
    some.write_text(columns + '["x", 1200, [1.50, 1, 2.0]]\n["y", "-", "-"]\n')
    rows = "| a | b | c |\n| --- | --- | --- |\n| x | 1,200 | 1.50 (1 to 2.0) |\n| y | - | - |"
    assert benchmarks(tmp_path) == f"# Page\n\n{rows}\n\nEnd.\n"
    for wrong in ("", "[1]\n", "{}\n", columns + "[1]\n", "x"):
        some.write_text(wrong)
        with pytest.raises(ResultError, match=r"some\.jsonl"):
            benchmarks(tmp_path)
    some.unlink()
    with pytest.raises(OSError, match=r"some\.jsonl"):
        benchmarks(tmp_path)
