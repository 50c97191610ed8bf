"""Peak memory of one step above its inputs, in a process of its own.

On a CPU this is the resident set: the operating system's own peak, reset just before the step, so
that nothing between two samples is missed and what libraries allocate counts too.  On a GPU it is
the peak of PyTorch's allocator.  The step is preceded by one of n = 64, which starts threads and
loads code, and is too small to leave memory behind that the measured step could reuse unseen.  A
compiled provider is compiled for one size, so its warm-up is a whole step, after which the memory
that is free is given back to the operating system.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cases import (
    FORWARD,
    Case,
    LossFunction,
    Problem,
    Provider,
    UnavailableError,
    make_problem,
)
from benchmarks.full_matrix import dense_compiled

_STATUS = Path("/proc/self/status")
_MEMORY = Path("/proc/meminfo")
_CLEAR = Path("/proc/self/clear_refs")
# what compiling may take beside the step
_COMPILER_S = 90


@dataclass(frozen=True)
class Usage:
    """What one step took.

    outcome: "ok", "out of memory", "out of time", "failed: ...", or why it is not offered here.
    peak_extra_mb: MB are 10^6 bytes.
    """

    outcome: str
    peak_extra_mb: float = float("nan")
    seconds: float = float("nan")
    loss: float = float("nan")


def run_step(case: Case, problem: Problem, loss_function: LossFunction) -> Tensor:
    """One step in the case's direction; returns the loss.  The gradients are dropped."""
    if case.direction == FORWARD:
        with torch.no_grad():
            return loss_function()
    loss = loss_function()
    torch.autograd.grad(loss, problem.leaves, allow_unused=True)  # no pair may be listed
    return loss.detach()


def measure_peak(step: Callable[[], object], device: str = "cpu") -> int:
    """Bytes that ``step`` needed at its peak beyond what was in use before it."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    before = _reset_peak_resident_bytes()
    step()
    return max(0, _peak_resident_bytes() - before)


def _reset_peak_resident_bytes() -> int:
    """Bytes resident now, from where the peak counts on."""
    try:
        _CLEAR.write_text("5")
    except OSError:  # not Linux: the peak of the process so far, which is near in a fresh one
        return _peak_resident_bytes()
    return _status_bytes("VmRSS")


def _peak_resident_bytes() -> int:
    if _STATUS.exists():
        return _status_bytes("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(name: str) -> int:
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


def measure(
    provider: Provider, case: Case, threads: int, limit_gb: float, limit_s: float = 600
) -> Usage:
    """Peak memory, time and value of one cold step of ``provider`` in a process of its own.

    limit_gb: memory that the process may allocate; beyond it the outcome is "out of memory".
    limit_s: seconds after which it is ended, "out of time"; a compiler has its own beside them.
    """
    if provider is dense_compiled:
        limit_s += _COMPILER_S
    context = fresh_processes()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_measure_here, args=(sender, provider, case, threads, limit_gb), daemon=True
    )
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit_s):
            return Usage("out of time")
        return receiver.recv()
    except EOFError:  # the operating system ended it
        process.join()
        return Usage("out of memory")
    finally:
        process.kill()
        process.join()
        receiver.close()


def fresh_processes() -> SpawnContext | ForkServerContext:
    """Fresh processes that need not import torch again, where the platform has them."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _measure_here(
    sender: Connection, provider: Provider, case: Case, threads: int, limit_gb: float
) -> None:
    try:
        sender.send(_usage(provider, case, threads, limit_gb))
    except Exception as error:
        sender.send(Usage(outcome_of(error)))


def outcome_of(error: Exception) -> str:
    """What a row says of a provider that raised ``error``."""
    if isinstance(error, UnavailableError):
        return str(error)
    # the CPU allocator's failure is a RuntimeError like any other
    is_memory = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    if is_memory or isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return "out of memory"
    return f"failed: {type(error).__name__}: {error}".splitlines()[0][:200]


def _usage(provider: Provider, case: Case, threads: int, limit_gb: float) -> Usage:
    torch.set_num_threads(threads)
    small = replace(
        case,
        n=min(case.n, 64),
        num_classes=min(case.num_classes, 64),
        num_references=min(case.num_references, 64),
    )
    warm_up = make_problem(small)
    if provider is not dense_compiled:
        run_step(small, warm_up, provider(small, warm_up))
    problem = make_problem(case)
    loss_function = provider(case, problem)
    if torch.device(case.device).type == "cpu":  # a GPU's memory has a limit of its own
        _limit_memory(limit_gb)
    if provider is dense_compiled:
        run_step(case, problem, loss_function)
        _give_back_free_memory()
    losses: list[Tensor] = []
    start = time.perf_counter()
    peak = measure_peak(lambda: losses.append(run_step(case, problem, loss_function)), case.device)
    return Usage("ok", peak / 1e6, time.perf_counter() - start, float(losses[0]))


def _limit_memory(limit_gb: float) -> None:
    if not _STATUS.exists():  # a platform without such a limit
        return
    with suppress(OSError, ValueError):
        # everything private counts, however it was allocated
        data = int(_status_bytes("VmRSS") + limit_gb * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (data, resource.RLIM_INFINITY))


def _give_back_free_memory() -> None:
    """Else the measured step could use unseen what an earlier one has freed."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def available_gb() -> float:
    """Memory of this machine that is free now, GB (10^9 bytes)."""
    if _MEMORY.exists():
        for line in _MEMORY.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 / 1e9
    import psutil  # noqa: PLC0415  not needed on Linux

    return psutil.virtual_memory().available / 1e9
