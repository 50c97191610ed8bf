"""Rows that are among the references: of row i the column (i + offset) mod m is left out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

import fusedml
from fusedml import functional, losses
from fusedml.dense import pair_masks
from fusedml.distributed import DistributedLoss
from fusedml.engine import autograd, positives, threshold_rows
from fusedml.engine.label_sets import packed
from fusedml.engine.pairs import PairProblem, fill_excluded
from tests.losses.made import DIMENSION, PAIR_LOSSES, make_loss
from tests.problems import make_problem

NUM_CLASSES = 4


def make_sides(
    n: int, m: int, offset: int, dtype: torch.dtype = torch.float64, d: int = DIMENSION
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings [n, d] and references [m, d], which hold them from ``offset`` on, with labels."""
    generator = torch.Generator().manual_seed(n + m + offset)
    references = torch.randn(m, d, generator=generator, dtype=torch.float64).to(dtype)
    others = torch.randint(NUM_CLASSES, (m,), generator=generator)
    own = (torch.arange(n) + offset) % m
    leaves = (x.clone().requires_grad_() for x in (references[own], references))
    embeddings, references = leaves
    return embeddings, others[own], references, others


def all_but_own(labels: Tensor, others: Tensor, offset: int) -> tuple[Tensor, ...]:
    """(anchors, positives, anchors, negatives), by their definition."""
    m = len(others)
    pairs = [(i, j) for i in range(len(labels)) for j in range(m) if j != (i + offset) % m]
    alike = [
        [pair for pair in pairs if bool(labels[pair[0]] == others[pair[1]]) == kind]
        for kind in (True, False)
    ]
    return tuple(index for kind in alike for index in torch.tensor(kind).unbind(1))


@pytest.mark.usefixtures("whole_or_tiles")
# as many references as rows, and more, from the last rows on the first
@pytest.mark.parametrize(("n", "m", "offset"), [(11, 11, 4), (9, 14, 0), (9, 14, 10)])
@pytest.mark.parametrize(
    # others may have negatives of references, which no tuple lists
    "name",
    [name for name in PAIR_LOSSES if losses.LOSSES[name].agrees_with_pml_on_references],
)
def test_as_the_list_of_all_other_pairs(name: str, n: int, m: int, offset: int) -> None:
    x, labels, refs, others = make_sides(n, m, offset)
    loss = make_loss(name)
    actual = loss(x, labels, ref_emb=refs, ref_labels=others, self_offset=offset)
    expected = loss(x, None, all_but_own(labels, others, offset), refs)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)
    grads = [torch.autograd.grad(value, [x, refs]) for value in (actual, expected)]
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-11)


def expected_statistics(x: Tensor, refs: Tensor, is_positive: Tensor, offset: int) -> list[Tensor]:
    """The five statistics of dot products, from the full matrix."""
    n, m = is_positive.shape
    z = x @ refs.T
    counted = torch.ones(n, m, dtype=torch.bool)
    counted[torch.arange(n), (torch.arange(n) + offset) % m] = False
    masks = is_positive & counted, ~is_positive & counted
    lse = [z.masked_fill(~mask, -torch.inf).logsumexp(1) for mask in masks]
    return [*lse, (z * masks[0]).sum(1), *(mask.sum(1) for mask in masks)]


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
# on both sides of 800 x 800 pairs, of codes and of sets, whose tiles are others
@pytest.mark.parametrize(
    ("n", "m", "offset", "rule"),
    [(5, 5, 3, None), (130, 200, 150, "any"), (850, 900, 860, None), (800, 4100, 4000, "any")],
)
def test_statistics(
    n: int, m: int, offset: int, rule: str | None, dtype: torch.dtype, backend: str
) -> None:
    x, labels, refs, others = make_sides(n, m, offset, dtype)
    x, refs = (torch.nn.functional.normalize(y.detach()).requires_grad_() for y in (x, refs))
    is_positive = labels[:, None] == others
    if rule is not None:
        members = torch.eye(NUM_CLASSES, dtype=torch.bool)
        members = torch.cat([members, members.roll(1, 0)], 1)  # two classes a row
        labels, others = members[labels], members[others]
        is_positive = (labels[:, None] & others).any(2)
    row = fusedml.pair_statistics(x, labels, refs, others, self_offset=offset, backend=backend)
    exact_x, exact_refs = (y.detach().double().requires_grad_() for y in (x, refs))
    exact = expected_statistics(exact_x, exact_refs, is_positive, offset)
    in_dtype = expected_statistics(x, refs, is_positive, offset)
    floor = 1e-12 if dtype == torch.float64 else 1e-5
    for ours, plain, true in zip(row[:3], in_dtype, exact, strict=False):
        finite = true.isfinite()
        assert torch.equal(ours.isfinite(), finite)
        errors = [(y.double() - true)[finite].abs().max() for y in (ours, plain)]
        assert errors[0] <= 2 * errors[1] + floor * true[finite].abs().max()
    for ours, true in zip(row[3:], exact[3:], strict=True):
        assert torch.equal(ours, true)
    grads, exact_grads, plain = (
        torch.autograd.grad(sum(y[torch.isfinite(y)].sum() for y in values[:3]), leaves)
        for values, leaves in (
            (row, [x, refs]),
            (exact, [exact_x, exact_refs]),
            (in_dtype, [x, refs]),
        )
    )
    for ours, true, near in zip(grads, exact_grads, plain, strict=True):
        error, theirs = ((y.double() - true).abs().max() for y in (ours, near))
        assert error <= 2 * theirs + 10 * floor * true.abs().max()


