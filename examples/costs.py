"""Time and memory of a loss step, fusedml against the full matrix, as the demo shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from benchmarks import memory
from benchmarks.cases import Case
from benchmarks.harness import PRODUCTS, interleave, timed_steps
from benchmarks.providers import PROVIDERS
from examples.image_data import Split
from fusedml.losses import LOSSES

if TYPE_CHECKING:
    from examples.train_digits import Trained

COMPARED = {name: PROVIDERS[name] for name in ("fusedml", "dense")}
# of a first step; the dense formula over all triplets takes minutes where it fits at all
LIMIT_S = 20


@dataclass(frozen=True)
class Cost:
    """Forward and backward of a loss: median milliseconds and peak MB (10^6 bytes) above inputs."""

    case: Case
    is_training_batch: bool
    milliseconds: dict[str, float]
    extra_mb: dict[str, float]


def training_case(data: Split, dimension: int) -> Case:
    """The size of the demo's batch: the whole training half."""
    size, num_classes = len(data.train_labels), len(data.train_labels.unique())
    return Case("MultiSimilarityLoss", size, dimension, -(-size // num_classes), num_classes)


def case_of(loss: str, batch: Case, size: int | None = None) -> Case:
    """The case of a loss at the batch that it is trained with, or with 4 samples a class at a size.

    N-pair has two samples of each class in both.
    """
    samples = LOSSES[loss].members_per_class or batch.samples_per_class
    if size is None:
        has_few = LOSSES[loss].members_per_class is not None
        size = samples * batch.num_classes if has_few else batch.n
        return replace(batch, loss=loss, n=size, samples_per_class=samples)
    samples = min(samples, 4)
    return replace(
        batch, loss=loss, n=size, samples_per_class=samples, num_classes=-(-size // samples)
    )


def measure(case: Case, is_training_batch: bool) -> Cost:
    """Memory in processes of their own, then time in interleaved rounds of those that fitted."""
    limit_gb = 0.6 * memory.available_gb()
    usages = {
        name: memory.measure(provider, case, torch.get_num_threads(), limit_gb, LIMIT_S)
        for name, provider in COMPARED.items()
    }
    fitting = {name: COMPARED[name] for name, usage in usages.items() if usage.outcome == "ok"}
    steps = dict(timed_steps(case, fitting))
    del steps[PRODUCTS]
    timings = interleave(steps, min_rounds=3, seconds=2)
    return Cost(
        case,
        is_training_batch,
        {name: timings[name].median_ms if name in timings else math.nan for name in COMPARED},
        {name: usage.peak_extra_mb for name, usage in usages.items()},
    )


def compare(losses: Sequence[str], batch: Case, sizes: Sequence[int]) -> list[Cost]:
    """The costs of every loss at its training batch and at every size."""
    wanted = [(case_of(loss, batch), True) for loss in losses]
    wanted += [(case_of(loss, batch, size), False) for size in sizes for loss in losses]
    bar = tqdm(wanted, desc="time and memory", unit="case")
    return [measure(*each) for each in bar]


def _costs(cost: Cost) -> str:
    ms, mb = cost.milliseconds, cost.extra_mb
    return (
        f"{cost.case.n:>6}  {_cell(ms['fusedml'], 2)} {_cell(ms['dense'], 2)} {_ratio(ms)}"
        f"  {_cell(mb['fusedml'], 1)} {_cell(mb['dense'], 1)} {_ratio(mb)}"
    )


def _cell(value: float, digits: int) -> str:
    return f"{'-':>10}" if math.isnan(value) else f"{value:>10.{digits}f}"


def _ratio(values: dict[str, float]) -> str:
    if not values["fusedml"] > 0 or math.isnan(values["dense"]):
        return f"{'-':>7}"
    return f"{values['dense'] / values['fusedml']:>6.1f}x"


_COST_HEAD = (
    f"{'batch':>6}  {'fusedml ms':>10} {'dense ms':>10} {'ratio':>7}"
    f"  {'fusedml MB':>10} {'dense MB':>10} {'ratio':>7}"
)


def results_table(trained: Sequence[Trained], costs: Sequence[Cost]) -> str:
    """One line for each loss: retrieval before and after, and what a step of the loss costs."""
    at_training = {cost.case.loss: cost for cost in costs if cost.is_training_batch}
    lines = [
        "\nRetrieval among unseen images, and a step of the loss (forward and backward) at the "
        "training batch:",
        f"{'loss':<31} {'Recall@1':>14} {'MAP@R':>14} {_COST_HEAD}",
    ]
    for result in trained:
        recall = f"{result.before.recall_at_1:.3f} -> {result.after.recall_at_1:.3f}"
        precision = f"{result.before.map_at_r:.3f} -> {result.after.map_at_r:.3f}"
        lines.append(
            f"{result.loss:<31} {recall:>14} {precision:>14} {_costs(at_training[result.loss])}"
        )
    lines.append("(Where the matrix is tiny - ten proxies, N-pair's 20 images - there is no gain.")
    lines.append(f" -: more than {LIMIT_S} seconds, or out of memory, as 60 million triplets are.)")
    return "\n".join(lines)


def sizes_table(costs: Sequence[Cost]) -> str:
    """The same cost columns at the largest size."""
    largest = max(cost.case.n for cost in costs if not cost.is_training_batch)
    lines = [
        f"\nThe same step on {largest} embeddings of random classes, 4 samples a class (N-pair 2):",
        f"{'loss':<31} {_COST_HEAD}",
    ]
    lines += [
        f"{cost.case.loss:<31} {_costs(cost)}"
        for cost in costs
        if cost.case.n == largest and not cost.is_training_batch
    ]
    return "\n".join(lines)
