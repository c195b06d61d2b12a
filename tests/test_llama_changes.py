"""What is changed of llama.cpp when it is compiled: packaging/llama.cpp."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHANGES = Path(__file__).parents[1] / "packaging" / "llama.cpp"

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
# That of requirements/build.txt, or the machine's.
CMAKE = shutil.which("cmake", path=Path(sys.executable).parent) or shutil.which("cmake")

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
        made = subprocess.run([program], input=line, capture_output=True, text=True, timeout=120)
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
PROMPTS = "    // only enable sgemm for prompt processing\n"
ROW = "                    vec_dot(ne00, &tmp[ir0 - iir0], x);\n"
CHUNK = "        // If there are more than three rows in src1, use gemm; otherwise, use gemv.\n"
BLOCKS = "// Load 8 blocks of 32 interleaved as 8 bytes (B0 - B7)\n"


@pytest.fixture
def sources(tmp_path):
    """Stands for those of ggml: attention, products, rows, repacked products and rows."""
    folder = tmp_path / "src" / "ggml-cpu"
    texts = {
        "ops.cpp": f"void other() {{ {ROWS} a[1;2]; }}\n"
        f"x_flash_attn_ext_f16_one_chunk() {{ {ROWS}{CELLS} }}\n"
        f"x_flash_attn_ext_tiled() {{ {ROWS}{CELLS} }}\n",
        "llamafile/sgemm.cpp": f"void other() {{ {PROMPTS} }}\n"
        f"bool llamafile_sgemm(int n) {{ {PROMPTS} f(); switch (Atype) {PROMPTS} }}\n",
        "ggml-cpu.c": f"void ggml_compute_forward_mul_mat_one_chunk() {{ {ROW} }}\n"
        f"void ggml_compute_forward_mul_mat() {{}}\nvoid other() {{ {ROW} }}\n",
        "repack.cpp": f"void other() {{ {CHUNK} }}\n"
        f"    void forward_mul_mat_one_chunk(int n) {{ {CHUNK} }}\n"
        f"    void forward_mul_mat(int n) {{ {CHUNK} }}\n",
        "arch/x86/repack.cpp": f"void other() {{ {BLOCKS} }}\n"
        f"static void gemv_q4_b32_8x8_q8_0_lut_avx() {{ {BLOCKS} // 4-bit -> 8-bit\n {BLOCKS} }}\n",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return [folder / name for name in texts]


def change(folder: Path) -> subprocess.CompletedProcess[str]:
    assert CMAKE is not None
    command = [CMAKE, "-P", str(CHANGES / "changes.cmake")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(CMAKE is None, reason="no CMake")
def test_what_is_meant_is_changed_once_and_nothing_else(tmp_path, sources):
    before = [path.read_text() for path in sources]

    assert change(tmp_path).returncode == 0
    changed = [path.read_text() for path in sources]
    assert change(tmp_path).returncode == 0

    assert [path.read_text() for path in sources] == changed
    for text, wanted in [
        (changed[0], "airdraft_next_seen(mp"),
        (changed[0], "airdraft_row(at, neq1"),
        (changed[0], "airdraft_attend_heads(DK"),
        (changed[1], "airdraft_products(m, n"),
        (changed[2], "__builtin_prefetch(src0_row"),
        (changed[3], "airdraft_repacked_products(ncols"),
        (changed[4], "_mm_prefetch((const char *) (b_ptr"),
    ]:
        assert text.count(wanted) == 1
    # Before the function, and behind it.
    for old, new, begin, end in zip(
        before,
        changed,
        (
            "x_flash",
            "bool llamafile_sgemm",
            "void ggml_compute_forward_mul_mat_one",
            "    void forward_mul_mat_one",
            "static void",
        ),
        (
            "x_flash_attn_ext_tiled",
            "switch (Atype)",
            "void ggml_compute_forward_mul_mat()",
            "void forward_mul_mat(",
            " // 4-bit",
        ),
        strict=True,
    ):
        assert old.split(begin)[0] in new
        assert new.endswith(end + old.split(end)[1])


@pytest.mark.skipif(CMAKE is None, reason="no CMake")
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (0, "flash_attn_ext_f16_one_chunk(", "attention("),
        (0, CELLS, ""),
        (0, CELLS, CELLS + CELLS),
        (0, "flash_attn_ext_tiled(", "attention("),
        (1, PROMPTS, ""),
        (1, "bool llamafile_sgemm(", "bool sgemm("),
        (2, ROW, ""),
        (3, CHUNK, ""),
        (4, "gemv_q4_b32", "gemv_q5_b32"),
    ],
)
def test_sources_that_are_not_known_are_left_as_they_are(tmp_path, sources, file, old, new):
    sources[file].write_text(sources[file].read_text().replace(old, new))
    before = [path.read_text() for path in sources]

    made = change(tmp_path)

    assert made.returncode != 0
    assert "another llama.cpp" in made.stderr
    assert [path.read_text() for path in sources] == before
