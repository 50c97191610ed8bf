"""Compiles what the check runs, so that no minute with a GPU goes to a compiler.

    python -m scripts.gpu_check.binaries                  # all, for sm_90a, into build/gpu
    python -m scripts.gpu_check.binaries gpu_timer        # one
    python -m scripts.gpu_check.binaries --keep-as-before # the extension, for a comparison

Only what is missing or was compiled from other sources is compiled; each by itself, so that one
that does not compile stops no other.  The folder holds programs, extension and a list of what they
were compiled from, and nothing else: it is what to carry to the machine with the GPU.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commit import current_commit

ROOT = Path(__file__).resolve().parents[2]
CARRIED = ROOT / "build" / "gpu"
BEFORE = ROOT / "build" / "gpu-before"
TREE = ROOT / "build" / "gpu-tree"  # CMake's, never carried
ARCHITECTURE = "9.0a"
EXTENSION, INFO = "_C.abi3.so", "_build_info.py"
KERNELS = "libfusedml_gpu.so"  # which the programs load from their own folder

_SUFFIXES = (".h", ".cuh", ".cu", ".cpp", ".txt", ".cmake")
_KERNELS = (
    *(f"csrc/{folder}" for folder in ("core", "heads", "hopper", "kernels", "logits")),
    *("CMakeLists.txt", "cmake/Native.cmake"),
)
_CHECKS = ("tests/gpu/native", "tests/csrc/kernels/emulated_problem.h")
_REFERENCE = "tests/csrc/kernels/reference.h"
# the profiler and the sanitizer name source lines
_CMAKE_ARGUMENTS = "-DFUSEDML_GPU_TESTS=ON -DCMAKE_CUDA_FLAGS=-lineinfo"


@dataclass(frozen=True)
class Binary:
    """name: of the file that is carried.  target: CMake's.  built: where in its tree.

    sources: files and folders that it is compiled from.  needs: what it loads.  architecture: the
    only one that it is for.
    """

    name: str
    target: str
    built: str
    sources: tuple[str, ...]
    needs: tuple[str, ...] = ()
    architecture: str | None = None


def _program(name: str, *sources: str) -> Binary:
    return Binary(name, name, name, (*_KERNELS, *sources), (KERNELS,))


def _self_contained(name: str, *sources: str, architecture: str | None = None) -> Binary:
    """One of tests/csrc/gpu, which includes its kernels."""
    common = (
        *("csrc/core", "csrc/kernels", "cmake/Native.cmake", "tests/csrc/gpu"),
        *("tests/csrc/check.h", f"tests/csrc/test_{name}.cpp"),
    )
    program = f"test_{name}_gpu"
    built = f"tests/csrc/gpu/{program}"
    return Binary(program, program, built, (*common, *sources), architecture=architecture)


BINARIES = {
    binary.name: binary
    for binary in (
        Binary(EXTENSION, "_C", EXTENSION, (*_KERNELS, "csrc/torch", "cmake/Binding.cmake")),
        Binary(KERNELS, "fusedml_gpu", KERNELS, _KERNELS),
        *(
            _program(f"gpu_{test}", *_CHECKS, _REFERENCE, f"tests/csrc/kernels/test_{test}.cpp")
            for test in (
                *("statistics", "gradient", "engine", "groups", "sums", "divergences"),
                *("extreme_pairs", "two_sided"),
                *("positive_pairs", "thresholds", "listed_pairs", "windows", "normalize"),
            )
        ),
        _self_contained("primitives", "tests/csrc/golden.h", "tests/csrc/unit_kernels.cuh"),
        _self_contained(
            "hopper",
            *(f"tests/csrc/hopper_{name}.cuh" for name in ("kernels", "ring")),
            architecture="9.0a",
        ),
        *(
            _self_contained(
                *(f"hopper_{kernel}", "csrc/hopper", "csrc/logits", "csrc/heads"),
                "tests/csrc/hopper_problem.h",
                architecture="9.0a",
            )
            for kernel in ("product", "sweep", "weights", "special")
        ),
        _program("gpu_timer", "benchmarks/native"),
    )
}


def for_architecture(architecture: str) -> list[str]:
    """Names of the binaries that there are for it."""
    return [b.name for b in BINARIES.values() if b.architecture in (None, architecture)]


def digest_of(binary: Binary, architecture: str) -> str:
    """A digest of all that the binary is compiled from."""
    digest = hashlib.sha256(architecture.encode())
    for path in _files(binary.sources):
        digest.update(f"\0{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _files(sources: Iterable[str]) -> list[Path]:
    found: list[Path] = []
    for source in sources:
        path = ROOT / source
        found += path.rglob("*") if path.is_dir() else [path]
    return sorted(path for path in found if path.suffix in _SUFFIXES)


def read_list(folder: Path) -> dict[str, str]:
    """{binary: digest of its sources} of a folder of binaries, and the "commit" they are of."""
    path = folder / "binaries.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _note(folder: Path, key: str, value: str) -> None:
    listed = {**read_list(folder), key: value}
    (folder / "binaries.json").write_text(json.dumps(listed, indent=1) + "\n")


def is_current(binary: Binary, folder: Path, architecture: str) -> bool:
    """Whether the folder has the binary as its sources are now, for libraries as they are here."""
    path = folder / binary.name
    is_of_sources = read_list(folder).get(binary.name) == digest_of(binary, architecture)
    return is_of_sources and path.exists() and not _lacks_symbols(path)


def _lacks_symbols(path: Path) -> bool:
    """Whether this machine's C and C++ libraries are too old for it."""
    try:
        done = subprocess.run(["ldd", path], capture_output=True, text=True, check=False)
    except OSError:
        return False  # who cannot ask will see it fail
    return re.search(r"version .* not found", done.stdout + done.stderr) is not None


