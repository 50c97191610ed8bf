"""Small problems: the operators on matrices that are held whole, in as few calls as will do.

Up to ``MOST_PAIRS`` pairs a call of PyTorch costs more than its arithmetic.  So nothing is sorted
or cut into tiles here, rows are normalised within the operator, nothing is computed that the head
does not ask for, and the backward finds the exponentials that the forward has left: eight matrices
at most, 20 MB in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from fusedml.curves import AFFINE, CURVES
from fusedml.engine.label_sets import are_sets
from fusedml.engine.labels import alike
from fusedml.engine.pairs import PairProblem, accumulation_dtype, fill_excluded, widest_dtype
from fusedml.engine.precision import ONES, TENSOR_TYPES, normalized, plain_norms, safely_normalized
from fusedml.heads import PAIR_FORMS, RowForm, row_form

# beyond, tiles that stay in the cache are as fast, in less memory
MOST_PAIRS = 800 * 800

_EMPTY = -math.inf
# of two unit rows, rounded to bfloat16, and the distance of two such rows
LARGEST_MEASURES = {"dot": 1.02, "euclidean": 2.02, "squared_euclidean": 4.08}
# dL/dy of dL/dx, but for what x itself adds: y the dot product, or half the square of the distance,
# its sign changed
SLOPES = {"dot": 1.0, "euclidean": -1.0, "squared_euclidean": -2.0}
_BACKENDS = ("auto", "torch")

# with respect to anchors, references, logit, and the operator's own last operand
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
Needs = tuple[bool, bool, bool, bool]


def may_hold_matrices(backend: str, anchors: Tensor) -> bool:
    """Whether it is this module's to compute: on a CPU, no graph traced.

    A backend other than PyTorch's own computes problems of any size by itself.
    """
    return (
        backend in _BACKENDS
        and type(anchors) in TENSOR_TYPES
        and anchors.device.type == "cpu"
        and not torch.compiler.is_compiling()
    )


def is_small(backend: str, anchors: Tensor, references: Tensor | None) -> bool:
    """Whether the matrix of the pairs may be held whole: few pairs, on a CPU, no graph traced."""
    others = anchors if references is None else references
    return may_hold_matrices(backend, anchors) and (
        anchors.shape[0] * others.shape[0] <= MOST_PAIRS
    )


class Side(NamedTuple):
    """The rows of one side: as measured, and what their normalisation leaves for its gradient.

    unit_rows: before they are rounded, None if they are not.
    """

    rows: Tensor
    unit_rows: Tensor | None
    norms: Tensor | None

    def gradient(self, grad: Tensor) -> Tensor:
        """dL/de of the embeddings from dL/drows, which is overwritten."""
        if self.norms is None:
            return grad
        unit_rows = self.rows if self.unit_rows is None else self.unit_rows
        along = (grad * unit_rows).sum(1, keepdim=True)
        return grad.addcmul_(unit_rows, along, value=-1).div_(self.norms)


class UnitSide(Side):
    """Rows that are known to be unit rows, but for their last digits."""

    __slots__ = ()


def side_of(embeddings: Tensor, normalize: bool) -> tuple[Side, bool]:
    """The rows of the embeddings, normalised if asked, in the dtype of the statistics.

    And whether they are known to be unit rows, all finite.
    """
    is_wide = embeddings.dtype == accumulation_dtype(embeddings.dtype)
    rows = embeddings if is_wide else embeddings.float()
    if not normalize:
        return Side(rows, None, None), False
    norms = plain_norms(rows) if is_wide else None
    if norms is not None:
        return UnitSide(rows / norms, None, norms), True
    safely = safely_normalized(rows)
    unit_rows, norms = safely or normalized(rows)
    if is_wide:
        return Side(unit_rows, None, norms), safely is not None
    # half-precision rows are rounded once
    rounded = unit_rows.to(embeddings.dtype).to(rows.dtype)
    return Side(rounded, unit_rows, norms), safely is not None


class WholeMatrix:
    """The pairs of a small problem, from the forward of an operator to its backward.

    x: the measures, [n, m].  kinds: of which pairs exponentials are summed, 0 the positives and 1
    the negatives.  masks: [kinds, n, m], 1 for the pairs of that kind, 0 elsewhere.  It is its own
    ``fusedml.heads.RowSummary``: forms find the statistics they ask for.
    lse: log-sum-exps of the logits, [kinds, n].
    exp: exp(scale y), of logits that are not bounded divided by the largest of each row; sums: over
    the rows, [kinds, n].

    What ``gradient`` needs autograd keeps in between, see ``parted``: it is freed when the backward
    has used it.  kept: the attributes, tensors or None, that only this class's gradient needs.
    """

    kept: ClassVar[tuple[str, ...]]
    kinds: ClassVar[tuple[int, ...]] = (0, 1)
    needs_masks: bool = False  # whatever the logits are
    names: list[str]

    def __init__(
        self, problem: PairProblem, logit: Tensor, thresholds: Tensor | None = None
    ) -> None:
        self.problem, self.logit, self.thresholds = problem, logit, thresholds
        self.measure, self.is_self = problem.measure, problem.references is None
        self.curve = CURVES[problem.curve]
        self.is_bent = self.curve is not AFFINE and (
            self.curve.bends(True) or self.curve.bends(False)
        )
        self.dtypes = [None if side is None else side.dtype for side in problem[:2]]

    def parted(self, needs_logit: bool) -> tuple[WholeMatrix, list[Tensor | None]]:
        """What ``joined`` makes one again: an object without tensors, and the tensors."""
        names = [*self.kept, "exp", "sums"]
        if needs_logit or self.is_bent or self.measure == "euclidean":
            names.append("x")
        if self.needs_masks:
            names.append("masks")
        bare = object.__new__(type(self))
        bare.__dict__ = {
            "names": names,
            "measure": self.measure,
            "is_self": self.is_self,
            "dtypes": self.dtypes,
            "curve": self.curve,
            "is_bent": self.is_bent,
            "numbers": self.numbers,
            "scales": self.scales,
        }
        references = () if self.is_self else self.references
        return bare, [*self.anchors, *references, *map(self.__dict__.__getitem__, names)]

    def joined(self, tensors: Sequence[Any]) -> WholeMatrix:
        """The object that was ``parted``, as far as ``gradient`` needs it."""
        size = len(Side._fields)
        whole = object.__new__(type(self))
        whole.__dict__ = self.__dict__.copy()
        whole.anchors = whole.references = Side(*tensors[:size])
        if not self.is_self:
            whole.references = Side(*tensors[size : 2 * size])
            size *= 2
        whole.__dict__.update(zip(self.names, tensors[size:], strict=True))
        return whole

    def evaluate(self) -> tuple[Tensor, ...] | None:
        """The outputs, the first of them differentiable; None without pairs or if not finite."""
        raise NotImplementedError

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        """The gradients that are needed, from that of the first output.

        After ``evaluate``, or of what is ``joined`` from the parts that it has left.
        """
        raise NotImplementedError

    # ---------------------------------------------------------------------------------- forward

    def _measure_sides(self) -> bool:
        """Both sides and x of a problem with pairs; whether all rows are known to be unit rows."""
        problem = self.problem
        self.anchors, are_unit = side_of(problem.anchors, problem.normalize)
        self.references = self.anchors
        if problem.references is not None:
            self.references, are_too = side_of(problem.references, problem.normalize)
            are_unit = are_unit and are_too
        self.x = self._measures()
        return are_unit

    def load(self) -> bool:
        """Measures, masks and log-sum-exps; False if there are no pairs or some are not finite."""
        if 0 in self.problem.shape:
            return False
        are_unit = self._measure_sides()
        self.read_numbers()
        positive_shift, negative_shift = self.shifts
        self.is_bounded = are_unit and self.bounds(LARGEST_MEASURES[self.measure])
        if not self.is_bounded:
            # a tenth of the time of the norm of order inf
            low, high = torch.aminmax(self.x)
            largest_measure = max(-low.item(), high.item())
            if not math.isfinite(largest_measure):
                return False
            self.is_bounded = self.bounds(largest_measure)
        self.masks = self._masks()
        scaled = self._scaled()
        if self.is_bent and not self.is_bounded:
            # a curve may take its largest value far from where the pairs of its kind are
            largest = torch.linalg.vector_norm(scaled, math.inf).item()
            self.is_bounded = largest <= self.most_logit
        self.lse = self._log_sums(scaled)
        if len(self.kinds) == 1:
            if negative_shift:
                self.lse.add_(negative_shift)
        elif positive_shift or negative_shift:
            for of_kind, shift in zip(self.lse.unbind(), self.shifts, strict=True):
                if shift:
                    of_kind.add_(shift)
        return True

    def read_numbers(self) -> None:
        """z = scale y + shift, y being what the curve bends x to."""
        numbers = self.logit.tolist()
        self.numbers = of_positives, of_negatives = (*numbers[:2], True), (*numbers[2:], False)
        positive_scale, positive_shift = self.curve.remaining(*of_positives)
        negative_scale, negative_shift = self.curve.remaining(*of_negatives)
        self.scales = positive_scale, negative_scale
        self.shifts = positive_shift, negative_shift
        self.most_logit = 600.0 if self.x.dtype == torch.float64 else 70.0

    def bounds(self, largest_measure: float) -> bool:
        """Whether exp(scale y) neither overflows nor underflows, not even in sums of MOST_PAIRS."""
        of_positives, of_negatives = self.numbers
        largest_of = self.curve.largest
        return (
            largest_of(largest_measure, *of_positives) <= self.most_logit
            and largest_of(largest_measure, *of_negatives) <= self.most_logit
        )

    def _measures(self) -> Tensor:
        a, r = self.anchors.rows, self.references.rows
        measure = self.problem.measure
        if measure == "dot":
            return torch.mm(a, r.T)
        if (
            isinstance(self.anchors, UnitSide)
            and isinstance(self.references, UnitSide)
            and r is not a
        ):
            # of rows with themselves the squares' own roundings make 0 of equal rows
            squares = torch.addmm(ONES[a.dtype], a, r.T, beta=2, alpha=-2).clamp_(min=0)
        else:
            row_squares = torch.linalg.vecdot(a, a)
            col_squares = row_squares if r is a else torch.linalg.vecdot(r, r)
            squares = torch.addmm(col_squares, a, r.T, alpha=-2)
            squares.add_(row_squares[:, None]).clamp_(min=0)
        return squares if measure == "squared_euclidean" else squares.sqrt_()

    def _masks(self) -> Tensor:
        problem = self.problem
        rows, columns = problem.anchor_labels, problem.reference_labels
        if columns is None:
            columns = rows
        # in floating point: PyTorch's boolean operations on a CPU are several times slower
        masks = self.x.new_empty(len(self.kinds), *self.x.shape)
        one, other = rows[:, None], columns
        if are_sets(rows):
            one = alike(rows, columns)
            other = torch.ones((), dtype=torch.bool, device=one.device)
        for kind, mask in zip(self.kinds, masks.unbind(), strict=True):
            (torch.ne if kind else torch.eq)(one, other, out=mask)
        fill_excluded(masks, problem, 0)
        if self.thresholds is not None:
            positive, negative = masks.unbind()
            hardness = self.x if problem.measure == "dot" else -self.x
            below, above = self.thresholds[:, :, None]
            positive *= hardness < below
            negative *= hardness > above
        return masks

    def _log_sums(self, scaled: Tensor) -> Tensor:
        """log sum exp(scale y), [kinds, n]; -inf for an empty set.  scaled: is overwritten."""
        if self.is_bounded:
            exp = scaled.exp_()
            self.exp = exp * self.masks if exp.ndim == 2 else exp.mul_(self.masks)
            self.sums = self.exp.sum(2)
            return self.sums.log()
        logits = torch.where(self.masks == 0, _EMPTY, scaled)
        # of an empty set the least number: (-inf) - (-inf) would be NaN
        largest = logits.amax(2).clamp_(min=torch.finfo(logits.dtype).min)
        # masks may count
        self.exp = logits.sub_(largest.unsqueeze(2)).exp_().mul_(self.masks)
        self.sums = self.exp.sum(2)
        return self.sums.log().add_(largest)

    def _scaled(self) -> Tensor:
        """scale y, [2, n, m], or [n, m] if both are one or each pair has that of its own kind."""
        one, other = self.scales
        if not self.is_bent and (one == other or len(self.kinds) == 1):
            return self.x * other
        if len(self.kinds) == 1:
            # so that no logit is far beyond those of the pairs; masks may count
            return (self._bent(self.x, 1) * other).mul_(self.masks[0].clamp(max=1))
        scaled = torch.empty_like(self.masks)
        for k, of_kind in enumerate(scaled.unbind()):
            y = self._bent(self.x, k, of_kind)
            if y is not of_kind or self.scales[k] != 1:
                torch.mul(y, self.scales[k], out=of_kind)
        if not self.is_bent:
            return scaled
        # so that no logit is far beyond those of the pairs; a lerp by 0 or 1 selects exactly
        positive, negative = scaled.unbind()
        return torch.lerp(negative, positive, self.masks[0])

    def _bent(self, x: Tensor, kind: int, out: Tensor | None = None) -> Tensor:
        """y of one kind of pair, 0 the positives, in ``out``; x itself without a bend."""
        scale, shift, is_positive = self.numbers[kind]
        return self.curve.bent(x, scale, shift, is_positive, out)

    @property
    def sum_positive(self) -> Tensor:
        """sum of z over the positives, [n]."""
        y = self._bent(self.x, 0)
        sums = torch.linalg.vecdot(y, self.masks[0]).mul_(self.scales[0])
        shift = self.shifts[0]
        return sums.add_(self.counts[0], alpha=shift) if shift else sums

    @property
    def counts(self) -> Tensor:
        """Numbers of positives and of negatives, [2, n], in floating point."""
        return self.masks.sum(2)

    # --------------------------------------------------------------------------------- gradients

    def weights(
        self,
        of_lse: Tensor,
        of_sum: Tensor | None,
        needs_logit: bool,
        of_columns: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """SLOPES dL/dx, [n, m], and dL/dlogit, [4], if needed.

        From the gradients of the statistics, of_lse [kinds, n], finite for empty sets too, and
        of_sum [n] or None for 0:
        dL/dz_ij = g+_i exp(z_ij - lse+_i) + gs_i for positives, g-_i exp(z_ij - lse-_i) for
        negatives.
        of_columns: of bounded exponentials, what those of the negatives weigh in addition, [m].
        """
        # an empty set has no pair to weigh: its exponentials are 0
        weights = self.exp * (of_lse / inf_if_0(self.sums)).unsqueeze(2)
        *positives, negative = weights.unbind()
        if of_sum is not None:
            positives[0].addcmul_(self.masks[0], of_sum[:, None])
        if of_columns is not None:
            negative.addcmul_(self.exp[-1], of_columns)
        logit_grad = None
        if needs_logit:
            logit_grad = weights.new_zeros(4)
            for kind, of_kind in zip(self.kinds, weights.unbind(), strict=True):
                part = self.curve.number_gradient(of_kind, self.x, *self.numbers[kind])
                logit_grad[2 * kind : 2 * kind + 2] = part
        slope = self._slope(1)
        if not positives:
            return negative.mul_(slope), logit_grad
        total = positives[0].mul_(self._slope(0))
        if isinstance(slope, Tensor):
            return total.addcmul_(negative, slope), logit_grad
        return total.add_(negative, alpha=slope), logit_grad

    def _slope(self, kind: int, x: Tensor | None = None) -> Tensor | float:
        """SLOPES dz/dx of pairs of one kind, 0 the positives.  x: all pairs' without it."""
        if not self.is_bent:
            return self.scales[kind] * SLOPES[self.measure]
        return self.curve.slope(self.x if x is None else x, *self.numbers[kind])  # dot products

    def gradients(self, weights: Tensor, needs: Needs) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of anchors, [n, d], and references, [m, d], from SLOPES dL/dx, overwritten."""
        if self.measure == "euclidean":
            # dx/da = (a - r) / x, and 0 where x = 0
            weights = weights.div_(inf_if_0(self.x))
        references_grad = None
        if self.is_self:
            weights = weights + weights.T
        elif needs[1]:
            references_grad = self._product(weights.T, self.references, self.anchors)
            if references_grad.dtype != self.dtypes[1]:
                references_grad = references_grad.to(self.dtypes[1])
        if not needs[0]:
            return None, references_grad
        anchors_grad = self._product(weights, self.anchors, self.references)
        if anchors_grad.dtype != self.dtypes[0]:
            anchors_grad = anchors_grad.to(self.dtypes[0])
        return anchors_grad, references_grad

    def _product(self, weights: Tensor, own: Side, others: Side) -> Tensor:
        """sum_j w_ij dy_ij/d(own_i), see SLOPES, led back; w holds 1 / x for a distance."""
        grad = torch.mm(weights, others.rows)
        if self.measure != "dot":
            # though a gradient along a unit row comes to nothing: of close rows it cancels first
            grad = torch.addcmul(grad, own.rows, weights.sum(1)[:, None], value=-1)
        return own.gradient(grad)


class WholeStatistics(WholeMatrix):
    """Outputs: statistics [3, n] (lse+, lse-, sum+) and counts [2, n] (n+, n-)."""

    kept = ()
    needs_masks = True

    def evaluate(self) -> tuple[Tensor, Tensor] | None:
        if not self.load():
            return None
        return torch.cat([self.lse, self.sum_positive.unsqueeze(0)]), self.counts.long()

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        of_lse = grad[:2].masked_fill(self.sums == 0, 0)
        weights, logit_grad = self.weights(of_lse, grad[2], needs[2])
        return *self.gradients(weights, needs), logit_grad, None


class WholeRowLosses(WholeMatrix):
    """Output: L_i, [n], or what else the head makes of the rows."""

    kept = ("of_lse", "of_sum")

    def __init__(
        self,
        problem: PairProblem,
        logit: Tensor,
        thresholds: Tensor | None,
        head: str | RowForm,
        head_parameters: Tensor,
    ) -> None:
        super().__init__(problem, logit, thresholds)
        self.head, self.head_parameters = head, head_parameters

    def evaluate(self) -> tuple[Tensor] | None:
        if not self.load():
            return None
        value, self.of_lse, self.of_sum = row_form(self.head)(self, self.head_parameters)
        self.needs_masks = self.of_sum is not None
        return (value,)

    def gradient(self, grad: Tensor | float, needs: Needs) -> Gradients:
        of_sum = None if self.of_sum is None else self.of_sum * grad
        weights, logit_grad = self.weights(self.of_lse * grad, of_sum, needs[2])
        return *self.gradients(weights, needs), logit_grad, None


class WholePairLosses(WholeMatrix):
    """Outputs: the losses of the positive pairs, summed over each row, and their number, [1, n]."""

    kinds = (1,)  # the positives are listed
    kept: ClassVar[tuple[str, ...]] = (
        *("place", "rows", "columns", "positive_x"),
        *("d_logit", "d_anchor_lse", "d_reference_lse"),
    )

    def __init__(
        self,
        problem: PairProblem,
        logit: Tensor,
        reference_lse: Tensor | None,
        head: str,
        head_parameters: Tensor,
    ) -> None:
        super().__init__(problem, logit)
        self.reference_lse, self.head = reference_lse, head

    def evaluate(self) -> tuple[Tensor, Tensor] | None:
        value = self.values()
        if value is None:
            return None
        sums = self.x.new_zeros(self.x.shape[0], dtype=widest_dtype(self.x.device))
        sums.index_add_(0, self.rows, value.to(sums.dtype))
        counts = torch.bincount(self.rows, minlength=self.x.shape[0])
        return sums.to(self.x.dtype), counts.unsqueeze(0)

    def values(self) -> Tensor | None:
        """The losses of the positive pairs; None as of ``evaluate``."""
        if not self.load():
            return None
        self.rows, self.columns = self._positives()
        self.place = torch.add(self.columns, self.rows, alpha=self.x.shape[1])
        self.positive_x = self.x.view(-1).index_select(0, self.place)
        z, scale, shift = self._bent(self.positive_x, 0), self.scales[0], self.shifts[0]
        z = z if scale == 1 else z * scale
        z = z + shift if shift else z
        value, self.d_logit, self.d_anchor_lse, self.d_reference_lse = PAIR_FORMS[self.head](
            z, *self._lse_of_positives()
        )
        return value

    def _positives(self) -> tuple[Tensor, Tensor]:
        """Rows and columns of the positive pairs."""
        problem = self.problem
        of_rows, of_columns = problem.anchor_labels, problem.reference_labels
        is_positive = alike(of_rows, of_rows if of_columns is None else of_columns)
        rows, columns = fill_excluded(is_positive, problem, False).nonzero().unbind(1)
        return rows, columns

    def _lse_of_positives(self) -> tuple[Tensor, Tensor]:
        """The log-sum-exps of the negatives of both rows of each positive pair."""
        of_anchors = self.lse[-1].index_select(0, self.rows)
        of_references = self.reference_lse
        if of_references is None:  # a self problem's, or a head that does not ask for it
            if not self.is_self:
                return of_anchors, torch.zeros_like(of_anchors)
            of_references = self.lse[-1]
        return of_anchors, of_references.index_select(0, self.columns)

    def _of_columns(self, of_reference_lse: Tensor) -> Tensor | None:
        """See ``weights``; of_reference_lse: the gradient of the log-sum-exps of columns, [m]."""
        return None

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        return self.gradient_of_values(grad.index_select(0, self.rows), needs)

    def gradient_of_values(self, upstream: Tensor | float, needs: Needs) -> Gradients:
        """``gradient`` from those of the losses of the pairs, or from one for all."""
        n, m = self.anchors.rows.shape[0], self.references.rows.shape[0]
        zeros = self.d_logit.new_zeros
        of_lse = zeros(n).index_add_(0, self.rows, self.d_anchor_lse * upstream)
        of_reference_lse = of_lse if self.is_self else zeros(m)
        if self.d_reference_lse is not None:
            of_reference_lse.index_add_(0, self.columns, self.d_reference_lse * upstream)
        of_positives = self.d_logit * upstream
        of_columns = self._of_columns(of_reference_lse)
        weights, logit_grad = self.weights(of_lse.unsqueeze(0), None, needs[2], of_columns)
        if logit_grad is not None:
            numbers = self.numbers[0]
            logit_grad[:2] += self.curve.number_gradient(of_positives, self.positive_x, *numbers)
        of_positives.mul_(self._slope(0, self.positive_x))
        weights.view(-1).index_add_(0, self.place, of_positives)
        return *self.gradients(weights, needs), logit_grad, of_reference_lse if needs[3] else None


def inf_if_0(x: Tensor) -> Tensor:
    """x >= 0 with inf in the place of 0, to divide by."""
    return torch.threshold(x, 0.0, math.inf)
