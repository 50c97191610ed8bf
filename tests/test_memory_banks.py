"""Queues of earlier embeddings: against the dense formula on a list of batches, and against PML."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
import torch
import torch._functorch.config as functorch_config
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

import fusedml
from fusedml import distances, losses
from fusedml.engine import few_positives, whole
from fusedml.engine.inputs import Batch
from fusedml.engine.queue import Slots
from fusedml.engine.routes import label_order
from fusedml.engine.tiled import plan
from fusedml.losses import LOSSES, BaseLoss
from tests.losses.made import DIMENSION, PAIR_LOSSES, make_batch, make_loss

# of labels or an index tuple: AngularLoss needs labels, too
NAMES = tuple(name for name, loss in LOSSES.items() if loss.takes_references)
# theirs keeps a row's own copy where only equal embeddings leave it out
AGREEING = tuple(
    name
    for name in pml_losses.CrossBatchMemory.supported_losses()
    if name in NAMES
    and losses.LOSSES[name].agrees_with_pml_on_references
    and losses.LOSSES[name].leaves_out_own_labels
)
CAPACITY = 40
# one row; a batch as large as the queue; wrapping by some rows, and by more than half the queue
SIZES = (7, 12, 1, 3, 12, 9, 16, 5, 40, 12, 38, 2)

also_emulated = pytest.mark.also_emulated
EVERY = pytest.mark.parametrize("name", NAMES)


def dot_products() -> torch.nn.Module:
    """What reads the queue's rows as they are."""
    return distances.DotProductSimilarity(normalize_embeddings=False)


def batches(dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    made = [make_batch(n, dtype, seed) for seed, n in enumerate(SIZES)]
    return [(x, labels[torch.randperm(len(labels))]) for x, labels in made]


class Remembered:
    """The oracle: a list of all rows, the batch's own put first, and the loss on the full matrix.

    The one thing it shares with the queue is the mask of the dense formula.
    """

    def __init__(self, loss: BaseLoss, capacity: int = CAPACITY) -> None:
        self.loss, self.capacity = loss, capacity
        self.rows: list[Tensor] = []
        self.labels: list[Tensor] = []

    def __call__(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        older = slice(-(self.capacity - len(embeddings)) or len(self.rows), None)
        rows = torch.stack([*embeddings.detach(), *self.rows[older]])
        row_labels = torch.stack([*labels, *self.labels[older]])
        self.rows += embeddings.detach()
        self.labels += labels
        return self.loss.of_batch(Batch(embeddings, labels, rows, row_labels, True), None)


def gradient(loss: Tensor, embeddings: Tensor) -> Tensor:
    return torch.autograd.grad(loss, embeddings)[0]


def assert_same(actual: Tensor, expected: Tensor, embeddings: Sequence[Tensor]) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)
    grads = [gradient(*pair) for pair in zip((actual, expected), embeddings, strict=True)]
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-10)


def test_slots_hold_the_last_rows_in_the_order_of_a_ring() -> None:
    for capacity in range(1, 8):
        for first in range(capacity):
            for size in range(capacity + 1):
                ring = torch.arange(capacity)
                rows = torch.arange(100, 100 + size)
                expected = ring.clone()
                expected[(torch.arange(size) + first) % capacity] = rows
                slots = Slots.of(first, size, capacity)
                slots.bring_to_front(ring, rows)
                assert torch.equal(ring[:size], rows)
                assert torch.equal(ring.sort().values, expected.sort().values)
                slots.bring_back(ring, rows)
                assert torch.equal(ring, expected)


@also_emulated
@EVERY
@pytest.mark.usefixtures("whole_or_tiles")
def test_all_losses(name: str) -> None:
    memory = fusedml.CrossBatchMemory(make_loss(name), DIMENSION, CAPACITY)
    oracle = Remembered(make_loss(name, backend="dense"))
    for embeddings, labels in batches():
        other = embeddings.detach().requires_grad_()
        assert_same(memory(embeddings, labels), oracle(other, labels), (embeddings, other))
    assert len(memory) == CAPACITY


