"""Index tuples that list many pairs, or of small problems: losses by blocks of the matrix."""

from __future__ import annotations

import gc

import pytest
import torch

from fusedml.distances import CosineSimilarity, LpDistance
from fusedml.engine import list_sizes, marked
from fusedml.engine.formulas_by_rows import blocks as blocks_of_rows
from fusedml.losses import (
    GeneralizedLiftedStructureLoss,
    LiftedStructureLoss,
    MultiSimilarityLoss,
    NTXentLoss,
    SupConLoss,
)
from fusedml.reducers import DoNothingReducer, MeanReducer, SumReducer

N, M = 23, 17
LOSSES = {
    "multi_similarity": MultiSimilarityLoss,
    "mined": lambda **kwargs: MultiSimilarityLoss(mining_epsilon=0.1, **kwargs),
    "generalized_lifted_structure": GeneralizedLiftedStructureLoss,
    "sup_con": SupConLoss,
    "sup_con, large logits": lambda **kwargs: SupConLoss(temperature=1e-3, **kwargs),
}
DISTANCES = [CosineSimilarity(), LpDistance(), LpDistance(normalize_embeddings=False, power=2)]


def random_tuple(m: int) -> tuple[torch.Tensor, ...]:
    is_positive, is_listed = torch.rand(N, m) < 0.3, torch.rand(N, m) < 0.8
    is_listed.fill_diagonal_(False)  # the matrix form of a distance cannot say 0 exactly
    positive, negative = (is_positive & is_listed).nonzero(), (~is_positive & is_listed).nonzero()
    return *positive.unbind(1), *negative.unbind(1)


@pytest.fixture(params=["one block", "blocks"])
def blocks(request, monkeypatch):
    if request.param == "blocks":
        monkeypatch.setattr(marked, "MOST_PAIRS", 0)
        monkeypatch.setattr(marked, "BLOCK_PAIRS", 5 * M)
        monkeypatch.setattr(marked, "_ENOUGH_ROWS", 0)


@pytest.fixture
def used(monkeypatch):
    """The number of evaluations by marks."""
    calls = []
    make = marked.marked_row_losses
    monkeypatch.setattr(marked, "marked_row_losses", lambda *args: calls.append(0) or make(*args))
    return calls


def by_list(monkeypatch):
    monkeypatch.setattr(list_sizes, "_FEW_PAIRS", 0)
    monkeypatch.setattr(list_sizes, "_PAIRS_PER_DENSE", 0)


def losses_and_gradients(loss, embeddings, references, indices):
    x = embeddings.clone().requires_grad_()
    r = None if references is None else references.clone().requires_grad_()
    info = loss(x, None, indices, r)["loss"]
    weights = torch.linspace(0.1, 1, N, dtype=info["losses"].dtype)
    inputs = [x] if r is None else [x, r]
    return info["losses"], *torch.autograd.grad((info["losses"] * weights).sum(), inputs)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("distance", DISTANCES, ids=["cosine", "euclidean", "squared"])
@pytest.mark.parametrize("m", [None, M])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_it_is_the_list_in_every_dtype(name, distance, m, dtype, blocks, used, monkeypatch):
    embeddings = torch.randn(N, 6, dtype=dtype)
    references = None if m is None else torch.randn(m, 6, dtype=dtype)
    indices = random_tuple(m or N)
    loss = LOSSES[name](distance=distance, reducer=DoNothingReducer())
    ours = losses_and_gradients(loss, embeddings, references, indices)
    assert used
    by_list(monkeypatch)
    exact_references = None if references is None else references.double()
    same = losses_and_gradients(loss, embeddings, references, indices)
    exact = losses_and_gradients(loss, embeddings.double(), exact_references, indices)
    for one, other, truth in zip(ours, same, exact, strict=True):
        largest = truth.abs().max()
        floor = largest * max(1e-12, 10 * torch.finfo(dtype).eps)
        error, allowed = (one - truth).abs().max(), 2 * (other - truth).abs().max() + floor
        assert error <= allowed


