from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.cases import Case, make_problem
from benchmarks.harness import check
from benchmarks.providers import PROVIDERS, bare_products
from fusedml.losses import LOSSES


# 90: the last class is cut short to two samples; small, as PML needs n^3 memory for some
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_provider_computes_every_loss(loss, provider):
    check(Case(loss, n=90, d=24, num_classes=50), PROVIDERS[provider], provider)


@pytest.mark.parametrize("loss", ["MultiSimilarityLoss", "ProxyAnchorLoss"])
def test_bare_products_cover_all_rows(loss):
    # more than 2^25 pairs are multiplied in blocks; here there is one
    case = Case(loss, n=70, d=5, num_classes=30)
    bare_products(case, make_problem(case))()
    bare_products(replace(case, direction="forward"), make_problem(case))()


def test_bare_products_take_the_number_type_of_the_problem():
    case = Case("MultiSimilarityLoss", n=16, d=4, dtype="float64")
    torch.set_default_dtype(torch.float32)
    bare_products(case, make_problem(case))()
