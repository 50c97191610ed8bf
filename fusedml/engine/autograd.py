"""The differentiable operators: which ``engine.functions`` compute a problem, and with what."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.engine import marked
from fusedml.engine.averaged import EVERYTHING, AveragedLosses, Interval
from fusedml.engine.backends import has_kernels
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
from fusedml.engine.formulas_by_rows import ByList, Held, held
from fusedml.engine.functions import SmallOperator, Underived, differentiable
from fusedml.engine.kept import KEPT_KERNELS, keeps_measures
from fusedml.engine.linear_sums import are_linear, linear_sums
from fusedml.engine.ops import measure_and_curve, operator
from fusedml.engine.paired import PairedMatrix, is_held, may_be_paired
from fusedml.engine.paired_strips import PairedStrips
from fusedml.engine.paired_sums import PairedSums, may_be_paired_sums
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import prepared
from fusedml.engine.reductions.given import Given
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.whole import (
    MOST_PAIRS,
    WholeMatrix,
    WholePairLosses,
    WholeRowLosses,
    WholeStatistics,
    is_small,
)
from fusedml.engine.whole_divergences import WholeDivergences
from fusedml.engine.whole_histograms import WholeHistograms
from fusedml.engine.whole_lists import ListedMeans, ListedSums, ListedTriplets
from fusedml.engine.whole_means import WholeMeans
from fusedml.engine.whole_slopes import WholeSlopes
from fusedml.engine.whole_sums import WholeSums
from fusedml.engine.whole_thresholds import WholeRanks, WholeThresholds, WholeTriplets
from fusedml.engine.whole_values import WholeValues
from fusedml.formulas import Hyperparameter, PairFormula
from fusedml.heads import CROSS_ENTROPIES, ROW_FORMS, PairSums, RowStatistics
from fusedml.terms import Term, packed

# of a class, kMostGroupVectors of the kernels
MOST_GROUP_VECTORS = 16
# of each kind of pair, kMostTermsOfKind of the kernels
MOST_TERMS_OF_KIND = 2


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
        if name == "positive_pair_losses" and operand is not None and problem.self_offset:
            operand = operand.roll(-problem.self_offset)  # as the references, see from_own
        given = _prepared(given)
        extent = () if name == "positive_pair_losses" else (given.extent,)
        return differentiable(
            _kept_if_possible(name, backend, given, logit),
            backend,
            *given[:4],
            logit,
            measure_and_curve(given),
            given.exclude_diagonal,
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
    if _is_held(backend, problem):
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
    keeps = _records(problem.anchors, problem.references, logit, operand)
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


def _is_held(backend: str, problem: PairProblem) -> bool:
    """Whether the matrix of the problem is held whole."""
    return (
        problem.extent is None
        and is_small(backend, problem.anchors, problem.references)
        and not torch._C._are_functorch_transforms_active()
    )


def _records(*operands: Tensor | None) -> bool:
    """Whether a backward may follow."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in operands)


def _prepared(problem: PairProblem) -> PairProblem:
    """The problem as the tiles see it, whose excluded diagonal has no offset."""
    return prepared(problem, problem.anchors.dtype) if problem.normalize else problem.from_own()


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


def marked_row_losses(
    problem: PairProblem,
    logit: Tensor,
    head: str,
    head_parameters: Tensor,
    marks: Tensor,
    epsilon: Hyperparameter | None = None,
    interval: Interval | None = None,
) -> Tensor | None:
    """L_i, [n], of the marked pairs, [2, n, m], 0 or 1; differentiable in embeddings and logit.

    interval: None, or for the mean of the losses in it, 0-d, which one block has.
    None where :func:`engine.whole.may_hold_matrices` does not hold the problem, under a transform
    of ``torch.func``, and if not all is finite.
    """
    if torch._C._are_functorch_transforms_active():
        return None
    losses = marked.marked_row_losses(problem, logit, head, head_parameters, marks, epsilon)
    if interval is not None and not isinstance(losses, marked.MarkedBlock):
        return None
    rest, tensors = (head, epsilon), (head_parameters, marks)
    formula = held("marked_row_losses", problem, rest, tensors, has_labels=False)
    return _of_list(losses, formula, problem, logit, interval)


