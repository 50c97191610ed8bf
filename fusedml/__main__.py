"""``python -m fusedml``: what is installed, which backend is active and why; the demo and bench."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from fusedml import __version__, native  # registers the operators
from fusedml.engine.engines import VARIABLE, self_check, wanted_engine

_NOT_BUILT = "this source tree has not been built (pip install --no-build-isolation -e .)"
_ROOT = Path(__file__).resolve().parents[1]


class _Script(NamedTuple):
    module: str  # of the source tree
    make_target: str
    what: str


_SCRIPTS = {
    "demo": _Script(
        "examples.train_digits", "make demo", "train on handwritten digits with each loss"
    ),
    "limits": _Script("examples.limits", "make limits", "a step at n = 65536 on this machine"),
    "bench": _Script("benchmarks.bench", "make bench", "time, memory and accuracy against others"),
}

# what the kernels' asynchronous copies need
_LEAST_CAPABILITY = (8, 0)
_NEEDED = ("matplotlib", "psutil", "sklearn", "tqdm")


def kernels_missing_because() -> str | None:
    """Why the CUDA kernels cannot be used, or None if they are loaded."""
    try:
        build = importlib.import_module("fusedml._build_info")
    except ImportError:
        return _NOT_BUILT
    if not build.native:
        return str(build.reason)
    try:
        importlib.import_module("fusedml._C")
    except ImportError as error:
        return f"the compiled kernels do not load with torch {torch.__version__}: {error}"
    missing = [
        name
        for name in native.OPERATORS
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"fusedml::{name}", "CUDA")
    ]
    if missing:
        return f"the compiled library has no kernels for {', '.join(missing)}"
    return None


def active_backends(reason: str | None) -> list[str]:
    """One line for CPU tensors and one for CUDA tensors: what computes them and why."""
    lines = ["CPU tensors:  tiled PyTorch (the CUDA kernels are for CUDA tensors)"]
    if not torch.cuda.is_available():
        built_for = torch.version.cuda
        why = "torch sees no GPU" if built_for else "this torch is built without CUDA"
        lines.append(f"CUDA tensors: none here, {why}")
    elif reason is None and torch.cuda.get_device_capability() < _LEAST_CAPABILITY:
        lines.append("CUDA tensors: this GPU is older than sm_80: choose backend='torch'")
    elif reason is None:
        lines.append("CUDA tensors: CUDA kernels")
    else:
        lines.append("CUDA tensors: tiled PyTorch, as the CUDA kernels are not available")
    return lines


def active_engine() -> str:
    """Which of two sets of CUDA kernels computes the statistics of 16-bit dot products, and why."""
    wanted = wanted_engine()
    if wanted == "mma_sync":
        return f"engine: mma_sync, as {VARIABLE} says"
    if not torch.cuda.is_available():
        return "engine: mma_sync, as torch sees no GPU"
    refusal = native.hopper_refusal(torch.cuda.current_device()) or self_check()
    if refusal is not None:
        return f"engine: mma_sync, as {refusal}"
    which = "large problems" if wanted == "auto" else f"all problems, as {VARIABLE} says"
    return f"engine: hopper for {which} of 16-bit dot products, mma_sync for others"


def _script(name: str, root: Path) -> Path | None:
    """None where the package is installed, beside which others may have scripts of that name."""
    script = root.joinpath(*_SCRIPTS[name].module.split(".")).with_suffix(".py")
    return script if (root / "pyproject.toml").is_file() and script.is_file() else None


def commands_of(root: Path) -> dict[str, str]:
    """The sub-commands that are there: what each does, by name.  A source tree has them all."""
    return {name: script.what for name, script in _SCRIPTS.items() if _script(name, root)}


def report(root: Path = _ROOT) -> str:
    """Versions, threads, CUDA kernels, backends and sub-commands, one per line."""
    reason = kernels_missing_because()
    lines = [
        f"fusedml {__version__}",
        f"python {platform.python_version()}, torch {torch.__version__}, "
        f"CUDA of torch: {torch.version.cuda or 'none'}",
        f"threads: {torch.get_num_threads()}",
    ]
    if torch.cuda.is_available():
        lines.append(f"GPU: {torch.cuda.get_device_name()}")
    lines.append(f"CUDA kernels: {'loaded' if reason is None else f'not available: {reason}'}")
    lines += active_backends(reason)
    if reason is None:
        lines.append(active_engine())
    lines += [f"python -m fusedml {name}: {what}" for name, what in commands_of(root).items()]
    return "\n".join(lines)


def run_script(name: str, arguments: Sequence[str], root: Path = _ROOT) -> int:
    """Runs a script of the source tree that this package is in.

    Returns its exit status, or 1 after an explanation if the package is installed without it.
    """
    _, target, what = _SCRIPTS[name]
    script = _script(name, root)
    if script is None:
        print(
            f"`{name}` ({what}) is a script of fusedml's source tree and not part of the installed "
            f"package: clone the repository and run `{target}` there.",
            file=sys.stderr,
        )
        return 1
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"`{name}` needs {', '.join(missing)}, not found here: run `{target}`, which makes an "
            "environment with everything",
            file=sys.stderr,
        )
        return 1
    # a process of its own: the script starts others, which have to find its main module
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [sys.executable, str(script), *arguments], env=environment, check=False
    ).returncode


def main(arguments: Sequence[str] | None = None, root: Path = _ROOT) -> int:
    """The command line.  Everything after a sub-command is the script's own."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and arguments[0] in _SCRIPTS:
        return run_script(arguments[0], arguments[1:], root)
    parser = argparse.ArgumentParser(
        prog="python -m fusedml",
        description="Prints what is installed, which backend is active and why.",
    )
    if there := commands_of(root):
        commands = parser.add_subparsers(title="commands", metavar="command")
        for name, what in there.items():
            commands.add_parser(name, help=what)
    parser.parse_args(arguments)
    print(report(root))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
