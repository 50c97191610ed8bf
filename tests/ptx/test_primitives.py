"""The device side of every primitive: nvcc's PTX, interpreted, against numpy."""

import numpy as np
import pytest
from unit_checks import CASES


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("warps_per_team", [None, 1], ids=["lockstep", "one_by_one"])
def test_unit_kernel(unit_kernels, name, warps_per_team):
    check, options = CASES[name]
    for seed in range(2):
        generator = np.random.default_rng(seed)
        check(unit_kernels, generator, seed=seed, warps_per_team=warps_per_team, **options)
