"""Checks the software that airdraft runs with: libllama, its own kernels, OpenMP."""

from collections.abc import Callable, Mapping

from nodes.doctor.finding import Finding, fail, note, ok, warn
from nodes.engine.kernels.library import Kernels
from nodes.engine.protocol import EngineError

_REINSTALL = (
    "pip install --force-reinstall --no-cache-dir llama-cpp-python==VERSION builds it again, which "
    "needs a C++ compiler (sudo apt-get install g++)"
)
# CPU features that make small passes fast.
_WANTED = {"x86_64": ("AVX2", "FMA", "F16C"), "aarch64": ("NEON", "DOTPROD")}


def check_library(build: Callable[[], str]) -> tuple[Finding, str]:
    """Return the finding and the name of the build, "" if there is none. build: loads the library
    and returns that name."""
    try:
        name = build()
    except EngineError as error:
        return fail(str(error), _REINSTALL), ""
    version = name.partition(" ")[0]
    return ok(f"libllama of llama-cpp-python {version}"), name


def check_isa(build: str, cpu_flags: frozenset[str], machine: str) -> Finding:
    """Check that the build uses the CPU's features. build: from llama_abi.build_name()."""
    used = {part.split("=")[0].split(":")[-1].strip() for part in build.split("|") if "= 1" in part}
    wanted = _WANTED.get(machine, ())
    names = {"NEON": "asimd", "DOTPROD": "asimddp"}
    unused = [f for f in wanted if names.get(f, f.lower()) in cpu_flags and f not in used]
    if unused:
        return warn(
            f"libllama was built without {', '.join(unused)}, which this CPU supports",
            f"build it on this machine: {_REINSTALL}",
        )
    features = ", ".join(sorted(used - {"LLAMAFILE", "OPENMP", "REPACK"})) or "none named"
    return ok(f"libllama uses {features}")


def check_kernels(found: Kernels) -> Finding:
    """Check that airdraft's kernels run, which are fast, and exact for any batch."""
    if not found.missing:
        return ok(f"airdraft's kernels run, with {found.name}")
    return note(
        f"libllama runs without airdraft's kernels, so it is slower and rarely exact: "
        f"{found.missing}",
        "python -m nodes.engine.kernels.build",
    )


def check_omp(environ: Mapping[str, str]) -> Finding:
    """Check the settings of OpenMP. The commands set the policy themselves if it is not set."""
    policy = environ.get("OMP_WAIT_POLICY", "")
    if policy.lower() == "active":
        return warn(
            "OMP_WAIT_POLICY=active: waiting engine threads keep the CPU from all others",
            "unset OMP_WAIT_POLICY, or set it to passive",
        )
    if limit := environ.get("OMP_NUM_THREADS") or environ.get("OMP_THREAD_LIMIT"):
        return note(f"the environment limits OpenMP to {limit} threads")
    return ok("OMP_WAIT_POLICY is passive")


def check_threads(num_threads: int, num_cores: int, what: str) -> Finding:
    """Compare threads with cores. num_cores: the cores that this process may use."""
    if num_threads > num_cores:
        return warn(
            f"{what}: {num_threads} engine threads on {num_cores} cores",
            f"set engine.threads (--threads) to at most {num_cores}",
        )
    return ok(f"{what}: {num_threads} engine thread(s) on {num_cores} cores")