def marked_statistics(
    problem: PairProblem, logit: Tensor, marks: Tensor, epsilon: Hyperparameter | None = None
) -> RowStatistics | None:
    """:func:`pair_statistics` of the marked pairs of one block; None as of the losses."""
    if math.prod(problem.shape) > MOST_PAIRS or torch._C._are_functorch_transforms_active():
        return None
    block = marked.MarkedStatistics(problem, logit, marks=marks, epsilon=epsilon)
    formula = held("marked_statistics", problem, (epsilon,), (marks,), has_labels=False)
    outputs = SmallOperator.apply(block, *formula, problem.anchors, problem.references, logit, None)
    if outputs is None:
        return None
    return RowStatistics(*outputs[0].unbind(0), *outputs[1].unbind(0))


def listed_values(problem: PairProblem, rows: Tensor, columns: Tensor) -> Tensor | None:
    """:func:`pair_values` of a problem that is held whole; None as of :func:`marked_row_losses`.

    problem: its labels are ignored.
    """
    if torch._C._are_functorch_transforms_active():
        return None
    formula = held("listed_values", problem, (), (rows, columns), has_labels=False)
    operands = problem.anchors, problem.references, None, None
    whole = WholeValues(problem, columns, rows, columns)  # nothing else is learnt
    outputs = SmallOperator.apply(whole, *formula, *operands)
    return None if outputs is None else outputs[0]


def listed_sums(
    problem: PairProblem,
    logit: Tensor,
    terms: tuple[Term, ...],
    shifts: Tensor | None,
    indices: PairIndices,
) -> PairSums | None:
    """:func:`pair_sums` of listed pairs; None as of :func:`marked_row_losses`."""
    if torch._C._are_functorch_transforms_active():
        return None
    sums = ListedSums(problem, logit, terms, shifts, indices)
    formula = held("listed_sums", problem, (terms,), indices, has_labels=False)
    operands = problem.anchors, problem.references, logit, shifts
    outputs = SmallOperator.apply(sums, *formula, *operands)
    return None if outputs is None else PairSums(*outputs[:2], *outputs[2].unbind(0))


def listed_means(
    problem: PairProblem,
    logit: Tensor,
    terms: tuple[Term, ...],
    weights: Sequence[float],
    of_all: bool,
    indices: PairIndices,
) -> Tensor | None:
    """sum_k weights[k] mean_k, 0-d: of the listed pairs in the interval of term k, 0 of none.

    of_all: of all listed pairs of the term's kind instead.
    Differentiable in embeddings and logit.  None as of :func:`marked_row_losses`.
    """
    if torch._C._are_functorch_transforms_active():
        return None
    rest = terms, weights, of_all
    means = ListedMeans(problem, logit, *rest, indices)
    formula = held("listed_means", problem, rest, indices, has_labels=False)
    return _of_list(means, formula, problem, logit, EVERYTHING)


def mean_listed_triplet(
    problem: PairProblem,
    margin: Hyperparameter,
    form: str,
    indices: PairIndices,
    triplets: tuple[Tensor, Tensor],
    interval: Interval,
) -> Tensor | None:
    """The mean of the losses in the interval, 0-d, of triplets of listed pairs.

    triplets: the numbers of their positive and of their negative pairs.
    Differentiable in embeddings and in the margin.  None as of :func:`marked_row_losses`.
    """
    if torch._C._are_functorch_transforms_active():
        return None
    learnt, constant = None, 0.0
    if isinstance(margin, Tensor) and margin.requires_grad:
        learnt = margin.clone()  # the caller may overwrite it
    else:
        constant = float(margin)
    losses = ListedTriplets(problem, learnt, constant, form, indices, *triplets)
    tensors = *indices, *triplets
    formula = held("listed_triplets", problem, (form, constant), tensors, has_labels=False)
    return _of_list(losses, formula, problem, learnt, interval)


