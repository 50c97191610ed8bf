"""The loss of the global batch on 2 and on 3 ranks (gloo), against one process.

tests/distributed/cases.py has the cases; one start of processes runs them all.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from fusedml import CrossBatchMemory, losses
from fusedml.distances import LpDistance
from fusedml.distributed import DistributedLoss
from tests.distributed import cases

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed")


@pytest.fixture(scope="module", params=[2, 3], ids=["2 ranks", "3 ranks"])
def failures(request, tmp_path_factory) -> list[dict[str, str]]:
    """Of each rank, what went wrong in which case."""
    folder = tmp_path_factory.mktemp("ranks")
    arguments = request.param, str(folder)
    multiprocessing.start_processes(cases.run, arguments, request.param, start_method="spawn")
    return [
        pickle.loads(Path(folder, f"failures {rank}").read_bytes()) for rank in range(request.param)
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


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DistributedLoss(losses.SupConLoss), TypeError, r"loss=SupConLoss\(\)"),
        (
            lambda: DistributedLoss(torch.nn.Identity()),
            TypeError,
            "loss must be one of fusedml.losses or a CrossBatchMemory, got Identity",
        ),
        (
            lambda: DistributedLoss(CrossBatchMemory(losses.SupConLoss(), 8), exchange="ring"),
            ValueError,
            "serves no CrossBatchMemory",
        ),
        (
            lambda: DistributedLoss(losses.SupConLoss(), exchange="mail"),
            ValueError,
            "'gather' or 'ring', got 'mail'",
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
    ],
)
def test_errors(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()
