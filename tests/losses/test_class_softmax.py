"""Losses with a learnt vector for each class: formulas, margins, weights, labels, edge cases."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, one_hot

from fusedml import distances, functional, losses
from fusedml.errors import DistanceError, LabelError
from fusedml.losses import LOSSES
from fusedml.losses.arc_face import with_angle
from fusedml.losses.class_softmax import ClassSoftmaxLoss
from fusedml.reducers import SumReducer
from tests.losses.made import DIMENSION, NUM_CLASSES, gradient, make_batch, make_loss

NAMES = [name for name, loss in LOSSES.items() if issubclass(loss, ClassSoftmaxLoss)]
EVERY = pytest.mark.parametrize("name", NAMES)
WITH_VECTORS = [*NAMES, "CenterLoss"]


def cosines(loss: nn.Module, x: Tensor) -> Tensor:
    return normalize(x) @ normalize(loss.W, dim=0)


def norm_face(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(loss.scale * cosines(loss, x), y)


def am_softmax(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(64 * (cosines(loss, x) - 0.35 * one_hot(y, NUM_CLASSES)), y)


def l2_softmax(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(loss.alpha * normalize(x) @ loss.W + loss.bias, y)


def proxy_nca_of_the_first_paper(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    z = (normalize(x)[:, None] - normalize(loss.proxies)).square().sum(2)
    own = one_hot(y, NUM_CLASSES).bool()
    return (z[own] + (-z).masked_fill(own, -math.inf).logsumexp(1)).mean()


def center(loss: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (x - one_hot(y, NUM_CLASSES).double() @ loss.centers).square().sum(1).mean()


FORMULAS: list[tuple[str, dict[str, object], Callable[..., Tensor]]] = [
    ("NormFaceLoss", {"scale": 3.0}, norm_face),
    ("AMSoftmaxLoss", {}, am_softmax),
    ("L2SoftmaxLoss", {"alpha": 3.0, "learn_alpha": True}, l2_softmax),
    ("ProxyNCALoss", {"exclude_positive": True}, proxy_nca_of_the_first_paper),
    ("CenterLoss", {}, center),
]


@pytest.mark.also_emulated
@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.parametrize("name, arguments, formula", FORMULAS, ids=[f[0] for f in FORMULAS])
def test_what_pytorch_metric_learning_has_not(name, arguments, formula) -> None:
    loss = make_loss(name, **arguments).double()
    for parameter in loss.parameters():
        if parameter.ndim == 1:  # a bias, which begins with zeros
            nn.init.normal_(parameter)
    x, y = make_batch()
    inputs = [x, *loss.parameters()]
    actual, expected = loss(x, y), formula(loss, x, y)
    torch.testing.assert_close(actual, expected.double())
    torch.testing.assert_close(
        torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, inputs)
    )


@EVERY
def test_get_logits(name: str) -> None:
    x, _ = make_batch(dtype=torch.float32)
    ours = make_loss(name)
    if hasattr(pml_losses, name):
        theirs = getattr(pml_losses, name)(num_classes=NUM_CLASSES, embedding_size=DIMENSION)
        theirs.load_state_dict(ours.state_dict())
        torch.testing.assert_close(ours.get_logits(x), theirs.get_logits(x))
    logits = ours.get_logits(x)
    assert logits.shape == (20, NUM_CLASSES)
    assert logits.requires_grad


@pytest.mark.parametrize("name", WITH_VECTORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_parameters_keep_their_dtype(name: str, dtype: torch.dtype) -> None:
    x, y = make_batch(dtype=dtype)
    loss = make_loss(name)
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    value = loss(x, y)
    value.backward()
    assert value.dtype == x.grad.dtype == dtype
    for key, parameter in loss.named_parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        assert torch.equal(parameter, before[key])


@pytest.mark.also_emulated
@pytest.mark.usefixtures("whole_or_tiles")
@EVERY
def test_a_single_class_has_loss_and_gradients_of_zero(name: str) -> None:
    x, y = make_batch()
    arguments = dict.fromkeys(set(LOSSES[name].switches) & {"exclude_positive"}, True)
    for given in ({}, arguments):
        loss = LOSSES[name](1, DIMENSION, **given).double()
        value = loss(x, y * 0)
        # the log-sum-exp of a logit is itself up to rounding
        assert value.abs() <= 1e-13
        for grad in torch.autograd.grad(value, [x, *loss.parameters()]):
            assert grad.abs().max() <= 1e-12


@pytest.mark.parametrize("name", WITH_VECTORS)
@pytest.mark.parametrize("label", [-1, NUM_CLASSES])
def test_labels_out_of_range_raise(name: str, label: int) -> None:
    x, y = make_batch()
    y[7] = label
    with pytest.raises(LabelError, match=rf"\[0, num_classes\) = \[0, {NUM_CLASSES}\), got"):
        make_loss(name)(x, y)
    for bad in (y.float(), y > 2):
        with pytest.raises(LabelError, match="labels must be integers"):
            make_loss(name)(x, bad)


@pytest.mark.parametrize("name", ["ArcFaceLoss", "SphereFaceLoss", "NormFaceLoss", "CenterLoss"])
def test_labels_out_of_range_are_nan_where_nothing_is_read(name: str) -> None:
    x, y = make_batch()
    torch._dynamo.reset()
    loss = make_loss(name).double()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    for label in (-1, NUM_CLASSES):
        y[7] = label
        assert compiled(x, y).isnan()
    assert torch.equal(compiled(x, y.clamp(0, 5)).isfinite(), torch.tensor(True))


@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.parametrize("sign", [1, -1])
@EVERY
def test_an_embedding_along_its_own_vector(name: str, sign: int) -> None:
    """The slopes of angles are infinite there; what they act on is not."""
    for dtype in (torch.float32, torch.float64):
        loss = make_loss(name).to(dtype)
        vectors = getattr(loss, loss.weights_name).detach()
        vectors = vectors.T if loss.weights_are_columns else vectors
        x, y = (sign * 3 * vectors).clone().requires_grad_(), torch.arange(NUM_CLASSES)
        y = y.repeat_interleave(loss.vectors_per_class)
        value = loss(x, y)
        assert value.isfinite()
        for grad in torch.autograd.grad(value, [x, *loss.parameters()]):
            assert grad.isfinite().all()


@pytest.mark.parametrize("degrees", [0.0, 5.73, 28.6, 95.0])
def test_an_angle_is_added(degrees: float) -> None:
    m = math.radians(degrees)
    theta = torch.linspace(0, math.pi, 1001, dtype=torch.float64)
    actual = with_angle(theta.cos(), degrees)
    expected = torch.where(theta <= math.pi - m, (theta + m).cos(), theta.cos() - m * math.sin(m))
    away = (theta - math.pi + m).abs() > 1e-6  # it jumps there
    torch.testing.assert_close(actual[away], expected[away], rtol=1e-12, atol=1e-12)
    inner = torch.linspace(-0.99, 0.99, 25, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda s: with_angle(s, degrees), inner)


def test_the_margin_may_be_learnt() -> None:
    x, y = make_batch()
    margin = nn.Parameter(torch.tensor(20.0).double())
    loss = losses.ArcFaceLoss(NUM_CLASSES, DIMENSION, margin=margin).double()
    torch.autograd.gradcheck(
        lambda m: functional.arc_face_loss(x, y, loss.W, margin=m), margin, atol=1e-4
    )
    (grad,) = torch.autograd.grad(loss(x, y), loss.margin)
    assert grad > 0


@pytest.mark.parametrize("name", ["LargeMarginSoftmaxLoss", "SphereFaceLoss"])
@pytest.mark.parametrize("margin", [1, 2, 3, 4, 5, 7])
def test_multiple_angles(name: str, margin: int) -> None:
    ours = make_loss(name, margin=margin).double()
    theirs = getattr(pml_losses, name)(NUM_CLASSES, DIMENSION, margin=margin).double()
    theirs.load_state_dict(ours.state_dict())
    x, y = make_batch()
    torch.testing.assert_close(gradient(ours, x, y), gradient(theirs, x, y))


def test_whole_margins_only() -> None:
    assert losses.SphereFaceLoss(3, 4, margin=2.7).margin == 2
    for name in ("LargeMarginSoftmaxLoss", "SphereFaceLoss"):
        with pytest.raises(ValueError, match="margin must be at least 1, got 0"):
            make_loss(name, margin=0.5)


@pytest.mark.parametrize(
    "name", [name for name in WITH_VECTORS if LOSSES[name].required_distance is not None]
)
def test_only_the_distance_it_is_defined_for(name: str) -> None:
    class Rounded(distances.CosineSimilarity):
        def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
            return super().compute_mat(query_emb, ref_emb).round(decimals=3)

    kind = LOSSES[name]
    with pytest.raises(DistanceError, match=f"must be a CosineSimilarity for {name}, got LpDist"):
        kind(3, 4, distance=distances.LpDistance())
    assert issubclass(DistanceError, AssertionError)  # theirs
    kind(3, 4, distance=Rounded())


@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
@EVERY
def test_a_cosine_similarity_of_ones_own(name: str) -> None:
    class Similarity(distances.CosineSimilarity):
        pass

    if LOSSES[name].required_distance is None:
        pytest.skip("it takes any distance")
    ours, own = make_loss(name).double(), make_loss(name, distance=Similarity()).double()
    own.load_state_dict(ours.state_dict())
    x, y = make_batch(60)
    torch.testing.assert_close(gradient(own, x, y), gradient(ours, x, y))


def test_squared_distances_only_for_centres() -> None:
    for bad in (distances.LpDistance(), distances.CosineSimilarity()):
        with pytest.raises(DistanceError, match=r"LpDistance\(power=2\).* got"):
            losses.CenterLoss(3, 4, distance=bad)
    x, y = make_batch()
    loss = make_loss("CenterLoss", distance=distances.LpDistance(power=2)).double()
    expected = (normalize(x) - normalize(loss.centers)[y]).square().sum(1).mean() / 2
    torch.testing.assert_close(loss(x, y), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_mean_of_center_losses_is_found_without_them(dtype: torch.dtype) -> None:
    x, y = make_batch()
    x = x.detach().to(dtype).requires_grad_()
    mean, total = make_loss("CenterLoss"), make_loss("CenterLoss", reducer=SumReducer())
    total.load_state_dict(mean.state_dict())  # in float32, whatever the embeddings are
    value = mean(x, y)
    grads = torch.autograd.grad(value, (x, mean.centers), retain_graph=True)
    sums = torch.autograd.grad(total(x, y), (x, total.centers))
    assert value.dtype == dtype
    torch.testing.assert_close(value, total(x, y) / len(x))
    for grad, of_sum in zip(grads, sums, strict=True):
        assert grad.dtype == of_sum.dtype
        torch.testing.assert_close(grad, of_sum / len(x))
    again = torch.autograd.grad(value, (x, mean.centers))
    assert all(map(torch.equal, grads, again))
    x.data[0, 0] = torch.inf
    assert mean(x, y).isnan()


@pytest.mark.parametrize("update_rate", [0.5, 1.0])
def test_centres_move_by_the_authors_rule(update_rate: float) -> None:
    loss = make_loss("CenterLoss", update_rate=update_rate).double()
    assert not list(loss.parameters())
    assert set(loss.state_dict()) == {"centers"}
    x, y = make_batch()
    y = y % 4  # two classes are not in the batch
    before = loss.centers.clone()
    value, grad = gradient(loss, x, y)
    fixed = (x - before[y]).detach()
    torch.testing.assert_close(value, fixed.square().sum(1).mean() / 2)
    torch.testing.assert_close(grad, fixed / len(x))
    expected = before.clone()
    for j in range(4):
        members = x.detach()[y == j]
        expected[j] -= update_rate * (before[j] - members).sum(0) / (1 + len(members))
    torch.testing.assert_close(loss.centers, expected)
    loss.eval()
    loss(x, y)
    torch.testing.assert_close(loss.centers, expected)
    for bad in (0, -1, 1.5):
        with pytest.raises(ValueError, match=r"update_rate must be in \(0, 1\], got"):
            make_loss("CenterLoss", update_rate=bad)


def test_a_scale_that_is_learnt_or_not() -> None:
    x, y = make_batch()
    assert set(losses.NormFaceLoss(3, 4).state_dict()) == {"W", "scale"}
    assert set(losses.NormFaceLoss(3, 4, learn_scale=False).state_dict()) == {"W"}
    assert set(losses.L2SoftmaxLoss(3, 4).state_dict()) == {"W", "bias"}
    assert set(losses.L2SoftmaxLoss(3, 4, learn_alpha=True).state_dict()) == {"W", "bias", "alpha"}
    weights = torch.randn(DIMENSION, NUM_CLASSES, dtype=torch.float64)
    bias = torch.randn(NUM_CLASSES, dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    value = functional.l2_softmax_loss(x, y, weights, bias=bias, alpha=alpha)
    expected = cross_entropy(alpha * normalize(x) @ weights + bias, y)
    torch.testing.assert_close(
        torch.autograd.grad(value, [x, bias, alpha]),
        torch.autograd.grad(expected, [x, bias, alpha]),
    )
    with pytest.raises(ValueError, match=r"bias must have shape \(6,\), got \(5,\)"):
        functional.l2_softmax_loss(x, y, weights, bias=bias[:5])


def test_two_names_of_one_loss() -> None:
    x, y = make_batch()
    one, other = make_loss("CosFaceLoss").double(), make_loss("AMSoftmaxLoss").double()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x, y), other(x, y))


@pytest.mark.parametrize("name", WITH_VECTORS)
def test_an_empty_tuple_is_no_tuple(name: str) -> None:
    x, y = make_batch()
    loss = make_loss(name).double().eval()
    empty = (torch.zeros(0, dtype=torch.int64),) * 4
    assert torch.equal(loss(x, y, empty), loss(x, y))


@pytest.mark.usefixtures("whole_or_tiles")
@EVERY
def test_an_embedding_of_length_zero(name: str) -> None:
    x, y = make_batch()
    x = x.detach().clone()
    x[3] = 0
    x.requires_grad_()
    loss = make_loss(name).double()
    value = loss(x, y)
    if hasattr(pml_losses, name):
        theirs = getattr(pml_losses, name)(
            num_classes=NUM_CLASSES, embedding_size=DIMENSION
        ).double()
        theirs.load_state_dict(loss.state_dict())
        torch.testing.assert_close(value, theirs(x, y))
    for grad in torch.autograd.grad(value, [x, *loss.parameters()]):
        assert grad.isfinite().all()
