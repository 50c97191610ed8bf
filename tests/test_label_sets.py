"""Several labels a row: words of bits, both rules, and what losses, miners and queues make of them.

Which pairs are positive is held to the matrix product of the labels.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from torch import Tensor

import fusedml
from fusedml import dense, functional, miners
from fusedml.distances import LpDistance
from fusedml.engine import eager_rows, joint_rows, kept, ops, positives, whole
from fusedml.engine.label_sets import classes_of_sets, meet, packed, sets_of_one
from fusedml.engine.pairs import MEASURES, PairProblem, measure_matrix
from fusedml.engine.routes import joint_pairs
from fusedml.errors import LabelError
from fusedml.formulas import pack
from fusedml.heads import softplus
from fusedml.losses import LOSSES, NTXentLoss, ProxyAnchorLoss, SupConLoss
from fusedml.losses.class_weights import ClassWeightsLoss
from fusedml.losses.tripletwise import TripletwiseLoss
from fusedml.reducers import ClassWeightedReducer, DoNothingReducer, MeanReducer
from tests.losses.made import DIMENSION, make_loss, without_jumps
from tests.pml.parity import TUPLE_LOSSES
from tests.problems import assert_close

RULES = ("any", "all")
# of labels alone, without vectors of classes
OF_SETS = tuple(
    name
    for name, loss in LOSSES.items()
    if loss.takes_label_sets and not issubclass(loss, ClassWeightsLoss)
)
OF_ONE_LABEL = tuple(name for name, loss in LOSSES.items() if not loss.takes_label_sets)
# on both sides of the 800 x 800 pairs that are held whole
SMALL, LARGE = 24, 810


def members(n: int, num_classes: int = 70, seed: int = 0) -> Tensor:
    """Bool [n, num_classes]: mostly one or two of few classes in both words, some rows of none."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(n, num_classes, dtype=torch.bool)
    classes = torch.tensor([0, 1, 63, num_classes - 1])  # 63 is the sign of a word
    labels[:, classes] = torch.rand(n, 4, generator=generator) < 0.3
    return labels


def embeddings(n: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, DIMENSION, generator=generator, dtype=torch.float64)
    return x.to(dtype).requires_grad_()


def is_positive(labels: Tensor, others: Tensor, rule: str) -> Tensor:
    """The ground truth: [n, m]."""
    one, other = labels.double(), others.double()
    in_common = one @ other.T
    if rule == "any":
        return in_common > 0
    sizes = one.sum(1)[:, None]
    return (in_common == sizes) & (in_common == other.sum(1)) & (in_common > 0)


def tuple_of(labels: Tensor, rule: str) -> tuple[Tensor, ...]:
    """All pairs of a batch with itself."""
    positive = is_positive(labels, labels, rule)
    is_other = ~torch.eye(len(labels), dtype=torch.bool)
    pairs = (positive & is_other).nonzero(as_tuple=True)
    return (*pairs, *(~positive & is_other).nonzero(as_tuple=True))


