"""Sums of terms, against thresholds, of both operands, and over two products."""

from .fault import Fault

FAULTS = {
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
    # rows of two embeddings, of which the harder measure counts
    "easier_of_two_counts": Fault(
        "kernels/threshold_sweep.cuh",
        "if (of_others.at(i, j) > values.at(i, j))",
        "if (of_others.at(i, j) < values.at(i, j))",
        "thresholds",
    ),
    "others_have_no_norms": Fault(
        "kernels/threshold_sweep.cuh",
        "return arguments.others.squared_norm(row_begin + map.row(i));",
        "return Real(0);",
        "thresholds",
    ),
    "equal_measures_weigh_twice": Fault(
        "kernels/threshold_weights.cuh",
        "Real(0.5)",
        "Real(1)",
        "thresholds",
    ),
    "easier_of_two_weighs": Fault(
        "kernels/threshold_weights.cuh",
        "y > other ? Real(1) : y < other",
        "y < other ? Real(1) : y > other",
        "thresholds",
    ),
    "others_taken_for_rows": Fault(
        "kernels/threshold_weights.cuh",
        "others_are_rows = arguments.rows_own;",
        "others_are_rows = true;",
        "thresholds",
    ),
    # both sides of two operands
    "tiles_on_the_diagonal_feed_no_columns": Fault(
        "kernels/pair_sweep.cuh",
        "tiles.upper_triangle && tile_row == tile_col",
        "tile_row == tile_col",
        "two_sided",
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
}
