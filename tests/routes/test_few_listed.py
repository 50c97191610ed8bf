"""Small index tuples, read from one matrix, and the same by the list: against the full matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fusedml import reducers
from fusedml.distances import CosineSimilarity
from fusedml.engine import list_sizes, whole
from fusedml.engine.autograd import choices
from fusedml.engine.routes import choice, listed_sides, triplets
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.errors import PairConflictError
from fusedml.formulas import SumFormula, pack
from fusedml.losses import LOSSES, PairwiseLoss, RowwiseLoss
from fusedml.losses.sums import TermwiseLoss
from fusedml.losses.tripletwise import TripletwiseLoss
from fusedml.terms import hinge, identity, softplus, square, squared_hinge
from tests.losses.made import PAIR_LOSSES, make_batch, make_loss
from tests.test_averaged import index_tuple

NAMES = [name for name in PAIR_LOSSES if LOSSES[name].takes_tuples]
NAMES_OF_TERMS = [name for name in NAMES if issubclass(LOSSES[name], TermwiseLoss)]
NAMES_OF_TRIPLETS = [name for name in NAMES if issubclass(LOSSES[name], TripletwiseLoss)]
NAMES_OF_PAIRS = [name for name in NAMES if issubclass(LOSSES[name], PairwiseLoss)]
NAMES_OF_ROWS = [name for name in NAMES if issubclass(LOSSES[name], RowwiseLoss)]
EVERY = pytest.mark.parametrize("name", NAMES)
REDUCERS = {
    "default": lambda: None,
    "mean": reducers.MeanReducer,
    "above 0": reducers.AvgNonZeroReducer,
    "above": lambda: reducers.ThresholdReducer(low=0.3),
    "anchors": lambda: reducers.PerAnchorReducer(reducers.AvgNonZeroReducer()),
}


@pytest.fixture(params=["matrix", "entries", "gathered", "gathered of many", "few", "held", "list"])
def _route(request, monkeypatch):
    """Pairs are read from one matrix, whole or entry by entry, measured one by one in one operator,
    or by the list: in ordinary PyTorch, on a matrix that is no larger, or by operators.
    """
    if request.param in ("matrix", "entries"):
        per_entry = 0 if request.param == "entries" else 1 << 30
        monkeypatch.setattr(list_sizes, "_PAIRS_PER_ENTRY", per_entry)
        return
    monkeypatch.setattr(triplets, "_FEW_COMPARED", -1)
    monkeypatch.setattr(list_sizes, "_FEW_PAIRS", 0)
    monkeypatch.setattr(list_sizes, "_PAIRS_PER_DENSE", 0)
    if request.param.startswith("gathered"):
        monkeypatch.setattr(list_sizes, "_FEW_MULTIPLIED", 0)
        monkeypatch.setattr(list_sizes, "_PAIRS_PER_GATHERED", 0)
    if request.param == "gathered":
        monkeypatch.setattr(list_sizes, "_PAIRS_PER_HELD", 0)
        return
    monkeypatch.setattr(listed_sides, "is_small", lambda *_: False)
    monkeypatch.setattr(choices, "is_small", lambda *_: False)
    if request.param == "gathered of many":
        return
    monkeypatch.setattr(list_sizes, "_MOST_GATHERED", -1)
    if request.param != "held":
        monkeypatch.setattr(list_sizes, "_PAIRS_PER_HELD", 0)
    if request.param != "few":
        monkeypatch.setattr(list_sizes, "_MOST_HELD", -1)
        monkeypatch.setattr(list_sizes, "_FEW_LISTED", -1)


def repeated(n: int, m: int) -> tuple[Tensor, ...]:
    """With some pairs twice."""
    i, j, k, o = index_tuple(n, m)
    return (
        torch.cat([i, i[:3]]),
        torch.cat([j, j[:3]]),
        torch.cat([k, k[5:9]]),
        torch.cat([o, o[5:9]]),
    )


def of_triplets(n: int, m: int) -> tuple[Tensor, ...]:
    """The positives beside negatives of the same anchors, as a miner of triplets lists them."""
    i, j, *_ = index_tuple(n, m)
    return i, j, (i + 1 + j % 5 + 6 * (j % 3)) % 18


@pytest.mark.usefixtures("_route")
@EVERY
@pytest.mark.parametrize(
    ("reducer", "listed"),
    [
        *((reducer, repeated) for reducer in REDUCERS),
        ("default", index_tuple),
        ("above", index_tuple),
        ("default", of_triplets),
        ("anchors", of_triplets),
    ],
)
def test_values_and_gradients(name: str, reducer: str, listed) -> None:
    if reducer == "anchors" and make_loss(name).sub_loss_names() == ["loss"]:
        triplets = getattr(LOSSES[name], "swap", None)
        if triplets is not None:
            pytest.skip("PerAnchorReducer takes no triplets")
    for m in (20, 26):
        (x, labels), (q, q_labels) = make_batch(20), make_batch(m, seed=1)
        rest = (q, q_labels) if m != 20 else ()
        leaves = [x, q] if rest else [x]
        found = []
        for backend in ("auto", "dense"):
            options = {} if reducer == "default" else {"reducer": REDUCERS[reducer]()}
            try:
                value = make_loss(name, backend=backend, **options)(x, labels, listed(20, m), *rest)
            except NotImplementedError as error:
                assert "Triplet" in str(error)
                return
            found.append((value, *torch.autograd.grad(value, leaves)))
        torch.testing.assert_close(*found)


@pytest.mark.usefixtures("_route")
@pytest.mark.parametrize("name", NAMES_OF_PAIRS)
@pytest.mark.parametrize("m", [None, 26])
@pytest.mark.parametrize("has_negatives", [True, False])
def test_a_row_with_itself_and_positives_without_negatives(
    name: str, m: int | None, has_negatives: bool
) -> None:
    (x, labels), (q, q_labels) = make_batch(20), make_batch(26, seed=1)
    rest, leaves = ((), [x]) if m is None else ((q, q_labels), [x, q])
    positives = torch.tensor([[0, 0, 3, 5, 5, 9], [0, 1, 3, 6, 6, 5]])
    negatives = torch.tensor([[0, 0, 1, 2, 3], [2, 7, 2, 6, 8]])[:, : 5 if has_negatives else 0]
    found = []
    for backend in ("auto", "dense"):
        value = make_loss(name, backend=backend)(x, labels, (*positives, *negatives), *rest)
        found.append((value, *torch.autograd.grad(value, leaves)))
    torch.testing.assert_close(*found)


@pytest.mark.usefixtures("_route")
@pytest.mark.parametrize("m", [None, 26])
@pytest.mark.parametrize(
    ("name", "number", "value"),
    [
        ("NTXentLoss", "temperature", 1e-3),
        ("TupletMarginLoss", "scale", 1e3),
        ("LiftedStructureLoss", "neg_margin", 800.0),
        ("LiftedStructureLoss", "pos_margin", 0.3),
        ("SupConLoss", "temperature", 1e-3),
        ("MultiSimilarityLoss", "beta", 1e3),
        ("MultiSimilarityLoss", "base", -0.3),
        ("MultiSimilarityLoss", "mining_epsilon", 0.05),
        ("CircleLoss", "gamma", 5.0),
        ("GeneralizedLiftedStructureLoss", "pos_margin", 0.3),
    ],
)
def test_numbers_far_from_their_defaults(name, number, value, m: int | None) -> None:
    (x, labels), (q, q_labels) = make_batch(20), make_batch(26, seed=1)
    rest, leaves = ((), [x]) if m is None else ((q, q_labels), [x, q])
    found = []
    for backend in ("auto", "dense"):
        loss = LOSSES[name](backend=backend, **{number: value})
        mean = loss(x, labels, index_tuple(20, m or 20), *rest)
        found.append((mean, *torch.autograd.grad(mean, leaves)))
    assert found[1][0] > 0
    torch.testing.assert_close(*found)


@EVERY
@pytest.mark.parametrize("length", [3, 4])
def test_an_empty_list_has_a_loss_of_zero_whose_gradient_is_zero(name: str, length: int) -> None:
    (x, labels), (q, q_labels) = make_batch(20), make_batch(26, seed=1)
    nothing = (torch.empty(0, dtype=torch.int64),) * length
    loss = make_loss(name)
    value = loss(x, labels, nothing)
    assert value == 0 and not torch.autograd.grad(value, x)[0].any()
    assert loss(torch.full_like(x, torch.nan), labels, nothing).isnan()
    if loss.takes_references:
        value = loss(x, labels, nothing, q, q_labels)
        assert value == 0
        assert not any(grad.any() for grad in torch.autograd.grad(value, [x, q]))


@pytest.mark.parametrize("name", [*NAMES_OF_TRIPLETS, "MarginLoss", "HistogramLoss"])
@pytest.mark.parametrize("repeats", [1, 30])  # are compared at once, or not
def test_pairs_that_make_no_triplet(name: str, repeats: int) -> None:
    x, labels = make_batch(20)
    given = tuple(torch.tensor(of).repeat(repeats) for of in ([0, 2], [5, 7], [1, 3], [2, 8]))
    value = make_loss(name)(x, labels, given)
    assert value == 0 and not torch.autograd.grad(value, x)[0].any()


@pytest.mark.usefixtures("_route")
@pytest.mark.parametrize("m", [None, 20])
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("TripletMarginLoss", "margin"),
        ("ContrastiveLoss", "neg_margin"),
        ("MarginLoss", "margin"),
        ("ThresholdConsistentMarginLoss", "margin_minus"),
    ],
)
def test_losses_none_of_which_counts(name: str, number: str, m: int | None) -> None:
    labels = torch.arange(20) % 4
    x, q = (torch.eye(6, dtype=torch.float64)[labels].requires_grad_() for _ in range(2))
    rest = () if m is None else (q, labels)
    i, j = (labels[:, None] == labels).fill_diagonal_(False).nonzero().unbind(1)
    k, o = (labels[:, None] != labels).nonzero().unbind(1)
    learnt = torch.nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
    loss = LOSSES[name](**{number: learnt})
    value = loss(x, labels, (i, j, k, o), *rest)
    leaves = [x, learnt] if m is None else [x, q, learnt]
    assert value == 0
    assert not any(grad.any() for grad in torch.autograd.grad(value, leaves))


class Shifted(RowwiseLoss):
    """Of logits whose positives have a shift, which cancels in no known loss."""

    form = "mean_cross_entropy"

    def logit(self, sign: float) -> Tensor:
        return pack(sign, 0.3, 2 * sign, -0.2)


@pytest.mark.usefixtures("_route")
def test_shifts_of_positives_whose_logits_are_summed() -> None:
    x, labels = make_batch(20)
    found = []
    for backend in ("auto", "dense"):
        value = Shifted(backend=backend)(x, labels, index_tuple(20, 20))
        found.append((value, torch.autograd.grad(value, x)[0]))
    torch.testing.assert_close(*found)


@pytest.mark.usefixtures("_route")
@pytest.mark.parametrize("name", NAMES_OF_ROWS)
def test_a_pair_of_both_kinds_is_refused(name: str) -> None:
    x, labels = make_batch(20)
    i, j, k, o = index_tuple(20, 20)
    given = i, j, torch.cat([k, i[:1]]), torch.cat([o, j[:1]])
    with pytest.raises(PairConflictError, match=r"1 pair\(s\) as both"):
        make_loss(name)(x, labels, given)


@pytest.mark.usefixtures("_route")
@EVERY
def test_a_row_that_is_not_finite_makes_the_loss_nan(name: str) -> None:
    x, labels = make_batch(20)
    x = x.detach().clone()
    x[0] = torch.nan  # no pair is of this row
    i, j, k, o = index_tuple(20, 20)
    keeps, keeps_negative = j != 0, o != 0
    given = i[keeps], j[keeps], k[keeps_negative], o[keeps_negative]
    assert make_loss(name)(x, labels, given).isnan()


@pytest.mark.usefixtures("_route")
@EVERY
@pytest.mark.parametrize("listed", [repeated, index_tuple])
def test_learnt_numbers_and_second_derivatives(name: str, listed) -> None:
    if not LOSSES[name].has_second_derivative:
        pytest.skip("its gradient has no derivative")
    x, labels = make_batch(20)
    found = []
    for backend in ("auto", "dense"):
        loss = make_loss(name, backend=backend)
        for key in loss.hyperparameters:
            if isinstance(getattr(loss, key), float):
                number = torch.tensor(getattr(loss, key), dtype=torch.float64)
                setattr(loss, key, torch.nn.Parameter(number))
        leaves = [x, *loss.parameters()]
        value = loss(x, labels, listed(20, 20))
        options = {"allow_unused": True, "materialize_grads": True}
        grads = torch.autograd.grad(value.square(), leaves, create_graph=True, **options)
        total = sum(grad.square().sum() for grad in grads)
        found.append((*grads, *torch.autograd.grad(total, leaves, **options)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", [*NAMES_OF_TERMS, "MarginLoss", "TripletMarginLoss"])
def test_pairs_are_measured_once(name: str, monkeypatch) -> None:
    calls = []
    measured = whole.WholeMatrix._measure_sides

    def measure_sides(matrix):
        calls.append(matrix)
        return measured(matrix)

    monkeypatch.setattr(whole.WholeMatrix, "_measure_sides", measure_sides)
    x, labels = make_batch(20)
    i, j, k, o = index_tuple(20, 20)
    make_loss(name)(x, labels, (i, j, k[k != o], o[k != o])).backward()
    assert len(calls) == 1


@pytest.mark.usefixtures("_route")
@pytest.mark.parametrize("name", NAMES_OF_TRIPLETS)
@pytest.mark.parametrize("reducer", ["default", "above"])
def test_listed_triplets_with_a_learnt_margin(name: str, reducer: str) -> None:
    x, labels = make_batch(20)
    found = []
    for backend in ("auto", "dense"):
        loss = make_loss(name, backend=backend)
        if reducer != "default":
            loss.set_reducer(REDUCERS[reducer]())
        for key in loss.hyperparameters:
            setattr(loss, key, torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64)))
        leaves = [x, *loss.parameters()]
        value = loss(x, labels, repeated(20, 20))
        grads = torch.autograd.grad(value.square(), leaves, create_graph=True)
        total = sum(grad.square().sum() for grad in grads)
        found.append((value, *grads, *torch.autograd.grad(total, leaves)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("is_learnt", [False, True])
def test_a_margin_may_be_overwritten_before_the_backward(is_learnt: bool) -> None:
    x, labels = make_batch(20)
    margin = torch.tensor(0.3, dtype=torch.float64, requires_grad=is_learnt)
    grads = []
    for overwrites in (False, True):
        value = make_loss("TripletMarginLoss", margin=margin)(x, labels, repeated(20, 20))
        if overwrites:
            with torch.no_grad():
                margin.zero_()
        grads.append(torch.autograd.grad(value, x)[0])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("m", [20, 26])
def test_sums_of_any_terms_and_their_counts(m: int) -> None:
    (x, _), (q, _) = make_batch(20), make_batch(m, seed=1)
    terms = identity(True), softplus(False), square(False)._replace(floor=0.2, ceiling=0.9)
    logit = torch.tensor([0.7, 0.1, 1.3, -0.2], dtype=torch.float64)
    shifts = torch.linspace(-0.5, 0.5, 40, dtype=torch.float64).view(2, 20).requires_grad_()
    formula = SumFormula(lambda sign: sign * logit, terms, shifts)
    indices = PairIndices(*repeated(20, m))
    found = []
    for backend in ("auto", "dense"):
        references = None if m == 20 else q
        pairs = choice.listed_pairs(indices, x, references, CosineSimilarity(), backend)
        sums = pairs.pair_sums(formula)
        leaves = [x, shifts] if references is None else [x, shifts, q]
        found.append((*sums, *torch.autograd.grad(sums.sums.square().sum(), leaves)))
    torch.testing.assert_close(*found)


class _Half(LOSSES["ContrastiveLoss"]):
    """Of the positives alone."""

    def _sub_loss_names(self) -> list[str]:
        return ["pos_loss"]

    def sub_losses(self, batch, indices_tuple):
        both = LOSSES["ContrastiveLoss"](backend=self.backend).sub_losses(batch, indices_tuple)
        return {"pos_loss": both["pos_loss"]}


@pytest.mark.usefixtures("_route")
def test_one_of_the_sub_losses() -> None:
    x, labels = make_batch(20)
    values = [_Half(backend=of)(x, labels, repeated(20, 20)) for of in ("auto", "dense")]
    torch.testing.assert_close(*values)
    reducer = reducers.MultipleReducers({"pos_loss": reducers.AvgNonZeroReducer()})
    torch.testing.assert_close(_Half(reducer=reducer)(x, labels, repeated(20, 20)), values[0])


@pytest.mark.usefixtures("_route")
@pytest.mark.parametrize("name", NAMES_OF_TERMS)
def test_sub_losses_with_reducers_of_their_own(name: str) -> None:
    x, labels = make_batch(20)
    found = []
    for backend in ("auto", "dense"):
        own = {"pos_loss": reducers.AvgNonZeroReducer(), "neg_loss": reducers.MeanReducer()}
        for several in (own, {"pos_loss": own["pos_loss"]}):
            reducer = reducers.MultipleReducers(several)
            loss = make_loss(name, backend=backend, reducer=reducer)
            value = loss(x, labels, repeated(20, 20))
            found.append((value, *torch.autograd.grad(value, x)))
    torch.testing.assert_close(found[:2], found[2:])


@pytest.mark.parametrize("term", [hinge(True), hinge(True, is_closed=True), squared_hinge(True)])
def test_hinges_at_zero(term) -> None:
    z = torch.tensor([-1.0, 0.0, 2.0]).requires_grad_()
    counts = term.counts(z)
    value = torch.where(counts, term.linear * z + term.square * z * z, 0)
    torch.testing.assert_close(term.values(z), value)
    actual, expected = (torch.autograd.grad(of.sum(), z)[0] for of in (term.values(z), value))
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("shuffles", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        *NAMES_OF_TERMS,
        *NAMES_OF_TRIPLETS,
        "MarginLoss",
        "NPairsLoss",
        "ThresholdConsistentMarginLoss",
    ],
)
def test_all_triplets_of_few_rows(name: str, shuffles: bool) -> None:
    x, labels = make_batch(30)
    i, j, k, o = index_tuple(30, 30)
    triplets = (i[:, None] == k).nonzero(as_tuple=True)
    given = torch.stack([i[triplets[0]], j[triplets[0]], o[triplets[1]]])
    given = given.repeat(1, 1 + 10_000 // given.shape[1])
    assert not PairIndices(given[0], given[1], given[0], given[2]).size(x, None).is_short
    if shuffles:
        given = given[:, torch.randperm(given.shape[1], generator=torch.Generator().manual_seed(0))]
    found = []
    for backend in ("auto", "dense"):
        value = make_loss(name, backend=backend)(x, labels, tuple(given))
        found.append((value, torch.autograd.grad(value, x)[0]))
    torch.testing.assert_close(*found)
