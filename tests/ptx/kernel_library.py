"""The kernel library as nvcc compiles it: PTX, registers, machine code of each number type.

One compilation of a number type takes the better part of a minute, so its results are kept under
build/ for as long as neither the sources nor the compiler change; tests of all files, and of all
pytest workers, share them.

    python tests/ptx/kernel_library.py          compares the kernels with kernel_budgets.csv
    python tests/ptx/kernel_library.py --write  writes that table anew
"""

import csv
import fcntl
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from budgets import Usage, find_cuobjdump, usages_of
from sources import CSRC, ROOT, run_nvcc

NUMBER_TYPES = ("bf16", "fp16", "tf32", "fp32", "fp64")
CACHE = ROOT / "build" / "kernel_library"
TABLE = Path(__file__).resolve().parent / "kernel_budgets.csv"
_FOLDERS = ("core", "heads", "logits", "kernels")


@dataclass(frozen=True)
class CompiledKernels:
    """ptx: path of the PTX text; usages: {mangled name: Usage}, by ptxas and the disassembler."""

    ptx: Path
    usages: dict


def compiled_kernels(nvcc, number_type, architecture="80"):
    """The kernels of csrc/kernels/<number_type>.cu, from the cache or compiled now."""
    CACHE.mkdir(parents=True, exist_ok=True)
    name = f"{number_type}-sm_{architecture}"
    with open(CACHE / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be compiling the same
        folder = CACHE / f"{name}-{_fingerprint(nvcc)}"
        if not folder.exists():
            for stale in CACHE.glob(f"{name}-*"):
                shutil.rmtree(stale)
            with tempfile.TemporaryDirectory(dir=CACHE) as unfinished:
                _compile(nvcc, number_type, architecture, Path(unfinished) / "result")
                (Path(unfinished) / "result").rename(folder)
    usages = json.loads((folder / "usages.json").read_text())
    for usage in usages.values():
        usage["opcodes"] = Counter(usage["opcodes"])
    return CompiledKernels(folder / "kernels.ptx", {k: Usage(**u) for k, u in usages.items()})


def _compile(nvcc, number_type, architecture, folder):
    folder.mkdir()
    ptx, cubin = folder / "kernels.ptx", folder / "kernels.cubin"
    source = CSRC / "kernels" / f"{number_type}.cu"
    run_nvcc(nvcc, source, ptx, "-ptx", f"-arch=compute_{architecture}")
    report = run_nvcc(nvcc, ptx, cubin, "-cubin", f"-arch=sm_{architecture}", "-Xptxas", "-v")
    usages = usages_of(report, cubin, find_cuobjdump())
    (folder / "usages.json").write_text(json.dumps({k: vars(u) for k, u in usages.items()}))
    cubin.unlink()


def _fingerprint(nvcc):
    """A digest of everything that the results depend on."""
    digest = hashlib.sha256()
    version = subprocess.run([nvcc, "--version"], capture_output=True, check=True)
    digest.update(version.stdout + str(find_cuobjdump()).encode())
    for folder in _FOLDERS:
        for path in sorted((CSRC / folder).iterdir()):
            if path.suffix in (".h", ".cuh", ".cu"):
                digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


_WORDS = {
    "AffineLogit": "affine",
    "EuclideanLogit": "euclidean",
    "StatisticsReduction": "statistics",
    "ExtremaReduction": "extrema",
    "PositivePairReduction": "positive_pairs",
}


def short_name(mangled):
    """A kernel's name with what distinguishes its instances: "pair_sweep affine statistics"."""
    kernel = re.search(r"\d+([a-z_]+)_kernel", mangled)[1]
    words = [word for part, word in _WORDS.items() if part in mangled]
    if match := re.search(r"gradient_rows_kernel.*?ELi(\d+)EEE", mangled):
        words.append(f"d<={match[1]}")
    if match := re.search(r"weights_product_kernelINS_\w+?ELb([01])E", mangled):
        words.append("euclidean" if match[1] == "1" else "affine")
    return " ".join([kernel, *words])


def short_names(usages):
    """{short name: Usage}; AssertionError if two kernels share a short name."""
    named = {short_name(name): usage for name, usage in usages.items()}
    assert len(named) == len(usages), f"short names are not unique: {sorted(usages)}"
    return named


def read_table():
    """{(architecture, number type, short name): (registers, bytes of static shared memory)}."""
    with open(TABLE, newline="") as file:
        return {
            (row["architecture"], row["number_type"], row["kernel"]): (
                int(row["registers"]),
                int(row["static_shared_bytes"]),
            )
            for row in csv.DictReader(file)
        }


def measure_all(nvcc, architectures):
    """Rows of the table, for all number types; two compilations at a time."""
    wanted = [(a, number_type) for a in architectures for number_type in NUMBER_TYPES]
    with ThreadPoolExecutor(2) as pool:
        compiled = list(pool.map(lambda w: compiled_kernels(nvcc, w[1], w[0]), wanted))
    return {
        (*key, name): (usage.registers, usage.shared_bytes)
        for key, kernels in zip(wanted, compiled, strict=True)
        for name, usage in sorted(short_names(kernels.usages).items())
    }


def main(arguments):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("nvcc was not found")
        return 1
    architectures = [a for a in arguments if not a.startswith("-")] or ["80"]
    table = read_table() if TABLE.exists() else {}
    measured = measure_all(nvcc, architectures)
    for key, numbers in measured.items():
        if table.get(key) != numbers:
            print(*key, "registers, bytes:", numbers, "in the table:", table.get(key))
    if "--write" not in arguments:
        return int(any(table.get(key) != numbers for key, numbers in measured.items()))
    kept = {key: numbers for key, numbers in table.items() if key[0] not in architectures}
    with open(TABLE, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["architecture", "number_type", "kernel", "registers", "static_shared_bytes"]
        )
        writer.writerows([*key, *numbers] for key, numbers in {**kept, **measured}.items())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
