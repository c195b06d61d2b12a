"""What libllama cannot load or is not made for is told in a line, and its log is ours."""

import logging
import os
import shutil
import sys
from types import SimpleNamespace

import pytest

from nodes.engine import llama_abi
from nodes.engine.llama import LlamaConfig, LlamaModel
from nodes.engine.protocol import EngineError, ModelFileError
from tests.engine.llama_texts import needs_model


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ModelFileError, match=r"none\.gguf not found"):
        LlamaModel(LlamaConfig(path=tmp_path / "none.gguf"))
    with pytest.raises(ModelFileError, match="not found"):
        LlamaModel(LlamaConfig(path=tmp_path))
    with pytest.raises(ModelFileError, match="not found"):
        llama_abi.quantize_model(tmp_path / "none.gguf", tmp_path / "out.gguf", "Q4_0")


@pytest.mark.parametrize("content", [b"", b"GGU", b"PK\x03\x04 something else"])
def test_a_file_of_another_kind_is_told(tmp_path, content):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="is not a GGUF file"):
        LlamaModel(LlamaConfig(path=path))


def test_a_gguf_of_garbage_is_told(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)) * 8)
    with pytest.raises(ModelFileError, match=r"cannot be loaded: .+"):
        LlamaModel(LlamaConfig(path=path))


@needs_model
@pytest.mark.parametrize("num_bytes", [100, 1 << 21, 140_000_000])
def test_a_truncated_file_is_told(tmp_path, model_path, num_bytes):
    path = tmp_path / "model.gguf"
    shutil.copyfile(model_path, path)
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


def fake_library(**changes):
    context = {
        "n_ctx": 512,
        "n_batch": 2048,
        "type_k": 1,
        "offload_kqv": True,
        "swa_full": True,
        "kv_unified": False,
    }
    model = {"use_extra_bufts": True, "vocab_only": False}
    for name, value in changes.items():
        (context if name in context else model)[name] = value
    return SimpleNamespace(
        __version__="0.3.36",
        llama_context_default_params=lambda: SimpleNamespace(**context),
        llama_model_default_params=lambda: SimpleNamespace(**model),
    )


def test_the_expected_defaults_are_accepted():
    llama_abi._check_abi(fake_library())
    llama_abi._check_abi(llama_abi.library())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_ctx", 0),
        ("n_batch", 512),
        ("type_k", 0),
        ("offload_kqv", False),
        ("swa_full", False),
        ("kv_unified", True),
        ("use_extra_bufts", False),
        ("vocab_only", True),
    ],
)
def test_shifted_defaults_are_refused_and_named(name, value):
    with pytest.raises(EngineError, match=rf"0\.3\.36 \(defaults of {name} differ\)"):
        llama_abi._check_abi(fake_library(**{name: value}))


def test_a_foreign_library_is_refused_before_anything_is_called_in_it(monkeypatch):
    monkeypatch.setattr(llama_abi, "_library", None)
    monkeypatch.setitem(sys.modules, "llama_cpp", fake_library(kv_unified=True))
    with pytest.raises(EngineError, match="does not match"):
        llama_abi.library()
    assert llama_abi._library is None


def test_a_library_that_cannot_be_loaded_is_told(monkeypatch):
    monkeypatch.setattr(llama_abi, "_library", None)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(EngineError, match="llama-cpp-python cannot be loaded"):
        llama_abi.library()


def test_libllamas_log_goes_to_ours_and_the_last_error_is_kept(caplog):
    caplog.set_level(logging.DEBUG, logger="nodes.engine.llama_abi")
    llama_abi._on_log(4, b"first \xff\n", None)
    llama_abi._on_log(4, b"tensor missing\n", None)
    llama_abi._on_log(4, b"\n", None)
    llama_abi._on_log(3, b"by the way\n", None)
    llama_abi._on_log(99, b"what?\n", None)
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.WARNING, logging.WARNING, logging.INFO, logging.DEBUG]
    assert llama_abi.take_last_error() == "tensor missing"
    assert llama_abi.take_last_error() == ""
