"""Triplets, ranks and histograms made of ``threshold_sums``, whose definition replaces kernels."""

from __future__ import annotations

import pytest
import torch

from fusedml.engine import ops, threshold_rows
from fusedml.losses import (
    BPRLoss,
    FastAPLoss,
    HistogramLoss,
    PNPLoss,
    SmoothAPLoss,
    TripletMarginLoss,
)

NAMESPACE = "fusedml_thresholds"


@pytest.fixture(scope="module")
def _library():
    kernels = {k: v for k, v in ops.TILED_KERNELS.items() if k not in threshold_rows.KERNELS}
    return ops.register_backend(NAMESPACE, kernels, "CompositeExplicitAutograd")


@pytest.fixture
def composed(_library, monkeypatch):
    monkeypatch.setitem(ops.BACKENDS, "composed", NAMESPACE)


LOSSES = {
    "triplets": lambda **o: TripletMarginLoss(margin=0.3, **o),
    "smooth triplets": lambda **o: TripletMarginLoss(margin=0.3, smooth_loss=True, **o),
    "semihard": lambda **o: TripletMarginLoss(margin=0.3, mining="semihard", **o),
    "hard": lambda **o: TripletMarginLoss(margin=0.3, mining="hard", **o),
    "bpr": BPRLoss,
    "smooth ap": SmoothAPLoss,
    "pnp": PNPLoss,
    "fast ap": FastAPLoss,
    "histogram": HistogramLoss,
}


def made(name, backend, dtype, n=50, num_classes=9, with_references=False):
    """The loss and its gradients."""
    generator = torch.Generator().manual_seed(1)

    def side(rows):
        x = torch.randn(rows, 8, generator=generator, dtype=torch.float64).to(dtype)
        return x.requires_grad_(), torch.randint(num_classes, (rows,), generator=generator)

    x, labels = side(n)
    given, of = {}, [x]
    if with_references:
        references, ref_labels = side(23)
        given, of = {"ref_emb": references, "ref_labels": ref_labels}, [x, references]
    loss = LOSSES[name](backend=backend)(x, labels, **given)
    return [loss, *torch.autograd.grad(loss, of)]


def assert_equal(ours, exact, tolerance=1e-12):
    for a, b in zip(ours, exact, strict=True):
        assert b.abs().max() > 0
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("name", LOSSES)
# all rows at once, or a few at a time: then of all columns, of which they are some
@pytest.mark.parametrize("elements", [threshold_rows.STRIP_ELEMENTS, 100])
def test_as_the_formula(composed, monkeypatch, name, elements):
    monkeypatch.setattr(threshold_rows, "STRIP_ELEMENTS", elements)
    assert_equal(made(name, "composed", torch.float64), made(name, "dense", torch.float64))


@pytest.mark.parametrize("name", ["triplets", "smooth triplets"])
@pytest.mark.parametrize("elements", [threshold_rows.STRIP_ELEMENTS, 100])
def test_references(composed, monkeypatch, name, elements):
    monkeypatch.setattr(threshold_rows, "STRIP_ELEMENTS", elements)
    options = {"dtype": torch.float64, "with_references": True}
    assert_equal(made(name, "composed", **options), made(name, "dense", **options))


@pytest.mark.parametrize("name", ["triplets", "smooth ap"])
def test_more_positives_than_are_kept(composed, name):
    assert_equal(
        made(name, "composed", torch.float64, num_classes=2),
        made(name, "dense", torch.float64, num_classes=2),
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("n, num_classes", [(1, 1), (2, 1), (9, 1000)])
def test_few_rows(composed, name, n, num_classes):
    for a, b in zip(
        made(name, "composed", torch.float64, n, num_classes),
        made(name, "dense", torch.float64, n, num_classes),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_what_is_not_finite_shows(composed, name, bad):
    x = torch.randn(12, 5)
    x[3, 2] = bad
    assert LOSSES[name](backend="composed")(x, torch.arange(12) % 4).isnan()


def test_strips_hold_a_bounded_number_of_thresholds(composed, monkeypatch):
    """Two classes of n / 2 rows: half of all pairs are thresholds."""
    held = []
    sums = threshold_rows._Strip.sums

    def watched(strip, *args):
        held.append(strip.t.numel())
        return sums(strip, *args)

    monkeypatch.setattr(threshold_rows._Strip, "sums", watched)
    monkeypatch.setattr(threshold_rows, "STRIP_ELEMENTS", 500)
    made("triplets", "composed", torch.float32, n=60, num_classes=2)
    assert len(held) > 5
    assert max(held) <= 500