def counted_pair_losses(
    problem: PairProblem,
    logit: Tensor,
    formula: PairFormula,
    indices: PairIndices,
    by_list: ByList,
    interval: Interval | None = None,
) -> Tensor | None:
    """The losses of the listed positive pairs, one for each time that one is listed.

    by_list: for second derivatives, the same of the list.  interval: None, or for the mean of the
    losses in it, 0-d.
    Differentiable in embeddings and logit.  None as of :func:`marked_row_losses`.
    """
    if torch._C._are_functorch_transforms_active():
        return None
    counted = marked.CountedPairLosses(problem, logit, formula, indices)
    by_rows = held("counted_pair_losses", problem, (by_list,), indices, has_labels=False)
    return _of_list(counted, by_rows, problem, logit, interval)


def _of_list(
    losses: Any,
    formula: tuple[Held, tuple[Tensor | None, ...]],
    problem: PairProblem,
    logit: Tensor | None,
    interval: Interval | None,
) -> Tensor | None:
    """The losses of a list's pairs, or their mean; None of what is not finite."""
    operands = problem.anchors, problem.references, logit
    if interval is not None:
        records = torch.is_grad_enabled()
        needs = [records and x is not None and x.requires_grad for x in operands]
        losses = AveragedLosses(losses, interval, needs)
        formula = formula[0]._replace(interval=interval), formula[1]
    outputs = SmallOperator.apply(losses, *formula, *operands, None)
    return None if outputs is None else outputs[0]


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
    if both_sides or is_held(problem):
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
    problem = _prepared(problem)
    name = _kept_if_possible(name, backend, problem, logit)
    view = measure_and_curve(problem), problem.exclude_diagonal
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


def pair_sums(
    problem: PairProblem,
    logit: Tensor,
    terms: tuple[Term, ...],
    shifts: Tensor | None = None,
    both_sides: bool = False,
    backend: str = "auto",
) -> PairSums:
    """Sums of the terms over the pairs of each row, or with both_sides of rows and columns.

    shifts: None, or what is added to the logits of each line's positives and negatives, [2, lines].
    Differentiable in embeddings, logit and shifts.
    Compiled kernels compute up to ``MOST_TERMS_OF_KIND`` terms of each kind of pair, of affine
    logits; beyond, the tiles in PyTorch do on every device.
    """
    backend = _backend_of_sums(backend, problem, terms)
    if not both_sides and backend in ("auto", "torch") and are_linear(problem, terms, shifts):
        return linear_sums(_prepared(problem), logit, terms)
    if may_be_paired_sums(backend, problem) and are_paired(problem):
        operands = problem.anchors, problem.references, logit, shifts
        needs = [_records(x) for x in operands[:3]]
        paired = PairedSums(problem, logit, terms, shifts, both_sides, needs)
        formula = held("pair_sums", problem, (terms, both_sides))
        outputs = SmallOperator.apply(paired, *formula, *operands)
        if outputs is not None:
            return PairSums(*outputs[:2], *outputs[2].unbind(0))
    if not both_sides and _is_held(backend, problem):
        # values without slopes take a pass less
        keeps = WholeSlopes.serves(problem, terms) and _records(*problem[:2], logit, shifts)
        whole = (WholeSlopes if keeps else WholeSums)(problem, logit, terms, shifts)
        formula = held("pair_sums", problem, (terms, False))
        operands = problem.anchors, problem.references, logit, shifts
        outputs = SmallOperator.apply(whole, *formula, *operands)
        if outputs is not None:
            return PairSums(*outputs[:2], *outputs[2].unbind(0))
    problem = _prepared(problem)
    if shifts is not None:
        shifts = shifts.to(accumulation_dtype(problem.anchors.dtype))
    sums, _, counts, numbers = differentiable(
        "pair_sums",
        backend,
        *problem[:4],
        logit,
        measure_and_curve(problem),
        problem.exclude_diagonal,
        shifts,
        problem.extent,
        packed(terms),
        both_sides,
    )
    return PairSums(sums, counts, *numbers.unbind(0))


