"""Prints the predicted times of csrc/kernels/README.md: python -m scripts.predicted_times"""

from __future__ import annotations

from collections.abc import Iterable

from .times import A100, H100, H100_LIMITED, Gpu, MmaSync, Wgmma

SIZES = (
    (65536, 128),
    (65536, 256),
    (65536, 512),
    (65536, 768),
    (65536, 1024),
    (16384, 512),
)


def milliseconds(seconds: float) -> str:
    """Two digits or three."""
    return f"{seconds * 1e3:.{1 if seconds >= 1e-3 else 2}f}"


def span(seconds: Iterable[float]) -> str:
    """One figure, or the first and the last where they differ."""
    figures = list(dict.fromkeys(map(milliseconds, seconds)))
    return " to ".join(figures)


def _rows(headings: list[str], lines: list[list[str]]) -> str:
    bar = ["---"] + ["--:"] * (len(headings) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [headings, bar, *lines])


def mma_sync_table(gpus: tuple[Gpu, ...] = (A100, H100)) -> str:
    """The kernels as they are, on two GPUs."""
    headings = ["n x d"]
    for gpu in gpus:
        headings += [f"{gpu.name}: forward", "backward B, all panels", "halved"]
    lines = []
    for n, d in SIZES:
        line = [f"{n} x {d}"]
        for gpu in gpus:
            model = MmaSync(gpu)
            line.append(span(model.forward(n, d)))
            line += [milliseconds(model.panels(n, d, triangle=t)) for t in (False, True)]
        lines.append(line)
    return _rows(headings, lines)


def wgmma_table() -> str:
    """The design for Hopper, at the full clock and at that of a GPU limited by its power."""
    headings = ["n x d", "forward", "backward A", "B, all panels", "B, halved", "best step"]
    models = Wgmma(H100), Wgmma(H100_LIMITED)
    lines = []
    for n, d in SIZES:
        line = [f"{n} x {d}", span(m.forward(n, d) for m in models)]
        line.append(span(m.rows(n, d) for m in models) if d <= 128 else "")
        line += [span(m.panels(n, d, triangle=t) for m in models) for t in (False, True)]
        line.append(span(m.forward(n, d) + m.backward(n, d) for m in models))
        lines.append(line)
    return _rows(headings, lines)


def main() -> int:
    """Prints both tables."""
    for name, table in (("mma.sync", mma_sync_table()), ("wgmma", wgmma_table())):
        print(f"{name}, in ms\n\n{table}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
