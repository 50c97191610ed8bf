"""What the tests run on, the number types of the kernels, and how far they may be from float64.

FUSEDML_GPU_TESTS=emulated runs the tests that need no more than the operators without a GPU, on the
same binding around the emulated kernels; tests/binding does so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fusedml import ops
from fusedml.pairs import PairProblem

IS_EMULATED = os.environ.get("FUSEDML_GPU_TESTS") == "emulated"
DEVICE = "cpu" if IS_EMULATED else "cuda"
BACKEND = "emulated_binding" if IS_EMULATED else "cuda"

needs_gpu = pytest.mark.skipif(IS_EMULATED, reason="needs more of a GPU than its operators")


def operator(name: str) -> Callable[..., Any]:
    return ops.operator(name, BACKEND)


class NumberType(NamedTuple):
    """dtype of the embeddings, the setting for float32 products, and the floor of the tolerance.

    plain: the dtype in which dense PyTorch makes errors of the same kind.
    """

    dtype: torch.dtype
    precision: str
    plain: torch.dtype
    floor: float


NUMBER_TYPES = {
    "bfloat16": NumberType(torch.bfloat16, "highest", torch.bfloat16, 1e-2),
    "float16": NumberType(torch.float16, "highest", torch.float16, 2e-3),
    "highest": NumberType(torch.float32, "highest", torch.float32, 1e-5),
    "high": NumberType(torch.float32, "high", torch.float32, 4e-3),
    "medium": NumberType(torch.float32, "medium", torch.bfloat16, 1e-2),
    "float64": NumberType(torch.float64, "highest", torch.float64, 1e-12),
}

all_number_types = pytest.mark.parametrize(
    "number_type", NUMBER_TYPES.values(), ids=list(NUMBER_TYPES)
)


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
