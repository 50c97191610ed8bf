"""The operators ``torch.ops.fusedml.*``: schemas, fake kernels, pure-PyTorch kernels.

A backend is a namespace of operators with these schemas:

* ``fusedml``        what the dispatcher finds: compiled CUDA kernels for CUDA tensors when they are
                     installed, the tiled pure-PyTorch kernels for everything else ("auto"),
* ``fusedml_torch``  the tiled pure-PyTorch kernels on every device ("torch").

Schemas live here, in Python, so that the operators exist in an installation without compiled
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
from fusedml.engine.flops import register_flops
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import (
    normalize_rows,
    normalize_rows_gradient,
    norms_dtype,
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
from fusedml.engine.routes.windows import num_splits, window_counts, window_pairs
from fusedml.engine.tiled.thresholds import MOST_DIRECT

_PAIRS = (
    "Tensor anchors, Tensor? references, Tensor anchor_labels, Tensor? reference_labels, "
    "{logit}str measure, bool exclude_diagonal"
)
_SIGHT = _PAIRS.format(logit="")
_PROBLEM = _PAIRS.format(logit="Tensor logit, ") + ", Tensor? thresholds, Tensor? extent"
_POSITIVE = (
    _PAIRS.format(logit="Tensor logit, ")
    + ", Tensor? reference_lse, str head, Tensor head_parameters"
)
_TWO_SIDED = _PAIRS.format(logit="Tensor logit, ")
_GROUPS = (
    "Tensor anchors, Tensor vectors, Tensor labels, Tensor logit, str group, Tensor? sharpness"
)
_JOINT = (
    "Tensor anchors, Tensor? references, Tensor anchor_labels, Tensor? reference_labels, "
    "Tensor columns, Tensor logit, bool exclude_diagonal, str head"
)
_SUMS = (
    _PAIRS.format(logit="Tensor logit, ")
    + ", Tensor? shifts, Tensor? extent, Tensor terms, bool both_sides"
)
_ENTRIES = (
    "Tensor x, bool[2] kinds, Tensor? positive, Tensor? negative, Tensor? lines, SymInt num_lines, "
    "Tensor logit, str curve, Tensor? offsets"
)
_TRIPLETS = _PAIRS.format(logit="Tensor numbers, ") + ", str form"
_MATRIX = "Tensor x, Tensor positive, Tensor negative, Tensor numbers, float sign, str form"
_ENTRY_SUMS = _ENTRIES + ", Tensor? shifts, Tensor terms"
_HISTOGRAMS = (
    "Tensor anchors, Tensor labels, str measure, float lowest, float delta, int num_edges, "
    "bool per_row"
)
_DIVERGENCES = "Tensor anchors, Tensor teacher, Tensor? labels, Tensor numbers"
_THRESHOLDS = _SIGHT + ", Tensor? others, Tensor? thresholds, int count, str form, float[] numbers"
_WINDOWS = _SIGHT + ", Tensor windows, SymInt width"
_LISTED = "Tensor anchors, Tensor? references, Tensor rows, Tensor columns, str measure"

SCHEMAS = {
    "pair_extrema": f"({_SIGHT}) -> Tensor",
    "extreme_pairs": f"({_SIGHT}, Tensor? intervals, bool[2] largest)"
    " -> (Tensor measures, Tensor columns)",
    # of each row in windows of its own, see engine.routes.windows
    "window_counts": f"({_WINDOWS}) -> Tensor",
    "window_pairs": f"({_WINDOWS}, Tensor ends, SymInt size, bool is_measured)"
    " -> (Tensor rows, Tensor columns, Tensor measures)",
    "pair_statistics": f"({_PROBLEM}) -> (Tensor statistics, Tensor counts)",
    "row_losses": f"({_PROBLEM}, str head, Tensor head_parameters)"
    " -> (Tensor losses, Tensor statistics, Tensor partials)",
    "pair_gradient": f"({_PROBLEM}, Tensor statistics, Tensor statistics_grad, bool[3] needs)"
    " -> (Tensor anchors_grad, Tensor references_grad, Tensor logit_grad)",
    "positive_pair_losses": f"({_POSITIVE}) -> (Tensor losses, Tensor statistics, Tensor counts)",
    "positive_pair_gradient": f"({_POSITIVE}, Tensor statistics, Tensor losses_grad, bool[3] needs)"
    " -> (Tensor anchors_grad, Tensor references_grad, Tensor logit_grad,"
    " Tensor reference_lse_grad)",
    # of the rows, and then of the columns
    "two_sided_statistics": f"({_TWO_SIDED}) -> (Tensor statistics, Tensor counts)",
    "two_sided_gradient": f"({_TWO_SIDED}, Tensor statistics, Tensor statistics_grad,"
    " bool[3] needs) -> (Tensor anchors_grad, Tensor references_grad, Tensor logit_grad)",
    "group_statistics": f"({_GROUPS}) -> Tensor",
    "group_gradient": f"({_GROUPS}, Tensor statistics, Tensor statistics_grad, bool[3] needs)"
    " -> (Tensor anchors_grad, Tensor vectors_grad, Tensor logit_grad)",
    # sums of terms (fusedml.terms); "entry": of pairs whose measures are given
    "pair_sums": f"({_SUMS}) -> (Tensor sums, Tensor slopes, Tensor counts, Tensor numbers)",
    "pair_sums_gradient": f"({_SUMS}, Tensor slopes, Tensor counts, Tensor sums_grad,"
    " bool[3] needs) -> (Tensor anchors_grad, Tensor references_grad, Tensor logit_grad,"
    " Tensor shifts_grad)",
    "entry_statistics": f"({_ENTRIES}) -> (Tensor statistics, Tensor counts)",
    "entry_statistics_gradient": f"({_ENTRIES}, Tensor statistics, Tensor statistics_grad,"
    " bool[2] needs) -> (Tensor x_grad, Tensor logit_grad)",
    "entry_sums": f"({_ENTRY_SUMS}) -> (Tensor sums, Tensor slopes, Tensor counts, Tensor numbers)",
    "entry_sums_gradient": f"({_ENTRY_SUMS}, Tensor slopes, Tensor counts, Tensor sums_grad,"
    " bool[2] needs) -> (Tensor x_grad, Tensor logit_grad, Tensor shifts_grad)",
    # of a_i + r_p for each positive pair, see engine.joint_rows
    "joint_pair_losses": f"({_JOINT}) -> Tensor",
    "joint_pair_gradient": f"({_JOINT}, Tensor losses_grad, bool[4] needs)"
    " -> (Tensor anchors_grad, Tensor references_grad, Tensor columns_grad, Tensor logit_grad)",
    # of each anchor's negatives against its positives, see engine.reductions.thresholds
    "triplet_losses": f"({_TRIPLETS})"
    " -> (Tensor losses, Tensor counts, Tensor of_margin, Tensor met)",
    "triplet_gradient": f"({_TRIPLETS}, Tensor of_margin, Tensor met, Tensor losses_grad,"
    " bool[3] needs) -> (Tensor anchors_grad, Tensor references_grad, Tensor numbers_grad)",
    # the same of the rows of a matrix
    "matrix_triplet_losses": f"({_MATRIX}) -> (Tensor losses, Tensor counts, Tensor of_margin)",
    "matrix_triplet_gradient": f"({_MATRIX}, Tensor of_margin, Tensor losses_grad, bool[2] needs)"
    " -> (Tensor x_grad, Tensor numbers_grad)",
    # of each positive among its anchor's negatives, see engine.reductions.ranks
    "rank_losses": f"({_TRIPLETS}) -> (Tensor losses, Tensor held_ranks)",
    "rank_gradient": f"({_TRIPLETS}, Tensor held_ranks, Tensor losses_grad, bool[3] needs)"
    " -> (Tensor anchors_grad, Tensor references_grad, Tensor numbers_grad)",
    "matrix_rank_losses": f"({_MATRIX}) -> (Tensor losses, Tensor nothing)",
    "matrix_rank_gradient": f"({_MATRIX}, Tensor losses_grad, bool[2] needs)"
    " -> (Tensor x_grad, Tensor numbers_grad)",
    "pair_histograms": f"({_HISTOGRAMS}) -> Tensor",
    "pair_histograms_gradient": f"({_HISTOGRAMS}, Tensor histograms_grad, bool[1] needs) -> Tensor",
    # of the rows of two matrices
    "row_divergences": f"({_DIVERGENCES}) -> (Tensor losses, Tensor log_sums)",
    "row_divergences_gradient": f"({_DIVERGENCES}, Tensor losses, Tensor log_sums,"
    " Tensor losses_grad, bool[3] needs)"
    " -> (Tensor anchors_grad, Tensor teacher_grad, Tensor numbers_grad)",
    # what the operators on triplets, ranks and histograms are made of, see engine.threshold_rows
    "threshold_sums": f"({_THRESHOLDS}) -> Tensor",
    "threshold_gradient": f"({_THRESHOLDS}, Tensor sums_grad, Tensor largest_weights,"
    " bool[2] needs) -> (Tensor anchors_grad, Tensor references_grad)",
    # of each threshold the hardest negative below it, see engine.routes.threshold_pairs
    "threshold_pairs": f"({_SIGHT}, Tensor thresholds) -> Tensor",
    "pair_values": f"({_LISTED}) -> Tensor",
    "pair_values_gradient": f"({_LISTED}, Tensor values_grad, bool[2] needs)"
    " -> (Tensor anchors_grad, Tensor references_grad)",
    "normalize_rows": "(Tensor x, Tensor? order, ScalarType dtype)"
    " -> (Tensor unit_rows, Tensor norms)",
    "normalize_rows_gradient": "(Tensor x, Tensor? places, Tensor norms, Tensor unit_rows_grad)"
    " -> Tensor",
}

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


# ------------------------------------------------------------------------------- fake kernels
# Shapes and dtypes only, for torch.compile and torch.export.  An output nobody needs is empty, and
# every output is contiguous, whatever the layout of the inputs.


def _statistics_like(anchors: Tensor, rows: int) -> Tensor:
    return anchors.new_empty((rows, anchors.shape[0]), dtype=accumulation_dtype(anchors.dtype))


def _gradients_like(
    anchors: Tensor, references: Tensor | None, logit: Tensor, needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        anchors.new_empty(anchors.shape if needs[0] else 0),
        anchors.new_empty(0)
        if references is None or not needs[1]
        else references.new_empty(references.shape),
        logit.new_empty(logit.shape if needs[2] else 0),
    )


def _fake_pair_extrema(anchors: Tensor, *_: Any) -> Tensor:
    return _statistics_like(anchors, 2)


def _fake_extreme_pairs(anchors: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    columns = anchors.new_empty((2, anchors.shape[0]), dtype=torch.int64)
    return _statistics_like(anchors, 2), columns


def _fake_window_counts(anchors: Tensor, references: Tensor | None, *rest: Any) -> Tensor:
    m = (anchors if references is None else references).shape[0]
    shape = 2, anchors.shape[0], num_splits(m, rest[-1])
    return anchors.new_empty(shape, dtype=torch.int64)


def _fake_window_pairs(anchors: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    size, is_measured = rest[-2:]
    rows = anchors.new_empty(size, dtype=torch.int64)
    dtype = accumulation_dtype(anchors.dtype)
    measures = anchors.new_empty(size if is_measured else 0, dtype=dtype)
    return rows, torch.empty_like(rows), measures


def _fake_pair_statistics(anchors: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    counts = anchors.new_empty((2, anchors.shape[0]), dtype=torch.int64)
    return _statistics_like(anchors, 3), counts


def _fake_row_losses(anchors: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return (
        _statistics_like(anchors, 1)[0],
        _statistics_like(anchors, 3),
        _statistics_like(anchors, 3),
    )


def _fake_pair_gradient(
    anchors: Tensor, references: Tensor | None, _0: Any, _1: Any, logit: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients_like(anchors, references, logit, rest[-1])


def _fake_positive_pair_losses(anchors: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _statistics_like(anchors, 1)[0], *_fake_pair_statistics(anchors)


def _fake_positive_pair_gradient(
    anchors: Tensor, references: Tensor | None, _0: Any, _1: Any, logit: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    reference_lse = rest[2]
    return (
        *_gradients_like(anchors, references, logit, rest[-1]),
        anchors.new_empty(0)
        if references is None or reference_lse is None
        else reference_lse.new_empty(reference_lse.shape),
    )


def _fake_two_sided_statistics(
    anchors: Tensor, references: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor]:
    lines = anchors.shape[0] + (0 if references is None else references.shape[0])
    return (
        anchors.new_empty((3, lines), dtype=accumulation_dtype(anchors.dtype)),
        anchors.new_empty((2, lines), dtype=torch.int64),
    )


def _fake_group_statistics(anchors: Tensor, *_: Any) -> Tensor:
    return _statistics_like(anchors, 2)


def _fake_group_gradient(
    anchors: Tensor, vectors: Tensor, _0: Any, logit: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients_like(anchors, vectors, logit, rest[-1])


def _fake_sums(
    like: Tensor, num_lines: int, shifts: Tensor | None, terms: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape, dtype = (terms.shape[0], num_lines), accumulation_dtype(like.dtype)
    return (
        like.new_empty(shape, dtype=dtype),
        like.new_empty(0 if shifts is None else shape, dtype=dtype),
        like.new_empty(shape, dtype=torch.int64),
        like.new_empty((2, num_lines), dtype=torch.int64),
    )


def _fake_pair_sums(
    anchors: Tensor, references: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shifts, _, terms, both_sides = rest[-4:]
    num_lines = anchors.shape[0]
    if both_sides and references is not None:
        num_lines += references.shape[0]
    return _fake_sums(anchors, num_lines, shifts, terms)


def _fake_pair_sums_gradient(
    anchors: Tensor, references: Tensor | None, _0: Any, _1: Any, logit: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shifts, sums_grad = rest[2], rest[-2]
    of_shifts = sums_grad.new_empty(0) if shifts is None else shifts.new_empty(shifts.shape)
    return *_gradients_like(anchors, references, logit, rest[-1]), of_shifts


def _fake_entry_statistics(*args: Any) -> tuple[Tensor, Tensor]:
    x, num_lines = args[0], args[5]
    statistics = x.new_empty((3, num_lines), dtype=accumulation_dtype(x.dtype))
    return statistics, x.new_empty((2, num_lines), dtype=torch.int64)


def _fake_entry_statistics_gradient(*args: Any) -> tuple[Tensor, Tensor]:
    x, logit, needs = args[0], args[6], args[-1]
    return x.new_empty(x.shape if needs[0] else 0), logit.new_empty(4 if needs[1] else 0)


def _fake_entry_sums(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _fake_sums(args[0], args[5], *args[-2:])


def _fake_entry_sums_gradient(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, shifts = args[0], args[9]
    of_shifts = x.new_empty(0) if shifts is None else shifts.new_empty(shifts.shape)
    return *_fake_entry_statistics_gradient(*args), of_shifts


def _fake_joint_pair_losses(anchors: Tensor, *_: Any) -> Tensor:
    return _statistics_like(anchors, 1)[0]


def _fake_joint_pair_gradient(
    anchors: Tensor, references: Tensor | None, _0: Any, _1: Any, columns: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    logit, needs = rest[0], rest[-1]
    of_sides = _gradients_like(anchors, references, logit, [*needs[:2], needs[3]])
    of_columns = columns.new_empty(columns.shape if needs[2] else 0)
    return *of_sides[:2], of_columns, of_sides[2]


def _fake_matrix_triplet_losses(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    rows = _statistics_like(x, 1)[0]
    return rows, x.new_empty(x.shape[:1], dtype=torch.int64), torch.empty_like(rows)


def _fake_matrix_triplet_gradient(
    x: Tensor, _0: Any, _1: Any, numbers: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    needs = rest[-1]
    of_x = x.new_empty(x.shape if needs[0] else 0)
    return of_x, numbers.new_empty(numbers.shape if needs[1] else 0)


def _fake_triplet_losses(anchors: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    met = _statistics_like(anchors, MOST_DIRECT)
    return *_fake_matrix_triplet_losses(anchors), met


def _fake_pair_histograms(anchors: Tensor, *rest: Any) -> Tensor:
    num_edges, per_row = rest[-2:]
    shape = 2, anchors.shape[0] if per_row else 1, num_edges
    return anchors.new_empty(shape, dtype=accumulation_dtype(anchors.dtype))


def _fake_pair_histograms_gradient(anchors: Tensor, *rest: Any) -> Tensor:
    return anchors.new_empty(anchors.shape if rest[-1][0] else 0)


def _fake_rank_losses(anchors: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _statistics_like(anchors, 1)[0], _statistics_like(anchors, MOST_DIRECT)


def _fake_matrix_rank_losses(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    rows = _statistics_like(x, 1)[0]
    return rows, rows.new_empty(0)


def _fake_row_divergences(anchors: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _statistics_like(anchors, 1)[0], _statistics_like(anchors, 2)


def _fake_row_divergences_gradient(
    anchors: Tensor, teacher: Tensor, _: Any, numbers: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients_like(anchors, teacher, numbers, rest[-1])


def _fake_threshold_sums(anchors: Tensor, *rest: Any) -> Tensor:
    count, form, _ = rest[-3:]
    shape = 2 if form == "pulse" else 3, anchors.shape[0], count
    return anchors.new_empty(shape, dtype=accumulation_dtype(anchors.dtype))


def _fake_threshold_pairs(anchors: Tensor, *rest: Any) -> Tensor:
    return anchors.new_empty(rest[-1].shape, dtype=torch.int64)


def _fake_pair_values(anchors: Tensor, references: Tensor | None, rows: Tensor, *_: Any) -> Tensor:
    return anchors.new_empty(rows.shape, dtype=accumulation_dtype(anchors.dtype))


def _fake_pair_values_gradient(
    anchors: Tensor, references: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    return _gradients_like(anchors, references, anchors, [*rest[-1], False])[:2]


def _fake_normalize_rows(x: Tensor, _: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    norms = x.new_empty((x.shape[0], 1), dtype=norms_dtype(x.dtype, dtype))
    return x.new_empty(x.shape, dtype=dtype), norms


def _fake_normalize_rows_gradient(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


_FAKE_KERNELS: dict[str, Callable[..., Any]] = {
    "pair_extrema": _fake_pair_extrema,
    "extreme_pairs": _fake_extreme_pairs,
    "window_counts": _fake_window_counts,
    "window_pairs": _fake_window_pairs,
    "pair_statistics": _fake_pair_statistics,
    "row_losses": _fake_row_losses,
    "pair_gradient": _fake_pair_gradient,
    "positive_pair_losses": _fake_positive_pair_losses,
    "positive_pair_gradient": _fake_positive_pair_gradient,
    "two_sided_statistics": _fake_two_sided_statistics,
    "two_sided_gradient": _fake_pair_gradient,
    "group_statistics": _fake_group_statistics,
    "group_gradient": _fake_group_gradient,
    "pair_sums": _fake_pair_sums,
    "pair_sums_gradient": _fake_pair_sums_gradient,
    "entry_statistics": _fake_entry_statistics,
    "entry_statistics_gradient": _fake_entry_statistics_gradient,
    "entry_sums": _fake_entry_sums,
    "entry_sums_gradient": _fake_entry_sums_gradient,
    "joint_pair_losses": _fake_joint_pair_losses,
    "joint_pair_gradient": _fake_joint_pair_gradient,
    "triplet_losses": _fake_triplet_losses,
    "triplet_gradient": _fake_pair_gradient,
    "matrix_triplet_losses": _fake_matrix_triplet_losses,
    "matrix_triplet_gradient": _fake_matrix_triplet_gradient,
    "rank_losses": _fake_rank_losses,
    "rank_gradient": _fake_pair_gradient,
    "matrix_rank_losses": _fake_matrix_rank_losses,
    "matrix_rank_gradient": _fake_matrix_triplet_gradient,
    "pair_histograms": _fake_pair_histograms,
    "pair_histograms_gradient": _fake_pair_histograms_gradient,
    "row_divergences": _fake_row_divergences,
    "row_divergences_gradient": _fake_row_divergences_gradient,
    "threshold_sums": _fake_threshold_sums,
    "threshold_gradient": _fake_pair_values_gradient,
    "threshold_pairs": _fake_threshold_pairs,
    "pair_values": _fake_pair_values,
    "pair_values_gradient": _fake_pair_values_gradient,
    "normalize_rows": _fake_normalize_rows,
    "normalize_rows_gradient": _fake_normalize_rows_gradient,
}


def measure_and_curve(problem: PairProblem) -> str:
    """What the operators take for ``measure``: the measure, or the name of a curve of "dot"."""
    return problem.measure if problem.curve == AFFINE.name else problem.curve


# what depends on no logit
_OF_SIGHT = ("pair_extrema", "extreme_pairs", "window_counts", "window_pairs", "threshold_pairs")


def with_problem(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """An operator's arguments with those that make a PairProblem gathered in the first."""
    if name in _OF_SIGHT:
        return PairProblem(*args[:6]), *args[6:]
    anchors, references, labels, reference_labels, logit, measure, exclude_diagonal, *rest = args
    problem = PairProblem(anchors, references, labels, reference_labels, measure, exclude_diagonal)
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
        torch.library.register_fake(f"{namespace}::{name}", _FAKE_KERNELS[name], lib=library)
    for name, base in _ON_ENGINES.items():
        library.define(name + SCHEMAS[base], tags=_tags(base))
        torch.library.register_fake(f"{namespace}::{name}", _FAKE_KERNELS[base], lib=library)
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
