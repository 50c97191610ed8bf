"""Classes of several vectors."""

from .fault import Fault

FAULTS = {
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
}
