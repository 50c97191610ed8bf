"""Row i of one side belongs to row i of the other: PyTorch's cross-entropy as one operator."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from torch.utils.flop_counter import FlopCounterMode

from fusedml.engine import autograd, paired, paired_strips
from fusedml.engine.formulas_by_rows import blocks
from fusedml.engine.paired import PairedMatrix
from fusedml.engine.paired_strips import PairedStrips
from fusedml.engine.pairs import PairProblem
from fusedml.losses import ClipLoss, InfoNCELoss, NTXentLoss, SupConLoss

SHAPES = [(1, 1), (2, 2), (7, 7), (7, 12), (60, 60)]  # one row has no negative
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def used(monkeypatch):
    """Whether each evaluation served."""
    seen = []
    evaluate = paired.PairedLosses.evaluate

    def counting(self):
        outputs = evaluate(self)
        seen.append(outputs is not None)
        return outputs

    monkeypatch.setattr(paired.PairedLosses, "evaluate", counting)
    return seen


def operands(n: int, m: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.randn(size, 6).to(dtype).requires_grad_() for size in (n, m)]


def problem_of(a: Tensor, r: Tensor, is_normalized: bool = True) -> PairProblem:
    labels = torch.arange(len(r)) * 3 - 5
    options = {"exclude_diagonal": False, "normalize": is_normalized}
    return PairProblem(a, r, labels[: len(a)], labels, **options)


def dense_losses(a: Tensor, r: Tensor, logit: Tensor, both: bool, is_normalized=True) -> Tensor:
    """logit: [4], of the pairs i == i and of all others."""
    if is_normalized:
        a, r = normalize(a), normalize(r)
    x, targets = a @ r.T, torch.arange(len(a))
    is_own = targets[:, None] == torch.arange(len(r))
    z = torch.where(is_own, logit[0] * x + logit[1], logit[2] * x + logit[3])
    rows = cross_entropy(z, targets, reduction="none")
    if not both:
        return rows
    return torch.stack([rows, cross_entropy(z.T, targets, reduction="none")])


def logit_of(scale: float) -> Tensor:
    return torch.tensor([scale, 2.0, scale, 2.0], dtype=torch.float64)


@pytest.fixture(params=["matrix", "strips"])
def strips(request, monkeypatch):
    """Of five rows, or the whole matrix; the last strip of most shapes is ragged."""
    if request.param == "strips":
        into_strips_of_five(monkeypatch)


def into_strips_of_five(monkeypatch):
    monkeypatch.setattr(paired, "MOST_HELD", 0)
    monkeypatch.setattr(paired_strips, "STRIP_ELEMENTS", 0)
    monkeypatch.setattr(paired_strips, "LEAST_ROWS", 5)


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("n, m", SHAPES)
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("scale", [-2.0, 20.0, 3000.0])
@pytest.mark.parametrize("is_normalized", [True, False])
@pytest.mark.parametrize("upstream", ["equal", "weighted"])
def test_value_and_gradients(n, m, both, scale, is_normalized, upstream, used):
    if both and n != m:
        pytest.skip("columns beyond the rows have no partner")
    a, r = operands(n, m)
    logit = logit_of(scale).requires_grad_()
    ours = autograd.paired_losses(problem_of(a, r, is_normalized), logit, both)
    exact = dense_losses(a, r, logit, both, is_normalized)
    assert used == [True]
    torch.testing.assert_close(ours, exact)
    weights = torch.ones_like(exact) if upstream == "equal" else torch.rand_like(exact)
    grads = (torch.autograd.grad((x * weights).sum(), [a, r, logit]) for x in (ours, exact))
    torch.testing.assert_close(*grads)


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("needed", [0, 1, 2])
def test_single_gradients(needed):
    inputs = [*(x.detach() for x in operands(7, 9)), logit_of(3.0)]
    inputs[needed].requires_grad_()
    a, r, logit = inputs
    ours = autograd.paired_losses(problem_of(a, r), logit, both_sides=False)
    exact = dense_losses(a, r, logit, both=False)
    grads = (torch.autograd.grad(x.sum(), inputs[needed]) for x in (ours, exact))
    torch.testing.assert_close(*grads)


WIDE = 40  # of rows that are more numbers than their products


def wide_operands(n: int, m: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Rows of many lengths."""
    rows = (torch.randn(size, WIDE) * 10 ** torch.randn(size, 1) for size in (n, m))
    return [x.to(dtype).requires_grad_() for x in rows]


