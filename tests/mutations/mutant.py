"""Compiles the emulated kernels with a fault in their sources, and runs a small test on them."""

import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CSRC, TESTS = ROOT / "csrc", ROOT / "tests" / "csrc"

# name: (test, number of the group of cases in checks.cpp)
CASES = {
    "statistics": ("kernels/test_statistics.cpp", 1),
    "engine": ("kernels/test_engine.cpp", 17),
    "not_finite": ("kernels/test_statistics.cpp", 2),
    "plain": ("kernels/test_statistics.cpp", 9),
    "triangle": ("kernels/test_statistics.cpp", 3),
    "gradient_rows": ("kernels/test_gradient.cpp", 4),
    "gradient_panel": ("kernels/test_gradient.cpp", 5),
    "positive_pairs": ("kernels/test_positive_pairs.cpp", 6),
    "groups": ("kernels/test_groups.cpp", 11),
    "thresholds": ("kernels/test_thresholds.cpp", 13),
    "sums": ("kernels/test_sums.cpp", 15),
    "divergences": ("kernels/test_divergences.cpp", 18),
    "two_sided": ("kernels/test_two_sided.cpp", 14),
    "extreme_pairs": ("kernels/test_extreme_pairs.cpp", 16),
    "windows": ("kernels/test_windows.cpp", 20),
    "listed_pairs": ("kernels/test_listed_pairs.cpp", 8),
    "normalize": ("kernels/test_normalize.cpp", 10),
    "large_offsets": ("test_large_offsets.cpp", 7),
    "hopper_product": ("test_hopper_product.cpp", 12),
    "hopper_sweep": ("test_hopper_sweep.cpp", 12),
    "hopper_weights": ("test_hopper_weights.cpp", 12),
    "hopper_special": ("test_hopper_special.cpp", 12),
}
# Tests that include the kernels which may be faulty.
WITH_OWN_KERNELS = (
    *("large_offsets", "hopper_product", "hopper_sweep", "hopper_weights"),
    "hopper_special",
)
# Not optimised: compiling takes longer than running.  Only ThreadSanitizer's builds are, because
# they then are those of the other tests.
_FLAGS = ["-std=c++17", "-O0", "-w", "-DFUSEDML_EMULATION"]
_KERNEL_FLAGS = {
    "plain": [],
    "asan": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "tsan": ["-O1", "-fsanitize=thread"],
}
_ENGINE_FLAGS = {
    "plain": [],
    "asan": ["-DFUSEDML_EMULATION_ASAN"],
    "tsan": ["-DFUSEDML_EMULATION_TSAN"],
}
# What every source includes and no fault touches: a quarter of the time of a compilation.
_HEADERS = ("emulation/cuda_on_host.h", "algorithm", "cmath", "functional", "random", "vector")
# Operators that no case calls are not compiled.
_LINK_FLAGS = ["-no-pie", "-Wl,--unresolved-symbols=ignore-all"]
_TIME_LIMIT = 120


def find_compiler():
    """Path of a C++ compiler, or None."""
    return shutil.which(os.environ.get("CXX", "g++"))


def find_cuda_include():
    """Folder of NVIDIA's headers, of a toolkit or of the packages on PyPI, or None."""
    candidates = [
        Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ
    ]
    if nvcc := shutil.which("nvcc"):
        candidates.append(Path(nvcc).resolve().parent.parent)
    candidates.append(Path("/usr/local/cuda"))
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else ():
        candidates += sorted(Path(folder).iterdir())
    for candidate in candidates:
        if (candidate / "include" / "cuda_bf16.h").exists():
            return candidate / "include"
    return None


