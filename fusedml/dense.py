"""The formulas on the full n x m matrix, in ordinary PyTorch: ground truth and baseline.

Everything here is differentiable as often as PyTorch allows, in any floating dtype, at the cost of
a dozen n x m matrices.  ``fusedml.functional`` computes the same in bounded memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fusedml.curves import AFFINE, CURVES, Curve
from fusedml.engine.labels import alike
from fusedml.engine.pairs import PairProblem, measure_matrix
from fusedml.formulas import Formula, Hyperparameter, PairFormula, RowFormula, SumFormula
from fusedml.heads import PairSums, RowStatistics
from fusedml.ranks import RANK_FORMS


def pair_masks(problem: PairProblem) -> tuple[Tensor, Tensor]:
    """Bool masks [n, m] of the positive and of the negative pairs."""
    reference_labels = problem.reference_labels
    if reference_labels is None:
        reference_labels = problem.anchor_labels
    positive = alike(problem.anchor_labels, reference_labels)
    rows, columns = (torch.arange(k, device=positive.device) for k in positive.shape)
    counted = torch.ones_like(positive)
    if problem.exclude_diagonal:
        counted &= problem.own_columns(rows)[:, None] != columns
    if problem.extent is not None:
        counted &= (rows[:, None] < problem.extent[0]) & (columns < problem.extent[1])
    return positive & counted, ~positive & counted


def mined_masks(
    similarity: Tensor, positive: Tensor, negative: Tensor, epsilon: Hyperparameter
) -> tuple[Tensor, Tensor]:
    """The Multi-Similarity mining rule, on similarities (or negated distances).

    A positive is kept if s - epsilon < max_N s, a negative if s + epsilon > min_P s.
    Wang et al., CVPR 2019, eq. (11) and (12).
    """
    hardest_positive = similarity.masked_fill(~positive, math.inf).amin(1, keepdim=True)
    hardest_negative = similarity.masked_fill(~negative, -math.inf).amax(1, keepdim=True)
    return (
        positive & (similarity - epsilon < hardest_negative),
        negative & (similarity + epsilon > hardest_positive),
    )


def masked_logsumexp(z: Tensor, mask: Tensor) -> Tensor:
    """log sum exp of each row's masked entries, -inf for an empty set, with gradient 0 there."""
    if z.shape[1] == 0:
        return z.sum(1) - math.inf  # connected to the graph
    is_empty = ~mask.any(1, keepdim=True)
    # an empty row is given a finite logit: log sum exp of nothing but -inf has a NaN gradient
    others = torch.where(is_empty, 0.0, -math.inf).to(z)
    return torch.logsumexp(torch.where(mask, z, others), 1).masked_fill(is_empty[:, 0], -math.inf)


def row_statistics(
    x: Tensor, positive: Tensor, negative: Tensor, logit: Tensor, curve: Curve = AFFINE
) -> RowStatistics:
    """Row statistics from the matrix of measures [n, m] and the two masks."""
    logit = logit.to(x)
    z_positive = curve.logits(x, logit[0], logit[1], True)
    z_negative = curve.logits(x, logit[2], logit[3], False)
    return RowStatistics(
        masked_logsumexp(z_positive, positive),
        masked_logsumexp(z_negative, negative),
        torch.where(positive, z_positive, 0).sum(1),
        positive.sum(1),
        negative.sum(1),
    )


def pair_sums(
    x: Tensor, positive: Tensor, negative: Tensor, formula: SumFormula, sign: float
) -> PairSums:
    """Sums of the formula's terms over the pairs of each row, from the matrix of measures."""
    logit, curve = formula.logit(sign).to(x), CURVES[formula.curve]
    sums, counts = [], []
    for term in formula.terms:
        side = 0 if term.is_positive else 1
        mask = (positive, negative)[side]
        z = curve.logits(x, logit[2 * side], logit[2 * side + 1], term.is_positive)
        if formula.shifts is not None:
            z = z + formula.shifts[side, :, None].to(x)
        # what is no such pair is replaced before it is computed with: inf x 0 would be NaN
        z = torch.where(mask, z, 0)
        sums.append(torch.where(mask, term.values(z), 0).sum(1))
        counts.append((term.counts(z) & mask).sum(1))
    none = x.new_zeros(0, x.shape[0])
    return PairSums(
        torch.stack(sums) if sums else none,
        torch.stack(counts) if counts else none.long(),
        positive.sum(1),
        negative.sum(1),
    )


def row_losses_of_matrix(
    x: Tensor, positive: Tensor, negative: Tensor, formula: RowFormula, sign: float
) -> Tensor:
    """L_i, [n], from the matrix of measures and the masks."""
    logit, curve = formula.logit(sign), CURVES[formula.curve]
    return formula.losses(row_statistics(x, positive, negative, logit, curve))


def positive_pair_losses_of_matrix(
    x: Tensor,
    positive: Tensor,
    formula: PairFormula,
    logit: Tensor,
    anchor_lse: Tensor,
    reference_lse: Tensor,
) -> Tensor:
    """[n, m]: v(z_ip, lse_i, lse_p) on the positives, 0 elsewhere."""
    logit = logit.to(x)
    # a pair outside the mask may hold anything: give it a harmless logit, then drop it
    z = torch.where(positive, CURVES[formula.curve].logits(x, logit[0], logit[1], True), 0)
    anchor = anchor_lse[:, None].expand_as(z)
    reference = reference_lse[None, :].expand_as(z)
    losses = formula.losses(
        z, torch.where(positive, anchor, 0), torch.where(positive, reference, 0)
    )
    return torch.where(positive, losses, 0)


