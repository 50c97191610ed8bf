from __future__ import annotations

import pytest
import torch

from benchmarks.cases import Case
from examples import costs, image_data, train_digits
from examples.train_digits import EmbeddingNetwork, train_with, two_of_each_class
from fusedml.losses import LOSSES
from tests.losses.made import ignores_length


@pytest.fixture(scope="module")
def data():
    """Every fifth digit: quick, and enough to learn from."""
    whole = image_data.digits(seed=0)
    return image_data.Split(*(part[::5] for part in whole))


# a loss that sees the lengths may fall by these alone
OF_PAIRS = [
    name
    for name, loss in LOSSES.items()
    if loss.takes_references and loss.stands_alone and ignores_length(name)
]


@pytest.mark.parametrize("loss", OF_PAIRS)
def test_training_with_each_loss_of_pairs_improves_retrieval(data, loss):
    result = train_with(loss, data, steps=12, rate=2e-3, seed=0)
    assert result.after.map_at_r > result.before.map_at_r + 0.1


@pytest.mark.parametrize("loss", [name for name in LOSSES if name not in OF_PAIRS])
def test_training_lowers_each_other_loss(data, loss):
    torch.manual_seed(0)
    network = EmbeddingNetwork()
    loss_function = train_digits.make_loss(loss, 10)
    batch = next(train_digits.batches(loss, data.train_labels, 1))

    @torch.no_grad()
    def value():
        return loss_function(network(data.train_images[batch]), data.train_labels[batch])

    before = value()
    train_digits.train(network, loss_function, loss, data, steps=12, rate=1e-3)
    assert value() < before


def test_training_is_deterministic(data):
    first, second = (
        train_with("MultiSimilarityLoss", data, steps=3, rate=1e-3, seed=5) for _ in range(2)
    )
    assert torch.equal(first.embeddings_after, second.embeddings_after)
    assert first.after == second.after


def test_every_loss_starts_from_the_same_network(data):
    before = [
        train_with(loss, data, steps=1, rate=1e-3, seed=0).embeddings_before
        for loss in ("MultiSimilarityLoss", "ProxyAnchorLoss")
    ]
    assert torch.equal(*before)


def test_two_of_each_class():
    labels = torch.tensor([3, 1, 3, 3, 1, 2])  # class 2 has one image only
    batch = two_of_each_class(labels)
    assert sorted(labels[batch].tolist()) == [1, 1, 3, 3]
    assert batch.unique().numel() == 4


@pytest.mark.parametrize("size", [8, 32])
def test_network_takes_both_image_sizes(size):
    assert EmbeddingNetwork(16)(torch.rand(2, 1, size, size)).shape == (2, 16)


def test_the_demo_prints_its_table_and_draws_its_pictures(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(image_data.DATA_SETS, "digits", lambda seed: data)
    losses = ["MultiSimilarityLoss", "NPairsLoss", "ProxyAnchorLoss"]
    train_digits.main(
        ["--losses", *losses, "--steps", "1", "--sizes", "64", "128", "--output", str(tmp_path)]
    )
    torch.use_deterministic_algorithms(False)
    printed = capsys.readouterr()
    assert "Recall@1" in printed.out and "MAP@R" in printed.out and "fusedml MB" in printed.out
    assert all(printed.out.count(loss) == 2 for loss in losses)  # at training, at n = 128
    assert "The same step on 128 embeddings" in printed.out
    assert "MultiSimilarityLoss: 100%" in printed.err  # the progress bar
    for name in ("embeddings.png", "time_and_memory.png"):
        assert (tmp_path / name).stat().st_size > 5000


def test_olivetti_end_to_end_on_made_faces(tmp_path, monkeypatch, capsys):
    labels = torch.arange(6).repeat_interleave(6)
    faces = 0.7 * torch.rand(6, 1, 32, 32)[labels] + 0.3 * torch.rand(36, 1, 32, 32)
    split = image_data.hold_out_classes(faces, labels, seed=0)
    monkeypatch.setitem(image_data.DATA_SETS, "olivetti", lambda seed: split)
    losses = ["ProxyAnchorLoss", "NPairsLoss"]
    train_digits.main(
        [
            "--data",
            "olivetti",
            "--losses",
            *losses,
            "--steps",
            "2",
            "--sizes",
            "--output",
            str(tmp_path),
        ]
    )
    torch.use_deterministic_algorithms(False)
    assert "olivetti: 18 images to train on, 18 others" in capsys.readouterr().out
    assert (tmp_path / "embeddings.png").exists()
    assert not (tmp_path / "time_and_memory.png").exists()


def test_costs_are_measured_at_the_batch_that_is_trained(data):
    batch = costs.training_case(data, dimension=64)
    assert (batch.n, batch.num_classes) == (len(data.train_labels), 10)
    assert costs.case_of("NPairsLoss", batch).n == 20
    assert costs.case_of("ProxyAnchorLoss", batch).matrix_shape == (10, batch.n)
    scaled = costs.case_of("ProxyAnchorLoss", batch, 256)
    assert isinstance(scaled, Case) and scaled.matrix_shape == (64, 256)
