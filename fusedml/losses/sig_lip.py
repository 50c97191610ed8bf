"""SigLIP's sigmoid loss, with open_clip's constructor and call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fusedml.engine import autograd
from fusedml.engine.arguments import check_count, check_flag
from fusedml.engine.pairs import accumulation_dtype
from fusedml.engine.precision import owned, result_dtype
from fusedml.formulas import Hyperparameter, pack
from fusedml.hyperparameters import any_number, as_hyperparameter
from fusedml.losses.base import Backend, Promises
from fusedml.losses.two_towers import TwoTowerLoss, require_one_rank
from fusedml.terms import softplus as softplus_of

_TERMS = (softplus_of(True), softplus_of(False))


class SigLipLoss(TwoTowerLoss):
    """L = (sum_i log(1 + e^{-c <a_i, r_i> - b}) + sum_{i != j} log(1 + e^{c <a_i, r_j> + b})) / n.

    a are the features of images, r those of their texts, used as given: open_clip normalises them
    in the model.  c is the logit scale and b the logit bias.  No pair depends on another.

    Args:
        cache_labels: accepted as open_clip's; there are no labels to keep.
        rank: accepted as open_clip's.
        world_size: 1.
        dist_impl: accepted as open_clip's; means nothing on one rank.
        backend: "auto", "cuda", "torch" or "dense".

    Raises:
        NotImplementedError: for more than one rank.

    Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, algorithm 1;
    open_clip's ``SigLipLoss``.
    """

    input_names = ("image_features", "text_features")
    normalizes = False
    example_arguments: ClassVar[Mapping[str, float]] = {"logit_scale": 10.0, "logit_bias": -10.0}
    promises = Promises({128: 2.0}, not_slower_from=2048)

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: str | None = None,
        *,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(backend=backend)
        require_one_rank(world_size)
        self.cache_labels = check_flag("cache_labels", cache_labels)
        self.rank = check_count("rank", rank, 0)
        self.world_size = world_size
        self.dist_impl = dist_impl

    if TYPE_CHECKING:

        @overload
        def __call__(
            self,
            image_features: Tensor,
            text_features: Tensor,
            logit_scale: Hyperparameter,
            logit_bias: Hyperparameter | None,
            output_dict: Literal[False] = False,
        ) -> Tensor: ...

        @overload
        def __call__(
            self,
            image_features: Tensor,
            text_features: Tensor,
            logit_scale: Hyperparameter,
            logit_bias: Hyperparameter | None,
            output_dict: bool = False,
        ) -> Tensor | dict[str, Tensor]: ...

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """See ``forward``."""

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Hyperparameter,
        logit_bias: Hyperparameter | None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """The loss, 0-d, in the dtype of the features (under autocast float32).

        Args:
            image_features: [n, d], floating point.
            text_features: [n, d]; text i belongs to image i.
            logit_scale: c, a number or a tensor with one element, which receives its gradient.
            logit_bias: b, the same; None for 0.
            output_dict: return {"contrastive_loss": loss}, as open_clip does.

        Raises:
            ValueError: for wrong shapes, dtypes or devices.
            TypeError: for arguments that are no floating-point tensors.
        """
        scale = as_hyperparameter("logit_scale", logit_scale, any_number)
        bias = 0.0 if logit_bias is None else logit_bias
        bias = as_hyperparameter("logit_bias", bias, any_number)
        total = self._total(image_features, text_features, scale, bias)
        loss = (total / max(1, image_features.shape[0])).to(result_dtype(image_features))
        return {"contrastive_loss": loss} if output_dict else loss

    def _total(
        self, images: Tensor, texts: Tensor, scale: Hyperparameter, bias: Hyperparameter
    ) -> Tensor:
        """The sum over all pairs."""
        problem = self.paired_problem(images, texts)
        if not self.takes_formula(problem):
            logit = pack(-1 * scale, -1 * bias, scale, bias)
            return autograd.pair_sums(problem, logit, _TERMS, backend=self.backend).sums.sum()
        a, r = problem.anchors, problem.references
        assert r is not None
        logits = a @ r.T
        scale, bias = (owned(x) if isinstance(x, Tensor) else x for x in (scale, bias))
        logits = logits.to(accumulation_dtype(logits.dtype)) * scale + bias
        sign = 1 - 2 * torch.eye(len(a), dtype=logits.dtype, device=logits.device)
        return softplus(sign * logits, threshold=40).sum()
