"""Faults to seed into csrc, each with the small test that has to notice it: a file for each kind of
kernel."""

from . import backward, core, forward, groups, hopper, pairs, sums, unit_rows

FAULTS = {}
for _kind in (core, forward, backward, pairs, groups, sums, unit_rows, hopper):
    # two faults of one name would be one test
    assert FAULTS.keys().isdisjoint(_kind.FAULTS), FAULTS.keys() & _kind.FAULTS.keys()
    FAULTS |= _kind.FAULTS
