"""Log-sum-exps of rows, columns and positive pairs, and the losses of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fusedml.engine.autograd.choices import as_tiled, is_held_whole, of_list, records
from fusedml.engine.averaged import Interval
from fusedml.engine.eager_rows import EagerRowLosses, may_be_eager
from fusedml.engine.engines import on_engine
from fusedml.engine.few_matrix import (
    FewPairLosses,
    FewPositives,
    FewRowLosses,
    FewStatistics,
    TwoSidedLosses,
    TwoSidedStatistics,
)
from fusedml.engine.few_positives import are_paired, few_positives, may_list_positives
from fusedml.engine.formulas_by_rows import held
from fusedml.engine.functions import SmallOperator, differentiable
from fusedml.engine.kept import KEPT_KERNELS, keeps_measures
from fusedml.engine.ops import measure_and_curve
from fusedml.engine.paired import PairedMatrix, fits_cache, may_be_paired
from fusedml.engine.paired_strips import PairedStrips
from fusedml.engine.pairs import PairProblem
from fusedml.engine.reductions.given import Given
from fusedml.engine.whole import WholeMatrix, WholePairLosses, WholeRowLosses, WholeStatistics
from fusedml.heads import CROSS_ENTROPIES, ROW_FORMS, RowForm, RowStatistics


def _apply(
    name: str,
    backend: str,
    problem: PairProblem,
    logit: Tensor,
    operand: Tensor | None,
    *rest: Any,
) -> Any:
    """The operator's outputs, the first of them differentiable.

    operand: thresholds, or reference_lse for the losses of positive pairs.  rest: what follows.
    """

    def by_tiles(
        anchors: Tensor, references: Tensor | None, logit: Tensor, operand: Tensor | None
    ) -> Any:
        given = problem._replace(anchors=anchors, references=references)
        given = as_tiled(given)
        extent = () if name == "positive_pair_losses" else (given.extent,)
        return differentiable(
            _kept_if_possible(name, backend, given, logit),
            backend,
            *given[:4],
            logit,
            measure_and_curve(given),
            given.excluded,
            operand,
            *extent,
            *rest,
        )

    operands = problem.anchors, problem.references, logit, operand
    outputs = _by_few_positives(name, backend, problem, logit, operand, *rest)
    if outputs is not None:
        return outputs
    if (
        name == "row_losses"
        and may_be_eager(backend, problem, logit, rest[1])
        and not torch._C._are_functorch_transforms_active()
    ):
        eager = EagerRowLosses(problem, logit, operand, *rest)
        return SmallOperator.apply(eager, *held(name, problem, rest[:1], rest[1:]), *operands)
    if is_held_whole(backend, problem):
        whole = _WHOLE[name](problem, logit, operand, *rest)
        outputs = SmallOperator.apply(whole, *held(name, problem, rest[:1], rest[1:]), *operands)
        if outputs is not None:
            return outputs
    return by_tiles(*operands)


def _by_few_positives(
    name: str,
    backend: str,
    problem: PairProblem,
    logit: Tensor,
    operand: Tensor | None = None,
    *rest: Any,
) -> Any:
    """The operator's outputs, its positives being listed; None where that does not serve."""
    few = _of_few_positives(name, backend, problem, logit, operand, *rest)
    if few is None:
        return None
    formula = held(name, problem, rest[:1], rest[1:])
    return SmallOperator.apply(few, *formula, problem.anchors, problem.references, logit, operand)


