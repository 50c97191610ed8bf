"""Kernels of single pairs: positive, listed, extreme ones, and those of windows."""

from .fault import Fault

FAULTS = {
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
    # the hardest pair below each threshold
    "thresholds_are_below_themselves": Fault(
        "kernels/threshold_pairs.cuh",
        "return t <= pair.value;",
        "return t < pair.value;",
        "extreme_pairs",
    ),
    "pairs_of_any_kind_below": Fault(
        "kernels/threshold_pairs.cuh",
        "~alike_pairs<Shape>(problem, place, shared.rows, shared.cols, map);",
        "~uint64_t(0);",
        "extreme_pairs",
    ),
    "nan_below_a_threshold": Fault(
        "kernels/threshold_pairs.cuh",
        "(of_line >> j & 1) && y == y",
        "of_line >> j & 1",
        "extreme_pairs",
    ),
    "intervals_are_not_emptied": Fault(
        "kernels/threshold_pairs.cuh",
        "    intervals[k] = PlacedValue<Real>();",
        "    intervals[k].column = PlacedValue<Real>::kNoColumn;",
        "extreme_pairs",
    ),
    "lanes_write_at_once": Fault(
        "kernels/threshold_pairs.cuh",
        "int(threadIdx.x) % kLanes == lane",
        "lane == 0",
        "extreme_pairs",
        variant="tsan",
    ),
    "written_before_all_lanes_have_read": Fault(
        "kernels/threshold_pairs.cuh",
        "  __syncwarp();  // all lanes have read\n",
        "",
        "extreme_pairs",
        variant="tsan",
    ),
    "an_interval_alone_is_below": Fault(
        "kernels/threshold_pairs.cuh",
        "      if (lane >= further) hardest.merge(lower);\n",
        "",
        "extreme_pairs",
    ),
    "chunks_of_intervals_begin_anew": Fault(
        "kernels/threshold_pairs.cuh",
        "    hardest.merge(below);\n",
        "",
        "extreme_pairs",
    ),
    "padding_has_pairs_below": Fault(
        "kernels/threshold_pairs.cuh",
        " && lists.at(row, k) < Real(kAbsent)",
        "",
        "extreme_pairs",
    ),
    "one_split_is_below": Fault(
        "kernels/threshold_pairs.cuh",
        "slot < num_slots && k < count",
        "slot < 1 && k < count",
        "extreme_pairs",
    ),
    "columns_of_a_tile_below": Fault(
        "kernels/threshold_pairs.cuh",
        "{y, int(col_begin) + map.col(j)}",
        "{y, map.col(j)}",
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
}
