"""No route makes a tensor of n x m elements, forward or backward."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fusedml import dense, distances, reducers
from fusedml.engine import few_positives, group_losses, kept
from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes.blocks import BLOCK_ELEMENTS
from fusedml.engine.tiled.plan import TILE_ELEMENTS
from fusedml.losses import LOSSES, SupConLoss
from tests.losses.made import PAIR_LOSSES

N = 900
D = 4


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor any operator returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            # an expanded tensor takes no memory for its repeated dimensions
            if isinstance(x, torch.Tensor) and 0 not in x.stride():
                self.elements = max(self.elements, x.numel())
        return result


def largest(loss, *args) -> int:
    embeddings = torch.randn(N, D, requires_grad=True)
    with LargestTensor() as mode:
        loss(embeddings, *args).backward()
    return mode.elements


def labels_of(kind: str) -> torch.Tensor:
    return torch.zeros(N) if kind == "one class" else torch.arange(N) // 4


@pytest.mark.parametrize("name", PAIR_LOSSES)
@pytest.mark.parametrize("kind", ["one class", "four samples a class"])
def test_labels(name: str, kind: str) -> None:
    assert largest(LOSSES[name](), labels_of(kind)) < 16 * N


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].weights_name])
@pytest.mark.parametrize("num_rows, num_classes", [(N, 7 * N), (20 * N, N // 2)])
def test_vectors_of_classes(name: str, num_rows: int, num_classes: int, monkeypatch) -> None:
    monkeypatch.setattr(kept, "MOST_BYTES", 0)  # of a matrix that may be kept
    for module in (few_positives, group_losses):
        monkeypatch.setattr(module, "STRIP_ELEMENTS", TILE_ELEMENTS)
    loss = LOSSES[name].of_sizes(num_classes, D)
    embeddings = torch.randn(num_rows, D, requires_grad=True)
    labels = torch.randint(num_classes, (num_rows,))
    rows = torch.arange(50)
    tuples = [(rows, rows + 1, rows + 2)] if loss.takes_tuples else []
    for indices in (None, *tuples):
        with LargestTensor() as mode:
            loss(embeddings, labels, indices).backward()
        # scratch tiles do not grow with the problem
        assert mode.elements <= max(8 * (num_rows + num_classes), TILE_ELEMENTS)
        assert 4 * mode.elements < num_rows * num_classes


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_pair_losses_one_by_one_take_memory_by_their_number(name: str) -> None:
    loss = LOSSES[name](reducer=reducers.AvgNonZeroReducer())
    assert largest(loss, labels_of("four samples a class")) < 16 * N


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_tuples(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.randint(N, (2, 2000), generator=generator)
    pairs = (rows[:1000], (rows[:1000] + 1) % N, rows[1000:], (columns[1000:] % 800 + 2) % N)
    if getattr(LOSSES[name], "counts_pairs_once", False):  # where a pair of both kinds is refused
        keep = (pairs[2] + 1) % N != pairs[3]
        pairs = (*pairs[:2], pairs[2][keep], pairs[3][keep])
    copies = 2 * D * len(rows)  # of the rows at both ends of each listed pair
    assert largest(LOSSES[name](), None, pairs) <= max(16 * N, copies)


@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
@pytest.mark.parametrize("name", PAIR_LOSSES)
@pytest.mark.parametrize("kind", ["one class", "four samples a class"])
def test_blocks(name: str, kind: str) -> None:
    assert N * N > 4 * BLOCK_ELEMENTS
    required = LOSSES[name].required_distance
    # of a type that is not recognised, or with a power that is not
    distance = distances.LpDistance(power=3) if required is None else type("Own", (required,), {})()
    loss = LOSSES[name](distance=distance)
    assert largest(loss, labels_of(kind)) <= BLOCK_ELEMENTS


@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
def test_blocks_keep_no_block_for_the_backward() -> None:
    kept = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept.append(x.numel())
        return x

    loss = LOSSES["MultiSimilarityLoss"](distance=distances.LpDistance(power=3))
    embeddings = torch.randn(N, D, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss(embeddings, labels_of("four samples a class"))
    assert sum(kept) < 64 * N


def test_the_test_can_fail() -> None:
    x = torch.nn.functional.normalize(torch.randn(N, D))
    problem = PairProblem(x, None, labels_of("one class"), None)
    with LargestTensor() as mode:
        dense.losses(problem, SupConLoss().make_formula())
    assert mode.elements == N * N
