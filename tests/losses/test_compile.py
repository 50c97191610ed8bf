"""torch.compile: one graph for every loss, kept when hyper-parameters change."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import torch
from pytorch_metric_learning import miners
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from torch._dynamo.utils import counters

import fusedml
from fusedml import functional
from fusedml.engine import formulas_by_rows
from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes import triplets
from fusedml.engine.traced import WithProperties
from fusedml.formulas import PairFormula, RowFormula, SumFormula
from fusedml.losses import LOSSES
from fusedml.reducers import MeanReducer, SumReducer, ThresholdReducer
from tests.losses.made import (
    NAMES,
    ONE_OF_EACH_KIND,
    PAIR_LOSSES,
    gradient,
    make_batch,
    make_loss,
    require_tuples,
)

# Their graphs are lowered for autograd, which takes as long again as tracing them; the others' are
# run as they are traced.
LOWERED = ONE_OF_EACH_KIND[::2]


def backend_of(name: str) -> str:
    return "aot_eager" if name in LOWERED else "eager"


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", NAMES)
def test_one_graph_for_all_hyperparameters(name: str) -> None:
    loss = make_loss(name).double()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    for step in range(3):
        for key in loss.hyperparameters:
            value = getattr(loss, key)
            if isinstance(value, torch.nn.Parameter):
                value.data.mul_(1 + 0.1 * step)
            elif value is not None:
                setattr(loss, key, value * (1 + 0.1 * step))
        embeddings, labels = make_batch(seed=step)
        actual, expected = (gradient(f, embeddings, labels) for f in (compiled, loss))
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)
    assert counters["stats"]["unique_graphs"] == 1


# each kind of loss with references in one of two ways: traced with their gradient, or without
PAIR_KINDS = [name for name in ONE_OF_EACH_KIND if name in PAIR_LOSSES]


@pytest.mark.parametrize("name", PAIR_KINDS[1::2])
def test_references(name: str) -> None:
    loss = make_loss(name).double()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    embeddings, labels = make_batch()
    references, ref_labels = make_batch(13, seed=1)
    torch.testing.assert_close(
        compiled(embeddings, labels, None, references, ref_labels),
        loss(embeddings, labels, None, references, ref_labels),
    )


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_without_gradients(name: str) -> None:
    loss = make_loss(name).double()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    embeddings, labels = make_batch()
    with torch.no_grad():
        torch.testing.assert_close(compiled(embeddings, labels), loss(embeddings, labels))


@pytest.mark.parametrize("name", PAIR_KINDS[::2])
def test_references_without_gradients(name: str) -> None:
    loss = make_loss(name)
    compiled = torch.compile(loss, fullgraph=True, backend=backend_of(name))
    embeddings, labels = make_batch()
    references, ref_labels = make_batch(13, seed=1)
    others = (None, references.detach(), ref_labels)
    actual, expected = (gradient(f, embeddings, labels, *others) for f in (compiled, loss))
    torch.testing.assert_close(actual, expected)


def test_mining() -> None:
    loss = make_loss("MultiSimilarityLoss", mining_epsilon=0.1)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    embeddings, labels = make_batch()
    for epsilon in (0.1, 0.3):
        loss.mining_epsilon = epsilon
        torch.testing.assert_close(compiled(embeddings, labels), loss(embeddings, labels))
    assert counters["stats"]["unique_graphs"] == 1


def repeated(indices: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The same positives and negatives in another order, nine of either twice."""

    def order(size: int) -> torch.Tensor:
        return torch.cat([torch.arange(size), torch.randint(size, (9,))])[torch.randperm(size + 9)]

    positive, negative = order(len(indices[0])), order(len(indices[2]))
    orders = (positive, positive, negative, negative)
    return tuple(i[order] for i, order in zip(indices, orders, strict=True))


@pytest.mark.parametrize(
    ("listed", "name"),
    [("repeated", name) for name in ONE_OF_EACH_KIND]
    + [(listed, "MultiSimilarityLoss") for listed in ("triplets", "of references")]
    + [(listed, "HistogramLoss") for listed in ("triplets", "repeated")],
)
def test_index_tuples(name: str, listed: str) -> None:
    require_tuples(LOSSES[name])
    loss = make_loss(name).double()
    compiled = torch.compile(loss, fullgraph=True, backend=backend_of(name))
    for seed in (0, 1):
        embeddings, labels = make_batch(seed=seed)
        mined = miners.MultiSimilarityMiner(epsilon=0.3)(embeddings, labels)
        others: tuple[torch.Tensor, ...] = ()
        if listed == "repeated":
            mined = repeated(mined)
        elif listed == "triplets":
            mined = miners.TripletMarginMiner(margin=0.1)(embeddings, labels)
        elif listed == "of references":
            references, ref_labels = make_batch(33, seed=5)
            others = references.detach(), ref_labels
            miner = miners.MultiSimilarityMiner(epsilon=0.3)
            mined = repeated(miner(embeddings, labels, *others))
        assert all(len(index) > 1 for index in mined)
        for index in mined if listed == "repeated" else ():
            torch._dynamo.maybe_mark_dynamic(index, 0)  # not first traced for this one length
        actual, expected = (
            gradient(f, embeddings, labels, mined, *others) for f in (compiled, loss)
        )
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize("name", ["TripletMarginLoss", "BPRLoss"])
@pytest.mark.parametrize(
    "reducer", [None, MeanReducer(), SumReducer(), ThresholdReducer(low=0.01, high=3.0)]
)
def test_triplets_of_long_lists_of_pairs(name: str, reducer, is_whole: bool, monkeypatch) -> None:
    """In a graph, too, they take memory by their number, not by positives x negatives."""
    if not triplets._CAPTURES_LISTS:
        pytest.skip("PyTorch before 2.13")
    monkeypatch.setattr(triplets, "_MOST_COMPARED", 10)
    monkeypatch.setattr(triplets.TripletLosses, "of_all_pairs", None)
    loss = make_loss(name, reducer=reducer).double()
    compiled = torch.compile(loss, fullgraph=is_whole, backend="aot_eager")
    for seed in range(3):
        embeddings, labels = make_batch(seed=seed)
        mined = miners.MultiSimilarityMiner(epsilon=0.2 + seed / 10)(embeddings, labels)
        mined = repeated(mined)
        actual, expected = (gradient(f, embeddings, labels, mined) for f in (compiled, loss))
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    positive = torch.arange(4), torch.arange(4) + 6
    apart = (*positive, torch.arange(4) + 12, torch.arange(4))  # which make no triplet
    actual = compiled(embeddings, labels, apart)
    assert actual == 0


