"""The gradient, by rows and by panels of weights."""

from .fault import Fault

FAULTS = {
    "transposed_pair_left_out": Fault(
        "kernels/pair_weight.cuh", "(of_row + of_col) *", "of_row *", "gradient_rows"
    ),
    "negatives_of_columns_left_out_rows": Fault(
        "kernels/negative_weights.cuh",
        "(rows.negatives.factor[map.row(i)] + of_col)",
        "rows.negatives.factor[map.row(i)]",
        "gradient_rows",
    ),
    "negatives_of_columns_left_out_panel": Fault(
        "kernels/negative_weights.cuh",
        "(rows.negatives.factor[map.row(i)] + of_col)",
        "rows.negatives.factor[map.row(i)]",
        "gradient_panel",
    ),
    "negatives_of_another_column": Fault(
        "kernels/negative_weights.cuh",
        "cols.negatives.factor[map.col(j)]",
        "cols.negatives.factor[map.col(0)]",
        "gradient_panel",
    ),
    "far_rows_have_a_common_exponential": Fault(
        "kernels/negative_weights.cuh",
        "rows.negatives.are_near(map.warp_row, Shape::kWarpRows)",
        "true",
        "gradient_panel",
    ),
    "far_columns_have_a_common_exponential": Fault(
        "kernels/negative_weights.cuh",
        "cols.negatives.are_near(map.warp_col, Shape::kWarpCols)",
        "true",
        "gradient_rows",
    ),
    "exponential_relative_to_another_line": Fault(
        "kernels/negative_weights.cuh",
        "(logit.shift_negative - cols.negatives.common_lse)",
        "(logit.shift_negative - cols.vector[kLseNegative][0])",
        "gradient_rows",
    ),
    "masked_tile_taken_for_plain": Fault(
        "core/pair_mask.cuh",
        "!place.excluded.cross(place.row_begin, Shape::kRows, place.col_begin, Shape::kCols)",
        "true",
        "gradient_panel",
    ),
    "distances_of_negatives_with_another_slope": Fault(
        "logits/euclidean.h",
        "is_squared ? Real(-2) : -inverse",
        "is_squared ? Real(-2) : inverse",
        "gradient_rows",
    ),
    "transposed_weights_in_other_registers": Fault(
        "core/weighted_sum.cuh",
        "lane / 16 * 8 + lane % 8, lane / 8 % 2",
        "lane % 16, lane / 16",
        "gradient_panel",
    ),
    "transposed_columns_as_they_lie_in_the_panel": Fault(
        "kernels/panel_product.cuh",
        "kTransposed ? column_in_panel<Number>(line) : line",
        "line",
        "gradient_panel",
        number_type="tf32",
    ),
    "columns_begin_their_sums_anew": Fault(
        "kernels/backward.cuh",
        "turn.of_cols = {row == 0, false};",
        "turn.of_cols = {true, false};",
        "gradient_panel",
    ),
    "pair_of_two_counts_once_for_the_logit": Fault(
        "kernels/pair_weight.cuh",
        "source.is_halved ? of_row + of_col",
        "false ? of_row + of_col",
        "gradient_panel",
    ),
    "scale_of_the_first_block": Fault(
        "kernels/gradient_problem.cuh",
        "sizes = {largest, blocks, nullptr, 0};",
        "sizes = {largest, 1, nullptr, 0};",
        "gradient_panel",
        number_type="fp16",
    ),
    "tile_copied_over_the_one_in_use": Fault(
        "kernels/gradient_rows.cuh",
        "references, position, buffer ^ 1, logit,",
        "references, position, buffer, logit,",
        "gradient_rows",
    ),
    "no_barrier_before_tile": Fault(
        "kernels/gradient_rows.cuh",
        "    __syncthreads();  // every thread's part",
        "    // every thread's part",
        "gradient_rows",
    ),
    "no_barrier_in_a_blocks_sum": Fault(
        "kernels/merge.cuh",
        "    __syncthreads();  // the previous round",
        "    // the previous round",
        "gradient_rows",
    ),
    "no_barrier_before_logit_sums": Fault(
        "kernels/logit_gradient.cuh",
        "  __syncthreads();  // the warps' sums are complete\n",
        "",
        "gradient_rows",
        variant="tsan",
    ),
    "panels_overwrite_each_other": Fault(
        "kernels/gradient_line.cuh",
        "if (!turn.is_first) {",
        "if (false) {",
        "gradient_panel",
    ),
    "no_barrier_before_product": Fault(
        "kernels/panel_product.cuh",
        "    __syncthreads();  // every thread's copies",
        "    // every thread's copies",
        "gradient_panel",
    ),
    "weight_scale_stays_in": Fault(
        "kernels/gradient_line.cuh",
        "{line[j].x * inverse_scale, line[j].y * inverse_scale}",
        "line[j]",
        "gradient_panel",
        number_type="fp16",
    ),
    "panel_columns_not_permuted": Fault(
        "kernels/pair_weights.cuh",
        "return col / 8 * 8 + col % 2 * 4 + col % 8 / 2;",
        "return col;",
        "gradient_panel",
        number_type="tf32",
    ),
}