@pytest.mark.parametrize("in_order", [False, True], ids=["tiles sort", "sorted before"])
@EVERY
def test_sorted_tiles(name: str, in_order: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of several kinds, the batch's own columns being sorted apart from the others."""
    for module, attribute, value in (
        (whole, "MOST_PAIRS", -1),
        (few_positives, "MOST_PER_ROW", -1),
        (plan, "TILE_ROWS", 4),
        (plan, "LEAST_ELEMENTS", 16),
        (plan, "TILE_ELEMENTS", 4 * 16),
        (label_order, "LEAST_ROWS", 1 if in_order else 1 << 30),
    ):
        monkeypatch.setattr(module, attribute, value)
    memory = fusedml.CrossBatchMemory(make_loss(name), DIMENSION, CAPACITY)
    oracle = Remembered(make_loss(name, backend="dense"))
    for embeddings, labels in batches():
        other = embeddings.detach().requires_grad_()
        assert_same(memory(embeddings, labels), oracle(other, labels), (embeddings, other))


@EVERY
def test_the_first_batch_is_compared_with_itself(name: str) -> None:
    embeddings, labels = make_batch()
    memory = fusedml.CrossBatchMemory(make_loss(name), DIMENSION, CAPACITY)
    expected = make_loss(name)(embeddings, labels)
    torch.testing.assert_close(memory(embeddings, labels), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 1, 0], [0, 1, 2], [0, 0, 0]], ids=str)
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_batches_of_one_row(name: str, labels: list[int]) -> None:
    """As an index tuple of the same pairs, whose rule of too few pairs is that of the list."""
    memory, loss = fusedml.CrossBatchMemory(make_loss(name), DIMENSION, 3), make_loss(name)
    rows = make_batch(3)[0].detach()
    for i in range(3):
        x = rows[i : i + 1].clone().requires_grad_()
        others = torch.tensor([j for j in range(i) if labels[j] == labels[i]], dtype=torch.int64)
        rest = torch.tensor([j for j in range(i) if labels[j] != labels[i]], dtype=torch.int64)
        pairs = others * 0, others, rest * 0, rest
        expected = loss(x, None, pairs, rows[: i + 1], None)
        torch.testing.assert_close(memory(x, torch.tensor(labels[i : i + 1])), expected)


@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
@pytest.mark.parametrize(
    "distance",
    [distances.LpDistance(p=1), dot_products(), None],
    ids=["not fused", "dot", "cosine"],
)
def test_mining_and_distances(distance: torch.nn.Module | None) -> None:
    options = {"mining_epsilon": 0.1, "distance": distance}
    memory = fusedml.CrossBatchMemory(losses.MultiSimilarityLoss(**options), DIMENSION, CAPACITY)
    oracle = Remembered(losses.MultiSimilarityLoss(**options, backend="dense"))
    for embeddings, labels in batches():
        other = embeddings.detach().requires_grad_()
        assert_same(memory(embeddings, labels), oracle(other, labels), (embeddings, other))


def pair_of_memories(name: str, miner: object = None) -> list[torch.nn.Module]:
    of_them = getattr(pml_losses, name)()
    return [
        fusedml.CrossBatchMemory(make_loss(name), DIMENSION, CAPACITY, miner),
        pml_losses.CrossBatchMemory(of_them, DIMENSION, CAPACITY, miner),
    ]


def normalized(embeddings: Tensor) -> Tensor:
    """Unit rows: AngularLoss and miners see lengths."""
    return normalize(embeddings.detach()).requires_grad_()


