"""What is changed of llama.cpp when it is compiled: packaging/llama.cpp."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CHANGES = Path(__file__).parents[1] / "packaging" / "llama.cpp"

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
CMAKE = shutil.which("cmake")

# Each line of input: a length and the cells seen; or planes, queries, heads and heads that share.
PROGRAM = """
#include "attention.h"
#include <iostream>
#include <vector>

int main() {
    std::string kind;
    while (std::cin >> kind) {
        if (kind == "seen") {
            int length, count, cell;
            std::cin >> length >> count;
            std::vector<uint16_t> mask(length, 0xFC00);
            while (count--) { std::cin >> cell; mask[cell] = cell % 2 ? 0x3C00 : 0; }
            int64_t at = 0;
            while ((at = airdraft_next_seen(mask.data(), at, length)) < length) {
                std::cout << at++ << ' ';
            }
        } else {
            int planes, queries, heads, sharing;
            std::cin >> planes >> queries >> heads >> sharing;
            for (int at = 0; at < planes * queries * heads; ++at) {
                std::cout << airdraft_row(at, queries, heads, sharing) << ' ';
            }
        }
        std::cout << std::endl;
    }
}
"""


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("attention")
    (folder / "main.cpp").write_text(PROGRAM)
    program = folder / "main"
    command = [COMPILER, "-O1", f"-I{CHANGES}", str(folder / "main.cpp"), "-o", str(program)]
    subprocess.run(command, check=True, timeout=120)

    def ask(line: str) -> list[int]:
        made = subprocess.run([program], input=line, capture_output=True, text=True, timeout=10)
        return [int(part) for part in made.stdout.split()]

    return ask


@pytest.mark.parametrize(
    ("length", "seen"),
    [
        (0, []),
        (5, []),
        (5, [4]),
        (64, []),
        (64, list(range(64))),
        (100, [0, 15, 16, 17, 31, 63, 64, 99]),
        (48, [7, 8, 24, 40]),
        (320, list(range(100, 140))),
    ],
)
def test_cells_that_are_seen_are_all_found_and_no_others(answer, length, seen):
    assert answer(f"seen {length} {len(seen)} {' '.join(map(str, seen))}") == seen


@pytest.mark.parametrize("shape", [(1, 1, 9, 3), (1, 16, 9, 3), (2, 5, 8, 4), (1, 7, 4, 1)])
def test_every_row_of_queries_comes_once(answer, shape):
    planes, queries, heads, sharing = shape
    rows = answer(f"rows {planes} {queries} {heads} {sharing}")
    assert sorted(rows) == list(range(planes * queries * heads))
    # Heads with the same keys follow each other for one query.
    for first in range(0, len(rows), sharing):
        together = rows[first : first + sharing]
        assert len({row % queries for row in together}) == 1
        assert len({row // queries // sharing for row in together}) == 1


def test_a_lone_query_has_its_heads_in_their_order(answer):
    assert answer("rows 1 1 9 3") == list(range(9))


@pytest.mark.skipif(CMAKE is None, reason="no CMake")
@pytest.mark.parametrize(
    ("loops", "is_known"), [(1, True), (0, False), (2, False)], ids=["as it is", "gone", "twice"]
)
def test_a_source_that_is_not_known_is_not_guessed_at(tmp_path, loops, is_known):
    rows = "for (int ir = ir0; ir < ir1; ++ir) {\n"
    cells = "for (int64_t ic = ic_start; ic < ic_end; ++ic) {\n"
    other = f"void other() {{ {rows} a[1;2] }}\n"
    source = f"{other}x_flash_attn_ext_f16_one_chunk() {{ {rows}{cells * loops} }}\n"
    file = tmp_path / "src" / "ggml-cpu" / "ops.cpp"
    file.parent.mkdir(parents=True)
    file.write_text(source + f"x_flash_attn_ext_tiled() {{ {rows} }}\n")
    before = file.read_text()

    made = [
        subprocess.run(
            [CMAKE, "-P", CHANGES / "attention.cmake"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        for _ in range(2)
    ]

    if not is_known:
        assert made[0].returncode != 0
        assert "another llama.cpp" in made[0].stderr
        assert file.read_text() == before
        return
    assert [run.returncode for run in made] == [0, 0], made
    after = file.read_text()
    assert after.count("airdraft_next_seen(mp") == 1
    assert after.count("airdraft_row(at, neq1") == 1
    assert after.count(rows) == 2, "other functions are as they were"
    assert other in after
