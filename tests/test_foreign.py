"""Names of pytorch-metric-learning that are not here say where they are."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import pytest
import pytorch_metric_learning

import fusedml
from fusedml import distances, losses, reducers
from fusedml.foreign import ONLY_THEIRS


def public(module: object) -> set[str]:
    return {name for name, value in vars(module).items() if isinstance(value, type)}


@pytest.mark.parametrize("ours", [losses, distances, reducers])
def test_what_only_they_have(ours: ModuleType) -> None:
    theirs = importlib.import_module(ours.__name__.replace("fusedml", "pytorch_metric_learning"))
    listed = set(ONLY_THEIRS.get(ours.__name__, "").split())
    # a loss that is added here need not be taken from the list
    assert public(theirs) - public(ours) <= listed <= public(theirs)


def test_what_packages_only_they_have() -> None:
    packages = {module.name for module in pkgutil.iter_modules(pytorch_metric_learning.__path__)}
    assert set(ONLY_THEIRS["fusedml"].split()) == packages - set(fusedml.__all__)


EACH = pytest.mark.parametrize(
    ("module", "name"),
    [
        (module, name)
        for module, names in ONLY_THEIRS.items()
        for name in names.split()
        if name not in vars(importlib.import_module(module))
    ],
)


@EACH
def test_as_an_attribute(module: str, name: str) -> None:
    ours = importlib.import_module(module)
    where = f"{module}.{name}".replace("fusedml", "pytorch_metric_learning")
    with pytest.raises(
        AttributeError, match=f"no attribute '{name}': {where} works beside {module}"
    ):
        getattr(ours, name)
    assert not hasattr(ours, name)
    assert getattr(ours, name, None) is None
    importlib.import_module(where.rpartition(".")[0])


@EACH
def test_imported_by_name(module: str, name: str) -> None:
    message = "works beside" if module != "fusedml.distances" else "cannot import name"
    with pytest.raises(ImportError, match=message):
        exec(f"from {module} import {name}")


@pytest.mark.parametrize(
    "statement",
    ["import fusedml.miners", "from fusedml.miners import X", "from fusedml import miners"],
)
def test_miners(statement: str) -> None:
    with pytest.raises(ImportError, match="miners work"):
        exec(statement)


def test_mistyped() -> None:
    with pytest.raises(AttributeError, match="did you mean 'SupConLoss'"):
        losses.SupconLos  # noqa: B018
    with pytest.raises(ImportError, match="did you mean 'SupConLoss'"):
        exec("from fusedml.losses import SupconLos")
    with pytest.raises(AttributeError, match="did you mean 'CosineSimilarity'"):
        distances.CosineSimilarty  # noqa: B018
    for module in (fusedml, losses, distances):
        with pytest.raises(AttributeError, match=r"has no attribute 'zzz'$"):
            module.zzz  # noqa: B018
        assert not hasattr(module, "__wrapped__")
