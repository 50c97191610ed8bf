"""Pages of the public modules beside the losses: whatever there is."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from types import ModuleType

import fusedml
from benchmarks.cases import MEASURED

_INTERNAL = ("engine",)


def public_modules() -> dict[str, ModuleType]:
    """Modules and packages directly in fusedml, by name."""
    found = {}
    for module in pkgutil.iter_modules(fusedml.__path__):
        if module.name.startswith("_") or module.name in _INTERNAL:
            continue
        found[module.name] = import_module(f"fusedml.{module.name}")
    return found


def reference_page(name: str, module: ModuleType) -> str:
    """The module's text, and all that it defines or, where it says what it exports, exports."""
    if name == "losses":
        return _bases(module)
    title = f"# fusedml.{name}"
    exported = getattr(module, "__all__", None)
    if exported is None or not hasattr(module, "__path__"):
        return f"{title}\n\n::: fusedml.{name}\n    options:\n      show_root_heading: false"
    parts = [_entry(getattr(module, each)) for each in exported if _is_ours(getattr(module, each))]
    return "\n\n".join([title, inspect.getdoc(module) or "", *parts])


def _bases(module: ModuleType) -> str:
    """What the losses have in common; each of them has a page of its own."""
    shared = [
        getattr(module, name)
        for name in module.__all__
        if name not in MEASURED and inspect.isclass(getattr(module, name))
    ]
    ordered = sorted(shared, key=lambda each: (len(each.__mro__), each.__name__))
    text = "What all [losses](../losses/index.md) have in common, and the classes they derive from."
    return "\n\n".join(["# fusedml.losses", text, *map(_entry, ordered)])


def _is_ours(value: object) -> bool:
    is_defined = inspect.isclass(value) or inspect.isfunction(value)
    return is_defined and str(value.__module__).startswith("fusedml.")


def _entry(value: type) -> str:
    return f"::: {value.__module__}.{value.__qualname__}\n    options:\n      heading_level: 2"
