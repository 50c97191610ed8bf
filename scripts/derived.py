"""Writes what is derived from the losses' classes, or says what is out of date.

    python scripts/derived.py            # write
    python scripts/derived.py --check    # exit with 1 and name the stale files

* ``fusedml/losses/__init__.pyi`` and ``fusedml/functional.pyi``: the names and signatures that type
  checkers and editors show.  At run time both modules are made of the classes.
* the table of losses in docs/losses/index.md.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fusedml import functional, losses  # noqa: E402  the package of this tree
from fusedml.losses.base import BaseLoss  # noqa: E402

_BEGIN, _END = "<!-- losses -->", "<!-- end of losses -->"
_OTHER_CALLS = {**losses.TWO_TOWER_LOSSES, **losses.DISTILLATION_LOSSES}
_WRITTEN = "# Written by scripts/derived.py from the classes; a test holds it to them.\n"


def losses_stub() -> str:
    """The names of ``fusedml.losses``, each from its own module."""
    modules: dict[str, list[str]] = defaultdict(list)
    for name in losses.__all__:
        value = getattr(losses, name)
        if inspect.isclass(value):
            modules[value.__module__].append(name)
    lines = [
        f"from {module} import {', '.join(f'{name} as {name}' for name in sorted(modules[module]))}"
        for module in sorted(modules)
    ]
    registries = ["LOSSES: dict[str, type[BaseLoss]]"]
    registries.append("TWO_TOWER_LOSSES: dict[str, type[TwoTowerLoss]]")
    registries.append("DISTILLATION_LOSSES: dict[str, type[DistillationLoss]]")
    return "\n".join([_WRITTEN, *lines, "", *registries, ""])


def functional_stub() -> str:
    """The functions with their signatures and docstrings."""
    parts = [
        _WRITTEN,
        "from collections.abc import Callable, Sequence",
        "from torch import Tensor, nn",
        "from typing import Literal",
        "from typing_extensions import TypedDict, Unpack",
        "from fusedml.formulas import Hyperparameter",
        "from fusedml.engine.labels import LabelRule",
        "from fusedml.losses.base import BaseLoss, Backend, Reduction",
        "",
        "class CallOptions(TypedDict, total=False):",
        "    distance: nn.Module | None",
        "    reduction: Reduction",
        "    backend: Backend",
        "",
        "class CallOptionsWithRule(CallOptions, total=False):",
        "    label_rule: LabelRule",
        "",
        "class CallOptionsWithReferences(CallOptionsWithRule, total=False):",
        "    ref_emb: Tensor | None",
        "    ref_labels: Tensor | None",
        "",
    ]
    parts += [_function_stub(loss) for loss in losses.LOSSES.values()]
    for loss in _OTHER_CALLS.values():
        signature = _unquoted(functional.multi_input_signature_of(loss))
        parts.append(f"def {functional.name_of(loss)}{signature}: ...")
    parts += [
        "FUNCTIONS: dict[str, Callable[..., Tensor]]",
        "def name_of(loss: type[nn.Module]) -> str: ...",
        "def function_of(loss: type[BaseLoss]) -> Callable[..., Tensor]: ...",
        f"def mining_thresholds{_unquoted(inspect.signature(functional.mining_thresholds))}: ...",
        "",
    ]
    return "\n".join(parts)


def _unquoted(signature: inspect.Signature) -> str:
    """The signature, whose annotations are kept as text, as one writes it."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(signature))


def _function_stub(loss: type[BaseLoss]) -> str:
    options = "CallOptionsWithRule" if loss.takes_label_sets else "CallOptions"
    if loss.takes_references:  # and label sets, as all of these do
        options = "CallOptionsWithReferences"
    signature = functional.signature_of(loss).parameters.values()
    positional = [
        f"{p.name}: {p.annotation}" for p in signature if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    own = [_with_default(p) for p in functional.own_arguments(loss)]
    middle = ["*", *own] if own else []
    arguments = ", ".join([*positional, *middle, f"**options: Unpack[{options}]"])
    return f"def {functional.name_of(loss)}({arguments}) -> Tensor: ..."


def _with_default(parameter: inspect.Parameter) -> str:
    name = f"{parameter.name}: {parameter.annotation}"
    return name if parameter.default is parameter.empty else f"{name} = {parameter.default!r}"


def table() -> str:
    """The table of losses: each class with its formula and source, from the docstring."""
    lines = ["| class, function | loss | source |", "|---|---|---|"]
    for name, loss in sorted({**losses.LOSSES, **_OTHER_CALLS}.items()):
        formula, source = described(loss)
        names = f"`{name}`, `{functional.name_of(loss)}`"
        lines.append(f"| {names} | {_escaped(formula)} | {_escaped(source)} |")
    return "\n".join(lines)


def described(loss: type) -> tuple[str, str]:
    """The first paragraph of the docstring, as code, and its source.

    Raises ValueError for a docstring without one of them.
    """
    text = inspect.getdoc(loss) or ""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    sources = [part for part in paragraphs if part.startswith("Source: ")]
    if not paragraphs[0] or len(sources) != 1:
        raise ValueError(
            f"{loss.__name__}'s docstring must begin with its formula and have one 'Source: '"
        )
    return f"`{paragraphs[0].rstrip('.')}`", sources[0].removeprefix("Source: ").rstrip(".")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def with_table(text: str) -> str:
    """The page with the present table.  Raises ValueError without its two marks."""
    if text.count(_BEGIN) != 1 or text.count(_END) != 1:
        raise ValueError(f"docs/losses/index.md must have {_BEGIN} and {_END} once each")
    before, rest = text.split(_BEGIN)
    after = rest.split(_END)[1]
    return f"{before}{_BEGIN}\n{table()}\n{_END}{after}"


def files() -> dict[Path, str]:
    """The derived files with the text that they should have."""
    path = ROOT / "docs" / "losses" / "index.md"
    return {
        ROOT / "fusedml" / "losses" / "__init__.pyi": losses_stub(),
        ROOT / "fusedml" / "functional.pyi": functional_stub(),
        path: with_table(path.read_text()),
    }


def stale() -> list[Path]:
    """The derived files that are not what the classes say."""
    return [path for path, text in files().items() if not path.exists() or path.read_text() != text]


def main(arguments: Iterable[str] | None = None) -> int:
    """Exit status: 1 if something is out of date and was not to be written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if options.check:
        for path in stale():
            print(f"{path.relative_to(ROOT)} is out of date: python scripts/derived.py")
        return 1 if stale() else 0
    for path, text in files().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