def test_a_learnt_temperature_gets_its_gradient(blocks, used, monkeypatch):
    x, indices = torch.randn(N, 6, dtype=torch.float64), random_tuple(N)

    def gradient():
        loss = SupConLoss(temperature=torch.nn.Parameter(torch.tensor(0.2, dtype=torch.float64)))
        loss(x, None, indices).backward()
        return loss.temperature.grad

    ours = gradient()
    assert used
    by_list(monkeypatch)
    torch.testing.assert_close(ours, gradient())


def test_a_learnt_alpha_is_left_to_the_list(used):
    loss = MultiSimilarityLoss(alpha=torch.nn.Parameter(torch.tensor(2.0)))
    loss(torch.randn(N, 6), None, random_tuple(N)).backward()
    assert loss.alpha.grad != 0
    assert not used


def test_a_positive_alone_in_its_row_has_no_loss(blocks):
    x = torch.randn(N, 6, dtype=torch.float64)
    rows = torch.arange(N - 1)
    indices = rows, rows + 1, torch.tensor([0, 0]), torch.tensor([3, 4])
    losses = SupConLoss(temperature=0.3, reducer=DoNothingReducer())(x, None, indices)
    assert losses["loss"]["losses"][0] > 0
    assert (losses["loss"]["losses"][1:] == 0).all()


def test_non_finite_embeddings_make_the_loss_nan(blocks):
    x = torch.randn(N, 6)
    x[3, 2] = torch.inf
    assert MultiSimilarityLoss()(x, None, random_tuple(N)).isnan()


def test_an_overflow_is_left_to_the_list(blocks, monkeypatch):
    x, indices = torch.randn(N, 6) * 1e15, random_tuple(N)
    distance = LpDistance(normalize_embeddings=False, power=2)
    loss = GeneralizedLiftedStructureLoss(distance=distance, reducer=DoNothingReducer())
    ours = losses_and_gradients(loss, x * 1e15, None, indices)
    by_list(monkeypatch)
    expected = losses_and_gradients(loss, x * 1e15, None, indices)
    torch.testing.assert_close(ours, expected, equal_nan=True)


def test_the_same_bits_again(blocks):
    x, indices = torch.randn(N, 6), random_tuple(N)
    loss = MultiSimilarityLoss(reducer=DoNothingReducer())
    one, other = (losses_and_gradients(loss, x, None, indices) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_backward_frees_and_refuses_a_second_time(blocks):
    x = torch.randn(N, 6, requires_grad=True)
    loss = MultiSimilarityLoss()(x, None, random_tuple(N))
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    gc.collect()
    kept = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.shape[-2:] == (N, N)]
    assert not kept


@pytest.mark.parametrize("loss", [LOSSES["mined"], LOSSES["sup_con"], LiftedStructureLoss])
def test_second_derivative(loss, blocks, monkeypatch):
    monkeypatch.setattr(blocks_of_rows, "BLOCK_PAIRS", 5 * M)
    x, r = (torch.randn(k, 6, dtype=torch.float64, requires_grad=True) for k in (N, M))
    indices = random_tuple(M)
    torch.autograd.gradgradcheck(
        lambda x, r: loss()(x, None, indices, r, None), (x, r), fast_mode=True
    )


PAIR_LOSSES = {
    "nt_xent": NTXentLoss,
    "nt_xent, large logits": lambda **kwargs: NTXentLoss(temperature=0.01, **kwargs),
    "lifted_structure": LiftedStructureLoss,
}


@pytest.fixture
def counted(monkeypatch):
    """The number of evaluations by counts."""
    calls = []
    evaluate = marked.CountedPairLosses.evaluate

    def counting(self):
        outputs = evaluate(self)
        calls.append(outputs is not None)
        return outputs

    monkeypatch.setattr(marked.CountedPairLosses, "evaluate", counting)
    return calls


