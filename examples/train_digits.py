"""Trains an embedding network on handwritten digits, a loss at a time, and retrieves unseen images.

    make demo
    python -m examples.train_digits --output demo_output
    python -m examples.train_digits --losses MultiSimilarityLoss SupConLoss --steps 100

The part to copy is ``train``: a loss of fusedml is called like any loss of PyTorch, with embeddings
and labels.  A step takes the whole training half as one batch; N-pair, which uses two images of
each class, takes just those and makes ten times as many steps.

``--data olivetti`` trains on the faces of 20 people and retrieves among those of 20 others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from examples.image_data import DATA_SETS, Split
from examples.retrieval import Retrieval, evaluate
from fusedml.losses import LOSSES

SHOWN_LOSSES = (
    "MultiSimilarityLoss",
    "GeneralizedLiftedStructureLoss",
    "ProxyAnchorLoss",
    "NPairsLoss",
    "SupConLoss",
    "NCALoss",
    "TripletMarginLoss",
    "ArcFaceLoss",
    "SoftTripleLoss",
)
DIMENSION = 64
N_PAIR_STEPS = 10  # times the steps of the losses that see the whole batch


class EmbeddingNetwork(nn.Sequential):
    """Two convolutions and a linear layer: images [n, 1, h, w], h, w >= 8, to [n, dimension]."""

    def __init__(self, dimension: int = DIMENSION) -> None:
        super().__init__(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, dimension),
        )


def make_loss(name: str, num_classes: int) -> nn.Module:
    """A loss with its default arguments."""
    return LOSSES[name].of_sizes(num_classes, DIMENSION)


def takes_two_of_each_class(name: str) -> bool:
    """Whether the loss looks at two samples of each class only, as N-pair does."""
    return LOSSES[name].members_per_class == 2


def two_of_each_class(labels: Tensor) -> Tensor:
    """Positions of two random images of every class that has two, [2 * number of classes]."""
    order = torch.randperm(len(labels))
    members = (order[labels[order] == label][:2] for label in labels.unique())
    return torch.cat([pair for pair in members if len(pair) == 2])


def batches(name: str, labels: Tensor, steps: int) -> Iterator[Tensor]:
    """The positions of each step's images."""
    if takes_two_of_each_class(name):
        for _ in range(N_PAIR_STEPS * steps):
            yield two_of_each_class(labels)
    else:
        for _ in range(steps):
            yield torch.arange(len(labels))


def train(
    network: nn.Module, loss_function: nn.Module, name: str, data: Split, steps: int, rate: float
) -> None:
    """Trains network and loss (some losses have parameters of their own) in place."""
    optimizer = torch.optim.Adam(
        [
            {"params": network.parameters(), "lr": rate},
            # proxies learn faster than the network, as their authors have it
            {"params": loss_function.parameters(), "lr": 100 * rate},
        ]
    )
    total = steps * (N_PAIR_STEPS if takes_two_of_each_class(name) else 1)
    bar = tqdm(batches(name, data.train_labels, steps), desc=name, total=total, unit="step")
    for batch in bar:
        embeddings = network(data.train_images[batch])
        loss = loss_function(embeddings, data.train_labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)


@torch.no_grad()
def embed(network: nn.Module, images: Tensor) -> Tensor:
    """Embeddings of many images, some at a time."""
    return torch.cat([network(part) for part in images.split(1024)])


@dataclass(frozen=True)
class Trained:
    """What training with a loss changed, measured on images that were not trained on."""

    loss: str
    before: Retrieval
    after: Retrieval
    embeddings_before: Tensor
    embeddings_after: Tensor


def train_with(name: str, data: Split, steps: int, rate: float, seed: int) -> Trained:
    """Trains a fresh network, the same one for every loss, and evaluates it before and after."""
    torch.manual_seed(seed)
    network = EmbeddingNetwork()
    loss_function = make_loss(name, int(data.train_labels.max()) + 1)
    before = embed(network, data.test_images)
    train(network, loss_function, name, data, steps, rate)
    after = embed(network, data.test_images)
    labels = data.test_labels
    return Trained(name, evaluate(before, labels), evaluate(after, labels), before, after)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=SHOWN_LOSSES, metavar="LOSS")
    parser.add_argument("--data", choices=DATA_SETS, default="digits")
    parser.add_argument("--steps", type=int, default=60, help="of the whole training half")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="for the pictures")
    parser.add_argument(
        "--sizes",
        nargs="*",
        type=int,
        default=[256, 512, 1024, 2048, 4096],
        help="batch sizes at which time and memory are compared; none: skip the comparison",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    from examples import costs, pictures  # noqa: PLC0415  training needs neither

    options = parse_arguments(arguments)
    torch.use_deterministic_algorithms(True)
    data = DATA_SETS[options.data](options.seed)
    print(
        f"{options.data}: {len(data.train_labels)} images to train on, "
        f"{len(data.test_labels)} others to retrieve among"
    )
    trained = [
        train_with(name, data, options.steps, options.learning_rate, options.seed)
        for name in options.losses
    ]
    options.output.mkdir(parents=True, exist_ok=True)
    pictures.draw_embeddings(trained, data.test_labels, options.output / "embeddings.png")
    compared = costs.compare(options.losses, costs.training_case(data, DIMENSION), options.sizes)
    print(costs.results_table(trained, compared))
    if options.sizes:
        print(costs.sizes_table(compared))
        pictures.draw_costs(compared, options.output / "time_and_memory.png")
    print(f"pictures in {options.output}")


if __name__ == "__main__":
    main()
