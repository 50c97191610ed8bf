"""The emulated kernels against what the operators gave on GPUs (``tests/golden.py``).

As long as no file of a GPU is there, one that the emulator has recorded itself tries the recording.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from fusedml import native
from tests import golden
from tests.number_types import NUMBER_TYPES

RECORDED = sorted((Path(__file__).parent / "golden").glob("*.npz"))


@pytest.fixture(scope="module")
def own_recording(tmp_path_factory):
    return tmp_path_factory.mktemp("golden") / "emulator.npz"


def check(path, cases):
    with np.load(path) as file:
        for case in cases:
            outputs = golden.run(case, "emulated", "cpu")
            names = [f"{case.key}.{k}" for k in range(len(outputs))]
            for name, ours in zip(names, outputs, strict=True):
                assert golden.difference(case, file[name], ours) <= 1, name


def one_shape_each():
    """Every operator in every number type, whose shapes take turns."""
    pairs = itertools.product(enumerate(native.OPERATORS), enumerate(NUMBER_TYPES))
    for (i, operator), (k, number_type) in pairs:
        yield golden.Golden(operator, number_type, (i + k) % len(golden.SHAPES))


def test_recording(emulated, own_recording):
    # the rehearsal of the first call on a GPU records all shapes
    assert golden.record(own_recording, "emulated", "cpu", one_shape_each()) == []
    with np.load(own_recording) as file:
        assert file["about"][0] == "cpu"
        keys = {name.rpartition(".")[0] for name in file.files if name != "about"}
    assert keys == {case.key for case in one_shape_each()}
    emulated.kernels.set_seed(1)
    emulated.kernels.set_mma_rounding("truncate")  # as a GPU does, or does not
    try:
        check(own_recording, one_shape_each())
    finally:
        emulated.kernels.set_seed(0)
        emulated.kernels.set_mma_rounding("nearest")


@pytest.mark.parametrize("operator", native.OPERATORS)
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_as_on_a_gpu(emulated, path, operator):
    check(path, [case for case in golden.cases() if case.operator == operator])


def test_a_difference_is_seen():
    case = golden.Golden("pair_gradient", "bfloat16", 0)
    recorded = np.array([[1.0, -2.0, np.inf]], dtype=np.float32)
    assert golden.difference(case, recorded, recorded) == 0
    for wrong in (
        [[1.0, -1.98, np.inf]],
        [[1.0, -2.0, 5.0]],
        [[1.0, -2.0]],
        [[np.nan, -2, np.inf]],
    ):
        assert not golden.difference(case, recorded, np.array([wrong], dtype=np.float32)) <= 1


def test_inputs_are_the_same_bits_everywhere():
    # of the frozen generator: another value means that recorded files have become useless
    inputs = golden._Inputs(golden.Golden("pair_extrema", "float64", 1))
    anchors, references, labels, _ = inputs.sides
    assert (anchors[0, :3] * 8192).tolist() == [1001, 7, -705]
    assert references.shape == (129, 72)
    assert labels[:5].tolist() == [5, 11, 12, 8, 9]
