"""Kernels see rows sorted by label; nobody else notices.

The kernels are the tiled operators here, registered as a backend's own, which note the labels they
see.  tests/emulated/test_sorted_losses.py has the real ones.
"""

from __future__ import annotations

from functools import wraps

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from fusedml import functional
from fusedml.distances import CosineSimilarity, DotProductSimilarity, LpDistance, fused_measure
from fusedml.engine import ops
from fusedml.engine.backends import has_kernels
from fusedml.engine.routes import label_order
from fusedml.engine.routes.fused import FusedPairs
from fusedml.engine.routes.proxies import proxy_pairs
from fusedml.formulas import SumFormula, pack
from fusedml.losses import (
    LOSSES,
    LiftedStructureLoss,
    MultiSimilarityLoss,
    NTXentLoss,
    ProxyAnchorLoss,
    SupConLoss,
)
from fusedml.reducers import DoNothingReducer
from fusedml.terms import hinge
from tests.problems import make_problem

BACKEND = "noting"
SEEN: list[tuple[torch.Tensor, torch.Tensor | None]] = []
N, M = 150, 130


def noting(kernel):
    @wraps(kernel)
    def run(*args):
        SEEN.append((args[2], args[3]))
        return kernel(*args)

    return run


KERNELS = {
    name: noting(kernel) if "anchor_labels" in ops.SCHEMAS[name] else kernel
    for name, kernel in ops.TILED_KERNELS.items()
}
LIBRARY = ops.register_backend("fusedml_noting", KERNELS, "CPU")


@pytest.fixture(autouse=True)
def _backend(monkeypatch):
    monkeypatch.setitem(ops.BACKENDS, BACKEND, "fusedml_noting")
    monkeypatch.setattr(label_order, "LEAST_ROWS", 100)
    SEEN.clear()


def is_sorted(labels):
    return bool((labels[1:] >= labels[:-1]).all())


def make_pairs(kind, backend=BACKEND, distance=None, dtype=torch.float64):
    problem = {
        "self": make_problem(N, None, 30, dtype=dtype, scale=3.0, requires_grad=True),
        "references": make_problem(N, M, 30, dtype=dtype, scale=3.0, requires_grad=True),
        "shared labels": make_problem(N, N, 30, dtype=dtype, scale=3.0, requires_grad=True),
    }[kind]
    if kind == "shared labels":
        labels = problem.anchor_labels
        problem = problem._replace(reference_labels=labels, exclude_diagonal=True)
    measure = fused_measure(CosineSimilarity() if distance is None else distance)
    leaves = [x for x in problem[:2] if x is not None]
    return FusedPairs(problem, measure, backend), leaves


KINDS = ["self", "references", "shared labels"]
DISTANCES = [CosineSimilarity(), DotProductSimilarity(), LpDistance()]


