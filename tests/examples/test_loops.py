"""The examples of training loops that need nothing but PyTorch learn what they show."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from examples import (
    data_parallel,
    export_step,
    fsdp_sharded_proxies,
    grad_cache,
    memory_bank,
    plain_loop,
    several_labels,
    two_towers,
)
from fusedml.losses import MultiSimilarityLoss
from tests.distributed import ranks


def test_plain_loop() -> None:
    before, after = plain_loop.train(steps=20)
    assert after > before + 0.2


def test_memory_bank() -> None:
    before, after = memory_bank.train(epochs=2)
    assert after > before + 0.2


def test_several_labels() -> None:
    before, after = several_labels.train(steps=40)
    assert after > before + 0.1


def test_two_towers() -> None:
    before, after = two_towers.train(steps=15, batch=128)
    assert before < 0.02 and after > 0.5


def test_grad_cache_is_the_gradient_of_the_whole_batch() -> None:
    samples, labels = plain_loop.made_data()
    network, loss_function = plain_loop.made_network(), MultiSimilarityLoss()
    # ragged: 512 = 7 * 73 + 1
    loss = grad_cache.cached_step(network, loss_function, samples, labels, rows=73)
    cached = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    expected = loss_function(network(samples), labels)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for parameter, grad in zip(network.parameters(), cached, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


def test_grad_cache_draws_the_same_dropout_twice() -> None:
    drawn = []

    class Spy(nn.Dropout):
        def forward(self, x):
            drawn.append(super().forward(torch.ones_like(x)))
            return x * drawn[-1]

    network = nn.Sequential(Spy(0.5), plain_loop.made_network())
    samples, labels = plain_loop.made_data(samples_per_class=8)
    grad_cache.cached_step(network, MultiSimilarityLoss(), samples, labels, rows=64)
    first, second, first_again, second_again = drawn
    assert torch.equal(first, first_again) and torch.equal(second, second_again)
    assert not torch.equal(first, second)


def test_grad_cache_learns() -> None:
    losses = grad_cache.train(steps=4)
    assert losses[-1] < losses[0]


def test_exported_program_takes_other_sizes() -> None:
    torch.testing.assert_close(*export_step.losses_of_both(samples_per_class=9))


needs_ranks = pytest.mark.skipif(not dist.is_available(), reason="no torch.distributed here")


@needs_ranks
def test_ranks_train_as_one_process_does(monkeypatch) -> None:
    monkeypatch.setattr(data_parallel, "spawn", ranks.start)
    expected = data_parallel.train_one_process(steps=3).state_dict()
    initial = data_parallel.train_one_process(steps=0).state_dict()
    trained = data_parallel.train(ranks=2, steps=3)
    assert len(trained) == 2
    for parameters in trained:
        for name, value in expected.items():
            torch.testing.assert_close(parameters[name], value, rtol=1e-4, atol=1e-6)
            assert not torch.equal(value, initial[name])


@needs_ranks
@pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="this torch has no FSDP2 on a CPU"
)
def test_sharded_ranks_train_as_one_process_does(monkeypatch) -> None:
    monkeypatch.setattr(fsdp_sharded_proxies, "spawn", ranks.start)
    expected = fsdp_sharded_proxies.train_one_process(steps=3)
    initial = fsdp_sharded_proxies.train_one_process(steps=0)
    trained = fsdp_sharded_proxies.train(ranks=2, steps=3)
    assert [len(parameters["proxies"]) for parameters in trained] == [8, 9]
    proxies = torch.cat([parameters.pop("proxies") for parameters in trained])
    for parameters in trained:
        for name, value in (parameters | {"proxies": proxies}).items():
            # Adam divides by the gradients: what is rounding there moves by the learning rate
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)
            assert not torch.equal(value, initial[name])
