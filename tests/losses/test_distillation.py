"""Losses with a teacher against F.kl_div of the two matrices in float64."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize, softmax
from torch.utils.checkpoint import checkpoint

from fusedml import functional, losses
from fusedml.engine import whole
from fusedml.losses import (
    ContrastiveLoss,
    LanguageGuidanceLoss,
    MultiSimilarityLoss,
    S2SDLoss,
    SimilarityDistillationLoss,
)
from tests.problems import assert_close

D, E = 8, 13
# held whole, and by tiles: of one strip, of several, ragged
SIZES = [1, 2, 24, 810, 1300]
EVERY = pytest.mark.parametrize("name", losses.DISTILLATION_LOSSES)


def batch(n: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, ...]:
    """Embeddings, labels and a teacher's rows."""
    generator = torch.Generator().manual_seed(seed)
    x, t = (torch.randn(n, k, generator=generator, dtype=torch.float64) for k in (D, E))
    labels = torch.randint(-1, max(1, n // 3), (n,), generator=generator)
    return x.to(dtype).requires_grad_(), labels, t.to(dtype)


def kl(
    x: Tensor,
    t: Tensor,
    temperature: float | Tensor = 1.0,
    shift: float | Tensor = 0.0,
    labels: Tensor | None = None,
) -> Tensor:
    """T^2 KL of the rows' softmax, the mean; language is [n, K, e]."""
    t = t[:, None] if t.ndim == 2 else t
    unit = normalize(x)
    s = unit @ unit.T
    own = normalize(t, dim=-1)
    cosines = torch.einsum("ake,bke->abk", own, own).mean(-1) + shift
    if labels is not None:
        same = labels[:, None] == labels
        s, cosines = (torch.where(same, 1 + torch.as_tensor(shift).to(m), m) for m in (s, cosines))
    p, q = log_softmax(s / temperature, 1), softmax(cosines / temperature, 1)
    return temperature**2 * kl_div(p, q, reduction="sum") / len(x)


def exact_of(name: str, x: Tensor, labels: Tensor, t: Tensor) -> Tensor:
    """The loss of that name with its defaults, as the benchmarks call it."""
    if name == "LanguageGuidanceLoss":
        return kl(x, t, shift=1.0, labels=labels)
    if name == "SimilarityDistillationLoss":
        return kl(x, t)
    dense = MultiSimilarityLoss(backend="dense")
    return (dense(x, labels) + dense(t, labels)) / 2 + kl(x, t.detach())


def assert_same(ours: Tensor, exact: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(ours, exact)
    grads = [torch.autograd.grad(of, inputs, retain_graph=True) for of in (ours, exact)]
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("backend", ["auto", "torch", "dense"])
@pytest.mark.parametrize("n", SIZES)
def test_similarity_distillation(n: int, backend: str, learns: bool) -> None:
    x, _, t = batch(n)
    t.requires_grad_(learns)
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=learns)
    ours = SimilarityDistillationLoss(temperature, not learns, backend=backend)(x, t)
    assert_same(ours, kl(x, t, temperature), [x, t, temperature] if learns else [x])


@pytest.mark.parametrize("backend", ["auto", "torch", "dense"])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("learns", [False, True])
def test_language_guidance(n: int, learns: bool, backend: str) -> None:
    x, labels, _ = batch(n)
    language = torch.randn(n, 3, 5, generator=torch.Generator().manual_seed(1)).double()
    numbers = [torch.tensor(v, dtype=torch.float64, requires_grad=learns) for v in (0.4, 0.7)]
    loss = LanguageGuidanceLoss(*numbers, backend=backend)
    exact = kl(x, language, *numbers, labels)
    assert_same(loss(x, labels, language), exact, [x, *numbers] if learns else [x])
    one = LanguageGuidanceLoss(backend=backend)(x, labels, language[:, 0])
    torch.testing.assert_close(one, kl(x, language[:, :1], 1.0, 1.0, labels))


@pytest.mark.parametrize("labels", ["alone", "one class", "two classes", "negative shift"])
@pytest.mark.parametrize("n", [24, 810])
@pytest.mark.parametrize("temperature", [0.05, 0.001])  # the latter's exponentials overflow
def test_language_of_other_classes(n: int, labels: str, temperature: float) -> None:
    x, _, t = batch(n)
    rows = torch.arange(n)
    y = {"alone": rows, "one class": rows * 0}.get(labels, rows % 2)
    shift = -3.0 if labels == "negative shift" else 1.0
    ours = LanguageGuidanceLoss(temperature, shift)(x, y, t)
    assert_same(ours, kl(x, t, temperature, shift, y), [x])
    # at the lower temperature the diagonal outweighs all others
    is_nothing = labels == "one class" or (temperature < 0.01 and shift > 0)
    assert (ours.abs() < 1e-12) == is_nothing


@pytest.mark.parametrize("n", [24, 810])
def test_s2sd(n: int) -> None:
    x, labels, t = batch(n)
    other, features = batch(n, seed=1)[2], batch(n, seed=2)[2].requires_grad_()
    branches, weights = [t.requires_grad_(), other.requires_grad_()], (0.5, 0.3, 2.0)
    base = [ContrastiveLoss(), MultiSimilarityLoss(), ContrastiveLoss()]
    ours = S2SDLoss(base[0], base[1:], *weights)(x, labels, branches, features)
    own = (base[1](t, labels) + base[2](other, labels)) / 2
    exact = (base[0](x, labels) + own) / 2 + 2.0 * kl(x, features.detach(), 0.3)
    exact = exact + 0.5 * (kl(x, t.detach(), 0.3) + kl(x, other.detach(), 0.3)) / 2
    assert_same(ours, exact, [x, *branches])
    assert torch.autograd.grad(ours, features, allow_unused=True) == (None,)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [30, 850])
def test_accuracy_by_the_rule(n: int, dtype: torch.dtype, name: str) -> None:
    x, labels, t = batch(n, dtype)
    double = x.detach().double().requires_grad_()
    kind = losses.DISTILLATION_LOSSES[name]
    value = kind.of_weights(None).of_teacher(x, labels, t)
    plain = kind.of_weights(None, backend="dense").of_teacher(x, labels, t)
    exact = exact_of(name, double, labels, t.double())
    assert value.dtype == dtype
    floor = 1e-6 if dtype == torch.float32 else 2**-7
    assert_close(value, exact, plain, floor, "value")
    a, e, p = (
        torch.autograd.grad(loss, of)[0] for loss, of in ((value, x), (exact, double), (plain, x))
    )
    scale = e.abs().max()
    assert_close(a / scale, e / scale, p / scale, floor, "gradient")


@pytest.mark.parametrize("n", [30, 850])
@pytest.mark.parametrize("temperature", [1e-4, 1e4])
def test_extreme_temperatures_by_the_rule(n: int, temperature: float) -> None:
    x, _, t = batch(n, torch.float32)
    x.data[3], t[5] = 0, 0  # rows without a direction
    value = SimilarityDistillationLoss(temperature)(x, t)
    plain, exact = kl(x, t, temperature), kl(x.double(), t.double(), temperature)
    assert_close(value, exact, plain, 1e-6, "value")
    assert torch.autograd.grad(value, x)[0].isfinite().all()


@EVERY
@pytest.mark.parametrize("n", [20, 810])
def test_transforms_copies_and_functions(name: str, n: int) -> None:
    x, labels, t = batch(n)
    loss = losses.DISTILLATION_LOSSES[name].of_weights(None)
    call = loss.of_teacher
    expected = call(x, labels, t)
    (grad,) = torch.autograd.grad(expected, x, retain_graph=True)
    for value in (
        copy.deepcopy(loss).of_teacher(x, labels, t),
        pickle.loads(pickle.dumps(loss)).of_teacher(x, labels, t),
        checkpoint(call, x, labels, t, use_reentrant=False),
    ):
        assert_same(value, expected, [x])
    transformed = torch.func.grad(lambda rows: call(rows, labels, t))(x.detach())
    torch.testing.assert_close(transformed, grad)
    again = torch.autograd.grad(call(x, labels, t), x)[0]
    assert torch.equal(again, grad)
    batched = torch.func.vmap(call)(*(torch.stack([v, v.flip(0)]) for v in (x, labels, t)))
    torch.testing.assert_close(batched, expected.expand(2))


@pytest.mark.parametrize("name", ["LanguageGuidanceLoss", "S2SDLoss"])
def test_compiled(name: str) -> None:
    x, labels, t = batch(20)
    call = losses.DISTILLATION_LOSSES[name].of_weights(None).of_teacher
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert_same(compiled(x, labels, t), call(x, labels, t), [x])


def test_functions() -> None:
    x, labels, t = batch(24)
    own = {"loss": ContrastiveLoss(), "target_losses": [ContrastiveLoss()], "weight": 0.3}
    pairs = [
        (functional.similarity_distillation_loss(x, t, temperature=0.2), kl(x, t, 0.2)),
        (functional.language_guidance_loss(x, labels, t, shift=0.5), kl(x, t, 1, 0.5, labels)),
        (functional.s2_sd_loss(x, labels, [t], **own), S2SDLoss(**own)(x, labels, [t])),
    ]
    for value, expected in pairs:
        torch.testing.assert_close(value, expected)


@EVERY
@pytest.mark.parametrize("n", [24, 810])
def test_only_embeddings_may_not_be_overwritten(name: str, n: int) -> None:
    x, labels, t = batch(n)
    loss = losses.DISTILLATION_LOSSES[name].of_weights(None)
    expected = torch.autograd.grad(loss.of_teacher(x, labels, t), x)[0]
    value = loss.of_teacher(x, labels, t)
    labels.zero_()
    t.zero_()
    assert torch.equal(torch.autograd.grad(value, x)[0], expected)
    value = loss.of_teacher(x, labels, t)
    x.data = x.data  # the same version
    with torch.no_grad():
        x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@EVERY
@pytest.mark.parametrize("n", [24, 810])
def test_what_is_not_finite_and_no_rows(name: str, n: int) -> None:
    loss = losses.DISTILLATION_LOSSES[name].of_weights(None)
    for at in (0, 2):
        given = [v.detach().clone() for v in batch(n)]
        given[at][3, 1] = float("nan")
        given[1].zero_()  # of one class: no pair of language is measured
        assert loss.of_teacher(*given).isnan()
    x, labels, t = (v[:0] for v in batch(4))
    x = x.detach().requires_grad_()
    value = loss.of_teacher(x, labels, t)
    assert value == 0
    assert torch.autograd.grad(value, x)[0].shape == (0, D)


@EVERY
@pytest.mark.parametrize("is_held", [False, True])
def test_second_derivatives(name: str, is_held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_held:
        monkeypatch.setattr(whole, "MOST_PAIRS", -1)
    x, labels, t = batch(9)
    loss = losses.DISTILLATION_LOSSES[name].of_weights(None)
    torch.autograd.gradgradcheck(lambda rows: loss.of_teacher(rows, labels, t), x, fast_mode=True)


def test_a_teacher_of_another_dtype_is_measured_in_its_own() -> None:
    x, _, t = batch(40)
    for n in (40, 20):
        for dtype in (torch.float32, torch.bfloat16):
            value = SimilarityDistillationLoss()(x[:n], t[:n].to(dtype))
            rounded = normalize(t[:n].to(dtype).float()).to(dtype).double()
            unit = normalize(x[:n])
            p, q = log_softmax(unit @ unit.T, 1), softmax(rounded @ rounded.T, 1)
            torch.testing.assert_close(value, kl_div(p, q, reduction="sum") / n)


@EVERY
@pytest.mark.parametrize("n", [24, 810])
def test_a_foreign_default_device(name: str, n: int) -> None:
    x, labels, t = batch(n)
    expected = losses.DISTILLATION_LOSSES[name].of_weights(None).of_teacher(x, labels, t)
    with torch.device("meta"):
        value = losses.DISTILLATION_LOSSES[name].of_weights(None).of_teacher(x, labels, t)
        grads = [torch.autograd.grad(of, x)[0] for of in (value, expected)]
    assert torch.equal(value, expected)
    assert torch.equal(*grads)


REFUSED: list[tuple[Callable[..., object], type[Exception], str]] = [
    (
        lambda x, y, t: SimilarityDistillationLoss()(x, t[:4]),
        ValueError,
        "teacher_embeddings must have as many rows as embeddings, 5, got shape",
    ),
    (
        lambda x, y, t: SimilarityDistillationLoss()(x, y),
        TypeError,
        "teacher_embeddings must be floating point",
    ),
    (
        lambda x, y, t: SimilarityDistillationLoss()(y, t),
        TypeError,
        "embeddings must be floating point",
    ),
    (lambda x, y, t: SimilarityDistillationLoss(0.0), ValueError, "temperature must be > 0, got 0"),
    (
        lambda x, y, t: SimilarityDistillationLoss(backend="cpu"),
        ValueError,
        "backend must be one of",
    ),
    (
        lambda x, y, t: SimilarityDistillationLoss(backend="cuda")(x, t),
        ValueError,
        "backend='cuda' needs embeddings on a CUDA device",
    ),
    (
        lambda x, y, t: LanguageGuidanceLoss()(x, y[:4], t),
        ValueError,
        "Number of embeddings must equal number of labels",
    ),
    (
        lambda x, y, t: LanguageGuidanceLoss()(x, y, t[None, None]),
        ValueError,
        "language must be a 2D tensor",
    ),
    (
        lambda x, y, t: LanguageGuidanceLoss()(x, y, t[:4, None]),
        ValueError,
        "language must have as many rows",
    ),
    (
        lambda x, y, t: S2SDLoss(ContrastiveLoss(), []),
        ValueError,
        "target_losses must hold a loss for each target branch",
    ),
    (lambda x, y, t: S2SDLoss(ContrastiveLoss, [ContrastiveLoss()]), TypeError, "loss must be"),
    (
        lambda x, y, t: S2SDLoss(ContrastiveLoss(), [ContrastiveLoss()])(x, y, []),
        ValueError,
        "target_embeddings must hold one tensor for each of the 1 target losses, got 0",
    ),
    (
        lambda x, y, t: S2SDLoss(ContrastiveLoss(), [ContrastiveLoss()], feature_weight=0.5)(
            x, y, [t]
        ),
        ValueError,
        "features must be given for feature_weight = 0.5",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_bad_input(call: Callable[..., object], error: type[Exception], message: str) -> None:
    x, labels, t = batch(5)
    with pytest.raises(error, match=message):
        call(x, labels, t)


def test_they_are_registered() -> None:
    expected = {"LanguageGuidanceLoss", "S2SDLoss", "SimilarityDistillationLoss"}
    assert set(losses.DISTILLATION_LOSSES) == expected
    assert not expected & {*losses.LOSSES, *losses.TWO_TOWER_LOSSES}
