"""Faults to seed into csrc, each with the small test that has to notice it."""

from typing import NamedTuple


class Fault(NamedTuple):
    """`before` occurs once in `file` and is replaced by `after`."""

    file: str
    before: str
    after: str
    cases: str  # a key of mutant.CASES
    number_type: str = "bf16"
    variant: str = "plain"  # or "asan", "tsan"


FAULTS = {
    # core
    "no_barrier_before_slice": Fault(
        "core/similarity.cuh",
        "      __syncthreads();  // every thread's copies",
        "      // every thread's copies",
        "statistics",
    ),
    "reference_fragments_swapped": Fault(
        "core/similarity.cuh",
        "raw_left[2] = {raw[0], raw[1]}, raw_right[2] = {raw[2], raw[3]}",
        "raw_left[2] = {raw[0], raw[2]}, raw_right[2] = {raw[1], raw[3]}",
        "statistics",
    ),
    "reference_rows_of_wrong_lanes": Fault(
        "core/similarity.cuh",
        "map.warp_col + lane / 16 * 8 + lane % 8,",
        "map.warp_col + lane % 16,",
        "statistics",
    ),
    "dropped_zero_fill": Fault(
        "core/tile.cuh",
        "step * kRowStep < existing ? kChunkBytes : 0",
        "kChunkBytes",
        "statistics",
    ),
    "dropped_narrow_zero_fill": Fault(
        "core/tile.cuh", "exists ? kNarrow : 0", "kNarrow", "statistics"
    ),
    "rows_behind_the_last_are_read": Fault(
        "core/tile.cuh",
        "int(min(rows_left, int64_t(kRows)))",
        "kRows",
        "statistics",
        variant="asan",
    ),
    "offset_of_32_bits": Fault(
        "core/tile.cuh",
        "from.data + (row_begin + row) * from.dim",
        "from.data + int(row_begin + row) * from.dim",
        "large_offsets",
    ),
    "gradient_offset_of_32_bits": Fault(
        "kernels/row_gradients.cuh",
        "arguments.gradient[row * dims + dim]",
        "arguments.gradient[int(row) * dims + dim]",
        "large_offsets",
    ),
    "product_offset_of_32_bits": Fault(
        "kernels/gradient_sums.cuh",
        "store_two<kInPairs, Element>(gradient, row * dims, dim,",
        "store_two<kInPairs, Element>(gradient, int(row) * dims, dim,",
        "large_offsets",
    ),
    "lower_half_of_a_sum_lost": Fault(
        "kernels/gradient_sums.cuh",
        "uint32_t(high.x) << 16 | lower.x",
        "uint32_t(high.x) << 16",
        "large_offsets",
    ),
    "no_swizzle": Fault(
        "core/tile.cuh", "(chunk ^ (row & (kChunksPerRow - 1)))", "chunk", "statistics"
    ),
    "columns_off_by_one": Fault(
        "core/pair_mask.cuh", "col < place.active_cols", "col <= place.active_cols", "statistics"
    ),
    "wrong_diagonal": Fault("core/pair_mask.cuh", "row == col)", "row == col + 1)", "statistics"),
    "labels_of_32_bits": Fault(
        "core/pair_mask.cuh",
        "const int64_t label = rows.label",
        "const int label = rows.label",
        "statistics",
    ),
    "groups_of_one_label_never_meet": Fault(
        "core/side_tile.cuh",
        "smallest_label[g] <= other.largest_label[h]",
        "smallest_label[g] < other.largest_label[h]",
        "statistics",
    ),
    "threshold_sign": Fault(
        "core/pair_mask.cuh",
        "!(hardness >= side.threshold_positive[line])",
        "!(hardness <= side.threshold_positive[line])",
        "statistics",
    ),
    "extent_ignored": Fault(
        "core/pair.h", "if (extent != nullptr && *extent < view.rows)", "if (false)", "statistics"
    ),
    "merge_without_rescaling": Fault(
        "core/row_statistics.h", "sum = sum * std::exp(max - shift)", "sum = sum", "statistics"
    ),
    "fp32_loses_a_product": Fault(
        "core/number.cuh",
        "    mma_tf32(step, a.small, b.large);\n",
        "",
        "statistics",
        number_type="fp32",
    ),
    "hardness_sign": Fault("logits/euclidean.h", "return -x;", "return x;", "statistics"),
    "nan_swallowed": Fault(
        "logits/affine.h", "x * Real(0) + (scale * x + shift)", "scale * x + shift", "not_finite"
    ),
    # forward
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
    # backward
    "transposed_pair_left_out": Fault(
        "kernels/pair_weight.cuh", "(of_row + of_col) *", "of_row *", "gradient_rows"
    ),
    "negatives_of_columns_left_out_rows": Fault(
        "kernels/negative_weights.cuh",
        "(of_row + cols.negatives.factor[map.col(j)])",
        "of_row",
        "gradient_rows",
    ),
    "negatives_of_columns_left_out_panel": Fault(
        "kernels/negative_weights.cuh",
        "(of_row + cols.negatives.factor[map.col(j)])",
        "of_row",
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
        "return is_inside && !has_diagonal;",
        "return is_inside;",
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
    "rows_beyond_the_extent_are_read": Fault(
        "kernels/panel_product.cuh",
        "own_begin() + line_ < own.rows && depth > 0",
        "true",
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
    # positive pairs
    "tiles_of_one_label_skipped": Fault(
        "core/tile_sequence.h",
        "ranges[2 * a] <= other.ranges[2 * b + 1]",
        "ranges[2 * a] < other.ranges[2 * b + 1]",
        "positive_pairs",
    ),
    "no_tile_skipped": Fault(
        "core/tile_sequence.h",
        "return row_ranges.ranges == nullptr || row_ranges.meet(row, col_ranges, col);",
        "return true;",
        "positive_pairs",
    ),
    "anchor_and_reference_exchanged": Fault(
        "kernels/positive_pairs.cuh",
        "terms.head, logit, col_lse, row_lse",
        "terms.head, logit, row_lse, col_lse",
        "positive_pairs",
    ),
    # listed pairs
    "pairs_as_reference_left_out": Fault(
        "kernels/listed_pairs.cuh", "if (arguments.num_segments == 2)", "if (false)", "listed_pairs"
    ),
    "segments_begin_behind_their_first_pair": Fault(
        "kernels/listed_pairs.cuh", "keys[middle] < row", "keys[middle] <= row", "listed_pairs"
    ),
    "lanes_of_a_group_not_added": Fault(
        "kernels/listed_pairs.cuh",
        "mask = kGroupLanes / 2",
        "mask = kGroupLanes / 4",
        "listed_pairs",
    ),
    "groups_of_a_warp_not_added": Fault(
        "kernels/listed_pairs.cuh",
        "mask = kGroupLanes; mask",
        "mask = 2 * kGroupLanes; mask",
        "listed_pairs",
    ),
    "distance_without_its_own_row": Fault(
        "kernels/listed_pairs.cuh", "sign = -1;", "sign = 1;", "listed_pairs"
    ),
    "weights_of_distances_not_divided": Fault(
        "kernels/listed_pairs.cuh", "values_grad[k] / sum", "values_grad[k]", "listed_pairs"
    ),
    "pairs_behind_the_last_are_read": Fault(
        "kernels/listed_pairs.cuh",
        "if (first + lane < end)",
        "if (true)",
        "listed_pairs",
        variant="asan",
    ),
    "rows_out_of_range_are_read": Fault(
        "kernels/listed_pairs.cuh",
        "return row >= 0 && row < matrix.rows;",
        "return row >= 0;",
        "listed_pairs",
        variant="asan",
    ),
    # classes of several vectors
    "vectors_of_two_classes_reduced_to_one": Fault(
        "core/group_values.cuh",
        "if (logit.is_last(item) || y[item] > largest",
        "if (y[item] > largest",
        "groups",
    ),
    "sharpness_left_out": Fault(
        "core/group_values.cuh", "logit.sharpness * Number::kExponentScale", "Real(1)", "groups"
    ),
    "soft_maximum_taken_for_a_mean": Fault(
        "core/group_values.cuh", " * (1 + sharpness * (y[item] - s))", "", "groups"
    ),
    "all_largest_get_the_gradient": Fault(
        "core/group_values.cuh", "if (!logit.is_soft && sum > Real(0))", "if (false)", "groups"
    ),
    "classes_that_fill_up_a_tile_count": Fault(
        "core/group_values.cuh", "if (label >= 0) pairs", "pairs", "groups"
    ),
    "columns_gathered_class_by_class": Fault(
        "kernels/group_columns.cuh",
        "label * size + item % size",
        "label * size + (item + 1) % size",
        "groups",
    ),
    "gradient_of_another_vector": Fault(
        "kernels/group_columns.cuh", "* size + int(vector % size)", "* size", "groups"
    ),
    "vectors_in_rows_taken_for_columns": Fault(
        "kernels/gradient_problem.cuh", "task.rows_are_grouped = true;", "", "groups"
    ),
    # sums against thresholds
    "hinge_counts_its_bound": Fault(
        "core/thresholds.cuh", "return y > bound ||", "return y >= bound ||", "thresholds"
    ),
    "closed_bound_taken_for_open": Fault(
        "core/thresholds.cuh", "(takes_bound && y == bound)", "false", "thresholds"
    ),
    "upper_bound_counts_itself": Fault(
        "core/thresholds.cuh", "return y < t + below;", "return y <= t + below;", "thresholds"
    ),
    "run_from_the_first_threshold": Fault(
        "core/thresholds.cuh", "run.low = lists.search(", "lists.search(", "thresholds"
    ),
    "search_ends_one_before": Fault(
        "core/thresholds.cuh", "begin = middle + 1;", "begin = middle + 1, --end;", "thresholds"
    ),
    "slope_of_a_step_left_out": Fault(
        "core/thresholds.cuh", "sum[1] += slope;", "sum[1] += step;", "thresholds"
    ),
    "negatives_weigh_as_positives": Fault(
        "core/thresholds.cuh", "is_positive ? row : lists.rows + row", "row", "thresholds"
    ),
    "sums_are_not_emptied": Fault(
        "kernels/threshold_sweep.cuh", "+ k] = Real(0);", "+ k] += Real(0);", "thresholds"
    ),
    "one_edge_too_few": Fault(
        "kernels/threshold_sweep.cuh", "most : end)) + 2 : 0", "most : end)) + 1 : 0", "thresholds"
    ),
    "no_barrier_before_the_next_columns": Fault(
        "kernels/threshold_sweep.cuh",
        "    __syncthreads();  // shared.cols has been read",
        "",
        "thresholds",
    ),
    "positives_among_the_negatives": Fault(
        "kernels/threshold_sweep.cuh",
        "values, existing & ~positive, place",
        "values, existing, place",
        "thresholds",
    ),
    "runs_have_no_end": Fault(
        "kernels/threshold_sweep.cuh",
        "if (run.high < count) atomicAdd(counts_of_row + run.high, -1);",
        "",
        "thresholds",
    ),
    "counts_are_not_emptied": Fault(
        "kernels/threshold_sweep.cuh", "if (index < size) counts[index] = 0;", "", "thresholds"
    ),
    "counts_added_without_atomics": Fault(
        "kernels/threshold_sweep.cuh",
        "atomicAdd(counts_of_row + run.low, 1);",
        "counts_of_row[run.low] += 1;",
        "thresholds",
        variant="tsan",
    ),
    "chunks_of_thresholds_begin_anew": Fault(
        "kernels/threshold_sweep.cuh", "number[s] += before[s];", "", "thresholds"
    ),
    "weights_of_rows_alone": Fault(
        "kernels/threshold_weights.cuh", "if (arguments.cols_own)", "if (false)", "thresholds"
    ),
    # both sides of two operands
    "tiles_on_the_diagonal_feed_no_columns": Fault(
        "kernels/pair_sweep.cuh",
        "tiles.upper_triangle && tile_row == tile_col",
        "tile_row == tile_col",
        "two_sided",
    ),
    # extreme pairs
    "last_of_equal_extremes": Fault(
        "kernels/extreme_pairs.cuh",
        "other.column < column)) return;",
        "other.column > column)) return;",
        "extreme_pairs",
    ),
    "columns_counted_from_their_tile": Fault(
        "kernels/line_reduction.cuh",
        "kOfRows ? col_begin + pair.col",
        "kOfRows ? pair.col",
        "extreme_pairs",
    ),
    # pairs in windows
    "windows_of_the_other_kind": Fault(
        "kernels/window_sweep.cuh", "kPerKind * kind;", "kPerKind * (1 - kind);", "windows"
    ),
    "windows_without_their_ends": Fault(
        "kernels/window_sweep.cuh", "y >= low && y <= high", "y > low && y <= high", "windows"
    ),
    "windows_without_shifts": Fault(
        "kernels/window_sweep.cuh", "measures.at(i, j) + shift", "measures.at(i, j)", "windows"
    ),
    "nothing_compares_to_nan": Fault(
        "kernels/window_sweep.cuh", "y >= low && y <= high", "!(y < low || y > high)", "windows"
    ),
    "columns_of_later_lanes_come_first": Fault(
        "kernels/window_sweep.cuh",
        "lane < lane_ ? earlier | both",
        "lane > lane_ ? earlier | both",
        "windows",
    ),
    "second_of_two_columns_over_the_first": Fault(
        "kernels/window_sweep.cuh", "j > first ? int(own_ >> first & 1) : 0", "0", "windows"
    ),
    "tiles_begin_where_the_last_did": Fault(
        "kernels/window_sweep.cuh",
        "next = begin + masks.count();",
        "next = masks.count();",
        "windows",
    ),
    "place_moved_before_it_is_read": Fault(
        "kernels/window_sweep.cuh",
        "    __syncwarp();  // all four lanes have read it\n",
        "",
        "windows",
        variant="tsan",
    ),
    "written_behind_the_list": Fault(
        "kernels/window_sweep.cuh",
        "if (at >= arguments.size) continue;",
        "",
        "windows",
        variant="asan",
    ),
    "splits_one_after_the_other_in_a_kind": Fault(
        "kernels/window_sweep.cuh",
        "* num_splits + split;",
        "+ split * problem.anchors.embeddings.rows;",
        "windows",
    ),
    "lists_begin_behind_their_first": Fault(
        "kernels/window_sweep.cuh", "arguments.ends[place - 1]", "arguments.ends[place]", "windows"
    ),
    "rows_without_pairs_not_counted": Fault(
        "kernels/window_sweep.cuh",
        "if (row_begin + row < num_rows)",
        "if (row_begin + row < anchors.rows)",
        "windows",
    ),
    "measures_of_the_first_line": Fault(
        "kernels/window_sweep.cuh",
        "i == 0 ? measures.at(0, j) : measures.at(1, j)",
        "measures.at(0, j)",
        "windows",
    ),
    # sums of terms
    "columns_with_the_shifts_of_rows": Fault(
        "kernels/line_reduction.cuh", "return shared.cols;", "return shared.rows;", "sums"
    ),
    "bad_rows_of_the_other_kind_go_unnoticed": Fault(
        "kernels/line_terms.cuh", "count = count > 0 ? count : 1;", "(void)count;", "sums"
    ),
    "slopes_of_sums_not_merged": Fault(
        "kernels/term_sums.cuh", "slope[j] += other.slope[j];", "", "sums"
    ),
    "weights_without_shifts": Fault(
        "kernels/pair_weight.cuh", "logit + own[kShift + kKind]", "logit", "sums"
    ),
    "logit_of_rows_alone": Fault(
        "kernels/gradient_problem.cuh", "task.source.is_halved = both_sides;", "", "sums"
    ),
    "weights_of_rows_that_take_no_part_left_as_they_were": Fault(
        "kernels/pair_weights.cuh",
        "  store_weights<Number>(values, panel, row, col);",
        "  if (row_begin < anchors.rows && col_begin < references.rows) "
        "store_weights<Number>(values, panel, row, col);",
        "sums",
    ),
    # divergences of two products
    "products_keep_what_they_are_relative_to": Fault(
        "kernels/row_divergences.cuh",
        "other.products * std::exp(other.second.max - shift)",
        "other.products",
        "divergences",
    ),
    "divergences_of_sums_without_their_maxima": Fault(
        "kernels/row_divergences.cuh",
        "second.max - first.max + std::log",
        "std::log",
        "divergences",
    ),
    "second_product_is_the_first": Fault(
        "kernels/row_divergences.cuh",
        "first.at(i, j), second.at(i, j)",
        "first.at(i, j), first.at(i, j)",
        "divergences",
    ),
    "equal_labels_as_any_others": Fault(
        "kernels/row_divergences.cuh",
        "in.problem.anchors.labels != nullptr",
        "in.problem.anchors.labels == nullptr",
        "divergences",
    ),
    "bad_rows_in_equal_pairs_go_unnoticed": Fault(
        "logits/two_products.h", "second * Real(0) + scale", "scale", "divergences"
    ),
    "weights_of_the_other_product": Fault(
        "kernels/divergence_weights.cuh",
        "if (source.is_of_second) product = {product.second, product.first};",
        "",
        "divergences",
    ),
    "weights_of_equal_pairs": Fault(
        "kernels/divergence_weights.cuh", "exists && !is_equal ?", "exists ?", "divergences"
    ),
    "divergences_left_out_of_their_weights": Fault(
        "kernels/divergence_weights.cuh",
        "(lse - second_lse - side.vector[kDivergence][own])",
        "(lse - second_lse)",
        "divergences",
    ),
    "numbers_of_both_directions_in_all_panels": Fault(
        "kernels/divergence_weights.cuh",
        "source.is_halved ? of_both : of_row",
        "of_both",
        "divergences",
    ),
    "shift_as_a_scale_of_weights": Fault(
        "kernels/merge.cuh",
        "!has_one_scale && of_negatives > scale",
        "of_negatives > scale",
        "divergences",
        number_type="fp16",
    ),
    "second_product_beside_itself": Fault(
        "kernels/row_divergences_host.cuh",
        "      result.other = {given.anchors, given.d};\n",
        "",
        "divergences",
    ),
    # unit rows
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
    # hopper's tiles, and the others
    "plain_tiles_visited_by_both": Fault(
        "core/tile_sequence.h",
        "    if (plain.contain(row, col)) return false;\n",
        "",
        "hopper_special",
    ),
    "plain_tiles_written_by_both": Fault(
        "kernels/pair_weights.cuh",
        "plain_scale<Number>(problem.logit))) return;",
        "plain_scale<Number>(problem.logit))) {}",
        "hopper_special",
    ),
    "last_special_tile_left_out": Fault(
        "kernels/special_tiles.cuh", "    end = col + 1;", "    end = col;", "hopper_special"
    ),
    "special_tiles_of_two_blocks_overlap": Fault(
        "kernels/special_tiles.cuh",
        "tiles.col_begin = first + count * part / parts;",
        "tiles.col_begin = first + count * max(part - 1, 0) / parts;",
        "hopper_special",
    ),
    "squares_of_the_panel_for_those_of_the_problem": Fault(
        "kernels/pair_weights.cuh",
        "arguments.plain.holds(row_begin, col_begin,",
        "arguments.plain.holds(row, col,",
        "hopper_special",
    ),
    "cut_square_taken_for_plain": Fault(
        "core/plain_squares.h",
        "(i + 1) << side_bits <= rows",
        "i << side_bits <= rows",
        "hopper_special",
    ),
    "square_next_to_another_taken_for_it": Fault(
        "core/plain_squares.h",
        "all_plain(row_ranges[i], col_ranges[j], scale)",
        "all_plain(row_ranges[i], col_ranges[j > 0 ? j - 1 : j], scale)",
        "hopper_special",
    ),
    "labels_that_meet_taken_for_plain": Fault(
        "core/plain_squares.h",
        "a.smallest_label <= b.largest_label",
        "a.smallest_label < b.largest_label",
        "hopper_special",
    ),
    "unbounded_squares_taken_for_plain": Fault(
        "core/plain_squares.h", "<= kMostPlainExponent", "<= INFINITY", "hopper_special"
    ),
    "square_and_transpose_judged_differently": Fault(
        "core/plain_squares.h",
        "std::fabs(scale) * (a.largest_norm * b.largest_norm)",
        "std::fabs(scale) * a.largest_norm * b.largest_norm",
        "hopper_special",
    ),
    "special_gradient_of_the_other_row": Fault(
        "kernels/row_gradients.cuh",
        "{value[fragment][2 * i], value[fragment][2 * i + 1]}",
        "{value[fragment][2 - 2 * i], value[fragment][3 - 2 * i]}",
        "hopper_special",
    ),
    # hopper
    "lines_of_the_other_warpgroup": Fault(
        "hopper/product.cuh",
        "stage + consumer * Tile::kSliceBytes",
        "stage + (1 - consumer) * Tile::kSliceBytes",
        "hopper_product",
    ),
    "stage_released_before_it_is_read": Fault(
        "hopper/product.cuh",
        "      wgmma_wait<1>();  // the slice before this one has been read\n"
        "      release(previous);\n",
        "      release(previous);\n      wgmma_wait<1>();\n",
        "hopper_product",
    ),
    "embeddings_of_the_other_side": Fault(
        "hopper/product.cuh",
        "int(arguments_.row_begin) + depth",
        "int(arguments_.col_begin) + depth",
        "hopper_product",
    ),
    "embeddings_behind_the_panel": Fault(
        "hopper/product_host.cuh",
        "arguments.col_begin + arguments.cols, dims",
        "arguments.col_begin + arguments.cols + 64, dims",
        "hopper_product",
    ),
    "lines_behind_the_panel": Fault(
        "hopper/product.cuh", "if (own >= lines) continue;", "", "hopper_product"
    ),
    "ring_keeps_its_parity": Fault(
        "core/stage_ring.cuh", "      parity_ ^= 1;\n", "", "hopper_product"
    ),
    "halved_twice_with_one_mask": Fault(
        "hopper/sweep.cuh",
        "halve<kThreadCols / 4, 4>(columns",
        "halve<kThreadCols / 4, 8>(columns",
        "hopper_sweep",
    ),
    "sums_of_the_neighbouring_column": Fault(
        "hopper/sweep.cuh",
        "8 * (number / 2) + thread_col() + number % 2",
        "8 * (number / 2) + thread_col() + 1 - number % 2",
        "hopper_sweep",
    ),
    "second_group_called_too_late": Fault(
        "hopper/similarities.cuh",
        "      if (is_ahead_) signal();  // once",
        "      // once",
        "hopper_sweep",
    ),
    "sums_read_before_they_are_handed_over": Fault(
        "hopper/sweep.cuh",
        "bar_sync<2>(kConsumers);  // both",
        "bar_arrive<2>(kConsumers);  // both",
        "hopper_sweep",
        variant="tsan",
    ),
    "plain_beyond_the_last_row": Fault(
        "core/plain_squares.h",
        "(i + 1) << side_bits <= rows",
        "i << side_bits <= rows",
        "hopper_sweep",
    ),
    "infinite_norms_are_plain": Fault(
        "hopper/row_ranges.cuh", "sqrtf(square) : INFINITY", "sqrtf(square) : 0", "hopper_sweep"
    ),
    "factor_of_the_neighbouring_column": Fault(
        "hopper/weights.cuh",
        "left * (of_row[h] + of_col.x)",
        "left * (of_row[h] + of_col.y)",
        "hopper_weights",
    ),
    "tiles_that_are_not_plain_are_weighed": Fault(
        "hopper/weights.cuh", "if (is_plain(row, col)) visit", "visit", "hopper_weights"
    ),
    "factor_of_an_empty_set": Fault(
        "hopper/weights.cuh", "lse == kNegativeInfinity", "lse == 0.f", "hopper_weights"
    ),
    "weights_packed_while_they_are_multiplied": Fault(
        "hopper/rows.cuh",
        "      wgmma_wait<0>();\n      release(previous);\n      hold(gradient);\n"
        "      pack(weights, values);\n",
        "      pack(weights, values);\n      wgmma_wait<0>();\n      release(previous);\n"
        "      hold(gradient);\n",
        "hopper_weights",
    ),
    "anchors_of_the_other_warpgroup": Fault(
        "hopper/rows.cuh",
        "anchors_ + consumer_ * 64",
        "anchors_ + (1 - consumer_) * 64",
        "hopper_weights",
    ),
    "slots_of_special_tiles_not_merged": Fault(
        "kernels/hopper_statistics.cuh",
        "{partials, plan.num_slots + special_slots, slot_rows,",
        "{partials, plan.num_slots, slot_rows,",
        "engine",
    ),
    "special_tiles_of_the_panel_not_weighed": Fault(
        "kernels/hopper_gradient.cuh",
        "      if (error == cudaSuccess) error = launch_special_weights(",
        "      if (error != cudaSuccess) error = launch_special_weights(",
        "engine",
    ),
    "special_rows_begin_their_sums_anew": Fault(
        "kernels/hopper_gradient.cuh",
        "special.turn = {false, true};",
        "special.turn = {true, true};",
        "engine",
    ),
    "factors_of_the_gradients_of_the_other_side": Fault(
        "kernels/hopper_gradient.cuh",
        "of_side(task.pairs.references, task.source.cols_own, task.col_vectors, col_factors)",
        "of_side(task.pairs.references, task.source.rows_own, task.row_vectors, col_factors)",
        "engine",
    ),
    "panel_with_the_pitch_of_its_columns": Fault(
        "kernels/hopper_gradient.cuh",
        "arguments.pitch = panel.cols;",
        "arguments.pitch = arguments.cols + arguments.cols % 2;",
        "engine",
    ),
}
