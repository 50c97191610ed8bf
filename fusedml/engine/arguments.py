"""What a constructor says to arguments, and to values of them, that it does not take."""

from __future__ import annotations

import difflib
import inspect
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self


# letters that tell more than those behind them
_FIRST_WORD = 5


def nearest(name: str, names: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The one of ``names`` that was probably meant, or None."""
    by_lower = {known.lower(): known for known in names}
    given = name.lower()
    parts = [lower for lower in by_lower if len(given) > 2 and given in lower]
    if not parts:  # CosineDistance is a cosine rather than a distance
        alike = [lower for lower in by_lower if lower[:_FIRST_WORD] == given[:_FIRST_WORD]]
        parts = alike if len(alike) == 1 and len(given) >= _FIRST_WORD else []
    found = parts[:1] or difflib.get_close_matches(given, by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


def shown_arguments(
    instance: Any, always: Iterable[str] = (), names: Iterable[str] | None = None
) -> str:
    """Its constructor's arguments that are attributes and numbers, words or ranges, as its
    ``extra_repr`` shows them: those that are not at their defaults, and ``always`` these.

    names: of which arguments, None for all.
    """
    shown = []
    for name, given in constructor_parameters(type(instance)).items():
        if names is not None and name not in names:
            continue
        value = getattr(instance, name, None)
        is_plain = isinstance(value, int | float | str | tuple | range)
        if is_plain and name not in _NEVER_SHOWN and (name in always or value != given.default):
            shown.append(f"{name}={value!r}")
    return ", ".join(shown)


# of every miner or distance, and no number of its own; the name says which is a similarity
_NEVER_SHOWN = ("collect_stats", "max_listed", "is_inverted")


def constructor_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments of a constructor, and of those that it passes its other keywords on to."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        for one in parameters:
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
                found.setdefault(one.name, one)
        if all(one.kind is not one.VAR_KEYWORD for one in parameters):
            break
    return found


def unexpected_keyword(
    cls: Any, name: str, names: Sequence[str] | None = None, hint: str | None = None
) -> TypeError:
    """The error of ``cls(name=...)``: what was meant, or ``hint``, and what there is.

    names: the arguments of the class, if its signatures do not tell, or of a function.
    """
    names = [*constructor_parameters(cls)] if names is None else names
    meant = nearest(name, names)
    if hint is None and meant is not None:
        hint = f"did you mean {meant!r}?"
    return TypeError(
        f"{cls.__name__} got an unexpected keyword argument {name!r}"
        + ("" if hint is None else f": {hint}")
        + f" (its arguments are {', '.join(names)})"
    )


def refuse_keywords(called: Any, unknown: Mapping[str, Any]) -> None:
    """Raises TypeError for keywords of a call that ``called.forward`` does not take."""
    if unknown:
        parameters = inspect.signature(called.forward).parameters.values()
        names = [one.name for one in parameters if one.kind is not one.VAR_KEYWORD]
        raise unexpected_keyword(type(called), next(iter(unknown)), names)


class NamedArguments:
    """Whose constructor says what was meant in place of a keyword that it does not take.

    A constructor with ``**kwargs`` passes them on to one that looks at them itself.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Raises TypeError for a keyword that is none of the constructor's."""
        if kwargs:
            taken = inspect.signature(cls.__init__).parameters
            takes_any = any(one.kind is one.VAR_KEYWORD for one in taken.values())
            for name in kwargs:
                if name not in taken and not takes_any:
                    raise unexpected_keyword(cls, name, list(taken)[1:])
        return super().__new__(cls)


def check_count(name: str, value: Any, least: int = 1) -> int:
    """The whole number.  Raises TypeError for anything else, ValueError below ``least``."""
    try:
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, bool):
        raise TypeError(
            f"{name} must be a whole number of at least {least}, got {value!r}, "
            f"{type(value).__name__}"
        )
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}")
    return count


def check_whole_part(name: str, value: Any, least: int = 1) -> int:
    """The whole part of a number, as pytorch-metric-learning takes it.  Raises as the others do."""
    check_number(name, value)
    return check_count(name, int(value) if math.isfinite(value) else value, least)


def check_count_or_all(name: str, value: Any) -> int | str:
    """The whole number above 0, or "all".  Raises TypeError or ValueError for anything else."""
    if isinstance(value, str):
        return check_choice(name, value, ("all",), "a number above 0 or ")
    return check_count(name, value)


def check_choice(name: str, value: Any, choices: Iterable[str], other: str = "") -> Any:
    """The one of ``choices``.  Raises ValueError for anything else.

    other: what it may be besides, as in "None or ".
    """
    choices = tuple(choices)
    if not (isinstance(value, str) and value in choices):
        several = "one of " if len(choices) > 1 else ""
        listed = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be {other}{several}{listed}, got {value!r}")
    return value


def check_flag(name: str, value: Any) -> bool:
    """True, or False, of which None is one.  Raises TypeError for anything else but 0 and 1."""
    is_flag = value is None or type(value).__name__ in ("bool", "bool_")  # those of NumPy, too
    if not is_flag and not (isinstance(value, int) and value in (0, 1)):
        raise TypeError(f"{name} must be True or False, got {value!r}, {type(value).__name__}")
    return bool(value)


def is_number(value: Any) -> bool:
    """Whether it is a real number; a bool is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_number(name: str, value: Any) -> None:
    """Raises TypeError for what is neither a number nor a tensor of one; ValueError for NaN."""
    is_tensor = isinstance(value, Tensor) and value.numel() == 1
    if not (is_tensor or is_number(value)):
        raise TypeError(f"{name} must be a number, got {value!r}, {type(value).__name__}")
    if math.isnan(value):
        raise ValueError(f"{name} must be a number, got {value}")


def check_object(argument: str, value: Any, choices: Iterable[type] = ()) -> None:
    """Raises TypeError unless ``value`` is an object that can be called, as those of ``choices``.

    A class in place of its object, or a name, is told how the object is written.
    """
    if not isinstance(value, type) and callable(value):
        return
    written = {choice.__name__: f"{argument}={choice.__name__}()" for choice in choices}
    if isinstance(value, type):
        got, advice = f"the class {value.__name__}", f": write {argument}={value.__name__}()"
    else:
        found = nearest(value, written) if isinstance(value, str) else None
        others = f": such as {', '.join(written.values())}" if written else ""
        got, advice = repr(value), f": write {written[found]}" if found else others
    raise TypeError(f"{argument} must be an object that can be called, got {got}{advice}")