def everything_of(pairs):
    """All that a FusedPairs computes for each row or pair, in the order it gives them."""
    lifted = pairs.pair_losses(LiftedStructureLoss().make_formula())
    sums, listed = lifted.rows(), lifted.listed()
    nt_xent = pairs.pair_losses(NTXentLoss().make_formula())
    shifts = torch.linspace(-1, 1, 2 * N, dtype=torch.float64).view(2, N)
    terms = hinge(True), hinge(False)
    shifted = SumFormula(lambda _: pack(-1, 0.3, 1, -0.1), terms, shifts)
    learnable = MultiSimilarityLoss(alpha=torch.tensor(2.0, requires_grad=True)).make_formula()
    return [
        pairs.row_losses(SupConLoss().make_formula()),
        pairs.row_losses(MultiSimilarityLoss().make_formula(), 0.1),
        pairs.row_losses(learnable),
        *pairs.row_statistics(SupConLoss().make_formula()),
        pairs.mining_thresholds(0.2),
        *sums,
        *listed[:3],
        *nt_xent.rows(),
        *nt_xent.listed()[:3],
        *pairs.pair_sums(shifted),
        torch.as_tensor(pairs.has_negative()),
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distance", DISTANCES, ids=lambda x: type(x).__name__)
def test_everything_is_as_without(kind, distance):
    ours, leaves = make_pairs(kind, distance=distance)
    expected, expected_leaves = make_pairs(kind, "torch", distance)
    assert is_sorted(ours.problem.anchor_labels)
    assert not is_sorted(expected.problem.anchor_labels)
    for k, (a, e) in enumerate(zip(everything_of(ours), everything_of(expected), strict=True)):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10)
        assert a.requires_grad == e.requires_grad
        if not a.requires_grad:
            continue
        weights = torch.randn(e.shape, generator=torch.Generator().manual_seed(k)).to(e)
        weights[~e.isfinite()] = 0
        grads, expected_grads = (
            torch.autograd.grad(torch.where(x.isfinite(), x, 0), of, weights, retain_graph=True)
            for x, of in ((a, leaves), (e, expected_leaves))
        )
        torch.testing.assert_close(grads, expected_grads, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_number_types(dtype):
    ours, leaves = make_pairs("self", dtype=dtype)
    expected, expected_leaves = make_pairs("self", "torch", dtype=dtype)
    losses, expected_losses = (
        pairs.row_losses(SupConLoss().make_formula()) for pairs in (ours, expected)
    )
    torch.testing.assert_close(losses, expected_losses)
    grads, expected_grads = (
        torch.autograd.grad(x.sum(), of)
        for x, of in ((losses, leaves), (expected_losses, expected_leaves))
    )
    # the gradients of the rows are rounded before those are divided by their norms
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    assert (grads[0] - expected_grads[0]).abs().max() <= tolerance * grads[0].abs().max()


def test_the_kernels_see_ascending_labels():
    for kind in KINDS:
        pairs, _ = make_pairs(kind)
        losses = pairs.pair_losses(LiftedStructureLoss().make_formula())
        total = (
            pairs.row_losses(MultiSimilarityLoss().make_formula(), 0.1).sum() + losses.rows().mean()
        )
        (total + losses.listed().losses.sum()).backward()
    assert len(SEEN) > 20
    for rows, columns in SEEN:
        assert is_sorted(rows)
        assert columns is None or is_sorted(columns)


def test_the_diagonal_stays_the_diagonal():
    pairs, _ = make_pairs("shared labels")
    assert pairs.rows is pairs.columns
    pairs, _ = make_pairs("references")
    assert pairs.rows is not pairs.columns


def test_proxies_stay_where_they_are():
    proxies = torch.randn(110, 5, dtype=torch.float64, requires_grad=True)
    embeddings = torch.randn(N, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(110, (N,))
    results = []
    for backend in (BACKEND, "torch"):
        losses = functional.proxy_anchor_loss(
            embeddings, labels, proxies, reduction="none", backend=backend
        )
        results.append([losses, *torch.autograd.grad(losses.sum(), [embeddings, proxies])])
    torch.testing.assert_close(*results)
    for rows, columns in SEEN:
        assert torch.equal(rows, torch.arange(110))
        assert torch.equal(columns, labels.sort().values)
    loss = ProxyAnchorLoss.of_weights(proxies, backend=BACKEND)
    pairs = proxy_pairs(proxies, embeddings, labels, loss.distance, loss.pairs_of)
    assert pairs.rows is None
    assert pairs.columns is not None


def test_who_is_not_sorted(monkeypatch):
    def orders(problem, backend=BACKEND):
        return label_order.label_orders(problem, backend)

    problem = make_problem(N, M, 30)
    assert None not in orders(problem)
    assert orders(problem, "torch") == orders(problem, "auto") == (None, None)
    assert orders(problem._replace(extent=torch.tensor([N, M]))) == (None, None)
    monkeypatch.setattr(label_order, "LEAST_ROWS", M + 1)
    assert orders(problem) == (None, None)
    monkeypatch.undo()
    assert label_order.LEAST_ROWS == 4096


def test_which_backends_have_kernels():
    x = torch.zeros(1, 1)
    assert has_kernels(BACKEND, x)
    assert not has_kernels("auto", x)
    assert not has_kernels("torch", x)


@pytest.mark.parametrize("name", ["NTXentLoss", "LiftedStructureLoss"])
def test_listed_pairs_come_row_by_row(name):
    embeddings = torch.randn(N, 5, dtype=torch.float64)
    labels = torch.randint(30, (N,))
    ours, expected = (
        LOSSES[name](reducer=DoNothingReducer(), backend=backend)(embeddings, labels)["loss"]
        for backend in (BACKEND, "torch")
    )
    torch.testing.assert_close(ours["losses"], expected["losses"])
    torch.testing.assert_close(ours["indices"], expected["indices"])
    assert is_sorted(ours["indices"][0])


# ------------------------------------------------------------------- the machinery of PyTorch


def nt_xent(embeddings):
    labels = torch.arange(N) * 7 % 30
    return functional.nt_xent_loss(embeddings, labels, backend=BACKEND)


@pytest.fixture
def embeddings():
    return torch.randn(N, 5, dtype=torch.float64, requires_grad=True)


def test_functional_gradient_and_checkpoint(embeddings):
    (expected,) = torch.autograd.grad(nt_xent(embeddings), embeddings)
    torch.testing.assert_close(torch.func.grad(nt_xent)(embeddings.detach()), expected)
    recomputed = checkpoint(nt_xent, embeddings, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(recomputed, embeddings)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_compiles_to_one_graph(kind):
    # KINDS by what the caller gives
    labels, other_labels = torch.randint(30, (2, N))
    embeddings, references = torch.randn(2, N, 5, dtype=torch.float64)
    given = {
        "self": (None, None),
        "references": (references, other_labels),
        "shared labels": (references, labels),
    }[kind]

    def loss(x):
        return functional.lifted_structure_loss(
            x, labels, ref_emb=given[0], ref_labels=given[1], backend=BACKEND
        )

    x = embeddings.requires_grad_()
    expected = torch.autograd.grad(loss(x), x)
    SEEN.clear()
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x), expected)
    torch._dynamo.reset()
    assert SEEN
    assert all(is_sorted(rows) for rows, _ in SEEN)


def test_second_derivative_raises(embeddings):
    (grad,) = torch.autograd.grad(nt_xent(embeddings), embeddings, create_graph=True)
    with pytest.raises(NotImplementedError, match="can be differentiated once"):
        grad.sum().backward()


def test_same_bits_on_two_runs(embeddings):
    one, other = (torch.autograd.grad(nt_xent(embeddings), embeddings)[0] for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize("m", [None, M])
@pytest.mark.parametrize(
    "exclude_diagonal, anchors_sorted", [(False, False), (True, False), (False, True)]
)
@pytest.mark.parametrize("least_rows", [100, 1000])
def test_labels_are_known_to_be_sorted_where_they_are(
    m, exclude_diagonal, anchors_sorted, least_rows, monkeypatch
):
    monkeypatch.setattr(label_order, "LEAST_ROWS", least_rows)
    problem = make_problem(N, m, 9, exclude_diagonal=exclude_diagonal)
    if anchors_sorted:
        labels = problem.anchor_labels.sort().values
        problem = problem._replace(anchor_labels=labels, anchors_sorted=True)
    measure = fused_measure(DotProductSimilarity())
    assert measure is not None
    found = FusedPairs(problem, measure, BACKEND).problem
    sides = [x for x in (found.anchor_labels, found.reference_labels) if x is not None]
    assert found.labels_sorted == all(torch.equal(x, x.sort().values) for x in sides)
