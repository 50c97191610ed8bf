"""Every loss on the GPU: its value and gradient against float64, and under PyTorch's machinery."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from benchmarks.cases import Case, as_dtype, make_problem
from fusedml import losses
from fusedml.losses import LOSSES
from tests.gpu.device import BACKEND, DEVICE, DEVICES, IS_EMULATED, needs_gpu
from tests.loss_accuracy import all_pairs, check_loss, make_loss, value_and_gradients
from tests.losses.made import PAIR_LOSSES
from tests.number_types import all_number_types

# whose terms do not look at the negatives of a pair's second row
WITHOUT_REFERENCE_LSE = [
    name for name in PAIR_LOSSES if not getattr(LOSSES[name], "needs_reference_lse", False)
]

NUM_CLASSES = 300


def module_of(name, weights=None):
    return make_loss(name, BACKEND, weights)


def case_of(name, n, d):
    return Case(name, n, d, num_classes=NUM_CLASSES, dtype="float64", device=DEVICE)


@all_number_types
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "n, d", [(131, 40)] if IS_EMULATED else [(131, 40), (1030, 128), (900, 512)]
)
def test_value_and_gradients(number_type, name, n, d):
    check_loss(case_of(name, n, d), number_type, BACKEND)


@pytest.mark.parametrize("name", [x for x in LOSSES if LOSSES[x].gradient_is_derivative])
def test_gradcheck(name):
    case = case_of(name, 12 if LOSSES[name].members_per_class else 9, 4)
    problem = make_problem(case)
    module = module_of(name, problem.weights)
    assert torch.autograd.gradcheck(lambda x: module(x, problem.labels), problem.embeddings)


def test_mining_agrees_with_pytorch():
    problem = make_problem(case_of("MultiSimilarityLoss", 200, 16))
    ours, theirs = (
        value_and_gradients(
            losses.MultiSimilarityLoss(mining_epsilon=0.1, backend=backend)(
                problem.embeddings, problem.labels
            ),
            problem,
        )
        for backend in (BACKEND, "torch")
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("has_references", [False, True])
@pytest.mark.parametrize(
    "options",
    [{"mining": "nearest_semihard"}, {"swap": True}, {"swap": True, "mining": "semihard"}],
    ids=str,
)
def test_triplets_agree_with_pytorch(options, has_references):
    problem = make_problem(case_of("TripletMarginLoss", 140, 24))
    labels = torch.arange(140, device=DEVICE) % 30
    references = torch.randn(90, 24, dtype=torch.float64, device=DEVICE, requires_grad=True)
    others = (None, references, labels[:90].flip(0)) if has_references else ()
    sides = [problem.embeddings, references][: 1 + has_references]
    results = []
    for backend in (BACKEND, "torch"):
        loss = losses.TripletMarginLoss(backend=backend, **options)
        value = loss(problem.embeddings, labels, *others)
        results.append((value, *torch.autograd.grad(value, sides)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", ["MultiSimilarityLoss", "NTXentLoss", "SupConLoss"])
def test_references_agree_with_pytorch(name):
    problem = make_problem(case_of(name, 140, 24))
    references = torch.randn(90, 24, dtype=torch.float64, device=DEVICE, requires_grad=True)
    labels = torch.randint(40, (90,), device=DEVICE)
    results = []
    for backend in (BACKEND, "torch"):
        loss = getattr(losses, name)(backend=backend)(
            problem.embeddings, problem.labels, ref_emb=references, ref_labels=labels
        )
        results.append((loss, *torch.autograd.grad(loss, [problem.embeddings, references])))
    torch.testing.assert_close(*results)


@all_number_types
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_listed_value_and_gradients(number_type, name):
    check_loss(case_of(name, 131, 72), number_type, BACKEND, listed=True)


@pytest.mark.parametrize("name", [n for n, loss in LOSSES.items() if loss.takes_tuples])
def test_index_tuples_agree_with_pytorch(name):
    problem = make_problem(case_of(name, 60, 24))
    labels = torch.arange(60, device=DEVICE) % 12
    i, p, j, n = all_pairs(labels)
    listed = (i[::3], p[::3], j[::5], n[::5])
    results = []
    for backend in (BACKEND, "torch"):
        loss = make_loss(name, backend, problem.weights)
        results.append(value_and_gradients(loss(problem.embeddings, labels, listed), problem))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", WITHOUT_REFERENCE_LSE)
def test_index_tuples_with_references_agree_with_pytorch(name):
    problem = make_problem(case_of(name, 60, 24))
    references = torch.randn(30, 24, dtype=torch.float64, device=DEVICE, requires_grad=True)
    rows, columns = torch.arange(60, device=DEVICE), torch.arange(60, device=DEVICE) % 30
    listed = (rows, columns, rows, (columns + 1) % 30)
    results = []
    for backend in (BACKEND, "torch"):
        loss = make_loss(name, backend)(problem.embeddings, None, listed, ref_emb=references)
        results.append((loss, *torch.autograd.grad(loss, [problem.embeddings, references])))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("device", DEVICES)
def test_learnable_hyperparameter(device):
    problem = make_problem(case_of("MultiSimilarityLoss", 100, 16))
    results = []
    for backend in (BACKEND, "torch"):
        base = torch.nn.Parameter(torch.tensor(0.4, dtype=torch.float64, device=device))
        loss = losses.MultiSimilarityLoss(base=base, backend=backend)(
            problem.embeddings, problem.labels
        )
        results.append((loss, *torch.autograd.grad(loss, [problem.embeddings, base])))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@needs_gpu
def test_autocast(dtype):
    problem = as_dtype(make_problem(case_of("MultiSimilarityLoss", 300, 64)), torch.float32)
    module = module_of("MultiSimilarityLoss")
    expected = module(problem.embeddings, problem.labels)
    with torch.autocast("cuda", dtype):
        loss = module(problem.embeddings, problem.labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)
    loss.backward()
    assert problem.embeddings.grad.dtype == torch.float32


@pytest.mark.parametrize("name", LOSSES)
@needs_gpu
def test_compiles_to_one_graph(name):
    problem = as_dtype(make_problem(case_of(name, 200, 32)), torch.float32)
    module = module_of(name, problem.weights)
    expected = value_and_gradients(module(problem.embeddings, problem.labels), problem)
    fullgraph = LOSSES[name].takes_references
    compiled = torch.compile(module, fullgraph=fullgraph, backend="aot_eager")
    loss = compiled(problem.embeddings, problem.labels)
    torch.testing.assert_close(value_and_gradients(loss, problem), expected)


def test_checkpoint():
    problem = make_problem(case_of("SupConLoss", 100, 16))
    module = module_of("SupConLoss")
    expected = value_and_gradients(module(problem.embeddings, problem.labels), problem)
    loss = checkpoint(module, problem.embeddings, problem.labels, use_reentrant=False)
    torch.testing.assert_close(value_and_gradients(loss, problem), expected)


def test_row_weights():
    # reduction="none" with an arbitrary gradient for each row
    from fusedml.functional import multi_similarity_loss  # noqa: PLC0415

    problem = make_problem(case_of("MultiSimilarityLoss", 150, 16))
    weights = torch.randn(150, dtype=torch.float64, device=DEVICE)
    results = []
    for backend in (BACKEND, "torch"):
        rows = multi_similarity_loss(
            problem.embeddings, problem.labels, reduction="none", backend=backend
        )
        results.append((rows, *torch.autograd.grad(rows @ weights, problem.embeddings)))
    torch.testing.assert_close(*results)
