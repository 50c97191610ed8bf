"""What ``import fusedml`` loads beside ``import torch``: its own modules, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# checkpointing, which blocks of pairs take, loads the whole compiler in PyTorch 2.6
MODULES_ADDED = """
import sys, torch, torch.utils.checkpoint
before = set(sys.modules)
import {imported}
print(*(set(sys.modules) - before))
"""


@pytest.mark.parametrize("imported", ["fusedml", "fusedml.__main__"])
def test_only_our_own_modules_are_loaded(imported: str) -> None:
    """A compiler, a checkpoint or a plot that is imported for a few batches costs seconds."""
    output = subprocess.run(
        [sys.executable, "-c", MODULES_ADDED.format(imported=imported)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    ).stdout.split()
    others = [name for name in output if name.split(".")[0] != "fusedml"]
    # the command line reads arguments and the package's version
    allowed = {"argparse", "gettext", "importlib"} if imported == "fusedml.__main__" else set()
    # where FLOP formulas are registered: two files, a thousandth of a second
    others = set(others) - {"torch.utils.flop_counter", "torch.utils.module_tracker"}
    assert {name for name in others if name.split(".")[0] not in allowed} == set()
    # one for each loss and each miner, and the machinery
    own = "fusedml.losses.", "fusedml.miners."
    machinery = [name for name in output if not name.startswith(own)]
    assert 20 < len(machinery) < 170