@pytest.mark.filterwarnings("ignore:.*lists no positive pair")
@pytest.mark.parametrize("mines", [False, True], ids=["all pairs", "miner"])
@pytest.mark.parametrize("name", AGREEING)
def test_theirs(name: str, mines: bool) -> None:
    miner = miners.MultiSimilarityMiner() if mines else None
    memories = pair_of_memories(name, miner)
    for batch, labels in batches():
        if len(labels) == 1:
            continue  # theirs compares a single row with itself
        sides = [normalized(batch) for _ in memories]
        values = [memory(x, labels) for memory, x in zip(memories, sides, strict=True)]
        assert_same(values[0], values[1], sides)
        for attribute in ("embedding_memory", "label_memory"):
            assert torch.equal(*(getattr(memory, attribute) for memory in memories))
        assert len({(memory.queue_idx, memory.has_been_filled) for memory in memories}) == 1


@pytest.mark.parametrize("name", AGREEING)
def test_their_memory_takes_ours(name: str) -> None:
    given = make_loss(name), getattr(pml_losses, name)()
    memories = [pml_losses.CrossBatchMemory(loss, DIMENSION, CAPACITY) for loss in given]
    for batch, labels in batches():
        if len(labels) == 1:
            continue
        sides = [normalized(batch) for _ in memories]
        values = [memory(x, labels) for memory, x in zip(memories, sides, strict=True)]
        assert_same(values[0], values[1], sides)


@pytest.mark.parametrize("name", AGREEING)
def test_their_enqueue_mask(name: str) -> None:
    memories = pair_of_memories(name)
    for batch, labels in batches():
        if len(labels) < 4:
            continue
        sides = [normalized(batch) for _ in memories]
        mask = torch.arange(len(labels)) % 3 == 0
        values = [memory(x, labels, None, mask) for memory, x in zip(memories, sides, strict=True)]
        assert_same(values[0], values[1], sides)


@pytest.mark.parametrize("mined", [3, 4])
@pytest.mark.parametrize("given", [3, 4])
def test_an_index_tuple_adds_pairs_of_the_batch(mined: int, given: int) -> None:
    """Against the same loss on the concatenated lists, its columns being those of the batch."""

    def listed(embeddings: Tensor, labels: Tensor, refs: Tensor, ref_labels: Tensor) -> tuple:
        is_same = labels[:, None] == ref_labels
        positives, negatives = is_same.nonzero(as_tuple=True), (~is_same).nonzero(as_tuple=True)
        if mined == 4:
            return (*positives, *negatives)
        k = min(len(positives[0]), len(negatives[0]))
        return positives[0][:k], positives[1][:k], negatives[1][:k]

    memory = fusedml.CrossBatchMemory(losses.NTXentLoss(), DIMENSION, CAPACITY, listed)
    (first, first_labels), (x, labels) = batches()[:2]
    memory(first, first_labels)
    pairs = torch.tensor([[0, 1], [1, 0], [0, 2], [3, 3]])
    value = memory(x, labels, tuple(pairs[:given]))
    rows, ref_labels = torch.cat([first, x]).detach(), torch.cat([first_labels, labels])
    a, p, *n = listed(x, labels, rows, ref_labels)
    negative_rows, negatives = (a, n[0]) if mined == 3 else n
    own = len(first)  # where the batch begins in the queue
    keep = p != own + a
    if mined == 3:
        keep &= negatives != own + a  # a row's own copy is no negative of it either
        negative_rows, negatives = negative_rows[keep], negatives[keep]
    of_tuple = (pairs[0], pairs[2]) if given == 3 else (pairs[2], pairs[3])
    expected = losses.NTXentLoss()(
        x,
        labels,
        (
            torch.cat([a[keep], pairs[0]]),
            torch.cat([p[keep], own + pairs[1]]),
            torch.cat([negative_rows, of_tuple[0]]),
            torch.cat([negatives, own + of_tuple[1]]),
        ),
        rows,
        ref_labels,
    )
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("listed", ["tuple", "pairs", "triplets"])
@pytest.mark.parametrize("kind", ["NaN", "no class"])
def test_a_row_is_not_its_own_negative(kind: str, listed: str) -> None:
    """Whose label equals nothing, not even itself: beside an index tuple, and of a miner."""
    classes = torch.tensor([0, 1, 2, 0, 1, 2])
    labels = torch.where(classes == 2, torch.nan, classes.double())
    if kind == "no class":
        labels = classes[:, None] == torch.arange(2)
    is_same = (classes[:, None] == classes) & (classes != 2)[:, None]

    def lists(positive: Tensor, negative: Tensor) -> tuple:
        if listed == "triplets":
            return (positive[:, :, None] & negative[:, None]).nonzero(as_tuple=True)
        return *positive.nonzero(as_tuple=True), *negative.nonzero(as_tuple=True)

    own = torch.eye(6, dtype=torch.bool)
    miner = None if listed == "tuple" else lambda *_: lists(is_same | own, ~is_same | own)
    num_classes = 2 if kind == "no class" else None
    loss = losses.ContrastiveLoss()
    memory = fusedml.CrossBatchMemory(loss, DIMENSION, CAPACITY, miner, num_classes=num_classes)
    x, _ = make_batch(6)
    no_pairs = tuple(torch.zeros(4, 0, dtype=torch.int64))
    value = memory(x, labels, no_pairs if listed == "tuple" else None)
    of_others = lists(is_same & ~own, ~is_same & ~own)
    assert_same(value, loss(x, None, of_others, x.detach()), (x, x))


