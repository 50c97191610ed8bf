"""What the operators gave on a GPU, as test data for the emulated kernels.

    python -m tests.golden OUTPUT.npz    # every operator, number type and shape, on this GPU

``tests/emulated/test_golden.py`` compares with every file in ``tests/emulated/golden``.  Inputs are
not kept: they are ratios of small whole numbers from a generator whose stream is frozen, so they
are the same bits everywhere.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.commit import current_commit
from fusedml import native
from fusedml.engine import ops
from fusedml.engine.pairs import measure_matrix
from fusedml.terms import Term, hinge, packed, softplus, squared_hinge
from tests.number_types import NUMBER_TYPES

# a tile and a row for the first kernel of route A; two operands for the second; route B
SHAPES = ((129, None, 40, "dot"), (37, 129, 72, "euclidean"), (130, None, 140, "dot"))
# Largest difference relative to the largest entry.  Sums and exponentials differ in their last
# bits, which moves a weight across the boundary of two 16-bit numbers here and there.
_SUMS = {"float64": 1e-12}
_GRADIENTS = {
    "bfloat16": 4e-3,
    "float16": 5e-4,
    "highest": 2e-5,
    "high": 5e-4,
    "medium": 4e-3,
    "float64": 1e-12,
}
# of each kind of function that kernels sum
_TERMS = (squared_hinge(True), hinge(False), softplus(False), Term(True, exponent=0.5, square=1.0))


class Golden(NamedTuple):
    """An operator on one problem."""

    operator: str
    number_type: str
    shape: int

    @property
    def key(self) -> str:
        """Names its outputs in a file."""
        return f"{self.operator}.{self.number_type}.{self.shape}"

    @property
    def tolerance(self) -> float:
        """Largest difference of an output, relative to its largest entry."""
        rounded = "gradient" in self.operator or self.operator == "normalize_rows"
        table = _GRADIENTS if rounded else _SUMS
        return table.get(self.number_type, 2e-5)


def cases() -> Iterator[Golden]:
    """All of them."""
    for case in itertools.product(native.OPERATORS, NUMBER_TYPES, range(len(SHAPES))):
        yield Golden(*case)


def _numbers(random: np.random.RandomState, *shape: int) -> Tensor:
    """Multiples of 2^-10 within 1: float64, exact in every arithmetic."""
    return torch.from_numpy(random.randint(-1024, 1025, shape) / 1024.0)


class _Inputs:
    """The arguments of the operators on one problem, on the CPU."""

    def __init__(self, case: Golden) -> None:
        n, m, d, measure = SHAPES[case.shape]
        random = np.random.RandomState(case.shape)
        scale = 2.0 ** -round(np.log2(d) / 2 - 0.5)  # rows of norm about one
        self.dtype = NUMBER_TYPES[case.number_type].dtype
        self.sums = torch.float64 if self.dtype == torch.float64 else torch.float32

        def side(rows: int) -> tuple[Tensor, Tensor]:
            labels = torch.from_numpy(random.randint(0, 30, rows).astype(np.int64))
            return (_numbers(random, rows, d) * scale).to(self.dtype), labels

        anchors, anchor_labels = side(n)
        references, reference_labels = (None, None) if m is None else side(m)
        sign = 1.0 if measure == "dot" else -1.0
        logit = torch.tensor([-2.0 * sign, 1.0, 8.0 * sign, -3.0], dtype=torch.float64)
        self.sides = [anchors, references, anchor_labels, reference_labels]
        self.rest = [measure, 0 if m is None else None]
        pairs = [*self.sides, logit, *self.rest]
        self.whole = [*pairs, None, None]
        self.grads = _numbers(random, 3, n)
        reference_lse = None if m is None else _numbers(random, m).to(self.sums)
        self.positive = [*pairs, reference_lse, "softplus_gap", torch.zeros(0, dtype=torch.float64)]
        columns = n if m is None else m
        self.listed = [torch.from_numpy(random.randint(0, k, 300)) for k in (n, columns)]
        self.values_grad = _numbers(random, 300)
        self.needs = [True, m is not None, True]
        self.order = torch.from_numpy(random.permutation(n).astype(np.int64))
        self.unit_rows_grad = _numbers(random, n, d).to(self.dtype)
        # two tiles of 8 classes, which 9 vectors of each do not fill
        vectors = (_numbers(random, 9, 9, d) * scale).to(self.dtype)
        own = torch.from_numpy(random.randint(0, 9, n).astype(np.int64))
        group = ["soft_maximum", "maximum"][case.shape % 2]
        sharpness = torch.tensor([10.0], dtype=torch.float64)
        self.groups = [anchors, vectors, own, logit, group, sharpness]
        # a smooth form of few, or more of them than are compared one by one
        form, count = [("softplus", 3), ("hinge", 40), ("sigmoid", 5)][case.shape]
        thresholds = _numbers(random, n, count).sort(1).values.to(self.sums)
        window = [-0.25, -math.inf, 1.0]
        numbers = [0.0, sign * (0.125 if form == "sigmoid" else 1.0), 0.5, *window]
        others = None if m is None else anchors.flip(0).contiguous()
        self.thresholds = [*self.sides, *self.rest, others, thresholds, count, form, numbers]
        of_rows = (n, count) if form == "sigmoid" else (n,)
        self.sums_grad = _numbers(random, *of_rows).to(self.sums)
        lines = n if m is None else n + m
        shifts = (_numbers(random, 2, lines) / 4).to(self.sums)
        self.summed = [*pairs, shifts, None, packed(_TERMS), m is not None]
        # of few rows, as both gradients are kept: a tile of 64 in each direction, and a row
        others = anchors.flip(0) if m is None else references
        other_labels = anchor_labels.flip(0) if m is None else reference_labels
        sides = [anchors, others, anchor_labels, other_labels]
        self.two_sided = [*(x[:65] for x in sides), logit, measure, None]
        self.lines_grad = _numbers(random, 3, min(n, 65) + 65)
        self.terms_grad = _numbers(random, len(_TERMS), lines)
        ends = torch.sort(_numbers(random, 2, 2, n) * 2, dim=1).values + (measure != "dot")
        self.intervals = ends.to(self.sums)

    def _windows(self) -> list[Any]:
        """Of each row between two measures far from each other: no rounding moves a pair."""
        a, r = (x if x is None else x.double() for x in self.sides[:2])
        x = measure_matrix(a, a if r is None else r, self.rest[0]).sort(1).values

        def gap(begin: int, end: int) -> Tensor:
            at = begin + x[:, begin:end].diff(dim=1).argmax(1, keepdim=True)
            return (x.gather(1, at) + x.gather(1, at + 1))[:, 0] / 2

        m = x.shape[1]
        shifts = torch.stack([torch.arange(len(x)) % 5 / 8 - 0.25 * kind for kind in (0, 1)])
        low, high = gap(m // 8, m // 4), gap(m // 4, m // 2)
        bounds = torch.stack([low + shifts, high + shifts, shifts.double()], 1)
        return [*self.sides, *self.rest, bounds.to(self.sums), 128]

    def _pairs_below(self) -> list[Any]:
        """Two of each row, above measures that are far from the next ones on both sides."""
        a, r = (x if x is None else x.double() for x in self.sides[:2])
        x = measure_matrix(a, a if r is None else r, self.rest[0])
        y = (x if self.rest[0] == "dot" else -x).sort(1).values
        gaps, m = y.diff(dim=1), y.shape[1]
        apart = torch.minimum(gaps[:, :-1], gaps[:, 1:])
        at = [1 + b + apart[:, b:e].argmax(1) for b, e in ((0, m // 2), (m // 2, m - 2))]
        index = torch.stack(at, 1)
        thresholds = (y.gather(1, index) + y.gather(1, index + 1)) / 2
        return [*self.sides, *self.rest, thresholds.to(self.sums)]

    def _exact(self, name: str, arguments: Sequence[Any]) -> Any:
        wide = [x.double() if _is_real(x) else x for x in arguments]
        return ops.operator(name, "torch")(*wide)

    def of(self, operator: str) -> list[Any]:
        """The arguments of one operator."""
        listed = [*self.sides[:2], *(k.to(torch.int64) for k in self.listed), self.rest[0]]
        arguments = {
            "pair_extrema": [*self.sides, *self.rest],
            "extreme_pairs": [*self.sides, *self.rest, self.intervals, [False, True]],
            "window_counts": self._windows(),
            "pair_statistics": self.whole,
            "row_losses": [*self.whole, "softplus_sum", torch.tensor([2.0, 10.0]).double()],
            "two_sided_statistics": self.two_sided,
            "pair_sums": self.summed,
            "row_divergences": self.divergences(),
            "group_statistics": self.groups,
            "threshold_sums": self.thresholds,
            "positive_pair_losses": self.positive,
            "threshold_pairs": self._pairs_below(),
            "pair_values": listed,
            "normalize_rows": [self.sides[0], self.order, self.dtype],
            "pair_values_gradient": [*listed, self.values_grad.to(self.sums), self.needs[:2]],
        }
        if operator == "window_pairs":
            counts = self._exact("window_counts", windows := arguments["window_counts"])
            ends = counts.view(-1).cumsum(0)
            return [*windows, ends.view(counts.shape), int(ends[-1]), True]
        return arguments[operator] if operator in arguments else self._of_gradient(operator)

    def _of_gradient(self, operator: str) -> list[Any]:
        grads = self.grads.to(self.sums)
        if operator == "normalize_rows_gradient":
            _, norms = self._exact("normalize_rows", [self.sides[0], self.order, torch.float64])
            return [self.sides[0], self.order.argsort(), norms.to(self.sums), self.unit_rows_grad]
        if operator == "threshold_gradient":
            largest = grads[0].abs() * 8
            return [*self.thresholds, self.sums_grad, largest.contiguous(), self.needs[:2]]
        if operator in ("two_sided_gradient", "pair_sums_gradient", "row_divergences_gradient"):
            return self._of_lines(operator)
        if operator == "group_gradient":
            statistics = self._exact("group_statistics", self.groups).to(self.sums)
            return [*self.groups, statistics, grads[:2].contiguous(), [True] * 3]
        if operator == "pair_gradient":
            statistics, _ = self._exact("pair_statistics", self.whole)
            grads = torch.where(statistics.isfinite(), grads, torch.zeros_like(grads))
            return [*self.whole, statistics.to(self.sums), grads, self.needs]
        _, statistics, _ = self._exact("positive_pair_losses", self.positive)
        return [*self.positive, statistics.to(self.sums), grads[0].contiguous(), self.needs]

    def divergences(self) -> list[Any]:
        """Of the anchors and a teacher of 24 dimensions, with labels or without."""
        anchors, _, labels, _ = self.sides
        random = np.random.RandomState(len(anchors))
        teacher = (_numbers(random, len(anchors), 24) / 4).to(self.dtype)
        numbers = torch.tensor([4.0, 0.0, 0.5, 1.5], dtype=torch.float64)
        return [anchors, teacher, labels if self.rest[0] == "dot" else None, numbers]

    def _of_lines(self, operator: str) -> list[Any]:
        if operator == "row_divergences_gradient":
            given, grad = self.divergences(), self.grads[0].to(self.sums)
            saved = [x.to(self.sums) for x in self._exact("row_divergences", given)]
            return [*given, *saved, grad.contiguous(), [True] * 3]
        if operator == "two_sided_gradient":
            statistics, _ = self._exact("two_sided_statistics", self.two_sided)
            grads = torch.where(statistics.isfinite(), self.lines_grad, 0).to(self.sums)
            return [*self.two_sided, statistics.to(self.sums), grads, [True] * 3]
        _, slopes, counts, _ = self._exact("pair_sums", self.summed)
        saved = [slopes.to(self.sums), counts]
        return [*self.summed, *saved, self.terms_grad.to(self.sums), self.needs]


def _is_real(x: object) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def run(case: Golden, backend: str, device: str) -> list[np.ndarray[Any, Any]]:
    """The operator's outputs; bfloat16 as float32, which numpy has."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(NUMBER_TYPES[case.number_type].precision)
    try:
        arguments = _Inputs(case).of(case.operator)
        outputs = ops.operator(case.operator, backend)(
            *(x.to(device) if isinstance(x, Tensor) else x for x in arguments)
        )
    finally:
        torch.set_float32_matmul_precision(before)
    tensors = (outputs,) if isinstance(outputs, Tensor) else outputs
    return [(x.float() if x.dtype == torch.bfloat16 else x).detach().cpu().numpy() for x in tensors]


