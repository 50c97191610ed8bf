"""What FLOP counters see of the operators, against the products that the tiles compute."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fusedml.distances import fused_measure
from fusedml.engine import flops, ops
from fusedml.engine.tiled import plan
from fusedml.losses import LOSSES
from tests.losses.made import NAMES, NUM_CLASSES, make_batch, make_loss
from tests.problems import make_problem
from tests.test_ops import arguments

N, M, D = 1200, 1500, 32


def of_addmm(_, a, b, **__) -> int:
    """Of the product in place, which PyTorch's counter forgets."""
    return 2 * a[0] * a[1] * b[1]


IN_PLACE = {torch.ops.aten.addmm_: of_addmm}


def count(function) -> int:
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        function()
    return counter.get_total_flops()


def test_every_operator_has_a_formula() -> None:
    assert set(flops._FORMULAS) == set(ops.SCHEMAS)
    for name in ops.SCHEMAS:
        for backend in ops.BACKENDS:
            if backend != "dense":
                call = partial(ops.operator(name, backend), *arguments(name, 13, torch.float32))
                has_products = flops._FORMULAS[name] is not flops._no_product
                assert (count(call) > 0) == has_products


@pytest.mark.parametrize("m", [None, M])
@pytest.mark.parametrize("needs", [None, [True, False, False], [True, True, False]])
def test_formulas_are_the_products_of_the_tiles(m, needs, monkeypatch) -> None:
    monkeypatch.setattr(plan, "TILE_ROWS", 128)
    problem = make_problem(N, m, 40, dtype=torch.float32, d=D)
    logit = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    args = [*problem[:4], logit, "dot", m is None, None, None]
    name = "pair_statistics"
    if needs is not None:
        name, rows = "pair_gradient", torch.randn(3, N)
        args += [rows, rows, needs]
    counted = count(lambda: ops.operator(name, "torch")(*args))
    computed = count(lambda: ops.TILED_KERNELS[name](*args))
    # blocks on the diagonal are computed whole
    assert counted <= computed <= 1.2 * counted


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_counted_whatever_their_size(name: str) -> None:
    assert name in LOSSES
    loss, counts, sizes = make_loss(name), [], []
    for n in (700, 900):
        embeddings, labels = make_batch(n, torch.float32)
        labels = torch.arange(n) // 2 if LOSSES[name].members_per_class == 2 else labels
        counts.append(count(lambda x=embeddings, y=labels: loss(x, y).backward()))
        classes = torch.unique(labels, return_counts=True)[1].tolist()
        sizes.append(math.prod(loss.matrix_shape(classes, 0, NUM_CLASSES)))
    # a small matrix is kept: a product and two gradients, and none computed again in the backward;
    # where x_ij = x_ji that costs the same, as the tiles compute half of them
    again = 1 if fused_measure(loss.distance) is not None else 4 / 3
    as_large = counts[0] * sizes[1] / sizes[0]
    # or a third product of a symmetric matrix, where it costs less than adding the transposed one
    assert any(counts[1] == pytest.approx(k * as_large, rel=0.05) for k in (again, 3 / 2))
