"""The sweeps of the forward, and what merges their slots."""

from .fault import Fault

FAULTS = {
    "reduction_of_wrong_lanes": Fault(
        "kernels/line_reduction.cuh", "kOfRows ? 2 : 16", "kOfRows ? 1 : 16", "statistics"
    ),
    "no_barrier_before_shared_numbers_are_read": Fault(
        "kernels/pair_sweep.cuh",
        "  __syncthreads();  // shared.logit",
        "  // shared.logit",
        "statistics",
        variant="tsan",
    ),
    "no_barrier_before_merge": Fault(
        "kernels/pair_sweep.cuh",
        "      __syncthreads();  // the warps' partials",
        "      // the warps' partials",
        "statistics",
        variant="tsan",
    ),
    "diagonal_tiles_feed_columns": Fault(
        "kernels/pair_sweep.cuh",
        "shared.slots.has_columns && !(tiles.upper_triangle && tile_row == tile_col)",
        "shared.slots.has_columns",
        "triangle",
        number_type="fp64",
    ),
    "columns_mined_by_the_rows_rule": Fault(
        "kernels/sweep_tile.cuh",
        "of_cols &= mined_pairs<false>(logit, values, positive, shared.cols, map)",
        "of_cols &= of_rows",
        "triangle",
        number_type="fp64",
    ),
    "launches_overwrite_each_other": Fault(
        "kernels/pair_sweep.cuh",
        "if (shared.slots.adds) merged.merge(slot);",
        "",
        "triangle",
        number_type="fp64",
    ),
    "column_slots_not_emptied": Fault(
        "kernels/pair_sweep.cuh",
        "        *slot = Partial();",
        "        ;",
        "triangle",
        number_type="fp64",
    ),
    "groups_not_on_a_circle": Fault(
        "kernels/sweep_plan.h",
        "(minor + shift) % num_groups",
        "minor + shift",
        "triangle",
        number_type="fp64",
    ),
    "slots_of_other_rows_merged": Fault(
        "kernels/finish.cuh",
        "slots[slot * stride + row - row_begin]",
        "slots[(row - row_begin) * num_slots + slot]",
        "statistics",
    ),
    "first_slot_not_merged": Fault(
        "kernels/finish.cuh", "int64_t slot = 0;", "int64_t slot = 1;", "statistics"
    ),
    "slots_of_inactive_rows_are_read": Fault(
        "kernels/finish.cuh", "if (extent != nullptr && row >= *extent)", "if (false)", "statistics"
    ),
    "rows_of_a_launch_in_the_slots_of_all": Fault(
        "kernels/pair_sweep.cuh",
        "int64_t(tile_row - arguments.plan.first_row_tile)",
        "int64_t(tile_row)",
        "statistics",
    ),
    "slots_of_small_tiles_counted_in_large_ones": Fault(
        "kernels/forward.cuh",
        "int64_t(launched.first_row_tile) * tile_rows",
        "int64_t(launched.first_row_tile) * Shape::kRows",
        "statistics",
    ),
    "logit_gradients_of_small_tiles_lost": Fault(
        "kernels/backward.cuh",
        "plan.weights_blocks(panel.rows, panel.cols), is_first",
        "panel.rows / 128 * (panel.cols / 128), is_first",
        "gradient_panel",
    ),
    "exponentials_far_from_one_are_summed": Fault(
        "kernels/statistics.cuh", "std::fabs(logit.scale(false)) <= kMost", "Real(0) == 0", "plain"
    ),
    "plain_columns_not_fed": Fault(
        "kernels/statistics.cuh", "col_sums[j] += exponential;", ";", "plain"
    ),
    "plain_sums_relative_to_another_shift": Fault(
        "kernels/statistics.cuh",
        "logit.shift_negative, part",
        "logit.shift_positive, part",
        "plain",
    ),
    "plain_scale_of_base_two_left_out": Fault(
        "kernels/statistics.cuh", " * Number::kExponentScale", "", "plain"
    ),
    "plain_with_positives": Fault(
        "kernels/sweep_tile.cuh",
        "arguments.problem.anchors.thresholds == nullptr &&",
        "arguments.problem.anchors.thresholds == nullptr ||",
        "plain",
    ),
    "plain_part_of_another_warp": Fault(
        "kernels/sweep_tile.cuh",
        "my_row / Shape::kWarpRows * Shape::kWarpsAcross + across",
        "across",
        "plain",
    ),
    "plain_counts_of_the_other_side": Fault(
        "kernels/sweep_tile.cuh",
        "Shape::kWarpCols, shared.row",
        "Shape::kWarpRows, shared.row",
        "plain",
    ),
    "plain_on_the_diagonal": Fault(
        "kernels/sweep_tile.cuh", "return all_pairs_exist<Shape>(place) &&", "return", "plain"
    ),
}
