"""The losses as functions: one for each class of ``fusedml.losses``, made of the class.

All take embeddings [n, d] (floating point), labels [n], the loss's hyper-parameters as numbers or
0-d tensors (a tensor that requires a gradient receives it), and

    ref_emb, ref_labels  [m, d] and [m]: what the embeddings are compared with instead of with
                         themselves, for the losses that take references.  The pairs i == j are left
                         out unless ref_labels is another object than labels.
    distance             a ``fusedml.distances`` or pytorch-metric-learning object
    reduction            "mean": the value of the loss's module; "sum"; "none": the single losses
    backend              "auto", "cuda", "torch" or "dense"

and return float32 (float64 for float64 embeddings).  Losses with a learnt vector for each class
take these as their third argument.  Wrong shapes, values, ``reduction`` or ``backend`` raise
ValueError, wrong types TypeError, each naming the argument.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fusedml.distances import CosineSimilarity, fused_measure
from fusedml.engine.arguments import unexpected_keyword
from fusedml.engine.backends import check_backend, require_backend
from fusedml.engine.foreign import missing_name
from fusedml.engine.inputs import make_batch
from fusedml.engine.labels import LabelRule, check_label_rule
from fusedml.engine.routes.fused import FusedPairs
from fusedml.formulas import Hyperparameter
from fusedml.hyperparameters import any_number, as_hyperparameter
from fusedml.losses import (
    DISTILLATION_LOSSES,
    LOSSES,
    TWO_TOWER_LOSSES,
    BaseLoss,
    MultiInputLoss,
)

if TYPE_CHECKING:
    from fusedml.losses.base import Backend


def name_of(loss: type[nn.Module]) -> str:
    """The function's name: MultiSimilarityLoss is ``multi_similarity_loss``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", loss.__name__).lower()


def own_arguments(loss: type[BaseLoss]) -> list[Parameter]:
    """What the function takes beside what all take: from the constructor, and other weights."""
    others = list(inspect.signature(loss.of_weights).parameters.values())[1:]
    taken = [*loss.hyperparameters, *loss.switches]
    constructor = inspect.signature(loss.__init__).parameters
    own = [p for p in others if p.kind is p.POSITIONAL_OR_KEYWORD]
    own += [parameter for name, parameter in constructor.items() if name in taken]
    return [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own]


def signature_of(loss: type[BaseLoss]) -> inspect.Signature:
    """The function's signature, from the class and its constructor."""
    keyword = Parameter.KEYWORD_ONLY
    parameters = [
        Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation="Tensor")
        for name in ("embeddings", "labels", loss.weights_name)
        if name is not None
    ]
    parameters += own_arguments(loss)
    if loss.takes_references:
        parameters += [
            Parameter(name, keyword, default=None, annotation="Tensor | None")
            for name in ("ref_emb", "ref_labels")
        ]
        parameters.append(Parameter("self_offset", keyword, default=None, annotation="int | None"))
    parameters += [
        Parameter("distance", keyword, default=None, annotation="nn.Module | None"),
        Parameter("reduction", keyword, default="mean", annotation="Reduction"),
        Parameter("backend", keyword, default="auto", annotation="Backend"),
    ]
    if loss.takes_label_sets:
        rule = Parameter("label_rule", keyword, default="any", annotation="LabelRule")
        parameters.append(rule)
    return inspect.Signature(parameters, return_annotation="Tensor")


def function_of(loss: type[BaseLoss]) -> Callable[..., Tensor]:
    """The loss of embeddings and labels as a function."""
    signature, weights_name = signature_of(loss), loss.weights_name

    def function(embeddings: Tensor, labels: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        bound = _bound(function, signature, (embeddings, labels, *args), kwargs)
        del bound["embeddings"], bound["labels"]
        weights = None if weights_name is None else bound.pop(weights_name)
        call = {
            key: bound.pop(key)
            for key in ("ref_emb", "ref_labels", "reduction", "self_offset")
            if key in bound
        }
        return loss.of_weights(weights, **bound).evaluate(embeddings, labels, **call)

    return _named(function, loss, signature)


def multi_input_signature_of(loss: type[MultiInputLoss]) -> inspect.Signature:
    """The function's signature: that of the call, and the constructor's keywords."""
    call = list(inspect.signature(loss.forward).parameters.values())[1:]
    own = list(inspect.signature(loss.__init__).parameters.values())[1:]
    own = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own]
    return inspect.Signature([*call, *own], return_annotation="Tensor")


