"""The schemas of the operators ``torch.ops.fusedml.*``, see ``engine.ops``."""

from __future__ import annotations

_PAIRS = (
    "Tensor anchors, Tensor? references, Tensor anchor_labels, Tensor? reference_labels, "
    "{logit}str measure, SymInt? self_offset"
)
_SIGHT = _PAIRS.format(logit="")
_PROBLEM = _PAIRS.format(logit="Tensor logit, ") + ", Tensor? thresholds, Tensor? extent"
_POSITIVE = (
    _PAIRS.format(logit="Tensor logit, ")
    + ", Tensor? reference_lse, str head, Tensor head_parameters"
)
_TWO_SIDED = _PAIRS.format(logit="Tensor logit, ")
_GROUPS = (
    "Tensor anchors, Tensor vectors, Tensor labels, Tensor logit, str group, Tensor? sharpness"
)
_JOINT = (
    "Tensor anchors, Tensor? references, Tensor anchor_labels, Tensor? reference_labels, "
    "Tensor columns, Tensor logit, SymInt? self_offset, str head"
)
_SUMS = (
    _PAIRS.format(logit="Tensor logit, ")
    + ", Tensor? shifts, Tensor? extent, Tensor terms, bool both_sides"
)
_ENTRIES = (
    "Tensor x, bool[2] kinds, Tensor? positive, Tensor? negative, Tensor? lines, SymInt num_lines, "
    "Tensor logit, str curve, Tensor? offsets"
)
_TRIPLETS = _PAIRS.format(logit="Tensor numbers, ") + ", str form"
_MATRIX = "Tensor x, Tensor positive, Tensor negative, Tensor numbers, float sign, str form"
_ENTRY_SUMS = _ENTRIES + ", Tensor? shifts, Tensor terms"
_HISTOGRAMS = (
    "Tensor anchors, Tensor labels, str measure, float lowest, float delta, int num_edges, "
    "bool per_row"
)
_DIVERGENCES = "Tensor anchors, Tensor teacher, Tensor? labels, Tensor numbers"
_THRESHOLDS = _SIGHT + ", Tensor? others, Tensor? thresholds, int count, str form, float[] numbers"
_WINDOWS = _SIGHT + ", Tensor windows, SymInt width"
_LISTED = "Tensor anchors, Tensor? references, Tensor rows, Tensor columns, str measure"

