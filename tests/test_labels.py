"""Labels of every dtype, and of two: their codes, and what the losses make of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fusedml
from fusedml.engine.labels import common_label_codes, label_codes, on_device
from fusedml.losses import LOSSES
from tests.losses.made import NAMES, PAIR_LOSSES, make_loss, require_tuples
from tests.problems import dense_statistics, make_problem

INTEGERS = (
    torch.bool,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.uint16,
    torch.int32,
    torch.uint32,
    torch.int64,
    torch.uint64,
)
FLOATS = (
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
)
NAN, INF = float("nan"), float("inf")
# neighbours that other numbers than int64 cannot tell apart, and both ends of what dtypes hold
LARGE = [2**k + i for k in (24, 31, 32, 53, 62) for i in (-1, 0, 1)]
ENDS = [0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**32 - 1, 2**63 - 2, 2**63 - 1, 2**63, 2**64 - 1]
# on both sides of the 800 x 800 pairs that are held whole
SIZES = (24, 810)


def values_of(dtype: torch.dtype) -> Tensor:
    """Labels of a dtype that are easily mistaken for one another, each twice."""
    if dtype == torch.bool:
        values = [False, True]
    elif dtype.is_floating_point:
        info = torch.finfo(dtype)
        values = [0.0, -0.0, 1.0, -1.0, 1.5, info.max, info.min, info.tiny, -info.tiny, NAN]
        values += [1 + info.eps, *([INF, -INF] if dtype.itemsize > 1 else [])]
    else:
        info = torch.iinfo(dtype)
        values = [*LARGE, *ENDS, *(-x for x in (*LARGE, *ENDS))]
        values = [x for x in values if info.min <= x <= info.max] + [info.min]
    return torch.tensor(values * 2, dtype=dtype)


def equal(one: Tensor, other: Tensor) -> Tensor:
    """PyTorch's own answer; Python's for integers of two kinds, for which PyTorch has none."""
    if one.dtype.is_floating_point or other.dtype.is_floating_point:
        one, other = (x.float() if x.dtype.itemsize == 1 else x for x in (one, other))
        return one[:, None] == other
    return torch.tensor([[a == b for b in other.tolist()] for a in one.tolist()])


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS])
def test_codes_are_equal_and_ordered_as_labels_are(dtype: torch.dtype) -> None:
    labels = values_of(dtype)
    codes = label_codes(labels)
    assert codes.dtype == torch.int64
    matches = equal(labels, labels)
    found = codes[:, None] == codes
    # a NaN has its own code: it differs from all others
    assert torch.equal(found.fill_diagonal_(True), matches.fill_diagonal_(True))
    numbers = labels.double() if dtype.is_floating_point else labels.tolist()
    if dtype.is_floating_point:
        order = torch.argsort(codes, stable=True)
        assert torch.equal(order, torch.sort(numbers, stable=True).indices)
    else:
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        assert torch.argsort(codes, stable=True).tolist() == order


@pytest.mark.parametrize("one", [*INTEGERS, *FLOATS])
@pytest.mark.parametrize("other", [*INTEGERS, *FLOATS])
def test_labels_of_two_dtypes(one: torch.dtype, other: torch.dtype) -> None:
    labels, others = values_of(one), values_of(other)
    codes, other_codes = common_label_codes(labels, others)
    assert torch.equal(codes[:, None] == other_codes, equal(labels, others))
    for code, given in ((codes, labels), (other_codes, others)):
        if not (one.is_floating_point or other.is_floating_point):
            assert torch.equal(code[:, None] == code, equal(given, given))


def batch(n: int, seed: int, num_classes: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, generator=generator)
    return x, torch.randint(num_classes, (n,), generator=generator)


@pytest.mark.parametrize("name", PAIR_LOSSES)
@pytest.mark.parametrize("n", SIZES)
def test_losses_with_labels_of_two_dtypes(name: str, n: int) -> None:
    loss = make_loss(name)
    (x, labels), (r, others) = batch(n, 0), batch(n + 9, 1)
    expected = loss(x, labels, None, r, others)
    for one, other in (
        (torch.int64, torch.float32),
        (torch.float16, torch.int64),
        (torch.uint64, torch.int64),
        (torch.int32, torch.uint16),
        (torch.float64, torch.bfloat16),
        (torch.float8_e4m3fn, torch.uint8),
    ):
        assert torch.equal(loss(x, labels.to(one), None, r, others.to(other)), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.int8])
def test_losses_with_unusual_integers(name: str, n: int, dtype: torch.dtype) -> None:
    x, labels = batch(n, 0, num_classes=6)
    torch.manual_seed(0)
    loss = make_loss(name)
    assert torch.equal(loss(x, labels.to(dtype)), loss(x, labels))
    require_tuples(LOSSES[name])
    i = torch.arange(n)
    pairs = tuple(j.to(dtype) for j in (i[:9], (i[:9] + 6), i[:9], (i[:9] + 1)))
    expected = loss(x, labels, tuple(index.long() for index in pairs))
    assert torch.equal(loss(x, labels.to(dtype), pairs), expected)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.weights_name])
def test_unsigned_labels_where_their_range_is_not_read(name: str) -> None:
    loss, x = make_loss(name), make_problem(24, None, 6, d=8, dtype=torch.float32).anchors
    labels = torch.arange(24) % 6
    gradient = torch.func.grad(loss)
    assert torch.equal(gradient(x, labels.to(torch.uint16)), gradient(x, labels))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0.5, 3.0, -1.0, NAN], torch.float32),
        ([float(2**24 + 1), -(2.0**53)], torch.int64),
        ([0.1, 2.0], torch.float64),  # which the device refuses by itself
        ([float(2**24 + 1), NAN], torch.float64),
        ([2.0**63 - 1024, 0.1], torch.float64),
    ],
)
def test_labels_for_a_device_without_float64(labels, expected, monkeypatch) -> None:
    given, device = torch.tensor(labels, dtype=torch.float64), torch.device("meta")
    assert on_device(given, device).dtype == torch.float64
    monkeypatch.setattr("fusedml.engine.labels.widest_dtype", lambda device: torch.float32)
    assert on_device(given, device).dtype == expected
    assert on_device(given, given.device) is given


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("exclude_diagonal", [True, False])
@pytest.mark.parametrize("kind", ["self", "references", "as many references"])
@pytest.mark.parametrize("labels", ["large", "NaN", "two dtypes"])
def test_statistics(labels: str, kind: str, exclude_diagonal: bool, n: int) -> None:
    m = {"self": None, "references": n + 9, "as many references": n}[kind]
    exclude_diagonal &= kind != "references"
    problem = make_problem(n, m, 6, dtype=torch.float64, exclude_diagonal=exclude_diagonal)
    large = torch.tensor([-(2**63), 2**63 - 1, 2**62, 2**62 + 1, 0, -(2**63) + 1, 2**53 + 1])
    makers = {
        "large": [lambda y: large[y + 1]] * 2,
        "NaN": [lambda y: torch.where(y == 2, NAN, y.float())] * 2,
        "two dtypes": [lambda y: large[y + 1], lambda y: large[y + 1].float()],
    }[labels]
    given = [None if y is None else maker(y) for y, maker in zip(problem[2:4], makers, strict=True)]
    problem = problem._replace(anchor_labels=given[0], reference_labels=given[1])
    row = fusedml.pair_statistics(
        problem.anchors, given[0], problem.references, given[1], exclude_diagonal=exclude_diagonal
    )
    logit = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    for actual, expected in zip(row, dense_statistics(problem, logit), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.also_emulated
@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if not loss.weights_name])
@pytest.mark.parametrize("kind", ["self", "references", "labels shared with references"])
def test_a_nan_equals_nothing(name: str, kind: str) -> None:
    """As if each were a class of its own; so that a row is not its own negative, as in PML."""
    loss = make_loss(name)
    if kind != "self" and name not in PAIR_LOSSES:
        pytest.skip("no references")
    (x, labels), (r, others) = batch(30, 0), batch(30, 1)
    for dtype in (torch.float32, torch.float64, torch.float16):
        numbers = torch.arange(30)
        alone = torch.where(labels == 2, 100 + numbers, labels)
        others_alone = torch.where(others == 2, 200 + numbers, others)
        nan = torch.where(labels == 2, NAN, labels).to(dtype)
        others_nan = torch.where(others == 2, NAN, others).to(dtype)
        arguments, expected = {
            "self": ((), ()),
            "references": ((None, r, others_nan), (None, r, others_alone)),
            "labels shared with references": ((None, r, nan), (None, r, alone)),
        }[kind]
        torch.testing.assert_close(loss(x, nan, *arguments), loss(x, alone, *expected))