@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
@pytest.mark.parametrize(
    "distance", [None, distances.DotProductSimilarity(normalize_embeddings=False)], ids=type
)
@pytest.mark.parametrize("backend", ["auto", "dense"])
@EVERY
def test_several_batches_before_the_backward(
    name: str, backend: str, distance: torch.nn.Module | None
) -> None:
    """Accumulated gradients: the queue is written to between forward and backward."""
    loss = make_loss(name, backend=backend, distance=distance)
    at_once, later = (fusedml.CrossBatchMemory(loss, DIMENSION, CAPACITY) for _ in range(2))
    given = batches()[2:6]
    expected = [gradient(at_once(x, labels), x) for x, labels in given]
    values = [later(x, labels) for x, labels in given]
    for value, (x, _), grad in zip(values, given, expected, strict=True):
        assert torch.equal(gradient(value, x), grad)


@pytest.mark.parametrize("saved_after", [3, 6])
def test_state_dict_and_reset(saved_after: int) -> None:
    made = [fusedml.CrossBatchMemory(losses.SupConLoss(), DIMENSION, CAPACITY) for _ in range(2)]
    given = batches()
    for x, labels in given[:saved_after]:
        made[0](x, labels)
    file = io.BytesIO()
    torch.save(made[0].state_dict(), file)
    file.seek(0)
    made[1].load_state_dict(torch.load(file, weights_only=True))
    made[1].embedding_memory = made[1].embedding_memory.double()
    assert len(made[1]) == len(made[0]) == min(CAPACITY, sum(SIZES[:saved_after]))
    # the file holds float32: what the module was made with
    made[0].embedding_memory = made[1].embedding_memory.clone()
    for x, labels in given[saved_after:]:
        assert torch.equal(*(memory(x, labels) for memory in made))
    made[0].reset_queue()
    assert (len(made[0]), made[0].queue_idx, made[0].has_been_filled) == (0, 0, False)
    fresh = fusedml.CrossBatchMemory(losses.SupConLoss(), DIMENSION, CAPACITY)
    assert torch.equal(made[0](*given[0]), fresh(*given[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes(dtype: torch.dtype) -> None:
    follows = fusedml.CrossBatchMemory(losses.SupConLoss(), DIMENSION, CAPACITY)
    narrow = fusedml.CrossBatchMemory(
        losses.SupConLoss(), DIMENSION, CAPACITY, memory_dtype=torch.bfloat16
    )
    rounded = fusedml.CrossBatchMemory(losses.SupConLoss(), DIMENSION, CAPACITY)
    for x, labels in batches(dtype):
        follows(x, labels)
        mask = torch.arange(len(labels)) % 2 == 0
        value = narrow(x, labels, None, mask)
        # the same, of rows that were rounded before
        given = torch.where(mask[:, None], x.bfloat16().to(dtype), x)
        torch.testing.assert_close(value, rounded(given, labels, None, mask), rtol=1e-6, atol=1e-6)
    assert follows.embedding_memory.dtype == dtype
    assert narrow.embedding_memory.dtype == torch.bfloat16
    assert value.dtype == dtype


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.int64, torch.uint8),
        (torch.int64, torch.float16),
        (torch.int16, torch.bool),
        (torch.float32, torch.int64),
        (torch.bfloat16, torch.float32),
        (torch.uint16, torch.uint64),
    ],
)
@pytest.mark.parametrize("name", ["SupConLoss", "TripletMarginLoss"])
def test_labels_of_another_dtype_change_none_of_those_in_the_queue(
    name: str, first: torch.dtype, second: torch.dtype
) -> None:
    many = torch.arange(24) // 4 * 256 + torch.arange(24) % 2  # of the second batch, modulo 256
    few = torch.arange(24) % 2
    if first.is_floating_point:
        many = few + torch.arange(24) // 12 * 0.5  # of the second batch, rounded
    made = [fusedml.CrossBatchMemory(make_loss(name), DIMENSION, 2 * CAPACITY) for _ in range(2)]
    exact = many.double(), few.double(), many.double()
    for seed, (labels, right) in enumerate(
        zip((many.to(first), few.to(second), many.to(first)), exact, strict=True)
    ):
        embeddings, _ = make_batch(24, seed=seed)
        actual, expected = made[0](embeddings, labels), made[1](embeddings, right)
        torch.testing.assert_close(actual, expected)


