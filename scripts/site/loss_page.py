"""The page of a loss, made of its class and of the results files."""

from __future__ import annotations

import inspect
import re
from functools import cache
from importlib import metadata

from pytorch_metric_learning import losses as pml

from benchmarks import report, tables
from benchmarks.cases import FORWARD_BACKWARD, MEASURED
from benchmarks.results import RESULTS, Row, read_rows
from fusedml import functional
from fusedml.losses.base import BaseLoss
from fusedml.losses.distillation import DistillationLoss
from fusedml.losses.multi_input import MultiInputLoss
from scripts.site.docstrings import verbatim
from scripts.site.weights import has_pair_weights

_PML = "pytorch-metric-learning"


def loss_page(name: str) -> str:
    """Markdown, with the drawing beside it under the name of the loss."""
    loss = MEASURED[name]
    members = [member for member in vars(loss) if member in _public_methods(loss)]
    return "\n\n".join(
        [
            f"::: {loss.__module__}.{name}\n"
            "    options:\n"
            "      heading_level: 1\n"
            f"      members: {['forward', *(m for m in members if m != 'forward')]}\n"
            "      inherited_members: [forward]",
            *_further_arguments(loss),
            f"## As a function\n\n```python\n{_function(loss)}\n```",
            *_pair_weights(name),
            f"## Time and memory\n\n{_figures(name)}",
            *_graphs(loss),
            f"## {_PML}\n\n{_compared(loss)}",
        ]
    )


def _public_methods(loss: type) -> list[str]:
    return [
        name
        for name, member in vars(loss).items()
        if not name.startswith("_") and inspect.isfunction(member) and member.__doc__
    ]


def _pair_weights(name: str) -> list[str]:
    if not has_pair_weights(name):
        if issubclass(MEASURED[name], DistillationLoss):
            why = "what a pair weighs depends on what the teacher says of it"
        else:
            why = "the loss sees more of two rows than their similarity"
        return [f"## Pair weights\n\nThere is no picture of them: {why}."]
    return [
        f"## Pair weights\n\n![What a pair weighs against its similarity]({name}.svg)\n\n"
        f"dL/ds of `{name}` with its default arguments, differentiated on a small made batch: how "
        "hard a step pulls a positive pair together (below 0) or pushes a negative pair apart "
        "(above 0). On the right one pair moves, and nothing else."
    ]


def _further_arguments(loss: type) -> list[str]:
    if not issubclass(loss, BaseLoss):
        return []
    return ["The further keyword arguments are those of [every loss](../reference/losses.md)."]


def _graphs(loss: type) -> list[str]:
    if not getattr(loss, "waits_for_host", False):
        return []
    return [
        "On a GPU a step waits for the number of positives, so no "
        "[CUDA graph](../guides/large-batches.md#cuda-graphs) holds it."
    ]


def _function(loss: type[BaseLoss | MultiInputLoss]) -> str:
    name = functional.name_of(loss)
    found = inspect.signature(getattr(functional, name)).parameters.values()
    parameters = [re.sub(r": '([^']*)'", r": \1", str(parameter)) for parameter in found]
    kinds = [parameter.kind for parameter in found]
    if inspect.Parameter.KEYWORD_ONLY in kinds:
        parameters.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    lines = "".join(f"    {parameter},\n" for parameter in parameters)
    return f"fusedml.functional.{name}(\n{lines})"


def _figures(name: str) -> str:
    parts = []
    for section in report.SECTIONS:
        path = RESULTS / section.file
        if section.kind is not Row or not path.exists():
            continue
        rows = _rows(section.file)
        own = [row for row in rows if row.loss == name and row.direction == FORWARD_BACKWARD]
        if own:
            text = f"{tables.sizes_table(own)}\n\n{report.origin(own)}"
            parts.append(f"**{section.name.capitalize()}.**\n\n{text}")
    if not parts:
        return (
            f"Not measured yet: `python -m fusedml bench --suite losses`, or `--losses {name}` for "
            "this one alone."
        )
    intro = (
        "Milliseconds of a step forward and backward, and peak memory above the inputs (1 MB = "
        "10^6^ bytes). [Measurements](../measurements.md) says how they are taken."
    )
    return "\n\n".join([intro, *parts])


@cache
def _rows(file: str) -> list[Row]:
    return read_rows(RESULTS / file)


def _compared(loss: type) -> str:
    """Whether the two packages agree, and each sentence of the docstring that names the other."""
    name = loss.__name__
    if not hasattr(pml, name):
        return f"{_PML} {metadata.version('pytorch-metric-learning')} has no `{name}`."
    text = [
        f"Constructor, call, default values, loss and gradient are those of "
        f"`pytorch_metric_learning.losses.{name}` "
        f"(version {metadata.version('pytorch-metric-learning')}); the tests compare them."
    ]
    deviations = deviations_of(loss)
    if deviations:
        text += ["But:", "\n".join(f"* {deviation}" for deviation in deviations)]
    return "\n\n".join(text)


def deviations_of(loss: type) -> list[str]:
    """Sentences of the docstring that name the other package, Markdown, and what its flags say."""
    paragraphs = re.split(r"\n\s*\n|\n(?=    \w+: )", inspect.getdoc(loss) or "")
    sentences = [
        re.sub(r"\s+", " ", sentence).strip()
        for paragraph in paragraphs
        for sentence in re.split(r"(?<=[.;])  ", paragraph.replace("\n", " "))
    ]
    found = [verbatim(sentence) for sentence in sentences if _PML in sentence]
    if not getattr(loss, "agrees_with_pml_on_references", True):
        found.append("With `ref_emb` the values differ.")
    if not getattr(loss, "agrees_with_pml_on_equal_embeddings", True):
        found.append("Where two embeddings are equal its gradient is NaN, and this one is finite.")
    return found