def record(
    path: Path, backend: str, device: str, recorded: Iterable[Golden] | None = None
) -> list[str]:
    """Writes the outputs of all cases, or of those given, that run; says of the others why they do
    not.
    """
    outputs: dict[str, np.ndarray[Any, Any]] = {}
    failures = []
    for case in cases() if recorded is None else recorded:
        try:
            for k, array in enumerate(run(case, backend, device)):
                outputs[f"{case.key}.{k}"] = array
        except RuntimeError as error:
            failures.append(f"{case.key}: {error}".splitlines()[0])
    about = [device_name(device), torch.__version__, current_commit()]
    with path.open("wb") as file:
        np.savez_compressed(file, about=np.array(about), **outputs)
    return failures


def device_name(device: str) -> str:
    """The GPU's name; of any other device, its kind."""
    return torch.cuda.get_device_name() if device == "cuda" else device


def difference(case: Golden, recorded: np.ndarray[Any, Any], ours: np.ndarray[Any, Any]) -> float:
    """Largest difference relative to the largest recorded entry, in units of what is allowed.

    inf where shapes or infinities differ.
    """
    if recorded.shape != ours.shape:
        return float("inf")
    finite = np.isfinite(recorded)
    if not np.array_equal(recorded[~finite], ours[~finite], equal_nan=True):
        return float("inf")
    exact, found = recorded[finite].astype(np.float64), ours[finite].astype(np.float64)
    if exact.size == 0:
        return 0.0
    largest = max(float(np.abs(exact).max()), 1e-3)
    return float(np.abs(found - exact).max()) / largest / case.tolerance


def main(arguments: Sequence[str]) -> int:
    """The command line; 1 if a case does not run."""
    from tests.gpu.device import BACKEND, DEVICE, why_not  # noqa: PLC0415  loads the binding

    reason = why_not()
    if reason is not None:
        print(f"golden: {reason}")
        return 1
    path = Path(arguments[0])
    failures = record(path, BACKEND, DEVICE)
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB", *failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