def pair_means(
    problem: PairProblem,
    logit: Tensor,
    terms: tuple[Term, ...],
    weights: Sequence[float],
    of_all: bool,
    backend: str = "auto",
) -> Tensor | None:
    """sum_k weights[k] mean_k, 0-d: of the pairs in the interval of term k, 0 of none.

    of_all: of all pairs of the term's kind instead.
    Differentiable in embeddings and logit.  None of a problem that is not held whole, and if not
    all is finite.
    """
    if not _is_held(backend, problem) or problem.curve != AFFINE.name:
        return None
    rest = terms, weights, of_all
    means = WholeMeans(problem, logit, *rest, _records(*problem[:2], logit))
    return _of_list(means, held("pair_means", problem, rest), problem, logit, EVERYTHING)


def _backend_of_sums(backend: str, problem: PairProblem, terms: tuple[Term, ...]) -> str:
    """The backend, or "torch" for sums that no kernel computes."""
    of_positives = sum(term.is_positive for term in terms)
    most = max(of_positives, len(terms) - of_positives)
    if most <= MOST_TERMS_OF_KIND and problem.curve == AFFINE.name:
        return backend
    if backend == "cuda":
        raise ValueError(
            f"backend='cuda' needs at most {MOST_TERMS_OF_KIND} terms of each kind of pair, of "
            f"affine logits, got {most} of {problem.curve} logits"
        )
    return "torch"


def entry_statistics(given: Given) -> RowStatistics:
    """Statistics of each line, of pairs whose measures are given; differentiable in x and logit."""
    statistics, counts = differentiable("entry_statistics", "torch", *given)
    return RowStatistics(*statistics.unbind(0), *counts.unbind(0))


def entry_sums(given: Given, terms: tuple[Term, ...], shifts: Tensor | None = None) -> PairSums:
    """:func:`pair_sums` of given measures; differentiable in x, logit and shifts."""
    args = *given, shifts, packed(terms)
    sums, _, counts, numbers = differentiable("entry_sums", "torch", *args)
    return PairSums(sums, counts, *numbers.unbind(0))


def group_statistics(
    anchors: Tensor,
    vectors: Tensor,
    labels: Tensor,
    logit: Tensor,
    group: str,
    sharpness: Tensor | None = None,
    backend: str = "auto",
) -> RowStatistics:
    """Statistics of anchors [n, d] against the groups of vectors [C, K, d]; differentiable.

    labels: [n], in [0, C).  group: a name of ``engine.groups.REDUCTIONS``.  sharpness: None for 1,
    or one number in float64, constant.
    Compiled kernels compute up to ``MOST_GROUP_VECTORS`` vectors of a class, in the dtype of the
    anchors; beyond, the tiles in PyTorch do on every device.
    """
    num_classes, size = vectors.shape[:2]
    is_for_kernels = size <= MOST_GROUP_VECTORS and vectors.dtype == anchors.dtype
    if backend == "cuda" and not is_for_kernels:
        raise ValueError(
            f"backend='cuda' needs at most {MOST_GROUP_VECTORS} vectors of a class, of the "
            f"anchors' dtype {anchors.dtype}, got {size} of {vectors.dtype}"
        )
    if size == 1 and is_for_kernels and has_kernels(backend, anchors):
        classes = torch.arange(num_classes, device=anchors.device)
        one = PairProblem(anchors, vectors[:, 0], labels, classes, exclude_diagonal=False)
        return pair_statistics(one, logit, None, backend)
    lse, own = differentiable(
        "group_statistics",
        backend if is_for_kernels else "torch",
        anchors,
        vectors,
        labels,
        logit,
        group,
        sharpness,
    ).unbind(0)
    return statistics_of_groups(lse, own, num_classes)


