// The kernel library on the emulator as a Python module, for pytest.  Tensors travel as addresses:
// the module knows neither torch nor numpy, and backend.py keeps the tensors alive.
#include <pybind11/pybind11.h>

#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulation/emulator.h"
#include "kernels/api.h"

namespace py = pybind11;

namespace fusedml {
namespace {

using Address = uintptr_t;  ///< 0 stands for a null pointer

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

template <class Value>
Value lookup(const std::map<std::string, Value>& values, const std::string& name,
             const char* argument) {
  const auto found = values.find(name);
  if (found == values.end())
    throw std::invalid_argument(std::string(argument) + " is unknown: '" + name + "'");
  return found->second;
}

NumberType number_type(const std::string& name) {
  static const std::map<std::string, NumberType> kTypes = {{"bf16", NumberType::kBf16},
                                                           {"fp16", NumberType::kFp16},
                                                           {"tf32", NumberType::kTf32},
                                                           {"fp32", NumberType::kFp32},
                                                           {"fp64", NumberType::kFp64}};
  return lookup(kTypes, name, "number_type");
}

Measure measure(const std::string& name) {
  static const std::map<std::string, Measure> kMeasures = {
      {"dot", Measure::kDot},
      {"euclidean", Measure::kEuclidean},
      {"squared_euclidean", Measure::kSquaredEuclidean},
      {"angular_margin", Measure::kAngularMargin},
      {"circle", Measure::kCircle}};
  return lookup(kMeasures, name, "measure");
}

RowHead row_head(const std::string& name, Address parameters) {
  static const std::map<std::string, RowHeadKind> kHeads = {
      {"softplus_sum", RowHeadKind::kSoftplusSum},
      {"hinge_sum", RowHeadKind::kHingeSum},
      {"cross_entropy", RowHeadKind::kCrossEntropy},
      {"mean_cross_entropy", RowHeadKind::kMeanCrossEntropy}};
  return {lookup(kHeads, name, "head"), pointer<const double>(parameters), {}};
}

PositivePairHead positive_pair_head(const std::string& name) {
  static const std::map<std::string, PositivePairHead> kHeads = {
      {"softplus_gap", PositivePairHead::kSoftplusGap},
      {"squared_hinge", PositivePairHead::kSquaredHinge}};
  return lookup(kHeads, name, "head");
}

emulation::MmaRounding mma_rounding(const std::string& name) {
  static const std::map<std::string, emulation::MmaRounding> kModes = {
      {"nearest", emulation::MmaRounding::kNearest},
      {"truncate", emulation::MmaRounding::kTruncate}};
  return lookup(kModes, name, "mma_rounding");
}

GradientOptions gradient_options(const std::string& route, int64_t max_panel_bytes) {
  static const std::map<std::string, GradientRoute> kRoutes = {{"auto", GradientRoute::kAuto},
                                                               {"rows", GradientRoute::kRows},
                                                               {"panel", GradientRoute::kPanel}};
  return {lookup(kRoutes, route, "route"), max_panel_bytes};
}

Problem make_problem(const std::string& number_type_name, const std::string& measure_name,
                     Address anchors, Address references, Address anchor_labels,
                     Address reference_labels, int64_t n, int64_t m, int64_t d, bool is_self,
                     bool exclude_diagonal, Address logit, Address thresholds, Address extent,
                     int set_words, int64_t self_offset) {
  Problem problem{};
  problem.number_type = number_type(number_type_name);
  problem.measure = measure(measure_name);
  problem.anchors = pointer<void>(anchors);
  problem.references = pointer<void>(references);
  problem.anchor_labels = pointer<int64_t>(anchor_labels);
  problem.reference_labels = pointer<int64_t>(reference_labels);
  problem.n = n;
  problem.m = m;
  problem.d = d;
  problem.is_self = is_self;
  problem.exclude_diagonal = exclude_diagonal;
  problem.device_logit = pointer<double>(logit);  // the emulated device is this one
  problem.thresholds = pointer<void>(thresholds);
  problem.extent = pointer<int64_t>(extent);
  problem.set_words = set_words;
  problem.self_offset = self_offset;
  return problem;
}

/// n anchors against `num_classes` classes of `size` vectors each.
Problem make_groups(const std::string& number_type_name, const std::string& group, Address anchors,
                    Address vectors, Address labels, int64_t n, int64_t num_classes, int size,
                    int64_t d, Address logit, Address sharpness) {
  static const std::map<std::string, Measure> kMeasures = {{"maximum", Measure::kMaximum},
                                                           {"soft_maximum", Measure::kSoftMaximum}};
  Problem problem{};
  problem.number_type = number_type(number_type_name);
  problem.measure = lookup(kMeasures, group, "group");
  problem.anchors = pointer<void>(anchors);
  problem.references = pointer<void>(vectors);
  problem.anchor_labels = pointer<int64_t>(labels);
  problem.n = n;
  problem.m = num_classes * size;
  problem.d = d;
  problem.device_logit = pointer<double>(logit);
  problem.group_size = size;
  problem.sharpness = 1;
  problem.device_sharpness = pointer<double>(sharpness);
  return problem;
}

/// numbers: those of ThresholdTerms.
Thresholds thresholds_of(Address others, Address values, int64_t count, const std::string& form,
                         Address numbers) {
  static const std::map<std::string, ThresholdForm> kForms = {
      {"hinge", ThresholdForm::kHinge},
      {"softplus", ThresholdForm::kSoftplus},
      {"sigmoid", ThresholdForm::kSigmoid},
      {"pulse", ThresholdForm::kPulse}};
  const double* number = pointer<const double>(numbers);
  return {pointer<void>(values),
          count,
          {lookup(kForms, form, "form"), number[0], number[1], number[2], number[3], number[4],
           number[5]},
          pointer<void>(others)};
}

/// packed: [num_terms, 9], as fusedml.terms.packed() has them.
PairSums pair_sums_of(Address packed, int num_terms, Address shifts, bool both_sides) {
  PairSums sums{};
  sums.num_terms = num_terms;
  sums.shifts = pointer<void>(shifts);
  sums.both_sides = both_sides;
  const double* numbers = pointer<const double>(packed);
  for (int k = 0; k < num_terms; ++k, numbers += 9) {
    sums.is_positive[k] = numbers[0] != 0;
    sums.terms[k] = {numbers[1], numbers[2], numbers[3],      numbers[4],
                     numbers[5], numbers[6], numbers[7] != 0, numbers[8] != 0};
  }
  return sums;
}

ListedPairs listed_pairs(Address rows, Address columns, int64_t count) {
  return {pointer<int64_t>(rows), pointer<int64_t>(columns), count};
}

/// A workspace of exactly the announced size, filled with what would show as NaN if it were read.
std::vector<unsigned char> workspace_of(size_t bytes) {
  return std::vector<unsigned char>(bytes, 0xff);
}

void require(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error("a launch failed: " + std::to_string(error));
}

}  // namespace
}  // namespace fusedml

