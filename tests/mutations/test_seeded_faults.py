"""A mutation check: faults seeded into the kernels, each of which a test has to notice.

Each fault compiles the kernels of one number type anew, without optimisation, and runs a few small
cases of the existing tests: plain, with AddressSanitizer, or with ThreadSanitizer.  That takes
seconds a fault, so a twentieth of them, one at least for each number type and sanitizer and for
every other test with kernels of its own, which take a second or two, are tried unless
FUSEDML_ALL_FAULTS is set, as ``make test-faults`` does; and two of the same programs without a
fault, which the tests in C++ run anyhow.
"""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from faults import FAULTS
from mutant import CSRC, WITH_OWN_KERNELS, Workshop, find_compiler, find_cuda_include, mutate

ALL = os.environ.get("FUSEDML_ALL_FAULTS")
# (cases, number type, variant): names of the faults that this small test has to notice
KINDS = {}
for _name, _fault in FAULTS.items():
    KINDS.setdefault((_fault.cases, _fault.number_type, _fault.variant), []).append(_name)


def covering(kinds):
    """Of the kinds those in turn that have a number type, a variant or, of the cases with their own
    kernels, of which every other counts, cases unlike all before."""
    wanted = set(WITH_OWN_KERNELS[::2])
    seen, kept = {(0, cases) for cases, *_ in kinds if cases not in wanted}, []
    for kind in kinds:
        if not seen.issuperset(enumerate(kind)):
            kept.append(kind)
            seen.update(enumerate(kind))
    return kept


TRIED = list(FAULTS) if ALL else [KINDS[kind][0] for kind in covering(sorted(KINDS))]
# a program of either making: of a library's kernels, whose test a fault that is tried has, too, and
# with its own
SOUND = [(cases, "bf16", "plain") for cases in ("divergences", "hopper_sweep")]
SOUND = sorted(KINDS) if ALL else SOUND


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    compiler, cuda_include = find_compiler(), find_cuda_include()
    if compiler is None or cuda_include is None:
        pytest.skip("a C++ compiler and NVIDIA's headers are needed to compile the kernels")
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    (folder / "mutants").mkdir(exist_ok=True)
    return Workshop(folder / "mutants", compiler, cuda_include)


@pytest.mark.parametrize(("cases", "number_type", "variant"), SOUND)
def test_kernels_pass_without_a_fault(workshop, cases, number_type, variant):
    name = f"sound_{cases}_{number_type}_{variant}"
    passed, output = workshop.passes(name, CSRC, cases, number_type, variant)
    assert passed, output


@pytest.mark.parametrize("name", TRIED)
def test_fault_is_noticed(workshop, tmp_path, name):
    fault = FAULTS[name]
    csrc = mutate(fault, tmp_path)
    passed, _ = workshop.passes(name, csrc, fault.cases, fault.number_type, fault.variant)
    assert not passed


def test_every_fault_applies():
    """Also those that are not tried, once somebody has changed the sources."""
    for name, fault in FAULTS.items():
        assert (CSRC / fault.file).read_text().count(fault.before) == 1, name


def test_fault_that_does_not_apply_is_an_error(tmp_path):
    fault = next(iter(FAULTS.values()))
    with pytest.raises(ValueError, match="must hold exactly once"):
        mutate(fault._replace(before="no such text"), tmp_path)
