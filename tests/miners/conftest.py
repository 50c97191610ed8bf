"""Strips of all rows, which are not swept twice, and strips of few, which are."""

from __future__ import annotations

import pytest

from fusedml.engine import pair_lists
from fusedml.engine.routes import choice, row_strips
from fusedml.miners import hdc


@pytest.fixture(params=["one strip", "strips"])
def strips(request, monkeypatch):
    if request.param == "strips":
        monkeypatch.setattr(row_strips, "STRIP_ELEMENTS", 100)
        monkeypatch.setattr(choice, "BLOCK_ELEMENTS", 100)
        for module in (pair_lists, hdc):
            monkeypatch.setattr(module, "FEW_ENTRIES", -1)
    return request.param
