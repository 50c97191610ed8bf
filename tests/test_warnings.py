"""Every warning names the line of the caller's own code, whatever lies between."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from pytorch_metric_learning.reducers import SumReducer
from torch import nn

import fusedml
from fusedml import losses, miners
from fusedml.engine import engines, no_positives
from fusedml.engine.caller import warn_caller
from fusedml.engine.routes import choice
from fusedml.losses import multi_similarity

EMBEDDINGS = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(300) % 10
ALONE = torch.arange(300)


class OwnLoss(losses.SupConLoss):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


class OwnCosine(CosineSimilarity):
    def compute_mat(self, queries, references):
        return super().compute_mat(queries, references)


class OwnModel(nn.Module):
    """Its module is not the package's, so its line is the nearest one that the user can change."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        return self.loss(*args)


def mined(loss: nn.Module) -> torch.Tensor:
    return loss(EMBEDDINGS, LABELS, miners.MultiSimilarityMiner(0.1)(EMBEDDINGS, LABELS))


def of_memory(loss: nn.Module) -> torch.Tensor:
    bank = fusedml.losses.CrossBatchMemory(loss, 8, memory_size=600)
    bank(EMBEDDINGS, LABELS)
    return bank(EMBEDDINGS, LABELS)


CALLS: dict[str, tuple[str, Callable[[], object]]] = {
    "loss": ("no two of", lambda: losses.SupConLoss()(EMBEDDINGS, ALONE)),
    "listed loss": (
        "no two of",
        lambda: losses.SupConLoss(reducer=SumReducer())(EMBEDDINGS, ALONE),
    ),
    "own loss": ("no two of", lambda: OwnLoss()(EMBEDDINGS, ALONE)),
    "wrapped": ("no two of", lambda: OwnModel(losses.SupConLoss())(EMBEDDINGS, ALONE)),
    "other head": ("no two of", lambda: losses.NPairsLoss()(EMBEDDINGS, ALONE)),
    "sequence": (
        "no two of",
        lambda: nn.Sequential(nn.Identity(), OwnModel(losses.NTXentLoss()))[1](EMBEDDINGS, ALONE),
    ),
    "hint": ("mining_epsilon", lambda: mined(losses.MultiSimilarityLoss())),
    "hint to a listed loss": (
        "mining_epsilon",
        lambda: mined(losses.MultiSimilarityLoss(reducer=SumReducer())),
    ),
    "constructor": ("may overflow", lambda: losses.RankedListLoss(0.4, 6)),
    "distance": (
        "not a distance that fusedml",
        lambda: losses.ContrastiveLoss(distance=LpDistance(p=3))(EMBEDDINGS, LABELS),
    ),
    "distance of triplets": (
        "not a distance that fusedml",
        lambda: losses.TripletMarginLoss(distance=LpDistance(p=3))(EMBEDDINGS[:20], LABELS[:20]),
    ),
    "distance in a memory": (
        "not a distance that fusedml",
        lambda: of_memory(losses.ContrastiveLoss(distance=LpDistance(p=3))),
    ),
    "distance of a miner": (
        "not a distance that fusedml",
        lambda: miners.MultiSimilarityMiner(0.1, distance=LpDistance(p=3))(EMBEDDINGS, LABELS),
    ),
    "distance of ranks": (
        "not a distance that fusedml",
        lambda: losses.SmoothAPLoss(distance=OwnCosine())(EMBEDDINGS, LABELS),
    ),
    "engine": ("sums are wrong", lambda: engines._warn_once("sums are wrong")),
    "itself": ("told", lambda: warn_caller("told")),
}


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch):
    monkeypatch.setattr(no_positives, "_WARNED", set())
    monkeypatch.setattr(multi_similarity, "_HINTED", set())
    monkeypatch.setattr(choice, "_WARNED", set())
    engines._warn_once.cache_clear()


@pytest.mark.parametrize("call", CALLS)
def test_names_the_line_of_the_caller(call: str) -> None:
    what, said_by = CALLS[call]
    with pytest.warns(UserWarning, match=what) as caught:
        said_by()
    assert {warning.filename for warning in caught} == {__file__}


def test_the_very_line(monkeypatch) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            monkeypatch.setattr(no_positives, "_WARNED", set())
            loss = losses.SupConLoss()
            loss(EMBEDDINGS, ALONE)
    (warning,) = caught  # once for each line, as Python's filters do by themselves
    lines = Path(__file__).read_text().splitlines()
    assert lines[warning.lineno - 1].strip() == "loss(EMBEDDINGS, ALONE)"


def test_nothing_warns_by_a_count_of_frames() -> None:
    """A count of frames is wrong as soon as a call is moved into a function."""
    package = Path(fusedml.__file__).parent
    counted = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in {"warn", "warn_explicit"}
        and getattr(node.value, "id", None) == "warnings"
    ]
    assert set(counted) == {"engine/caller.py"}
