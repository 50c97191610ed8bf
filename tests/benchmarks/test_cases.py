from __future__ import annotations

import pytest
import torch

from benchmarks.cases import Case, as_dtype, make_problem
from benchmarks.harness import check
from benchmarks.modules import module_of
from benchmarks.providers import PROVIDERS
from benchmarks.suites import AS_MANY, Grid


def test_labels_have_the_asked_number_of_samples_in_random_order():
    problem = make_problem(Case("MultiSimilarityLoss", n=40, d=3))
    assert problem.embeddings.shape == (40, 3) and problem.embeddings.requires_grad
    assert problem.labels.bincount().tolist() == [4] * 10
    assert problem.labels.tolist() != sorted(problem.labels.tolist())


def test_equal_cases_have_equal_problems():
    case = Case("ProxyAnchorLoss", n=40, d=3, num_classes=25)
    first, second = make_problem(case), make_problem(case)
    assert torch.equal(first.embeddings, second.embeddings)
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.weights, second.weights)


def test_proxies_are_of_all_classes_and_labels_of_some():
    problem = make_problem(Case("ProxyAnchorLoss", n=40, d=3, num_classes=25))
    assert problem.weights.shape == (25, 3)
    assert problem.labels.unique().numel() == 10
    assert int(problem.labels.max()) < 25


@pytest.mark.parametrize(
    ("loss", "n", "shape"),
    [
        ("MultiSimilarityLoss", 41, (41, 41)),
        ("ProxyAnchorLoss", 41, (25, 41)),
        ("NPairsLoss", 41, (10, 10)),  # the eleventh class has one sample only
        ("NPairsLoss", 42, (11, 11)),
    ],
)
def test_matrix_shape(loss, n, shape):
    assert Case(loss, n=n, d=3, num_classes=25).matrix_shape == shape


def test_as_dtype_keeps_the_numbers():
    problem = make_problem(Case("ProxyAnchorLoss", n=8, d=3, num_classes=4))
    double = as_dtype(problem, torch.float64)
    assert all(leaf.dtype == torch.float64 and leaf.is_leaf for leaf in double.leaves)
    assert torch.equal(double.embeddings.float(), problem.embeddings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "NoLoss"}, "loss must be one of .*MultiSimilarityLoss, .* got 'NoLoss'"),
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"samples_per_class": -1}, "samples_per_class must be at least 1, got -1"),
        ({"dtype": "float33"}, "dtype must be the name of a torch dtype, got 'float33'"),
        ({"direction": "sideways"}, "direction must be one of .* got 'sideways'"),
        ({"num_references": -1}, "num_references must be at least 0, got -1"),
        (
            {"loss": "NPairsLoss", "num_references": 5},
            "num_references must be 0 for NPairsLoss, which takes no references, got 5",
        ),
        (
            {"loss": "ClipLoss", "samples_per_class": 1, "num_references": 5},
            "samples_per_class and num_references must be 1 and n = 12 for ClipLoss, got 1 and 5",
        ),
        (
            {"loss": "ProxyAnchorLoss", "num_classes": 2},
            "num_classes must be at least the 3 classes of the batch, got 2",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Case(**{"loss": "MultiSimilarityLoss", "n": 12, "d": 3, **arguments})


def test_a_variant_is_its_class_with_other_arguments():
    case = Case("TripletMarginLoss nearest_semihard", n=12, d=3)
    assert case.kind is Case("TripletMarginLoss", n=12, d=3).kind
    assert module_of(case, make_problem(case)).mining == "nearest_semihard"
    with pytest.raises(ValueError, match=r"loss must be one of .* got 'TripletMarginLoss hard'"):
        Case("TripletMarginLoss hard", n=12, d=3)


def test_references_are_other_embeddings_of_the_same_classes():
    case = Case("SupConLoss", n=40, d=3, num_references=25)
    problem = make_problem(case)
    assert problem.references.shape == (25, 3) and problem.reference_labels.shape == (25,)
    assert set(problem.reference_labels.tolist()) <= set(problem.labels.tolist())
    assert case.matrix_shape == (40, 25)
    assert problem.leaves == (problem.embeddings, problem.references)
    double = as_dtype(problem, torch.float64)
    assert double.references.dtype == torch.float64 and double.references.requires_grad


def test_a_document_is_of_the_class_of_its_query_alone():
    case = Case("SupConLoss", n=40, d=1024, samples_per_class=1, num_references=40)
    problem = make_problem(case)
    assert torch.equal(problem.labels, problem.reference_labels)
    assert problem.labels.unique().numel() == 40
    # around the same centre, but another point
    products = problem.embeddings.detach() @ problem.references.detach().T
    assert torch.equal(products.argmax(1), torch.arange(40))
    assert not torch.equal(problem.embeddings, problem.references)


@pytest.mark.parametrize(("loss", "is_unit"), [("ClipLoss", True), ("InfoNCELoss", False)])
def test_rows_are_normalized_where_the_model_does_so(loss, is_unit):
    problem = make_problem(Case(loss, n=12, d=256, samples_per_class=1, num_references=12))
    for rows in problem.embeddings, problem.references:
        assert bool((rows.norm(dim=1) < 1.001).all()) == is_unit
        assert rows.is_leaf and rows.requires_grad


@pytest.mark.parametrize(
    ("loss", "is_learnt"), [("LanguageGuidanceLoss", False), ("S2SDLoss", True)]
)
def test_a_teacher_is_twice_as_wide_and_a_leaf_if_it_learns(loss, is_learnt):
    problem = make_problem(Case(loss, n=12, d=3))
    assert problem.teacher.shape == (12, 6)
    assert problem.leaves == (problem.embeddings, problem.teacher)[: 1 + is_learnt]
    double = as_dtype(problem, torch.float64)
    assert double.teacher.dtype == torch.float64 and double.teacher.requires_grad == is_learnt


def test_grids_give_a_loss_of_two_sets_what_it_takes():
    (case,) = Grid(("ClipLoss",), ("fusedml",), (12,), samples_per_class=(4,)).cases("cpu")
    assert (case.samples_per_class, case.num_references, case.matrix_shape) == (1, 12, (12, 12))
    (case,) = Grid(("SupConLoss",), ("fusedml",), (12,), references=(AS_MANY,)).cases("cpu")
    assert (case.samples_per_class, case.num_references) == (4, 12)


def test_a_memory_bank_holds_the_batch_and_needs_no_gradient():
    case = Case("SupConLoss", 12, 8, num_references=40, in_memory=True)
    problem = make_problem(case)
    assert torch.equal(problem.references[:12], problem.embeddings)
    assert torch.equal(problem.reference_labels[:12], problem.labels)
    assert problem.leaves == (problem.embeddings,)
    assert as_dtype(problem, torch.float64).leaves[0].dtype == torch.float64
    with pytest.raises(ValueError, match="hold at least its n = 12 rows, got 8 of SupConLoss"):
        Case("SupConLoss", 12, 8, num_references=8, in_memory=True)


@pytest.mark.parametrize("provider", ["fusedml", "pytorch-metric-learning"])
def test_memory_banks_agree_and_stay_as_they_are(provider):
    case = Case("MultiSimilarityLoss", 12, 8, num_references=40, in_memory=True)
    problem = make_problem(case)
    loss = PROVIDERS[provider](case, problem)
    assert loss().item() == loss().item()
    check(case, PROVIDERS[provider], provider)
