"""What is changed of llama.cpp when it is compiled: packaging/llama.cpp."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CHANGES = Path(__file__).parents[1] / "packaging" / "llama.cpp"

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
CMAKE = shutil.which("cmake")

# Each line of input: a length and the cells seen; or planes, queries and heads.
PROGRAM = """
#include "attention.h"
#include <iostream>
#include <string>
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
            int planes, queries, heads;
            std::cin >> planes >> queries >> heads;
            for (int at = 0; at < planes * queries * heads; ++at) {
                std::cout << airdraft_row(at, queries, heads) << ' ';
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


@pytest.mark.parametrize("shape", [(1, 1, 9), (1, 16, 9), (2, 5, 8), (1, 7, 4)])
def test_every_row_of_queries_comes_once(answer, shape):
    planes, queries, heads = shape
    rows = answer(f"rows {planes} {queries} {heads}")
    assert sorted(rows) == list(range(planes * queries * heads))
    # All heads of one query follow each other, in their order.
    for first in range(0, len(rows), heads):
        together = rows[first : first + heads]
        assert len({row % queries for row in together}) == 1
        assert [row // queries % heads for row in together] == list(range(heads))


def test_a_lone_query_has_its_heads_in_their_order(answer):
    assert answer("rows 1 1 9") == list(range(9))


ROWS = "for (int ir = ir0; ir < ir1; ++ir) {\n"
CELLS = "for (int64_t ic = ic_start; ic < ic_end; ++ic) {\n"
COLUMNS = "    // only enable sgemm for prompt processing\n"


@pytest.fixture
def sources(tmp_path):
    """Stands for those of ggml: (attention, products)."""
    folder = tmp_path / "src" / "ggml-cpu"
    (folder / "llamafile").mkdir(parents=True)
    files = folder / "ops.cpp", folder / "llamafile" / "sgemm.cpp"
    files[0].write_text(
        f"void other() {{ {ROWS} a[1;2]; }}\n"
        f"x_flash_attn_ext_f16_one_chunk() {{ {ROWS}{CELLS} }}\n"
        f"x_flash_attn_ext_tiled() {{ {ROWS}{CELLS} }}\n"
    )
    files[1].write_text(
        f"void other() {{ {COLUMNS} }}\n"
        f"bool llamafile_sgemm(int n) {{ {COLUMNS} f(); switch (Atype) {COLUMNS} }}\n"
    )
    return files


def change(folder: Path) -> subprocess.CompletedProcess[str]:
    assert CMAKE is not None
    command = [CMAKE, "-P", str(CHANGES / "changes.cmake")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(CMAKE is None, reason="no CMake")
def test_what_is_meant_is_changed_once_and_nothing_else(tmp_path, sources):
    attention, products = (path.read_text() for path in sources)

    assert change(tmp_path).returncode == 0
    changed = [path.read_text() for path in sources]
    assert change(tmp_path).returncode == 0

    assert [path.read_text() for path in sources] == changed
    assert changed[0].count("airdraft_next_seen(mp") == 1
    assert changed[0].count("airdraft_row(at, neq1") == 1
    assert changed[0].count("airdraft_attend_heads(DK") == 1
    assert changed[1].count("airdraft_products(m, n") == 1
    # Before the function, and behind it.
    assert attention.split("x_flash")[0] in changed[0]
    assert changed[0].endswith("x_flash" + attention.split("x_flash")[2])
    assert products.split("llamafile_sgemm")[0] in changed[1]
    assert changed[1].endswith(products.split("switch (Atype)")[1])


@pytest.mark.skipif(CMAKE is None, reason="no CMake")
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (0, "flash_attn_ext_f16_one_chunk(", "attention("),
        (0, CELLS, ""),
        (0, CELLS, CELLS + CELLS),
        (0, "flash_attn_ext_tiled(", "attention("),
        (1, COLUMNS, ""),
        (1, "bool llamafile_sgemm(", "bool sgemm("),
    ],
)
def test_sources_that_are_not_known_are_left_as_they_are(tmp_path, sources, file, old, new):
    sources[file].write_text(sources[file].read_text().replace(old, new))
    before = [path.read_text() for path in sources]

    made = change(tmp_path)

    assert made.returncode != 0
    assert "another llama.cpp" in made.stderr
    assert [path.read_text() for path in sources] == before