def test_functions_and_modules_agree() -> None:
    x, labels, refs, others = make_sides(9, 14, 10)
    options = {"ref_emb": refs, "ref_labels": others, "self_offset": 10}
    value = functional.sup_con_loss(x, labels, **options)
    assert torch.equal(value, losses.SupConLoss()(x, labels, **options))
    mined = functional.mining_thresholds(x, labels, 0.1, **options)
    similarity = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(refs).T
    a, p, *_ = all_but_own(labels, others, 10)
    hardest = torch.full((9,), torch.inf, dtype=x.dtype)
    hardest = hardest.scatter_reduce(0, a, similarity[a, p].detach(), "amin")
    torch.testing.assert_close(mined[1], hardest - 0.1)


def test_swapped_triplets() -> None:
    """Whose rows and columns are sorted by class apart from each other."""
    x, labels, refs, others = make_sides(9, 14, 10)
    loss = losses.TripletMarginLoss(swap=True, triplets_per_anchor="all")
    value = loss(x, labels, ref_emb=refs, ref_labels=others, self_offset=10)
    i, p, j, n = all_but_own(labels, others, 10)
    first, second = (i[:, None] == j).nonzero(as_tuple=True)
    triplets = i[first], p[first], n[second]
    torch.testing.assert_close(value, loss(x, None, triplets, refs))


def test_few_positives_and_nca() -> None:
    """A positive or two to a row, listed; and a loss whose tuples are weights."""
    x, _, refs, _ = make_sides(400, 500, 450)
    others = torch.arange(500) // 2
    labels = others[(torch.arange(400) + 450) % 500]
    pairs = all_but_own(labels, others, 450)
    for loss in (losses.SupConLoss(), losses.NTXentLoss()):
        value = loss(x, labels, ref_emb=refs, ref_labels=others, self_offset=450)
        torch.testing.assert_close(value, loss(x, None, pairs, refs))
    value = losses.NCALoss()(x, labels, ref_emb=refs, ref_labels=others, self_offset=450)
    z = -torch.cdist(*(torch.nn.functional.normalize(y) for y in (x, refs))).square()
    own = torch.zeros(400, 500, dtype=torch.bool)
    own[torch.arange(400), (torch.arange(400) + 450) % 500] = True
    share = z.masked_fill(own, -torch.inf).softmax(1)
    of_positives = (share * (labels[:, None] == others)).sum(1)
    torch.testing.assert_close(value, -of_positives.log().mean())


@pytest.mark.parametrize("name", ["SupConLoss", "NCALoss"])
def test_references_with_the_labels_of_the_batch(name: str) -> None:
    """NCALoss counts the pairs i == i of these unless it is told that they are own ones."""
    x, labels, *_ = make_sides(9, 9, 0)
    loss = make_loss(name)
    value = loss(x, labels, ref_emb=x.clone(), self_offset=0)
    torch.testing.assert_close(value, loss(x, labels))