PYBIND11_MODULE(fusedml_emulated_kernels, m) {
  using namespace fusedml;
  m.doc() = "fusedml's CUDA kernels, executed on the CPU by the emulator";

  py::class_<Problem>(m, "Problem")
      .def(py::init(&make_problem))
      .def_static("of_groups", &make_groups);
  py::class_<PairSums>(m, "PairSums").def(py::init(&pair_sums_of));

  m.def("set_seed", [](uint64_t seed) { emulation::config.seed = seed; });
  m.def("set_mma_rounding",
        [](const std::string& name) { emulation::config.mma_rounding = mma_rounding(name); });
  m.def("set_strict_tf32", [](bool is_strict) { emulation::config.strict_tf32 = is_strict; });

  m.def("pair_extrema", [](const Problem& problem, Address extrema) {
    auto workspace = workspace_of(pair_extrema_workspace(problem));
    require(pair_extrema(problem, pointer<void>(extrema), workspace.data(), nullptr));
  });
  m.def("pair_statistics", [](const Problem& problem, Address statistics, Address counts) {
    auto workspace = workspace_of(pair_statistics_workspace(problem));
    const StatisticsOutputs outputs{pointer<void>(statistics), pointer<int64_t>(counts), nullptr,
                                    nullptr};
    require(pair_statistics(problem, {}, outputs, workspace.data(), nullptr));
  });
  m.def("row_losses", [](const Problem& problem, const std::string& head, Address head_parameters,
                         Address losses, Address statistics, Address partials) {
    auto workspace = workspace_of(pair_statistics_workspace(problem));
    const StatisticsOutputs outputs{pointer<void>(statistics), nullptr, pointer<void>(losses),
                                    pointer<void>(partials)};
    require(pair_statistics(problem, row_head(head, head_parameters), outputs, workspace.data(),
                            nullptr));
  });
  m.def("pair_gradient",
        [](const Problem& problem, Address statistics, Address statistics_grad, Address anchors,
           Address references, Address logit, const std::string& route, int64_t max_panel_bytes) {
          const GradientOptions options = gradient_options(route, max_panel_bytes);
          const GradientOutputs outputs{pointer<void>(anchors), pointer<void>(references),
                                        pointer<double>(logit)};
          auto workspace = workspace_of(pair_gradient_workspace(problem, outputs, options));
          require(pair_gradient(problem, pointer<void>(statistics), pointer<void>(statistics_grad),
                                outputs, workspace.data(), nullptr, options));
        });
  m.def("two_sided_statistics", [](const Problem& problem, Address statistics, Address counts) {
    auto workspace = workspace_of(two_sided_statistics_workspace(problem));
    const StatisticsOutputs outputs{pointer<void>(statistics), pointer<int64_t>(counts), nullptr,
                                    nullptr};
    require(two_sided_statistics(problem, outputs, workspace.data(), nullptr));
  });
  m.def("two_sided_gradient", [](const Problem& problem, Address statistics,
                                 Address statistics_grad, Address anchors, Address references,
                                 Address logit, const std::string& route, int64_t max_panel_bytes) {
    const GradientOptions options = gradient_options(route, max_panel_bytes);
    const GradientOutputs outputs{pointer<void>(anchors), pointer<void>(references),
                                  pointer<double>(logit)};
    auto workspace = workspace_of(two_sided_gradient_workspace(problem, outputs, options));
    require(two_sided_gradient(problem, pointer<void>(statistics), pointer<void>(statistics_grad),
                               outputs, workspace.data(), nullptr, options));
  });
  m.def("extreme_pairs", [](const Problem& problem, bool largest_positive, bool largest_negative,
                            Address intervals, Address measures, Address columns) {
    auto workspace = workspace_of(extreme_pairs_workspace(problem));
    const ExtremePairs wanted{{largest_positive, largest_negative}, pointer<void>(intervals)};
    require(extreme_pairs(problem, wanted, pointer<void>(measures), pointer<int64_t>(columns),
                          workspace.data(), nullptr));
  });
  m.def("window_counts",
        [](const Problem& problem, Address windows, int64_t width, Address counts) {
          auto workspace = workspace_of(window_counts_workspace(problem));
          require(window_counts(problem, {pointer<void>(windows), width}, pointer<int64_t>(counts),
                                workspace.data(), nullptr));
        });
  m.def("window_pairs", [](const Problem& problem, Address windows, int64_t width, Address ends,
                           int64_t size, Address rows, Address columns, Address measures) {
    auto workspace = workspace_of(window_pairs_workspace(problem));
    const WindowList list{pointer<int64_t>(ends), size, pointer<int64_t>(rows),
                          pointer<int64_t>(columns), pointer<void>(measures)};
    require(
        window_pairs(problem, {pointer<void>(windows), width}, list, workspace.data(), nullptr));
  });
  m.def("pair_sums", [](const Problem& problem, const PairSums& sums, Address values,
                        Address slopes, Address counts, Address numbers) {
    auto workspace = workspace_of(pair_sums_workspace(problem, sums));
    const PairSumsOutputs outputs{pointer<void>(values), pointer<void>(slopes),
                                  pointer<int64_t>(counts), pointer<int64_t>(numbers)};
    require(pair_sums(problem, sums, outputs, workspace.data(), nullptr));
  });
  m.def("pair_sums_gradient", [](const Problem& problem, const PairSums& sums, Address slopes,
                                 Address sums_grad, Address anchors, Address references,
                                 Address logit, Address shifts_grad, int64_t max_panel_bytes) {
    const GradientOptions options = gradient_options("panel", max_panel_bytes);
    const GradientOutputs outputs{pointer<void>(anchors), pointer<void>(references),
                                  pointer<double>(logit)};
    auto workspace = workspace_of(pair_sums_gradient_workspace(problem, sums, outputs, options));
    require(pair_sums_gradient(problem, sums, pointer<void>(slopes), pointer<void>(sums_grad),
                               outputs, pointer<void>(shifts_grad), workspace.data(), nullptr,
                               options));
  });
  m.def("row_divergences", [](const Problem& problem, Address teacher, int64_t width,
                              Address losses, Address log_sums) {
    const SecondProduct second{pointer<void>(teacher), width};
    auto workspace = workspace_of(row_divergences_workspace(problem, second));
    require(row_divergences(problem, second, pointer<void>(losses), pointer<void>(log_sums),
                            workspace.data(), nullptr));
  });
  m.def("row_divergences_gradient",
        [](const Problem& problem, Address teacher, int64_t width, Address losses, Address log_sums,
           Address losses_grad, Address anchors, Address teacher_grad, Address numbers,
           int64_t max_panel_bytes) {
          const SecondProduct second{pointer<void>(teacher), width};
          const GradientOptions options = gradient_options("panel", max_panel_bytes);
          const GradientOutputs outputs{pointer<void>(anchors), pointer<void>(teacher_grad),
                                        pointer<double>(numbers)};
          auto workspace =
              workspace_of(row_divergences_gradient_workspace(problem, second, outputs, options));
          require(row_divergences_gradient(problem, second, pointer<void>(losses),
                                           pointer<void>(log_sums), pointer<void>(losses_grad),
                                           outputs, workspace.data(), nullptr, options));
        });
  m.def("positive_pair_losses",
        [](const Problem& problem, const std::string& head, Address reference_lse, Address losses,
           Address statistics, Address counts) {
          const PositivePairs pairs{positive_pair_head(head), pointer<void>(reference_lse)};
          const StatisticsOutputs outputs{pointer<void>(statistics), pointer<int64_t>(counts),
                                          pointer<void>(losses), nullptr};
          auto workspace = workspace_of(positive_pair_losses_workspace(problem));
          require(positive_pair_losses(problem, pairs, outputs, workspace.data(), nullptr));
        });
  m.def(
      "positive_pair_gradient",
      [](const Problem& problem, const std::string& head, Address reference_lse, Address statistics,
         Address losses_grad, Address anchors, Address references, Address logit,
         Address reference_lse_grad, const std::string& route, int64_t max_panel_bytes) {
        const GradientOptions options = gradient_options(route, max_panel_bytes);
        const PositivePairs pairs{positive_pair_head(head), pointer<void>(reference_lse)};
        const GradientOutputs outputs{pointer<void>(anchors), pointer<void>(references),
                                      pointer<double>(logit)};
        auto workspace = workspace_of(positive_pair_gradient_workspace(problem, outputs, options));
        require(positive_pair_gradient(
            problem, pairs, pointer<void>(statistics), pointer<void>(losses_grad), outputs,
            pointer<void>(reference_lse_grad), workspace.data(), nullptr, options));
      });
  m.def("threshold_sums", [](const Problem& problem, Address others, Address values, int64_t count,
                             const std::string& form, Address numbers, Address sums) {
    const Thresholds thresholds = thresholds_of(others, values, count, form, numbers);
    auto workspace = workspace_of(threshold_sums_workspace(problem, thresholds));
    require(threshold_sums(problem, thresholds, pointer<void>(sums), workspace.data(), nullptr));
  });
  m.def("threshold_gradient",
        [](const Problem& problem, Address others, Address values, int64_t count,
           const std::string& form, Address numbers, Address sums_grad, Address largest_weights,
           Address anchors, Address references, int64_t max_panel_bytes) {
          const Thresholds thresholds = thresholds_of(others, values, count, form, numbers);
          const GradientOptions options = gradient_options("panel", max_panel_bytes);
          const GradientOutputs outputs{pointer<void>(anchors), pointer<void>(references), nullptr};
          auto workspace =
              workspace_of(threshold_gradient_workspace(problem, thresholds, outputs, options));
          require(threshold_gradient(problem, thresholds, pointer<void>(sums_grad),
                                     pointer<void>(largest_weights), outputs, workspace.data(),
                                     nullptr, options));
        });
  m.def("threshold_pairs",
        [](const Problem& problem, Address thresholds, int64_t count, Address columns) {
          auto workspace = workspace_of(threshold_pairs_workspace(problem, count));
          require(threshold_pairs(problem, pointer<void>(thresholds), count,
                                  pointer<int64_t>(columns), workspace.data(), nullptr));
        });
  m.def("pair_values",
        [](const Problem& problem, Address rows, Address columns, int64_t count, Address values) {
          require(pair_values(problem, listed_pairs(rows, columns, count), pointer<void>(values),
                              nullptr));
        });
  m.def("pair_values_gradient", [](const Problem& problem, Address rows, Address columns,
                                   int64_t count, Address sorted_rows, Address row_order,
                                   Address sorted_columns, Address column_order,
                                   Address values_grad, Address anchors, Address references) {
    const ListedPairs pairs = listed_pairs(rows, columns, count);
    auto workspace = workspace_of(pair_values_gradient_workspace(problem, pairs));
    require(pair_values_gradient(
        problem, pairs, {pointer<int64_t>(sorted_rows), pointer<int64_t>(row_order)},
        {pointer<int64_t>(sorted_columns), pointer<int64_t>(column_order)},
        pointer<void>(values_grad), {pointer<void>(anchors), pointer<void>(references), nullptr},
        workspace.data(), nullptr));
  });

  m.def("normalize_rows",
        [](const std::string& number_type_name, bool is_float, Address x, Address order,
           int64_t rows, int64_t d, Address unit_rows, Address norms) {
          const Normalization given{number_type(number_type_name),
                                    is_float,
                                    pointer<void>(x),
                                    pointer<int64_t>(order),
                                    nullptr,
                                    rows,
                                    d};
          require(normalize_rows(given, pointer<void>(unit_rows), pointer<void>(norms), nullptr));
        });
  m.def("normalize_rows_gradient",
        [](const std::string& number_type_name, bool is_float, Address x, Address places,
           int64_t rows, int64_t d, Address norms, Address unit_grad, Address x_grad) {
          const Normalization given{number_type(number_type_name),
                                    is_float,
                                    pointer<void>(x),
                                    nullptr,
                                    pointer<int64_t>(places),
                                    rows,
                                    d};
          require(normalize_rows_gradient(given, pointer<void>(norms), pointer<void>(unit_grad),
                                          pointer<void>(x_grad), nullptr));
        });
}
