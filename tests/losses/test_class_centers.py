"""Losses with several vectors of each class: few at once, and by strips of rows and by tiles."""

from __future__ import annotations

import copy

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from torch.nn.functional import cross_entropy, normalize
from torch.utils.flop_counter import FlopCounterMode

from fusedml import distances, functional, reducers
from fusedml.engine import group_losses
from fusedml.engine.autograd import group_statistics
from fusedml.engine.formulas_by_rows import blocks
from fusedml.engine.tiled import groups
from fusedml.errors import DistanceError
from fusedml.losses import LOSSES, SoftTripleLoss, SubCenterArcFaceLoss, class_centers
from fusedml.losses.class_centers import ClassCentersLoss
from tests.losses.made import DIMENSION, NUM_CLASSES, gradient, make_batch, make_loss

NAMES = [name for name, loss in LOSSES.items() if issubclass(loss, ClassCentersLoss)]
EVERY = pytest.mark.parametrize("name", NAMES)
TILES = pytest.mark.usefixtures("whole_or_tiles")


@pytest.fixture
def strips(monkeypatch) -> None:
    """Few measures as more are."""
    nothing = dict.fromkeys(class_centers.FEW_MEASURES, 0)
    monkeypatch.setattr(class_centers, "FEW_MEASURES", nothing)


@pytest.fixture
def whole_or_tiles(whole_or_tiles, strips):
    """By strips in the place of all at once."""
    return whole_or_tiles


def make(name: str, centers: int, **arguments) -> ClassCentersLoss:
    torch.manual_seed(0)
    arguments[LOSSES[name].vectors_per_class_name] = centers
    return make_loss(name, **arguments).double()


