"""Whole models on our kernels: exact, alike on any number of threads, and close to ggml's own."""

import contextlib
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from airdraft.nodes.engine.kernels.library import VARIABLE
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_abi import library
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.noise import drawn_ids
from airdraft.nodes.engine.protocol import InvalidInputError, Logits, ModelFileError, Span
from airdraft.nodes.engine.selftest import run_self_test
from tests.engine.kernels.ours import runnable
from tests.engine.kernels.tiny_models import FILE_TYPES, SHAPES, Shape, write_model
from tests.engine.printed import printed

# Longer than a second each, and threads need cores of their own.
pytestmark = pytest.mark.slow

CASES = [(shape, kind) for shape in SHAPES for kind in FILE_TYPES]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]} {case[1]}")
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape, kind = request.param
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_model(path, SHAPES[shape], kind)
    return path


@contextlib.contextmanager
def opened(path: Path, *, num_threads: int = 1, repack: bool = True) -> Iterator[LlamaModel]:
    config = LlamaConfig(
        path=path, num_cells=1024, max_sequences=2, num_threads=num_threads, repack=repack
    )
    with contextlib.closing(LlamaModel(config)) as model:
        yield model


def test_it_is_exact_and_threads_change_no_bit(path: Path) -> None:
    digests = set()
    for num_threads in (1, 2):
        with opened(path, num_threads=num_threads) as model:
            tested = run_self_test(model)
        assert tested.exact, tested.failure
        digests.add(tested.digest)
    assert len(digests) == 1


def test_a_model_whose_attention_is_ggmls_is_exact_with_many_keys(tmp_path: Path) -> None:
    """Our attention takes no heads of 80 columns, and from 512 keys on ggml's changes its sums."""
    path = tmp_path / "tiny.gguf"
    write_model(path, Shape(512, 6, 1, 80, 768), "Q8_0")
    with opened(path, num_threads=2) as model:
        tested = run_self_test(model)
    assert tested.exact, tested.failure


