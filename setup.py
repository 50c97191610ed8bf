"""Builds fusedml: with its CUDA kernels where it can, as pure Python elsewhere.

This script finds nvcc and torch and drives CMake, which holds every compiler flag.  What was built,
or why not, is stored in ``fusedml/_build_info.py``.  Environment variables:

FUSEDML_FORCE_CUDA=1     fail instead of installing pure Python
FUSEDML_NO_CUDA=1        install pure Python
FUSEDML_TORCH_ROOT       folder of the torch package, where it is not found by itself
CUDACXX, CUDA_HOME       which nvcc
TORCH_CUDA_ARCH_LIST     for example "8.0;9.0a+PTX"; default: sm_80 with PTX, and sm_90a
MAX_JOBS                 number of compilers at a time; default: the number of processors
FUSEDML_CMAKE_ARGS       more arguments for CMake
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
LIBRARY = "_C.abi3.so"
OLDEST_TORCH = (2, 10)
OLDEST_ARCHITECTURE = (8, 0)
ARCHITECTURE_NAMES = {"Ampere": "8.0 8.6+PTX", "Ada": "8.9+PTX", "Hopper": "9.0a+PTX"}


class BuildError(SystemExit):
    """Ends the build with a message instead of a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(f"fusedml: {message}")


def is_set(name: str) -> bool:
    """Whether the environment variable is switched on."""
    return os.environ.get(name, "").lower() in ("1", "on", "true", "yes")


def find_nvcc() -> tuple[str | None, list[str]]:
    """The first nvcc that runs, and every place that was tried."""
    environment = os.environ
    candidates = [
        environment.get("CUDACXX"),
        *(
            f"{environment[name]}/bin/nvcc"
            for name in ("CUDA_HOME", "CUDA_PATH")
            if environment.get(name)
        ),
        shutil.which("nvcc"),
        "/usr/local/cuda/bin/nvcc",
    ]
    tried = [candidate for candidate in candidates if candidate]
    for candidate in tried:
        try:
            version = subprocess.run(
                [candidate, "--version"], capture_output=True, text=True, check=False
            )
        except OSError:
            continue
        if version.returncode == 0 and "release" in version.stdout:
            return candidate, tried
    return None, tried


@dataclass(frozen=True)
class Torch:
    """An installed torch package, which is looked at but never imported."""

    folder: Path
    version: tuple[int, int]


def find_torch() -> Torch | None:
    """The torch whose headers and library the extension is built with.

    In pip's isolated build environment the user's packages are not on sys.path, but sysconfig
    still names their folder.  The stable ABI makes any torch from 2.10 on good enough.
    """
    candidates = []
    if os.environ.get("FUSEDML_TORCH_ROOT"):
        candidates.append(Path(os.environ["FUSEDML_TORCH_ROOT"]))
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.submodule_search_locations:
        candidates.append(Path(spec.submodule_search_locations[0]))
    candidates += [Path(sysconfig.get_path(name)) / "torch" for name in ("platlib", "purelib")]
    for folder in candidates:
        header = folder / "include/torch/headeronly/version.h"
        if not header.is_file():  # before 2.10
            header = folder / "include/torch/csrc/api/include/torch/version.h"
        if header.is_file():
            numbers = dict(re.findall(r"define TORCH_VERSION_(\w+) (\d+)", header.read_text()))
            return Torch(folder, (int(numbers["MAJOR"]), int(numbers["MINOR"])))
    return None


def read_architectures(text: str) -> tuple[list[str], list[str]]:
    """CMake's names for the entries of a TORCH_CUDA_ARCH_LIST, and the entries that are too old.

    Raises BuildError for an entry that cannot be read, and when every entry is too old.
    """
    for name, meaning in ARCHITECTURE_NAMES.items():
        text = re.sub(rf"\b{name}\b(\+PTX)?", meaning, text)
    architectures, too_old = [], []
    for entry in re.split(r"[\s;,]+", text.strip()):
        if not entry:
            continue
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", entry)
        if match is None:
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST has an entry {entry!r}, expected something like 8.0, 9.0a, "
                f"9.0+PTX or one of {', '.join(ARCHITECTURE_NAMES)}, separated by ';' or spaces"
            )
        major, minor, suffix, ptx = match.groups()
        if (int(major), int(minor)) < OLDEST_ARCHITECTURE:
            too_old.append(entry)
            continue
        number = f"{major}{minor}{suffix}"
        # for a bare number CMake makes machine code and PTX in one pass of the compiler
        architectures.append(number if ptx else f"{number}-real")
    if too_old and not architectures:
        raise BuildError(
            f"TORCH_CUDA_ARCH_LIST names only {', '.join(too_old)}, but the kernels need "
            "architecture 8.0 (Ampere) or later: they copy to shared memory asynchronously and "
            "multiply bfloat16.  On older GPUs fusedml runs with backend='torch': "
            "FUSEDML_NO_CUDA=1 installs it that way"
        )
    return list(dict.fromkeys(architectures)), too_old


@dataclass(frozen=True)
class Plan:
    """What will be built: the kernels, or pure Python for a reason."""

    nvcc: str | None
    torch: Torch | None
    reason: str | None


