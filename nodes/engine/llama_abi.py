"""Loads libllama and checks its ABI; sets its log callback; loads and requantises model files."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from airdraft.nodes.engine.kernels.library import PATH as KERNELS
from airdraft.nodes.engine.kernels.library import VARIABLE, Kernels, register
from airdraft.nodes.engine.protocol import EngineError, ModelFileError

logger = logging.getLogger(__name__)

# From the ggml.h in llama-cpp-python 0.3.36, whose own Python map is that of an older header.
_GGML_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.WARNING}
_MAX_HASHED_BYTES = 1 << 25
_FTYPES = {"F16": 1, "Q4_0": 2, "Q8_0": 7}
# Instead of a type: no weight changes, but the parts of a split model become one file.
ONE_FILE: Final = "one file"
# The longest chat templates have a tenth of these bytes.
_MAX_METADATA_BYTES = 1 << 18
_GGML_TYPE_F32, _GGML_TYPE_Q4_0 = 0, 2
# The ending of a type that the embedding and the output weights have, too.
_ALL = " all"

_last_error = ""
_callback: Any = None


@functools.cache
def library() -> Any:
    """Returns the llama_cpp module, checked and with our log callback; the first call loads it.

    It is loaded late because libgomp reads OMP_WAIT_POLICY at that time, and because a coordinator
    does not need it.
    """
    global _callback
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(f"llama-cpp-python cannot be loaded: {error}") from error
    _check_abi(llama_cpp)
    _callback = llama_cpp.llama_log_callback(_on_log)
    llama_cpp.llama_log_set(_callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


def _on_log(level: int, text: bytes, _data: object) -> None:
    global _last_error
    line = text.decode("utf-8", "replace").strip()
    if level == 4 and line:
        _last_error = line
    if line:
        logger.log(_GGML_LEVELS.get(level, logging.DEBUG), "libllama: %s", line)


def take_last_error() -> str:
    """Returns the last error line that libllama logged, and forgets it."""
    global _last_error
    line, _last_error = _last_error, ""
    return line


def _check_abi(llama_cpp: Any) -> None:
    """Raise EngineError if the structs of libllama are not those of the bindings.

    A newer library loads without an error, but its fields have other offsets. Wrong default values
    show this.
    """
    context = llama_cpp.llama_context_default_params()
    model = llama_cpp.llama_model_default_params()
    sentinels = {
        "n_ctx": context.n_ctx == 512,
        "n_batch": context.n_batch == 2048,
        "type_k": context.type_k == 1,
        "offload_kqv": bool(context.offload_kqv),
        "swa_full": bool(context.swa_full),
        "kv_unified": not context.kv_unified,
        "use_extra_bufts": bool(model.use_extra_bufts),
        "vocab_only": not model.vocab_only,
    }
    wrong = [name for name, good in sentinels.items() if not good]
    if wrong:
        raise EngineError(
            f"libllama does not match llama-cpp-python {llama_cpp.__version__} "
            f"(defaults of {', '.join(wrong)} differ): unset LLAMA_CPP_LIB_PATH or reinstall"
        )


def build_name() -> str:
    """Returns the version of the bindings and the CPU features that libllama was built for."""
    llama_cpp = library()
    features = llama_cpp.llama_print_system_info().decode("utf-8", "replace")
    return f"{llama_cpp.__version__} {' '.join(features.split())}"


@functools.cache
def library_hash() -> str:
    """Returns a hash of the files of libllama, ggml and our kernels, and of AIRDRAFT_KERNELS.

    Builds of one version may differ in how they were compiled.
    """
    digest = hashlib.sha256(os.environ.get(VARIABLE, "").encode())
    for path in _library_files():
        size = path.stat().st_size
        # The kernels of a GPU have hundreds of megabytes, so only their size counts.
        digest.update(f"{path.name} {size} ".encode())
        digest.update(path.read_bytes() if size <= _MAX_HASHED_BYTES else b"")
    return digest.hexdigest()[:16]


def _library_files() -> list[Path]:
    package = Path(library().__file__).parent / "lib"
    folder = Path(os.environ.get("LLAMA_CPP_LIB_PATH") or package)
    found = sorted(folder.glob("*.so")) or sorted(folder.glob("*.dylib"))
    return [*found, *([KERNELS] if KERNELS.is_file() else [])]


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_model_file(path: Path) -> None:
    """Raise ModelFileError unless the path is a readable file that begins as a GGUF file."""
    if not path.is_file():
        raise ModelFileError(f"model file {path} not found: give a GGUF file or a catalogue name")
    if not os.access(path, os.R_OK):
        raise ModelFileError(f"model file {path} cannot be read: check its permissions")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelFileError(f"model file {path} is not a GGUF file")


def kernels(*, keeps_others: bool = False) -> Kernels:
    """Register our kernels with libllama, if they are built; the first call in a process decides.

    keeps_others: As in register().
    """
    return register(library().__version__, keeps_others=keeps_others)


def load_model(
    path: Path, *, gpu_layers: int, repack: bool, vocab_only: bool = False, has_head: bool = False
) -> Any:
    """Load a GGUF file; returns libllama's model pointer. Raises ModelFileError with the reason.

    repack: Whether weights may have other layouts than in the file, such as those of our kernels.
    has_head: Whether to load the layers that guess the tokens after the next one, if it has some.
    """
    check_model_file(path)
    llama_cpp = library()
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = gpu_layers
    params.use_extra_bufts = repack
    params.vocab_only = vocab_only
    params.load_mtp = has_head
    take_last_error()
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        reason = take_last_error() or "libllama gave no reason"
        raise ModelFileError(f"model file {path} cannot be loaded: {reason}")
    return model


class _TypeTraits(ctypes.Structure):
    """The beginning of ggml_type_traits of ggml.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
    )


