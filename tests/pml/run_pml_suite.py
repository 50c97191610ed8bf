"""Runs pytorch-metric-learning's own tests with fusedml's classes in the place of theirs.

    python tests/pml/run_pml_suite.py PATH_OF_CHECKOUT [PATTERN ...] [--also reducers,distances]

PATH_OF_CHECKOUT is a working tree of its repository; its ``tests`` are used as they are, with the
installed package, or with ``--source`` the one in the checkout's ``src``.  PATTERN selects test
files below ``tests``; the default is every file that can involve one of our classes.  The tests
read TEST_DTYPES (default float16,float32,float64) and TEST_DEVICE (here: default cpu).
Prints a summary and exits with 1 if a test fails.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import unittest
from pathlib import Path

DEFAULT_PATTERNS = ("losses/test_*.py", "reducers/test_*.py", "distances/test_*.py")
EXTRA_PATTERNS = (
    "regularizers/test_*.py",
    "utils/test_module_with_records_and_reducer.py",
    "utils/test_loss_and_miner_utils.py",
    "miners/test_multi_similarity_miner.py",
)


def substitute(package: str, ours: str) -> list[str]:
    """Replaces classes of pytorch_metric_learning.<package> by those of the same name in ``ours``.

    Returns the names of the replaced classes.
    """
    theirs = importlib.import_module(f"pytorch_metric_learning.{package}")
    replacement = importlib.import_module(ours)
    names = [
        name
        for name, value in vars(replacement).items()
        if isinstance(value, type)
        and isinstance(vars(theirs).get(name), type)
        # the base classes are what their own other classes derive from
        and not name.startswith("Base")
    ]
    for name in names:
        setattr(theirs, name, getattr(replacement, name))
    return sorted(names)


def load(checkout: Path, patterns: list[str]) -> unittest.TestSuite:
    """All tests of the files below ``tests`` that match a pattern."""
    files = sorted({path for pattern in patterns for path in (checkout / "tests").glob(pattern)})
    names = [".".join(path.relative_to(checkout).with_suffix("").parts) for path in files]
    return unittest.defaultTestLoader.loadTestsFromNames(names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--also", default="", help="reducers, distances, or both with a comma")
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
    importlib.import_module("pytorch_metric_learning")
    os.chdir(checkout)
    os.environ.setdefault("TEST_DEVICE", "cpu")

    replaced: list[str] = []
    if not args.theirs:
        for package in filter(None, args.also.split(",")):
            replaced += substitute(package, f"fusedml.{package}")
        replaced += substitute("losses", "fusedml.losses")
    sys.modules.pop("tests", None)
    suite = load(checkout, args.patterns or [*DEFAULT_PATTERNS, *EXTRA_PATTERNS])
    result = unittest.TextTestRunner(verbosity=1).run(suite)
    print(f"substituted: {', '.join(replaced) or 'nothing'}")
    print(
        f"{result.testsRun} tests, {len(result.failures)} failures, {len(result.errors)} errors, "
        f"{len(result.skipped)} skipped"
    )
    for test, _ in [*result.failures, *result.errors]:
        print(f"  {test.id()}")
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
