"""Parity with pytorch-metric-learning with references."""

from __future__ import annotations

import pytest
import torch

from fusedml import losses
from tests.losses.made import without_jumps
from tests.pml.parity import (
    PAIR_LOSSES,
    REFERENCE_LOSSES,
    TUPLE_LOSSES,
    Batch,
    assert_parity,
    make_embeddings,
    make_losses,
)

LOSSES = REFERENCE_LOSSES
# One pair; one pair of each kind (theirs: 0); ragged; few of many.
SHAPES = ((1, 1), (1, 2), (2, 1), (5, 3), (3, 17), (10, 129), (128, 20))


def labels_of(n: int, num_classes: int) -> torch.Tensor:
    return torch.arange(n) % num_classes


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_classes", [1, 2, 9])
def test_references(name: str, shape: tuple[int, int], num_classes: int) -> None:
    n, m = shape
    batch = Batch(
        make_embeddings(n),
        labels_of(n, num_classes),
        ref_emb=make_embeddings(m, seed=1),
        ref_labels=labels_of(m, num_classes),
    )
    assert_parity(*make_losses(name), batch)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("share", ["labels themselves", "a copy", "none given"])
def test_the_diagonal_depends_on_whose_labels_they_are(name: str, share: str) -> None:
    if share == "none given" and name not in TUPLE_LOSSES:
        pytest.skip("theirs needs ref_labels")
    n = 24
    labels = labels_of(n, 5)
    ref_labels = {"labels themselves": labels, "a copy": labels.clone(), "none given": None}[share]
    batch = Batch(
        make_embeddings(n), labels, ref_emb=make_embeddings(n, seed=1), ref_labels=ref_labels
    )
    assert_parity(*make_losses(name), batch)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtypes", [(torch.int64, torch.float32), (torch.float64, torch.float16)])
def test_labels_of_two_dtypes_and_nan(name: str, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    labels, ref_labels = labels_of(24, 5).to(dtypes[0]), labels_of(17, 6).to(dtypes[1])
    for side in (labels, ref_labels):
        if side.is_floating_point():
            side[side == 3] = torch.nan
    batch = Batch(
        make_embeddings(24), labels, ref_emb=make_embeddings(17, seed=1), ref_labels=ref_labels
    )
    assert_parity(*make_losses(name), batch)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_the_embeddings_as_their_own_references(name: str) -> None:
    embeddings = make_embeddings(24).requires_grad_()
    labels = labels_of(24, 5)
    ours, theirs = make_losses(name, **without_jumps(name))
    torch.testing.assert_close(
        ours(embeddings, labels, ref_emb=embeddings, ref_labels=labels),
        theirs(embeddings, labels),
        rtol=1e-12,
        atol=1e-12,
    )
    if name in REFERENCE_LOSSES and losses.LOSSES[name].agrees_with_pml_on_equal_embeddings:
        actual = ours(embeddings, labels, ref_emb=embeddings, ref_labels=labels.clone())
        expected = theirs(embeddings, labels, ref_emb=embeddings, ref_labels=labels.clone())
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)
        for loss in (actual, expected):
            loss.backward()
