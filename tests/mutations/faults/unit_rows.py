"""Rows of length one, and their gradient."""

from .fault import Fault

FAULTS = {
    "squares_of_large_numbers_overflow": Fault(
        "kernels/normalize.cuh", "largest > kLarge ? kFactor : Real(1)", "Real(1)", "normalize"
    ),
    "rows_without_a_direction_have_one": Fault(
        "kernels/normalize.cuh",
        "if (root < Real(kLeastNorm) * scale) root = Real(INFINITY);",
        "",
        "normalize",
    ),
    "infinite_rows_have_a_direction": Fault(
        "kernels/normalize.cuh", "std::isinf(squares) ? Real(NAN) : ", "", "normalize"
    ),
    "unit_rows_in_the_given_order": Fault(
        "kernels/normalize.cuh", "arguments.order ? arguments.order[row] : row", "row", "normalize"
    ),
    "gradient_of_another_row": Fault(
        "kernels/normalize.cuh",
        "arguments.places ? arguments.places[row] : row",
        "row",
        "normalize",
    ),
    "gradient_along_the_row_left_in": Fault(
        "kernels/normalize.cuh", " - chunk.x[e] * inverse * along", "", "normalize"
    ),
    "chunks_behind_the_row_are_written": Fault(
        "core/row_chunk.cuh",
        "if (depth + e < dim) row[depth + e]",
        "row[depth + e]",
        "normalize",
        variant="asan",
    ),
}
