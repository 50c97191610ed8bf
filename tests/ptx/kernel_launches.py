"""How the host code launches every kernel: threads of a block, bytes of dynamic shared memory.

    python tests/ptx/kernel_launches.py --write  writes kernel_launches.csv anew

Nothing is executed: the emulated library's host code runs, and its launches are written down.
"""

import csv
import os
import sys
from pathlib import Path

import numpy as np
from kernel_api import (
    FORMS,
    MEASURES,
    NUMBER_TYPES,
    ExtremePairs,
    GradientOutputs,
    KernelLibrary,
    ListedPairs,
    Normalization,
    PairSums,
    PairSumsOutputs,
    PairWindows,
    PositivePairs,
    RowHead,
    SecondProduct,
    SortedPairs,
    StatisticsOutputs,
    Thresholds,
    gradient_options,
    sweep_options,
)
from kernel_library import short_name
from kernel_problem import SmallGroups, SmallProblem
from sources import ROOT

TABLE = Path(__file__).resolve().parent / "kernel_launches.csv"


class NoExecution:
    """Stands where the interpreter's module would."""

    def launch(self, *arguments, **options):
        pass


def find_library():
    """Path of the emulated kernels: FUSEDML_EMULATED_MODULE, or the newest in build/, or None."""
    if path := os.environ.get("FUSEDML_EMULATED_MODULE"):
        return path
    found = (ROOT / "build").rglob("fusedml_emulated_kernels*.so")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def recorded_launches(library):
    """{(number type, short name): (threads, bytes)} of every kernel."""
    found = {}
    for number_type in NUMBER_TYPES:
        library.start(NoExecution(), 1 << 24)
        _run_groups(SmallGroups(library, number_type, "maximum", 9, 5, 3, 20))
        _note(found, library, number_type)
        for measure in MEASURES:
            library.start(NoExecution(), 1 << 24)
            for d in (20, 72, 130):  # route A has two kernels, for d up to 64 and up to 128
                _run_operators(SmallProblem(library, number_type, measure, 9, 6, d))
            # so many columns that route A divides them
            _run_operators(SmallProblem(library, number_type, measure, 9, 600, 4))
            # so many rows that several blocks look for the scale of fp16's weights
            _run_operators(SmallProblem(library, number_type, measure, 1366, 6, 4))
            _note(found, library, number_type)
    return found


def _note(found, library, number_type):
    for name, threads, shared_bytes in library.launched:
        key, numbers = (number_type, short_name(name)), (threads, shared_bytes)
        assert found.setdefault(key, numbers) == numbers, key


def _run_groups(p):
    statistics, rows = p.zeros(2, p.n), p.n
    outputs, sweep = StatisticsOutputs(statistics, None, None, None), sweep_options()
    p.library.call("pair_statistics", p.struct, RowHead(), outputs, sweep, workspace=[sweep])
    num_vectors, logit_grad = p.w.shape[0] * p.w.shape[1], p.zeros(4, dtype=np.float64)
    outputs = GradientOutputs(p.zero_embeddings(rows), p.zero_embeddings(num_vectors), logit_grad)
    arguments, options = [statistics, statistics, outputs], gradient_options("auto")
    p.library.call("pair_gradient", p.struct, *arguments, options, workspace=[outputs, options])