def test_factors_beside_matrices_are_used(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    rows = []
    for has_factors in (False, True):
        write_model(path, SHAPES["width 512"], "Q8_0", has_factors=has_factors)
        with opened(path) as model:
            assert run_self_test(model).exact
            rows.append(model.forward([Span(0, 0, [5, 6, 7], 1)]).copy())
    assert not np.array_equal(*rows)


def test_a_text_of_which_a_model_keeps_the_last_window_is_not_cut(tmp_path: Path) -> None:
    """llama.cpp saves the last window alone, and a compaction saves all texts and restores them."""
    path = tmp_path / "tiny.gguf"
    write_model(path, Shape(512, 8, 2, 64, 768), "Q8_0", architecture="cohere2", window=16)
    token_ids = drawn_ids(5, 40, 300)
    with opened(path) as model:
        assert run_self_test(model).exact
        logits = model.forward([Span(0, 0, token_ids, 40)]).copy()
        for kept, cut in ((30, 30), (12, 10)):
            model.truncate(0, kept)
            saved = model.save(0)
            assert saved.shortest == (30 if kept > 16 else 0)
            model.restore(1, saved, cut)
            assert model.shortest(1) == saved.shortest
            assert np.array_equal(step(model, 1, token_ids[cut]), logits[cut])
            model.truncate(1, 0)
        model.forward([Span(0, 12, token_ids[12:])])
        # What is still in the cache is whole.
        model.copy_prefix(0, 1, 20)
        assert np.array_equal(step(model, 1, token_ids[20]), logits[20])
        model.truncate(1, 0)
        while not model.shortest(0):
            # Other texts come and go until the cache is full and is compacted.
            model.forward([Span(1, 0, token_ids), Span(0, 40, [7])])
            model.truncate(1, 0)
            model.truncate(0, 40)
        for wrong in (
            lambda: model.copy_prefix(0, 1, 20),
            lambda: model.restore(1, model.save(0), 20),
        ):
            with pytest.raises(InvalidInputError):
                wrong()
        model.copy_prefix(0, 1, 40)


def test_a_diffusion_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_model(path, SHAPES["width 512"], "Q8_0", architecture="llada")
    with pytest.raises(ModelFileError, match="token by token"), opened(path):
        pass


def step(model: LlamaModel, seq_id: int, token_id: int) -> Logits:
    """The logits after one more token."""
    return model.forward([Span(seq_id, model.length(seq_id), [token_id], 1)])[0]


def test_its_predictions_are_those_of_ggmls_own_products(path: Path) -> None:
    """Two roundings of the same weights: both are as far from the true ones."""
    with opened(path) as ours, opened(path, repack=False) as theirs:
        token_ids = drawn_ids(5, 200, ours.info.num_vocab)
        (log_p, log_q) = (_log_probabilities(model, token_ids) for model in (ours, theirs))
    divergence = (np.exp(log_q) * (log_q - log_p)).sum(axis=1)
    assert divergence.mean() < 2e-4
    chosen = np.arange(len(token_ids) - 1), token_ids[1:]
    assert abs((log_p[chosen] - log_q[chosen]).mean()) < 5e-3


def test_unlikely_tokens_can_be_left_out_and_the_others_keep_their_bits(path: Path) -> None:
    with opened(path) as model:
        rows = []
        for limit in (0, 32, 0):
            model.limit_output(limit)
            rows.append(model.forward([Span(0, 0, (5, 6, 7), 2)]).copy())
            model.truncate(0, 0)
        whole, part, again = rows
        assert np.array_equal(part[:, :32], whole[:, :32])
        assert (part[:, 32:] == np.float32(-1e30)).all()
        assert np.array_equal(again, whole)


def _log_probabilities(model: LlamaModel, token_ids: list[int]) -> np.ndarray:
    logits = model.forward([Span(0, 0, token_ids[:-1], len(token_ids) - 1)]).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


_KERNELS = (
    "from airdraft.nodes.engine.llama_abi import kernels; "
    "print([kernels().name, kernels().missing])"
)


def test_the_environment_chooses_among_them() -> None:
    """In a new process: within one process the first call decides."""
    for wanted, given in (
        ("", f"['{runnable()[0]}', '']"),
        ("any", "['any', '']"),
        ("none", "['', 'switched off']"),
        ("avx1024", "no kernels 'avx1024'"),
    ):
        assert given in printed(_KERNELS, **{VARIABLE: wanted})


# A library of OpenMP reads such variables once. A few passes fill a piece of 64 keys.
_FEWER_THREADS = """
import contextlib, sys
from pathlib import Path
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.protocol import Span
config = LlamaConfig(path=Path(sys.argv[1]), num_cells=256, max_sequences=2, num_threads=2)
with contextlib.closing(LlamaModel(config)) as model:
    for start in range(0, 96, 8):
        logits = model.forward([Span(0, start, range(5, 13), 1)])
    print(logits.tobytes().hex())
"""


def test_fewer_threads_than_asked_for_have_enough_memory(tmp_path: Path) -> None:
    """Where pieces of memory lie side by side, a write behind one ends the process."""
    path = tmp_path / "tiny.gguf"
    write_model(path, Shape(256, 16, 1, 256, 256, layers=1), "Q8_0")
    allocator = {"MALLOC_MMAP_THRESHOLD_": "2000000000"}
    two = printed(_FEWER_THREADS, str(path), **allocator)
    assert printed(_FEWER_THREADS, str(path), OMP_THREAD_LIMIT="1", **allocator) == two


_FOREIGN = """
import sys
from pathlib import Path
from airdraft.nodes.engine.kernels import library
library.PATH = Path(sys.argv[1])
print(repr(library.built_for()), library.register("0.3.36").missing)
"""


def test_a_file_that_is_no_library_of_kernels_counts_as_none(tmp_path: Path) -> None:
    """It may be a copy from another machine, or from before these functions existed."""
    broken = tmp_path / "broken.so"
    broken.write_text("no library")
    other = next((Path(library().__file__).parent / "lib").glob("libggml-base.*"))
    for path in (broken, other):
        assert printed(_FOREIGN, str(path)).startswith("'' not built for this machine")


def test_a_libllama_of_another_version_is_refused(tmp_path: Path) -> None:
    """LLAMA_CPP_LIB_PATH may name it; the version of the package says nothing about it."""
    folder = tmp_path / "lib"
    shutil.copytree(Path(library().__file__).parent / "lib", folder)
    for base in folder.glob("libggml-base.*"):
        base.write_bytes(base.read_bytes().replace(b"0.25.3", b"0.25.9"))
    assert "this build of llama.cpp" in printed(_KERNELS, LLAMA_CPP_LIB_PATH=str(folder))


# A process of its own, for ggml reads such variables once.
_DIFFERENCE = """
import contextlib, sys
from pathlib import Path
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_context import LlamaConfig
config = LlamaConfig(path=Path(sys.argv[1]), num_cells=256, repack=False)
with contextlib.closing(LlamaModel(config)) as model:
    print(model.first_difference())
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="ggml has such tiles for x86 alone")
def test_the_first_product_that_depends_on_the_batch_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_model(path, SHAPES["width 512"], "Q6_K")
    tiled = printed(_DIFFERENCE, str(path), GGML_CPU_TILED_MM="1")
    assert tiled == "MUL_MAT of blk.0.attn_q.weight (q6_K)"
    assert printed(_DIFFERENCE, str(path), GGML_CPU_TILED_MM="0") == ""