def gradient(loss: torch.nn.Module, x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    value = loss(x, *args)
    return value.detach(), torch.autograd.grad(value, x)[0]


# ------------------------------------------------------------------------------------- bits


# around a word, around the words that are compared without a look, and classes in few of many words
@pytest.mark.parametrize("num_classes", [1, 5, 63, 64, 65, 128, 129, 1000])
def test_words_meet_where_the_product_says(num_classes: int) -> None:
    generator = torch.Generator().manual_seed(num_classes)
    for share in (0.1, 2 / num_classes):
        one, other = (torch.rand(k, num_classes, generator=generator) < share for k in (41, 29))
        expected = is_positive(one, other, "any")
        assert torch.equal(meet(packed(one), packed(other)), expected)
        codes = classes_of_sets(packed(torch.cat([one, other])))
        assert torch.equal(codes[:41, None] == codes[41:], is_positive(one, other, "all"))
    nothing = torch.zeros_like(one)
    assert not meet(packed(nothing), packed(other)).any()
    classes = sets_of_one(num_classes, torch.device("cpu"))
    assert torch.equal(meet(packed(one), classes), one)


def test_every_bit_of_a_word_counts() -> None:
    own = torch.eye(192, dtype=torch.bool)
    assert torch.equal(meet(packed(own), packed(own)), own)


@pytest.mark.parametrize("offset", [None, 0, 3])
def test_counts_of_positives(offset: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a matrix: rows of no class are not their own positives either."""
    monkeypatch.setattr(positives, "_FEW_PAIRS", 0)
    x, labels = embeddings(SMALL), members(SMALL)
    assert not labels.any(1).all()
    sides: tuple[Any, ...] = (x, None, packed(labels), None)
    others = labels
    if offset is not None:
        others = members(31, seed=1)
        others[offset : offset + SMALL] = labels  # the own rows
        sides = x, embeddings(31), packed(labels), packed(others)
    expected = is_positive(labels, others, "any")
    expected.diagonal(offset or 0).fill_(False)
    problem = PairProblem(*sides, self_offset=offset or 0)
    assert torch.equal(positives.num_positives(problem), expected.sum(1))


# ----------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", TUPLE_LOSSES)
def test_the_pairs_are_those_of_a_tuple(name: str, rule: str) -> None:
    x, labels = embeddings(SMALL), members(SMALL)
    theirs = getattr(pml_losses, name)(**LOSSES[name].example_arguments)
    ours = make_loss(name, label_rule=rule)
    expected = gradient(theirs, x, None, tuple_of(labels, rule))
    torch.testing.assert_close(gradient(ours, x, labels), expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", OF_SETS)
def test_one_label_a_row_is_the_label_itself(name: str, rule: str) -> None:
    classes = torch.arange(SMALL) % 7
    one_hot = torch.nn.functional.one_hot(classes).bool()
    loss, x = make_loss(name, label_rule=rule), embeddings(SMALL)
    torch.manual_seed(1)
    expected = gradient(loss, x, classes)
    torch.manual_seed(1)
    actual = gradient(loss, x, one_hot)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    if rule == "all":  # the same codes, in another order
        assert all(map(torch.equal, actual, expected))


@pytest.mark.parametrize("name", ["MultiSimilarityLoss", "SupConLoss", "ContrastiveLoss"])
def test_matrices_of_one_label_a_row_are_the_same(name: str) -> None:
    classes = torch.arange(SMALL) % 7
    loss, x = make_loss(name), embeddings(SMALL)
    expected = gradient(loss, x, classes)
    actual = gradient(loss, x, torch.nn.functional.one_hot(classes))
    assert all(map(torch.equal, actual, expected))


def check_with_matrices(name: str, size: int, backend: str) -> None:
    """Value and gradient of a loss of labels that overlap, against those of the dense formula."""
    x, labels = embeddings(size), members(size)
    options = without_jumps(name)
    torch.manual_seed(1)
    actual = gradient(make_loss(name, backend=backend, **options), x, labels)
    torch.manual_seed(1)
    expected = gradient(make_loss(name, backend="dense", **options), x, labels)
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-10)


def is_cubic(name: str) -> bool:
    loss = LOSSES[name]
    return issubclass(loss, TripletwiseLoss) or loss.matrix_shape((9,), 0, 0) != (9, 9)


@pytest.mark.parametrize("name", OF_SETS)
def test_tiles_and_matrices_agree(name: str) -> None:
    check_with_matrices(name, 200 if is_cubic(name) else LARGE, "auto")


@pytest.mark.parametrize("name", OF_SETS)
def test_kernels_and_matrices_agree(name: str, emulated: Any) -> None:
    check_with_matrices(name, 30 if is_cubic(name) else 131, "emulated")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("has_references", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_statistics(measure: str, dtype: torch.dtype, has_references: bool, rule: str) -> None:
    n, m = (LARGE, 800) if has_references else (LARGE, LARGE)
    x, labels = torch.nn.functional.normalize(embeddings(n)).detach().to(dtype), members(n)
    r, others = x, labels
    if has_references:
        r = torch.nn.functional.normalize(embeddings(m, seed=1)).detach().to(dtype)
        others = members(m, seed=1)
    given = (r, others) if has_references else ()
    row = fusedml.pair_statistics(
        x, labels, *given, measure=measure, negative_scale=3.0, label_rule=rule
    )
    positive = is_positive(labels, others, rule)
    counted = torch.ones_like(positive)
    if not has_references:
        counted.fill_diagonal_(False)
    masks, logit = (positive & counted, ~positive & counted), pack(1.0, 0.0, 3.0, 0.0)
    exact, plain = (
        dense.row_statistics(measure_matrix(x.to(as_is), r.to(as_is), measure), *masks, logit)
        for as_is in (torch.float64, dtype)
    )
    for actual, e, p, name in zip(row, exact, plain, row._fields, strict=True):
        if name.startswith("num"):
            assert torch.equal(actual, e)
        else:
            assert_close(actual, e, p.double(), 1e-6, name)


@pytest.mark.parametrize("n", [SMALL, LARGE])
def test_a_row_without_labels_is_negative_to_its_own_copy(n: int) -> None:
    x, labels = embeddings(n), members(n)
    for rule in RULES:
        row = fusedml.pair_statistics(x, labels, exclude_diagonal=False, label_rule=rule)
        assert torch.equal(row.num_positive, is_positive(labels, labels, rule).sum(1))
        is_empty = ~labels.any(1)
        assert is_empty.any() and not row.num_positive[is_empty].any()
        assert (row.num_negative[is_empty] == n).all()
        copied = fusedml.pair_statistics(x, labels, x, labels.clone(), label_rule=rule)
        assert torch.equal(copied.num_positive, row.num_positive)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["SupConLoss", "NTXentLoss", "ContrastiveLoss", "BPRLoss"])
def test_references(name: str, rule: str) -> None:
    x, labels = embeddings(SMALL), members(SMALL)
    r, others = embeddings(31, seed=1), members(31, seed=1)
    positive = is_positive(labels, others, rule)
    pairs = (*positive.nonzero(as_tuple=True), *(~positive).nonzero(as_tuple=True))
    loss = make_loss(name, label_rule=rule)
    by_tuple = loss(x, None, pairs, r)
    torch.testing.assert_close(loss(x, labels, None, r, others), by_tuple)
    # the batch's own labels leave the pairs i == i out, a copy of them does not
    others = embeddings(SMALL, seed=2)
    with_diagonal = loss(x, labels, None, others, labels.clone())
    without = loss(x, labels, None, others, labels)
    assert not torch.equal(with_diagonal, without)


def test_against_constant_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips whose gradient is found in the forward."""
    monkeypatch.setattr(kept, "MOST_BYTES", 0)
    monkeypatch.setattr(eager_rows, "STRIP_ELEMENTS", 200 * 900)
    x, labels = embeddings(LARGE), members(LARGE)
    r, others = embeddings(900, seed=1).detach(), members(900, seed=1)
    for options in ({}, {"mining_epsilon": 0.1}):
        loss = make_loss("MultiSimilarityLoss", **options)
        expected = make_loss("MultiSimilarityLoss", backend="dense", **options)
        given = labels, None, r, others
        torch.testing.assert_close(gradient(loss, x, *given), gradient(expected, x, *given))


@pytest.mark.parametrize("name", ["SupConLoss", "NTXentLoss", "ContrastiveLoss", "AngularLoss"])
@pytest.mark.parametrize("n", [SMALL, 100])
def test_second_derivatives(name: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "MOST_PAIRS", SMALL**2)
    x, labels = embeddings(n), members(n)
    found = []
    for backend in ("auto", "dense"):
        value = make_loss(name, backend=backend)(x, labels)
        (grad,) = torch.autograd.grad(value, x, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
def test_zeros_and_ones(dtype: torch.dtype) -> None:
    x, labels = embeddings(SMALL), members(SMALL)
    loss = SupConLoss()
    assert torch.equal(loss(x, labels.to(dtype)), loss(x, labels))
    copies = x, labels, None, x, labels.clone()
    assert torch.equal(loss(*copies[:4], labels.to(dtype)), loss(*copies))


@pytest.mark.filterwarnings("ignore:ContrastiveLoss. LpDistance")
def test_blocks_of_another_distance() -> None:
    x, labels = embeddings(SMALL), members(SMALL)
    loss = fusedml.losses.ContrastiveLoss(distance=LpDistance(p=1))
    expected = loss(x, None, tuple_of(labels, "any"))
    torch.testing.assert_close(loss(x, labels), expected)


@pytest.mark.parametrize("has_references", [False, True])
def test_swapped_triplets(has_references: bool) -> None:
    x, labels = embeddings(SMALL), members(SMALL)
    r, others = (embeddings(31, seed=1), members(31, seed=1)) if has_references else (None, None)
    given = labels, None, r, others
    swapped = {"swap": True, "reducer": MeanReducer()}
    by_formula = make_loss("TripletMarginLoss", backend="dense", **swapped)
    expected = gradient(by_formula, x, *given)
    actual = gradient(make_loss("TripletMarginLoss", **swapped), x, *given)
    torch.testing.assert_close(actual, expected)
    listed = fusedml.losses.TripletMarginLoss(swap=True, reducer=DoNothingReducer())
    losses = listed(x, *given)["loss"]["losses"]
    torch.testing.assert_close(losses.mean(), expected[0])


@pytest.mark.parametrize("n", [40, 70])  # in one tile, and in two
@pytest.mark.parametrize(
    "options",
    [{"swap": True}, {"mining": "nearest_semihard"}, {"mining": "semihard", "swap": True}],
    ids=str,
)
def test_triplets_of_kernels(options: dict[str, Any], n: int, emulated: Any) -> None:
    x, labels = embeddings(n), members(n)
    expected = gradient(make_loss("TripletMarginLoss", backend="dense", **options), x, labels)
    assert expected[0] > 0
    actual = gradient(make_loss("TripletMarginLoss", backend="emulated", **options), x, labels)
    torch.testing.assert_close(actual, expected)
    others = fusedml.losses.TripletMarginLoss(label_rule="all", backend="emulated", **options)
    assert gradient(others, x, labels)[0] != expected[0]


@pytest.mark.parametrize("most_pairs", [None, 10])
def test_angular(most_pairs: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negatives of (i, p) are those of i, not those of p."""
    if most_pairs is not None:
        for module in (joint_rows, joint_pairs):
            monkeypatch.setattr(module, "most_pairs", lambda _: most_pairs)
    x, labels = embeddings(SMALL), members(SMALL)
    unit, t = torch.nn.functional.normalize(x), math.tan(math.radians(40)) ** 2
    pairs = tuple_of(labels, "any")
    i, p = pairs[:2]
    z = 4 * t * (unit[i] + unit[p]) @ x.T - 2 * (1 + t) * (unit[i] * unit[p]).sum(1)[:, None]
    negative = ~is_positive(labels, labels, "any")[i]
    expected = softplus(torch.logsumexp(z.masked_fill(~negative, -torch.inf), 1)).mean()
    for backend in ("auto", "dense"):
        value, grad = gradient(make_loss("AngularLoss", backend=backend), x, labels)
        torch.testing.assert_close(value, expected.detach())
        (of_formula,) = torch.autograd.grad(expected, x, retain_graph=True)
        torch.testing.assert_close(grad, of_formula)


@pytest.mark.parametrize("num_empty", [0, 1])
def test_a_batch_of_one_class(num_empty: int) -> None:
    """SupCon's loss is 0 without a negative pair; a row of no class makes some."""
    x, labels = embeddings(SMALL), torch.ones(SMALL, 3, dtype=torch.bool)
    labels[SMALL - num_empty :] = False
    loss = SupConLoss()(x, labels)
    assert (loss > 0) == (num_empty > 0)
    torch.testing.assert_close(loss, SupConLoss(backend="dense")(x, labels))


@pytest.mark.parametrize("n", [SMALL, LARGE])
def test_single_losses(n: int) -> None:
    x, labels = embeddings(n), members(n)
    info = NTXentLoss(reducer=DoNothingReducer())(x, labels)["loss"]
    pairs = tuple_of(labels, "any")
    assert torch.equal(torch.stack(info["indices"]), torch.stack(pairs[:2]))


def test_functions_take_the_rule() -> None:
    x, labels = embeddings(SMALL), members(SMALL)
    for rule in RULES:
        expected = SupConLoss(label_rule=rule)(x, labels)
        actual = functional.sup_con_loss(x, labels, label_rule=rule)
        torch.testing.assert_close(actual, expected)
        mined = fusedml.losses.MultiSimilarityLoss(mining_epsilon=0.1, label_rule=rule)
        thresholds = functional.mining_thresholds(x, labels, 0.1, label_rule=rule)
        s = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(x).T
        negative = ~is_positive(labels, labels, rule) & ~torch.eye(SMALL, dtype=torch.bool)
        hardest = s.masked_fill(~negative, -torch.inf).amax(1) + 0.1
        torch.testing.assert_close(thresholds[0], hardest)
        assert mined(x, labels).isfinite()


# ---------------------------------------------------------------------------------- proxies


def check_proxy_anchor(n: int, num_classes: int, backend: str = "auto") -> None:
    torch.manual_seed(0)
    x, labels = embeddings(n), members(n, num_classes)
    loss = ProxyAnchorLoss(num_classes, DIMENSION, backend=backend).double()
    proxies = torch.nn.functional.normalize(loss.proxies)
    s = proxies @ torch.nn.functional.normalize(x).T
    positive = labels.T
    pos = torch.logsumexp((-32 * (s - 0.1)).masked_fill(~positive, -torch.inf), 1)
    neg = torch.logsumexp((32 * (s + 0.1)).masked_fill(positive, -torch.inf), 1)
    present = labels.any(0)
    expected = softplus(pos[present]).sum() / present.sum() + softplus(neg).sum() / num_classes
    inputs = x, loss.proxies
    torch.testing.assert_close(loss(x, labels), expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss(x, labels), inputs), torch.autograd.grad(expected, inputs)
    )
    classes = torch.arange(n) % num_classes
    one_hot = torch.nn.functional.one_hot(classes, num_classes)
    torch.testing.assert_close(loss(x, one_hot), loss(x, classes))


@pytest.mark.parametrize("n", [SMALL, LARGE])
@pytest.mark.parametrize("num_classes", [70, 300])
def test_proxy_anchor_of_several_proxies(n: int, num_classes: int) -> None:
    check_proxy_anchor(n, num_classes)


def test_proxy_anchor_of_kernels(emulated: Any) -> None:
    check_proxy_anchor(131, 70, "emulated")


# --------------------------------------------------------------------- graphs and transforms


@pytest.mark.parametrize("rule", RULES)
def test_compiled_and_transformed(rule: str) -> None:
    x, labels = embeddings(SMALL), members(SMALL, 130)
    loss = SupConLoss(label_rule=rule)
    expected = gradient(loss, x, labels)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradient(compiled, x, labels), expected)
    torch.testing.assert_close(torch.func.grad(lambda y: loss(y, labels))(x), expected[1])
    both = torch.stack([labels, members(SMALL, 130, seed=1)])
    several = torch.vmap(loss)(torch.stack([x, 2 * x]), both)
    torch.testing.assert_close(several, torch.stack([loss(x, both[0]), loss(2 * x, both[1])]))
    with pytest.raises(TypeError, match=r"must be boolean under .* write labels.bool\(\)"):
        torch.func.grad(lambda y: loss(y, labels.float()))(x)


# ------------------------------------------------------------------------ miners and memories

MINERS: dict[str, dict[str, Any]] = {
    "MultiSimilarityMiner": {},
    "PairMarginMiner": {"pos_margin": 0.4, "neg_margin": 0.9},
    "BatchHardMiner": {},
    "BatchEasyHardMiner": {"pos_strategy": "semihard", "neg_strategy": "hard"},
    "TripletMarginMiner": {"margin": 0.2, "type_of_triplets": "semihard"},
    "AngularMiner": {},
    "HDCMiner": {},
    "DistanceWeightedMiner": {},
    "UniformHistogramMiner": {},
}


@pytest.mark.parametrize("name", MINERS)
def test_miners(name: str) -> None:
    x, classes = embeddings(SMALL), torch.arange(SMALL) // 3
    x.data /= x.data.norm(dim=1, keepdim=True)
    one_hot = torch.nn.functional.one_hot(classes)
    miner = getattr(miners, name)(**MINERS[name])
    torch.manual_seed(1)
    expected = miner(x, classes)
    torch.manual_seed(1)
    actual = miner(x, one_hot)
    assert len(expected[0])
    assert all(map(torch.equal, actual, expected))
    # overlapping classes: what is listed is of its kind
    labels = members(SMALL)
    rows, p, *negatives = miner(x, labels)
    anchors, n = (rows, *negatives) if len(negatives) == 1 else negatives
    positive = is_positive(labels, labels, "any")
    assert len(p) and positive[rows, p].all() and not (rows == p).any()
    assert len(n) and not positive[anchors, n].any() and not (anchors == n).any()


@pytest.mark.parametrize("name", MINERS)
def test_miners_of_kernels(name: str, emulated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tiles of rows; each list in its order, which is not that of the other backend."""
    x, labels = embeddings(70), members(70)

    def lists() -> list[Tensor]:
        torch.manual_seed(1)
        mined = getattr(miners, name)(**MINERS[name])(x, labels)
        kinds = [mined] if len(mined) == 3 else [mined[:2], mined[2:]]
        return [torch.stack(kind, 1).unique(dim=0) for kind in kinds]

    expected = lists()
    monkeypatch.setitem(ops.BACKENDS, "auto", emulated.NAMESPACE)
    assert all(len(kind) for kind in expected)
    assert all(map(torch.equal, lists(), expected))


def test_the_hardest_of_several_labels() -> None:
    x, labels = embeddings(SMALL), members(SMALL)
    rows, p, n = miners.BatchHardMiner()(x, labels)
    unit = torch.nn.functional.normalize(x)
    d = torch.cdist(unit, unit)
    positive = is_positive(labels, labels, "any").fill_diagonal_(False)
    negative = ~is_positive(labels, labels, "any") & ~torch.eye(SMALL, dtype=torch.bool)
    (expected,) = torch.where(positive.any(1) & negative.any(1))
    assert torch.equal(rows, expected)
    assert torch.equal(p, d.masked_fill(~positive, -1).argmax(1)[rows])
    assert torch.equal(n, d.masked_fill(~negative, 9).argmin(1)[rows])


def test_drawn_triplets_are_of_their_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positives, "_COMPARED", 100)  # several strips
    labels = members(SMALL)
    loss = fusedml.losses.TripletMarginLoss(triplets_per_anchor=200, reducer=DoNothingReducer())
    info = loss(embeddings(SMALL), labels)["loss"]
    a, p, n = info["indices"]
    positive = is_positive(labels, labels, "any").fill_diagonal_(False)
    negative = ~is_positive(labels, labels, "any") & ~torch.eye(SMALL, dtype=torch.bool)
    assert positive[a, p].all() and negative[a, n].all()
    # of 200 draws every one of at most 23 is among them, but once in thousands of seeds
    drawn = torch.zeros_like(positive)
    drawn[a, p] = True
    has_both = positive.any(1) & negative.any(1)
    assert torch.equal(drawn[has_both], positive[has_both])


@pytest.mark.parametrize("rule", RULES)
def test_cross_batch_memory(rule: str) -> None:
    loss = NTXentLoss(label_rule=rule)
    memory = fusedml.CrossBatchMemory(
        loss, DIMENSION, 30, num_classes=70, memory_dtype=torch.float64
    )
    seen, seen_labels = [], []
    for k in range(3):
        x, labels = embeddings(12, seed=k), members(12, seed=k)
        actual = memory(x, labels)
        earlier = torch.cat([x.detach(), *seen])[:30], torch.cat([labels, *seen_labels])[:30]
        positive = is_positive(labels, earlier[1], rule)
        is_other = ~torch.eye(12, len(earlier[0]), dtype=torch.bool)
        positives, negatives = positive & is_other, ~positive & is_other
        pairs = (*positives.nonzero(as_tuple=True), *negatives.nonzero(as_tuple=True))
        torch.testing.assert_close(actual, loss(x, None, pairs, earlier[0]))
        # the oldest rows go first
        seen, seen_labels = [x.detach().flip(0), *seen], [labels.flip(0), *seen_labels]
    restored = fusedml.CrossBatchMemory(
        loss, DIMENSION, 30, num_classes=70, memory_dtype=torch.float64
    )
    restored.load_state_dict(memory.state_dict())
    mask = torch.arange(12) % 2 == 0
    assert torch.equal(restored(x, labels, None, mask), memory(x, labels, None, mask))
    with pytest.raises(ValueError, match=r"num_classes = 70 of the memory, got shape \(12, 9\)"):
        memory(x, labels[:, :9])
    with pytest.raises(ValueError, match=r"num_classes = None of the memory"):
        fusedml.CrossBatchMemory(loss, DIMENSION, 30)(x, labels)


# ----------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("name", OF_ONE_LABEL)
def test_losses_of_one_label_say_so(name: str) -> None:
    x, labels = embeddings(SMALL), members(SMALL)
    with pytest.raises(ValueError, match=r"a 1D tensor .*\(24, 70\): write labels.argmax\(1\)"):
        make_loss(name)(x, labels)
    with pytest.raises(ValueError, match="label_rule='all' is for losses that take labels"):
        make_loss(name, label_rule="all")


def test_errors() -> None:
    x, labels, loss = embeddings(SMALL), members(SMALL), SupConLoss()
    soft = torch.rand(SMALL, 70)
    for wrong in (soft, torch.arange(2 * SMALL).view(SMALL, 2)):
        with pytest.raises(ValueError, match="but not of booleans, or 0 and 1, for several labels"):
            loss(x, wrong)
    with pytest.raises(ValueError, match="if these are two views of the same samples"):
        loss(x, x.detach())
    with pytest.raises(ValueError, match=r"write labels.squeeze\(1\)"):
        loss(x, (torch.arange(SMALL) % 2)[:, None])
    with pytest.raises(ValueError, match=r"the same classes, got shapes \(24, 70\) and \(24, 9\)"):
        loss(x, labels, None, x, labels[:, :9])
    with pytest.raises(ValueError, match=r"one a row, or .* \(24, 70\) and \(24,\)"):
        loss(x, labels, None, x, torch.arange(SMALL))
    with pytest.raises(ValueError, match="label_rule must be one of 'any', 'all', got 'both'"):
        SupConLoss(label_rule="both")
    with pytest.raises(ValueError, match="one number of a class for each row for ClassWeighted"):
        SupConLoss(reducer=ClassWeightedReducer(torch.ones(70)))(x, labels)
    with pytest.raises(LabelError, match=r"one number of a class for each row, .* \(24, 70\)"):
        fusedml.losses.MarginLoss(num_classes=70)(x, labels)
    with pytest.raises(ValueError, match="label_rule must be 'any', as a proxy is of one class"):
        ProxyAnchorLoss(70, DIMENSION, label_rule="all")
    with pytest.raises(LabelError, match=r"num_classes = 9 columns, .* got shape \(24, 70\)"):
        ProxyAnchorLoss(9, DIMENSION)(x, labels)


def test_multi_hot() -> None:
    labels = fusedml.multi_hot([[0, 3], [], (i for i in (2,))], 4)
    assert labels.tolist() == [[True, False, False, True], [False] * 4, [False, False, True, False]]
    assert fusedml.multi_hot([], 4).shape == (0, 4)
    with pytest.raises(ValueError, match=r"in \[0, num_classes\) = \[0, 4\), got 4 for sample 1"):
        fusedml.multi_hot([[0], [4]], 4)
    with pytest.raises(TypeError):
        fusedml.multi_hot([[1.0]], 4)
