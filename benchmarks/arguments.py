"""The arguments of ``python -m fusedml bench``: what they are, and what is said of a bad one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from benchmarks import memory, runner
from benchmarks.cases import DIRECTIONS, MEASURED, VARIANTS, Case
from benchmarks.miners import MINERS
from benchmarks.providers import PROVIDERS
from benchmarks.suites import SUITES, Suite, refined


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the whole usage is under --help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"bench: {message}\n")


def make_parser(description: str) -> argparse.ArgumentParser:
    """The parser, whose errors are one line each and end the program with status 2."""
    parser = _Parser(
        prog="python -m fusedml bench",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    suites = "\n".join(
        f"  {name:9} about {suite.minutes:g} min: {suite.question}"
        for name, suite in SUITES.items()
    )
    parser.epilog = f"suites, with minutes on two cores:\n{suites}"
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--suite", default="quick", help="one of those below; default: quick")
    mode.add_argument(
        "--report",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="draw these files; without any, all committed ones, and docs/measurements.md",
    )
    mode.add_argument(
        "--compare",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="old and new results; new: the latest",
    )
    mode.add_argument(
        "--targets",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="what fusedml promises, and whether these files show it; default: the committed ones",
    )
    what = parser.add_argument_group("what is measured, in place of the suite's own")
    what.add_argument("--losses", nargs="+", metavar="LOSS", help=", ".join([*MEASURED, *VARIANTS]))
    what.add_argument("--miners", nargs="+", metavar="MINER", help=", ".join(MINERS))
    what.add_argument(
        "--listing",
        nargs="+",
        metavar="LIST",
        help="of index tuples: a number of pairs, a share like 1/4 of all, or a miner",
    )
    what.add_argument(
        "--providers", nargs="+", metavar="PROVIDER", help=", ".join(map(repr, PROVIDERS))
    )
    what.add_argument("--n", nargs="+", metavar="N", help="batch sizes")
    what.add_argument(
        "--m", "--references", nargs="+", metavar="M", help="embeddings to compare with, or 0"
    )
    what.add_argument("--d", nargs="+", metavar="D", help="dimensions")
    what.add_argument(
        "--classes",
        nargs="+",
        metavar="C",
        help="classes, for the losses that learn a vector for each",
    )
    what.add_argument("--samples-per-class", nargs="+", metavar="K")
    what.add_argument("--dtype", nargs="+", metavar="DTYPE")
    what.add_argument("--direction", nargs="+", metavar="DIRECTION", help=" or ".join(DIRECTIONS))
    what.add_argument("--device", default="cpu")
    how = parser.add_argument_group("how")
    how.add_argument("--threads", default=str(torch.get_num_threads()))
    how.add_argument("--rounds", help="least number of rounds")
    how.add_argument("--seconds", help="of rounds for each case")
    how.add_argument("--memory-limit-gb", default=f"{0.6 * memory.available_gb():.2f}")
    how.add_argument("--time-limit-s", default="60", help="of a provider's first step")
    how.add_argument("--output", type=Path, help="results file; default: benchmarks/results/latest")
    how.add_argument("--time-tolerance", default="0.25", help="of --compare, relative")
    how.add_argument("--memory-tolerance", default="0.1", help="of --compare, relative")
    return parser


def _one_of(name: str, values: Sequence[str] | None, allowed: Sequence[str]) -> Sequence[str]:
    for value in values or ():
        if value not in allowed:
            # quoted, as names of providers have commas and spaces
            names = ", ".join(map(repr, allowed))
            raise ValueError(f"{name} must be one of {names}, got {value!r}")
    return tuple(values or ())


def number(name: str, value: str, least: float, kind: type = int) -> Any:
    """The value of argument ``name``.  Raises ValueError unless it is a ``kind`` >= least."""
    wanted = "a whole number" if kind is int else "a number"
    try:
        parsed = kind(value)
    except ValueError:
        raise ValueError(f"{name} must be {wanted}, got {value!r}") from None
    if not parsed >= least:
        raise ValueError(f"{name} must be {wanted} of at least {least:g}, got {value}")
    return parsed


def make_plan(options: argparse.Namespace) -> tuple[Suite, dict[Case, list[str]]]:
    """The suite with what was given in place of its own, and its cases.

    Raises ValueError for an argument that is not possible, naming it.
    """
    _one_of("--suite", [options.suite], list(SUITES))
    given: dict[str, Sequence[object]] = {
        "losses": _one_of("--losses", options.losses, [*MEASURED, *VARIANTS]),
        "miners": _one_of("--miners", options.miners, list(MINERS)),
        "providers": _one_of("--providers", options.providers, list(PROVIDERS)),
        "directions": _one_of("--direction", options.direction, DIRECTIONS),
        "dtypes": tuple(options.dtype or ()),
        "listings": tuple(options.listing or ()),
    }
    for field, name, least in (
        ("n", "n", 1),
        ("references", "m", 0),
        ("d", "d", 1),
        ("num_classes", "classes", 1),
        ("samples_per_class", "samples_per_class", 1),
    ):
        flag = f"--{name.replace('_', '-')}"
        values = getattr(options, name) or ()
        given[field] = tuple(number(flag, value, least) for value in values)
    suite = refined(SUITES[options.suite], {name: each for name, each in given.items() if each})
    _check_device(options.device)
    return suite, suite.plan(options.device)


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ValueError(f"--device must be cpu or cuda, got {device!r}") from None
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda, got {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"--device must be one that torch sees, got {device!r}, but no GPU is here"
        )


def make_limits(options: argparse.Namespace, suite: Suite) -> runner.Limits:
    """The suite's limits, or those given.  Raises ValueError for one that is not possible."""
    given_seconds, given_rounds = options.seconds, options.rounds
    return runner.Limits(
        number("--threads", options.threads, 1),
        suite.seconds if given_seconds is None else number("--seconds", given_seconds, 0, float),
        suite.rounds if given_rounds is None else number("--rounds", given_rounds, 1),
        number("--memory-limit-gb", options.memory_limit_gb, 0.01, float),
        number("--time-limit-s", options.time_limit_s, 0.1, float),
    )
