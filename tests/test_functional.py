"""The losses as functions: the modules' values, and reductions."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from fusedml import dense, distances, functional, losses, reducers
from fusedml.engine.pairs import PairProblem, measure_matrix
from fusedml.formulas import Formula, SumFormula
from tests.losses.made import DIMENSION, NUM_CLASSES, PAIR_LOSSES, make_batch, make_loss

FUNCTIONS = {name: functional.FUNCTIONS[name] for name in losses.LOSSES}
EVERY = pytest.mark.parametrize("name", FUNCTIONS)
WITH_REFERENCES = PAIR_LOSSES
FORMULAS_WITH_REFERENCES = tuple(
    name
    for name in PAIR_LOSSES
    if hasattr(losses.LOSSES[name], "make_formula") and losses.LOSSES[name].has_single_losses
)


def class_vectors(name: str, like: Tensor) -> Tensor:
    torch.manual_seed(1)
    shape = losses.LOSSES[name].weights_shape(NUM_CLASSES, like.shape[1])
    return torch.randn(shape, dtype=like.dtype)


def call(name: str, embeddings: Tensor, labels: Tensor, **arguments: Any) -> Tensor:
    weights = (class_vectors(name, embeddings),) if losses.LOSSES[name].weights_name else ()
    arguments = {**losses.LOSSES[name].example_arguments, **arguments}
    return FUNCTIONS[name](embeddings, labels, *weights, **arguments)


def module(name: str, **arguments: Any) -> losses.BaseLoss:
    loss = make_loss(name, **arguments).double()
    if loss.weights_name:
        weights = getattr(loss, loss.weights_name)
        weights.data = class_vectors(name, torch.zeros(1, DIMENSION, dtype=torch.float64))
    return loss


@EVERY
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_tensor_of_its_own_is_on_the_default_device(name: str, reduction: str) -> None:
    embeddings, labels = make_batch()
    expected = call(name, embeddings, labels, reduction=reduction)
    weights = (class_vectors(name, embeddings),) if losses.LOSSES[name].weights_name else ()
    arguments = {**losses.LOSSES[name].example_arguments, "reduction": reduction}
    with torch.device("meta"):
        actual = FUNCTIONS[name](embeddings, labels, *weights, **arguments)
    assert torch.equal(actual, expected)


def test_there_is_a_function_for_every_loss() -> None:
    others = {**losses.TWO_TOWER_LOSSES, **losses.DISTILLATION_LOSSES}
    assert set(functional.FUNCTIONS) == {*losses.LOSSES, *others}
    assert functional.multi_similarity_loss is FUNCTIONS["MultiSimilarityLoss"]


@EVERY
def test_defaults_are_the_modules(name: str) -> None:
    ours = inspect.signature(FUNCTIONS[name]).parameters
    for key, parameter in inspect.signature(losses.LOSSES[name].__init__).parameters.items():
        if key in losses.LOSSES[name].hyperparameters:
            assert ours[key].default == parameter.default


@EVERY
def test_mean_is_the_module(name: str) -> None:
    embeddings, labels = make_batch(23)
    labels[3] = 5 if losses.LOSSES[name].weights_name else 77
    torch.testing.assert_close(
        call(name, embeddings, labels), module(name)(embeddings, labels), rtol=1e-12, atol=1e-12
    )


@EVERY
def test_sum_and_none(name: str) -> None:
    embeddings, labels = make_batch(23)
    single = call(name, embeddings, labels, reduction="none")
    total = call(name, embeddings, labels, reduction="sum")
    torch.testing.assert_close(single.sum(), total)
    terms = module(name, reducer=reducers.DoNothingReducer())(embeddings, labels)
    several = [info["losses"] for info in terms.values()]
    is_listed = losses.LOSSES[name].lists_sub_losses
    if is_listed:
        several = [one for one in several if one.ndim]  # the others are no single losses
    expected = torch.cat(several) if is_listed else sum(several)
    torch.testing.assert_close(single, expected)
    # any upstream gradient
    weights = torch.randn_like(single)
    actual = torch.autograd.grad((single * weights).sum(), embeddings)
    torch.testing.assert_close(actual, torch.autograd.grad((expected * weights).sum(), embeddings))


@EVERY
def test_none_of_one_row(name: str) -> None:
    """It has a loss where each row of a batch has one, whether it is in a pair or not."""
    embeddings, labels = make_batch(13)
    labels[12] = 5 if losses.LOSSES[name].weights_name else 77  # in no positive pair
    several = call(name, embeddings[:12], labels[:12], reduction="none").numel()
    one_more = call(name, embeddings, labels, reduction="none").numel()
    single = call(name, embeddings[12:], labels[12:], reduction="none")
    if several == one_more == single.numel():
        return  # of the classes, or one number of the batch
    expected = (1 if (several, one_more) == (12, 13) else 0,)
    assert single.shape == expected
    if name in WITH_REFERENCES:
        nothing = {"ref_emb": embeddings[:0].detach(), "ref_labels": labels[:0]}
        single = call(name, embeddings[12:], labels[12:], reduction="none", **nothing)
        assert single.shape == expected


def dense_losses(problem: PairProblem, formula: Formula | SumFormula) -> Tensor:
    """Row losses, or those of the positive pairs, or of the pairs of each term one by one."""
    masks = dense.pair_masks(problem)
    if not isinstance(formula, SumFormula):
        values = dense.losses(problem, formula)
        return values if values.ndim == 1 else values[masks[0]]
    references = problem.anchors if problem.references is None else problem.references
    x = measure_matrix(problem.anchors, references, problem.measure)
    scale, shift = formula.logit(1.0 if problem.measure == "dot" else -1.0).view(2, 2).unbind(1)
    return torch.cat(
        [
            term.values(scale[k] * x[masks[k]] + shift[k])
            for k, term in ((0 if term.is_positive else 1, term) for term in formula.terms)
        ]
    )


@pytest.mark.parametrize("name", FORMULAS_WITH_REFERENCES)
def test_none_against_the_dense_formula_under_any_upstream_gradient(name: str) -> None:
    embeddings, labels = make_batch(15)
    references, ref_labels = make_batch(11, seed=1)
    formula = losses.LOSSES[name]().make_formula()
    try:
        formula.logit(1.0)
    except NotImplementedError:
        pytest.skip("its logits depend on all pairs")
    fused = distances.fused_measure(losses.LOSSES[name]().distance)
    if fused is None:
        pytest.skip("its measure is no plain one")
    measure = fused.name
    normalize = torch.nn.functional.normalize
    for others, other_labels in ((None, None), (references, ref_labels)):
        problem = PairProblem(
            normalize(embeddings),
            None if others is None else normalize(others),
            labels,
            other_labels,
            measure,
            others is None,
        )
        expected = dense_losses(problem, formula)
        actual = call(
            name, embeddings, labels, reduction="none", ref_emb=others, ref_labels=other_labels
        )
        torch.testing.assert_close(actual, expected)
        weights = torch.randn_like(actual)
        inputs = [embeddings] if others is None else [embeddings, references]
        torch.testing.assert_close(
            torch.autograd.grad((actual * weights).sum(), inputs),
            torch.autograd.grad((expected * weights).sum(), inputs),
        )


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_result_is_float32(name: str, dtype: torch.dtype) -> None:
    embeddings, labels = make_batch(dtype=dtype)
    for reduction in ("mean", "sum", "none"):
        assert call(name, embeddings, labels, reduction=reduction).dtype == torch.float32


@EVERY
@pytest.mark.parametrize("n", [0, 1])
def test_few_rows(name: str, n: int) -> None:
    embeddings, labels = make_batch(n)
    for reduction in ("mean", "sum", "none"):
        value = call(name, embeddings, labels, reduction=reduction)
        (grad,) = torch.autograd.grad(value.sum(), embeddings)
        assert torch.isfinite(grad).all()
    if n == 0:
        assert call(name, embeddings, labels) == 0


@pytest.mark.parametrize("name", WITH_REFERENCES)
def test_one_reference_is_their_zero(name: str) -> None:
    x, y = make_batch(1)
    for reduction in ("mean", "sum", "none"):
        value = call(name, x, y, reduction=reduction, ref_emb=x * 2, ref_labels=y.clone())
        assert not value.any()
        value.sum().backward()


@EVERY
def test_bad_arguments(name: str) -> None:
    embeddings, labels = make_batch()
    with pytest.raises(
        ValueError, match="reduction must be one of 'mean', 'sum', 'none', got 'avg'"
    ):
        call(name, embeddings, labels, reduction="avg")
    with pytest.raises(ValueError, match="backend must be one of"):
        call(name, embeddings, labels, backend="cpu")
    with pytest.raises(ValueError, match="Number of embeddings must equal number of labels"):
        call(name, embeddings, labels[1:])
    with pytest.raises(ValueError, match="backend='cuda' needs embeddings on a CUDA device"):
        call(name, embeddings, labels, backend="cuda")
    for key in losses.LOSSES[name].hyperparameters:
        with pytest.raises(TypeError, match=f"{key} must be a number or a tensor, got str"):
            call(name, embeddings, labels, **{key: "1"})


@EVERY
@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
def test_distance(name: str) -> None:
    embeddings, labels = make_batch()
    for distance in (
        distances.DotProductSimilarity(normalize_embeddings=False),
        distances.LpDistance(power=2),
        distances.LpDistance(p=1),
    ):
        expected = module(name, distance=distance)(embeddings * 0.2, labels)
        torch.testing.assert_close(
            call(name, embeddings * 0.2, labels, distance=distance), expected
        )


def test_mining_thresholds() -> None:
    embeddings, labels = make_batch()
    for distance in (distances.CosineSimilarity(), distances.LpDistance()):
        sign = 1 if distance.is_inverted else -1
        y = sign * distance(embeddings).detach()
        positive = (labels[:, None] == labels) & ~torch.eye(20, dtype=torch.bool)
        negative = labels[:, None] != labels
        expected = torch.stack(
            [
                y.masked_fill(~negative, -torch.inf).amax(1) + 0.1,
                y.masked_fill(~positive, torch.inf).amin(1) - 0.1,
            ]
        )
        actual = functional.mining_thresholds(embeddings, labels, 0.1, distance=distance)
        torch.testing.assert_close(actual, expected)
        assert not actual.requires_grad
    with pytest.raises(ValueError, match=r"distance must be a cosine, .* got LpDistance"):
        functional.mining_thresholds(
            embeddings, labels, 0.1, distance=distances.LpDistance(power=5)
        )