@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.parametrize("name", ["SupConLoss", "NTXentLoss", "ContrastiveLoss", "NCALoss"])
def test_second_derivatives(name: str) -> None:
    """As those of the dense formula; ContrastiveLoss has sums of rows and of columns."""
    sides = make_sides(9, 14, 10)
    penalties = []
    for backend in ("auto", "dense"):
        x, labels, refs, others = sides
        loss = make_loss(name, backend=backend)
        value = loss(x, labels, ref_emb=refs, ref_labels=others, self_offset=10)
        grads = torch.autograd.grad(value, [x, refs], create_graph=True)
        total = sum((5 * grad).sin().sum() for grad in grads)
        penalties.append(torch.autograd.grad(total, [x, refs]))
    torch.testing.assert_close(*penalties, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("num_classes", [None, 7])
def test_parts_of_a_gathered_batch(num_classes: int | None, dtype: torch.dtype) -> None:
    """Of ranks that hold all rows, and leave out their own: the loss of the batch, and its
    gradient."""
    x, labels, *_ = make_sides(60, 60, 0, dtype)
    if num_classes is not None:
        labels = torch.arange(num_classes) % 3 == labels[:, None] % 3
    loss = losses.SupConLoss()
    everything = {"ref_emb": x, "ref_labels": labels}
    parts = [
        loss(x[begin : begin + 15], labels[begin : begin + 15], **everything, self_offset=begin)
        for begin in range(0, 60, 15)
    ]
    values = torch.stack(parts).mean(), loss(x, labels)
    rounding = {"rtol": 2e-2, "atol": 1e-3} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(*values, **rounding)
    grads = [torch.autograd.grad(value, x)[0] for value in values]
    torch.testing.assert_close(*grads, **rounding)


@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.parametrize(("n", "m", "offset"), [(5, 5, 3), (9, 14, 0), (9, 14, 10), (14, 9, 0)])
def test_the_same_pairs_turned(n: int, m: int, offset: int) -> None:
    problem = make_problem(n, m, 3, exclude_diagonal=True, self_offset=offset)
    turned = pair_masks(problem.turned())
    for mask, of_turned in zip(pair_masks(problem), turned, strict=True):
        assert torch.equal(mask.T, of_turned)
    excluded = (~sum(pair_masks(problem)).bool()).nonzero()
    assert excluded.tolist() == [[i, (i + offset) % m] for i in range(min(n, m))]
    filled = fill_excluded(torch.zeros(m, n), problem.turned(), 1.0)
    assert torch.equal(filled.T.nonzero(), excluded)
    row = autograd.pair_statistics(problem.turned(), torch.tensor([1.0, 0, 1, 0]), backend="torch")
    assert torch.equal(torch.stack(row[3:]), torch.stack(turned).sum(2))


@pytest.mark.usefixtures("whole_or_tiles")
def test_mined_pairs() -> None:
    """No row is its own hardest positive, or is mined itself."""
    x, labels, refs, others = make_sides(9, 14, 10)
    grads = []
    for backend in ("auto", "dense"):
        loss = losses.MultiSimilarityLoss(mining_epsilon=0.1, backend=backend)
        value = loss(x, labels, ref_emb=refs, ref_labels=others, self_offset=10)
        grads.append([value, *torch.autograd.grad(value, [x, refs])])
    torch.testing.assert_close(*grads)


def test_compiled() -> None:
    """The offset is a number of the graph: a queue's does not compile a step each."""
    counter = CompileCounter()
    loss = losses.SupConLoss()
    compiled = torch.compile(loss, backend=counter)
    for offset in (0, 3, 9, 12, 5):
        x, labels, refs, others = make_sides(9, 14, offset)
        options = {"ref_emb": refs, "ref_labels": others, "self_offset": offset}
        torch.testing.assert_close(compiled(x, labels, **options), loss(x, labels, **options))
    assert counter.frame_count <= 3


@pytest.mark.parametrize(
    ("offset", "options", "error", "message"),
    [
        (0, {"ref_emb": None, "ref_labels": None}, ValueError, "needs ref_emb, got 0 and none"),
        (14, {}, ValueError, r"from 0 to m - 1.*got 14 for m = 14 and n = 9"),
        (-1, {}, ValueError, r"got -1 for m = 14"),
        (True, {}, TypeError, "int or None, got bool"),
        (1.0, {}, TypeError, "int or None, got float"),
        (1, {"indices_tuple": (torch.tensor([0]),) * 4}, ValueError, "mutually exclusive"),
    ],
)
def test_errors(offset: int, options: dict, error: type[Exception], message: str) -> None:
    x, labels, refs, others = make_sides(9, 14, 0)
    options = {"ref_emb": refs, "ref_labels": others} | options
    with pytest.raises(error, match=message):
        losses.SupConLoss()(x, labels, self_offset=offset, **options)


def test_errors_of_statistics_and_of_many_ranks() -> None:
    x, labels, refs, others = make_sides(9, 14, 0)
    with pytest.raises(ValueError, match=r"m = 9 and n = 14"):
        fusedml.pair_statistics(refs, others, x, labels, self_offset=1)
    with pytest.raises(ValueError, match="excludes a diagonal, got 1 and False"):
        fusedml.pair_statistics(x, labels, refs, others, self_offset=1, exclude_diagonal=False)
    with pytest.raises(ValueError, match="not supported by DistributedLoss"):
        DistributedLoss(losses.SupConLoss())._of_embeddings(x, labels, self_offset=1)


@pytest.mark.parametrize("offset", [0, 3, 8])
@pytest.mark.parametrize("are_sets", [False, True])
def test_pairs_of_turned_problems(monkeypatch, are_sets: bool, offset: int) -> None:
    """What is listed, counted and drawn; own pairs are of equal labels, and of others."""
    monkeypatch.setattr(positives, "_FEW_PAIRS", -1)  # above which nothing is compared at once
    generator = torch.Generator().manual_seed(offset)
    anchors, references = (torch.rand(k, 3, generator=generator) < 0.4 for k in (5, 9))
    alike = (anchors[:, None] & references).any(2)
    rows, columns = packed(anchors), packed(references)
    if not are_sets:
        rows, columns = (members.sum(1) for members in (anchors, references))
        alike = rows[:, None] == columns
    problem = PairProblem(torch.zeros(5, 2), torch.zeros(9, 2), rows, columns)
    problem = problem._replace(self_offset=offset)
    counted = torch.ones(5, 9, dtype=torch.bool)
    counted[torch.arange(5), (torch.arange(5) + offset) % 9] = False
    for side, is_alike, kept in ((problem, alike, counted), (problem.turned(), alike.T, counted.T)):
        positive, negative = is_alike & kept, ~is_alike & kept
        found = positives.positives_of(side)
        pairs = torch.stack(found.of_rows(0, len(kept)), 1)
        assert torch.equal(pairs, positive.nonzero())
        assert torch.equal(positives.num_positives(side), positive.sum(1))
        assert torch.equal(side.pairs_of_rows(), kept.sum(1))
        for draw, mask in ((found.drawn, positive), (found.drawn_negatives, negative)):
            for row in mask.any(1).nonzero()[:, 0].tolist():
                drawn = draw(torch.full((90,), row), torch.arange(90) / 90)
                assert drawn.unique().tolist() == mask[row].nonzero()[:, 0].tolist()


@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.also_emulated
@pytest.mark.parametrize("name", ["SupConLoss", "ContrastiveLoss", "TripletMarginLoss", "BPRLoss"])
def test_own_pairs_of_other_labels(monkeypatch, name: str) -> None:
    """Left out from among the negatives, too; in strips of rows where thresholds are listed."""
    monkeypatch.setattr(threshold_rows, "STRIP_ELEMENTS", 12)
    x, labels, refs, others = make_sides(9, 14, 10)
    labels = (labels + torch.arange(9) % 2) % NUM_CLASSES
    loss = make_loss(name)
    actual = loss(x, labels, ref_emb=refs, ref_labels=others, self_offset=10)
    expected = loss(x, None, all_but_own(labels, others, 10), refs)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)
    grads = [torch.autograd.grad(value, [x, refs]) for value in (actual, expected)]
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-11)
