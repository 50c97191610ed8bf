"""Recognising objects of other packages by their names, without importing the packages."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import torch

from fusedml.engine.arguments import nearest

PML = "pytorch_metric_learning"
# tensors of one process, and no subclass that means something else
PLAIN = (torch.Tensor, torch.nn.Parameter)


def qualified_name(instance: object) -> str:
    """Module and name of the object's exact type: "package.module.Class"."""
    cls = type(instance)
    return f"{cls.__module__}.{cls.__qualname__}"


def refuse_hooks(cls: type, instead: str) -> None:
    """Raises TypeError if a class has a method of theirs that ours never call: of the names in
    ``pml_hooks`` of each class that it is derived from.

    instead: what to override here.
    """
    hooks = {hook for base in cls.__mro__ for hook in vars(base).get("pml_hooks", ())}
    for base in cls.__mro__:
        if base.__module__.startswith("fusedml."):  # get_logits is ours, too, where it is a hook
            continue
        for hook in sorted(hooks & vars(base).keys()):
            raise TypeError(
                f"{cls.__name__}.{hook} is pytorch-metric-learning's hook, which is never called "
                f"here: {cls.__mro__[1].__name__} is fusedml's.  Override {instead}, or derive "
                "from pytorch-metric-learning's own class"
            )


def refuse_forward(owner: str, loss: torch.nn.Module) -> None:
    """Raises TypeError for a loss of ours with a ``forward`` that is not, which is never called.

    owner: what calls its parts instead.
    """
    cls = type(loss)
    defined = cls.__mro__[index_of_definition(cls, "forward")]
    if not defined.__module__.startswith("fusedml.") or has_own(loss, "forward"):
        raise TypeError(
            f"loss must not override forward, which {owner} never calls, got {cls.__name__}: "
            "override sub_losses (or, of one loss per anchor, head)"
        )


def index_of_definition(cls: type, name: str) -> int:
    """Which class in the order of resolution gives a class its attribute."""
    return next(index for index, base in enumerate(cls.__mro__) if name in vars(base))


def has_own(instance: object, *methods: str) -> bool:
    """Whether a method of its class was replaced on the object itself."""
    own = vars(instance)  # whose keys' isdisjoint torch.compile does not take
    return bool([name for name in methods if name in own])


def is_a(instance: object, package: str, name: str) -> bool:
    """Whether the object is, or is derived from, the class ``name`` of ours or of theirs.

    package: "reducers", as in fusedml.reducers and pytorch_metric_learning.reducers.
    """
    packages = (f"fusedml.{package}", f"{PML}.{package}")
    return any(
        cls.__name__ == name and cls.__module__.startswith(packages)
        for cls in type(instance).__mro__
    )


# Names of pytorch-metric-learning 2.9 that the module of the same name here does not have.
ONLY_THEIRS = {
    "fusedml": """
        datasets regularizers samplers testers trainers utils
    """,
    "fusedml.losses": """
        BaseLossWrapper BaseMetricLossFunction DynamicSoftMarginLoss
        EmbeddingRegularizerMixin GenericPairLoss ManifoldLoss MultipleLosses
        SelfSupervisedLoss VICRegLoss WeightRegularizerMixin
    """,
    "fusedml.distances": """
        BatchedDistance
    """,
    "fusedml.miners": "",
}


# where names are that are looked for elsewhere in the package
_HOMES = tuple(f"fusedml.{x}" for x in ("losses", "miners", "reducers", "distances", "functional"))


def _is_of(home: str, name: str) -> bool:
    found = vars(sys.modules[home]).get(name) if home in sys.modules else None
    return str(getattr(found, "__module__", "")).startswith(home)


def missing_name(module: str, name: str, ours: Iterable[str]) -> AttributeError | ImportError:
    """What a module's ``__getattr__`` raises for a name that it does not have.

    module: its ``__name__``, as in "fusedml.losses".  ours: the names it has.
    """
    home = next((home for home in _HOMES if _is_of(home, name)), None)
    if home is not None:
        hint = f": write {home}.{name}"
    elif name in ONLY_THEIRS.get(module, "").split():
        theirs = module.replace("fusedml", PML)
        hint = f": {theirs}.{name} works beside {module}"
    else:
        meant = None if name.startswith("_") else nearest(name, ours, cutoff=0.75)
        hint = "" if meant is None else f": did you mean {meant!r}?"
    message = f"module {module!r} has no attribute {name!r}{hint}"
    # ``from package import name`` asks so first, and swallows what an AttributeError says
    is_import = sys._getframe(2).f_globals.get("__name__") == "importlib._bootstrap"
    return ImportError(message) if hint and is_import else AttributeError(message)


class TheirModules:
    """The last of Python's finders: says where ``fusedml.samplers``, and a class's own module, are.

    It finds nothing, and looks at no name outside of this package.
    """

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        """Raises ModuleNotFoundError for a module of pytorch-metric-learning that is not here."""
        package, _dot, rest = name.partition(".")
        first = rest.partition(".")[0]
        if package != "fusedml" or not rest:
            return
        if first in ONLY_THEIRS["fusedml"].split():
            hint = f"{PML}.{rest} works beside {package}"
        elif f"{package}.{first}" in _HOMES and "." in rest:
            hint = f"its classes are in {package}.{first}"
        else:
            return
        raise ModuleNotFoundError(f"No module named {name!r}: {hint}", name=name)


def check_local(x: object, name: str) -> None:
    """Raises TypeError for a DTensor: a loss is computed on the tensors of one process."""
    # torch.compile knows no bases of a Parameter
    if type(x) not in PLAIN and any(cls.__name__ == "DTensor" for cls in type(x).__mro__):
        raise TypeError(
            f"{name} must be a tensor of this process, got a DTensor: pass {name}.to_local() for "
            f"the rows of this process, or {name}.full_tensor() for those of all"
        )