def provide(binary: Binary, folder: Path, architecture: str) -> str:
    """Compiles the binary into the folder unless it is there; says which.

    Raises SystemExit, with the reason, if it cannot be compiled.
    """
    for needed in binary.needs:
        provide(BINARIES[needed], folder, architecture)
    if is_current(binary, folder, architecture):
        (folder / binary.name).chmod(0o755)  # a copy may have lost it
        return "is there"
    digest = digest_of(binary, architecture)  # of what is compiled now, not of what it becomes
    compile_into(binary, folder, architecture)
    _note(folder, binary.name, digest)
    return "compiled"


def compile_into(binary: Binary, folder: Path, architecture: str) -> None:
    """Has CMake make the binary, and copies it into the folder."""
    import setup  # noqa: PLC0415  needs setuptools, which nothing else here does

    os.environ["FUSEDML_FORCE_CUDA"] = "1"
    os.environ["FUSEDML_CMAKE_ARGS"] = _CMAKE_ARGUMENTS
    plan = setup.make_plan()
    architectures, _ = setup.read_architectures(architecture)
    setup.run_cmake(plan, TREE, architectures, binary.target)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy2(TREE / binary.built, folder / binary.name)
    if binary.name == EXTENSION:
        setup.write_build_info(folder, plan, architectures)


def install(folder: Path, package: Path) -> None:
    """Puts the extension into the package, if it is not there already."""
    for name in (EXTENSION, INFO):
        target = package / name
        if not target.exists() or target.read_bytes() != (folder / name).read_bytes():
            # replaced, not written over: a process may have it loaded
            shutil.copy2(folder / name, package / f"{name}.part")
            (package / f"{name}.part").replace(target)


def keep_as_before(folder: Path, before: Path) -> None:
    """A copy of the package with its extension, for `second` to time beside the next one."""
    shutil.rmtree(before, ignore_errors=True)
    unwanted = shutil.ignore_patterns("__pycache__", "_C*.so", INFO)
    shutil.copytree(ROOT / "fusedml", before / "fusedml", ignore=unwanted)
    install(folder, before / "fusedml")


def print_carried(folders: Iterable[Path]) -> None:
    """What to carry to the machine with the GPU, and how large it is."""
    print("carry, relative to this folder:")
    for folder in folders:
        if folder.exists():
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            print(f"  {os.path.relpath(folder, ROOT)}  ({size / 1e6:.0f} MB)")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 if something could not be compiled."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="BINARY", help=", ".join(BINARIES))
    parser.add_argument("--folder", type=Path, default=CARRIED)
    parser.add_argument("--architecture", default=ARCHITECTURE, help="as in 9.0a")
    parser.add_argument("--install", type=Path, metavar="PACKAGE", help="the extension there, too")
    parser.add_argument("--keep-as-before", action="store_true", help=f"in {BEFORE.name}")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(BINARIES)
    if unknown:
        parser.error(f"BINARY must be of {', '.join(BINARIES)}, got {', '.join(sorted(unknown))}")
    if options.keep_as_before:
        keep_as_before(options.folder, BEFORE)
        print_carried([CARRIED, BEFORE])
        return 0
    failed = []
    for name in options.names or for_architecture(options.architecture):
        try:
            outcome = provide(BINARIES[name], options.folder, options.architecture)
        except SystemExit as error:
            outcome = f"failed: {error}"
            failed.append(name)
        print(f"{name}: {outcome}", flush=True)
    if options.install is not None and EXTENSION not in failed:
        install(options.folder, options.install)
    if not options.names and options.folder.exists():
        _note(options.folder, "commit", current_commit())
        print_carried([CARRIED, BEFORE])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
