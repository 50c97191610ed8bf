"""What a type checker finds in a user's code: wrong names and values of arguments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
import torch
import fusedml
from fusedml import distances, functional, losses, miners
from fusedml.losses import MultiSimilarityLoss, ProxyAnchorLoss

x, y = torch.randn(4, 2), torch.arange(4)
good: torch.Tensor = MultiSimilarityLoss(alpha=2, backend="torch")(x, y, ref_emb=x)
good = functional.multi_similarity_loss(x, y, alpha=3.0, ref_emb=x, reduction="none")
miners.BatchEasyHardMiner(miners.BatchEasyHardMiner.HARD, "all", distance=distances.LpDistance(p=1))
losses.TripletMarginLoss(mining="semihard", distance=distances.DotProductSimilarity(power=2))
good = functional.proxy_anchor_loss(x, y, x, margin=0.2, backend="dense")
good = losses.ClipLoss()(x, x, 10.0)
both = losses.ClipLoss()(x, x, 10.0, output_dict=True)
good = both if isinstance(both, torch.Tensor) else both["contrastive_loss"]
good = losses.SigLipLoss()(x, x, 10.0, None)
good = losses.InfoNCELoss()(x, x)
good = losses.VSELoss()(x, x)
good = losses.SimilarityDistillationLoss()(x, x)
good = losses.LanguageGuidanceLoss()(x, y, x)
good = losses.S2SDLoss(MultiSimilarityLoss(), [MultiSimilarityLoss()])(x, y, [x])
good = losses.CrossBatchMemory(MultiSimilarityLoss(), 2)(x, y)
good = fusedml.MomentumQueue(losses.InfoNCELoss(), 2)(x, x)
MultiSimilarityLoss(alhpa=2)
MultiSimilarityLoss(backend="cudda")
ProxyAnchorLoss(2, 3, weight_inti_func=None)
MultiSimilarityLoss()(x, y, refs=x)
functional.multi_similarity_loss(x, y, reduction="average")
functional.n_pairs_loss(x, y, ref_emb=x)
functional.mining_thresholds(x, y, 0.1, backend="cudda")
functional.clip_loss(x, x, 10.0, backend="cudda")
fusedml.pair_statistics(x, y, backend="cudda")
fusedml.pair_statistics(x, y, measure="cosine")
losses.InfoNCELoss(backend="cudda")
losses.ClipLoss()(x, x)
losses.SigLipLoss()(x, x, 10.0)
losses.InfoNCELoss()(x)
losses.VSELoss()(x, x, 10.0)
losses.SimilarityDistillationLoss()(x)
losses.LanguageGuidanceLoss()(x, y)
losses.S2SDLoss(MultiSimilarityLoss(), [])(x, y)
losses.CrossBatchMemory(MultiSimilarityLoss(), 2)(x, y, ref_emb=x)
fusedml.MomentumQueue(losses.InfoNCELoss(), 2)(x)
losses.TripletMarginLoss(mining="semi-hard")
losses.PNPLoss(variant="Z")
miners.TripletMarginMiner(type_of_triplets="medium")
miners.BatchEasyHardMiner(pos_strategy="medium")
distances.LpDistance(q=2)
distances.SNRDistance(normalise_embeddings=True)
distances.DotProductSimilarity(is_inverted=True)
distances.CosineSimilarity(normalize_embeddings=True)
"""


def test_wrong_arguments_are_found(tmp_path) -> None:
    pytest.importorskip("mypy")
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(ROOT / ".mypy_cache"), str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line.split(":")[1:4:2] for line in result.stdout.splitlines() if " error: " in line]
    lines = [int(line) for line, _ in found]
    first = 1 + PROGRAM.splitlines().index("MultiSimilarityLoss(alhpa=2)")
    assert lines == list(range(first, 1 + len(PROGRAM.splitlines()))), result.stdout + result.stderr
