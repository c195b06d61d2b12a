"""The llama.cpp engine: what a model is, what cannot be loaded or used, and whose its log is."""

import contextlib
import importlib.util
import logging
import os
import shutil
import sys
from types import SimpleNamespace

import pytest

from airdraft.nodes.catalog import Catalog, default_cache_dir
from airdraft.nodes.engine import llama_abi
from airdraft.nodes.engine.llama import LlamaModel
from airdraft.nodes.engine.llama_context import LlamaConfig
from airdraft.nodes.engine.protocol import EngineError, ModelFileError
from tests.engine.llama_texts import NUM_CELLS, needs_model


@needs_model
def test_info_tells_what_the_model_is(model, model_path):
    info = model.info
    assert info.engine == "llama.cpp"
    assert info.model == model_path.name
    assert info.model_hash == llama_abi.hash_file(model_path)
    assert (info.num_vocab, info.num_cells, info.max_sequences) == (49_152, NUM_CELLS, 4)
    assert info.can_cut
    assert not info.emulated
    assert info.eog_token_ids >= {2}
    assert not info.exact
    model.set_tested(exact=True, digest="")
    assert model.info.exact
    assert model.info.numerics_class == info.numerics_class
    model.set_tested(exact=False, digest="")


@needs_model
def test_another_build_of_the_same_name_or_other_software_is_of_another_class(model_path):
    def class_of(digest: str, software: str = "") -> str:
        config = LlamaConfig(path=model_path, num_cells=256, max_sequences=1)
        with contextlib.closing(LlamaModel(config)) as model:
            model.set_tested(exact=True, digest=digest, software=software)
            return model.info.numerics_class

    assert class_of("a") == class_of("a")
    classes = {class_of(""), class_of("a"), class_of("b"), class_of("a", "b"), class_of("", "a")}
    assert len(classes) == 5


@needs_model
def test_the_vocabulary_hash_is_that_of_a_sibling_but_the_numerics_class_is_not(model):
    path = Catalog(default_cache_dir(os.environ)).ensure("smollm2-135m-q4_0")
    config = LlamaConfig(path=path, num_cells=256, max_sequences=1)
    with contextlib.closing(LlamaModel(config)) as draft:
        assert draft.info.vocab_hash == model.info.vocab_hash
        assert draft.info.numerics_class != model.info.numerics_class
        assert draft.info.model_hash != model.info.model_hash


def test_a_file_that_is_missing_or_holds_no_model_is_told(tmp_path):
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ModelFileError, match=rf"{path.name} not found"):
            LlamaModel(LlamaConfig(path=path))
    with pytest.raises(ModelFileError, match="not found"):
        llama_abi.quantize_model(tmp_path / "none.gguf", tmp_path / "out.gguf", "Q4_0")
    path = tmp_path / "model.gguf"
    for content, reason in (
        (b"", "is not a GGUF file"),
        (b"PK\x03\x04 something else", "is not a GGUF file"),
        (b"GGUF" + bytes(range(256)) * 8, r"cannot be loaded: .+"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=reason):
            LlamaModel(LlamaConfig(path=path))


@needs_model
def test_a_truncated_file_is_told(tmp_path, model_path):
    path = tmp_path / "model.gguf"
    shutil.copyfile(model_path, path)
    for num_bytes in (140_000_000, 1 << 21, 100):
        os.truncate(path, num_bytes)
        with pytest.raises(ModelFileError, match=r"cannot be loaded: .+"):
            LlamaModel(LlamaConfig(path=path))


@needs_model
def test_a_path_that_is_no_utf8_is_no_obstacle(tmp_path, model_path):
    link = tmp_path / os.fsdecode(b"m\xff.gguf")
    link.symlink_to(model_path)
    pointer = llama_abi.load_model(link, gpu_layers=0, repack=False, vocab_only=True)
    assert pointer
    llama_abi.library().llama_model_free(pointer)


@needs_model
def test_a_context_that_cannot_be_made_is_told_and_the_model_freed(model_path, monkeypatch):
    library = llama_abi.library()
    freed = []
    free = library.llama_model_free
    monkeypatch.setattr(library, "llama_init_from_model", lambda *_: None)
    monkeypatch.setattr(library, "llama_model_free", lambda m: (freed.append(m), free(m)))
    with pytest.raises(EngineError, match=r"no context for .*: not enough memory"):
        LlamaModel(LlamaConfig(path=model_path))
    assert len(freed) == 1


CONTEXT = {"n_ctx": 512, "n_batch": 2048, "type_k": 1}
CONTEXT |= {"offload_kqv": True, "swa_full": True, "kv_unified": False}
MODEL = {"use_extra_bufts": True, "vocab_only": False}


@pytest.fixture
def binding_to(monkeypatch):
    """Another copy of the module, which finds these bindings when it looks for libllama's."""

    def bind(bindings):
        monkeypatch.setitem(sys.modules, "llama_cpp", bindings)
        spec = importlib.util.find_spec("airdraft.nodes.engine.llama_abi")
        copy = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(copy)
        return copy

    return bind


def bindings(**changes):
    """Bindings whose library has these defaults; its log callback is kept as `log`."""
    context, model = ({k: changes.get(k, v) for k, v in d.items()} for d in (CONTEXT, MODEL))
    made = SimpleNamespace(
        __version__="0.3.36",
        llama_context_default_params=lambda: SimpleNamespace(**context),
        llama_model_default_params=lambda: SimpleNamespace(**model),
        llama_log_callback=lambda callback: callback,
        llama_log_set=lambda callback, _data: setattr(made, "log", callback),
        llama_backend_init=lambda: None,
    )
    return made


@pytest.mark.parametrize("name", [*CONTEXT, *MODEL])
def test_shifted_defaults_are_refused_and_named_before_anything_else_is_called(binding_to, name):
    default = (CONTEXT | MODEL)[name]
    foreign = bindings(**{name: not default if isinstance(default, bool) else default + 1})
    abi = binding_to(foreign)
    with pytest.raises(EngineError, match=rf"0\.3\.36 \(defaults of {name} differ\)"):
        abi.library()
    assert not hasattr(foreign, "log")


def test_a_library_that_cannot_be_loaded_is_told(binding_to):
    with pytest.raises(EngineError, match="llama-cpp-python cannot be loaded"):
        binding_to(None).library()


def test_libllamas_log_goes_to_ours_and_the_last_error_is_kept(binding_to, caplog):
    caplog.set_level(logging.DEBUG, logger="airdraft.nodes.engine.llama_abi")
    expected = bindings()
    abi = binding_to(expected)
    assert abi.library() is abi.library() is expected
    log = expected.log
    for level, line in ((4, b"first \xff\n"), (4, b"tensor missing\n"), (4, b"\n")):
        log(level, line, None)
    log(3, b"by the way\n", None)
    log(99, b"what?\n", None)
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.WARNING, logging.WARNING, logging.INFO, logging.DEBUG]
    assert abi.take_last_error() == "tensor missing"
    assert abi.take_last_error() == ""
