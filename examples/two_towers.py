"""Two towers as in CLIP: an image network and a text network, and a temperature that is learnt.

Made data: each pair of "image" and "text" shows one hidden vector through two fixed random maps.

    python examples/two_towers.py
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fusedml.losses import ClipLoss

HIDDEN, PIXELS, TOKENS = 8, 32, 24


class TwoTowers(nn.Module):
    """Normalised features of both sides, and the logit scale, as open_clip's models return them."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(PIXELS, 64), nn.ReLU(), nn.Linear(64, 16))
        self.text = nn.Sequential(nn.Linear(TOKENS, 64), nn.ReLU(), nn.Linear(64, 16))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        image_features = nn.functional.normalize(self.image(images))
        text_features = nn.functional.normalize(self.text(texts))
        return image_features, text_features, self.log_scale.exp()


def made_pairs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images [n, PIXELS] and their texts [n, TOKENS]."""
    maps = torch.Generator().manual_seed(0)
    to_image = torch.randn(HIDDEN, PIXELS, generator=maps)
    to_text = torch.randn(HIDDEN, TOKENS, generator=maps)
    hidden = torch.randn(n, HIDDEN, generator=torch.Generator().manual_seed(seed))
    return hidden @ to_image, hidden @ to_text


@torch.no_grad()
def retrieval(model: TwoTowers, images: Tensor, texts: Tensor) -> float:
    """The share of images whose own text is the most similar of all."""
    image_features, text_features, _ = model(images, texts)
    found = (image_features @ text_features.T).argmax(1)
    return (found == torch.arange(len(images))).float().mean().item()


def train(steps: int = 60, batch: int = 256) -> tuple[float, float]:
    """Retrieval on 500 unseen pairs, before and after."""
    torch.manual_seed(0)
    model, loss_function = TwoTowers(), ClipLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    unseen = made_pairs(500, seed=1)
    before = retrieval(model, *unseen)
    for step in range(steps):
        loss = loss_function(*model(*made_pairs(batch, seed=2 + step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, retrieval(model, *unseen)


if __name__ == "__main__":
    print("own text found: before {:.3f}, after {:.3f}".format(*train()))
