"""Docstrings, which are written for terminals, as the Markdown that mkdocstrings shows."""

from __future__ import annotations

import re
from inspect import signature
from typing import Any

from griffe import Extension, Object

from benchmarks.cases import MEASURED
from scripts.site.formulas import mathml

_ROLE = re.compile(r":\w+:`~?([^`]+)`")
_CODE = re.compile(r"(``[^`]*``|`[^`]*`)")
_TITLE = re.compile(r"\w[\w ]*:")
# an argument, an error or an attribute with what is said of it
_ITEM = re.compile(r"( {4}\*{0,2}\w+(?: \([^)]*\))?: )(.*)")


class Docstrings(Extension):
    """Draws the formula that a loss begins with, and keeps all other text as it is written."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called by griffe for all that it has read."""
        if obj.docstring is not None:
            loss = MEASURED.get(obj.name)
            is_loss = loss is not None and obj.canonical_path == f"{loss.__module__}.{obj.name}"
            text = obj.docstring.value
            obj.docstring.value = loss_text(loss, text) if loss and is_loss else verbatim(text)


def loss_text(loss: type, text: str) -> str:
    """The docstring of a loss, whose first paragraph is a formula."""
    first, _, rest = text.partition("\n\n")
    return f'<div class="formula">{drawn(loss, first)}</div>\n\n{verbatim(rest)}'


def drawn(loss: type, formula: str) -> str:
    """A formula in which the arguments of the loss are variables."""
    return mathml(formula, list(signature(loss).parameters))


def verbatim(text: str) -> str:
    """Text in which ``_``, ``*``, ``<`` mean themselves; indented lines and code stay as they are.

    References to classes and functions become code; titles of sections are left to griffe.
    """
    lines, is_section = [], False
    for line in _ROLE.sub(r"``\1``", text).splitlines():
        if line and not line[0].isspace():
            is_section = _TITLE.fullmatch(line) is not None
        is_code = line[:1].isspace() and not is_section
        lines.append(line if is_code else _line(line))
    return "\n".join(lines)


def _line(line: str) -> str:
    item = _ITEM.fullmatch(line)
    name, rest = item.groups() if item else ("", line)
    parts = _CODE.split(rest)
    parts[::2] = [re.sub(r"(?!^\* )[\\*_<>|^#]", _escaped, part) for part in parts[::2]]
    return name + "".join(parts)


def _escaped(found: re.Match[str]) -> str:
    # Markdown has no backslash for it
    return "&lt;" if found[0] == "<" else f"\\{found[0]}"
