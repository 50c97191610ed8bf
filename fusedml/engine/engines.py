"""Two sets of CUDA kernels for the statistics of all pairs and their gradient: which one computes.

* ``mma_sync``  the kernels of every GPU from sm_80 on.
* ``hopper``    those of Hopper's own instructions, of 16-bit dot products; where they leave pairs
                out, ``mma_sync`` adds them.

The environment variable ``FUSEDML_ENGINE`` names one, or "auto", which it is when unset: Hopper's
where they can compute a problem, are expected to be faster, and have passed :func:`self_check`.
"hopper" raises where they cannot.  Operators that have no kernels in the second set, and tensors
that are not on a CUDA device, are computed as ever.
"""

from __future__ import annotations

import os
from functools import cache

import torch
from torch import Tensor

from fusedml.engine.arguments import check_choice
from fusedml.engine.backends import has_kernels
from fusedml.engine.caller import warn_caller
from fusedml.engine.ops import ENGINE_OPERATORS, operator
from fusedml.engine.pairs import PairProblem

VARIABLE = "FUSEDML_ENGINE"
ENGINES = ("auto", "mma_sync", "hopper")

# as in csrc/hopper/operators.h: ragged in rows and dimensions; one of either route of the backward
_CHECKED_SHAPES = ((600, 72), (600, 200))
_SAMPLES = 8  # of a class
# of the largest in a row: the same sums in another order, and weights rounded to 16 bits
_MOST_STATISTICS_ERROR = 1e-5
_MOST_GRADIENT_ERROR = 2**-7


def wanted_engine() -> str:
    """The engine that the environment asks for, one of ``ENGINES``.

    Raises ValueError for another name.
    """
    name = os.environ.get(VARIABLE) or "auto"
    checked: str = check_choice(VARIABLE, name, ENGINES)
    return checked


# constants of a graph, as of ``engine.backends``
wanted_engine._dynamo_marked_constant = True  # type: ignore[attr-defined]


def on_engine(name: str, backend: str, problem: PairProblem) -> str:
    """The operator ``name`` on the engine that computes this problem.

    Raises RuntimeError if "hopper" is asked for and has not passed the check of its results.
    """
    if name not in ENGINE_OPERATORS or not has_kernels(backend, problem.anchors, f"hopper_{name}"):
        return name
    wanted = wanted_engine()
    if wanted == "mma_sync" or (wanted == "auto" and not _may_gain(problem)):
        return name
    wrong = _check_once(backend, str(problem.anchors.device), wanted == "auto")
    if wrong is None:
        return f"{wanted}_{name}"
    if wanted == "hopper":
        raise RuntimeError(f"{VARIABLE}='hopper': {wrong}")
    return name


def _may_gain(problem: PairProblem) -> bool:
    """Without a question to the device; the kernels know the rest."""
    is_16_bit = problem.anchors.dtype in (torch.bfloat16, torch.float16)
    return problem.labels_sorted and is_16_bit and problem.measure == "dot"


def _check_once(backend: str, device: str, is_auto: bool) -> str | None:
    """Why Hopper's kernels may not be used on a device, or None."""
    if device.startswith("cuda") and torch.cuda.is_current_stream_capturing():
        # a graph would hold the check; what has been found before it counts
        return _found.get((backend, device), "nothing was checked before this CUDA graph")
    wrong = _checked(backend, device)
    if wrong is not None and is_auto:
        _warn_once(wrong)
    return wrong


_check_once._dynamo_marked_constant = True  # type: ignore[attr-defined]

_found: dict[tuple[str, str], str | None] = {}  # a cache: what is found does not change


def _checked(backend: str, device: str) -> str | None:
    key = backend, device
    if key not in _found:
        _found[key] = self_check(backend, device)
    return _found[key]


@cache
def _warn_once(wrong: str) -> None:
    warn_caller(f"fusedml: the mma.sync kernels compute, as {wrong}")


def self_check(backend: str = "auto", device: str = "cuda") -> str | None:
    """Compares both engines on small problems: None if they agree, else what is wrong.

    None, too, where Hopper's kernels cannot run at all, which they say themselves.  Embeddings are
    small integers, whose products are exact.  Takes milliseconds, and waits for the device.
    """
    with torch.no_grad():
        for n, d in _CHECKED_SHAPES:
            try:
                found = [_run(prefix, backend, device, n, d) for prefix in ("", "hopper_")]
            except RuntimeError as fault:
                if _REFUSAL in str(fault):
                    return None
                return f"Hopper's kernels failed their check: {fault}"
            limits = _MOST_STATISTICS_ERROR, _MOST_GRADIENT_ERROR
            for on_mma, on_hopper, most in zip(*found, limits, strict=True):
                error = _largest_error(on_hopper, on_mma)
                if not error <= most:
                    return (
                        f"Hopper's kernels failed their check: n = {n}, d = {d}: an error of "
                        f"{error:.2g}, at most {most:.2g}"
                    )
    return None


_REFUSAL = "cannot compute"  # of csrc/torch/binding.cpp


def _run(prefix: str, backend: str, device: str, n: int, d: int) -> tuple[Tensor, Tensor]:
    """Statistics and gradient, [rows, ..], of one engine."""
    generator = torch.Generator().manual_seed(d)
    x = torch.randint(-2, 3, (n, d), generator=generator, device="cpu")
    x = x.to(device, torch.bfloat16)
    labels = torch.arange(n, device=device) // _SAMPLES
    logit = torch.tensor([-0.125, 0.5, 0.0625, 1.0], dtype=torch.float64, device="cpu")
    problem = x, None, labels, None, logit, "dot", 0, None, None
    statistics, _ = operator(f"{prefix}pair_statistics", backend)(*problem)
    grad = torch.randn(3, n, generator=generator, device="cpu").to(device)
    gradient, *_ = operator(f"{prefix}pair_gradient", backend)(
        *problem, statistics, grad, [True, False, False]
    )
    return statistics.T, gradient.float()


def _largest_error(found: Tensor, wanted: Tensor) -> float:
    """Relative to the largest number of a row."""
    largest = wanted.abs().amax(1, keepdim=True).clamp(min=1e-30)
    return float(((found - wanted).abs() / largest).max())