@pytest.fixture
def takes_rows(monkeypatch):
    """Whether each evaluation took the rows as they are."""
    seen = []
    losses = PairedMatrix.losses

    def noting(self):
        found = losses(self)
        seen.append(self.by_norms)
        return found

    monkeypatch.setattr(PairedMatrix, "losses", noting)
    return seen


@pytest.mark.parametrize("n, m", [(7, 7), (7, 12)])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("scale", [-2.0, 20.0, 3000.0])
@pytest.mark.parametrize("upstream", ["equal", "weighted"])
def test_products_are_divided_by_norms(n, m, both, scale, upstream, takes_rows):
    if both and n != m:
        pytest.skip("columns beyond the rows have no partner")
    a, r = wide_operands(n, m)
    logit = logit_of(scale)
    ours, exact = (
        autograd.paired_losses(problem_of(a, r), logit, both),
        dense_losses(a, r, logit, both),
    )
    torch.testing.assert_close(ours, exact)
    weights = torch.ones_like(exact) if upstream == "equal" else torch.rand_like(exact)
    grads = [torch.autograd.grad((x * weights).sum(), [a, r]) for x in (ours, exact)]
    torch.testing.assert_close(
        *(
            [x * y.detach().norm(dim=1, keepdim=True) for x, y in zip(of, (a, r), strict=True)]
            for of in grads
        )
    )  # of rows of any length
    assert takes_rows == [True]


@pytest.mark.parametrize("case", ["frozen", "half", "too long", "too short", "learnt", "narrow"])
def test_rows_that_are_normalised_first(case, takes_rows):
    a, r = wide_operands(7, 7, torch.float16 if case == "half" else torch.float32)
    logit = logit_of(3.0).requires_grad_(case == "learnt")
    if case == "frozen":
        r = r.detach()
    elif case.startswith("too"):
        length = 1e10 if case == "too long" else 1e-10
        a = (normalize(a.detach()) * length).requires_grad_()
    elif case == "narrow":
        a, r = (x[:, :3].detach().requires_grad_() for x in (a, r))
    ours = autograd.paired_losses(problem_of(a, r), logit, False)
    exact = dense_losses(*(normalize(x.double()) for x in (a, r)), logit, False, False)
    torch.testing.assert_close(ours.double(), exact, atol=1e-2 if case == "half" else 1e-5, rtol=0)
    grads = [torch.autograd.grad(x.sum(), a)[0].double() for x in (ours, exact)]
    length = a.detach().double().norm(dim=1, keepdim=True)
    torch.testing.assert_close(*(g * length for g in grads), atol=1e-2, rtol=1e-2)
    assert takes_rows == [False]


CALLS = {
    "SupCon": (lambda a, r: with_labels(SupConLoss(temperature=0.1), a, r), False),
    "NT-Xent": (lambda a, r: with_labels(NTXentLoss(temperature=0.1), a, r), False),
    "InfoNCE": (InfoNCELoss(0.1), False),
    "InfoNCE, both": (InfoNCELoss(0.1, symmetric=True), True),
    "CLIP": (lambda a, r: ClipLoss()(normalize(a), normalize(r), 10.0), True),
}


def with_labels(loss, a: Tensor, r: Tensor) -> Tensor:
    return loss(a, torch.arange(len(a)), ref_emb=r, ref_labels=torch.arange(len(r)))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_losses_in_every_dtype(name, dtype, used):
    call, both = CALLS[name]
    a, r = operands(40, 40, dtype)
    value = call(a, r)
    assert used == [True]
    assert value.dtype == dtype
    ours = value, *torch.autograd.grad(value, [a, r])
    plain = dense_losses(a, r, logit_of(10.0).to(dtype), both).mean()
    plain = plain, *torch.autograd.grad(plain, [a, r])
    wide = [x.detach().double().requires_grad_() for x in (a, r)]
    exact = dense_losses(*wide, logit_of(10.0), both).mean()
    exact = exact, *torch.autograd.grad(exact, wide)
    for one, other, truth in zip(ours, plain, exact, strict=True):
        floor = truth.abs().max() * 8 * torch.finfo(dtype).eps
        assert (one - truth).abs().max() <= 2 * (other - truth).abs().max() + floor


