"""The operators ``torch.ops.fusedml.*``: their backends, and kernels in pure PyTorch.

A backend is a namespace of operators with the schemas of ``engine.schemas``:

* ``fusedml``        what the dispatcher finds: compiled CUDA kernels for CUDA tensors when they are
                     installed, the tiled pure-PyTorch kernels for everything else ("auto"),
* ``fusedml_torch``  the tiled pure-PyTorch kernels on every device ("torch").

Schemas live in Python so that the operators exist in an installation without compiled
kernels; the extension only adds CUDA kernels to the first namespace.  The operators are private:
they have no autograd formula of their own (``engine.autograd`` has), and no argument checks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor

from fusedml.curves import AFFINE, CURVES
from fusedml.engine import joint_rows, threshold_rows, tiled
from fusedml.engine.fake_kernels import FAKE_KERNELS
from fusedml.engine.flops import register_flops
from fusedml.engine.pairs import PairProblem, problem_of
from fusedml.engine.precision import (
    normalize_rows,
    normalize_rows_gradient,
    without_autocast,
)
from fusedml.engine.reductions.given import (
    entry_statistics,
    entry_statistics_gradient,
    entry_sums,
    entry_sums_gradient,
)
from fusedml.engine.routes.row_strips import extreme_pairs
from fusedml.engine.routes.threshold_pairs import threshold_pairs
from fusedml.engine.routes.windows import window_counts, window_pairs
from fusedml.engine.schemas import SCHEMAS

# Those that have kernels of two kinds, see ``engine.engines``: the plain name is of mma_sync, one
# with an engine's name before it takes that; "auto" is for labels that are known to be sorted.
ENGINE_OPERATORS = ("pair_statistics", "row_losses", "pair_gradient")
_ON_ENGINES = {
    f"{engine}_{name}": name for engine in ("auto", "hopper") for name in ENGINE_OPERATORS
}

BACKENDS = {"auto": "fusedml", "cuda": "fusedml", "torch": "fusedml_torch"}

# Also on a GPU they ask for a number first: how many positives there are.  A CUDA graph that
# torch.compile makes leaves them out, where it knows the tag.
_WAITING = {"triplet_losses", "triplet_gradient", "rank_losses", "rank_gradient"}
WAITING = frozenset(_WAITING | joint_rows.KERNELS.keys())


def _tags(name: str) -> tuple[torch.Tag, ...]:
    common = torch.Tag.pt2_compliant_tag
    unsafe = getattr(torch.Tag, "cudagraph_unsafe", None)  # unknown to older PyTorch
    return (common,) if unsafe is None or name not in WAITING else (common, unsafe)


def operator(name: str, backend: str) -> Callable[..., Any]:
    """The operator ``name`` of a backend."""
    return getattr(namespace(backend), name)


def namespace(backend: str) -> Any:
    """All operators of a backend."""
    return getattr(torch.ops, BACKENDS[backend])


def measure_and_curve(problem: PairProblem) -> str:
    """What the operators take for ``measure``: the measure, or the name of a curve of "dot"."""
    return problem.measure if problem.curve == AFFINE.name else problem.curve


# what depends on no logit
_OF_SIGHT = ("pair_extrema", "extreme_pairs", "window_counts", "window_pairs", "threshold_pairs")


def with_problem(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """An operator's arguments with those that make a PairProblem gathered in the first."""
    if name in _OF_SIGHT:
        return problem_of(*args[:6]), *args[6:]
    anchors, references, labels, reference_labels, logit, measure, self_offset, *rest = args
    problem = problem_of(anchors, references, labels, reference_labels, measure, self_offset)
    if measure in CURVES:
        problem = problem._replace(measure="dot", curve=measure)
    if name.startswith(("positive_pair", "two_sided", "triplet", "rank")):
        return problem, logit, *rest
    thresholds, extent, *rest = rest
    return problem._replace(extent=extent), logit, thresholds, *rest


