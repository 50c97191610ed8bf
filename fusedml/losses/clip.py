"""CLIP's symmetric contrastive loss, with open_clip's constructor and call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from torch import Tensor

from fusedml.engine.arguments import check_count, check_flag
from fusedml.formulas import Hyperparameter
from fusedml.hyperparameters import any_number, as_hyperparameter
from fusedml.losses.base import Backend, Promises
from fusedml.losses.two_towers import TwoTowerLoss, mean_of, require_one_rank


class ClipLoss(TwoTowerLoss):
    """L = (mean_i -log(e^{c <a_i, r_i>} / sum_j e^{c <a_i, r_j>})
          + mean_i -log(e^{c <a_i, r_i>} / sum_j e^{c <a_j, r_i>})) / 2, c the logit scale.

    a are the features of images, r those of their texts, used as given: open_clip normalises them
    in the model.  Both directions come from one sweep over the pairs.

    Args:
        local_loss: accepted as open_clip's; means nothing on one rank.
        gather_with_grad: accepted as open_clip's; means nothing on one rank.
        cache_labels: accepted as open_clip's; there are no labels to keep.
        rank: accepted as open_clip's.
        world_size: 1.
        use_horovod: False.
        backend: "auto", "cuda", "torch" or "dense".

    Raises:
        NotImplementedError: for more than one rank.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    ICML 2021, figure 3; open_clip's ``ClipLoss``.
    """

    input_names = ("image_features", "text_features")
    is_cross_entropy = True
    normalizes = False
    example_arguments: ClassVar[Mapping[str, float]] = {"logit_scale": 1 / 0.07}
    promises = Promises({128: 2.0}, not_slower_in_retrieval_from=128, not_slower_from=1024)

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
        *,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(backend=backend)
        require_one_rank(world_size, use_horovod)
        self.local_loss = check_flag("local_loss", local_loss)
        self.gather_with_grad = check_flag("gather_with_grad", gather_with_grad)
        self.cache_labels = check_flag("cache_labels", cache_labels)
        self.rank = check_count("rank", rank, 0)
        self.world_size = world_size
        self.use_horovod = use_horovod

    if TYPE_CHECKING:

        @overload
        def __call__(
            self,
            image_features: Tensor,
            text_features: Tensor,
            logit_scale: Hyperparameter,
            logit_bias: Hyperparameter | None = None,
            output_dict: Literal[False] = False,
        ) -> Tensor: ...

        @overload
        def __call__(
            self,
            image_features: Tensor,
            text_features: Tensor,
            logit_scale: Hyperparameter,
            logit_bias: Hyperparameter | None = None,
            output_dict: bool = False,
        ) -> Tensor | dict[str, Tensor]: ...

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """See ``forward``."""

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Hyperparameter,
        logit_bias: Hyperparameter | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """The loss, 0-d, in the dtype of the features (under autocast float32).

        Args:
            image_features: [n, d], floating point.
            text_features: [n, d]; text i belongs to image i.
            logit_scale: c, a number or a tensor with one element, which receives its gradient.
            logit_bias: added to all logits, which changes nothing; accepted as open_clip's.
            output_dict: return {"contrastive_loss": loss}, as open_clip does.

        Raises:
            ValueError: for wrong shapes, dtypes or devices.
            TypeError: for arguments that are no floating-point tensors.
        """
        scale = as_hyperparameter("logit_scale", logit_scale, any_number)
        if image_features.shape[:1] != text_features.shape[:1]:
            raise ValueError(
                "text_features must have as many rows as image_features, got shapes "
                f"{tuple(text_features.shape)} and {tuple(image_features.shape)}"
            )
        losses = self.losses(image_features, text_features, scale, both=True)
        loss = mean_of(losses, image_features)
        if logit_bias is not None:
            bias = as_hyperparameter("logit_bias", logit_bias, any_number)
            loss = loss + 0 * bias  # a parameter that takes part has a gradient
        return {"contrastive_loss": loss} if output_dict else loss
