"""What runs pytorch-metric-learning's own tests, and batches like those of its tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses

from fusedml import losses
from tests.losses.made import without_jumps
from tests.pml import run_pml_suite
from tests.pml.parity import ARGUMENTS, Batch, assert_parity

RUNNER = Path(run_pml_suite.__file__)
TESTS = """
import os, unittest, torch
from pytorch_metric_learning.losses import AngularLoss, ArcFaceLoss

class Test(unittest.TestCase):
    def test_ours(self):
        self.assertTrue(AngularLoss.__module__.startswith("fusedml"), AngularLoss)
        self.assertEqual(os.environ["TEST_DTYPES"], "float32")
        self.assertEqual(ArcFaceLoss(3, 2).W.dtype, torch.float32)

    {more}
"""


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, RUNNER, checkout, "--dtype", "float32", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A working tree with a test of our classes, and a file that names none of them."""
    folder = tmp_path / "tests" / "losses"
    folder.mkdir(parents=True)
    for place in (folder, folder.parent):
        (place / "__init__.py").touch()
    (folder / "test_ours.py").write_text(TESTS.format(more=""))
    (folder / "test_theirs.py").write_text("raise RuntimeError('names no class of ours')")
    return tmp_path


def test_our_classes_are_in_their_place(checkout: Path) -> None:
    result = run(checkout)
    assert result.returncode == 0, result.stderr
    assert "1 tests, 0 failures, 0 errors" in result.stdout
    assert "failures, 0 errors" in run(checkout, "--theirs").stdout
    assert run(checkout, "--theirs").returncode == 1


def test_a_failure_is_one_unless_it_is_expected(checkout: Path) -> None:
    path = checkout / "tests" / "losses" / "test_ours.py"
    path.write_text(TESTS.format(more="def test_loss(self): self.fail()"))
    assert run(checkout).returncode == 1
    path.write_text(path.read_text().replace("class Test(", "class TestCrossBatchMemory("))
    result = run(checkout)
    assert result.returncode == 0
    assert "TestCrossBatchMemory.test_loss: expected, fails with theirs" in result.stdout


def test_all_classes_of_both_are_substituted() -> None:
    theirs = {name for name in losses.LOSSES if hasattr(pml_losses, name)}
    assert set(run_pml_suite.shared_classes(pml_losses, losses)) == theirs
    assert len(theirs) >= 20


def on_circle(degrees: torch.Tensor) -> torch.Tensor:
    angles = torch.deg2rad(degrees.double())
    return torch.stack([angles.cos(), angles.sin()], 1)


GENERATOR = torch.Generator().manual_seed(0)
# their tests place embeddings on a circle: by fives with few labels, or in steps of a degree
BATCHES = {
    "five": Batch(on_circle(torch.arange(0, 100, 20)), torch.tensor([0, 0, 1, 1, 2])),
    "two pairs": Batch(on_circle(torch.tensor([0, 10, 60, 100])), torch.tensor([1, 1, 3, 3])),
    "no pair": Batch(on_circle(torch.arange(0, 100, 20)), torch.arange(5)),
    "one class": Batch(on_circle(torch.arange(0, 100, 20)), torch.zeros(5).long()),
    "half a turn": Batch(
        on_circle(torch.arange(0, 180, 3)), torch.randint(10, (60,), generator=GENERATOR)
    ),
}


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("batch", BATCHES)
def test_batches_like_theirs(name: str, batch: str) -> None:
    for changed in ARGUMENTS[name]:
        if losses.LOSSES[name].value_jumps and not changed:
            continue  # the chord of 60 degrees is at the margin: rounding decides
        arguments = {**changed, **without_jumps(name)}
        ours = losses.LOSSES[name].of_sizes(10, 2, **arguments)
        needed = ours.needed_arguments(10, 2)
        theirs = getattr(pml_losses, name)(**{**needed, **arguments})
        theirs.load_state_dict(ours.state_dict())
        if losses.LOSSES[name].gradient_jumps:  # at edges that rounding decides about
            embeddings, labels, *_ = BATCHES[batch]
            values = (loss.double()(embeddings, labels) for loss in (ours, theirs))
            torch.testing.assert_close(*values)
            continue
        given = BATCHES[batch]
        if theirs.double()(given.embeddings.double(), *given[1:]).isinf():
            continue  # a row without variance
        # angles of nearly 0 magnify the last bit of a cosine
        assert_parity(ours, theirs, BATCHES[batch], (torch.float64,))
        if hasattr(theirs, "get_logits"):
            embeddings = BATCHES[batch].embeddings
            torch.testing.assert_close(
                ours.double().get_logits(embeddings), theirs.double().get_logits(embeddings)
            )
