"""Seconds of the sweeps, from tiles, waves of blocks and shares of the tensor cores' peak."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil

from .overlap import tensor_share

LAUNCH = 4e-6  # seconds
PANEL_SIDE = 4096
TILE_PAIRS = 128 * 256  # of a block of the wgmma sweeps


@dataclass(frozen=True)
class Gpu:
    """flops: of 16-bit products, per cycle of a multiprocessor.  hertz: under load."""

    name: str
    multiprocessors: int
    flops: float
    hertz: float


A100 = Gpu("A100", 108, 2048, 1.41e9)
H100 = Gpu("H100", 132, 4096, 1.755e9)
H100_LIMITED = Gpu("H100, limited by its power", 132, 4096, 1.55e9)


@cache
def _tile_cycles(d: int, epilogue_fixed: float) -> float:
    """Of a tile of 128 x 256 similarities with its epilogue."""
    return 16 * d / tensor_share(d, epilogue_fixed=epilogue_fixed)


class Wgmma:
    """The design for Hopper's own instructions: csrc/hopper."""

    FORWARD_FIXED, WEIGHTS_FIXED = 350.0, 700.0  # cycles of an epilogue beside its exponentials
    # widths of the product's tile, and the share of the peak that each reaches
    PRODUCT_SHARES = ((256, 0.84), (192, 0.80), (128, 0.72))
    ROWS_SHARE = 0.70  # of route A
    MMA_SHARE = 0.45  # of the tiles that are not plain, on mma.sync
    UNEVEN = 1.03  # blocks do not end at the same time

    def __init__(self, gpu: Gpu = H100) -> None:
        self.gpu = gpu

    def forward(self, n: int, d: int) -> float:
        """A self problem: the tiles on and above the diagonal."""
        gpu = self.gpu
        tiles = n * n / TILE_PAIRS / 2 + n / 128
        waves = ceil(tiles / gpu.multiprocessors * self.UNEVEN)
        launches = max(2, round(tiles * 28 / TILE_PAIRS / 16) + 2)
        special = 1.5 * n / 128 * 2 * 2  # 128 x 128 tiles with positives or the diagonal, twice
        turns = ceil(special / (2 * gpu.multiprocessors)) * 2
        of_special = turns * 2 * 128 * 128 * d / gpu.flops / self.MMA_SHARE
        cycles = waves * _tile_cycles(d, self.FORWARD_FIXED) + of_special
        return cycles / gpu.hertz + launches * LAUNCH

    def rows(self, n: int, d: int) -> float:
        """Backward, route A: the rectangle, 4 n^2 d operations."""
        blocks = ceil(n / 128 / self.gpu.multiprocessors)
        cycles = blocks * (n / 128) * 4 * 128 * 128 * d / self.gpu.flops / self.ROWS_SHARE
        return cycles / self.gpu.hertz + LAUNCH

    def panels(self, n: int, d: int, *, triangle: bool) -> float:
        """Backward, route B: all panels, or those on and above the diagonal."""
        gpu, side = self.gpu, max(1, n // PANEL_SIDE)
        tiles = PANEL_SIDE * PANEL_SIDE / TILE_PAIRS
        of_weights = ceil(tiles / gpu.multiprocessors) * _tile_cycles(d, self.WEIGHTS_FIXED)
        weights = of_weights / gpu.hertz + LAUNCH
        if not triangle:
            return side * side * (weights + self._product(d, 1))
        off_diagonal, diagonal = side * (side - 1) // 2, side
        return (
            (off_diagonal + diagonal) * weights
            + off_diagonal * self._product(d, 2)
            + diagonal * self._product(d, 1)
        )

    def _product(self, d: int, count: int) -> float:
        """`count` products of one panel, in one launch."""

        def seconds(width: int, share: float) -> float:
            tiles = PANEL_SIDE / 128 * ceil(d / width) * count
            cycles = 2 * PANEL_SIDE * 128 * width / self.gpu.flops / share
            waves = ceil(tiles / self.gpu.multiprocessors)
            return waves * cycles / self.gpu.hertz + LAUNCH + 1.5e-6

        return min(seconds(width, share) for width, share in self.PRODUCT_SHARES)

    def backward(self, n: int, d: int) -> float:
        """The faster one of the routes that there are for d."""
        routes = [self.panels(n, d, triangle=True)]
        return min([*routes, self.rows(n, d)] if d <= 128 else routes)


class MmaSync:
    """The kernels as they are.

    The forward takes the instructions of its machine code, tests/ptx/test_kernel_budgets.py; the
    backward counts as kernels/gradient_plan.h does, in products of 128 x 128 x 128.
    """

    MAIN_LOOP, EPILOGUE = 215, 7.5  # instructions of a slice; of a pair, of which a thread has 64
    WARPS, SCHEDULERS = 8, 4
    FORWARD_FLOPS, BACKWARD_FLOPS = 0.60 * 4096, 0.45 * 4096  # that mma.sync reaches per cycle

    def __init__(self, gpu: Gpu = H100) -> None:
        self.gpu = gpu

    def forward(self, n: int, d: int) -> tuple[float, float]:
        """A self problem; the second block of a multiprocessor hides all epilogues, or none."""
        gpu, slices = self.gpu, ceil(d / 64)
        flops = min(self.FORWARD_FLOPS, gpu.flops)
        issue = self.WARPS / self.SCHEDULERS
        tile = slices * max(2 * 128 * 128 * 64 / flops, self.MAIN_LOOP * issue)
        epilogue = 64 * self.EPILOGUE * issue
        tiles = ceil((n * n / 128 / 128 / 2 + n / 128 / 2) / gpu.multiprocessors)
        launches = max(1, n // 2048) * LAUNCH
        least = tiles * tile / gpu.hertz + launches
        return least, least + tiles * epilogue / gpu.hertz

    def panels(self, n: int, d: int, *, triangle: bool) -> float:
        """Backward, route B, whose rectangle has panels of 5632 x 2944 where d is large."""
        tiles, dim_tiles = n / 128, ceil(d / 128)
        if triangle:
            side = PANEL_SIDE // 128
            count = max(1, int(tiles // side))
            off_diagonal = count * (count - 1) / 2
            units = off_diagonal * self._panel(side, side, dim_tiles, feeds_cols=True)
            units += count * self._panel(side, side, dim_tiles, feeds_cols=False)
        else:
            rows, cols = min(44, tiles), min(23, tiles)
            units = tiles / rows * (tiles / cols)
            units *= self._panel(rows, cols, dim_tiles, feeds_cols=False)
        flops = min(self.BACKWARD_FLOPS, self.gpu.flops)
        return units * 2 * 128**3 / flops / self.gpu.hertz

    def _panel(self, rows: float, cols: float, dim_tiles: int, *, feeds_cols: bool) -> float:
        """kernels/gradient_plan.h, panel_time."""

        def turns(blocks: float) -> float:
            most = ceil(blocks / self.gpu.multiprocessors)
            return most + (0.3 if most % 2 else 0)

        lines = rows + (cols if feeds_cols else 0)
        depth = max(rows, cols) if feeds_cols else cols
        weights = turns(rows * cols) * (dim_tiles + 1)
        return weights + turns(lines * dim_tiles) * (depth + 2) + 4
