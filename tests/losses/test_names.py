"""Nothing but a loss's own file, and its own tests, asks which loss it is; nor of a miner."""

from __future__ import annotations

import ast
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

import pytest

from fusedml import miners
from fusedml.functional import name_of
from fusedml.losses import DISTILLATION_LOSSES, LOSSES, TWO_TOWER_LOSSES

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {**LOSSES, **TWO_TOWER_LOSSES, **DISTILLATION_LOSSES}
MINERS = {name: getattr(miners, name) for name in miners.__all__ if name != "BaseMiner"}
FILES = sorted(
    path
    for folder in ("fusedml", "benchmarks", "scripts", "tests")
    for path in (ROOT / folder).rglob("*.py")
)


def stems() -> set[str]:
    """Of the losses' own files: "n_pairs" of NPairsLoss, and those that hold several."""
    own = {name_of(loss).removesuffix("_loss") for loss in CLASSES.values()}
    return own | {loss.__module__.rpartition(".")[2] for loss in CLASSES.values()}


def is_own(path: Path) -> bool:
    """Whether the file is a loss's own: of the package, or a test named after it or its base."""
    if path.parent == ROOT / "fusedml" / "losses":
        return path.stem in stems()
    stem = path.stem.removeprefix("test_")
    bases = {base.__module__ for loss in CLASSES.values() for base in loss.__mro__}
    is_named = stem in stems() or f"fusedml.losses.{stem}" in bases
    return path.parent == ROOT / "tests" / "losses" and is_named


def is_miners_own(path: Path) -> bool:
    """Whether the file is a miner's own, which may name a loss that mines by itself, or a test."""
    own = {miner.__module__.rpartition(".")[2] for miner in MINERS.values()}
    is_module = path.parent == ROOT / "fusedml" / "miners" and path.stem in own
    is_test = path.is_relative_to(ROOT / "tests") and "miners" in f"{path.parent.name}_{path.stem}"
    return is_module or is_test


def _names(node: ast.AST) -> Iterator[str]:
    """What a side of a comparison, or a class that is asked for, may be called."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        for element in node.elts:
            yield from _names(element)
    elif isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr


def questions(tree: ast.AST, classes: Container[str] = CLASSES) -> Iterator[int]:
    """The lines where a class or its name is compared with, or asked for by isinstance."""
    asking = (ast.Eq, ast.NotEq, ast.In, ast.NotIn, ast.Is, ast.IsNot)
    for node in ast.walk(tree):
        sides: list[ast.AST] = []
        if isinstance(node, ast.Compare) and any(isinstance(op, asking) for op in node.ops):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("isinstance", "issubclass"):
                sides = [node.args[1]]
        elif isinstance(node, ast.match_case):
            sides = [x for x in ast.walk(node.pattern) if isinstance(x, ast.expr)]
        if any(name in classes for side in sides for name in _names(side)):
            yield node.lineno if hasattr(node, "lineno") else node.pattern.lineno


def mentions(tree: ast.AST, classes: Iterable[str] = CLASSES) -> Iterator[int]:
    """The lines that name a class, in strings other than docstrings as well."""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, holders) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = "" if id(node) in docstrings else node.value
        else:
            text = next(_names(node), "") if isinstance(node, ast.Name | ast.Attribute) else ""
        # whole words: there are names that end like another's
        if not set(re.findall(r"\w+", text)).isdisjoint(classes):
            yield node.lineno


def test_nobody_asks_which_loss_it_is() -> None:
    asked = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        if not is_own(path)
        for line in questions(ast.parse(path.read_text()))
    ]
    assert asked == []


def test_nobody_asks_which_miner_it_is() -> None:
    asked = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        if not is_miners_own(path)
        for line in questions(ast.parse(path.read_text()), MINERS)
    ]
    assert asked == []


def test_the_machinery_names_no_loss() -> None:
    named = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        if path.is_relative_to(ROOT / "fusedml") and not is_own(path) and not is_miners_own(path)
        for line in mentions(ast.parse(path.read_text()))
    ]
    assert named == []


def test_the_machinery_names_no_miner() -> None:
    """A loss may, of which a miner makes the pairs."""
    allowed = {ROOT / "fusedml" / "miners" / "__init__.py"}
    named = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        if path.is_relative_to(ROOT / "fusedml") and not is_own(path) and not is_miners_own(path)
        if path not in allowed
        for line in mentions(ast.parse(path.read_text()), MINERS)
    ]
    assert named == []


@pytest.mark.parametrize(
    "source",
    [
        'if name == "NPairsLoss": pass',
        'x = name not in ("SupConLoss", "other")',
        "isinstance(loss, losses.ProxyAnchorLoss)",
        "issubclass(kind, (int, SupConLoss))",
        "type(loss) is NPairsLoss",
        'match name:\n    case "NPairsLoss":\n        pass',
    ],
)
def test_a_question_is_found(source: str) -> None:
    assert len(list(questions(ast.parse(source)))) == 1
    of_miners = source.replace("Loss", "Miner")
    classes = {name.replace("Loss", "Miner") for name in CLASSES}
    assert len(list(questions(ast.parse(of_miners), classes))) == 1


@pytest.mark.parametrize(
    "source", ['f(SupConLoss, "SupConLoss")', 'x = "a" == kind', '"""SupCon"""']
)
def test_an_example_is_no_question(source: str) -> None:
    assert not list(questions(ast.parse(source)))


@pytest.mark.parametrize(
    "source", ['raise E("of NPairsLoss")', "x = losses.SupConLoss", "SupConLoss"]
)
def test_a_mention_is_found(source: str) -> None:
    assert list(mentions(ast.parse(source)))
