"""What the tests of short lists share."""

from __future__ import annotations

import pytest

from fusedml.engine import list_sizes


@pytest.fixture(params=["gathered", "matrix"])
def gathered_or_read(request, monkeypatch):
    """Listed pairs are measured one by one, or read from the matrix of all."""
    if request.param == "gathered":
        monkeypatch.setattr(list_sizes, "_FEW_MULTIPLIED", 0)
        monkeypatch.setattr(list_sizes, "_PAIRS_PER_GATHERED", 0)
