"""The operators of reductions L and S in differentiable PyTorch, block by block of rows.

By them a gradient is differentiated, see ``engine.recorded``: slower than the operators, in memory
that is bounded as theirs is.  A function takes what its operator does, the problem gathered, and
returns the operator's first output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedml.curves import CURVES
from fusedml.engine.averaged import Interval, mean_between
from fusedml.engine.groups import REDUCTIONS
from fusedml.engine.joint_rows import most_pairs
from fusedml.engine.labels import alike
from fusedml.engine.ops import with_problem
from fusedml.engine.pairs import PairProblem, accumulation_dtype, measure_matrix
from fusedml.engine.positives import positive_strips
from fusedml.engine.precision import normalized
from fusedml.engine.recorded import BlockFunction, Tensors, by_blocks
from fusedml.engine.reductions.differentiable import (
    Masks,
    divergences,
    log_sum,
    pair_losses,
    statistics,
    sums,
)
from fusedml.engine.reductions.entries import GivenEntries, ListSide, MatrixSide, add_at
from fusedml.engine.reductions.given import Given
from fusedml.engine.reductions.mined import mined
from fusedml.engine.whole_means import Over
from fusedml.formulas import Hyperparameter
from fusedml.heads import PAIR_FORMS, RowForm, RowStatistics, row_form, softplus
from fusedml.terms import Term, identity, unpacked

# Pairs of a block, of which two derivatives hold a few dozen matrices: 1 MB each in float32.
BLOCK_PAIRS = 1 << 18

# (indices, anchors, references, logit) -> the losses of the listed positives
ByList = Callable[[Tensors, Tensor, Tensor | None, Tensor], Tensor]

_ROWS = MatrixSide(slice(None), 1)


def _sides(problem: PairProblem) -> tuple[Tensor, Tensor]:
    """The rows and the columns as they are measured, in the dtype of the statistics."""
    dtype = accumulation_dtype(problem.anchors.dtype)

    def measured(x: Tensor) -> Tensor:
        wide = x.to(dtype)
        return normalized(wide)[0].to(x.dtype).to(dtype) if problem.normalize else wide

    a = measured(problem.anchors)
    return a, a if problem.references is None else measured(problem.references)


def _masks(problem: PairProblem, rows: slice) -> Masks:
    """The positive and the negative pairs of some rows, [rows, m]."""
    columns = problem.reference_labels
    columns = problem.anchor_labels if columns is None else columns
    positive = alike(problem.anchor_labels[rows], columns)
    numbers = torch.arange(rows.start, rows.stop, device=positive.device)[:, None]
    of_columns = torch.arange(columns.shape[0], device=positive.device)
    counted = torch.ones_like(positive)
    if problem.exclude_diagonal:
        counted &= problem.own_columns(numbers) != of_columns
    if problem.extent is not None:
        counted &= (numbers < problem.extent[0]) & (of_columns < problem.extent[1])
    return positive & counted, ~positive & counted


def _slices(size: int, width: int) -> Callable[[], Iterator[slice]]:
    """Blocks of that many rows of that many pairs, or numbers; one of none."""
    step = max(1, BLOCK_PAIRS // max(1, width))

    def slices() -> Iterator[slice]:
        for begin in range(0, max(1, size), step):
            yield slice(begin, min(begin + step, size))

    return slices


def _by_rows(
    problem: PairProblem,
    reduce: Callable[..., Tensor],
    shared: Tensors,
    of_rows: Tensors = (),
    masks_of: Callable[[slice], Masks] | None = None,
) -> Tensor:
    """Numbers of the rows, [..., n]: reduce(x, masks, *shared, *of_rows), block by block.

    shared, of_rows: what may require a gradient, of all blocks and of each row, [..., n].
    masks_of: which pairs there are, instead of those by labels.
    """
    a, r = _sides(problem)

    def of_block(rows: slice, own: Tensors, shared: Tensors) -> tuple[Tensors, Tensors]:
        masks = _masks(problem, rows) if masks_of is None else masks_of(rows)
        x = measure_matrix(own[0], shared[0], problem.measure)
        numbers = reduce(x, masks, *shared[1:], *(y.movedim(0, -1) for y in own[1:]))
        return [numbers.movedim(-1, 0)], []

    n, m = a.shape[0], r.shape[0]
    function = BlockFunction(of_block, _slices(n, m), n)
    (numbers,), _ = by_blocks(function, [a, *(y.movedim(-1, 0) for y in of_rows)], [r, *shared])
    return numbers.movedim(0, -1)


def _summed(function: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """function(*operands), in one block."""
    one = BlockFunction(lambda _, rows, shared: ([], [function(*shared)]), lambda: (None,))
    return by_blocks(one, (), operands)[1][0]


# --------------------------------------------------------------------------------- reduction L


def _all_statistics(
    problem: PairProblem,
    logit: Tensor,
    thresholds: Tensor | None = None,
    masks_of: Callable[[slice], Masks] | None = None,
    epsilon: Hyperparameter | None = None,
) -> Tensor:
    """lse+, lse-, sum+ and the numbers of positives and negatives, [5, n].

    epsilon: of the Multi-Similarity rule, or None for all pairs.
    """
    curve, sign = CURVES[problem.curve], 1 if problem.measure == "dot" else -1
    bounds = () if thresholds is None else (thresholds.detach(),)

    def reduce(x: Tensor, masks: Masks, logit: Tensor, *bounds: Tensor) -> Tensor:
        y = sign * x.detach()
        if bounds:
            below, above = bounds[0].unsqueeze(2)
            # negated, so that NaN stays in
            masks = masks[0] & ~(y >= below), masks[1] & ~(y <= above)
        if epsilon is not None:
            pairs = GivenEntries(y, [True, True], masks, None, y.shape[0])
            masks = mined(pairs, pairs, epsilon)
        counts = torch.stack([mask.sum(1) for mask in masks])
        return torch.cat([statistics(x, masks, _ROWS, logit, curve), counts.to(x.dtype)])

    return _by_rows(problem, reduce, (logit,), bounds, masks_of)


def pair_statistics(problem: PairProblem, logit: Tensor, thresholds: Tensor | None) -> Tensor:
    """[3, n]."""
    return _all_statistics(problem, logit, thresholds)[:3]


def row_losses(
    problem: PairProblem,
    logit: Tensor,
    thresholds: Tensor | None,
    head: str | RowForm,
    head_parameters: Tensor,
) -> Tensor:
    """[n], or what else the head makes of the rows."""
    return _of_head(_all_statistics(problem, logit, thresholds), head, head_parameters)


def _of_head(rows: Tensor, head: str | RowForm, parameters: Tensor) -> Tensor:
    lse_positive, lse_negative, sum_positive, *counts = rows.unbind()
    positive, negative = (count.detach() for count in counts)
    row = RowStatistics(lse_positive, lse_negative, sum_positive, positive, negative)
    return row_form(head)(row, parameters).value


def _turned(problem: PairProblem) -> PairProblem:
    """Columns for rows, of a problem whose excluded diagonal has no offset."""
    assert problem.references is not None and problem.reference_labels is not None
    return problem._replace(
        anchors=problem.references,
        references=problem.anchors,
        anchor_labels=problem.reference_labels,
        reference_labels=problem.anchor_labels,
    )


def two_sided_statistics(problem: PairProblem, logit: Tensor, _: None = None) -> Tensor:
    """[3, n + m], of the rows and of the columns."""
    sides = problem, _turned(problem)
    return torch.cat([pair_statistics(side, logit, None) for side in sides], 1)


def two_sided_losses(
    problem: PairProblem, logit: Tensor, _: None, head: str, head_parameters: Tensor
) -> Tensor:
    """[n + m]."""
    sides = problem, _turned(problem)
    return torch.cat([row_losses(side, logit, None, head, head_parameters) for side in sides])


def paired_losses(problem: PairProblem, logit: Tensor, _: None, both_sides: bool) -> Tensor:
    """[n], or [2, n], of ``engine.paired``."""
    n, m = problem.shape
    numbers = torch.arange(max(n, m), device=problem.anchors.device)
    problem = problem._replace(anchor_labels=numbers[:n], reference_labels=numbers[:m])
    head = "cross_entropy", logit
    if not both_sides:
        return row_losses(problem, logit, None, *head)
    return two_sided_losses(problem, logit, None, *head).view(2, n)


def target_losses(problem: PairProblem, logit: Tensor, _: None, targets: Tensor) -> Tensor:
    """[n], of ``engine.whole_targets``."""
    columns = torch.arange(problem.shape[1], device=targets.device)
    problem = problem._replace(anchor_labels=targets, reference_labels=columns)
    return row_losses(problem, logit, None, "cross_entropy", logit)


def marked_row_losses(
    problem: PairProblem,
    logit: Tensor,
    _: None,
    head: str | RowForm,
    epsilon: Hyperparameter | None,
    head_parameters: Tensor,
    marks: Tensor,
) -> Tensor:
    """[n], of marked pairs, [2, n, m], 0 or 1."""
    rows = _all_statistics(problem, logit, None, _marked(marks), epsilon)
    return _of_head(rows, head, head_parameters)


def positive_pair_losses(
    problem: PairProblem,
    logit: Tensor,
    reference_lse: Tensor | None,
    head: str,
    head_parameters: Tensor,
) -> Tensor:
    """[n]: the losses of each row's positives, added."""
    curve, anchor_lse = CURVES[problem.curve], pair_statistics(problem, logit, None)[1]
    if reference_lse is None:
        is_self = problem.references is None
        reference_lse = anchor_lse if is_self else anchor_lse.new_zeros(problem.shape[1])

    def reduce(
        x: Tensor, masks: Masks, logit: Tensor, reference_lse: Tensor, anchor_lse: Tensor
    ) -> Tensor:
        return pair_losses(x, masks[0], head, logit, curve, anchor_lse, reference_lse)

    return _by_rows(problem, reduce, (logit, reference_lse), (anchor_lse,))


