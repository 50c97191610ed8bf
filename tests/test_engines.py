"""The choice between two sets of CUDA kernels, where there are none."""

from __future__ import annotations

import pytest
import torch

from fusedml import __main__ as command
from fusedml import native
from fusedml.engine import engines
from tests.problems import make_problem


def test_the_environment_names_the_engine(monkeypatch):
    monkeypatch.delenv(engines.VARIABLE, raising=False)
    assert engines.wanted_engine() == "auto"
    for name in engines.ENGINES:
        monkeypatch.setenv(engines.VARIABLE, name)
        assert engines.wanted_engine() == name
    monkeypatch.setenv(engines.VARIABLE, "wgmma")
    with pytest.raises(ValueError, match="FUSEDML_ENGINE must be one of 'auto', 'mma_sync', 'hop"):
        engines.wanted_engine()


def test_without_kernels_nothing_is_chosen(monkeypatch):
    monkeypatch.setenv(engines.VARIABLE, "hopper")
    problem = make_problem(8, None, 3)
    assert engines.on_engine("row_losses", "auto", problem) == "row_losses"
    assert engines.on_engine("pair_sums", "auto", problem) == "pair_sums"


@pytest.mark.parametrize(
    "wanted, has_gpu, refusal, wrong, line",
    [
        ("mma_sync", True, None, None, "mma_sync, as FUSEDML_ENGINE says"),
        ("auto", False, None, None, "mma_sync, as torch sees no GPU"),
        ("auto", True, "the GPU is old", None, "mma_sync, as the GPU is old"),
        ("hopper", True, None, "the check failed", "mma_sync, as the check failed"),
        ("auto", True, None, None, "hopper for large problems of 16-bit dot products"),
        ("hopper", True, None, None, "hopper for all problems, as FUSEDML_ENGINE says"),
    ],
)
def test_the_report_names_engine_and_reason(wanted, has_gpu, refusal, wrong, line, monkeypatch):
    monkeypatch.setenv(engines.VARIABLE, wanted)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(native, "hopper_refusal", lambda device: refusal)
    monkeypatch.setattr(command, "self_check", lambda: wrong)
    assert command.active_engine().startswith(f"engine: {line}")
