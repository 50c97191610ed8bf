"""The public primitive: statistics, gradients, argument checks, and the worked example."""

from __future__ import annotations

import pytest
import torch

import fusedml
from examples import custom_loss
from fusedml import dense, functional
from fusedml.engine.pairs import MEASURES, PairProblem, measure_matrix
from fusedml.formulas import pack
from tests.losses.made import make_batch

X, Y = make_batch()
R, Z = make_batch(13, seed=1)
LOGIT = {
    "positive_scale": -1.5,
    "positive_shift": 0.3,
    "negative_scale": 2.5,
    "negative_shift": -0.7,
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("references", [False, True])
@pytest.mark.parametrize("exclude_diagonal", [None, False, True])
def test_against_the_dense_statistics(measure: str, references: bool, exclude_diagonal) -> None:
    others, other_labels = (R, Z) if references else (None, None)
    values = {
        key: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for key, value in LOGIT.items()
    }
    actual = fusedml.pair_statistics(
        X,
        Y,
        others,
        other_labels,
        measure=measure,
        exclude_diagonal=exclude_diagonal,
        **values,
    )
    excluded = (not references) if exclude_diagonal is None else exclude_diagonal
    problem = PairProblem(X, others, Y, other_labels, measure, excluded)
    x = measure_matrix(X, X if others is None else others, measure)
    expected = dense.row_statistics(x, *dense.pair_masks(problem), pack(*values.values()))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)
    inputs = [X, *values.values()] + ([R] if references else [])

    def total(row):
        finite = [torch.where(torch.isfinite(v), v, 0) for v in row[:3]]
        return sum((v.sin().sum() for v in finite), torch.zeros(()))

    # the distance of a point to itself is the square root of a rounding error
    tolerance = 1e-5 if measure == "euclidean" and not excluded else 1e-7
    torch.testing.assert_close(
        torch.autograd.grad(total(actual), inputs),
        torch.autograd.grad(total(expected), inputs),
        rtol=tolerance,
        atol=tolerance,
    )


def test_thresholds_are_the_mined_loss() -> None:
    embeddings = torch.nn.functional.normalize(X)
    thresholds = functional.mining_thresholds(X, Y, 0.1)
    row = fusedml.pair_statistics(
        embeddings,
        Y,
        positive_scale=-2,
        positive_shift=1,
        negative_scale=50,
        negative_shift=-25,
        thresholds=thresholds,
    )
    loss = (torch.logaddexp(row.lse_positive, torch.zeros(20)) / 2).mean()
    loss = loss + (torch.logaddexp(row.lse_negative, torch.zeros(20)) / 50).mean()
    torch.testing.assert_close(loss, functional.multi_similarity_loss(X, Y, mining_epsilon=0.1))


def test_any_labels() -> None:
    expected = fusedml.pair_statistics(X, Y)
    for labels in (Y.float() * 0.1 - 7, Y.int(), Y * 2**58, -Y):
        for a, e in zip(fusedml.pair_statistics(X, labels), expected, strict=True):
            torch.testing.assert_close(a, e)


def test_autocast_and_half_precision_keep_float32_statistics() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        row = fusedml.pair_statistics(X.float(), Y)
    assert row.lse_positive.dtype == torch.float32
    assert fusedml.pair_statistics(X.half(), Y).sum_positive.dtype == torch.float32


BAD = {
    "measure": ({"measure": "cosine"}, ValueError, "measure must be one of 'dot', .* got 'cosine'"),
    "backend": ({"backend": "gpu"}, ValueError, "backend must be one of .* got 'gpu'"),
    "cuda": ({"backend": "cuda"}, ValueError, "backend='cuda' needs embeddings on a CUDA device"),
    "anchors": ({"anchors": X[0]}, ValueError, "anchors must be a 2D tensor"),
    "integer anchors": ({"anchors": X.long()}, TypeError, "anchors must be floating point"),
    "labels": ({"labels": Y[1:]}, ValueError, r"labels has shape \(19,\)"),
    "references alone": (
        {"references": R},
        ValueError,
        r"references and reference_labels must be given together, got shapes \(13, 8\) and None",
    ),
    "reference labels alone": (
        {"reference_labels": Z},
        ValueError,
        r"must be given together, got shapes None and \(13,\)",
    ),
    "reference labels": (
        {"references": R, "reference_labels": Y},
        ValueError,
        r"reference_labels has shape \(20,\)",
    ),
    "reference dtype": (
        {"references": R.float(), "reference_labels": Z},
        ValueError,
        "references must have the dtype of embeddings",
    ),
    "scale": ({"positive_scale": "1"}, TypeError, "positive_scale must be a number or a tensor"),
    "shift": ({"negative_shift": torch.ones(3)}, ValueError, "negative_shift must be a number"),
    "thresholds": (
        {"thresholds": torch.zeros(20)},
        ValueError,
        r"thresholds must be floating point of shape \(2, 20\), got torch.float32 of shape \(20,\)",
    ),
    "threshold type": ({"thresholds": [1]}, TypeError, "thresholds must be a tensor, got list"),
    "threshold device": (
        {"thresholds": torch.zeros(2, 20, device="meta")},
        ValueError,
        "thresholds must be on the device of anchors, cpu, got meta",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case: str) -> None:
    arguments, error, message = BAD[case]
    with pytest.raises(error, match=message):
        fusedml.pair_statistics(**{"anchors": X, "labels": Y, **arguments})


def test_the_example_is_right_and_learns(capsys) -> None:
    s = torch.nn.functional.normalize(X) @ torch.nn.functional.normalize(X).T
    positive = (Y[:, None] == Y) & ~torch.eye(20, dtype=torch.bool)
    hardest_negative = torch.logsumexp((16 * s).masked_fill(Y[:, None] == Y, -torch.inf), 1)
    hardest_positive = torch.logsumexp((-16 * s).masked_fill(~positive, -torch.inf), 1)
    expected = torch.nn.functional.softplus(hardest_positive + hardest_negative + 1.6).mean() / 16
    actual = custom_loss.soft_triplet_loss(X, Y)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.autograd.grad(actual, X), torch.autograd.grad(expected, X))
    custom_loss.main()
    assert "Recall@1 0.99" in capsys.readouterr().out
    lonely = torch.randn(3, 8, requires_grad=True)
    custom_loss.soft_triplet_loss(lonely, torch.arange(3)).backward()
    assert not lonely.grad.any()
