"""Recognising pytorch-metric-learning's objects by their names, without importing the package."""

from __future__ import annotations

PML = "pytorch_metric_learning"


def qualified_name(instance: object) -> str:
    """Module and name of the object's exact type: "package.module.Class"."""
    cls = type(instance)
    return f"{cls.__module__}.{cls.__qualname__}"


def is_a(instance: object, package: str, name: str) -> bool:
    """Whether the object is, or is derived from, the class ``name`` of ours or of theirs.

    package: "reducers", as in fusedml.reducers and pytorch_metric_learning.reducers.
    """
    packages = (f"fusedml.{package}", f"{PML}.{package}")
    return any(
        cls.__name__ == name and cls.__module__.startswith(packages)
        for cls in type(instance).__mro__
    )
