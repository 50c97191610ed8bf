"""Warnings that name the line of the caller's own code, however deep they are given."""

from __future__ import annotations

import sys
import warnings

import torch

_OURS = {"fusedml", "torch"}


def warn_caller(message: str) -> None:
    """Gives a UserWarning of the nearest frame that is neither the package's nor PyTorch's."""
    if torch.compiler.is_compiling():  # no graph walks over frames
        warnings.warn(message, UserWarning, stacklevel=2)
        return
    frame = sys._getframe(1)
    while frame.f_back is not None and _module_of(frame.f_globals).split(".")[0] in _OURS:
        frame = frame.f_back
    warnings.warn_explicit(
        message,
        UserWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        _module_of(frame.f_globals) or None,
        frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _module_of(names: dict[str, object]) -> str:
    return str(names.get("__name__") or "")
