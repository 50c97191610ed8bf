"""SigLIP's loss against open_clip's own lines."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from fusedml import functional
from fusedml.losses import SigLipLoss
from tests.problems import assert_close

# held whole, and by tiles
SIZES = [1, 2, 24, 810]


def towers(n: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    both = (torch.randn(n, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    return tuple(normalize(x).to(dtype).requires_grad_() for x in both)


def open_clips(images: Tensor, texts: Tensor, scale, bias) -> Tensor:
    logits = scale * images @ texts.T
    logits = logits if bias is None else logits + bias
    labels = 2 * torch.eye(len(logits), dtype=logits.dtype) - 1
    return -logsigmoid(labels * logits).sum() / len(images)


@pytest.mark.usefixtures("whole_or_tiles")  # few pairs by the formula, or none
@pytest.mark.parametrize("backend", ["auto", "torch", "dense"])
@pytest.mark.parametrize("n", SIZES)
def test_is_open_clips(n: int, backend: str) -> None:
    images, texts = towers(n)
    scale = torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor([-9.0], dtype=torch.float64, requires_grad=True)
    loss = SigLipLoss(backend=backend)(images, texts, scale, bias, output_dict=True)
    exact = open_clips(images, texts, scale, bias)
    torch.testing.assert_close(loss["contrastive_loss"], exact)
    inputs = [images, texts, scale, bias]
    grads = (torch.autograd.grad(of, inputs) for of in (loss["contrastive_loss"], exact))
    torch.testing.assert_close(*grads)


def test_without_bias_and_as_a_function() -> None:
    images, texts = towers(24)
    exact = open_clips(images, texts, 3.0, None)
    torch.testing.assert_close(SigLipLoss()(images, texts, 3.0, None), exact)
    torch.testing.assert_close(functional.sig_lip_loss(images, texts, 3.0, None), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [30, 850])
def test_accuracy_by_the_rule(n: int, dtype: torch.dtype) -> None:
    features = towers(n, dtype)
    leaves = [x.detach().double().requires_grad_() for x in features]
    value = SigLipLoss()(*features, 10.0, -10.0)
    exact, plain = open_clips(*leaves, 10.0, -10.0), open_clips(*features, 10.0, -10.0)
    assert value.dtype == dtype
    floor = 1e-6 if dtype == torch.float32 else 2**-7
    assert_close(value, exact, plain, floor, "value")
    sides = (value, features), (exact, leaves), (plain, features)
    for a, e, p in zip(*(torch.autograd.grad(of, x) for of, x in sides), strict=True):
        scale = e.abs().max()
        assert_close(a / scale, e / scale, p / scale, floor, "gradient")


def test_what_needs_no_gradient_may_be_overwritten() -> None:
    images, texts = towers(24)
    texts, numbers = texts.detach(), [torch.tensor(10.0), torch.tensor(-10.0)]
    expected = torch.autograd.grad(SigLipLoss()(images, texts, *numbers), images)
    value = SigLipLoss()(images, texts, *numbers)
    for x in (texts, *numbers):
        x.zero_()
    torch.testing.assert_close(torch.autograd.grad(value, images), expected)


@pytest.mark.usefixtures("whole_or_tiles")
def test_empty_batches_nan_and_errors() -> None:
    images, texts = towers(0)
    value = SigLipLoss()(images, texts, 10.0, -10.0)
    assert value == 0
    value.backward()
    images, texts = (x.detach().clone() for x in towers(24))
    images[3, 0] = torch.nan
    assert SigLipLoss()(images, texts, 10.0, -10.0).isnan()
    with pytest.raises(ValueError, match="text_features must have as many rows as image_features"):
        SigLipLoss()(images[:3], texts, 10.0, -10.0)
    with pytest.raises(NotImplementedError, match="world_size must be 1"):
        SigLipLoss(world_size=2)
    with pytest.raises(TypeError, match="logit_bias must be a number or a tensor, got str"):
        SigLipLoss()(images, texts, 10.0, "0")


@pytest.mark.parametrize("n", [24, 810])
def test_compiled(n: int) -> None:
    features = towers(n)
    compiled = torch.compile(SigLipLoss(), fullgraph=True, backend="aot_eager")
    value = compiled(*features, torch.tensor(10.0), torch.tensor(-10.0))
    torch.testing.assert_close(value, open_clips(*features, 10.0, -10.0))
