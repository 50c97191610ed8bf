"""Drawings of the site, as SVG."""

from __future__ import annotations

import io
from collections.abc import Callable

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from scripts.site.weights import all_pairs, swept

# the same bytes for the same picture
matplotlib.rcParams["svg.hashsalt"] = "fusedml"
_KINDS = ((True, "positive", "C0"), (False, "negative", "C3"))


def svg(figure: Figure) -> str:
    """The text of a figure's SVG file."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def weights_drawing(name: str) -> str:
    """The pair weights of a loss: all pairs of its batch, and two pairs that move."""
    figure = Figure(figsize=(8, 3))
    # a layout that is found takes as long as the drawing
    figure.subplots_adjust(left=0.1, right=0.99, bottom=0.17, top=0.91, wspace=0.1)
    cloud, curves = figure.subplots(1, 2, sharey=True)
    similarity, weight, is_positive = all_pairs(name)
    # without the ends, where rows coincide: the slope of a Euclidean distance is infinite there
    angles = torch.linspace(0.2, torch.pi - 0.05, 61, dtype=torch.float64)
    for kind, label, colour in _KINDS:
        chosen = is_positive == kind
        cloud.plot(similarity[chosen], weight[chosen], ".", color=colour, label=label)
        curves.plot(*swept(name, kind, angles), color=colour, label=label)
    _label(cloud, "all pairs of a small batch")
    _label(curves, "one pair, the others at rest")
    cloud.set_ylabel("weight dL/ds")
    cloud.legend()
    return svg(figure)


def _label(axes: Axes, title: str) -> None:
    axes.axhline(0, color="grey", linewidth=0.5)
    axes.set(title=title, xlabel="similarity s", xlim=(-1.05, 1.05))
    axes.grid(alpha=0.3)


def tiles_drawing() -> str:
    """The tiles of a batch against itself, and what one of them gives."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    size, row, column = 8, 2, 5
    for i in range(size):
        for j in range(size):
            colour = "C0" if (i, j) == (row, column) else "C9" if j >= i else "white"
            axes.add_patch(Rectangle((j, -i - 1), 1, 1, facecolor=colour, edgecolor="grey"))
    axes.text(column + 0.5, -row - 0.5, "tile", ha="center", va="center", color="white")
    for name, x, y, width, height in (
        ("statistics of rows I", size + 1.0, -row - 1.0, 0.5, 1.0),
        ("statistics of rows J", column, -size - 1.2, 1.0, 0.5),
    ):
        axes.add_patch(Rectangle((x, y), width, height, facecolor="C1", edgecolor="grey"))
        axes.text(x + width + 0.3, y + height / 2, name, va="center")
    arrow = {"arrowstyle": "->", "color": "C1", "lw": 2}
    axes.annotate("", (size + 1, -row - 0.5), (column + 1, -row - 0.5), arrowprops=arrow)
    axes.annotate("", (column + 0.5, -size - 0.7), (column + 0.5, -row - 1), arrowprops=arrow)
    axes.text(-0.3, -row - 0.5, "rows I", ha="right", va="center")
    axes.text(column + 0.5, 0.3, "rows J", ha="center")
    axes.text(1.6, -6.5, "never computed:\nthe mirror image", ha="center", va="center")
    axes.set(xlim=(-2.5, 16), ylim=(-10, 1), aspect="equal")
    axes.axis("off")
    return svg(figure)


def step_drawing() -> str:
    """A step, forward and backward, and what is kept between."""
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.subplots()
    boxes = (
        (0, 1, "embeddings\n[n, d]", "C9"),
        (3, 1, "tiles of s,\nlogits z", "white"),
        (6, 1, "row statistics:\nlse+ , lse-, sum+", "C1"),
        (9, 1, "head: L_i", "white"),
        (9, -0.6, "dL_i / d statistics", "white"),
        (6, -0.6, "tiles again:\nweights w", "white"),
        (3, -0.6, "products with\nembeddings", "white"),
        (0, -0.6, "gradient\n[n, d]", "C9"),
    )
    for x, y, text, colour in boxes:
        axes.add_patch(Rectangle((x, y), 2.3, 0.9, facecolor=colour, edgecolor="grey"))
        axes.text(x + 1.15, y + 0.45, text, ha="center", va="center", fontsize=9)
    arrow = {"arrowstyle": "->", "color": "grey", "lw": 1.5}
    for end in (2.3, 5.3, 8.3):
        axes.annotate("", (end + 0.7, 1.45), (end, 1.45), arrowprops=arrow)
        axes.annotate("", (end, -0.15), (end + 0.7, -0.15), arrowprops=arrow)
    axes.annotate("", (10.15, 0.3), (10.15, 1), arrowprops=arrow)
    axes.annotate("", (7.15, 0.3), (7.15, 1), arrowprops={**arrow, "color": "C1"})
    axes.text(7.3, 0.65, "kept: a few numbers a row", va="center", fontsize=9, color="C1")
    axes.set(xlim=(-0.2, 11.5), ylim=(-0.8, 2.1), aspect="equal")
    axes.axis("off")
    return svg(figure)


DRAWINGS: dict[str, Callable[[], str]] = {"tiles": tiles_drawing, "step": step_drawing}
