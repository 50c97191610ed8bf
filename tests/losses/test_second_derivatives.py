"""Derivatives of gradients, as of a gradient penalty: those of the dense formula, in blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fusedml import distances, functional
from fusedml.engine import precision, whole
from fusedml.engine.formulas_by_rows import blocks
from fusedml.engine.groups import prepare_vectors
from fusedml.engine.row_order import RowOrder
from fusedml.losses import LOSSES, BaseLoss, ClipLoss, MultiSimilarityLoss, NTXentLoss, SupConLoss
from tests.losses.made import DIMENSION, gradient, ignores_length, make_batch, make_loss

TWICE = [name for name, loss in LOSSES.items() if loss.has_second_derivative]
N, M = 23, 17
ROWS, COLUMNS = torch.arange(N) % 3, torch.arange(M) % 4
# not fused
SQUARES = distances.DotProductSimilarity(power=2)
pytestmark = pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_PAIRS", 5 * M)


def tuple_of(columns: Tensor) -> tuple[Tensor, ...]:
    """Half of the positive and a third of the negative pairs."""
    is_positive = ROWS[:, None] == columns
    if columns is ROWS:
        is_positive.fill_diagonal_(False)
    negatives = (ROWS[:, None] != columns).nonzero()[::3]
    return *is_positive.nonzero()[::2].unbind(1), *negatives.unbind(1)


def penalty(loss: BaseLoss, x: Tensor, *args: object) -> list[Tensor]:
    """The gradients of a function of the embeddings' gradient, of all that has one."""
    (grad,) = torch.autograd.grad(loss(x, *args), x, create_graph=True)
    leaves = [x, *loss.parameters(), *(y for y in args if torch.is_tensor(y) and y.requires_grad)]
    return list(
        torch.autograd.grad(
            (grad.sin() * 7).sum(), leaves, allow_unused=True, materialize_grads=True
        )
    )


def check(loss: BaseLoss, dense: BaseLoss, *args: object) -> None:
    dense.load_state_dict(loss.state_dict())
    x = make_batch(N)[0]
    for actual, expected in zip(penalty(loss, x, *args), penalty(dense, x, *args), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", TWICE)
@pytest.mark.parametrize(
    "kind", ["labels", "references", "tuple", "tuple of references", "squares"]
)
@pytest.mark.usefixtures("whole_or_tiles")
def test_equal_those_of_the_dense_formula(name: str, kind: str) -> None:
    kind_of_loss, has_references = LOSSES[name], "references" in kind
    if has_references and not kind_of_loss.takes_references:
        pytest.skip("takes no references")
    if "tuple" in kind and not kind_of_loss.takes_tuples:
        pytest.skip("takes no index tuple")
    arguments = {"distance": SQUARES} if kind == "squares" else {}
    loss, dense = (make_loss(name, backend=b, **arguments).double() for b in ("auto", "dense"))
    columns = COLUMNS if has_references else ROWS
    indices = tuple_of(columns) if "tuple" in kind else None
    references = ()
    if has_references:
        references = (torch.randn(M, DIMENSION).double().requires_grad_(), columns)
    check(loss, dense, ROWS, indices, *references)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in TWICE])
def test_others_say_so(name: str) -> None:
    x, labels = make_batch(N)
    (grad,) = torch.autograd.grad(make_loss(name)(x, labels), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="can be differentiated once"):
        torch.autograd.grad(grad.sum(), x)


@pytest.mark.parametrize("loss", [functional.sup_con_loss, functional.nt_xent_loss])
@pytest.mark.usefixtures("whole_or_tiles")
def test_a_learnt_temperature(loss) -> None:
    x, labels = make_batch(9)
    temperature = torch.tensor(0.3).double().requires_grad_()
    torch.autograd.gradgradcheck(
        lambda x, t: loss(x, labels % 3, temperature=t), (x, temperature), fast_mode=True
    )


