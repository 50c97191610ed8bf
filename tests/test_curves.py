"""Curves: what the sweeps compute by hand against ordinary PyTorch."""

from __future__ import annotations

import pytest
import torch

from fusedml.curves import CURVES

EVERY = pytest.mark.parametrize("name", CURVES)
KINDS = pytest.mark.parametrize("is_positive", [True, False], ids=["positive", "negative"])

# (scale, shift) of each kind: Circle's with m = 0.3, both sides of its brackets' ends in X, and
# with m = -0.2, where one bracket ends within the cosines
NUMBERS = {
    "affine": {True: [(-2.0, 0.5)], False: [(3.0, -1.0)]},
    "circle": {True: [(-8.0, 8 * 0.7), (-5.0, 6.0)], False: [(8.0, -8 * 0.3), (5.0, 1.0)]},
    "angular_margin": {True: [(6.0, 2.0), (6.0, -3.0)], False: [(6.0, 0.5)]},
}
# cosines by the hundredth, and a little beyond, as rounding leaves them
X = torch.cat(
    [torch.linspace(-1, 1, 201, dtype=torch.float64), torch.tensor([-1 - 1e-9, 1 + 1e-9])]
)


def _cases(name, is_positive):
    return [(CURVES[name], numbers) for numbers in NUMBERS[name][is_positive]]


@EVERY
@KINDS
def test_what_the_sweeps_compute_is_the_logit(name, is_positive):
    for curve, numbers in _cases(name, is_positive):
        expected = curve.logits(X, *numbers, is_positive)
        scale, shift = curve.remaining(*numbers, is_positive)
        in_place = X.clone()
        for x, out in ((X, None), (X, torch.empty_like(X)), (in_place, in_place)):
            y = curve.bent(x, *numbers, is_positive, out)
            torch.testing.assert_close(scale * y + shift, expected)


@EVERY
@KINDS
def test_the_bound_is_one_and_is_met(name, is_positive):
    for curve, numbers in _cases(name, is_positive):
        scale, _ = curve.remaining(*numbers, is_positive)
        largest = (scale * curve.bent(X, *numbers, is_positive)).abs().max().item()
        bound = curve.largest(X.abs().max().item(), *numbers, is_positive)
        assert largest <= bound <= 1.2 * largest


@EVERY
@KINDS
def test_slope_and_gradient_of_the_numbers(name, is_positive):
    generator = torch.Generator().manual_seed(0)
    upstream = torch.randn(X.shape, generator=generator, dtype=torch.float64)
    for curve, numbers in _cases(name, is_positive):
        x, (scale, shift) = (
            X.clone().requires_grad_(),
            (torch.tensor(number, dtype=torch.float64, requires_grad=True) for number in numbers),
        )
        z = curve.logits(x, scale, shift, is_positive)
        of_x, *of_numbers = torch.autograd.grad(z, (x, scale, shift), upstream)
        for out in (None, torch.empty_like(X)):
            slope = torch.as_tensor(curve.slope(X, *numbers, is_positive, out))
            torch.testing.assert_close(upstream * slope, of_x)
        actual = curve.number_gradient(upstream, X, *numbers, is_positive)
        torch.testing.assert_close(actual, torch.stack(of_numbers))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_angles_curve_is_finite_at_equal_embeddings(dtype):
    x = torch.tensor([1.0, -1.0, 1 + 1e-6, 1 - 1e-7], dtype=dtype, requires_grad=True)
    curve = CURVES["angular_margin"]
    z = curve.logits(x, 0.6, 0.8, True)
    (grad,) = torch.autograd.grad(z.sum(), x)
    assert torch.isfinite(z).all()
    assert torch.isfinite(grad).all()
    torch.testing.assert_close(curve.slope(x.detach(), 0.6, 0.8, True), grad)


def test_the_angles_curve_turns_by_the_margin():
    m = 0.2
    z = CURVES["angular_margin"].logits(X[:201], torch.tensor(m).cos(), torch.tensor(m).sin(), True)
    torch.testing.assert_close(z, torch.cos(X[:201].acos() - m), rtol=0, atol=1e-7)
