"""Who is measured, by name, and the bare matrix products that all are held against.

A provider takes a case and its problem and returns a function of no arguments that computes the
loss, 0-d, differentiable in the problem's leaves.  One that cannot compute a case, for want of the
loss, of a package or of a GPU, raises ``UnavailableError``, when it is called or when its function
is.  Providers are plain functions at the top level of a module, so that the memory measurement can
name them in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.cases import FORWARD, Case, LossFunction, Problem, Provider, UnavailableError
from benchmarks.chunked import chunked_checkpoint, chunked_gradient_in_forward
from benchmarks.full_matrix import dense_autograd, dense_compiled
from benchmarks.peers import (
    cut_cross_entropy,
    fused,
    inf_cl,
    pytorch_metric_learning,
    sentence_transformers,
    torch_cross_entropy,
)

__all__ = [
    "COMPILED",
    "FUSED",
    "PROVIDERS",
    "LossFunction",
    "Provider",
    "UnavailableError",
    "bare_products",
    "dense_autograd",
    "dense_compiled",
    "fused",
]

FUSED, DENSE, COMPILED = "fusedml", "dense", "dense, compiled"
CHECKPOINT, GRADIENT_IN_FORWARD = "row chunks, checkpoint", "row chunks, gradient in forward"
PML, CROSS_ENTROPY = "pytorch-metric-learning", "F.cross_entropy"
CUT, INF_CL = "cut-cross-entropy", "inf-cl"
SENTENCE_TRANSFORMERS = "sentence-transformers"

PROVIDERS: dict[str, Provider] = {
    FUSED: fused,
    DENSE: dense_autograd,
    COMPILED: dense_compiled,
    CHECKPOINT: chunked_checkpoint,
    GRADIENT_IN_FORWARD: chunked_gradient_in_forward,
    PML: pytorch_metric_learning,
    SENTENCE_TRANSFORMERS: sentence_transformers,
    CUT: cut_cross_entropy,
    INF_CL: inf_cl,
    CROSS_ENTROPY: torch_cross_entropy,
}
# everything that needs no GPU and has more than a loss or two
ANYWHERE = tuple(name for name in PROVIDERS if name not in (CUT, INF_CL, SENTENCE_TRANSFORMERS))


def bare_products(case: Case, problem: Problem) -> Callable[[], None]:
    """The matrix products that the dense version cannot do without, and nothing else.

    Forward: S = A R^T, and the same of a teacher.  Forward and backward: these, W R and W^T A, with
    S as W.  In blocks of rows of at most 2^25 elements, into arrays that are allocated once.
    """
    rows, columns = case.matrix_shape
    dtype, device = problem.embeddings.dtype, problem.embeddings.device
    anchors = torch.randn(rows, case.d, device=device).to(dtype)
    references = torch.randn(columns, case.d, device=device).to(dtype)
    height = max(1, min(rows, 2**25 // max(columns, 1)))
    block = torch.empty(height, columns, dtype=dtype, device=device)
    teacher = None if problem.teacher is None else problem.teacher.detach()
    anchors_grad, references_grad = torch.empty_like(anchors), torch.zeros_like(references)

    def multiply() -> None:
        for start in range(0, rows, height):
            own = slice(start, min(start + height, rows))
            similarity = block[: own.stop - own.start]
            if teacher is not None:
                torch.mm(teacher[own], teacher.T, out=similarity)
            torch.mm(anchors[own], references.T, out=similarity)
            if case.direction == FORWARD:
                continue
            torch.mm(similarity, references, out=anchors_grad[own])
            # beta 0 with the first block, so that nothing has to be cleared
            references_grad.addmm_(similarity.T, anchors[own], beta=0 if start == 0 else 1)

    return multiply
