"""The model's figures: those of the design, and those that the page states."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.predicted_times.__main__ import main, mma_sync_table, wgmma_table
from scripts.predicted_times.overlap import tensor_share
from scripts.predicted_times.times import H100, H100_LIMITED, MmaSync, Wgmma

PAGE = Path(__file__).parents[2] / "csrc" / "kernels" / "README.md"


@pytest.mark.parametrize(
    ("d", "without_lag", "with_lag"),
    [(128, 0.43, 0.73), (256, 0.58, 0.84), (512, 0.70, 0.81), (768, 0.75, 0.84)],
)
def test_shares_of_the_tensor_cores_peak(d, without_lag, with_lag) -> None:
    assert tensor_share(d, lag=0) == pytest.approx(without_lag, abs=0.006)
    assert tensor_share(d, lag=2) == pytest.approx(with_lag, abs=0.006)


@pytest.mark.parametrize(
    ("n", "d", "step", "limited_step"),
    [
        (65536, 128, 4.30, 4.87),
        (65536, 256, 7.87, 8.74),
        (65536, 512, 13.44, 15.04),
        (65536, 768, 19.50, 21.90),
        (65536, 1024, 24.76, 27.86),
        (16384, 512, 0.94, 1.05),
    ],
)
def test_steps_of_the_design(n, d, step, limited_step) -> None:
    for gpu, milliseconds in ((H100, step), (H100_LIMITED, limited_step)):
        model = Wgmma(gpu)
        seconds = model.forward(n, d) + model.backward(n, d)
        assert 1e3 * seconds == pytest.approx(milliseconds, abs=0.006)


def test_halved_panels_are_never_slower() -> None:
    for model in (MmaSync(), Wgmma()):
        for d in (256, 512, 768, 1024):
            assert model.panels(65536, d, triangle=True) < model.panels(65536, d, triangle=False)


def test_the_page_states_these_figures(capsys) -> None:
    page = PAGE.read_text()
    assert mma_sync_table() in page, "python -m scripts.predicted_times"
    assert wgmma_table() in page, "python -m scripts.predicted_times"
    assert main() == 0
    assert wgmma_table() in capsys.readouterr().out