def test_signed_labels_beside_uint64_are_refused() -> None:
    memory = fusedml.CrossBatchMemory(losses.SupConLoss(), DIMENSION, CAPACITY)
    embeddings, labels = make_batch(12)
    memory(embeddings, labels.to(torch.uint64))
    with pytest.raises(ValueError, match=r"the memory has torch.uint64, got torch.int64"):
        memory(embeddings, labels)
    memory.reset_queue()
    memory(embeddings, labels)


# a graph of the angular loss is for one size of the batch: fewer of them
@pytest.mark.parametrize(
    ("name", "end"), [("SupConLoss", None), ("NTXentLoss", None), ("AngularLoss", 9)]
)
# recompute all that can be: the backward then reads the queue as it was
@functorch_config.patch(activation_memory_budget=0.0)
def test_compiled(name: str, end: int | None) -> None:
    torch._dynamo.reset()
    plain, other = (
        fusedml.CrossBatchMemory(make_loss(name), DIMENSION, CAPACITY) for _ in range(2)
    )
    compiled = torch.compile(other, backend="aot_eager_decomp_partition", dynamic=True)
    held = []
    for x, labels in batches()[4:end]:
        value, expected = compiled(x, labels), plain(x, labels)
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)
        held.append((value, gradient(expected, x), x))
    for value, grad, x in held:
        torch.testing.assert_close(gradient(value, x), grad, rtol=1e-8, atol=1e-10)
    torch._dynamo.reset()