def counted_pair_losses(
    problem: PairProblem,
    logit: Tensor,
    _: None,
    by_list: ByList,
    *indices: Tensor,
) -> Tensor:
    """[num_positives], of an index tuple."""
    a, r = _sides(problem)
    return by_list(indices, a, None if problem.references is None else r, logit)


def joint_pair_losses(*args: Any) -> Tensor:
    """[n], see ``engine.joint_rows``."""
    anchors, references, labels, reference_labels, columns, logit, exclude_diagonal, form = args
    problem = PairProblem(
        anchors, references, labels, reference_labels, exclude_diagonal=exclude_diagonal
    )
    a, r = _sides(problem)
    column_labels = labels if reference_labels is None else reference_labels
    most = max(1, min(most_pairs(columns), BLOCK_PAIRS // max(1, columns.shape[0])))

    def strips() -> Iterator[tuple[Tensor, Tensor]]:
        yield labels.new_empty(0), labels.new_empty(0)  # of a batch without positives
        for rows, positives in positive_strips(problem, most):
            yield from zip(rows.split(most), positives.split(most), strict=True)

    def of_strip(strip: Any, _: Tensors, shared: Tensors) -> tuple[Tensors, Tensors]:
        a, r, columns, logit = shared
        i, p = strip
        losses = _joint_losses(a[i], r[p], columns, labels[i], column_labels, logit, form)
        return [], [add_at(losses.new_zeros(a.shape[0]), i, losses)]

    return by_blocks(BlockFunction(of_strip, strips), (), [a, r, columns, logit])[1][0]


def _joint_losses(
    own: Tensor,
    other: Tensor,
    columns: Tensor,
    labels: Tensor,
    column_labels: Tensor,
    logit: Tensor,
    form: str,
) -> Tensor:
    """[k], of pairs of rows, [k, d] each."""
    scale, shift, negative_scale, negative_shift = logit.to(own)
    z = negative_scale * ((own + other) @ columns.to(own).T) + negative_shift
    lse = log_sum(z, ~alike(labels, column_labels), _ROWS)
    x = torch.linalg.vecdot(own, other)
    return PAIR_FORMS[form](scale * x + shift, lse, torch.zeros_like(lse)).value


def listed_joint_losses(
    problem: PairProblem, logit: Tensor, _: None, form: str, rows: Tensor, positives: Tensor
) -> Tensor:
    """[num_pairs], of ``engine.whole_joint``."""
    labels, column_labels = problem[2:4]
    column_labels = labels if column_labels is None else column_labels
    columns = problem.anchors if problem.references is None else problem.references

    def of_block(pairs: slice, _: Tensors, shared: Tensors) -> tuple[Tensors, Tensors]:
        a, r, columns, logit = shared
        i, p = rows[pairs], positives[pairs]
        return [_joint_losses(a[i], r[p], columns, labels[i], column_labels, logit, form)], []

    size = rows.shape[0]
    function = BlockFunction(of_block, _slices(size, columns.shape[0]), size)
    return by_blocks(function, (), [*_sides(problem), columns, logit])[0][0]


def group_statistics(
    anchors: Tensor,
    vectors: Tensor,
    labels: Tensor,
    logit: Tensor,
    group: str,
    sharpness: Tensor | None,
) -> Tensor:
    """lse over the other classes and the logit of the own, [2, n]; vectors [C, K, d]."""
    dtype, (num_classes, size, d) = accumulation_dtype(anchors.dtype), vectors.shape
    sharp = 1.0 if sharpness is None else float(sharpness)

    def of_block(rows: slice, own: Tensors, shared: Tensors) -> tuple[Tensors, Tensors]:
        (a,), (vectors, logit), classes = own, shared, labels[rows, None].long()
        y = (a @ vectors.reshape(-1, d).T).view(-1, num_classes, size)
        s = REDUCTIONS[group](y * sharp, 2) / sharp
        scale, shift, negative_scale, negative_shift = logit.to(s)
        is_other = classes != torch.arange(num_classes, device=s.device)
        lse = log_sum(negative_scale * s + negative_shift, is_other, _ROWS)
        return [torch.stack([lse, scale * s.gather(1, classes)[:, 0] + shift], 1)], []

    n = anchors.shape[0]
    function = BlockFunction(of_block, _slices(n, num_classes * size), n)
    (numbers,), _ = by_blocks(function, [anchors.to(dtype)], [vectors.to(dtype), logit])
    return numbers.T


# ---------------------------------------------------------------------------- reduction S, lists


def pair_sums(
    problem: PairProblem,
    logit: Tensor,
    shifts: Tensor | None,
    terms: tuple[Term, ...],
    both_sides: bool,
) -> Tensor:
    """[K, n], or of the rows and of the columns."""
    curve = CURVES[problem.curve]

    def of_side(problem: PairProblem, shifts: Tensor | None) -> Tensor:
        def reduce(x: Tensor, masks: Masks, logit: Tensor, *shifts: Tensor) -> Tensor:
            return sums(x, masks, _ROWS, logit, curve, terms, *shifts)

        return _by_rows(problem, reduce, (logit,), () if shifts is None else (shifts,))

    if not both_sides:
        return of_side(problem, shifts)
    n = problem.shape[0]
    parts = (None, None) if shifts is None else (shifts[:, :n], shifts[:, n:])
    sides = problem, _turned(problem)
    return torch.cat([of_side(*side) for side in zip(sides, parts, strict=True)], 1)


def pair_means(
    problem: PairProblem,
    logit: Tensor,
    _: None,
    terms: tuple[Term, ...],
    weights: Sequence[float],
    over: Over,
    *indices: Tensor,
) -> Tensor:
    """The weighted sum of means, 0-d, of the pairs by label or of listed ones."""

    def of_ones(term: Term) -> Term:
        if over == "kind" or term.is_softplus:
            return Term(term.is_positive, constant=1.0)
        return term._replace(exponent=0.0, square=0.0, linear=0.0, constant=1.0)

    totals = _summed_terms(problem, logit, terms, indices)
    with torch.no_grad():
        numbers = _summed_terms(problem, logit, tuple(map(of_ones, terms)), indices)
        if over == "triplets":
            ones = Term(False, constant=1.0), Term(True, constant=1.0)
            of_others = _summed_terms(problem, logit, ones, indices)
            repeats = of_others[[0 if term.is_positive else 1 for term in terms]]
            numbers = (numbers * repeats).sum().expand(len(terms), 1)
    if over == "triplets":
        totals = totals * repeats
    shares = totals.new_tensor(weights) / numbers.sum(1).clamp(min=1)
    return (totals.sum(1) * shares).sum()


def _summed_terms(
    problem: PairProblem, logit: Tensor, terms: tuple[Term, ...], indices: Tensors
) -> Tensor:
    """[K, n], of listed pairs, or of those by label."""
    if indices:
        return listed_sums(problem, logit, None, terms, *indices)
    return pair_sums(problem, logit, None, terms, False)


def centred_means(
    problem: PairProblem,
    scales: Tensor,
    _: None,
    terms: tuple[Term, ...],
    shares: Sequence[float],
    *indices: Tensor,
) -> Tensor:
    """The sum of means, 0-d, of ``engine.whole_centred``."""
    measures = identity(True), identity(False)
    counts = Term(True, constant=1.0), Term(False, constant=1.0)
    logit = scales.new_tensor([1.0, 0.0, 1.0, 0.0])
    totals = _summed_terms(problem, logit, (*measures, *counts), indices).sum(1)
    centres = totals[:2] / totals[2:].detach().clamp(min=1) * totals.new_tensor(shares)
    scales = scales.to(totals)
    logit = torch.stack([scales, -scales * centres], 1).view(4)
    return pair_means(problem, logit, None, terms, [1.0] * len(terms), "kind", *indices)


def _of_given(given: Given) -> tuple[Masks, MatrixSide | ListSide]:
    x, lines = given.x, given.lines
    positive, negative = (
        torch.full_like(x, kind, dtype=torch.bool) if mask is None or not kind else mask
        for kind, mask in zip(given.kinds, (given.positive, given.negative), strict=True)
    )
    return (positive, negative), _ROWS if lines is None else ListSide(lines, given.num_lines)


def entry_statistics(*args: Any) -> Tensor:
    """[3, lines], of ``Given(*args)``."""
    given = Given(*args)
    masks, side = _of_given(given)

    def block(x: Tensor, logit: Tensor) -> Tensor:
        return statistics(x, masks, side, logit, CURVES[given.curve], given.offsets)

    return _summed(block, given.x, given.logit)


def entry_sums(*args: Any) -> Tensor:
    """[K, lines]; after those of ``Given``: shifts and terms."""
    *of_given, shifts, terms = args
    given, numbers = Given(*of_given), unpacked(terms)
    masks, side = _of_given(given)

    def block(x: Tensor, logit: Tensor, *shifts: Tensor) -> Tensor:
        of_lines, curve = shifts[0] if shifts else None, CURVES[given.curve]
        return sums(x, masks, side, logit, curve, numbers, of_lines, given.offsets)

    return _summed(block, given.x, given.logit, *(() if shifts is None else (shifts,)))


def pair_values(
    anchors: Tensor, references: Tensor | None, rows: Tensor, columns: Tensor, measure: str
) -> Tensor:
    """x of the listed pairs, [num_pairs]."""
    dtype = accumulation_dtype(anchors.dtype)
    a = anchors.to(dtype)
    r = a if references is None else references.to(dtype)

    def of_block(pairs: slice, _: Tensors, shared: Tensors) -> tuple[Tensors, Tensors]:
        own, other = shared[0][rows[pairs]], shared[1][columns[pairs]]
        if measure == "dot":
            return [torch.linalg.vecdot(own, other)], []
        square = (own - other).square().sum(1)
        if measure == "squared_euclidean":
            return [square], []
        is_apart = square > 0  # the root has an infinite slope at 0
        return [torch.where(is_apart, torch.where(is_apart, square, 1).sqrt(), 0)], []

    size = rows.shape[0]
    function = BlockFunction(of_block, _slices(size, a.shape[1]), size)
    return by_blocks(function, (), [a, r])[0][0]


def listed_values(
    problem: PairProblem, logit: Tensor | None, _: None, rows: Tensor, columns: Tensor
) -> Tensor:
    """[num_pairs], of ``engine.whole_values``."""
    a, r = _sides(problem)
    references = None if problem.references is None else r
    return pair_values(a, references, rows, columns, problem.measure)


def listed_sums(
    problem: PairProblem,
    logit: Tensor,
    shifts: Tensor | None,
    terms: tuple[Term, ...],
    *indices: Tensor,
) -> Tensor:
    """F, [K, n], of the listed pairs."""
    found, n = [], problem.anchors.shape[0]
    for term, rows, z in _listed_logits(problem, logit, shifts, terms, indices):
        values = term.values(z)
        found.append(add_at(values.new_zeros(n), rows, values))
    return torch.stack(found)


def _listed_logits(
    problem: PairProblem,
    logit: Tensor,
    shifts: Tensor | None,
    terms: tuple[Term, ...],
    indices: Sequence[Tensor],
) -> Iterator[tuple[Term, Tensor, Tensor]]:
    """Each term with the rows and the affine logits of its pairs."""
    for term in terms:
        kind = 0 if term.is_positive else 1
        rows, columns = indices[2 * kind : 2 * kind + 2]
        x = listed_values(problem, logit, None, rows, columns)
        scale, shift = logit.to(x)[2 * kind : 2 * kind + 2]
        z = scale * x + shift
        yield term, rows, z if shifts is None else z + shifts[kind].to(z)[rows]


def listed_triplets(
    problem: PairProblem,
    margin: Tensor | None,
    _: None,
    form: str,
    constant: float,
    *listed: Tensor,
) -> Tensor:
    """f(u + margin), [num_triplets], of ``engine.whole_lists``."""
    *indices, positives, negatives = listed
    x_p, x_n = (
        listed_values(problem, None, None, *pairs)[of]
        for pairs, of in ((indices[:2], positives), (indices[2:], negatives))
    )
    u = x_n - x_p if problem.measure == "dot" else x_p - x_n
    u = u + constant if margin is None else u + margin.to(u)
    return torch.relu(u) if form == "hinge" else softplus(u)


def marked_statistics(
    problem: PairProblem, logit: Tensor, _: None, epsilon: Hyperparameter | None, marks: Tensor
) -> Tensor:
    """[3, n], of marked pairs, [2, n, m], 0 or 1."""
    return _all_statistics(problem, logit, None, _marked(marks), epsilon)[:3]


def _marked(marks: Tensor) -> Callable[[slice], Masks]:
    def masks_of(rows: slice) -> Masks:
        positive, negative = marks[:, rows] != 0
        return positive, negative

    return masks_of


def row_divergences(
    anchors: Tensor, teacher: Tensor, labels: Tensor | None, numbers: Tensor
) -> Tensor:
    """KL, [n]."""
    n, dtype = anchors.shape[0], accumulation_dtype(anchors.dtype)
    both = [anchors.to(dtype), teacher.to(dtype)]

    def of_block(rows: slice, own: Tensors, shared: Tensors) -> tuple[Tensors, Tensors]:
        x, y = (of_rows @ of_all.T for of_rows, of_all in zip(own, shared[:2], strict=True))
        same = None if labels is None else labels[rows, None] == labels
        return [divergences(x, y, same, shared[2])], []

    function = BlockFunction(of_block, _slices(n, n), n)
    return by_blocks(function, both, [*both, numbers])[0][0]


_OF_PROBLEM: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        pair_statistics,
        row_losses,
        two_sided_statistics,
        two_sided_losses,
        paired_losses,
        target_losses,
        marked_row_losses,
        marked_statistics,
        listed_values,
        listed_sums,
        listed_triplets,
        listed_joint_losses,
        pair_means,
        centred_means,
        counted_pair_losses,
        positive_pair_losses,
        pair_sums,
    )
}
_OTHERS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        joint_pair_losses,
        group_statistics,
        entry_statistics,
        entry_sums,
        pair_values,
        row_divergences,
    )
}