def multi_input_function_of(loss: type[MultiInputLoss]) -> Callable[..., Any]:
    """A loss with a call of its own as a function."""
    signature = multi_input_signature_of(loss)
    own = set(inspect.signature(loss.__init__).parameters)

    def function(*args: Any, **kwargs: Any) -> Any:
        bound = _bound(function, signature, args, kwargs)
        module = loss(**{key: bound.pop(key) for key in list(bound) if key in own})
        return module(**bound)

    return _named(function, loss, signature)


def _bound(
    function: Callable[..., Any],
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> dict[str, Any]:
    """The arguments by name.  Raises TypeError, as Python would, and says what was meant."""
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        for name in kwargs:
            if name not in signature.parameters:
                raise unexpected_keyword(function, name, list(signature.parameters)) from None
        raise TypeError(f"{function.__name__}() {error}") from None


def _named(
    function: Callable[..., Any], loss: type[nn.Module], signature: inspect.Signature
) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = name_of(loss)
    function.__module__ = __name__
    function.__doc__ = inspect.getdoc(loss)
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    **{name: function_of(loss) for name, loss in LOSSES.items()},
    **{
        name: multi_input_function_of(loss)
        for name, loss in {**TWO_TOWER_LOSSES, **DISTILLATION_LOSSES}.items()
    },
}
globals().update({function.__name__: function for function in FUNCTIONS.values()})


def mining_thresholds(
    embeddings: Tensor,
    labels: Tensor,
    epsilon: Hyperparameter,
    *,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    self_offset: int | None = None,
    distance: nn.Module | None = None,
    backend: Backend = "auto",
    label_rule: LabelRule = "any",
) -> Tensor:
    """The Multi-Similarity mining rule as thresholds for :func:`fusedml.pair_statistics`, [2, n].

    A positive is mined if s < max_N s + epsilon (row 0), a negative if s > min_P s - epsilon
    (row 1); with a distance, of -d.  Not differentiable.

    Args:
        embeddings: [n, d], floating point.
        labels: [n], or [n, C], which classes each row has.
        epsilon: the margin of the mining.
        ref_emb: [m, d], what the embeddings are compared with instead of with themselves.
        ref_labels: [m] or [m, C].
        self_offset: None, or where in ``ref_emb`` the embeddings are, see
            :class:`fusedml.losses.BaseLoss`.
        distance: default CosineSimilarity.
        backend: "auto", "cuda" or "torch".
        label_rule: of labels [n, C], see :class:`fusedml.losses.BaseLoss`.

    Raises:
        ValueError: for a distance that is not fused.

    Source: Wang et al., CVPR 2019, eq. (11) and (12).
    """
    measure = fused_measure(CosineSimilarity() if distance is None else distance)
    if measure is None:
        raise ValueError(
            "distance must be a cosine, dot-product or Euclidean distance, got "
            f"{type(distance).__name__}"
        )
    rule = check_label_rule(label_rule)
    batch = make_batch(embeddings, labels, ref_emb, ref_labels, True, rule, self_offset)
    require_backend(check_backend(backend, needs_operators=True), embeddings, "pair_extrema")
    pairs = FusedPairs(batch.problem(), measure, backend)
    return pairs.mining_thresholds(as_hyperparameter("epsilon", epsilon, any_number))


if not TYPE_CHECKING:  # which would take any name, else

    def __getattr__(name: str) -> Any:
        ours = [
            of for of, value in globals().items() if getattr(value, "__module__", "") == __name__
        ]
        raise missing_name(__name__, name, [of for of in ours if not of.startswith("_")])