class TestMomentumQueue:
    def test_is_cross_entropy_against_the_last_keys(self) -> None:
        queue = fusedml.MomentumQueue(losses.InfoNCELoss(0.1), DIMENSION, CAPACITY)
        older: list[Tensor] = []
        for queries, labels in batches():
            keys = torch.randn_like(queries, requires_grad=True)
            value = queue(queries, keys)
            n = len(labels)
            rows = torch.stack([*keys.detach(), *older[-(CAPACITY - n) or len(older) :]])
            logits = normalize(queries) @ normalize(rows).T / 0.1
            assert_same(value, cross_entropy(logits, torch.arange(n)), (queries, queries))
            assert keys.grad is None
            older += keys.detach()

    def test_state_dict(self) -> None:
        made = [fusedml.MomentumQueue(losses.InfoNCELoss(), DIMENSION, CAPACITY) for _ in range(2)]
        queries = torch.randn(9, DIMENSION)
        made[0](queries, queries)
        made[1].load_state_dict(made[0].state_dict())
        assert len(made[1]) == 9
        assert torch.equal(*(queue(queries, -queries) for queue in made))

    def test_errors(self) -> None:
        with pytest.raises(TypeError, match="one of queries and documents, got SupCon"):
            fusedml.MomentumQueue(losses.SupConLoss(), 8)
        with pytest.raises(ValueError, match=r"terms of queries alone .*, got InfoNCELoss\("):
            fusedml.MomentumQueue(losses.InfoNCELoss(symmetric=True), 8)
        with pytest.raises(ValueError, match=r"terms of queries alone .*, got ClipLoss\("):
            fusedml.MomentumQueue(losses.ClipLoss(), 8)
        queue = fusedml.MomentumQueue(losses.InfoNCELoss(), 8, 4)
        with pytest.raises(ValueError, match=r"keys must have the shape of queries, \(3, 8\)"):
            queue(torch.randn(3, 8), torch.randn(2, 8))
        with pytest.raises(ValueError, match="at most memory_size = 4 rows to remember, got 5"):
            queue(torch.randn(5, 8), torch.randn(5, 8))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fusedml.CrossBatchMemory(losses.SupConLoss, 8), TypeError, r"loss=SupConLoss\(\)"),
        (
            lambda: fusedml.CrossBatchMemory(pml_losses.ContrastiveLoss(), 8),
            TypeError,
            "loss must be one of fusedml.losses, got ContrastiveLoss",
        ),
        (
            lambda: fusedml.CrossBatchMemory(losses.NPairsLoss(), 8),
            ValueError,
            "takes ref_emb, got NPairsLoss",
        ),
        (
            lambda: fusedml.CrossBatchMemory(losses.SupConLoss(), 8, 0),
            ValueError,
            "memory_size must be at least 1, got 0",
        ),
        (
            lambda: fusedml.CrossBatchMemory(losses.SupConLoss(), 8, miner="hard"),
            TypeError,
            "miner must be an object that can be called, got 'hard'",
        ),
        (
            lambda: fusedml.CrossBatchMemory(losses.SupConLoss(), 8, memory_dtype=torch.int8),
            ValueError,
            "memory_dtype must be floating point, got torch.int8",
        ),
    ],
)
def test_errors_of_the_constructor(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()


def test_errors_of_a_call() -> None:
    memory = fusedml.CrossBatchMemory(losses.SupConLoss(), DIMENSION, CAPACITY)
    x, labels = torch.randn(4, DIMENSION), torch.tensor([0, 0, 1, 1])
    mask = torch.tensor([True, True, False, False])
    with pytest.raises(ValueError, match=r"embedding_size = 8 columns, got shape \(4, 3\)"):
        memory(x[:, :3], labels)
    with pytest.raises(ValueError, match="memory_size = 40 rows to remember, got 41"):
        memory(torch.randn(41, DIMENSION), torch.zeros(41))
    with pytest.raises(ValueError, match="mutually exclusive"):
        memory(x, labels, (labels, labels, labels), mask)
    with pytest.raises(ValueError, match=r"bool of shape \(4,\), got torch.int64"):
        memory(x, labels, None, mask.long())
    with pytest.raises(TypeError, match="swapped"):
        memory(labels, x)
    with pytest.raises(IndexError, match=r"indices_tuple\[1\] must be in \[0, 4\), got .* to 4"):
        memory(x, labels, (labels, labels + 3, labels, labels))
    assert len(memory) == 0