SCHEMAS = {
    "pair_extrema": f"({_SIGHT}) -> Tensor",
    "extreme_pairs": f"({_SIGHT}, Tensor? intervals, bool[2] largest)"
    " -> (Tensor measures, Tensor columns)",
    # of each row in windows of its own, see engine.routes.windows
    "window_counts": f"({_WINDOWS}) -> Tensor",
    "window_pairs": f"({_WINDOWS}, Tensor ends, SymInt size, bool is_measured)"
    " -> (Tensor rows, Tensor columns, Tensor measures)",
    "pair_statistics": f"({_PROBLEM}) -> (Tensor statistics, Tensor counts)",
    "row_losses": f"({_PROBLEM}, str head, Tensor head_parameters)"
    " -> (Tensor losses, Tensor statistics, Tensor partials)",
    "pair_gradient": f"({_PROBLEM}, Tensor statistics, Tensor statistics_grad, bool[3] needs)"
    " -> (Tensor anchors_grad, Tensor references_grad, Tensor logit_grad)",
    "positive_pair_losses": f"({_POSITIVE}) -> (Tensor losses, Tensor statistics, Tensor counts)",
    "positive_pair_gradient": f"({_POSITIVE}, Tensor statistics, Tensor losses_grad, bool[3] needs)"
    " -> (Tensor anchors_grad, Tensor references_grad, Tensor logit_grad,"
    " Tensor reference_lse_grad)",
    # of the rows, and then of the columns
    "two_sided_statistics": f"({_TWO_SIDED}) -> (Tensor statistics, Tensor counts)",
    "two_sided_gradient": f"({_TWO_SIDED}, Tensor statistics, Tensor statistics_grad,"
    " bool[3] needs) -> (Tensor anchors_grad, Tensor references_grad, Tensor logit_grad)",
    "group_statistics": f"({_GROUPS}) -> Tensor",
    "group_gradient": f"({_GROUPS}, Tensor statistics, Tensor statistics_grad, bool[3] needs)"
    " -> (Tensor anchors_grad, Tensor vectors_grad, Tensor logit_grad)",
    # sums of terms (fusedml.terms); "entry": of pairs whose measures are given
    "pair_sums": f"({_SUMS}) -> (Tensor sums, Tensor slopes, Tensor counts, Tensor numbers)",
    "pair_sums_gradient": f"({_SUMS}, Tensor slopes, Tensor counts, Tensor sums_grad,"
    " bool[3] needs) -> (Tensor anchors_grad, Tensor references_grad, Tensor logit_grad,"
    " Tensor shifts_grad)",
    "entry_statistics": f"({_ENTRIES}) -> (Tensor statistics, Tensor counts)",
    "entry_statistics_gradient": f"({_ENTRIES}, Tensor statistics, Tensor statistics_grad,"
    " bool[2] needs) -> (Tensor x_grad, Tensor logit_grad)",
    "entry_sums": f"({_ENTRY_SUMS}) -> (Tensor sums, Tensor slopes, Tensor counts, Tensor numbers)",
    "entry_sums_gradient": f"({_ENTRY_SUMS}, Tensor slopes, Tensor counts, Tensor sums_grad,"
    " bool[2] needs) -> (Tensor x_grad, Tensor logit_grad, Tensor shifts_grad)",
    # of a_i + r_p for each positive pair, see engine.joint_rows
    "joint_pair_losses": f"({_JOINT}) -> Tensor",
    "joint_pair_gradient": f"({_JOINT}, Tensor losses_grad, bool[4] needs)"
    " -> (Tensor anchors_grad, Tensor references_grad, Tensor columns_grad, Tensor logit_grad)",
    # of each anchor's negatives against its positives, see engine.reductions.thresholds
    "triplet_losses": f"({_TRIPLETS})"
    " -> (Tensor losses, Tensor counts, Tensor of_margin, Tensor met)",
    "triplet_gradient": f"({_TRIPLETS}, Tensor of_margin, Tensor met, Tensor losses_grad,"
    " bool[3] needs) -> (Tensor anchors_grad, Tensor references_grad, Tensor numbers_grad)",
    # the same of the rows of a matrix
    "matrix_triplet_losses": f"({_MATRIX}) -> (Tensor losses, Tensor counts, Tensor of_margin)",
    "matrix_triplet_gradient": f"({_MATRIX}, Tensor of_margin, Tensor losses_grad, bool[2] needs)"
    " -> (Tensor x_grad, Tensor numbers_grad)",
    # of each positive among its anchor's negatives, see engine.reductions.ranks
    "rank_losses": f"({_TRIPLETS}) -> (Tensor losses, Tensor held_ranks)",
    "rank_gradient": f"({_TRIPLETS}, Tensor held_ranks, Tensor losses_grad, bool[3] needs)"
    " -> (Tensor anchors_grad, Tensor references_grad, Tensor numbers_grad)",
    "matrix_rank_losses": f"({_MATRIX}) -> (Tensor losses, Tensor nothing)",
    "matrix_rank_gradient": f"({_MATRIX}, Tensor losses_grad, bool[2] needs)"
    " -> (Tensor x_grad, Tensor numbers_grad)",
    "pair_histograms": f"({_HISTOGRAMS}) -> Tensor",
    "pair_histograms_gradient": f"({_HISTOGRAMS}, Tensor histograms_grad, bool[1] needs) -> Tensor",
    # of the rows of two matrices
    "row_divergences": f"({_DIVERGENCES}) -> (Tensor losses, Tensor log_sums)",
    "row_divergences_gradient": f"({_DIVERGENCES}, Tensor losses, Tensor log_sums,"
    " Tensor losses_grad, bool[3] needs)"
    " -> (Tensor anchors_grad, Tensor teacher_grad, Tensor numbers_grad)",
    # what the operators on triplets, ranks and histograms are made of, see engine.threshold_rows
    "threshold_sums": f"({_THRESHOLDS}) -> Tensor",
    "threshold_gradient": f"({_THRESHOLDS}, Tensor sums_grad, Tensor largest_weights,"
    " bool[2] needs) -> (Tensor anchors_grad, Tensor references_grad)",
    # of each threshold the hardest negative below it, see engine.routes.threshold_pairs
    "threshold_pairs": f"({_SIGHT}, Tensor thresholds) -> Tensor",
    "pair_values": f"({_LISTED}) -> Tensor",
    "pair_values_gradient": f"({_LISTED}, Tensor values_grad, bool[2] needs)"
    " -> (Tensor anchors_grad, Tensor references_grad)",
    "normalize_rows": "(Tensor x, Tensor? order, ScalarType dtype)"
    " -> (Tensor unit_rows, Tensor norms)",
    "normalize_rows_gradient": "(Tensor x, Tensor? places, Tensor norms, Tensor unit_rows_grad)"
    " -> Tensor",
}