def _copy_floats(source: int, target: int, count: int) -> None:
    ctypes.memmove(target, source, 4 * count)


def dequantizer(tensor_type: int) -> Callable[[int, int, int], None]:
    """Returns what converts numbers of a type of ggml to float32, as libllama does.

    It takes the addresses of both and how many there are. Raises EngineError.
    """
    if tensor_type == _GGML_TYPE_F32:
        return _copy_floats
    name = next(path for path in _library_files() if path.stem.startswith("libggml-base"))
    find = ctypes.CDLL(str(name)).ggml_get_type_traits
    find.restype = ctypes.POINTER(_TypeTraits)
    address = find(tensor_type).contents.to_float
    if not address:
        raise EngineError(f"this build of libllama cannot read rows of type {tensor_type}")
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    convert: Callable[[int, int, int], None] = kind(address)
    return convert


def calls_for_heads() -> Any:
    """Returns libllama's calls for hidden rows, which llama.h lacks. Raises EngineError."""
    try:
        from llama_cpp import llama_cpp_ext
    except (ImportError, AttributeError) as error:
        raise EngineError(f"this build of libllama gives no hidden rows: {error}") from None
    return llama_cpp_ext


def metadata_of(model: Any, key: str) -> str:
    """Returns a text of a model file's metadata; "" if it is missing or unusually long."""
    buffer = ctypes.create_string_buffer(_MAX_METADATA_BYTES)
    count = library().llama_model_meta_val_str(model, key.encode(), buffer, _MAX_METADATA_BYTES)
    return buffer.value.decode("utf-8", "replace") if 0 < count < _MAX_METADATA_BYTES else ""


def check_kind(model: Any, name: str) -> None:
    """Raise ModelFileError for a model on whose passes libllama would end this process."""
    llama = library()
    if llama.llama_model_is_diffusion(model) or llama.llama_model_has_encoder(model):
        what = "models that write a text token by token are served, not diffusion or T5"
        raise ModelFileError(f"{name} is of another kind: {what}")
    if metadata_of(model, "general.architecture") == "plamo2":
        # It writes the states of several sequences to wrong places.
        raise ModelFileError(f"{name}: libllama runs no two streams of a PLaMo 2")


def quantize_model(source: Path, destination: Path, file_type: str) -> None:
    """Write a copy of `source` with the weights in another type.

    file_type: F16, Q8_0, Q4_0, or "Q4_0 all", in which no weights have more bits; ONE_FILE for a
    copy of a split model, of which `source` is the first part and the others are beside it. The
    source may be quantised. Raises ModelFileError with libllama's reason.
    """
    check_model_file(source)
    llama_cpp = library()
    params = llama_cpp.llama_model_quantize_default_params()
    if file_type == ONE_FILE:
        params.only_copy = True
    else:
        params.ftype = _FTYPES[file_type.removesuffix(_ALL)]
    if file_type.endswith(_ALL):
        params.pure = True
        params.output_tensor_type = params.token_embedding_type = _GGML_TYPE_Q4_0
    params.nthread = os.cpu_count() or 1
    params.allow_requantize = True
    take_last_error()
    code = llama_cpp.llama_model_quantize(
        os.fsencode(source), os.fsencode(destination), ctypes.byref(params)
    )
    if code != 0:
        raise ModelFileError(take_last_error() or "libllama gave no reason")