def _of_few_positives(
    name: str,
    backend: str,
    problem: PairProblem,
    logit: Tensor,
    operand: Tensor | None,
    *rest: Any,
) -> FewPositives | None:
    """The operator on a problem whose positives are listed; None where they are not to be."""
    has_thresholds = name != "positive_pair_losses" and operand is not None
    if has_thresholds or torch._C._are_functorch_transforms_active():
        return None
    if not may_list_positives(backend, problem, both_sides=name not in _WHOLE):
        return None
    positives = few_positives(problem)
    if positives is None:
        return None
    keeps = records(problem.anchors, problem.references, logit, operand)
    arguments = problem, positives, logit, keeps
    if name == "positive_pair_losses":
        return FewPairLosses(*arguments, reference_lse=operand, head=rest[0])
    if name.endswith("losses"):
        kind = FewRowLosses if name == "row_losses" else TwoSidedLosses
        return kind(*arguments, head=rest[0], head_parameters=rest[1])
    return (FewStatistics if name == "pair_statistics" else TwoSidedStatistics)(*arguments)


def _kept_if_possible(name: str, backend: str, problem: PairProblem, logit: Tensor) -> str:
    """The operator's name, or that of its kind that keeps the measures for the backward."""
    kept = f"kept_{name}"
    if kept not in KEPT_KERNELS or torch._C._are_functorch_transforms_active():
        return on_engine(name, backend, problem)
    return kept if keeps_measures(backend, problem, logit) else on_engine(name, backend, problem)


_WHOLE: dict[str, Callable[..., WholeMatrix]] = {
    "pair_statistics": WholeStatistics,
    "row_losses": WholeRowLosses,
    "positive_pair_losses": WholePairLosses,
}


def pair_statistics(
    problem: PairProblem, logit: Tensor, thresholds: Tensor | None = None, backend: str = "auto"
) -> RowStatistics:
    """Row statistics of the logits z = scale x + shift; differentiable in embeddings and logit.

    logit: [4], (scale+, shift+, scale-, shift-).  thresholds: None or [2, n], see
    :func:`fusedml.functional.mining_thresholds`.
    """
    statistics, counts, *_ = _apply("pair_statistics", backend, problem, logit, thresholds)
    return RowStatistics(*statistics.unbind(0), *counts.unbind(0))


