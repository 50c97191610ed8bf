"""Sums and means of terms over pairs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.engine.autograd.choices import as_tiled, is_held, is_held_whole, of_list, records
from fusedml.engine.averaged import EVERYTHING
from fusedml.engine.few_means import FewMeans
from fusedml.engine.few_positives import are_paired
from fusedml.engine.formulas_by_rows import held
from fusedml.engine.functions import SmallOperator, differentiable
from fusedml.engine.linear_sums import are_linear, linear_sums
from fusedml.engine.ops import measure_and_curve
from fusedml.engine.paired_sums import PairedSums, may_be_paired_sums
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.reductions.given import Given
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.whole_centred import WholeCentredMeans
from fusedml.engine.whole_means import Over, WholeMeans
from fusedml.engine.whole_slopes import WholeSlopes
from fusedml.engine.whole_sums import WholeSums
from fusedml.heads import PairSums
from fusedml.terms import Term, packed

# of each kind of pair, kMostTermsOfKind of the kernels
MOST_TERMS_OF_KIND = 2


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
        return linear_sums(as_tiled(problem), logit, terms)
    if may_be_paired_sums(backend, problem) and are_paired(problem):
        operands = problem.anchors, problem.references, logit, shifts
        needs = [records(x) for x in operands[:3]]
        paired = PairedSums(problem, logit, terms, shifts, both_sides, needs)
        formula = held("pair_sums", problem, (terms, both_sides))
        outputs = SmallOperator.apply(paired, *formula, *operands)
        if outputs is not None:
            return PairSums(*outputs[:2], *outputs[2].unbind(0))
    if not both_sides and is_held_whole(backend, problem):
        # values without slopes take a pass less
        keeps = WholeSlopes.serves(problem, terms) and records(*problem[:2], logit, shifts)
        whole = (WholeSlopes if keeps else WholeSums)(problem, logit, terms, shifts)
        formula = held("pair_sums", problem, (terms, False))
        operands = problem.anchors, problem.references, logit, shifts
        outputs = SmallOperator.apply(whole, *formula, *operands)
        if outputs is not None:
            return PairSums(*outputs[:2], *outputs[2].unbind(0))
    problem = as_tiled(problem)
    if shifts is not None:
        shifts = shifts.to(accumulation_dtype(problem.anchors.dtype))
    sums, _, counts, numbers = differentiable(
        "pair_sums",
        backend,
        *problem[:4],
        logit,
        measure_and_curve(problem),
        problem.excluded,
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
    over: Over,
    indices: PairIndices | None = None,
    backend: str = "auto",
) -> Tensor | None:
    """sum_k weights[k] mean_k, 0-d; over: of which pairs each mean is.

    indices: pairs, each as often as it is listed; None for all by label.
    Differentiable in embeddings and logit.  None of a problem that is not held whole, unless few
    pairs are listed, and if not all is finite.
    """
    if not is_held(backend, problem, indices) or problem.curve != AFFINE.name:
        return None
    rest = terms, weights, over
    kind = FewMeans if FewMeans.serves(logit, terms, over, indices) else WholeMeans
    means = kind(problem, logit, *rest, indices, records(*problem[:2], logit))
    formula = held("pair_means", problem, rest, indices or (), has_labels=indices is None)
    return of_list(means, formula, problem, logit, EVERYTHING)


def centred_means(
    problem: PairProblem,
    scales: Tensor,
    terms: tuple[Term, ...],
    shares: Sequence[float],
    indices: PairIndices | None = None,
    backend: str = "auto",
) -> Tensor | None:
    """sum_k mean f_k(z), 0-d, z = scale (x - share mean x), over all pairs of the term's kind.

    scales, shares: of positives and of negatives; scales [2], constants.  indices: pairs, each as
    often as it is listed; None for all by label.
    Differentiable in the embeddings.  None as of ``pair_means``.
    """
    if not is_held(backend, problem, indices) or problem.curve != AFFINE.name:
        return None
    rest = terms, shares
    means = WholeCentredMeans(problem, scales, *rest, indices, records(*problem[:2]))
    formula = held("centred_means", problem, rest, indices or (), has_labels=indices is None)
    return of_list(means, formula, problem, scales, EVERYTHING)


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


def entry_sums(given: Given, terms: tuple[Term, ...], shifts: Tensor | None = None) -> PairSums:
    """:func:`pair_sums` of given measures; differentiable in x, logit and shifts."""
    args = *given, shifts, packed(terms)
    sums, _, counts, numbers = differentiable("entry_sums", "torch", *args)
    return PairSums(sums, counts, *numbers.unbind(0))