def repeating_tuple(m: int, *, with_diagonal: bool = False) -> tuple[torch.Tensor, ...]:
    """Pairs of which some are listed twice, one as both, and a row without any negative."""
    rows, columns, negative_rows, negative_columns = random_tuple(m)
    keep = negative_rows != rows[0]
    negative_rows, negative_columns = negative_rows[keep], negative_columns[keep]
    twice = torch.arange(0, len(rows), 3)
    if with_diagonal:
        rows, columns = torch.cat([rows, rows[:2]]), torch.cat([columns, rows[:2]])
    return (
        torch.cat([rows, rows[twice], negative_rows[:1]]),
        torch.cat([columns, columns[twice], negative_columns[:1]]),
        torch.cat([negative_rows, negative_rows[::5]]),
        torch.cat([negative_columns, negative_columns[::5]]),
    )


def value_and_gradients(loss, embeddings, references, indices):
    x = embeddings.clone().requires_grad_()
    r = None if references is None else references.clone().requires_grad_()
    value = loss(x, None, indices, r)
    return value, *torch.autograd.grad(value, [x] if r is None else [x, r])


@pytest.mark.parametrize("name", PAIR_LOSSES)
@pytest.mark.parametrize("distance", DISTANCES, ids=["cosine", "euclidean", "squared"])
@pytest.mark.parametrize("reducer", [MeanReducer, SumReducer])
@pytest.mark.parametrize("m", [None, M])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_pair_losses_are_the_lists(name, distance, reducer, m, dtype, counted, monkeypatch):
    embeddings = torch.randn(N, 6, dtype=dtype)
    references = None if m is None else torch.randn(m, 6, dtype=dtype)
    indices = repeating_tuple(m or N, with_diagonal=isinstance(distance, CosineSimilarity))
    loss = PAIR_LOSSES[name](distance=distance, reducer=reducer())
    ours = value_and_gradients(loss, embeddings, references, indices)
    assert counted == [True]
    by_list(monkeypatch)
    exact_references = None if references is None else references.double()
    same = value_and_gradients(loss, embeddings, references, indices)
    exact = value_and_gradients(loss, embeddings.double(), exact_references, indices)
    assert len(counted) <= 1
    # exp(z - lse), of two numbers that are rounded
    logits = distance(embeddings.double(), exact_references).abs().max() / 0.01
    for one, other, truth in zip(ours, same, exact, strict=True):
        largest = truth.abs().max()
        floor = largest * max(1e-12, (10 + logits / 4) * torch.finfo(dtype).eps)
        error, allowed = (one - truth).abs().max(), 2 * (other - truth).abs().max() + floor
        assert error <= allowed


@pytest.mark.parametrize(
    ("cls", "name"), [(NTXentLoss, "temperature"), (LiftedStructureLoss, "neg_margin")]
)
@pytest.mark.parametrize("m", [None, M])
def test_pair_losses_give_a_learnt_number_its_gradient(cls, name, m, counted, monkeypatch):
    x, indices = torch.randn(N, 6, dtype=torch.float64), repeating_tuple(m or N)
    references = None if m is None else torch.randn(m, 6, dtype=torch.float64)

    def gradient():
        number = torch.nn.Parameter(torch.tensor(0.2, dtype=torch.float64))
        cls(**{name: number})(x, None, indices, references).backward()
        return number.grad

    ours = gradient()
    assert ours != 0
    assert counted == [True]
    by_list(monkeypatch)
    torch.testing.assert_close(ours, gradient())


def test_exponentials_of_columns_that_may_overflow_are_the_lists(counted, monkeypatch):
    x, r = torch.randn(N, 6, dtype=torch.float64) * 1e3, torch.randn(M, 6, dtype=torch.float64)
    loss = LiftedStructureLoss(distance=LpDistance(normalize_embeddings=False))
    indices = repeating_tuple(M)
    ours = value_and_gradients(loss, x, r, indices)
    assert counted == [False]
    by_list(monkeypatch)
    torch.testing.assert_close(ours, value_and_gradients(loss, x, r, indices))


def test_pair_losses_of_what_is_not_finite_are_nan(counted):
    x = torch.randn(N, 6)
    x[3, 2] = torch.inf
    assert NTXentLoss()(x, None, repeating_tuple(N)).isnan()
    assert counted == [False]