def statistics_of_groups(lse: Tensor, own: Tensor, num_classes: int) -> RowStatistics:
    """From log-sum-exps over the other classes and the logits of the own ones, both [n]."""
    one = torch.ones_like(own, dtype=torch.int64)
    return RowStatistics(own, lse, own, one, one * (num_classes - 1))


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
        problem.exclude_diagonal,
        form,
    )


def triplet_losses(
    problem: PairProblem, numbers: Tensor, form: str, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The losses of each anchor's triplets, added, [n], and how many count, [n], int64.

    numbers: [4], those of a ``engine.reductions.thresholds.Window``.  form: "hinge" or "softplus".
    Differentiable in embeddings and in the margin, the first number.
    """
    if _is_held(backend, problem):
        outputs = _of_thresholds(WholeTriplets, problem, numbers, form)
        if outputs is not None:
            return outputs[0], outputs[1]
    problem = _prepared(problem)
    view = problem.measure, problem.exclude_diagonal
    arguments = *problem[:4], numbers, *view, form
    losses, counts, *_ = differentiable("triplet_losses", backend, *arguments)
    return losses, counts


def _of_thresholds(
    kind: type[WholeThresholds], problem: PairProblem, numbers: Tensor, form: str
) -> tuple[Tensor, ...] | None:
    operands = problem.anchors, problem.references, numbers, None
    whole = kind(problem, numbers, form, _records(*operands))
    outputs: tuple[Tensor, ...] | None = SmallOperator.apply(
        whole, *held(kind.__name__, problem), *operands
    )
    return outputs


def matrix_triplet_losses(
    x: Tensor, positive: Tensor, negative: Tensor, numbers: Tensor, sign: float, form: str
) -> tuple[Tensor, Tensor]:
    """:func:`triplet_losses` of the rows of a matrix of measures; differentiable in it."""
    arguments = x, positive, negative, numbers, sign, form
    losses, counts, _ = differentiable("matrix_triplet_losses", "torch", *arguments)
    return losses, counts


def pair_histograms(
    problem: PairProblem,
    lowest: float,
    delta: float,
    num_edges: int,
    per_row: bool,
    backend: str = "auto",
) -> Tensor:
    """[2, n, num_edges], soft histograms of each row's positives and negatives; [2, 1, num_edges]
    of all rows together.

    problem: of the embeddings with themselves; pairs of two negative labels are left out.
    Differentiable in the embeddings.
    """
    if _is_held(backend, problem):
        whole = WholeHistograms(problem, lowest, delta, num_edges, per_row)
        formula = held("pair_histograms", problem)
        outputs = SmallOperator.apply(whole, *formula, problem.anchors, None, None, None)
        if outputs is not None:
            return outputs[0]
    problem = _prepared(problem)
    arguments = problem.anchors, problem.anchor_labels, problem.measure
    grid = lowest, delta, num_edges, per_row
    histograms: Tensor = differentiable("pair_histograms", backend, *arguments, *grid)
    return histograms


def rank_losses(problem: PairProblem, numbers: Tensor, form: str, backend: str = "auto") -> Tensor:
    """L [n], made of the smooth ranks of each row's positives, the row itself among them.

    problem: of the embeddings with themselves; ``exclude_diagonal`` is False.  numbers: T and
    the form's parameters.  form: a name of ``fusedml.ranks.RANK_FORMS``.  Differentiable in
    embeddings and numbers.
    """
    if _is_held(backend, problem):
        outputs = _of_thresholds(WholeRanks, problem, numbers, form)
        if outputs is not None:
            return outputs[0]
    problem = _prepared(problem)
    arguments = *problem[:4], numbers, problem.measure, problem.exclude_diagonal, form
    losses: Tensor = differentiable("rank_losses", backend, *arguments)[0]
    return losses


def mean_rank_loss(
    problem: PairProblem, numbers: Tensor, form: str, interval: Interval, backend: str = "auto"
) -> Tensor | None:
    """The mean of the losses of :func:`rank_losses` that are in the interval, 0-d.

    None of a problem that is not held whole, and if not all is finite.
    """
    if not _is_held(backend, problem):
        return None
    ranks = WholeRanks(problem, numbers, form, _records(problem.anchors, numbers))
    formula = held(WholeRanks.__name__, problem)
    return _of_list(ranks, formula, problem, numbers, interval)


def matrix_rank_losses(
    x: Tensor, positive: Tensor, negative: Tensor, numbers: Tensor, sign: float, form: str
) -> Tensor:
    """:func:`rank_losses` of the rows of a matrix of measures; differentiable in it."""
    arguments = x, positive, negative, numbers, sign, form
    losses: Tensor = differentiable("matrix_rank_losses", "torch", *arguments)[0]
    return losses


def row_divergences(
    anchors: Tensor,
    teacher: Tensor,
    labels: Tensor | None,
    numbers: Tensor,
    backend: str = "auto",
) -> Tensor:
    """KL [n] of the softmax rows of the teacher's products and of the batch's.

    anchors: [n, d].  teacher: [n, e].  labels, numbers: as in ``engine.tiled.row_divergences``.
    Differentiable in anchors, teacher and numbers.
    """
    learns = teacher.requires_grad or numbers.requires_grad
    is_held = is_small(backend, anchors, None) and not learns
    if is_held and not torch._C._are_functorch_transforms_active():
        whole: Tensor | None = WholeDivergences.apply(anchors, teacher, labels, numbers)
        if whole is not None:
            return whole
    if anchors.dtype != teacher.dtype and has_kernels(backend, anchors, "row_divergences"):
        # which take rows of one type
        dtype = accumulation_dtype(anchors.dtype)
        anchors, teacher = anchors.to(dtype), teacher.to(dtype)
    arguments = anchors, teacher, labels, numbers
    losses: Tensor = differentiable("row_divergences", backend, *arguments)[0]
    return losses


def pair_extrema(problem: PairProblem, backend: str = "auto") -> Tensor:
    """[2, n]: the hardest positive and negative of each row; not differentiable.

    In hardness y (x for "dot", -x for the distances): min of y over P(i), +inf for an empty set,
    and max of y over N(i), -inf for an empty set.
    """
    with torch.no_grad():
        problem = _prepared(problem)
        extrema: Tensor = _underived("pair_extrema", backend, *problem[:6])
        return extrema


def extreme_pairs(
    problem: PairProblem,
    largest: Sequence[bool],
    intervals: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Measures and columns of each row's extreme pairs, see ``routes.row_strips.extreme_pairs``.

    Not differentiable.
    """
    with torch.no_grad():
        problem = _prepared(problem)
        arguments = *problem[:6], intervals, [*largest]
        measures, columns = _underived("extreme_pairs", backend, *arguments)
        return measures, columns


def _underived(name: str, backend: str, *args: Any) -> Any:
    """The outputs of an operator that has no derivative; transforms know it by ``Underived``."""
    function = operator(name, backend)
    if torch._C._are_functorch_transforms_active():
        return Underived.apply(name, function, *args)
    return function(*args)


def pair_values(
    anchors: Tensor,
    references: Tensor | None,
    rows: Tensor,
    columns: Tensor,
    measure: str,
    backend: str = "auto",
) -> Tensor:
    """x of each listed pair (rows[k], columns[k]), [num_pairs]; differentiable in embeddings."""
    return differentiable("pair_values", backend, anchors, references, rows, columns, measure)
