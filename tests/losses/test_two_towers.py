"""Losses of two sets of features against PyTorch's cross-entropy of the matrix in float64."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from fusedml import functional, losses
from fusedml.losses import ClipLoss, InfoNCELoss
from tests.problems import assert_close

# held whole, by tiles, ragged, and more documents than queries
SIZES = [(1, 1), (24, 24), (24, 40), (810, 810), (900, 1000)]
D = 8


def towers(n: int, m: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + m)
    return tuple(
        torch.randn(k, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for k in (n, m)
    )


def dense_info_nce(q: Tensor, d: Tensor, temperature: float | Tensor, symmetric: bool) -> Tensor:
    z, own = normalize(q) @ normalize(d).T / temperature, torch.arange(len(q))
    loss = cross_entropy(z, own)
    return (loss + cross_entropy(z.T[: len(q)], own)) / 2 if symmetric else loss


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("n, m", SIZES)
@pytest.mark.parametrize("backend", ["auto", "torch", "dense"])
def test_info_nce(n: int, m: int, symmetric: bool, backend: str) -> None:
    q, d = towers(n, m)
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    inputs = [q, d, temperature]
    ours = InfoNCELoss(temperature, symmetric, backend=backend)(q, d)
    exact = dense_info_nce(q, d, temperature, symmetric)
    torch.testing.assert_close(ours, exact)
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(exact, inputs)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("n", [30, 850])
def test_accuracy_by_the_rule(n: int, symmetric: bool, dtype: torch.dtype) -> None:
    q, d = towers(n, n, dtype)
    leaves = [x.detach().double().requires_grad_() for x in (q, d)]
    value = InfoNCELoss(0.1, symmetric)(q, d)
    exact, plain = dense_info_nce(*leaves, 0.1, symmetric), dense_info_nce(q, d, 0.1, symmetric)
    assert value.dtype == dtype
    floor = 1e-6 if dtype == torch.float32 else 2**-7
    assert_close(value, exact, plain, floor, "value")
    grads = (
        torch.autograd.grad(loss, of)
        for loss, of in ((value, (q, d)), (exact, leaves), (plain, (q, d)))
    )
    for a, e, p in zip(*grads, strict=True):
        scale = e.abs().max()
        assert_close(a / scale, e / scale, p / scale, floor, "gradient")


@pytest.mark.parametrize("n", [24, 810])
@pytest.mark.parametrize("output_dict", [False, True])
def test_clip_is_open_clips(n: int, output_dict: bool) -> None:
    images, texts = towers(n, n)
    scale = torch.tensor(14.3, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-10.0, dtype=torch.float64, requires_grad=True)
    a, r = normalize(images), normalize(texts)
    loss = ClipLoss()(a, r, scale, bias, output_dict=output_dict)
    loss = loss["contrastive_loss"] if output_dict else loss
    # open_clip's own lines
    a, r, labels = normalize(images), normalize(texts), torch.arange(n)
    logits_per_image, logits_per_text = scale * a @ r.T + bias, scale * r @ a.T + bias
    exact = (cross_entropy(logits_per_image, labels) + cross_entropy(logits_per_text, labels)) / 2
    torch.testing.assert_close(loss, exact)
    inputs = [images, texts, scale, bias]
    torch.testing.assert_close(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(exact, inputs)
    )


@pytest.mark.parametrize("n", [30, 810])
def test_compiled_copied_pickled_and_as_functions(n: int) -> None:
    q, d = towers(n, n)
    loss = InfoNCELoss(0.3, symmetric=True)
    expected = loss(q, d)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for value in (
        compiled(q, d),
        copy.deepcopy(loss)(q, d),
        pickle.loads(pickle.dumps(loss))(q, d),
        functional.info_nce_loss(q, d, temperature=0.3, symmetric=True),
        functional.clip_loss(normalize(q), normalize(d), 1 / 0.3),
    ):
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("symmetric", [False, True])
def test_emulated_kernels(emulated, symmetric: bool) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        q, d = towers(40, 70, dtype)
        ours = InfoNCELoss(0.2, symmetric, backend="emulated")(q, d)
        exact = dense_info_nce(q.double(), d.double(), 0.2, symmetric)
        tolerance = 2**-6 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(ours.double(), exact, rtol=tolerance, atol=tolerance)
        for a, e in zip(
            torch.autograd.grad(ours, [q, d]), torch.autograd.grad(exact, [q, d]), strict=True
        ):
            assert (a - e).abs().max() <= 2 * tolerance * e.abs().max()


@pytest.mark.parametrize("backend", ["auto", "dense"])
@pytest.mark.parametrize("size", SIZES[1:])
def test_numbers_are_not_rounded(backend: str, size: tuple[int, int]) -> None:
    """Of float64 features: 0.07 is no number of float32."""
    q, d = towers(*size)
    symmetric = len(q) == len(d)
    exact = dense_info_nce(q, d, 0.07, symmetric)
    losses = [InfoNCELoss(0.07, symmetric, backend=backend)(q, d)]
    if symmetric:
        losses.append(ClipLoss(backend=backend)(normalize(q), normalize(d), 1 / 0.07))
    for loss in losses:
        torch.testing.assert_close(loss, exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", [InfoNCELoss(), InfoNCELoss(symmetric=True)])
def test_no_rows_and_what_is_not_finite(loss: InfoNCELoss) -> None:
    q, d = towers(0, 0)
    value = loss(q, d)
    assert value == 0
    assert torch.autograd.grad(value, q)[0].shape == (0, D)
    for n in (24, 810):
        q, d = (x.detach().clone() for x in towers(n, n))
        q[3, 1] = float("nan")
        assert loss(q, d).isnan()


def test_huge_logits_do_not_overflow() -> None:
    for n in (24, 810):
        q, d = towers(n, n)
        loss = ClipLoss()(q * 1e3, d * 1e3, 100.0)
        own = torch.arange(n)
        z = 1e8 * q @ d.T
        torch.testing.assert_close(loss, (cross_entropy(z, own) + cross_entropy(z.T, own)) / 2)


def test_bad_input() -> None:
    q, d = towers(5, 5)
    with pytest.raises(ValueError, match=r"documents must have at least the rows of queries, 5"):
        InfoNCELoss()(q, d[:4])
    with pytest.raises(ValueError, match="documents must have the embedding size"):
        InfoNCELoss()(q, d[:, :3])
    with pytest.raises(TypeError, match="queries must be floating point"):
        InfoNCELoss()(torch.arange(6).view(2, 3), d)
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        InfoNCELoss(0)
    with pytest.raises(ValueError, match="text_features must have as many rows"):
        ClipLoss()(q[:3], d, 1.0)
    with pytest.raises(NotImplementedError, match="world_size must be 1"):
        ClipLoss(world_size=2)
    with pytest.raises(ValueError, match="backend must be one of"):
        ClipLoss(backend="cpu")
    with pytest.raises(ValueError, match="backend='cuda' needs embeddings on a CUDA device"):
        InfoNCELoss(backend="cuda")(q, d)


def test_they_are_registered() -> None:
    assert set(losses.TWO_TOWER_LOSSES) == {"ClipLoss", "InfoNCELoss", "SigLipLoss", "VSELoss"}
    assert not set(losses.TWO_TOWER_LOSSES) & set(losses.LOSSES)
