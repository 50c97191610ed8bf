"""The backend "emulated": the CUDA kernels, executed on the CPU, behind the operators' schemas.

Importing this module registers ``torch.ops.fusedml_emulated.*``, which the fixture ``emulated``
makes a backend.  ``OPTIONS`` chooses the route of the backward and the size of its panels.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusedml.engine import ops
from fusedml.engine.pairs import accumulation_dtype
from fusedml.engine.precision import norms_dtype

#: route: "auto", "rows" (A) or "panel" (B).  max_panel_bytes: 0 for the default of 32 MiB.
OPTIONS: dict[str, Any] = {"route": "auto", "max_panel_bytes": 0}

_NUMBER_TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
_FLOAT32_TYPES = {"highest": "fp32", "high": "tf32", "medium": "bf16"}


def find_module() -> Path | None:
    """The compiled module: FUSEDML_EMULATED_MODULE, or the newest one under build/."""
    if path := os.environ.get("FUSEDML_EMULATED_MODULE"):
        return Path(path)
    build = Path(__file__).parents[2] / "build"
    found = sorted(build.rglob("fusedml_emulated_kernels*.so"), key=lambda p: p.stat().st_mtime)
    return found[-1] if found else None


def _load() -> Any:
    path = find_module()
    if path is None:
        raise ImportError(
            "the emulated kernels are not built: cmake -B build && cmake --build build"
        )
    spec = importlib.util.spec_from_file_location("fusedml_emulated_kernels", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


kernels = _load()


def _by_word(labels: Tensor | None) -> Tensor | None:
    """Labels that are sets [n, W] as [W, n]."""
    return labels if labels is None or labels.ndim == 1 else labels.T


class _Problem:
    """A problem for the kernels, and the tensors whose addresses it holds."""

    def __init__(
        self,
        anchors: Tensor,
        references: Tensor | None,
        anchor_labels: Tensor | None,
        reference_labels: Tensor | None,
        logit: Tensor,
        measure: str,
        self_offset: int | None,
        thresholds: Tensor | None = None,
        extent: Tensor | None = None,
    ) -> None:
        self.take(anchors)
        self.is_self = references is None
        self.references_shape = None if references is None else references.shape
        self.handle = kernels.Problem(
            self.number_type,
            measure,
            self.address(anchors.to(self.stored)),
            self.address(None if references is None else references.to(self.stored)),
            self.address(_by_word(anchor_labels)),
            self.address(_by_word(reference_labels)),
            anchors.shape[0],
            0 if references is None else references.shape[0],
            anchors.shape[1],
            self.is_self,
            self_offset is not None,
            self.address(logit.to(torch.float64)),
            self.address(thresholds),
            self.address(extent),
            0 if anchor_labels is None or anchor_labels.ndim == 1 else anchor_labels.shape[1],
            self_offset or 0,
        )

    def take(self, anchors: Tensor) -> None:
        """The number type that their dtype and PyTorch's precision ask for."""
        self.dtype, self.shape = anchors.dtype, anchors.shape
        self.real = accumulation_dtype(anchors.dtype)
        self.number_type = (
            _NUMBER_TYPES.get(anchors.dtype)
            or (_FLOAT32_TYPES[torch.get_float32_matmul_precision()])
        )
        # "medium": the caller of the kernels rounds float32 embeddings to bfloat16
        self.stored = torch.bfloat16 if self.number_type == "bf16" else anchors.dtype
        self._alive: list[Tensor] = []

    def address(self, tensor: Tensor | None) -> int:
        """Address of a contiguous copy that lives as long as this object; 0 for None."""
        if tensor is None:
            return 0
        tensor = tensor.contiguous()
        self._alive.append(tensor)
        return tensor.data_ptr()

    def reals(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.real)

    def gradients(self, needs: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs of a backward; an unneeded one is empty."""
        anchors = torch.empty(self.shape if needs[0] else 0, dtype=self.stored)
        has_references = needs[1] and self.references_shape is not None
        references = torch.empty(self.references_shape if has_references else 0, dtype=self.stored)
        return anchors, references, torch.empty(4 if needs[2] else 0, dtype=torch.float64)


def pair_extrema(anchors: Tensor, *args: Any) -> Tensor:
    *sides, measure, self_offset = args
    problem = _Problem(anchors, *sides, torch.zeros(4), measure, self_offset)
    extrema = problem.reals(2, anchors.shape[0])
    kernels.pair_extrema(problem.handle, extrema.data_ptr())
    return extrema


def pair_statistics(*args: Any) -> tuple[Tensor, Tensor]:
    problem = _Problem(*args)
    n = problem.shape[0]
    statistics, counts = problem.reals(3, n), torch.empty((2, n), dtype=torch.int64)
    kernels.pair_statistics(problem.handle, statistics.data_ptr(), counts.data_ptr())
    return statistics, counts


def row_losses(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *pairs, head, head_parameters = args
    problem = _Problem(*pairs)
    n = problem.shape[0]
    losses, statistics, partials = problem.reals(n), problem.reals(3, n), problem.reals(3, n)
    kernels.row_losses(
        problem.handle,
        head,
        problem.address(head_parameters.to(torch.float64)),
        losses.data_ptr(),
        statistics.data_ptr(),
        partials.data_ptr(),
    )
    return losses, statistics, partials


def pair_gradient(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *pairs, statistics, statistics_grad, needs = args
    return _gradient(_Problem(*pairs), statistics, statistics_grad, needs, pairs[4].dtype)


def _gradient(
    problem: _Problem,
    statistics: Tensor,
    statistics_grad: Tensor,
    needs: list[bool],
    logit_dtype: torch.dtype,
    kernel: Callable[..., None] = kernels.pair_gradient,
) -> tuple[Tensor, Tensor, Tensor]:
    anchors, references, logit = problem.gradients(needs)
    if any(gradient.numel() for gradient in (anchors, references, logit)):
        kernel(
            problem.handle,
            problem.address(statistics),
            problem.address(statistics_grad),
            *(g.data_ptr() if g.numel() else 0 for g in (anchors, references, logit)),
            OPTIONS["route"],
            OPTIONS["max_panel_bytes"],
        )
    return anchors.to(problem.dtype), references.to(problem.dtype), logit.to(logit_dtype)


def positive_pair_losses(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *pairs, reference_lse, head, _head_parameters = args
    problem = _Problem(*pairs)
    n = problem.shape[0]
    losses, statistics = problem.reals(n), problem.reals(3, n)
    counts = torch.empty((2, n), dtype=torch.int64)
    kernels.positive_pair_losses(
        problem.handle,
        head,
        problem.address(reference_lse),
        losses.data_ptr(),
        statistics.data_ptr(),
        counts.data_ptr(),
    )
    return losses, statistics, counts


def positive_pair_gradient(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *pairs, reference_lse, head, _head_parameters, statistics, losses_grad, needs = args
    problem = _Problem(*pairs)
    anchors, references, logit = problem.gradients(needs)
    has_reference_lse = not problem.is_self and reference_lse is not None
    reference_lse_grad = problem.reals(reference_lse.shape[0] if has_reference_lse else 0)
    outputs = (anchors, references, logit, reference_lse_grad)
    if any(output.numel() for output in outputs):
        kernels.positive_pair_gradient(
            problem.handle,
            head,
            problem.address(reference_lse),
            problem.address(statistics),
            problem.address(losses_grad),
            *(output.data_ptr() if output.numel() else 0 for output in outputs),
            OPTIONS["route"],
            OPTIONS["max_panel_bytes"],
        )
    return (
        anchors.to(problem.dtype),
        references.to(problem.dtype),
        logit.to(pairs[4].dtype),
        reference_lse_grad.to(reference_lse.dtype if has_reference_lse else problem.dtype),
    )


def two_sided_statistics(*args: Any) -> tuple[Tensor, Tensor]:
    problem = _Problem(*args)
    lines = problem.shape[0] + args[1].shape[0]
    statistics, counts = problem.reals(3, lines), torch.empty((2, lines), dtype=torch.int64)
    kernels.two_sided_statistics(problem.handle, statistics.data_ptr(), counts.data_ptr())
    return statistics, counts


def two_sided_gradient(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *pairs, statistics, statistics_grad, needs = args
    of = kernels.two_sided_gradient
    return _gradient(_Problem(*pairs), statistics, statistics_grad, needs, pairs[4].dtype, of)


def extreme_pairs(anchors: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    *sides, measure, self_offset, intervals, largest = args
    problem = _Problem(anchors, *sides, torch.zeros(4), measure, self_offset)
    n = anchors.shape[0]
    measures, columns = problem.reals(2, n), torch.empty((2, n), dtype=torch.int64)
    outputs = measures.data_ptr(), columns.data_ptr()
    kernels.extreme_pairs(problem.handle, *largest, problem.address(intervals), *outputs)
    return measures, columns


def window_counts(anchors: Tensor, *args: Any) -> Tensor:
    *sides, measure, self_offset, windows, width = args
    problem = _Problem(anchors, *sides, torch.zeros(4), measure, self_offset)
    columns = len(anchors if sides[0] is None else sides[0])
    counts = torch.empty((2, len(anchors), -(-columns // width)), dtype=torch.int64)
    kernels.window_counts(problem.handle, problem.address(windows), width, counts.data_ptr())
    return counts


def window_pairs(anchors: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *sides, measure, self_offset, windows, width, ends, size, is_measured = args
    problem = _Problem(anchors, *sides, torch.zeros(4), measure, self_offset)
    rows, columns = torch.empty((2, size), dtype=torch.int64)
    measures = problem.reals(size if is_measured else 0)
    given = problem.address(windows), width, problem.address(ends), size
    outputs = rows.data_ptr(), columns.data_ptr(), measures.data_ptr() if is_measured else 0
    kernels.window_pairs(problem.handle, *given, *outputs)
    return rows, columns, measures


def _summed(args: list[Any]) -> tuple[_Problem, Any, int]:
    """The problem, what the kernels take of the sums, and the number of lines."""
    *pairs, shifts, extent, terms, both_sides = args
    problem = _Problem(*pairs, None, extent)
    packed = problem.address(terms)
    sums = kernels.PairSums(packed, terms.shape[0], problem.address(shifts), both_sides)
    lines = problem.shape[0]
    if both_sides and problem.references_shape is not None:
        lines += problem.references_shape[0]
    return problem, sums, lines


def pair_sums(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    problem, sums, lines = _summed([*args])
    shifts, _, terms, _ = args[-4:]
    shape = terms.shape[0], lines
    values, slopes = problem.reals(*shape), problem.reals(*shape if shifts is not None else (0,))
    counts = torch.empty(shape, dtype=torch.int64)
    numbers = torch.empty((2, lines), dtype=torch.int64)
    kernels.pair_sums(
        problem.handle,
        sums,
        values.data_ptr(),
        0 if shifts is None else slopes.data_ptr(),
        counts.data_ptr(),
        numbers.data_ptr(),
    )
    return values, slopes, counts, numbers


def pair_sums_gradient(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *of_sums, slopes, _counts, sums_grad, needs = args
    problem, sums, _ = _summed(of_sums)
    shifts = of_sums[-4]
    anchors, references, logit = problem.gradients(needs)
    shifts_grad = problem.reals(*(0,) if shifts is None else shifts.shape)
    kernels.pair_sums_gradient(
        problem.handle,
        sums,
        0 if shifts is None else problem.address(slopes),
        problem.address(sums_grad),
        *(g.data_ptr() if g.numel() else 0 for g in (anchors, references, logit)),
        shifts_grad.data_ptr() if shifts is not None else 0,
        OPTIONS["max_panel_bytes"],
    )
    return (
        anchors.to(problem.dtype),
        references.to(problem.dtype),
        logit.to(of_sums[4].dtype),
        shifts_grad if shifts is None else shifts_grad.to(shifts.dtype),
    )


def _of_two_products(
    anchors: Tensor, teacher: Tensor, labels: Tensor | None, numbers: Tensor
) -> tuple[_Problem, tuple[int, int]]:
    """The problem, and address and width of the second matrix."""
    assert teacher.dtype == anchors.dtype  # no kernel reads two types
    problem = _Problem(anchors, None, labels, None, numbers, "dot", None)
    return problem, (problem.address(teacher.to(problem.stored)), teacher.shape[1])


def row_divergences(*args: Any) -> tuple[Tensor, Tensor]:
    problem, second = _of_two_products(*args)
    n = problem.shape[0]
    losses, log_sums = problem.reals(n), problem.reals(2, n)
    kernels.row_divergences(problem.handle, *second, losses.data_ptr(), log_sums.data_ptr())
    return losses, log_sums


def row_divergences_gradient(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *of_losses, losses, log_sums, losses_grad, needs = args
    problem, second = _of_two_products(*of_losses)
    problem.references_shape = of_losses[1].shape
    outputs = problem.gradients(needs)
    kernels.row_divergences_gradient(
        problem.handle,
        *second,
        *(problem.address(x) for x in (losses, log_sums, losses_grad)),
        *(g.data_ptr() if g.numel() else 0 for g in outputs),
        OPTIONS["max_panel_bytes"],
    )
    anchors, teacher, numbers = outputs
    return anchors.to(problem.dtype), teacher.to(problem.dtype), numbers.to(of_losses[3].dtype)


class _Groups(_Problem):
    """Anchors and the vectors of classes, for the kernels of pairs."""

    def __init__(
        self,
        anchors: Tensor,
        vectors: Tensor,
        labels: Tensor,
        logit: Tensor,
        group: str,
        sharpness: Tensor | None,
    ) -> None:
        self.take(anchors)
        self.is_self, self.references_shape = False, vectors.shape
        self.handle = kernels.Problem.of_groups(
            self.number_type,
            group,
            self.address(anchors.to(self.stored)),
            self.address(vectors.to(self.stored)),
            self.address(labels),
            anchors.shape[0],
            *vectors.shape,
            self.address(logit.to(torch.float64)),
            self.address(sharpness),
        )


def group_statistics(*args: Any) -> Tensor:
    problem = _Groups(*args)
    statistics = problem.reals(2, problem.shape[0])
    kernels.pair_statistics(problem.handle, statistics.data_ptr(), 0)
    return statistics


def group_gradient(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *of_groups, statistics, statistics_grad, needs = args
    problem = _Groups(*of_groups)
    return _gradient(problem, statistics, statistics_grad, needs, of_groups[3].dtype)


def _thresholds(args: tuple[Any, ...]) -> tuple[_Problem, list[Any]]:
    """The problem, and what the kernels take of the thresholds."""
    *sides, measure, self_offset, others, values, count, form, numbers = args
    problem = _Problem(*sides, torch.zeros(4), measure, self_offset)
    of_form = torch.tensor(numbers, dtype=torch.float64)
    others = None if others is None else others.to(problem.stored)
    rows = map(problem.address, (others, values))
    return problem, [*rows, count, form, problem.address(of_form)]


def threshold_sums(*args: Any) -> Tensor:
    problem, thresholds = _thresholds(args)
    count, form = args[8:10]
    sums = problem.reals(2 if form == "pulse" else 3, problem.shape[0], count)
    kernels.threshold_sums(problem.handle, *thresholds, sums.data_ptr())
    return sums


def threshold_gradient(*args: Any) -> tuple[Tensor, Tensor]:
    *of_sums, sums_grad, largest_weights, needs = args
    problem, thresholds = _thresholds(tuple(of_sums))
    anchors, references, _ = problem.gradients([*needs, False])
    if anchors.numel() or references.numel():
        kernels.threshold_gradient(
            problem.handle,
            *thresholds,
            *map(problem.address, (sums_grad, largest_weights)),
            *(g.data_ptr() if g.numel() else 0 for g in (anchors, references)),
            OPTIONS["max_panel_bytes"],
        )
    return anchors.to(problem.dtype), references.to(problem.dtype)


def threshold_pairs(anchors: Tensor, *args: Any) -> Tensor:
    *sides, measure, self_offset, thresholds = args
    problem = _Problem(anchors, *sides, torch.zeros(4), measure, self_offset)
    columns = torch.empty(thresholds.shape, dtype=torch.int64)
    given = problem.address(thresholds), thresholds.shape[1]
    kernels.threshold_pairs(problem.handle, *given, columns.data_ptr())
    return columns


def _listed_problem(
    anchors: Tensor, references: Tensor | None, rows: Tensor, columns: Tensor, measure: str
) -> tuple[_Problem, list[int]]:
    """The problem, and what the kernels take of the list: rows, columns and their number."""
    no_labels = torch.empty(0, dtype=torch.int64)
    problem = _Problem(anchors, references, no_labels, no_labels, torch.zeros(4), measure, None)
    return problem, [problem.address(rows), problem.address(columns), rows.shape[0]]


def pair_values(*args: Any) -> Tensor:
    problem, listed = _listed_problem(*args)
    values = problem.reals(listed[-1])
    kernels.pair_values(problem.handle, *listed, values.data_ptr())
    return values


def pair_values_gradient(*args: Any) -> tuple[Tensor, Tensor]:
    *of_list, values_grad, needs = args
    problem, listed = _listed_problem(*of_list)
    anchors, references, _ = problem.gradients([*needs, False])
    orders = [x for indices in of_list[2:4] for x in torch.sort(indices, stable=True)]
    kernels.pair_values_gradient(
        problem.handle,
        *listed,
        *map(problem.address, orders),
        problem.address(values_grad),
        *(g.data_ptr() if g.numel() else 0 for g in (anchors, references)),
    )
    return anchors.to(problem.dtype), references.to(problem.dtype)


def _normalization(x: Tensor, order: Tensor | None, dtype: torch.dtype) -> list[Any]:
    """What both kernels take of the rows; the tensors must live until then."""
    assert x.is_contiguous() and (order is None or order.is_contiguous())
    number_type = _NUMBER_TYPES.get(dtype, "fp32")
    address = 0 if order is None else order.data_ptr()
    return [number_type, x.dtype == torch.float32, x.data_ptr(), address, *x.shape]


def normalize_rows(x: Tensor, order: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x, order = x.contiguous(), None if order is None else order.contiguous()
    unit_rows = torch.empty(x.shape, dtype=dtype)
    norms = torch.empty((x.shape[0], 1), dtype=norms_dtype(x.dtype, dtype))
    given = _normalization(x, order, dtype)
    kernels.normalize_rows(*given, unit_rows.data_ptr(), norms.data_ptr())
    return unit_rows, norms


def normalize_rows_gradient(
    x: Tensor, places: Tensor | None, norms: Tensor, unit_rows_grad: Tensor
) -> Tensor:
    x, norms, grad = x.contiguous(), norms.contiguous(), unit_rows_grad.contiguous()
    places = None if places is None else places.contiguous()
    x_grad = torch.empty(x.shape, dtype=x.dtype)
    given = _normalization(x, places, grad.dtype)
    kernels.normalize_rows_gradient(*given, norms.data_ptr(), grad.data_ptr(), x_grad.data_ptr())
    return x_grad


KERNELS = {
    "pair_extrema": pair_extrema,
    "pair_statistics": pair_statistics,
    "row_losses": row_losses,
    "pair_gradient": pair_gradient,
    "two_sided_statistics": two_sided_statistics,
    "two_sided_gradient": two_sided_gradient,
    "extreme_pairs": extreme_pairs,
    "window_counts": window_counts,
    "window_pairs": window_pairs,
    "pair_sums": pair_sums,
    "pair_sums_gradient": pair_sums_gradient,
    "row_divergences": row_divergences,
    "row_divergences_gradient": row_divergences_gradient,
    "group_statistics": group_statistics,
    "group_gradient": group_gradient,
    "positive_pair_losses": positive_pair_losses,
    "positive_pair_gradient": positive_pair_gradient,
    "threshold_sums": threshold_sums,
    "threshold_gradient": threshold_gradient,
    "threshold_pairs": threshold_pairs,
    "pair_values": pair_values,
    "pair_values_gradient": pair_values_gradient,
    "normalize_rows": normalize_rows,
    "normalize_rows_gradient": normalize_rows_gradient,
}

NAMESPACE = "fusedml_emulated"
LIBRARY = ops.register_backend(NAMESPACE, KERNELS, "CPU")