def _run_operators(p):
    library, rows = p.library, p.n
    statistics, losses = p.zeros(3, rows), p.zeros(rows)
    outputs = StatisticsOutputs(statistics, None, None, None)
    for tile_size in ("large", "small"):
        sweep = sweep_options(tile_size=tile_size)
        library.call("pair_statistics", p.struct, RowHead(), outputs, sweep, workspace=[sweep])
        library.call("pair_extrema", p.struct, p.zeros(2, rows), sweep, workspace=[sweep])
    pairs = PositivePairs(0, p.zeros(p.m))
    outputs = StatisticsOutputs(statistics, None, losses, None)
    library.call("positive_pair_losses", p.struct, pairs, outputs, sweep, workspace=[sweep])
    indices = p.zeros(8, dtype=np.int64)
    listed, ordered = ListedPairs(indices, indices, 8), SortedPairs(indices, indices)
    library.call("pair_values", p.struct, listed, p.zeros(8), workspace=None)
    gradients = GradientOutputs(p.zero_embeddings(rows), None, None)
    arguments = [listed, ordered, ordered, p.zeros(8), gradients]
    library.call("pair_values_gradient", p.struct, *arguments, workspace=[listed])
    for form, count in (("hinge", 33), ("pulse", 3)):
        against = Thresholds(p.zeros(rows, count), count, FORMS.index(form), 0, 1)
        library.call(
            "threshold_sums",
            p.struct,
            against,
            p.zeros(3, rows, count),
            sweep,
            workspace=[against, sweep],
        )
    options = gradient_options("auto")
    arguments = [against, p.zeros(2, rows, count), p.zeros(rows), gradients, options]
    library.call(
        "threshold_gradient", p.struct, *arguments, workspace=[against, gradients, options]
    )
    has_two = p.number_type in ("bf16", "fp16")
    for is_float in (False, True)[: 1 + has_two]:
        type_index = NUMBER_TYPES.index(p.number_type)
        given = Normalization(type_index, is_float, p.zeros(rows, p.d), None, None, rows, p.d)
        arrays = [p.zero_embeddings(rows), p.zeros(rows)]
        library.call("normalize_rows", given, *arrays, workspace=None)
        arrays = [p.zeros(rows), p.zero_embeddings(rows), p.zeros(rows, p.d)]
        library.call("normalize_rows_gradient", given, *arrays, workspace=None)
    logit_grad = p.zeros(4, dtype=np.float64)
    outputs = GradientOutputs(p.zero_embeddings(rows), p.zero_embeddings(p.m), logit_grad)
    if p.measure == "dot":  # one kernel serves all measures
        _run_of_any_measure(p, outputs)
    for route, tile_size in (("rows", "large"), ("panel", "large"), ("panel", "small")):
        options = gradient_options(route, tile_size=tile_size)
        library.call(
            "pair_gradient",
            p.struct,
            statistics,
            statistics,
            outputs,
            options,
            workspace=[outputs, options],
        )


def _run_of_any_measure(p, outputs):
    numbers, shifts = p.zeros(2, p.n, dtype=np.int64), p.zeros(2, p.n)
    sweep, options = sweep_options(), gradient_options("auto")
    extremes = [ExtremePairs(), p.zeros(2, p.n), numbers]
    p.library.call("extreme_pairs", p.struct, *extremes, sweep, workspace=[sweep])
    windows = PairWindows(p.zeros(2, 3, p.n), 128)
    p.library.call("window_counts", p.struct, windows, p.zeros(2 * p.n * p.m), workspace=[])
    against = Thresholds(p.zeros(p.n, 1), 1, FORMS.index("hinge"), 0, 1, others=p.struct.anchors)
    harder = [against, p.zeros(3, p.n), sweep]
    p.library.call("threshold_sums", p.struct, *harder, workspace=[against, sweep])
    gradients = GradientOutputs(p.zero_embeddings(p.n), None, None)
    harder = [against, p.zeros(p.n), p.zeros(p.n), gradients, options]
    p.library.call("threshold_gradient", p.struct, *harder, workspace=[against, gradients, options])
    below = p.zeros(p.n, 2), 2, p.zeros(p.n, 2, dtype=np.int64)
    p.library.call("threshold_pairs", p.struct, *below, sweep, workspace=[2, sweep])
    sums = PairSums(num_terms=1, shifts=shifts)
    of_sums = PairSumsOutputs(p.zeros(1, p.n), p.zeros(1, p.n), numbers, numbers)
    p.library.call("pair_sums", p.struct, sums, of_sums, sweep, workspace=[sums, sweep])
    arguments = [sums, p.zeros(1, p.n), p.zeros(1, p.n), outputs, shifts, options]
    p.library.call("pair_sums_gradient", p.struct, *arguments, workspace=[sums, outputs, options])
    second = SecondProduct(p.struct.anchors, p.d)
    rows, line = p.zeros(2, p.n), p.zeros(p.n)
    p.library.call(
        "row_divergences", p.struct, second, line, rows, sweep, workspace=[second, sweep]
    )
    arguments = [second, line, rows, line, outputs, options]
    p.library.call(
        "row_divergences_gradient", p.struct, *arguments, workspace=[second, outputs, options]
    )


def read_table():
    """The committed launches, as recorded_launches gives them."""
    with open(TABLE, newline="") as file:
        return {
            (row["number_type"], row["kernel"]): (
                int(row["threads"]),
                int(row["dynamic_shared_bytes"]),
            )
            for row in csv.DictReader(file)
        }


def write_table(launches):
    with open(TABLE, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["number_type", "kernel", "threads", "dynamic_shared_bytes"])
        writer.writerows([*key, *numbers] for key, numbers in sorted(launches.items()))


if __name__ == "__main__":
    launches = recorded_launches(KernelLibrary(find_library()))
    if "--write" in sys.argv:
        write_table(launches)
    elif launches != read_table():
        sys.exit("the launches differ from kernel_launches.csv")
