"""sentence-transformers: losses of labels, and of pairs of texts, in its trainer.

``LabelLoss`` takes any loss of embeddings and labels, ``PairLoss`` any of queries and documents;
both are what the trainer expects.  With InfoNCELoss the latter is MultipleNegativesRankingLoss, in
memory that does not grow with the square of the batch; ``CachedPairLoss`` is the same under their
GradCache, which embeds a few texts at a time, twice, so that the batch may be any size.  The model
is a made one of a few words, so that nothing is downloaded.  Needs
``pip install "sentence-transformers[train]"``.

    python examples/sentence_transformers_trainer.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from torch import Tensor, nn

from fusedml.losses import InfoNCELoss, SupConLoss

_TOPICS, _WORDS = 8, 12


class LabelLoss(nn.Module):
    """A loss of embeddings and labels, for a data set with one column of texts and ``label``."""

    def __init__(self, model: SentenceTransformer, loss_function: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.loss_function = loss_function

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        (features,) = sentence_features
        loss: Tensor = self.loss_function(self.model(features)["sentence_embedding"], labels)
        return loss


class PairLoss(nn.Module):
    """A loss of queries and documents: the first column, and all others below each other."""

    def __init__(self, model: SentenceTransformer, loss_function: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.loss_function = loss_function

    def forward(
        self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None
    ) -> Tensor:
        queries, *documents = (self.model(f)["sentence_embedding"] for f in sentence_features)
        loss: Tensor = self.loss_function(queries, torch.cat(documents))
        return loss


class CachedPairLoss(CachedMultipleNegativesRankingLoss):
    """``PairLoss`` by GradCache: theirs embeds in mini-batches, this is the loss in between.

    Theirs cuts the matrix of scores into strips, too; of these losses none makes that matrix.
    """

    def __init__(
        self, model: SentenceTransformer, loss_function: nn.Module, mini_batch_size: int = 32
    ) -> None:
        super().__init__(model, mini_batch_size=mini_batch_size)
        self.loss_function = loss_function

    def calculate_loss(
        self,
        reps: list[list[Tensor]],
        labels: Tensor | None = None,
        *,
        with_backward: bool = False,
    ) -> Tensor:
        queries, *documents = (torch.cat(parts) for parts in reps)
        loss: Tensor = self.loss_function(queries, torch.cat(documents))
        if with_backward:
            loss.backward()
        return loss.detach() if with_backward else loss


def made_model() -> SentenceTransformer:
    """The mean of learnt vectors of words."""
    torch.manual_seed(0)
    words = [f"w{topic}x{word}" for topic in range(_TOPICS) for word in range(_WORDS)]
    tokenizer = WhitespaceTokenizer(words, do_lower_case=False)
    vectors = torch.randn(len(words), 16)
    embeddings = WordEmbeddings(tokenizer, vectors, update_embeddings=True)
    return SentenceTransformer(modules=[embeddings, Pooling(16)], device="cpu")


def made_texts(n: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Four words each, most of one topic, and the numbers of the topics."""
    generator = torch.Generator().manual_seed(seed)
    topics = torch.arange(n) % _TOPICS
    of = topics[:, None].repeat(1, 4)
    of[:, 0] = torch.randint(_TOPICS, (n,), generator=generator)
    words = torch.randint(_WORDS, (n, 4), generator=generator)
    texts = [
        " ".join(f"w{t}x{w}" for t, w in zip(*row, strict=True))
        for row in zip(of.tolist(), words.tolist(), strict=True)
    ]
    return texts, topics.tolist()


def train(
    model: SentenceTransformer, data: Dataset, loss: nn.Module, sampler: BatchSamplers, steps: int
) -> list[float]:
    """Trains for some steps; the losses of the log."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=32,
            learning_rate=0.05,
            batch_sampler=sampler,
            logging_steps=max(1, steps // 4),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
        )
        trainer = SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=loss)
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def train_with_labels(steps: int = 16) -> list[float]:
    """Texts with the number of their topic; each batch has several of a topic."""
    model = made_model()
    texts, topics = made_texts(256)
    data = Dataset.from_dict({"text": texts, "label": topics})
    loss = LabelLoss(model, SupConLoss(temperature=0.1))
    return train(model, data, loss, BatchSamplers.GROUP_BY_LABEL, steps)


def train_with_pairs(steps: int = 16, *, cached: bool = False) -> list[float]:
    """Queries, and the documents that belong to them.  cached: whether by GradCache."""
    model = made_model()
    queries, documents = made_texts(256)[0], made_texts(256, seed=1)[0]
    data = Dataset.from_dict({"query": queries, "document": documents})
    loss = (CachedPairLoss if cached else PairLoss)(model, InfoNCELoss(temperature=1 / 20))
    return train(model, data, loss, BatchSamplers.BATCH_SAMPLER, steps)


if __name__ == "__main__":
    print("labels", train_with_labels())
    print("pairs ", train_with_pairs())
    print("cached", train_with_pairs(cached=True))
