"""Faults inside the inline assembly: how they are made, and who notices them."""

import shutil

import numpy as np
from interpreter import Fault
from sources import CSRC


def mutated(folder, file, original, replacement):
    """A copy of csrc/core in `folder` with the fault in core/<file>; the include folder."""
    include = folder / "csrc"
    shutil.copytree(CSRC / "core", include / "core")
    path = include / "core" / file
    text = path.read_text()
    assert text.count(original) == 1, f"{original!r} must occur once in core/{file}"
    path.write_text(text.replace(original, replacement))
    return include


def noticed(module, cases, checks):
    """Those of the `checks`, names of cases, that fail."""
    found = []
    for name in checks:
        check, options = cases[name]
        try:
            check(module, np.random.default_rng(0), **options)
        except (AssertionError, Fault):
            found.append(name)
    return found
