"""What all kernels are made of: tiles, masks, numbers, row statistics."""

from .fault import Fault

FAULTS = {
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
    "wrong_diagonal": Fault(
        "core/pair_mask.cuh", "excluded.hold(row, col)", "excluded.hold(row, col + 1)", "statistics"
    ),
    "offset_of_own_columns_ignored": Fault(
        "kernels/typed_problem.cuh", "of(problem.self_offset, m)", "of(0, m)", "statistics"
    ),
    "own_columns_do_not_wrap": Fault(
        "core/pair.h", "offset == 0 ? kNone : offset - num_cols", "kNone", "statistics"
    ),
    "own_columns_wrap_a_column_late": Fault(
        "core/pair.h", "offset - num_cols}", "offset - num_cols - 1}", "gradient_panel"
    ),
    "own_columns_of_exchanged_sides_stay": Fault(
        "core/pair.h", "result.excluded = excluded.swapped();", "", "gradient_rows"
    ),
    "own_columns_of_exchanged_sides_do_not_wrap": Fault(
        "core/pair.h", "{-first, -second}", "{-first, kNone}", "gradient_panel"
    ),
    "tiles_are_plain_where_own_columns_begin": Fault(
        "core/pair.h", "uint64_t(first + begin) < end ||", "", "plain"
    ),
    "tiles_are_plain_where_own_columns_wrap": Fault(
        "core/pair.h",
        "|| uint64_t(second + begin) < end",
        "",
        "plain",
    ),
    "labels_of_32_bits": Fault(
        "core/pair_mask.cuh",
        "const int64_t label = rows.label",
        "const int label = rows.label",
        "statistics",
    ),
    "sets_that_are_equal": Fault(
        "core/pair_mask.cuh",
        "problem.anchors.word_of_set(word, row) & problem.references",
        "problem.anchors.word_of_set(word, row) == problem.references",
        "statistics",
    ),
    "further_words_forgotten": Fault(
        "core/pair_mask.cuh",
        "for (int word = 0; word < problem.anchors.set_words; ++word)",
        "for (int word = 0; word < 1; ++word)",
        "statistics",
    ),
    "sets_behind_the_last_are_read": Fault(
        "core/pair_mask.cuh",
        "if (row >= place.active_rows || col >= place.active_cols) continue;",
        "",
        "statistics",
        variant="asan",
    ),
    "sets_have_an_order": Fault(
        "kernels/sweep_tile.cuh",
        "arguments.problem.anchors.set_words == 0 &&",
        "",
        "statistics",
    ),
    "sets_skipped_by_a_range": Fault(
        "kernels/typed_problem.cuh",
        "if (problem.set_words > 0) wants_label_ranges = false;",
        "",
        "positive_pairs",
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
}
