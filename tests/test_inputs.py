"""What the losses say to bad input, and what they do with unusual input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fusedml.distances import LpDistance
from fusedml.engine import inputs
from fusedml.errors import LabelError, PairConflictError
from fusedml.losses import LOSSES, NPairsLoss, ProxyAnchorLoss, SupConLoss
from tests.losses.made import DIMENSION, NAMES, PAIR_LOSSES, make_batch, make_loss, require_tuples

X, Y = make_batch()


def index(*values: int) -> Tensor:
    return torch.tensor(values)


BAD_CALLS = {
    "wrong number of labels": (
        (X, Y[:-1]),
        ValueError,
        r"Number of embeddings must equal number of labels: labels has shape \(19,\)",
    ),
    "two-dimensional labels": (
        (X, torch.stack([Y, Y], 1)),
        ValueError,
        r"labels must be a 1D tensor of shape \(batch_size,\): labels has shape \(20, 2\)",
    ),
    "a list of labels": ((X, Y.tolist()), TypeError, "labels must be a tensor, got list"),
    "complex labels": ((X, Y + 0j), TypeError, "labels must be integers or floating point"),
    "a list of embeddings": ((X.tolist(), Y), TypeError, "embeddings must be a tensor, got list"),
    "three-dimensional embeddings": (
        (X[None], Y[:1]),
        ValueError,
        r"embeddings must be a 2D tensor of shape \(batch_size, embedding_size\), got shape",
    ),
    "integer embeddings": (
        (X.long(), Y),
        TypeError,
        "embeddings must be floating point, got torch.int64",
    ),
}
BAD_REFERENCES = {
    "another size": (
        {"ref_emb": X[:, :-1], "ref_labels": Y},
        ValueError,
        r"ref_emb must have the embedding size of embeddings, 8, got shape \(20, 7\)",
    ),
    "another dtype": (
        {"ref_emb": X.float(), "ref_labels": Y},
        ValueError,
        "ref_emb must have the dtype of embeddings, torch.float64, got torch.float32",
    ),
    "another device": (
        {"ref_emb": X.to("meta"), "ref_labels": Y},
        ValueError,
        "ref_emb must be on the device of embeddings, cpu, got meta",
    ),
    "wrong number of labels": (
        {"ref_emb": X, "ref_labels": Y[:3]},
        ValueError,
        r"Number of embeddings must equal number of labels: ref_labels has shape \(3,\)",
    ),
    "no labels for another number of rows": (
        {"ref_emb": X[:7]},
        ValueError,
        "ref_labels are required when ref_emb has another number of rows than embeddings: 7 and 20",
    ),
}
BAD_TUPLES = {
    "two tensors": ((index(0), index(1)), ValueError, "indices_tuple must have 3 tensors .* got 2"),
    "no tuple": (
        index(0),
        ValueError,
        "indices_tuple must have 3 .* got no tuple but Tensor",
    ),
    "a list": (([0], [1], [2]), TypeError, r"indices_tuple\[0\] must be a tensor, got list"),
    "two-dimensional": (
        (index(0), index(1)[None], index(2)),
        ValueError,
        r"indices_tuple\[1\] must be 1D, got shape \(1, 1\)",
    ),
    "floating point": (
        (index(0), index(1), index(2).float()),
        TypeError,
        r"indices_tuple\[2\] must hold integers, got torch.float32",
    ),
    "too large": (
        (index(0, 1), index(1, 20), index(2, 3)),
        IndexError,
        r"indices_tuple\[1\] must be in \[0, 20\), got values from 1 to 20",
    ),
    "negative": (
        (index(0, 1), index(1, 2), index(-1, 3)),
        IndexError,
        r"indices_tuple\[2\] must be in \[0, 20\), got values from -1 to 3",
    ),
    "unequal lengths": (
        (index(0, 1), index(1), index(0), index(2)),
        ValueError,
        r"indices_tuple must list as many anchors as positives, .* got lengths \(2, 1, 1, 1\)",
    ),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("call", BAD_CALLS)
def test_bad_calls(name: str, call: str) -> None:
    arguments, error, message = BAD_CALLS[call]
    with pytest.raises(error, match=message):
        make_loss(name)(*arguments)


@pytest.mark.parametrize("name", PAIR_LOSSES)
@pytest.mark.parametrize("call", BAD_REFERENCES)
def test_bad_references(name: str, call: str) -> None:
    arguments, error, message = BAD_REFERENCES[call]
    with pytest.raises(error, match=message):
        make_loss(name)(X, Y, **arguments)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("call", BAD_TUPLES)
def test_bad_tuples(name: str, call: str) -> None:
    require_tuples(LOSSES[name])
    indices, error, message = BAD_TUPLES[call]
    with pytest.raises(error, match=message):
        make_loss(name)(X, Y, indices)


@pytest.mark.parametrize(("fewest", "few"), [(0, 0), (0, 1000), (1000, 1000)])
@pytest.mark.parametrize("num_references", [7, 20, 31])
@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("is_low", [True, False])
def test_each_list_has_its_own_range(
    fewest: int,
    few: int,
    num_references: int,
    position: int,
    is_low: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inputs, "_FEWEST_INDICES", fewest)
    monkeypatch.setattr(inputs, "_FEW_INDICES", few)
    bound = (20, num_references)[position % 2]
    last = index(0, 19), index(0, num_references - 1)
    good = [*last, last[0], last[1].flip(0)]
    references = X.new_zeros(num_references, DIMENSION)
    SupConLoss()(X, None, good, references)
    bad = list(good)
    low, high = (-1, 1) if is_low else (0, bound)
    bad[position] = index(low, high)
    message = (
        rf"indices_tuple\[{position}\] must be in \[0, {bound}\), got values from {low} to {high}"
    )
    with pytest.raises(IndexError, match=message):
        SupConLoss()(X, None, bad, references)


@pytest.mark.parametrize("name", NAMES)
def test_labels_or_tuple_are_required(name: str) -> None:
    message = "labels and indices_tuple cannot both be None"
    if name not in PAIR_LOSSES:
        message = "labels are required for this loss function"
        with pytest.raises(ValueError, match=message):
            make_loss(name)(X, None, (index(0, 1), index(1, 0), index(2, 3)))
    with pytest.raises(ValueError, match=message):
        make_loss(name)(X)
    with pytest.raises(ValueError, match=message):
        make_loss(name)(X, ref_emb=X)


@pytest.mark.parametrize("name", [n for n in NAMES if not LOSSES[n].takes_references])
def test_references_are_not_supported(name: str) -> None:
    for arguments in ({"ref_emb": X.clone(), "ref_labels": Y}, {"ref_emb": X, "ref_labels": Y + 1}):
        with pytest.raises(ValueError, match="ref_emb is not supported for this loss function"):
            make_loss(name)(X, Y, **arguments)
    make_loss(name)(X, Y, ref_emb=X, ref_labels=Y)


@pytest.mark.parametrize(
    "name", ["MultiSimilarityLoss", "GeneralizedLiftedStructureLoss", "SupConLoss"]
)
def test_a_pair_of_both_kinds(name: str) -> None:
    indices = (index(0, 1), index(6, 7), index(3, 0), index(1, 6))
    message = (
        r"Each pair should be either be positive or negative: .* 1 pair.* first being \(0, 6\)"
    )
    for error in (PairConflictError, ValueError, AssertionError):
        with pytest.raises(error, match=message):
            make_loss(name)(X, None, indices)


@pytest.mark.parametrize("name", ["NTXentLoss", "LiftedStructureLoss"])
def test_a_pair_of_both_kinds_is_allowed_where_pairs_are_listed(name: str) -> None:
    indices = (index(0, 1), index(6, 7), index(3, 0), index(1, 6))
    assert make_loss(name)(X, None, indices).isfinite()


def test_class_labels() -> None:
    loss = ProxyAnchorLoss(3, DIMENSION)
    for labels, message in (
        (Y, r"labels must be in \[0, num_classes\) = \[0, 3\), got values from 0 to 5"),
        (Y % 3 - 1, r"labels must be in \[0, num_classes\) = \[0, 3\), got values from -1 to 1"),
        (Y.double(), "labels must be integers for this loss function, got torch.float64"),
        (Y % 2 == 0, "labels must be integers for this loss function, got torch.bool"),
    ):
        for error in (LabelError, ValueError, RuntimeError):
            with pytest.raises(error, match=message):
                loss(X, labels)
    assert torch.equal(loss(X, (Y % 3).int()), loss(X, Y % 3))


def test_embedding_size_of_the_proxies() -> None:
    message = (
        r"embeddings must have as many columns as the proxies, got shapes \(20, 8\) and \(3, 5\)"
    )
    with pytest.raises(ValueError, match=message):
        ProxyAnchorLoss(3, 5)(X, Y % 3)


def test_empty_index_tensors_of_any_dtype() -> None:
    empty = torch.tensor([])
    assert SupConLoss()(X, None, (empty, empty, empty)) == 0
    assert NPairsLoss()(X, Y, (empty, empty, empty, empty)) == 0


def test_an_undirected_distance_is_required() -> None:
    class Plain(torch.nn.Module):
        def forward(self, query, ref):
            return query @ ref.T

    message = r"distance must have an attribute is_inverted .* got Plain"
    with pytest.raises(TypeError, match=message):
        SupConLoss(distance=Plain())
    loss = SupConLoss()
    loss.distance = Plain()
    for indices in (None, (index(0, 1), index(6, 7), index(3, 0), index(1, 6))):
        with pytest.raises(TypeError, match=message):
            loss(X, Y, indices)


def test_cuda_refuses_a_distance_it_cannot_compute() -> None:
    with pytest.raises(ValueError, match=r"backend='cuda' computes cosine, .* got LpDistance"):
        SupConLoss(distance=LpDistance(power=3), backend="cuda")(X, Y)


@pytest.mark.parametrize("name", NAMES)
def test_tensors_that_hold_no_rows_of_numbers(name: str) -> None:
    loss, labels = make_loss(name), torch.arange(len(X)) % 4
    with pytest.raises(TypeError, match=r"embeddings must be a dense tensor.*embeddings.to_dense"):
        loss(X.detach().to_sparse(), labels)
    with pytest.raises(ValueError, match=r"labels must be on a device that holds numbers.*meta"):
        loss(X, labels.to("meta"))
    if name in PAIR_LOSSES:
        others = X.detach().clone()
        with pytest.raises(TypeError, match=r"ref_emb must be a dense tensor"):
            loss(X, labels, None, others.to_sparse(), labels)
        with pytest.raises(ValueError, match=r"ref_labels must be on a device that holds"):
            loss(X, labels, None, others, labels.to("meta"))