@pytest.mark.parametrize("name", ["MarginLoss", "NTXentLoss", "TripletMarginLoss"])
def test_reducers_of_single_losses(name: str) -> None:
    loss = make_loss(name, reducer=ThresholdReducer(low=0.01, high=3.0))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    embeddings, labels = make_batch()
    actual, expected = (gradient(f, embeddings, labels) for f in (compiled, loss))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_index_tuples_that_are_mined_again() -> None:
    loss = make_loss("MultiSimilarityLoss", mining_epsilon=0.1)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    embeddings, labels = make_batch()
    pairs = repeated(lmu.get_all_pairs_indices(labels))
    for epsilon in (0.1, 0.3):
        loss.mining_epsilon = epsilon
        actual, expected = (gradient(f, embeddings, labels, pairs) for f in (compiled, loss))
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
        exact = gradient(loss, embeddings, labels)
        torch.testing.assert_close(actual, exact, rtol=1e-12, atol=1e-12)
    assert counters["stats"]["unique_graphs"] == 1


def test_autocast() -> None:
    loss = make_loss("SupConLoss")
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    embeddings, labels = make_batch(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(compiled(embeddings, labels), loss(embeddings, labels))


def test_learnable_hyperparameter() -> None:
    loss = make_loss("NTXentLoss", temperature=torch.nn.Parameter(torch.tensor(0.2).double()))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    embeddings, labels = make_batch()
    actual = torch.autograd.grad(compiled(embeddings, labels), loss.temperature)
    expected = torch.autograd.grad(loss(embeddings, labels), loss.temperature)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", ["MultiSimilarityLoss", "NPairsLoss", "LiftedStructureLoss"])
def test_one_graph_for_all_batch_sizes(name: str) -> None:
    loss = make_loss(name)
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="eager")
    for n in (20, 33, 130):
        embeddings, labels = make_batch(n)
        torch.testing.assert_close(compiled(embeddings, labels), loss(embeddings, labels))
    assert counters["stats"]["unique_graphs"] == 1


def test_functions() -> None:
    embeddings, labels = make_batch()

    def total(x, temperature):
        row = fusedml.pair_statistics(x, labels, negative_scale=1 / temperature)
        of_tensor = functional.sup_con_loss(x, labels, temperature=temperature)
        of_numbers = functional.multi_similarity_loss(x, labels, beta=20.0)
        return of_tensor + of_numbers + row.lse_negative.sum()

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    for number in (0.1, 0.2, 0.3):
        temperature = torch.tensor(number, dtype=torch.float64, requires_grad=True)
        actual, expected = (f(embeddings, temperature) for f in (compiled, total))
        torch.testing.assert_close(actual, expected)
        inputs = [embeddings, temperature]
        torch.testing.assert_close(
            torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, inputs)
        )
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_function_of_every_loss(name: str) -> None:
    loss, (embeddings, labels) = make_loss(name).double(), make_batch()
    given = [embeddings]
    if loss.weights_name is not None:
        given.append(getattr(loss, loss.weights_name).detach().clone().requires_grad_())

    def function(embeddings, *weights):
        arguments = LOSSES[name].example_arguments
        return functional.FUNCTIONS[name](embeddings, labels, *weights, **arguments)

    compiled = torch.compile(function, fullgraph=True, backend=backend_of(name))
    actual, expected = compiled(*given), function(*given)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, given), torch.autograd.grad(expected, given)
    )


def test_named_tuples_have_their_properties_in_a_graph() -> None:
    """Also under PyTorch 2.10; but for the insides of operators, which nothing traces."""
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(fusedml.__path__, "fusedml.")
        if not module.name.startswith(("fusedml.engine.tiled", "fusedml.__main__", "fusedml._C"))
    ]
    tuples = {
        x
        for module in modules
        for x in vars(module).values()
        if isinstance(x, type) and issubclass(x, tuple) and x.__module__ == module.__name__
    }
    with_properties = {
        x for x in tuples if any(isinstance(y, property) for y in vars(x).values())
    } - {formulas_by_rows.Held}
    assert PairProblem in with_properties
    assert {x.__name__ for x in with_properties if not issubclass(x, WithProperties)} == set()


@pytest.mark.parametrize("formula", [RowFormula, PairFormula, SumFormula])
def test_what_formulas_have_unasked_is_known_to_compilers(formula: type) -> None:
    """The graphs of PyTorch 2.10 and 2.11 take an object of ours from a module, not from there."""
    unasked = formula._field_defaults.values()  # type: ignore[attr-defined]
    assert {type(value) for value in unasked} <= {str, bool, type(None)}