@pytest.mark.parametrize("backend", ["auto", "dense"])
@pytest.mark.parametrize("name", TWICE)
@pytest.mark.usefixtures("whole_or_tiles")
def test_a_row_without_direction(name: str, backend: str) -> None:
    """It has none of any order, and makes nothing of the others' NaN."""
    if not ignores_length(name):
        pytest.skip("the norms matter to this loss")
    loss = make_loss(name, backend=backend).double()
    for too_long in (1.0, 1e200):  # whose squares overflow
        x = make_batch(N)[0].detach()
        x[3], x[5] = 0, x[5] * too_long
        x.requires_grad_()
        (grad,) = torch.autograd.grad(loss(x, ROWS), x, create_graph=True)
        (second,) = torch.autograd.grad((grad.sin() * 7).sum(), x)
        assert second.isfinite().all()
        assert second.any()
        assert not second[3].any()


@pytest.mark.usefixtures("whole_or_tiles")
def test_derivatives_of_any_order() -> None:
    a, r = (torch.randn(9, 5).double().requires_grad_() for _ in range(2))

    def fourth(backend: str) -> Tensor:
        derivative = ClipLoss(backend=backend)(a, r, 2.0)
        for _ in range(4):
            (of_a,) = torch.autograd.grad(derivative, a, create_graph=True)
            derivative = of_a.square().sum()
        return of_a

    torch.testing.assert_close(fourth("auto"), fourth("dense"), rtol=1e-9, atol=1e-12)


def test_the_first_derivative_is_the_same_to_the_bit() -> None:
    x, labels = make_batch(N)
    loss = SupConLoss()
    (grad,) = torch.autograd.grad(loss(x, labels), x, create_graph=True)
    assert torch.equal(grad, gradient(loss, x, labels)[1])


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operator returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if torch.is_tensor(x) and 0 not in x.stride():
                self.elements = max(self.elements, x.numel())
        return result


@pytest.mark.parametrize("name", ["MultiSimilarityLoss", "LiftedStructureLoss", "ContrastiveLoss"])
def test_a_large_batch_in_blocks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 850
    monkeypatch.setattr(blocks, "BLOCK_PAIRS", 1 << 14)
    assert n * n > whole.MOST_PAIRS
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 80, generator=generator, requires_grad=True)
    assert x.numel() > 1 << 16  # of which the normalisation has a backward of its own
    labels = torch.arange(n) // 4
    with LargestTensor() as largest:
        (actual,) = penalty(LOSSES[name](), x, labels)
    # two kinds of pair, and tiles of the first derivative, which are beside the point
    assert largest.elements < n * n
    wide = x.detach().double().requires_grad_()
    (expected,) = penalty(LOSSES[name](backend="dense"), wide, labels)
    (narrow,) = penalty(LOSSES[name](backend="dense"), x, labels)
    errors = [(y.double() - expected).abs().max() / expected.abs().max() for y in (actual, narrow)]
    assert errors[0] <= 2 * errors[1] + 1e-6


@pytest.mark.parametrize("is_overwritten", [False, True])
def test_labels_are_read_again(is_overwritten: bool) -> None:
    x, labels = make_batch(N)
    labels = labels.clone()
    loss = NTXentLoss()(x, labels)
    if is_overwritten:
        labels.zero_()
    (grad,) = torch.autograd.grad(loss, x, retain_graph=True)
    torch.testing.assert_close(grad, gradient(NTXentLoss(), *make_batch(N))[1])
    if not is_overwritten:
        torch.autograd.grad(loss, x, create_graph=True)
        return
    with pytest.raises(RuntimeError, match=r"labels.*overwritten.*second derivative"):
        torch.autograd.grad(loss, x, create_graph=True)


def test_normalized_rows_in_any_order() -> None:
    x = torch.randn(9, 4).double().requires_grad_()
    order = RowOrder.by_label(torch.arange(9) % 4)
    vectors = x[:8].detach().view(4, 2, 4).requires_grad_()
    check = torch.autograd.gradgradcheck
    check(lambda x: precision.prepare(x, x.dtype, True, order), x)
    check(lambda x: precision.Normalize.apply(x, x.dtype)[0], x)
    check(lambda x: prepare_vectors(x, x.dtype, True), vectors)


def test_under_autocast() -> None:
    x, labels = make_batch(N, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        (narrow,) = penalty(MultiSimilarityLoss(), x, labels)
    (expected,) = penalty(MultiSimilarityLoss(), x, labels)
    assert (narrow - expected).norm() < 0.1 * expected.norm()