def _of_problem(kernel: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(kernel)
    def run(*args: Any) -> Any:
        return kernel(*with_problem(kernel.__name__, args))

    return run


TILED_KERNELS: dict[str, Callable[..., Any]] = {
    **{
        kernel.__name__: _of_problem(kernel)
        for kernel in (
            tiled.pair_extrema,
            extreme_pairs,
            window_counts,
            window_pairs,
            threshold_pairs,
            tiled.pair_statistics,
            tiled.row_losses,
            tiled.pair_gradient,
            tiled.positive_pair_losses,
            tiled.positive_pair_gradient,
            tiled.two_sided_statistics,
            tiled.two_sided_gradient,
            tiled.pair_sums,
            tiled.pair_sums_gradient,
            tiled.rank_losses,
            tiled.rank_gradient,
            tiled.triplet_losses,
            tiled.triplet_gradient,
        )
    },
    **{
        kernel.__name__: kernel
        for kernel in (
            entry_statistics,
            entry_statistics_gradient,
            entry_sums,
            entry_sums_gradient,
        )
    },
    "group_statistics": tiled.group_statistics,
    "group_gradient": tiled.group_gradient,
    "pair_histograms": tiled.pair_histograms,
    "pair_histograms_gradient": tiled.pair_histograms_gradient,
    "threshold_sums": tiled.threshold_sums,
    "threshold_gradient": tiled.threshold_gradient,
    "matrix_rank_losses": tiled.matrix_rank_losses,
    "matrix_rank_gradient": tiled.matrix_rank_gradient,
    "matrix_triplet_losses": tiled.matrix_triplet_losses,
    "matrix_triplet_gradient": tiled.matrix_triplet_gradient,
    "row_divergences": tiled.row_divergences,
    "row_divergences_gradient": tiled.row_divergences_gradient,
    "pair_values": tiled.pair_values,
    "pair_values_gradient": tiled.pair_values_gradient,
    "normalize_rows": normalize_rows,
    "normalize_rows_gradient": normalize_rows_gradient,
}


def below_autograd(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """``kernel`` without gradient recording and without autocast; its outputs contiguous."""

    @wraps(kernel)
    def run(anchors: Tensor, *args: Any) -> Any:
        with torch.no_grad(), without_autocast(anchors):
            outputs = kernel(anchors, *args)
            if isinstance(outputs, Tensor):
                return outputs.contiguous()
            return tuple(output.contiguous() for output in outputs)

    return run


def register_backend(
    namespace: str, kernels: dict[str, Callable[..., Any]], dispatch_key: str
) -> torch.library.Library:
    """Defines all operators in ``namespace`` and implements those in ``kernels``.

    Those that are made of others call the others of the namespace: ``engine.joint_rows``, and
    ``engine.threshold_rows`` where ``kernels`` does not name them.
    The returned library keeps them alive.
    """
    library = torch.library.Library(namespace, "DEF")
    for name, schema in SCHEMAS.items():
        library.define(name + schema, tags=_tags(name))
        torch.library.register_fake(f"{namespace}::{name}", FAKE_KERNELS[name], lib=library)
    for name, base in _ON_ENGINES.items():
        library.define(name + SCHEMAS[base], tags=_tags(base))
        torch.library.register_fake(f"{namespace}::{name}", FAKE_KERNELS[base], lib=library)
    for name, kernel in kernels.items():
        library.impl(name, below_autograd(kernel), dispatch_key)
    composites = {**joint_rows.KERNELS, **threshold_rows.KERNELS}
    for name, kernel in composites.items():
        if name not in kernels:
            _add_composite(library, namespace, name, kernel, "CompositeExplicitAutograd")
    register_flops(namespace, _ON_ENGINES)
    return library


def _add_composite(
    library: torch.library.Library,
    namespace: str,
    name: str,
    kernel: Callable[..., Any],
    dispatch_key: str,
) -> None:
    """Adds an operator that calls the others of its namespace."""
    composite = partial(kernel, getattr(torch.ops, namespace))
    library.impl(name, below_autograd(composite), dispatch_key)


def use_threshold_kernels() -> None:
    """Makes the operators on triplets, ranks and histograms of CUDA tensors of the kernels."""
    for name, kernel in threshold_rows.KERNELS.items():
        _add_composite(_LIBRARIES[0], "fusedml", name, kernel, "CUDA")


_LIBRARIES = [
    register_backend(namespace, TILED_KERNELS, "CompositeExplicitAutograd")
    for namespace in ("fusedml", "fusedml_torch")
]
