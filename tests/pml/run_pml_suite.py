"""Runs pytorch-metric-learning's own tests with fusedml's classes in the place of theirs.

    python tests/pml/run_pml_suite.py PATH_OF_CHECKOUT [PATTERN ...] [--dtype float64]

PATH_OF_CHECKOUT is a working tree of its repository; its ``tests`` are used as they are, with the
installed package, or with ``--source`` the one in the checkout's ``src``.  PATTERN selects test
files below ``tests``; the default is every file that names one of our classes.  ``--dtype`` is the
dtype of embeddings, and of the parameters: theirs are recast by a call, ours are not, and the tests
go on to multiply the two.  There is no float16: they ask for the last bit of sums in float16, which
theirs computes in another way.  TEST_DEVICE is cpu unless it is set.
Prints a summary and exits with 1 if a test fails that is not in EXPECTED.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import unittest
from pathlib import Path
from types import ModuleType

import torch

DEFAULT_PATTERNS = (
    "losses/test_*.py",
    "miners/test_*.py",
    "reducers/test_*.py",
    "distances/test_*.py",
)
EXTRA_PATTERNS = (
    "regularizers/test_*.py",
    "utils/test_module_with_records_and_reducer.py",
    "utils/test_loss_and_miner_utils.py",
)
# What fails with ours: (test, dtype or None for all) and why.
_ROUNDING = "asks for logits about 0 to 1e-8, of sums about 64: the bits of one order of summation"
EXPECTED = {
    ("TestCrossBatchMemory.test_loss", None): "fails with theirs as well: a pair is of both kinds",
    ("TestArcFaceLoss.test_arcface_loss", "float32"): _ROUNDING,
    ("TestSubCenterArcFaceLoss.test_subcenter_arcface_loss", "float32"): _ROUNDING,
    ("TestTripletMarginMiner.test_triplet_margin_miner", "float32"): (
        "16 points of a circle are equally far apart: theirs subtracts up to 25 rows, and then not"
    ),
    ("TestProxyAnchorLoss.test_proxyanchor_loss", "float64"): (
        "its embeddings are float32 whatever the dtype, and its proxies are to be recast in place"
    ),
}


def shared_classes(theirs: ModuleType, ours: ModuleType) -> list[str]:
    """The names of the classes that both modules have."""
    return sorted(
        name
        for name, value in vars(ours).items()
        if isinstance(value, type)
        and isinstance(vars(theirs).get(name), type)
        # the base classes are what their own other classes derive from
        and not name.startswith("Base")
        # made of a loss, which must be one of its own package
        and name != "CrossBatchMemory"
    )


def substitute(package: str, ours: str) -> list[str]:
    """Replaces classes of pytorch_metric_learning.<package> by those of the same name in ``ours``.

    Returns the names of the replaced classes.
    """
    theirs = importlib.import_module(f"pytorch_metric_learning.{package}")
    replacement = importlib.import_module(ours)
    names = shared_classes(theirs, replacement)
    for name in names:
        setattr(theirs, name, getattr(replacement, name))
    return names


def load(checkout: Path, patterns: list[str], classes: list[str]) -> unittest.TestSuite:
    """All tests of the files below ``tests`` that match a pattern and name one of the classes."""
    matching = {path for pattern in patterns for path in (checkout / "tests").glob(pattern)}
    files = sorted(
        path
        for path in matching
        if any(re.search(rf"\b{name}\b", path.read_text()) for name in classes)
    )
    names = [".".join(path.relative_to(checkout).with_suffix("").parts) for path in files]
    return unittest.defaultTestLoader.loadTestsFromNames(names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--also", default="", help="miners, reducers, distances, with commas")
    parser.add_argument("--dtype", default="float64", choices=("float32", "float64"))
    parser.add_argument("--source", action="store_true", help="test against the checkout's src")
    parser.add_argument("--theirs", action="store_true", help="substitute nothing: the baseline")
    args = parser.parse_args()
    checkout = args.checkout.resolve()
    if not (checkout / "tests" / "losses").is_dir():
        parser.error(f"checkout must hold tests/losses, got {checkout}")
    ours = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(checkout), str(ours)]
    if args.source:
        sys.path.insert(0, str(checkout / "src"))
    os.environ["TEST_DTYPES"] = args.dtype
    torch.set_default_dtype(getattr(torch, args.dtype))
    theirs = importlib.import_module("pytorch_metric_learning.losses")
    os.chdir(checkout)
    os.environ.setdefault("TEST_DEVICE", "cpu")

    replaced: list[str] = []
    if not args.theirs:
        for package in filter(None, args.also.split(",")):
            replaced += substitute(package, f"fusedml.{package}")
        replaced += substitute("losses", "fusedml.losses")
    sys.modules.pop("tests", None)
    classes = replaced or shared_classes(theirs, importlib.import_module("fusedml.losses"))
    suite = load(checkout, args.patterns or [*DEFAULT_PATTERNS, *EXTRA_PATTERNS], classes)
    result = unittest.TextTestRunner(verbosity=1).run(suite)
    print(f"substituted: {', '.join(replaced) or 'nothing'}")
    print(
        f"{result.testsRun} tests, {len(result.failures)} failures, {len(result.errors)} errors, "
        f"{len(result.skipped)} skipped"
    )
    unexpected = 0
    for test, _ in [*result.failures, *result.errors]:
        why = expected(test.id(), args.dtype)
        unexpected += why is None
        print(f"  {test.id()}{'' if why is None else f': expected, {why}'}")
    return 1 if unexpected else 0


def expected(test: str, dtype: str) -> str | None:
    """Why a test fails, if it is known to."""
    name = ".".join(test.split(".")[-2:])
    return EXPECTED.get((name, dtype), EXPECTED.get((name, None)))


if __name__ == "__main__":
    sys.exit(main())