def row_losses(
    problem: PairProblem,
    logit: Tensor,
    head: str,
    head_parameters: Tensor,
    thresholds: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """L_i = head(row statistics), [n]; differentiable in embeddings and logit."""
    return _apply("row_losses", backend, problem, logit, thresholds, head, head_parameters)[0]


def mean_row_loss(
    problem: PairProblem,
    logit: Tensor,
    head: str | RowForm,
    head_parameters: Tensor,
    interval: Interval,
    backend: str = "auto",
) -> Tensor | None:
    """The mean of the row losses in the interval, 0-d; differentiable in embeddings and logit.

    None of a problem that is not held whole or whose positives are better listed, and if not all is
    finite.
    """
    if not is_held_whole(backend, problem) or may_be_paired(backend, problem, False):
        return None
    if may_list_positives(backend, problem, both_sides=False):
        return None
    losses = WholeRowLosses(problem, logit, None, head, head_parameters)
    formula = held("row_losses", problem, (head,), (head_parameters,))
    return of_list(losses, formula, problem, logit, interval)


def partner_losses(
    problem: PairProblem, logit: Tensor, form: str, backend: str = "auto"
) -> Tensor | None:
    """What a form makes of each row whose one positive is the reference of its number, [n].

    None where labels say otherwise, for other forms, and where ``engine.paired`` does not serve.
    """
    if not (form in CROSS_ENTROPIES and may_be_paired(backend, problem, False)):
        return None
    return _paired_losses(problem, logit, both_sides=False) if are_paired(problem) else None


def paired_losses(
    problem: PairProblem, logit: Tensor, both_sides: bool, backend: str = "auto"
) -> Tensor | None:
    """-log(e^{z_ii} / sum_j e^{z_ij}), [n]; differentiable in embeddings and logit.

    both_sides: [2, n], the second of the columns.  problem: its labels are ignored.
    None where ``engine.paired`` does not serve.
    """
    if not may_be_paired(backend, problem, both_sides):
        return None
    return _paired_losses(problem, logit, both_sides)


def _paired_losses(problem: PairProblem, logit: Tensor, both_sides: bool) -> Tensor | None:
    operands = problem.anchors, problem.references, logit
    paired: PairedMatrix | PairedStrips
    if both_sides or fits_cache(problem):
        paired = PairedMatrix(problem, logit, both_sides)
    else:
        records = torch.is_grad_enabled()
        needs = [records and x is not None and x.requires_grad for x in operands]
        paired = PairedStrips(problem, logit, needs)
    formula = held("paired_losses", problem, (both_sides,), has_labels=False)
    outputs = SmallOperator.apply(paired, *formula, *operands, None)
    return None if outputs is None else outputs[0]


def positive_pair_losses(
    problem: PairProblem,
    logit: Tensor,
    reference_lse: Tensor | None,
    head: str,
    head_parameters: Tensor,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Losses [n], sum over p in P(i) of v(z_ip, lse_i, lse_p), and |P(i)|, [n], int64.

    lse_i is the log-sum-exp of the negatives of anchor i, lse_p that of reference p: in a self
    problem the same statistic, otherwise ``reference_lse``, [m], for the heads that ask for it.
    Differentiable in embeddings, logit and reference_lse.
    """
    losses, *_, counts = _apply(
        "positive_pair_losses", backend, problem, logit, reference_lse, head, head_parameters
    )
    return losses, counts[0]


def two_sided_statistics(
    problem: PairProblem, logit: Tensor, backend: str = "auto"
) -> tuple[RowStatistics, RowStatistics]:
    """Statistics of the rows and of the columns of a problem with references.

    One sweep over the tiles serves both.
    """
    name = "two_sided_statistics"
    outputs = _by_few_positives(name, backend, problem, logit)
    if outputs is not None:
        return _two_sides(problem.anchors.shape[0], *outputs)
    problem = as_tiled(problem)
    name = _kept_if_possible(name, backend, problem, logit)
    view = measure_and_curve(problem), problem.excluded
    statistics, counts, *_ = differentiable(name, backend, *problem[:4], logit, *view)
    return _two_sides(problem.anchors.shape[0], statistics, counts)


def _two_sides(n: int, statistics: Tensor, counts: Tensor) -> tuple[RowStatistics, RowStatistics]:
    rows, columns = (
        RowStatistics(*statistics[:, part].unbind(0), *counts[:, part].unbind(0))
        for part in (slice(None, n), slice(n, None))
    )
    return rows, columns


def two_sided_losses(
    problem: PairProblem,
    logit: Tensor,
    head: str,
    head_parameters: Tensor,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The losses of the rows, [n], and of the columns, [m], as :func:`row_losses`."""
    outputs = _by_few_positives(
        "two_sided_losses", backend, problem, logit, None, head, head_parameters
    )
    if outputs is not None:
        n = problem.anchors.shape[0]
        return outputs[0][:n], outputs[0][n:]
    of_rows, of_columns = two_sided_statistics(problem, logit, backend)
    form = ROW_FORMS[head]
    return form(of_rows, head_parameters).value, form(of_columns, head_parameters).value


def entry_statistics(given: Given) -> RowStatistics:
    """Statistics of each line, of pairs whose measures are given; differentiable in x and logit."""
    statistics, counts = differentiable("entry_statistics", "torch", *given)
    return RowStatistics(*statistics.unbind(0), *counts.unbind(0))


def joint_pair_losses(
    problem: PairProblem, columns: Tensor, logit: Tensor, form: str, backend: str = "auto"
) -> Tensor:
    """[n]: the losses of the joint rows a_i + r_p, p in P(i), against columns of their own, added.

    columns: [m, d], with the labels of the references.  See ``engine.joint_rows``.
    Differentiable in embeddings, columns and logit.
    """
    return differentiable(
        "joint_pair_losses",
        backend,
        *problem[:4],
        columns,
        logit,
        problem.excluded,
        form,
    )