class Workshop:
    """Compiles into `folder`; what no fault touches is compiled once, for all that share it."""

    def __init__(self, folder, compiler, cuda_include):
        self.folder, self.compiler, self.cuda_include = folder, compiler, cuda_include

    def passes(self, name, csrc, cases, number_type, variant):
        """(Whether the small test passes on the kernels in `csrc`, what it printed.)"""
        folder = self.folder / name
        folder.mkdir()
        if cases in WITH_OWN_KERNELS:
            objects = [self._test(folder, csrc, cases, number_type, variant)]
        else:
            if csrc == CSRC:
                kernels = self._once(self._kernels, csrc, cases, number_type, variant)
            else:
                kernels = self._kernels(folder, csrc, cases, number_type, variant)
            test = self._once(self._test, CSRC, cases, number_type, variant)
            objects = [test, kernels, self._once(self._api, number_type, variant)]
        program = folder / "test"
        self._run(
            [
                *objects,
                self._once(self._engine, variant),
                *_KERNEL_FLAGS[variant],
                *_LINK_FLAGS,
                "-o",
                program,
            ]
        )
        environment = {**os.environ, "TSAN_OPTIONS": "atexit_sleep_ms=0"}
        done = subprocess.run(
            [program, "1"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIME_LIMIT,
            env=environment,
            check=False,
        )
        return done.returncode == 0, done.stdout + done.stderr

    def _once(self, make, *arguments):
        """What `make` makes of the arguments: other processes wait for the first that asks."""
        names = (a.name if isinstance(a, Path) else a for a in arguments)
        folder = self.folder / "-".join(["shared", make.__name__, *names])
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            result = folder / "result"
            if not result.exists():
                result.write_text(str(make(folder, *arguments)))
        return Path(result.read_text())

    def _kernels(self, folder, csrc, cases, number_type, variant):
        """The operators of a test for this number type: nearly all that a fault costs."""
        number = f"fusedml::{number_type.capitalize()}"
        of_type = f"fusedml::Operators<{number}>"
        text = '#include "kernels/operators.cuh"\n'
        for name in _operators_of(CASES[cases][0]):
            text += f"auto use_{name} = &{of_type}::{name};\n"
        if cases == "engine":
            text += f"template struct fusedml::HopperOperators<{number}>;\n"
            text = '#include "hopper/operators.cuh"\n' + text
        source = folder / "kernels.cu"
        source.write_text(text)
        return self._compile_kernels(source, folder / "kernels.o", csrc, variant)

    def _headers(self, folder, variant):
        """Compiled beforehand, beside their text."""
        header = folder / "headers.h"
        header.write_text("".join(f"#include <{name}>\n" for name in _HEADERS))
        flags = [*_kernel_flags(variant), "-x", "c++-header"]
        self._compile(header, header.with_name("headers.h.gch"), CSRC, flags)
        return header

    def _engine(self, folder, variant):
        unity = folder / "engine.cpp"
        names = sorted(p for p in (CSRC / "emulation").glob("*.cpp") if p.stem != "access_hooks")
        unity.write_text("".join(f'#include "{path}"\n' for path in names))
        flags = ["-O2", "-fno-tree-loop-distribute-patterns", *_ENGINE_FLAGS[variant]]
        return self._compile(unity, folder / "engine.o", CSRC, flags)

    def _api(self, folder, number_type, variant):
        """The library's interface for this number type alone: the others are not compiled."""
        source = folder / "api.cpp"
        kernels = CSRC / "kernels"
        text = (kernels / "api.cpp").read_text() + (kernels / "engine.cpp").read_text()
        source.write_text(re.sub(r"Operators<\w+>", f"Operators<{number_type.capitalize()}>", text))
        return self._compile_kernels(source, folder / "api.o", CSRC, variant)

    def _test(self, folder, csrc, cases, number_type, variant):
        test, number = CASES[cases]
        definitions = [
            f'-DMUTATION_TEST="{test}"',
            f"-DMUTATION_CASES={number}",
            f"-DMUTATION_TYPE=k{number_type.capitalize()}",
        ]
        source = Path(__file__).parent / "checks.cpp"
        return self._compile_kernels(source, folder / "checks.o", csrc, variant, definitions)

    def _compile_kernels(self, source, output, csrc, variant, definitions=()):
        headers = ["-include", self._once(self._headers, variant), "-x", "c++"]
        flags = [*definitions, *_kernel_flags(variant), *headers]
        return self._compile(source, output, csrc, flags)

    def _compile(self, source, output, csrc, flags):
        self._run(
            [
                *_FLAGS,
                *flags,
                f"-I{csrc}",
                f"-I{TESTS}",
                f"-I{TESTS / 'kernels'}",
                "-isystem",
                self.cuda_include,
                "-c",
                source,
                "-o",
                output,
            ]
        )
        return output

    def _run(self, arguments):
        command = [str(part) for part in (self.compiler, *arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"


def _operators_of(test):
    """Names of the members of Operators that the test calls, itself or by a header beside it."""
    text = (TESTS / test).read_text()
    for name in re.findall(r'#include "([\w/]+\.h)"', text):
        for folder in (TESTS, TESTS / "kernels"):
            if (folder / name).exists():
                text += (folder / name).read_text()
    members = re.findall(r"^  static \w+ (\w+)\(", (CSRC / "kernels/operators.h").read_text(), re.M)
    return tuple(name for name in members if f"{name}(" in text)


def _kernel_flags(variant):
    return ["-ftrivial-auto-var-init=pattern", *_KERNEL_FLAGS[variant]]


def mutate(fault, folder):
    """A copy of csrc with the fault in it.  ValueError if the fault does not apply exactly once."""
    text = (CSRC / fault.file).read_text()
    if text.count(fault.before) != 1:
        raise ValueError(f"csrc/{fault.file} must hold exactly once: {fault.before!r}")
    csrc = folder / "csrc"
    shutil.copytree(CSRC, csrc, ignore=shutil.ignore_patterns("emulation", "torch"))
    (csrc / "emulation").symlink_to(CSRC / "emulation")
    (csrc / fault.file).write_text(text.replace(fault.before, fault.after))
    return csrc
