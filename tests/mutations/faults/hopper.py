"""Hopper's kernels, and the tiles that they leave to the others."""

from .fault import Fault

FAULTS = {
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
