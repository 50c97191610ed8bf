"""What the tests run on.

FUSEDML_GPU_TESTS=emulated runs the tests that need no more than the operators without a GPU, on the
same binding around the emulated kernels; tests/binding does so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from fusedml import ops
from fusedml.pairs import PairProblem

IS_EMULATED = os.environ.get("FUSEDML_GPU_TESTS") == "emulated"
DEVICE = "cpu" if IS_EMULATED else "cuda"
BACKEND = "emulated_binding" if IS_EMULATED else "cuda"

needs_gpu = pytest.mark.skipif(IS_EMULATED, reason="needs more of a GPU than its operators")


def operator(name: str) -> Callable[..., Any]:
    return ops.operator(name, BACKEND)


def on_device(problem: PairProblem) -> PairProblem:
    """The problem on the GPU, with embeddings that are leaves as before."""

    def move(x: Tensor | None) -> Tensor | None:
        if x is None or not x.requires_grad:
            return None if x is None else x.to(DEVICE)
        return x.detach().to(DEVICE).requires_grad_()

    return problem._replace(
        anchors=move(problem.anchors),
        references=move(problem.references),
        anchor_labels=move(problem.anchor_labels),
        reference_labels=move(problem.reference_labels),
        extent=move(problem.extent),
    )


def spread(x: Tensor) -> Tensor:
    """The same values with gaps between them in memory."""
    wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1] + 1)
    view = wide[..., ::2][..., : x.shape[-1]]
    view.copy_(x)
    return view