def triplet_losses_of_rows(
    y: Tensor, positive: Tensor, negative: Tensor, numbers: Tensor, form: str
) -> tuple[Tensor, Tensor]:
    """The losses of each row's triplets, added, [r], and how many count, [r].

    y: [r, m], the hardness: similarities, or negated distances.  A triplet has the loss
    f(y_n - y_p + margin), f the hinge or the softplus, and counts if y_n - y_p >= at_least,
    > above and < below.  numbers: (margin, at_least, above, below).
    """
    margin, at_least, above, below = numbers.to(y)
    most = int(positive.sum(1).max()) if y.numel() else 0
    # the positives of a row first
    order = torch.argsort(positive.to(torch.uint8), dim=1, descending=True, stable=True)[:, :most]
    is_positive = positive.gather(1, order)[:, :, None]
    u = y[:, None, :] - y.gather(1, order)[:, :, None]
    counts = is_positive & negative[:, None, :] & (u >= at_least) & (u > above) & (u < below)
    u = u + margin
    values = torch.relu(u) if form == "hinge" else torch.nn.functional.softplus(u, threshold=40)
    return torch.where(counts, values, 0).sum((1, 2)), counts.sum((1, 2))


def histograms_of_rows(
    x: Tensor,
    positive: Tensor,
    negative: Tensor,
    lowest: float,
    delta: float,
    num_edges: int,
) -> Tensor:
    """[2, r, num_edges]: the pulses max(0, 1 - |x - edge| / delta) of each row's positives and
    negatives, added up.
    """
    cells = torch.floor((x.detach() - lowest) / delta)
    sums = []
    for k in range(num_edges):
        # by cells: at an edge the pulses on both sides of it have their slopes of the same side
        offset = (x - (lowest + k * delta)) / delta
        falling = torch.where(cells == k, 1 - offset, 0)
        pulses = falling + torch.where(cells == k - 1, 1 + offset, 0)
        sums.append([torch.where(mask, pulses, 0).sum(1) for mask in (positive, negative)])
    return torch.stack([torch.stack(kind, 1) for kind in zip(*sums, strict=True)])


def rank_losses_of_rows(
    y: Tensor, positive: Tensor, negative: Tensor, numbers: Tensor, form: str
) -> Tensor:
    """The mean of a form of ``fusedml.ranks`` over the positives of each row, [r].

    y: [r, m], the hardness: similarities, or negated distances.  numbers: T and the
    form's parameters.
    """
    temperature, *parameters = numbers.to(y)
    most = int(positive.sum(1).max()) if y.numel() else 0
    # the positives of a row first
    order = torch.argsort(positive.to(torch.uint8), dim=1, descending=True, stable=True)[:, :most]
    is_real = positive.gather(1, order)
    t = y.gather(1, order)
    steps = torch.sigmoid((y[:, None, :] - t[:, :, None]) / temperature)
    among = torch.sigmoid((t[:, None, :] - t[:, :, None]) / temperature)
    of_others = is_real[:, None, :] & ~torch.eye(most, dtype=torch.bool, device=y.device)
    ranks = (
        torch.where(of_others, among, 0).sum(2),
        torch.where(negative[:, None, :], steps, 0).sum(2),
    )
    values = RANK_FORMS[form](*ranks, parameters).value
    return torch.where(is_real, values, 0).sum(1) / is_real.sum(1).clamp(min=1)


def row_divergences(x: Tensor, y: Tensor, same: Tensor | None, numbers: Tensor) -> Tensor:
    """KL [n] of the softmax rows of y and of x, both scaled, from the two matrices of products.

    same: None, or which pairs have equal labels.  numbers: [4], (scale, shift of x, shift of y,
    equal): of pairs of equal labels both products are ``equal``.
    """
    scale, *shifts, equal = numbers.to(x).unbind()
    if same is not None:
        x, y = (
            torch.where(same, equal, z + shift) for z, shift in zip((x, y), shifts, strict=True)
        )
    log_p, q = torch.log_softmax(scale * x, 1), torch.softmax(scale * y, 1)
    return torch.nn.functional.kl_div(log_p, q, reduction="none").sum(1)


def losses(
    problem: PairProblem,
    formula: Formula,
    epsilon: Hyperparameter | None = None,
    matrix: Callable[[Tensor, Tensor, str], Tensor] = measure_matrix,
) -> Tensor:
    """Row losses [n], or pair losses [n, m] (0 off the positives) of a pair formula.

    epsilon: the Multi-Similarity mining margin, or None for all pairs.
    """
    references = problem.anchors if problem.references is None else problem.references
    x = matrix(problem.anchors, references, problem.measure)
    sign = 1.0 if problem.measure == "dot" else -1.0
    positive, negative = pair_masks(problem)
    if epsilon is not None:
        positive, negative = mined_masks(sign * x.detach(), positive, negative, epsilon)
    if isinstance(formula, RowFormula):
        return row_losses_of_matrix(x, positive, negative, formula, sign)
    logit, curve = formula.logit(sign), CURVES[formula.curve]
    anchor_lse = row_statistics(x, positive, negative, logit, curve).lse_negative
    reference_lse = anchor_lse
    if problem.references is not None:
        # the negatives of a reference are the other references of other classes
        assert problem.reference_labels is not None
        among_references = PairProblem(
            references, None, problem.reference_labels, None, problem.measure
        )
        _, others = pair_masks(among_references)
        y = matrix(references, references, problem.measure)
        reference_lse = row_statistics(y, ~others, others, logit, curve).lse_negative
    return positive_pair_losses_of_matrix(x, positive, formula, logit, anchor_lse, reference_lse)
