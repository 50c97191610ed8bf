"""The kernel library as nvcc compiles it: PTX, registers, machine code of each number type.

They are taken from the object files of `make build` where those are newer than the sources;
otherwise a number type is compiled, which takes the better part of a minute.  The results are kept
under build/ for as long as neither the sources nor the compiler change; tests of all files, and of
all pytest workers, share them.

    python tests/ptx/kernel_library.py 80 90a          compares the kernels with kernel_budgets.csv
    python tests/ptx/kernel_library.py 80 90a --write  writes that table anew
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
from dataclasses import fields
from pathlib import Path

from budgets import Usage, extract, find_cuobjdump, usages_of, usages_of_cubin
from sources import CSRC, ROOT, run_nvcc

NUMBER_TYPES = ("bf16", "fp16", "tf32", "fp32", "fp64")
# The architectures whose PTX the interpreter runs: the first that is built; of fp16 `make test`
# builds the second alone.
INTERPRETED = ("80", "90a")
# The machine code of a number type takes eight seconds to list and to read.  Registers, spills and
# shared memory are known without it; which instructions there are follows from the source, whatever
# the architecture, and is the same for tf32 as for fp32; how many of them an inner loop has is
# counted on both architectures, for one type of 16 bits each.
DISASSEMBLED = {("80", "bf16"), ("80", "fp32"), ("80", "fp64"), ("90a", "fp16")}
CACHE = ROOT / "build" / "kernel_library"
TABLE = Path(__file__).resolve().parent / "kernel_budgets.csv"
_OBJECTS = ROOT / "build" / "native" / "CMakeFiles"
_FOLDERS = ("core", "heads", "logits", "kernels")


def built_object(number_type, folder="kernels"):
    """What `make build` made of csrc/<folder>/<number_type>.cu, if that is still its source."""
    path = _OBJECTS / f"fusedml_{folder}.dir" / "csrc" / folder / f"{number_type}.cu.o"
    flags = ROOT / "cmake" / "Native.cmake"
    if find_cuobjdump() is None or not path.exists():
        return None
    sources = [flags, *_sources({*_FOLDERS, folder})]
    newest = max(source.stat().st_mtime_ns for source in sources)
    return path if path.stat().st_mtime_ns > newest else None


def disassembler(architecture, number_type):
    """Path of cuobjdump where the machine code of these kernels is to be read, or None."""
    return find_cuobjdump() if (architecture, number_type) in DISASSEMBLED else None


def has_machine_code(built, architecture):
    """Whether an object file has it for this architecture: after `make test` few have."""
    command = [find_cuobjdump(), "--list-elf", built]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return f".sm_{architecture}.cubin" in listed


def interpreted_ptx(nvcc, number_type):
    """Path of the PTX text of csrc/kernels/<number_type>.cu: as built, from the cache, or compiled
    now."""
    built = built_object(number_type)

    def make(folder):
        ptx = folder / "kernels.ptx"
        if built is None or not any(_take(built, each, ptx) for each in INTERPRETED):
            _compile_ptx(nvcc, number_type, INTERPRETED[0], ptx)

    return _kept(nvcc, f"{number_type}-ptx", built, make) / "kernels.ptx"


def compiled_kernels(nvcc, number_type, architecture):
    """{mangled name: Usage} of the same kernels, likewise: by ptxas and, of DISASSEMBLED, the
    disassembler."""
    built = built_object(number_type)

    def make(folder):
        cubin, ptx = folder / "kernels.cubin", folder / "kernels.ptx"
        lists_code = disassembler(architecture, number_type)
        if built is not None and _take(built, architecture, cubin):
            usages = usages_of_cubin(cubin, architecture, find_cuobjdump(), lists_code)
        else:
            if built is None and architecture == INTERPRETED[0]:
                ptx = interpreted_ptx(nvcc, number_type)
            else:
                _compile_ptx(nvcc, number_type, architecture, ptx)
            options = "-cubin", f"-arch=sm_{architecture}", "-Xptxas", "-v"
            usages = usages_of(run_nvcc(nvcc, ptx, cubin, *options), cubin, lists_code)
        cubin.unlink()
        (folder / "usages.json").write_text(json.dumps({k: vars(u) for k, u in usages.items()}))

    folder = _kept(nvcc, f"{number_type}-sm_{architecture}", built, make)
    usages = json.loads((folder / "usages.json").read_text())
    for usage in usages.values():
        for counter in ("opcodes", "epilogue", "plain_path", "main_loop"):
            usage[counter] = Counter(usage[counter])
    return {name: Usage(**usage) for name, usage in usages.items()}


def _kept(nvcc, name, built, make):
    """A folder of the cache, which `make` fills where it is not there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be compiling the same
        folder = CACHE / f"{name}-{_fingerprint(nvcc, built)}"
        if not folder.exists():
            for stale in CACHE.glob(f"{name}-*"):
                shutil.rmtree(stale)
            with tempfile.TemporaryDirectory(dir=CACHE) as unfinished:
                result = Path(unfinished) / "result"
                result.mkdir()
                make(result)
                result.rename(folder)
    return folder