@TILES
@EVERY
@pytest.mark.parametrize("centers", [1, 2, 3, 5, 10, 17])
@pytest.mark.parametrize("size", [(128, 1024), (7, 11), (1, 1)])
def test_any_number_of_centers_and_any_tiles(
    name, centers, size, whole_or_tiles, monkeypatch
) -> None:
    monkeypatch.setattr(groups, "TILE_ROWS", size[0])
    monkeypatch.setattr(groups, "TILE_COLUMNS", size[1])
    if group_losses.STRIP_ELEMENTS > 0:
        monkeypatch.setattr(group_losses, "LEAST_ROWS", 1)
        monkeypatch.setattr(group_losses, "STRIP_ELEMENTS", size[0] * centers * NUM_CLASSES)
    ours, (x, y) = make(name, centers), make_batch()
    sizes = {"num_classes": NUM_CLASSES, "embedding_size": DIMENSION}
    theirs = getattr(pml_losses, name)(**sizes, **{ours.vectors_per_class_name: centers})
    theirs.load_state_dict(ours.state_dict())
    actual, expected = ours(x, y), theirs.double()(x, y)
    torch.testing.assert_close(actual, expected)
    for a, e in zip(
        torch.autograd.grad(actual, [x, *ours.parameters()]),
        torch.autograd.grad(expected, [x, *theirs.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(a, e)


@TILES
@EVERY
def test_hyperparameters_receive_gradients(name: str) -> None:
    loss, (x, y) = make(name, 3), make_batch()
    values = [torch.tensor(float(getattr(loss, key))).double() for key in loss.hyperparameters]
    values = [value.requires_grad_() for value in values]

    def value(*numbers):
        arguments = dict(zip(loss.hyperparameters, numbers, strict=True))
        arguments[loss.vectors_per_class_name] = 3
        weights = getattr(loss, loss.weights_name).detach()
        return functional.FUNCTIONS[name](x.detach(), y, weights, **arguments)

    torch.autograd.gradcheck(value, values)


@TILES
def test_of_equal_centers_the_first_one_moves() -> None:
    loss, (x, y) = make("SubCenterArcFaceLoss", 3), make_batch()
    # products with these are exact, so that equal vectors have equal cosines
    loss.W.data.copy_(torch.eye(DIMENSION)[:, :NUM_CLASSES].repeat_interleave(3, dim=1))
    (grad,) = torch.autograd.grad(loss(x, y), loss.W)
    grad = grad.T.view(NUM_CLASSES, 3, DIMENSION)
    assert grad[:, 0].any(1).all()
    assert not grad[:, 1:].any()


@TILES
@EVERY
@pytest.mark.parametrize("are_bounded", [True, False])
def test_a_single_class_has_no_loss(name: str, are_bounded: bool) -> None:
    x, _ = make_batch()
    scale = {} if are_bounded else beyond_exponents(name)
    loss = LOSSES[name].of_sizes(1, DIMENSION, **scale).double()
    value, grad = gradient(loss, x, torch.zeros(20, dtype=torch.int64))
    assert value == 0
    assert not grad.any()


def beyond_exponents(name: str) -> dict[str, float]:
    """With which exp of the measures, or of the logits, overflows, in float64 too."""
    return {"gamma": 1e-4, "la": 1e4} if name == "SoftTripleLoss" else {"scale": 3000.0}


def dense_gradients(loss: ClassCentersLoss, x, y, upstream) -> tuple[torch.Tensor, ...]:
    """Of sum_i upstream_i L_i by embeddings and vectors."""
    weights = getattr(loss, loss.weights_name)
    dense = copy.copy(loss)
    dense.backend = "dense"
    losses = dense.losses_of(*dense.operands(x), y)
    return losses, *torch.autograd.grad(losses, [x, weights], upstream)


@TILES
@EVERY
@pytest.mark.parametrize("is_even", [True, False])
def test_any_gradient_may_come_from_above(name: str, is_even: bool) -> None:
    loss, (x, y) = make(name, 3), make_batch()
    upstream = torch.full((20,), 0.3) if is_even else torch.randn(20)
    upstream = upstream.double()
    losses = loss.losses_of(*loss.operands(x), y)
    inputs = [x, getattr(loss, loss.weights_name)]
    expected = dense_gradients(loss, x, y, upstream)
    for _ in range(2):  # nothing kept is overwritten
        grads = torch.autograd.grad(losses, inputs, upstream, retain_graph=True)
        for a, e in zip((losses, *grads), expected, strict=True):
            torch.testing.assert_close(a, e)


@TILES
@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exponents_beyond_the_dtype(name: str, dtype: torch.dtype) -> None:
    loss, (x, y) = make(name, 3, **beyond_exponents(name)), make_batch()
    expected = dense_gradients(loss, x, y, torch.ones(20).double())
    x, loss = x.detach().to(dtype).requires_grad_(), loss.to(dtype)
    losses = loss.losses_of(*loss.operands(x), y)
    grads = torch.autograd.grad(losses.sum(), [x, getattr(loss, loss.weights_name)])
    rtol = {torch.float64: 1e-9, torch.float32: 5e-3}[dtype]
    for a, e in zip((losses, *grads), expected, strict=True):
        assert torch.linalg.vector_norm(a - e) <= rtol * torch.linalg.vector_norm(e)


@TILES
@EVERY
def test_what_is_not_a_number_stays_so(name: str) -> None:
    loss, (x, y) = make(name, 3), make_batch()
    x.data[4, 1] = torch.nan
    losses = loss.losses_of(*loss.operands(x), y)
    assert torch.equal(losses.isnan(), torch.arange(20) == 4)
    (x_grad,) = torch.autograd.grad(losses.sum(), x)
    assert torch.equal(x_grad.isnan().any(1), torch.arange(20) == 4)


@pytest.mark.usefixtures("strips")
@EVERY
@pytest.mark.parametrize(("is_even", "products"), [(True, 3), (False, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_a_step(name: str, is_even: bool, products: int, dtype: torch.dtype) -> None:
    loss, (x, y) = make(name, 3).to(dtype), make_batch()
    x = x.detach().to(dtype).requires_grad_()
    upstream = torch.ones(20) if is_even else torch.rand(20)
    with FlopCounterMode(display=False) as counter:
        losses = loss.losses_of(*loss.operands(x), y)
        torch.autograd.grad(losses, [x, *loss.parameters()], upstream.to(dtype))
    assert counter.get_total_flops() == products * 2 * 20 * 3 * NUM_CLASSES * DIMENSION


@EVERY
@pytest.mark.parametrize("pairs", [blocks.BLOCK_PAIRS, 7 * NUM_CLASSES * 3])
def test_second_derivative(name: str, pairs: int, whole_or_tiles, monkeypatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_PAIRS", pairs)
    loss, (x, y) = make(name, 3), make_batch()
    weights = getattr(loss, loss.weights_name)

    def value(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(loss, {loss.weights_name: weights}, (x, y))

    torch.autograd.gradgradcheck(value, (x, weights.detach().requires_grad_()), fast_mode=True)


@EVERY
@pytest.mark.parametrize(("centers", "arguments"), [(1, {}), (3, {}), (4, {"margin": 0.3})])
def test_few_at_once(name: str, centers: int, arguments: dict, strips, monkeypatch) -> None:
    """As by strips: the losses, their gradients, and those of the hyperparameters."""
    loss, (x, y) = make(name, centers, **arguments), make_batch()
    learnt = []
    for key in loss.hyperparameters:
        value = torch.tensor(float(getattr(loss, key))).double().requires_grad_()
        setattr(loss, key, value)
        learnt.append(value)
    leaves = [x, *loss.parameters(), *learnt]
    value = loss(x, y)
    by_strips = value, *torch.autograd.grad(value, leaves)
    everything = dict.fromkeys(class_centers.FEW_MEASURES, 1)
    monkeypatch.setattr(class_centers, "FEW_MEASURES", everything)
    monkeypatch.setattr(class_centers, "group_losses", None)  # not called
    value = loss(x, y)
    at_once = value, *torch.autograd.grad(value, leaves)
    torch.testing.assert_close(at_once, by_strips)


def test_nothing_of_rows_by_classes_is_kept() -> None:
    loss = SoftTripleLoss(500, DIMENSION)
    x = torch.randn(2000, DIMENSION, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        loss(x, torch.arange(2000) % 500)
    assert max(kept) <= 5000 * DIMENSION < 2000 * 500


def test_get_outliers() -> None:
    x, y = make_batch(200)
    x, y = x.detach(), y[torch.randperm(200)] % 5  # class 5 has no sample
    ours = make("SubCenterArcFaceLoss", 4)
    theirs = pml_losses.SubCenterArcFaceLoss(
        num_classes=NUM_CLASSES, embedding_size=DIMENSION, sub_centers=4
    )
    theirs.load_state_dict(ours.state_dict())
    for threshold in (50, 75):
        outliers, centers = ours.get_outliers(x, y, threshold)
        expected, expected_centers = theirs.double().get_outliers(x, y, threshold)
        assert 0 < len(outliers) < 200
        assert torch.equal(outliers, expected)
        torch.testing.assert_close(centers[:, :5], expected_centers[:, :5])
        assert not centers[:, 5].any()
        assert torch.equal(ours.get_outliers(x, y, threshold, False), outliers)


@TILES
@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
def test_another_similarity_by_blocks() -> None:
    class Half(distances.DotProductSimilarity):
        def compute_mat(self, query_emb, ref_emb):
            return super().compute_mat(query_emb, ref_emb) / 2

    loss, (x, y) = make("SoftTripleLoss", 3, distance=Half()), make_batch()
    s = (normalize(x) @ normalize(loss.fc, dim=0) / 2).view(20, NUM_CLASSES, 3)
    s = (torch.softmax(s / 0.1, 2) * s).sum(2)
    margin = torch.nn.functional.one_hot(y, NUM_CLASSES) * 0.01
    expected = cross_entropy(20 * (s - margin), y)
    torch.testing.assert_close(loss(x, y), expected)


@pytest.mark.parametrize(
    "size, dtype, got", [(17, torch.float32, "got 17"), (3, torch.float64, "3 of torch.float64")]
)
def test_cuda_says_what_it_has_no_kernels_of(size: int, dtype: torch.dtype, got: str) -> None:
    rows, vectors = torch.zeros(2, 3), torch.zeros(4, size, 3, dtype=dtype)
    labels, logit = torch.zeros(2, dtype=torch.int64), torch.zeros(4, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"at most 16 vectors of a class, .*{got}"):
        group_statistics(rows, vectors, labels, logit, "maximum", None, "cuda")


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="sub_centers must be at least 1, got 0"):
        SubCenterArcFaceLoss(3, 4, sub_centers=0)
    with pytest.raises(DistanceError, match="must be a similarity for SoftTripleLoss, got Lp"):
        SoftTripleLoss(3, 4, distance=distances.LpDistance())
    x, y = make_batch()
    with pytest.raises(ValueError, match="fc must have centers_per_class = 4 vectors of each"):
        functional.soft_triple_loss(x, y, torch.zeros(DIMENSION, 10), centers_per_class=4)


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("name", ["SubCenterArcFaceLoss", "SoftTripleLoss"])
def test_a_sweep_saves_one_tensor_of_the_size_of_the_vectors(name):
    loss = LOSSES[name](50, 8)
    vectors = getattr(loss, loss.weights_name)
    kept = set()

    def pack(x):
        storage = x.untyped_storage()
        if storage.nbytes() >= vectors.untyped_storage().nbytes():
            kept.add(storage.data_ptr())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss(torch.randn(10, 8), torch.arange(10))
    assert len(kept - {vectors.untyped_storage().data_ptr()}) == 1


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("name", ["SubCenterArcFaceLoss", "SoftTripleLoss"])
def test_a_second_backward_finds_the_same_gradient_in_memory_of_its_own(name):
    loss = LOSSES[name](50, 8)
    vectors = getattr(loss, loss.weights_name)
    value = loss(torch.randn(10, 8), torch.arange(10))
    (one,) = torch.autograd.grad(value, vectors, retain_graph=True)
    before = one.clone()
    (other,) = torch.autograd.grad(2 * value, vectors)
    assert torch.equal(one, before)
    torch.testing.assert_close(other, 2 * one)


def _listed(n: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randint(n - 3, (2 * n,), generator=generator) for _ in range(4))


@TILES
@EVERY
@pytest.mark.parametrize("are_averaged", [True, False])
def test_a_tuples_weights_are_known_to_the_sweep(
    name: str, are_averaged: bool, monkeypatch
) -> None:
    reducer = None if are_averaged else reducers.DoNothingReducer()
    loss, (x, y) = make(name, 3, reducer=reducer), make_batch()
    theirs = copy.deepcopy(loss)
    theirs.backend = "dense"
    # the whole sweep in the forward: none in the backward of a mean
    if are_averaged and group_losses.STRIP_ELEMENTS > 0:
        monkeypatch.setattr(group_losses, "operator", None)
    grads = []
    for one in (loss, theirs):
        value = one(x, y, _listed(20))
        if not are_averaged:
            value = (value["loss"]["losses"] * torch.arange(20)).sum()
        grads.append((value, *torch.autograd.grad(value, [x, *one.parameters()])))
    torch.testing.assert_close(*grads)


@EVERY
def test_second_derivatives_with_a_tuple(name: str, strips) -> None:
    loss, (x, y) = make(name, 3), make_batch()

    def value(x):
        return loss(x, y, _listed(20))

    if LOSSES[name].has_second_derivative:
        torch.autograd.gradgradcheck(value, [x])
