"""Processes for the ranks of the tests, forked from one that has imported what they need."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import set_forkserver_preload
from typing import Any

from torch import multiprocessing

# the server has no threads: a fork of the test process would copy those of its products
set_forkserver_preload(["tests.distributed.cases"])


def start(function: Callable[..., Any], args: tuple[Any, ...], nprocs: int) -> None:
    """Calls function(rank, *args) in each of so many processes, and waits for them."""
    multiprocessing.start_processes(function, args, nprocs, start_method="forkserver")
