"""InfoNCE on pairs of queries and documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from fusedml.engine.arguments import check_flag
from fusedml.hyperparameters import Checks, temperature
from fusedml.losses.base import Backend, Promises
from fusedml.losses.two_towers import TwoTowerLoss, mean_of


class InfoNCELoss(TwoTowerLoss):
    """L_i = -log(e^{s_ii / T} / sum_j e^{s_ij / T}), T the temperature, s the cosine similarity.

    Query i belongs to document i; every other document is a negative.  There may be more documents
    than queries: those beyond are hard negatives of all.  The mean over the queries.  The same as
    ``F.cross_entropy(q @ d.T / T, arange(n))`` of normalised q and d, and as
    sentence-transformers' MultipleNegativesRankingLoss with scale 1 / T.

    Args:
        temperature: > 0.
        symmetric: the mean of this and of the same with queries and documents exchanged, among the
            documents that belong to a query; both directions come from one sweep.
        backend: "auto", "cuda", "torch" or "dense".

    Source: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018,
    eq. (4); Henderson et al., "Efficient Natural Language Response Suggestion for Smart Reply",
    2017, section 4.4 (in-batch negatives).
    """

    hyperparameters: ClassVar[Checks] = {"temperature": temperature}
    input_names = ("queries", "documents")
    is_cross_entropy = True
    normalizes = True
    promises = Promises(not_slower_in_retrieval_from=128, not_slower_from=1024)

    def __init__(
        self,
        temperature: float | Tensor = 0.05,
        symmetric: bool = False,
        *,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(backend=backend)
        self.temperature = temperature
        self.symmetric = check_flag("symmetric", symmetric)

    @property
    def is_of_queries(self) -> bool:
        """Whether each loss is of one query alone, and none of a document."""
        return not self.symmetric

    def forward(self, queries: Tensor, documents: Tensor) -> Tensor:
        """The loss, 0-d, in the dtype of the queries (under autocast float32).

        Args:
            queries: [n, d], floating point.
            documents: [m, d], m >= n; document i belongs to query i.

        Raises:
            ValueError: for wrong shapes, dtypes or devices.
            TypeError: for arguments that are no floating-point tensors.
        """
        scale = 1 / self.value_of("temperature")
        return mean_of(self.losses(queries, documents, scale, self.symmetric), queries)

    if TYPE_CHECKING:
        __call__ = forward