def make_plan() -> Plan:
    """Looks at the machine.  Raises BuildError where a fallback would hide a mistake."""
    if is_set("FUSEDML_NO_CUDA"):
        reason = "FUSEDML_NO_CUDA was set when fusedml was installed"
        if is_set("FUSEDML_FORCE_CUDA"):
            raise BuildError("FUSEDML_FORCE_CUDA and FUSEDML_NO_CUDA are both set")
        return Plan(None, None, reason)
    nvcc, tried = find_nvcc()
    torch = find_torch()
    reason = None
    if not sys.platform.startswith("linux"):
        reason = f"the CUDA kernels are built on Linux only, not on {sys.platform}"
    elif nvcc is None:
        reason = f"nvcc was not found when fusedml was installed (tried {', '.join(tried)})"
    elif torch is None:
        reason = (
            "torch was not found when fusedml was installed: install torch first, then fusedml "
            "with pip install --no-build-isolation"
        )
        if not is_set("FUSEDML_FORCE_CUDA"):
            # who has nvcc wants the kernels
            raise BuildError(f"nvcc is here ({nvcc}) but {reason}.  FUSEDML_NO_CUDA=1 goes without")
    elif torch.version < OLDEST_TORCH:
        found, oldest = (".".join(map(str, v)) for v in (torch.version, OLDEST_TORCH))
        reason = f"the CUDA kernels need torch {oldest} or later, found {found}"
    if reason is not None and is_set("FUSEDML_FORCE_CUDA"):
        raise BuildError(f"FUSEDML_FORCE_CUDA is set, but {reason}")
    return Plan(nvcc, torch, reason)


def build_into(package: Path, warn: Callable[[str], object]) -> None:
    """Puts the extension, or nothing but the reason, into a folder of the package's files."""
    plan = make_plan()
    package.mkdir(parents=True, exist_ok=True)
    architectures: list[str] = []
    if plan.reason is None:
        listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
        architectures, too_old = read_architectures(listed)
        if too_old:
            warn(f"fusedml's kernels need architecture 8.0: left out {', '.join(too_old)}")
        # one folder for all kinds of installation, so that a second one has little to do
        folder = ROOT / "build" / "native"
        run_cmake(plan, folder, architectures)
        shutil.copy2(folder / LIBRARY, package / LIBRARY)
    else:
        (package / LIBRARY).unlink(missing_ok=True)
        warn(f"fusedml is built WITHOUT CUDA kernels: {plan.reason}")
    write_build_info(package, plan, architectures)


class BuildKernels(build_ext):
    """Runs CMake, or notes why not."""

    def run(self) -> None:
        build_into(ROOT / "fusedml" if self.inplace else Path(self.build_lib, "fusedml"), self.warn)

    def get_outputs(self) -> list[str]:
        return []  # run() has put the files in their places

    def get_output_mapping(self) -> dict[str, str]:
        return {}


def run_cmake(plan: Plan, folder: Path, architectures: list[str], target: str = "_C") -> None:
    """Configures and builds the extension, or another target, in ``folder``."""
    cmake, ninja = shutil.which("cmake"), shutil.which("ninja")
    if cmake is None or ninja is None:
        raise BuildError("cmake or ninja was not found: pip install cmake ninja")
    assert plan.torch is not None
    arguments = [
        "-G",
        "Ninja",
        # not the one in the cache: pip's build environment has a new path each time
        f"-DCMAKE_MAKE_PROGRAM={ninja}",
        f"-DCMAKE_CUDA_COMPILER={plan.nvcc}",
        f"-DFUSEDML_TORCH_ROOT={plan.torch.folder}",
        f"-DFUSEDML_PYTHON_INCLUDE={sysconfig.get_path('include')}",
        "-DFUSEDML_CUDA=ON",
        "-DFUSEDML_TESTS=OFF",
        # empty: the default of cmake/Native.cmake, also after a build with another list
        f"-DFUSEDML_CUDA_ARCHITECTURES={';'.join(architectures)}",
        "-DFUSEDML_ONE_MACHINE_CODE=OFF",  # also after `make test`
    ]
    arguments += shlex.split(os.environ.get("FUSEDML_CMAKE_ARGS", ""))
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    for command in (
        [cmake, "-S", str(ROOT), "-B", str(folder), *arguments],
        [cmake, "--build", str(folder), "--target", target, "--parallel", jobs],
    ):
        if subprocess.run(command, check=False).returncode != 0:
            raise BuildError(
                "the CUDA kernels could not be compiled, see the messages above (pip shows them "
                f"with -v).  FUSEDML_NO_CUDA=1 goes without them.  The command was: "
                f"{shlex.join(command)}"
            )


def write_build_info(package: Path, plan: Plan, architectures: list[str]) -> None:
    """Stores what was built, for ``fusedml.native`` to say."""
    torch = None if plan.torch is None else ".".join(map(str, plan.torch.version))
    Path(package, "_build_info.py").write_text(
        '"""What setup.py built; written by it."""\n\n'
        f"native = {plan.reason is None}\n"
        f"reason = {plan.reason!r}\n"
        f"torch = {torch!r}\n"
        f"architectures = {tuple(architectures) or None!r}\n"
    )


class TaggedWheel(bdist_wheel):
    """One wheel for all Pythons: cp310-abi3 with kernels, py3-none-any without."""

    def finalize_options(self) -> None:
        self.has_kernels = make_plan().reason is None
        if self.has_kernels:
            self.py_limited_api = "cp310"
        super().finalize_options()

    def get_tag(self) -> tuple[str, str, str]:
        return super().get_tag() if self.has_kernels else ("py3", "none", "any")


if __name__ == "__main__":
    setup(
        ext_modules=[Extension("fusedml._C", [], py_limited_api=True)],
        cmdclass={"build_ext": BuildKernels, "bdist_wheel": TaggedWheel},
    )