def _take(built, architecture, target):
    """Takes an object file's kernels for an architecture, as PTX or machine code by the suffix of
    `target`; False if there are none."""
    parts = extract(find_cuobjdump(), built, target.parent)
    for part in parts:
        if part.name.endswith(f"sm_{architecture}{target.suffix}"):
            part.rename(target)
        else:
            part.unlink()
    return target.exists()


def _compile_ptx(nvcc, number_type, architecture, ptx):
    source = CSRC / "kernels" / f"{number_type}.cu"
    run_nvcc(nvcc, source, ptx, "-ptx", f"-arch=compute_{architecture}")


def _sources(folders=_FOLDERS):
    """Everything that the kernels are made of."""
    files = (path for folder in folders for path in sorted((CSRC / folder).iterdir()))
    return [path for path in files if path.suffix in (".h", ".cuh", ".cu")]


def _fingerprint(nvcc, built):
    """A digest of everything that the results depend on."""
    known = [f.name for f in fields(Usage)] + sorted(map("-".join, DISASSEMBLED))
    digest = hashlib.sha256(",".join(known).encode())
    version = subprocess.run([nvcc, "--version"], capture_output=True, check=True)
    digest.update(version.stdout + str(find_cuobjdump()).encode())
    if built is not None:
        digest.update(built.read_bytes())
    for path in _sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


_WORDS = {
    "AffineLogit": "affine",
    "EuclideanLogit": "euclidean",
    "CurvedLogit": "curved",
    "AnyMeasureLogit": "any measure",
    "StatisticsReduction": "statistics",
    "ExtremaReduction": "extrema",
    "PositivePairReduction": "positive_pairs",
    "TermSumsReduction": "sums",
    "ExtremePairsReduction": "extreme pairs",
    "TermSource": "sums",
    "TwoProductLogits": "two products",
    "DivergenceReduction": "divergences",
    "DivergenceSource": "divergences",
}


_OF_TWO_SIZES = ("pair_sweep", "pair_weights", "weights_product")


def short_name(mangled):
    """A kernel's name with what distinguishes its instances: "pair_sweep affine statistics"."""
    kernel = re.search(r"\d+([a-z_]+)_kernel", mangled)[1]
    words = [word for part, word in _WORDS.items() if part in mangled]
    if match := re.search(r"GroupedLogitI[fd]Lb([01])E", mangled):
        words.append("grouped rows" if match[1] == "1" else "grouped columns")
    if match := re.search(r"gradient_rows_kernel.*?ELi(\d+)E", mangled):
        words.append(f"d<={match[1]}")
    if match := re.search(r"weights_product_kernelINS_\w+?ELb([01])E", mangled):
        words.append("euclidean" if match[1] == "1" else "affine")
    of_one_size = ("Fp64", "PositivePairReduction", "AnyMeasureLogit", "TwoProductLogits")
    has_large = not any(part in mangled for part in of_one_size)
    if has_large and "TileShapeILi64ELi64E" in mangled and kernel in _OF_TWO_SIZES:
        words.append("small")
    if re.search(r"normalize_\w+_kernelINS_\w+?ENS_4Fp32E", mangled):
        words.append("of fp32")
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
        for name, usage in sorted(short_names(kernels).items())
    }


def main(arguments):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("nvcc was not found")
        return 1
    architectures = [a for a in arguments if not a.startswith("-")] or ["80", "90a"]
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
