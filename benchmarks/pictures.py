"""Pictures of results: time and memory against batch size, dimension, classes; errors; parts.

And of the largest batch, time and memory of others as multiples of ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only; no display is needed

import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.accuracy import AccuracyRow
from benchmarks.cases import FORWARD_BACKWARD, has_weights
from benchmarks.harness import LEAST_ROUNDS
from benchmarks.latency import PARTS, BreakdownRow
from benchmarks.providers import DENSE, FUSED, PML, PROVIDERS
from benchmarks.results import Row
from benchmarks.tables import providers_in

Draw = Callable[[Path], None]
# one colour and mark for each provider in every picture
_COLOURS = {name: f"C{index}" for index, name in enumerate(PROVIDERS)}
_MARKS = dict(zip(PROVIDERS, "os^vDPXd*h", strict=True))
# a line needs some points
_LEAST_POINTS = 3
_MOST_PANELS = 6
# those that a loss is compared with in one picture, and how many losses make one
_PEERS = (DENSE, PML)
_LEAST_LOSSES = 6


def pictures(rows: Sequence[object]) -> dict[str, Draw]:
    """What can be drawn of the rows of a results file: {name: function of the path}.

    "n", "d" and "classes" where some loss has at least three of them; "ratios" where several losses
    were measured with the peers; "errors"; "parts".
    """
    accuracy = [row for row in rows if isinstance(row, AccuracyRow)]
    if accuracy:
        return {"errors": partial(draw_errors, accuracy)}
    breakdown = [row for row in rows if isinstance(row, BreakdownRow)]
    if breakdown:
        return {"parts": partial(draw_parts, breakdown)}
    sizes = [row for row in rows if isinstance(row, Row)]
    found: dict[str, Draw] = {}
    for name, (label, size, others) in _AXES.items():
        panels: dict[str, list[Row]] = {}
        for row in sizes:
            if name != "classes" or has_weights(row.loss):
                panels.setdefault(others(row), []).append(row)
        shown = {
            title: own
            for title, own in panels.items()
            if len({size(row) for row in own}) >= _LEAST_POINTS
        }
        if shown:
            first = dict(list(shown.items())[:_MOST_PANELS])
            found[name] = partial(draw_costs, first, label, size)
    if len(compared := _compared(sizes)) >= _LEAST_LOSSES:
        found["ratios"] = partial(draw_ratios, compared)
    return found


def _compared(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """{loss: {provider: row}} of the largest batch, of losses that all of _PEERS computed."""
    chosen = [row for row in rows if row.direction == FORWARD_BACKWARD and row.outcome == "ok"]
    n = max((row.n for row in chosen), default=0)
    d = min((row.d for row in chosen if row.n == n), default=0)
    found: dict[str, dict[str, Row]] = {}
    for row in chosen:
        if (row.n, row.d) == (n, d) and row.peak_extra_mb > 0:
            found.setdefault(row.loss, {})[row.provider] = row
    return {loss: own for loss, own in found.items() if {FUSED, *_PEERS} <= own.keys()}


_AXES: dict[str, tuple[str, Callable[[Row], int], Callable[[Row], str]]] = {
    "n": (
        "batch size",
        lambda row: row.n,
        lambda row: (
            f"{row.loss}\n{row.m} classes, d = {row.d}" + _kind(row)
            if has_weights(row.loss)
            else f"{row.loss}\nd = {row.d}" + _kind(row)
        ),
    ),
    "d": (
        "dimension",
        lambda row: row.d,
        lambda row: f"{row.loss}\nn = {row.n}" + _kind(row),
    ),
    "classes": (
        "classes",
        lambda row: row.m,
        lambda row: f"{row.loss}\nn = {row.n}, d = {row.d}" + _kind(row),
    ),
}


def _kind(row: Row) -> str:
    references = f", {row.references} references" if row.references else ""
    direction = "" if row.direction == "forward+backward" else ", forward"
    return references + (f", {row.dtype}" if row.dtype != "float32" else "") + direction


def draw_costs(
    panels: dict[str, list[Row]], label: str, size: Callable[[Row], int], path: Path
) -> None:
    """Milliseconds above, MB below, both axes logarithmic; a column for each panel."""
    width = 3.4 * len(panels) + 1.2
    figure, axes = plt.subplots(
        2, len(panels), figsize=(width, 6.4), squeeze=False, sharex="col", layout="constrained"
    )
    for column, (title, rows) in enumerate(panels.items()):
        times, peaks = axes[0][column], axes[1][column]
        times.set_title(title, fontsize=9)
        for name in providers_in(rows):
            own = sorted(
                (row for row in rows if row.provider == name and row.outcome == "ok"), key=size
            )
            _draw_line(times, name, [size(row) for row in own], [row.median_ms for row in own])
            few = [row for row in own if row.rounds < LEAST_ROUNDS]
            _ring(times, [size(row) for row in few], [row.median_ms for row in few])
            _draw_line(peaks, name, [size(row) for row in own], [row.peak_extra_mb for row in own])
        products = {size(row): row.products_ms for row in rows if not math.isnan(row.products_ms)}
        at = sorted(products)
        times.plot(at, [products[x] for x in at], "k:", linewidth=1, label="bare products")
        for axis in (times, peaks):
            axis.set_xscale("log", base=10 if label == "classes" else 2)
            axis.set_yscale("log")
            axis.grid(alpha=0.3)
        peaks.set_xlabel(label)
    axes[0][0].set_ylabel("time of a step, ms")
    axes[1][0].set_ylabel("peak memory above the inputs, MB")
    _legend(figure)
    first = next(iter(panels.values()))[0]
    _finish(figure, path, f"{first.device}, {first.threads} threads, torch {first.torch}")


def _ring(axis: Axes, sizes: list[int], values: list[float]) -> None:
    """Marks the times of fewer than LEAST_ROUNDS rounds."""
    if sizes:
        label = f"fewer than {LEAST_ROUNDS} rounds"
        axis.plot(sizes, values, "o", color="black", mfc="none", markersize=8, label=label)


def _draw_line(axis: Axes, name: str, sizes: list[int], values: list[float]) -> None:
    # 0 MB, a step within memory that was there already, has no logarithm
    points = [(x, y) for x, y in zip(sizes, values, strict=True) if y > 0]
    axis.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=_COLOURS.get(name, "grey"),
        marker=_MARKS.get(name, "."),
        markersize=4,
        linewidth=2 if name == FUSED else 1.2,
        label=name,
    )


def draw_ratios(losses: dict[str, dict[str, Row]], path: Path) -> None:
    """Time and memory of the peers as multiples of fusedml's: a bar for each loss and peer."""
    figure, axes = plt.subplots(
        1, 2, figsize=(9, 1.4 + 0.26 * len(losses)), sharey=True, layout="constrained"
    )
    for axis, column, title in zip(
        axes, ("median_ms", "peak_extra_mb"), ("time of a step", "memory above inputs"), strict=True
    ):
        ours = [getattr(own[FUSED], column) for own in losses.values()]
        for index, peer in enumerate(_PEERS):
            theirs = [getattr(own[peer], column) for own in losses.values()]
            ratios = [large / small for large, small in zip(theirs, ours, strict=True)]
            at = [row + (index - 0.5) * 0.38 for row in range(len(losses))]
            axis.barh(at, ratios, 0.36, color=_COLOURS[peer], label=peer)
        axis.axvline(1, color=_COLOURS[FUSED], linewidth=2, label=FUSED)
        axis.set(xscale="log", xlabel=f"{title}, multiples of fusedml's")
        axis.set_xticks(ticks := (1, 2, 5, 10, 20, 50), [f"{tick}x" for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3, axis="x")
    axes[0].set_yticks(range(len(losses)), list(losses), fontsize=8)
    axes[0].invert_yaxis()
    _legend(figure)
    row = next(iter(losses.values()))[FUSED]
    _finish(figure, path, f"n = {row.n}, d = {row.d}; {row.device}, {row.threads} threads")


def draw_errors(rows: Sequence[AccuracyRow], path: Path) -> None:
    """Relative errors of value and gradient by number type: a mark for each loss and provider."""
    kinds = list(dict.fromkeys((row.dtype, row.precision) for row in rows))
    names = providers_in(rows)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    for axis, quantity in zip(axes, ("value_error", "gradient_error"), strict=True):
        for index, name in enumerate(names):
            shift = (index - (len(names) - 1) / 2) * 0.15
            own = [row for row in rows if row.provider == name and row.outcome == "ok"]
            axis.plot(
                [kinds.index((row.dtype, row.precision)) + shift for row in own],
                # an exact result is shown at the bottom
                [max(getattr(row, quantity), 1e-17) for row in own],
                linestyle="none",
                marker=_MARKS.get(name, "."),
                color=_COLOURS.get(name, "grey"),
                markersize=4,
                label=name,
            )
        labels = [dtype if mode == "highest" else f"{dtype}\n{mode}" for dtype, mode in kinds]
        axis.set_xticks(range(len(kinds)), labels)
        axis.set_yscale("log")
        axis.grid(alpha=0.3)
        axis.set_title(quantity.replace("_", " ") + ", relative to float64", fontsize=10)
    _legend(figure)
    _finish(figure, path, f"a mark for each loss; n = {rows[0].n}, d = {rows[0].d}")


def draw_parts(rows: Sequence[BreakdownRow], path: Path) -> None:
    """A bar for each batch size, stacked from the parts of the step; a panel for each loss."""
    losses = list(dict.fromkeys(row.loss for row in rows))
    figure, axes = plt.subplots(
        1, len(losses), figsize=(2.3 * len(losses) + 2, 4.2), squeeze=False, layout="constrained"
    )
    for axis, loss in zip(axes[0], losses, strict=True):
        own = [row for row in rows if row.loss == loss]
        sizes = sorted({row.n for row in own})
        bottom = [0.0] * len(sizes)
        for part in PARTS:
            heights = {row.n: row.part_ms for row in own if row.part == part}
            values = [heights.get(n, 0.0) for n in sizes]
            axis.bar(range(len(sizes)), values, bottom=bottom, label=part)
            bottom = [low + high for low, high in zip(bottom, values, strict=True)]
        axis.set_xticks(range(len(sizes)), [str(n) for n in sizes], fontsize=8)
        axis.set_title(loss.removesuffix("Loss"), fontsize=8)
        axis.set_xlabel("batch size")
    axes[0][0].set_ylabel("milliseconds of a fusedml step")
    _legend(figure)
    _finish(figure, path, f"d = {rows[0].d}, {rows[0].threads} threads, {rows[0].device}")


def _legend(figure: Figure) -> None:
    """One legend below all panels, of everything that is in any of them."""
    found: dict[str, Artist] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=max(1, min(4, len(found), int(figure.get_figwidth() / 2.3))),
        fontsize=8,
        frameon=False,
    )


def _finish(figure: Figure, path: Path, title: str) -> None:
    figure.suptitle(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
