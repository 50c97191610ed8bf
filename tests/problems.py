"""Random pair problems, their dense statistics, and the tolerance rule of all tests."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml import dense
from fusedml.engine.pairs import PairProblem, measure_matrix
from fusedml.heads import RowStatistics

# One row, the single-tile limit (384), strips of more rows than columns allow, and of 256.
SIZES = (1, 2, 129, 384, 385, 513, 600)
# Classes drawn from: all one class, mostly one class per strip, a few per strip, mostly singletons.
NUM_CLASSES = (1, 3, 40, 100_000)


def make_problem(
    n: int,
    m: int | None,
    num_classes: int,
    measure: str = "dot",
    dtype: torch.dtype = torch.float64,
    *,
    d: int = 9,
    seed: int = 0,
    exclude_diagonal: bool | None = None,
    self_offset: int | None = None,
    scale: float = 1.0,
    requires_grad: bool = False,
) -> PairProblem:
    """Unit rows times ``scale``; m = None is a self problem.  self_offset: of m references."""
    generator = torch.Generator().manual_seed(seed)

    def embeddings(k: int) -> Tensor:
        x = torch.randn(k, d, generator=generator, dtype=torch.float64)
        x = torch.nn.functional.normalize(x) * scale
        return x.to(dtype).requires_grad_(requires_grad)

    def labels(k: int) -> Tensor:
        return torch.randint(num_classes, (k,), generator=generator) - 1

    if exclude_diagonal is None:
        exclude_diagonal = m is None or self_offset is not None
    return PairProblem(
        embeddings(n),
        None if m is None else embeddings(m),
        labels(n),
        None if m is None else labels(m),
        measure,
        exclude_diagonal,
        self_offset=self_offset or 0,
    )


def in_dtype(problem: PairProblem, dtype: torch.dtype) -> PairProblem:
    """The same numbers in another dtype, as new leaves."""

    def cast(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.detach().to(dtype).requires_grad_(x.requires_grad)

    return problem._replace(anchors=cast(problem.anchors), references=cast(problem.references))


def inputs_of(problem: PairProblem) -> list[Tensor]:
    return [x for x in (problem.anchors, problem.references) if x is not None]


def dense_statistics(
    problem: PairProblem, logit: Tensor, thresholds: Tensor | None = None
) -> RowStatistics:
    references = problem.anchors if problem.references is None else problem.references
    x = measure_matrix(problem.anchors, references, problem.measure)
    positive, negative = dense.pair_masks(problem)
    if thresholds is not None:
        hardness = (x if problem.measure == "dot" else -x).detach()
        positive = positive & (hardness < thresholds[0][:, None])
        negative = negative & (hardness > thresholds[1][:, None])
    return dense.row_statistics(x, positive, negative, logit)


def weighted_sum(statistics: RowStatistics, weights: Tensor) -> Tensor:
    """A scalar of all differentiable statistics; empty sets (-inf) left out."""
    total = torch.zeros((), dtype=weights.dtype)
    for values, weight in zip(statistics[:3], weights, strict=True):
        total = total + (torch.where(torch.isfinite(values), values, 0) * weight).sum()
    return total


def assert_close(
    actual: Tensor, exact: Tensor, plain: Tensor, floor: float, what: str, times: float = 2
) -> None:
    """The rule: error at most twice that of dense PyTorch in the same dtype, plus a stated floor.

    actual: ours.  exact: the dense formula in float64.  plain: the dense formula in our dtype.
    The floor is relative to the largest exact value.
    """
    assert actual.shape == exact.shape, f"{what}: shape {actual.shape}, expected {exact.shape}"
    if exact.numel() == 0:
        return
    infinite = torch.isinf(exact)
    assert torch.equal(torch.isinf(actual), infinite), f"{what}: other infinities"
    zero = torch.zeros_like(exact)
    exact = torch.where(infinite, zero, exact)

    def error(values: Tensor) -> float:
        return (torch.where(infinite, zero, values.double()) - exact).abs().max().item()

    limit = times * error(plain) + floor * (1e-3 + exact.abs().max().item())
    assert error(actual) <= limit, f"{what}: error {error(actual):.3g} > {limit:.3g}"
