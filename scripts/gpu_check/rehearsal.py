"""A machine without a GPU as the check needs it: emulated kernels, stand-ins for NVIDIA's programs.

Every part runs the command that it runs on a GPU, with smaller sizes.  Nothing that a machine with
a GPU may lack can be reached: no git, no compiler, no pytorch-metric-learning, no network.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from scripts.gpu_check import binaries
from scripts.gpu_check.calls import Setting
from scripts.gpu_check.running import ROOT

FAKES = Path(__file__).parent / "fakes"
EMULATION = ROOT / "build" / "emulation"
_TESTS = EMULATION / "tests" / "csrc"
EMULATED = {
    **{
        f"gpu_{name}": _TESTS / "kernels" / f"test_{name}_plain"
        for name in (
            *("statistics", "gradient", "engine", "groups", "sums", "divergences"),
            *("extreme_pairs", "two_sided"),
            *("positive_pairs", "thresholds", "listed_pairs", "windows", "normalize"),
        )
    },
    **{
        f"test_{name}_gpu": _TESTS / f"test_{name}_plain"
        for name in (
            *("primitives", "hopper"),
            *("hopper_product", "hopper_sweep", "hopper_weights", "hopper_special"),
        )
    },
    "gpu_timer": EMULATION / "benchmarks" / "native" / "timer_plain",
}
_NO_NETWORK = """
import socket

def connect(self, address, connect=socket.socket.connect):
    if self.family != socket.AF_UNIX:
        raise OSError("the rehearsal has no network")
    return connect(self, address)

socket.socket.connect = connect
"""


def why_not() -> str | None:
    """Why there can be no rehearsal here; None if there can."""
    binding = EMULATION / "tests" / "binding" / "fusedml_emulated_binding.abi3.so"
    missing = [path for path in (*EMULATED.values(), binding) if not path.exists()]
    if not missing:
        return None
    names = ", ".join(str(path.relative_to(ROOT)) for path in missing)
    return f"the emulated kernels are not built (make test-kernels): {names}"


def prepare(output: Path) -> Setting:
    """Lays out the machine under ``output`` and makes it this process's, too.

    Raises SystemExit where the emulated kernels are not built.
    """
    reason = why_not()
    if reason is not None:
        raise SystemExit(f"gpu_check: {reason}")
    here = output / "rehearsal"
    for folder in ("bin", "lib", "programs", "package"):
        (here / folder).mkdir(parents=True, exist_ok=True)
    _lay_programs(here / "programs")
    _link(here / "bin" / "python3", Path(sys.executable))
    for fake in FAKES.iterdir():
        _link(here / "bin" / fake.name, fake)
    (here / "lib" / "pytorch_metric_learning.py").write_text("raise ImportError('not there')\n")
    (here / "lib" / "sitecustomize.py").write_text(_NO_NETWORK)
    os.environ["PATH"] = str(here / "bin")
    os.environ["CUDA_HOME"] = str(here)
    return Setting(
        output,
        "rehearsal",
        here / "programs",
        here / "package",
        device="cpu",
        seeds=0,  # ctest runs these programs in full
        workers=1,  # each imports torch, which takes longer than its tests
        shrink=256,
        seconds=0.01,
        environment={
            "PYTHONPATH": str(here / "lib"),
            "FUSEDML_GPU_TESTS": "emulated",
            "OMP_NUM_THREADS": "1",  # threads that wait for each other take a loaded machine's time
        },
        selected="errors_of_a_direct_call or learnable or nothing_waits",
        patience=8,  # other processes load the machine
    )


def _lay_programs(folder: Path) -> None:
    """The emulated programs under the names that they have on a GPU, and their list."""
    listed = {"commit": "rehearsed"}
    for name, binary in binaries.BINARIES.items():
        listed[name] = binaries.digest_of(binary, "rehearsal")
        if name in EMULATED:
            _link(folder / name, EMULATED[name])
        else:
            (folder / name).write_bytes(b"")
    (folder / binaries.INFO).write_text("")
    (folder / "binaries.json").write_text(json.dumps(listed))


def _link(path: Path, to: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(to)
