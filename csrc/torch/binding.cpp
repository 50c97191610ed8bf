// The operators of fusedml/engine/ops.py on CUDA tensors.  LibTorch's stable ABI: one binary serves
// every later torch and Python.  Only kernels are registered here; the schemas live in Python, so
// that the operators exist in an installation without CUDA too.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <tuple>

#include "torch/arguments.h"
#include "torch/gradients.h"
#include "torch/runtime.h"

namespace fusedml::binding {
namespace {

using OptionalTensor = std::optional<Tensor>;
using SelfOffset = std::optional<int64_t>;

void check_two_operands(const Call& call) {
  STD_TORCH_CHECK(!call.problem().is_self, "fusedml: references must be given for both sides");
}

/// Raises the reason where Hopper's kernels were asked for and cannot compute.
void check_engine(Engine wanted, const EngineChoice& choice, const char* operation) {
  STD_TORCH_CHECK(wanted != Engine::kHopper || choice.engine == Engine::kHopper,
                  "fusedml: FUSEDML_ENGINE='hopper' cannot compute ", operation, ": ",
                  choice.reason ? choice.reason : "");
}

Tensor pair_extrema_op(const Tensor& anchors, const OptionalTensor& references,
                       const Tensor& anchor_labels, const OptionalTensor& reference_labels,
                       Name measure, SelfOffset self_offset) {
  Call call(anchors, references, anchor_labels, reference_labels, measure, self_offset);
  Tensor extrema = call.new_reals({2, call.n()});
  check_cuda(pair_extrema(call.problem(), extrema.mutable_data_ptr(),
                          call.workspace(pair_extrema_workspace(call.problem())), call.stream()),
             "pair_extrema");
  return extrema;
}

void launch_statistics(Call& call, const RowHead& head, const StatisticsOutputs& outputs,
                       Engine engine, const char* operation) {
  call.set_labels_sorted(engine == Engine::kAuto);
  check_engine(engine, choose_engine(call.problem(), engine), operation);
  SweepOptions options;
  options.engine = engine;
  void* const workspace = call.workspace(pair_statistics_workspace(call.problem(), options));
  check_cuda(pair_statistics(call.problem(), head, outputs, workspace, call.stream(), options),
             operation);
}

template <Engine kEngine>
std::tuple<Tensor, Tensor> pair_statistics_op(
    const Tensor& anchors, const OptionalTensor& references, const Tensor& anchor_labels,
    const OptionalTensor& reference_labels, const Tensor& logit, Name measure,
    SelfOffset self_offset, const OptionalTensor& thresholds, const OptionalTensor& extent) {
  Call call(anchors, references, anchor_labels, reference_labels, measure, self_offset);
  call.set_logit(logit);
  call.set_thresholds(thresholds);
  call.set_extent(extent);
  Tensor statistics = call.new_reals({3, call.n()}), counts = call.new_counts();
  const StatisticsOutputs outputs{statistics.mutable_data_ptr(),
                                  static_cast<int64_t*>(counts.mutable_data_ptr()), nullptr,
                                  nullptr};
  launch_statistics(call, {}, outputs, kEngine, "pair_statistics");
  return {statistics, counts};
}

template <Engine kEngine>
std::tuple<Tensor, Tensor, Tensor> row_losses_op(
    const Tensor& anchors, const OptionalTensor& references, const Tensor& anchor_labels,
    const OptionalTensor& reference_labels, const Tensor& logit, Name measure,
    SelfOffset self_offset, const OptionalTensor& thresholds, const OptionalTensor& extent,
    Name head, const Tensor& head_parameters) {
  Call call(anchors, references, anchor_labels, reference_labels, measure, self_offset);
  call.set_logit(logit);
  call.set_thresholds(thresholds);
  call.set_extent(extent);
  const RowHead row_head = call.row_head(head, head_parameters);
  Tensor losses = call.new_reals({call.n()}), statistics = call.new_reals({3, call.n()}),
         partials = call.new_reals({3, call.n()});
  const StatisticsOutputs outputs{statistics.mutable_data_ptr(), nullptr, losses.mutable_data_ptr(),
                                  partials.mutable_data_ptr()};
  launch_statistics(call, row_head, outputs, kEngine, "row_losses");
  return {losses, statistics, partials};
}

template <Engine kEngine>
std::tuple<Tensor, Tensor, Tensor> pair_gradient_op(
    const Tensor& anchors, const OptionalTensor& references, const Tensor& anchor_labels,
    const OptionalTensor& reference_labels, const Tensor& logit, Name measure,
    SelfOffset self_offset, const OptionalTensor& thresholds, const OptionalTensor& extent,
    const Tensor& statistics, const Tensor& statistics_grad, const std::vector<bool>& needs) {
  Call call(anchors, references, anchor_labels, reference_labels, measure, self_offset);
  call.set_logit(logit);
  call.set_thresholds(thresholds);
  call.set_extent(extent);
  Gradients gradients(call, anchors, references, logit, needs);
  const GradientOutputs outputs = gradients.pointers();
  call.set_labels_sorted(kEngine == Engine::kAuto);
  check_engine(kEngine, choose_engine(call.problem(), outputs, kEngine), "pair_gradient");
  GradientOptions options;
  options.engine = kEngine;
  const size_t bytes = pair_gradient_workspace(call.problem(), outputs, options);
  check_cuda(pair_gradient(call.problem(), call.reals(statistics, "statistics", 3 * call.n()),
                           call.reals(statistics_grad, "statistics_grad", 3 * call.n()), outputs,
                           call.workspace(bytes), call.stream(), options),
             "pair_gradient");
  return {gradients.anchors.result(), gradients.references.result(), gradients.logit.result()};
}

std::tuple<Tensor, Tensor> two_sided_statistics_op(const Tensor& anchors,
                                                   const OptionalTensor& references,
                                                   const Tensor& anchor_labels,
                                                   const OptionalTensor& reference_labels,
                                                   const Tensor& logit, Name measure,
                                                   SelfOffset self_offset) {
  Call call(anchors, references, anchor_labels, reference_labels, measure, self_offset);
  call.set_logit(logit);
  check_two_operands(call);
  const int64_t lines = call.n() + call.m();
  Tensor statistics = call.new_reals({3, lines}),
         counts = call.new_tensor({2, lines}, ScalarType::Long);
  const StatisticsOutputs outputs{statistics.mutable_data_ptr(),
                                  static_cast<int64_t*>(counts.mutable_data_ptr()), nullptr,
                                  nullptr};
  check_cuda(two_sided_statistics(call.problem(), outputs,
                                  call.workspace(two_sided_statistics_workspace(call.problem())),
                                  call.stream()),
             "two_sided_statistics");
  return {statistics, counts};
}

std::tuple<Tensor, Tensor, Tensor> two_sided_gradient_op(
    const Tensor& anchors, const OptionalTensor& references, const Tensor& anchor_labels,
    const OptionalTensor& reference_labels, const Tensor& logit, Name measure,
    SelfOffset self_offset, const Tensor& statistics, const Tensor& statistics_grad,
    const std::vector<bool>& needs) {
  Call call(anchors, references, anchor_labels, reference_labels, measure, self_offset);
  call.set_logit(logit);
  check_two_operands(call);
  const int64_t numbers = 3 * (call.n() + call.m());
  Gradients gradients(call, anchors, references, logit, needs);
  const GradientOutputs outputs = gradients.pointers();
  const size_t bytes = two_sided_gradient_workspace(call.problem(), outputs);
  check_cuda(two_sided_gradient(call.problem(), call.reals(statistics, "statistics", numbers),
                                call.reals(statistics_grad, "statistics_grad", numbers), outputs,
                                call.workspace(bytes), call.stream()),
             "two_sided_gradient");
  return {gradients.anchors.result(), gradients.references.result(), gradients.logit.result()};
}

std::tuple<Tensor, Tensor> extreme_pairs_op(const Tensor& anchors, const OptionalTensor& references,
                                            const Tensor& anchor_labels,
                                            const OptionalTensor& reference_labels, Name measure,
                                            SelfOffset self_offset, const OptionalTensor& intervals,
                                            const std::vector<bool>& largest) {
  Call call(anchors, references, anchor_labels, reference_labels, measure, self_offset);
  STD_TORCH_CHECK(is_of_any_measure(call.problem().measure),
                  "fusedml: extreme pairs need the measure dot, euclidean or squared_euclidean");
  ExtremePairs wanted{{largest.at(0), largest.at(1)}, nullptr};
  if (intervals) wanted.intervals = call.reals(*intervals, "intervals", 4 * call.n());
  Tensor measures = call.new_reals({2, call.n()}), columns = call.new_counts();
  check_cuda(extreme_pairs(call.problem(), wanted, measures.mutable_data_ptr(),
                           static_cast<int64_t*>(columns.mutable_data_ptr()),
                           call.workspace(extreme_pairs_workspace(call.problem())), call.stream()),
             "extreme_pairs");
  return {measures, columns};
}

Tensor window_counts_op(const Tensor& anchors, const OptionalTensor& references,
                        const Tensor& anchor_labels, const OptionalTensor& reference_labels,
                        Name measure, SelfOffset self_offset, const Tensor& values, int64_t width) {
  Call call(anchors, references, anchor_labels, reference_labels, measure, self_offset);
  const PairWindows windows = call.windows(values, width);
  Tensor counts =
      call.new_tensor({2, call.n(), windows.num_splits(call.problem())}, ScalarType::Long);
  check_cuda(
      window_counts(call.problem(), windows, static_cast<int64_t*>(counts.mutable_data_ptr()),
                    call.workspace(window_counts_workspace(call.problem())), call.stream()),
      "window_counts");
  return counts;
}

std::tuple<Tensor, Tensor, Tensor> window_pairs_op(
    const Tensor& anchors, const OptionalTensor& references, const Tensor& anchor_labels,
    const OptionalTensor& reference_labels, Name measure, SelfOffset self_offset,
    const Tensor& values, int64_t width, const Tensor& ends, int64_t size, bool is_measured) {
  Call call(anchors, references, anchor_labels, reference_labels, measure, self_offset);
  const PairWindows windows = call.windows(values, width);
  const int64_t num_ends = 2 * call.n() * windows.num_splits(call.problem());
  Tensor rows = call.new_tensor({size}, ScalarType::Long),
         columns = call.new_tensor({size}, ScalarType::Long),
         measures = is_measured ? call.new_reals({size}) : call.new_reals({0});
  const WindowList list{call.integers(ends, "ends", num_ends), size,
                        static_cast<int64_t*>(rows.mutable_data_ptr()),
                        static_cast<int64_t*>(columns.mutable_data_ptr()),
                        is_measured ? measures.mutable_data_ptr() : nullptr};
  check_cuda(window_pairs(call.problem(), windows, list,
                          call.workspace(window_pairs_workspace(call.problem())), call.stream()),
             "window_pairs");
  return {rows, columns, measures};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> pair_sums_op(
    const Tensor& anchors, const OptionalTensor& references, const Tensor& anchor_labels,
    const OptionalTensor& reference_labels, const Tensor& logit, Name measure,
    SelfOffset self_offset, const OptionalTensor& shifts, const OptionalTensor& extent,
    const Tensor& terms, bool both_sides) {
  Call call(anchors, references, anchor_labels, reference_labels, measure, self_offset);
  call.set_logit(logit);
  call.set_extent(extent);
  const PairSums sums = call.pair_sums(terms, shifts, both_sides);
  const int64_t lines = sums.num_lines(call.problem());
  Tensor values = call.new_reals({sums.num_terms, lines}),
         slopes = shifts ? call.new_reals({sums.num_terms, lines}) : call.new_reals({0}),
         counts = call.new_tensor({sums.num_terms, lines}, ScalarType::Long),
         numbers = call.new_tensor({2, lines}, ScalarType::Long);
  const PairSumsOutputs outputs{values.mutable_data_ptr(),
                                shifts ? slopes.mutable_data_ptr() : nullptr,
                                static_cast<int64_t*>(counts.mutable_data_ptr()),
                                static_cast<int64_t*>(numbers.mutable_data_ptr())};
  check_cuda(pair_sums(call.problem(), sums, outputs,
                       call.workspace(pair_sums_workspace(call.problem(), sums)), call.stream()),
             "pair_sums");
  return {values, slopes, counts, numbers};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> pair_sums_gradient_op(
    const Tensor& anchors, const OptionalTensor& references, const Tensor& anchor_labels,
    const OptionalTensor& reference_labels, const Tensor& logit, Name measure,
    SelfOffset self_offset, const OptionalTensor& shifts, const OptionalTensor& extent,
    const Tensor& terms, bool both_sides, const Tensor& slopes, const Tensor& /*counts*/,
    const Tensor& sums_grad, const std::vector<bool>& needs) {
  Call call(anchors, references, anchor_labels, reference_labels, measure, self_offset);
  call.set_logit(logit);
  call.set_extent(extent);
  const PairSums sums = call.pair_sums(terms, shifts, both_sides);
  const int64_t numbers = sums.num_terms * sums.num_lines(call.problem());
  Gradients gradients(call, anchors, references, logit, needs);
  Gradient shifts_grad =
      shifts ? Gradient(call, *shifts, call.real()) : Gradient(call.new_tensor({0}, call.real()));
  const GradientOutputs outputs = gradients.pointers();
  const size_t bytes = pair_sums_gradient_workspace(call.problem(), sums, outputs);
  check_cuda(pair_sums_gradient(call.problem(), sums,
                                shifts ? call.reals(slopes, "slopes", numbers) : nullptr,
                                call.reals(sums_grad, "sums_grad", numbers), outputs,
                                shifts_grad.pointer(), call.workspace(bytes), call.stream()),
             "pair_sums_gradient");
  return {gradients.anchors.result(), gradients.references.result(), gradients.logit.result(),
          shifts_grad.result()};
}

std::tuple<Tensor, Tensor> row_divergences_op(const Tensor& anchors, const Tensor& teacher,
                                              const OptionalTensor& labels, const Tensor& numbers) {
  Call call(anchors, labels);
  call.set_logit(numbers, "numbers");
  const SecondProduct second = call.second_product(teacher, "teacher");
  Tensor losses = call.new_reals({call.n()}), log_sums = call.new_reals({2, call.n()});
  const size_t bytes = row_divergences_workspace(call.problem(), second);
  check_cuda(row_divergences(call.problem(), second, losses.mutable_data_ptr(),
                             log_sums.mutable_data_ptr(), call.workspace(bytes), call.stream()),
             "row_divergences");
  return {losses, log_sums};
}

std::tuple<Tensor, Tensor, Tensor> row_divergences_gradient_op(
    const Tensor& anchors, const Tensor& teacher, const OptionalTensor& labels,
    const Tensor& numbers, const Tensor& losses, const Tensor& log_sums, const Tensor& losses_grad,
    const std::vector<bool>& needs) {
  Call call(anchors, labels);
  call.set_logit(numbers, "numbers");
  const SecondProduct second = call.second_product(teacher, "teacher");
  Gradients gradients(call, anchors, teacher, numbers, needs);
  const GradientOutputs outputs = gradients.pointers();
  const size_t bytes = row_divergences_gradient_workspace(call.problem(), second, outputs);
  check_cuda(
      row_divergences_gradient(call.problem(), second, call.reals(losses, "losses", call.n()),
                               call.reals(log_sums, "log_sums", 2 * call.n()),
                               call.reals(losses_grad, "losses_grad", call.n()), outputs,
                               call.workspace(bytes), call.stream()),
      "row_divergences_gradient");
  return {gradients.anchors.result(), gradients.references.result(), gradients.logit.result()};
}

Tensor group_statistics_op(const Tensor& anchors, const Tensor& vectors, const Tensor& labels,
                           const Tensor& logit, Name group, const OptionalTensor& sharpness) {
  Call call(anchors, vectors, labels, group, sharpness);
  call.set_logit(logit);
  Tensor statistics = call.new_reals({2, call.n()});
  const StatisticsOutputs outputs{statistics.mutable_data_ptr(), nullptr, nullptr, nullptr};
  check_cuda(
      pair_statistics(call.problem(), {}, outputs,
                      call.workspace(pair_statistics_workspace(call.problem())), call.stream()),
      "group_statistics");
  return statistics;
}

std::tuple<Tensor, Tensor, Tensor> group_gradient_op(const Tensor& anchors, const Tensor& vectors,
                                                     const Tensor& labels, const Tensor& logit,
                                                     Name group, const OptionalTensor& sharpness,
                                                     const Tensor& statistics,
                                                     const Tensor& statistics_grad,
                                                     const std::vector<bool>& needs) {
  Call call(anchors, vectors, labels, group, sharpness);
  call.set_logit(logit);
  Gradients gradients(call, anchors, vectors, logit, needs);
  const GradientOutputs outputs = gradients.pointers();
  const size_t bytes = pair_gradient_workspace(call.problem(), outputs);
  check_cuda(pair_gradient(call.problem(), call.reals(statistics, "statistics", 2 * call.n()),
                           call.reals(statistics_grad, "statistics_grad", 2 * call.n()), outputs,
                           call.workspace(bytes), call.stream()),
             "group_gradient");
  return {gradients.anchors.result(), gradients.references.result(), gradients.logit.result()};
}

PositivePairs positive_pairs(Call& call, Name head, const OptionalTensor& reference_lse) {
  PositivePairs pairs{};
  pairs.head = take_positive_pair_head(head);
  if (!reference_lse) return pairs;
  STD_TORCH_CHECK(!call.problem().is_self,
                  "fusedml: reference_lse must be None without references");
  pairs.reference_lse = call.reals(*reference_lse, "reference_lse", call.m());
  return pairs;
}

std::tuple<Tensor, Tensor, Tensor> positive_pair_losses_op(
    const Tensor& anchors, const OptionalTensor& references, const Tensor& anchor_labels,
    const OptionalTensor& reference_labels, const Tensor& logit, Name measure,
    SelfOffset self_offset, const OptionalTensor& reference_lse, Name head,
    const Tensor& /*head_parameters*/) {
  Call call(anchors, references, anchor_labels, reference_labels, measure, self_offset);
  call.set_logit(logit);
  const PositivePairs pairs = positive_pairs(call, head, reference_lse);
  Tensor losses = call.new_reals({call.n()}), statistics = call.new_reals({3, call.n()}),
         counts = call.new_counts();
  const StatisticsOutputs outputs{statistics.mutable_data_ptr(),
                                  static_cast<int64_t*>(counts.mutable_data_ptr()),
                                  losses.mutable_data_ptr(), nullptr};
  check_cuda(positive_pair_losses(call.problem(), pairs, outputs,
                                  call.workspace(positive_pair_losses_workspace(call.problem())),
                                  call.stream()),
             "positive_pair_losses");
  return {losses, statistics, counts};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> positive_pair_gradient_op(
    const Tensor& anchors, const OptionalTensor& references, const Tensor& anchor_labels,
    const OptionalTensor& reference_labels, const Tensor& logit, Name measure,
    SelfOffset self_offset, const OptionalTensor& reference_lse, Name head,
    const Tensor& /*head_parameters*/, const Tensor& statistics, const Tensor& losses_grad,
    const std::vector<bool>& needs) {
  Call call(anchors, references, anchor_labels, reference_labels, measure, self_offset);
  call.set_logit(logit);
  const PositivePairs pairs = positive_pairs(call, head, reference_lse);
  Gradients gradients(call, anchors, references, logit, needs);
  Gradient reference_lse_grad =
      reference_lse ? Gradient(call, *reference_lse, call.real()) : Gradient(call.none());
  const GradientOutputs outputs = gradients.pointers();
  const size_t bytes = positive_pair_gradient_workspace(call.problem(), outputs);
  check_cuda(positive_pair_gradient(
                 call.problem(), pairs, call.reals(statistics, "statistics", 3 * call.n()),
                 call.reals(losses_grad, "losses_grad", call.n()), outputs,
                 reference_lse_grad.pointer(), call.workspace(bytes), call.stream()),
             "positive_pair_gradient");
  return {gradients.anchors.result(), gradients.references.result(), gradients.logit.result(),
          reference_lse_grad.result()};
}

Tensor threshold_sums_op(const Tensor& anchors, const OptionalTensor& references,
                         const Tensor& anchor_labels, const OptionalTensor& reference_labels,
                         Name measure, SelfOffset self_offset, const OptionalTensor& others,
                         const OptionalTensor& values, int64_t count, Name form,
                         const std::vector<double>& numbers) {
  Call call(anchors, references, anchor_labels, reference_labels, measure, self_offset);
  const Thresholds thresholds = call.thresholds(others, values, count, form, numbers);
  const int64_t num_sums = thresholds.terms.form == ThresholdForm::kPulse ? 2 : 3;
  Tensor sums = call.new_reals({num_sums, call.n(), count});
  const size_t bytes = threshold_sums_workspace(call.problem(), thresholds);
  check_cuda(threshold_sums(call.problem(), thresholds, sums.mutable_data_ptr(),
                            call.workspace(bytes), call.stream()),
             "threshold_sums");
  return sums;
}

std::tuple<Tensor, Tensor> threshold_gradient_op(
    const Tensor& anchors, const OptionalTensor& references, const Tensor& anchor_labels,
    const OptionalTensor& reference_labels, Name measure, SelfOffset self_offset,
    const OptionalTensor& others, const OptionalTensor& values, int64_t count, Name form,
    const std::vector<double>& numbers, const Tensor& sums_grad, const Tensor& largest_weights,
    const std::vector<bool>& needs) {
  Call call(anchors, references, anchor_labels, reference_labels, measure, self_offset);
  const Thresholds thresholds = call.thresholds(others, values, count, form, numbers);
  Gradient anchors_grad = gradient_of(call, needs.at(0), anchors),
           references_grad =
               references ? gradient_of(call, needs.at(1), *references) : Gradient(call.none());
  const GradientOutputs outputs{anchors_grad.pointer(), references_grad.pointer(), nullptr};
  if (outputs.anchors != nullptr || outputs.references != nullptr) {
    const bool is_of_rows = thresholds.terms.form == ThresholdForm::kHinge ||
                            thresholds.terms.form == ThresholdForm::kSoftplus;
    const int64_t of_row = is_of_rows                                       ? 1
                           : thresholds.terms.form == ThresholdForm::kPulse ? 2 * count
                                                                            : count;
    const size_t bytes = threshold_gradient_workspace(call.problem(), thresholds, outputs);
    check_cuda(threshold_gradient(call.problem(), thresholds,
                                  call.reals(sums_grad, "sums_grad", call.n() * of_row),
                                  call.reals(largest_weights, "largest_weights", call.n()), outputs,
                                  call.workspace(bytes), call.stream()),
               "threshold_gradient");
  }
  return {anchors_grad.result(), references_grad.result()};
}

Tensor threshold_pairs_op(const Tensor& anchors, const OptionalTensor& references,
                          const Tensor& anchor_labels, const OptionalTensor& reference_labels,
                          Name measure, SelfOffset self_offset, const Tensor& thresholds) {
  Call call(anchors, references, anchor_labels, reference_labels, measure, self_offset);
  STD_TORCH_CHECK(is_of_any_measure(call.problem().measure),
                  "fusedml: pairs below thresholds need the measure dot, euclidean or "
                  "squared_euclidean");
  STD_TORCH_CHECK(thresholds.dim() == 2, "fusedml: thresholds must be [", call.n(),
                  ", count], got ", thresholds.dim(), " dimensions");
  const int64_t count = thresholds.size(1);
  Tensor columns = call.new_tensor({call.n(), count}, ScalarType::Long);
  const size_t bytes = threshold_pairs_workspace(call.problem(), count);
  check_cuda(threshold_pairs(call.problem(), call.reals(thresholds, "thresholds", call.n() * count),
                             count, static_cast<int64_t*>(columns.mutable_data_ptr()),
                             call.workspace(bytes), call.stream()),
             "threshold_pairs");
  return columns;
}

Tensor pair_values_op(const Tensor& anchors, const OptionalTensor& references, const Tensor& rows,
                      const Tensor& columns, Name measure) {
  Call call(anchors, references, measure);
  const ListedPairs pairs = call.listed_pairs(rows, columns);
  Tensor values = call.new_reals({pairs.count});
  check_cuda(pair_values(call.problem(), pairs, values.mutable_data_ptr(), call.stream()),
             "pair_values");
  return values;
}

std::tuple<Tensor, Tensor> pair_values_gradient_op(const Tensor& anchors,
                                                   const OptionalTensor& references,
                                                   const Tensor& rows, const Tensor& columns,
                                                   Name measure, const Tensor& values_grad,
                                                   const std::vector<bool>& needs) {
  Call call(anchors, references, measure);
  const ListedPairs pairs = call.listed_pairs(rows, columns);
  Gradient anchors_grad = gradient_of(call, needs.at(0), anchors),
           references_grad =
               references ? gradient_of(call, needs.at(1), *references) : Gradient(call.none());
  const bool needs_columns = references ? needs.at(1) : needs.at(0);
  const SortedPairs by_row = needs.at(0) ? call.sorted(rows) : SortedPairs{},
                    by_column = needs_columns ? call.sorted(columns) : SortedPairs{};
  const size_t bytes = pair_values_gradient_workspace(call.problem(), pairs);
  check_cuda(pair_values_gradient(call.problem(), pairs, by_row, by_column,
                                  call.reals(values_grad, "values_grad", pairs.count),
                                  {anchors_grad.pointer(), references_grad.pointer(), nullptr},
                                  call.workspace(bytes), call.stream()),
             "pair_values_gradient");
  return {anchors_grad.result(), references_grad.result()};
}

std::tuple<Tensor, Tensor> normalize_rows_op(const Tensor& x, const OptionalTensor& order,
                                             ScalarType dtype) {
  Call call(x);
  const Normalization given = call.normalization(dtype, order, std::nullopt);
  Tensor unit_rows = call.new_tensor({given.rows, given.d}, dtype),
         norms = call.new_reals({given.rows, 1});
  check_cuda(
      normalize_rows(given, unit_rows.mutable_data_ptr(), norms.mutable_data_ptr(), call.stream()),
      "normalize_rows");
  return {unit_rows, norms};
}

Tensor normalize_rows_gradient_op(const Tensor& x, const OptionalTensor& places,
                                  const Tensor& norms, const Tensor& unit_rows_grad) {
  Call call(x);
  const ScalarType dtype = unit_rows_grad.scalar_type();
  const Normalization given = call.normalization(dtype, std::nullopt, places);
  Tensor x_grad = call.new_tensor({given.rows, given.d}, x.scalar_type());
  check_cuda(normalize_rows_gradient(
                 given, call.reals(norms, "norms", given.rows),
                 call.numbers(unit_rows_grad, "unit_rows_grad", dtype, given.rows * given.d),
                 x_grad.mutable_data_ptr(), call.stream()),
             "normalize_rows_gradient");
  return x_grad;
}

/// The operators that have kernels of both engines, by their names in fusedml/engine/ops.py.
template <Engine kEngine, class Library>
void register_on_engine(Library& library, const char* statistics, const char* losses,
                        const char* gradient) {
  library.impl(statistics, TORCH_BOX(&pair_statistics_op<kEngine>));
  library.impl(losses, TORCH_BOX(&row_losses_op<kEngine>));
  library.impl(gradient, TORCH_BOX(&pair_gradient_op<kEngine>));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(FUSEDML_NAMESPACE, FUSEDML_DISPATCH_KEY, library) {
  library.impl("pair_extrema", TORCH_BOX(&pair_extrema_op));
  register_on_engine<Engine::kMmaSync>(library, "pair_statistics", "row_losses", "pair_gradient");
  register_on_engine<Engine::kAuto>(library, "auto_pair_statistics", "auto_row_losses",
                                    "auto_pair_gradient");
  register_on_engine<Engine::kHopper>(library, "hopper_pair_statistics", "hopper_row_losses",
                                      "hopper_pair_gradient");
  library.impl("two_sided_statistics", TORCH_BOX(&two_sided_statistics_op));
  library.impl("two_sided_gradient", TORCH_BOX(&two_sided_gradient_op));
  library.impl("extreme_pairs", TORCH_BOX(&extreme_pairs_op));
  library.impl("window_counts", TORCH_BOX(&window_counts_op));
  library.impl("window_pairs", TORCH_BOX(&window_pairs_op));
  library.impl("pair_sums", TORCH_BOX(&pair_sums_op));
  library.impl("pair_sums_gradient", TORCH_BOX(&pair_sums_gradient_op));
  library.impl("row_divergences", TORCH_BOX(&row_divergences_op));
  library.impl("row_divergences_gradient", TORCH_BOX(&row_divergences_gradient_op));
  library.impl("group_statistics", TORCH_BOX(&group_statistics_op));
  library.impl("group_gradient", TORCH_BOX(&group_gradient_op));
  library.impl("positive_pair_losses", TORCH_BOX(&positive_pair_losses_op));
  library.impl("positive_pair_gradient", TORCH_BOX(&positive_pair_gradient_op));
  library.impl("threshold_sums", TORCH_BOX(&threshold_sums_op));
  library.impl("threshold_gradient", TORCH_BOX(&threshold_gradient_op));
  library.impl("threshold_pairs", TORCH_BOX(&threshold_pairs_op));
  library.impl("pair_values", TORCH_BOX(&pair_values_op));
  library.impl("pair_values_gradient", TORCH_BOX(&pair_values_gradient_op));
  library.impl("normalize_rows", TORCH_BOX(&normalize_rows_op));
  library.impl("normalize_rows_gradient", TORCH_BOX(&normalize_rows_gradient_op));
}

}  // namespace fusedml::binding
