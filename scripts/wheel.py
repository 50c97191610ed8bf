"""Builds the wheel and the sdist into dist/, and tries the wheel in given environments.

    python -m scripts.wheel [PYTHON ...]

The wheel gets the manylinux tag of the oldest glibc that it runs with, by auditwheel; what torch
brings (its own libraries) is not put into it.  Each PYTHON is the interpreter of an environment
with some PyTorch, into which the wheel is installed without its dependencies; a loss is then
computed there, from another folder, against its dense formula.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"

# of torch, or of CUDA beside it: found at run time
_NOT_OURS = ("libtorch*", "libc10*", "libcuda*", "libcudart*")

_SMOKE = """
import torch, fusedml
from fusedml import _build_info as built, losses
assert "site-packages" in fusedml.__file__, fusedml.__file__
has_stable_abi = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 10)
assert fusedml.HAS_NATIVE == (built.native and has_stable_abi), fusedml.NATIVE_ERROR
torch.manual_seed(0)
for n in (40, 1200):
    values = []
    for backend in ("auto", "dense"):
        x = torch.randn(n, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        loss = losses.MultiSimilarityLoss(backend=backend)(x, torch.arange(n) // 4)
        loss.backward()
        values.append((loss.detach(), x.grad))
    for ours, dense in zip(*values):
        torch.testing.assert_close(ours, dense)
kernels = "loaded" if fusedml.HAS_NATIVE else f"not loaded: {fusedml.NATIVE_ERROR}"
print(f"fusedml {fusedml.__version__} beside torch {torch.__version__}, kernels {kernels}")
"""


def run(*command: object, **options: object) -> None:
    """Runs a program, whose failure ends this one."""
    subprocess.run(list(map(str, command)), check=True, **options)  # type: ignore[call-overload]


def build() -> Path:
    """The wheel in dist/, under the best tag there is."""
    shutil.rmtree(DIST, ignore_errors=True)
    raw = DIST / "raw"
    pip = sys.executable, "-m", "pip"
    run(*pip, "wheel", "--quiet", "--no-build-isolation", "--no-deps", "-w", raw, ROOT)
    (wheel,) = raw.glob("*.whl")
    if wheel.name.endswith("-any.whl"):
        shutil.copy2(wheel, DIST)
    else:
        _repair(wheel)
    shutil.rmtree(raw)
    (result,) = DIST.glob("*.whl")
    return result


def _repair(wheel: Path) -> None:
    excluded = [word for name in _NOT_OURS for word in ("--exclude", name)]
    command = [sys.executable, "-m", "auditwheel", "repair", *excluded, "-w", str(DIST), str(wheel)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        print(f"no manylinux tag: {result.stderr.strip()}")
        shutil.copy2(wheel, DIST)


def sdist() -> Path:
    """The sdist in dist/."""
    run(sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", DIST, cwd=ROOT)
    (result,) = DIST.glob("*.tar.gz")
    return result


def try_beside(python: str, wheel: Path) -> None:
    """Installs the wheel into the environment of an interpreter and computes a loss there."""
    pip = python, "-m", "pip", "--disable-pip-version-check"
    run(*pip, "install", "--quiet", "--no-deps", "--force-reinstall", wheel)
    try:
        run(python, "-P", "-c", _SMOKE, cwd=DIST)
    finally:
        run(*pip, "uninstall", "--quiet", "--yes", "fusedml")


def main(pythons: Sequence[str]) -> None:
    """Builds both, and tries the wheel with each interpreter."""
    wheel = build()
    for path in (wheel, sdist()):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.1f} MB")
    for python in pythons:
        # not resolved: a link to an interpreter belongs to the environment that it stands in
        try_beside(str(Path(python).absolute()), wheel)


if __name__ == "__main__":
    main(sys.argv[1:])