@pytest.mark.parametrize("labels", ["repeated", "of other rows", "few rows"])
def test_other_partners_are_not_taken_for_these(labels, used):
    a, r = operands(12, 12)
    rows = torch.arange(12)
    columns = {"repeated": rows // 2, "of other rows": rows.flip(0), "few rows": rows}[labels]
    if labels == "repeated":
        rows = columns
    if labels == "few rows":
        r, columns = r[:9], columns[:9]
    value = SupConLoss()(a, rows, ref_emb=r, ref_labels=columns.clone())
    expected = SupConLoss(backend="dense")(a, rows, ref_emb=r, ref_labels=columns.clone())
    torch.testing.assert_close(value, expected)
    assert not used


@pytest.mark.parametrize("loss", [SupConLoss, NTXentLoss])
def test_labels_in_any_order(loss, used):
    a, r = operands(12, 15)
    columns = torch.randperm(15)
    value = loss()(a, columns[:12], ref_emb=r, ref_labels=columns)
    expected = loss(backend="dense")(a, columns[:12], ref_emb=r, ref_labels=columns)
    torch.testing.assert_close(value, expected)
    assert used == [True]


@pytest.mark.parametrize("others", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_without_a_loss_are_left_out(others, dtype, monkeypatch):
    """As by AvgNonZeroReducer: their gradient is 0, that of all others the same, or not."""
    into_strips_of_five(monkeypatch)
    sweeps, swept = [], PairedStrips._swept
    monkeypatch.setattr(PairedStrips, "_swept", lambda *args: sweeps.append(0) or swept(*args))
    a, r = (torch.nn.functional.normalize(torch.randn(11, 40)).to(dtype) for _ in range(2))
    a[:4] = r[:4]  # at this scale of no loss
    a, r = (x.requires_grad_() for x in (a, r))
    losses = [f(a, r) for f in (_paired_at_100, _dense_at_100)]
    assert (losses[0][:4].abs() < 1e-12).all() and (losses[0][4:] > 0.1).all()
    weights = torch.tensor([0.0] * 4 + [0.25] * 6 + [0.25 + others], dtype=dtype)
    grads = (torch.autograd.grad((x * weights).sum(), (a, r)) for x in losses)
    torch.testing.assert_close(*grads)
    assert len(sweeps) == 1 + (others > 0)


def _paired_at_100(a: Tensor, r: Tensor) -> Tensor:
    return autograd.paired_losses(problem_of(a, r), logit_of(100.0), False)


def _dense_at_100(a: Tensor, r: Tensor) -> Tensor:
    return dense_losses(a, r, logit_of(100.0).to(a), False)


@pytest.mark.parametrize("products", [1, 3])
def test_no_product_too_many(products):
    a, r = operands(20, 20)
    with torch.set_grad_enabled(products == 3), FlopCounterMode(display=False) as counter:
        value = InfoNCELoss()(a, r)
        if products == 3:
            value.backward()
    assert counter.get_total_flops() == products * 2 * 20 * 20 * 6


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("call", [InfoNCELoss(), lambda a, r: ClipLoss()(a, r, 2.0)])
def test_what_is_not_finite_makes_nan(bad, side, call, used):
    inputs = [x.detach() for x in operands(8, 8)]
    inputs[side][:, 3] = 1.0
    inputs[1 - side][:, 3] = 1.0
    inputs[side][5, 3] = bad
    assert call(*inputs).isnan()
    assert not any(used)


@pytest.mark.parametrize("both_sides", [False, True])
def test_second_derivative(both_sides, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_PAIRS", 4 * 11)
    loss = InfoNCELoss(symmetric=both_sides)
    torch.autograd.gradgradcheck(loss, tuple(operands(11, 11)), fast_mode=True)


def test_the_backward_frees():
    a, r = operands(31, 31)
    loss = InfoNCELoss()(a, r)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    gc.collect()
    assert not [t for t in gc.get_objects() if type(t) is Tensor and t.shape[-2:] == (31, 31)]