def has_formula(name: str, args: Sequence[Any]) -> bool:
    """Whether an operator, called with these, has one whose first derivative is its gradient's."""
    curves = [CURVES[arg] for arg in args if isinstance(arg, str) and arg in CURVES]
    is_known = name.removeprefix("kept_") in {**_OF_PROBLEM, **_OTHERS}
    return is_known and all(curve.has_derivative for curve in curves)


def of_operator(name: str, args: Sequence[Any]) -> Tensor:
    """The first output of the operator, called with these."""
    name = name.removeprefix("kept_")
    if name in _OTHERS:
        return _OTHERS[name](*args)
    problem, logit, *rest = with_problem(name, tuple(args))
    if name == "pair_sums":
        shifts, terms, both_sides = rest
        rest = [shifts, unpacked(terms), both_sides]
    return _OF_PROBLEM[name](problem, logit, *rest)


class Held(NamedTuple):
    """The formula of a problem, but for its tensors.

    name: of ``_OF_PROBLEM``.  view: the fields of the problem after its labels.  rest: what the
    function takes after the operand that it need not have, and before further tensors.
    interval: None, or for the mean of the losses in it.
    """

    name: str
    view: tuple[Any, ...]
    rest: tuple[Any, ...] = ()
    interval: Interval | None = None

    @property
    def has_derivative(self) -> bool:
        """Whether its first derivative is the operator's gradient."""
        return self.name in _OF_PROBLEM and CURVES[self.view[-1]].has_derivative

    def of(
        self, labels: Sequence[Tensor | None], tensors: Tensors
    ) -> Callable[[Tensor, Tensor | None, Tensor, Tensor | None], Tensor]:
        """The function of anchors, references, logit, and the operand."""

        def formula(
            anchors: Tensor, references: Tensor | None, logit: Tensor, operand: Tensor | None
        ) -> Tensor:
            problem = PairProblem._make((anchors, references, *labels, *self.view))
            function = _OF_PROBLEM[self.name]
            losses = function(problem, logit, operand, *self.rest, *tensors)
            return losses if self.interval is None else mean_between(losses, self.interval)

        return formula


def held(
    name: str,
    problem: PairProblem,
    rest: tuple[Any, ...] = (),
    tensors: Tensors = (),
    has_labels: bool = True,
) -> tuple[Held, tuple[Tensor | None, ...]]:
    """The formula, and its tensors: the labels first.

    has_labels: False where nothing reads them.
    """
    labels = problem[2:4] if has_labels else (None, None)
    return Held(name, problem[4:], rest), (*labels, *tensors)
