"""Providers that the harness must see through; in a module, so that other processes find them."""

from __future__ import annotations

import time

import torch

from benchmarks.providers import fused


def wrong_value(case, problem):
    loss = fused(case, problem)
    return lambda: loss() * 1.001


def wrong_gradient(case, problem):
    loss = fused(case, problem)

    def compute():
        value = loss()
        return value.detach() + 1.01 * (value - value.detach())  # right value, gradient 1 % off

    return compute


def wrong_at_one_proxy(case, problem):
    loss = fused(case, problem)
    return lambda: loss() + 1e-3 * problem.leaves[-1][0, 0]


def not_a_number(case, problem):
    loss = fused(case, problem)
    return lambda: loss() * float("nan")


def slow(case, problem):
    loss = fused(case, problem)

    def compute():
        time.sleep(0.02)
        return loss()

    return compute


HOG_BYTES = 200_000_000


def memory_hog(case, problem):
    loss = fused(case, problem)

    def compute():
        if case.n > 64:  # not in the warm-up, as a real one would not
            torch.zeros(HOG_BYTES, dtype=torch.uint8).add_(1)
        return loss()

    return compute


def too_large(case, problem):
    loss = fused(case, problem)
    return lambda: loss() + torch.zeros(10**10 if case.n > 64 else 1).sum()


def broken(case, problem):
    raise KeyError("no such loss")


def never_ready(case, problem):
    time.sleep(600)
