"""The loss of the global batch on 2 and on 3 ranks (gloo), against one process.

tests/distributed/cases.py has the cases; one start of processes runs them all.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from fusedml import CrossBatchMemory, losses
from fusedml.distances import LpDistance
from fusedml.distributed import DistributedLoss, DistributedLossWrapper, own_classes
from tests.distributed import cases, ranks

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed")


@pytest.fixture(
    scope="module",
    params=[(2, "gloo"), (3, "gloo"), (2, "nccl")],
    ids=["2 ranks", "3 ranks", "2 GPUs"],
)
def failures(request, tmp_path_factory) -> list[dict[str, str]]:
    """Of each rank, what went wrong in which case."""
    num_ranks, backend = request.param
    if backend == "nccl" and not (dist.is_nccl_available() and torch.cuda.device_count() > 1):
        pytest.skip(f"nccl needs two GPUs, here are {torch.cuda.device_count()}")
    folder = tmp_path_factory.mktemp("ranks")
    ranks.start(cases.run, (num_ranks, str(folder), backend), num_ranks)
    return [
        pickle.loads(Path(folder, f"failures {rank}").read_bytes()) for rank in range(num_ranks)
    ]


@pytest.mark.parametrize("name", cases.all_cases())
def test_as_one_process(failures: list[dict[str, str]], name: str) -> None:
    said = [
        f"rank {rank}:\n{of_rank[name]}" for rank, of_rank in enumerate(failures) if name in of_rank
    ]
    assert not said, "\n".join(said)


def test_without_a_process_group_it_is_the_loss() -> None:
    x, labels = torch.randn(8, 4), torch.arange(8) % 3
    loss = losses.SupConLoss()
    assert torch.equal(DistributedLoss(loss)(x, labels), loss(x, labels))
    assert torch.equal(DistributedLossWrapper(loss)(x, labels), loss(x, labels))
    of_classes = losses.CosFaceLoss(3, 4)
    shared = DistributedLoss(of_classes, num_classes=3)
    assert torch.equal(shared(x, labels), of_classes(x, labels))
    assert own_classes(3) == range(3)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DistributedLoss(losses.SupConLoss), TypeError, r"loss=SupConLoss\(\)"),
        (
            lambda: DistributedLoss(torch.nn.Identity()),
            TypeError,
            "loss must be one of fusedml.losses without a teacher, .* got Identity",
        ),
        (
            lambda: DistributedLoss(losses.SimilarityDistillationLoss()),
            TypeError,
            "without a teacher, or a CrossBatchMemory, got SimilarityDistillationLoss",
        ),
        (
            lambda: DistributedLoss(CrossBatchMemory(losses.SupConLoss(), 8), exchange="ring"),
            ValueError,
            "serves no CrossBatchMemory",
        ),
        (
            lambda: DistributedLoss(losses.SupConLoss(), exchange="mail"),
            ValueError,
            "one of 'gather', 'ring', got 'mail'",
        ),
        (
            lambda: DistributedLoss(losses.NTXentLoss(), exchange="ring"),
            ValueError,
            "one term per anchor.*got NTXentLoss",
        ),
        (
            lambda: DistributedLoss(losses.SigLipLoss(), exchange="ring"),
            ValueError,
            "ClipLoss and InfoNCELoss.*got SigLipLoss",
        ),
        (
            lambda: DistributedLoss(losses.SupConLoss(distance=LpDistance(p=1)), exchange="ring"),
            ValueError,
            "a fused distance",
        ),
        (
            lambda: DistributedLoss(
                losses.SupConLoss(embedding_regularizer=torch.mean), exchange="ring"
            ),
            ValueError,
            "no embedding_regularizer",
        ),
        (
            lambda: DistributedLoss(losses.P2SGradLoss(8, 4), num_classes=9),
            ValueError,
            "num_classes serves .*ArcFaceLoss.*ProxyAnchorLoss.*got P2SGradLoss",
        ),
        (
            lambda: DistributedLoss(losses.SupConLoss(), num_classes=9),
            ValueError,
            "got SupConLoss",
        ),
        (
            lambda: DistributedLoss(losses.ArcFaceLoss(4, 8), exchange="ring", num_classes=9),
            ValueError,
            "one term per anchor.*got ArcFaceLoss",
        ),
        (
            lambda: DistributedLoss(
                losses.ArcFaceLoss(4, 8, weight_regularizer=torch.mean), num_classes=9
            ),
            ValueError,
            "no weight_regularizer",
        ),
        (
            lambda: DistributedLoss(losses.ArcFaceLoss(4, 8), num_classes=9)(
                torch.randn(3, 8), torch.arange(3)
            ),
            ValueError,
            r"all together num_classes = 9, got \[4\] of the ranks",
        ),
        (
            lambda: DistributedLossWrapper(losses.SupConLoss(), efficient=True),
            ValueError,
            "efficient must be False, got True",
        ),
        (
            lambda: DistributedLossWrapper(CrossBatchMemory(losses.SupConLoss(), 8))(
                torch.randn(3, 8), torch.arange(3), ref_emb=torch.randn(3, 8)
            ),
            ValueError,
            "ref_emb and ref_labels are not supported",
        ),
    ],
)
def test_errors(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()
