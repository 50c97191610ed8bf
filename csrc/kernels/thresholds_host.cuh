#pragma once
// Host side of threshold_sums and threshold_gradient.
#include "kernels/gradient.cuh"
#include "kernels/threshold_sweep.cuh"
#include "kernels/threshold_weights.cuh"

namespace fusedml {

/// The caller's thresholds as the kernels take them.
template <class Real>
ThresholdLists<Real> threshold_lists(const Problem& problem, const Thresholds& given,
                                     const void* gradient) {
  const ThresholdTerms& terms = given.terms;
  ThresholdLists<Real> lists{};
  const bool is_grid = terms.form == ThresholdForm::kPulse;
  lists.values = is_grid ? nullptr : static_cast<const Real*>(given.values);
  lists.count = given.count;
  lists.form = terms.form;
  lists.origin = Real(terms.origin);
  lists.unit = Real(terms.unit);
  lists.margin = Real(terms.margin);
  lists.below = Real(terms.below);
  // what is no pair has the hardness -kAbsent, and never counts
  constexpr double kLeast = -kAbsent / 2;
  const double above = std::max(terms.above, kLeast);
  const auto bound = [&](double above, Real& value, bool& is_taken) {
    is_taken = terms.at_least > above;
    value = Real(is_taken ? terms.at_least : above);
  };
  bound(above, lists.counted_from, lists.takes_counted);
  bound(std::max(above, -terms.margin), lists.least, lists.takes_least);
  lists.gradient = static_cast<const Real*>(gradient);
  lists.rows = problem.n;
  return lists;
}

inline int num_threshold_sums(const Thresholds& thresholds) {
  return thresholds.terms.form == ThresholdForm::kPulse ? 2 : 3;
}

/// What is measured is all that the kernels take of the logit.
template <class Number, class Run>
cudaError_t with_measure(Measure measure, const Run& run) {
  using Real = typename Number::Real;
  return is_distance(measure) ? run(static_cast<EuclideanLogit<Real>*>(nullptr))
                              : run(static_cast<AffineLogit<Real>*>(nullptr));
}

/// The rows' further embeddings as one side of a problem, with norms of their own.
template <class Number>
struct OtherRows {
  TypedProblem<Number> typed;

  static OtherRows take(const Problem& problem, const Thresholds& thresholds,
                        Workspace& workspace) {
    OtherRows rows{};
    if (thresholds.others == nullptr) return rows;
    Problem of_others = problem;
    of_others.anchors = thresholds.others;
    rows.typed = TypedProblem<Number>::take(of_others, workspace);
    return rows;
  }
  const PairSide<Number>& side() const { return typed.pairs.anchors; }
  cudaError_t prepare(cudaStream_t stream) const {
    return side().embeddings.data == nullptr ? cudaSuccess : typed.prepare(stream);
  }
};

/// run(std::bool_constant<whether there are further embeddings>).
template <class Run>
auto with_others(const Thresholds& thresholds, const Run& run) {
  return thresholds.others != nullptr ? run(std::true_type()) : run(std::false_type());
}

/// The sweep's plan and its sums before they are merged.
template <class Number, bool kHasOthers>
struct ThresholdSweep {
  using Real = typename Number::Real;
  using Shape = ThresholdTile<Number, kHasOthers>;

  SweepPlan plan;
  int64_t slot_rows;
  Real* slots;
  int* counts;  ///< null unless hinges are searched

  static ThresholdSweep take(const Problem& problem, const Thresholds& thresholds,
                             const SweepOptions& options, Workspace& workspace) {
    const bool is_searched = is_searched_form(thresholds.terms.form, thresholds.count);
    const int64_t row_sums = is_searched ? 1 : thresholds.count * num_threshold_sums(thresholds);
    const int64_t row_bytes = std::max<int64_t>(1, row_sums) * int64_t(sizeof(Real));
    const SweepSize size{problem.n, problem.num_references(), Shape::kRows, Shape::kCols,
                         row_bytes};
    ThresholdSweep sweep{};
    sweep.plan = plan_affordable_rectangle(size, options);
    if (is_searched) {
      const int64_t tile_bytes = Shape::kRows * thresholds.count * 2 * int64_t(sizeof(int));
      const int64_t tiles = std::max<int64_t>(1, max_slot_bytes(options) / tile_bytes);
      sweep.plan.row_tiles_per_launch =
          int(std::min<int64_t>(sweep.plan.row_tiles_per_launch, tiles));
    }
    sweep.slot_rows = std::min(problem.n, sweep.plan.row_tiles_per_launch * int64_t(Shape::kRows));
    sweep.slots = workspace.take<Real>(sweep.plan.num_slots * sweep.slot_rows * row_sums);
    if (is_searched) sweep.counts = workspace.take<int>(2 * sweep.slot_rows * thresholds.count);
    return sweep;
  }

  cudaError_t launch(const Problem& problem, ThresholdSweepArguments<Number> arguments,
                     bool is_searched, Real* sums, cudaStream_t stream) const {
    arguments.slots = slots;
    arguments.slot_rows = slot_rows;
    arguments.counts = is_searched ? counts : nullptr;
    const int64_t num_counts = 2 * slot_rows * arguments.lists.count;
    for (int index = 0; index < plan.num_launches(); ++index) {
      arguments.plan = plan.launch(index);
      arguments.first_row = int64_t(arguments.plan.first_row_tile) * Shape::kRows;
      cudaError_t error = cudaSuccess;
      if (is_searched)
        error = fusedml::launch(clear_counts_kernel, finish_grid(num_counts),
                                dim3(kFinishSumsThreads), 0, stream, counts, num_counts);
      if (error == cudaSuccess) error = sweep(problem.measure, arguments, stream);
      if (error == cudaSuccess) error = finish(problem, arguments, sums, stream);
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  }

 private:
  static dim3 finish_grid(int64_t threads) {
    return dim3(unsigned(ceil_div(threads, int64_t(kFinishSumsThreads))));
  }

  static cudaError_t sweep(Measure measure, const ThresholdSweepArguments<Number>& arguments,
                           cudaStream_t stream) {
    const auto sweep_by = [&](auto* logit) {
      using Logit = std::remove_pointer_t<decltype(logit)>;
      return fusedml::launch(threshold_sweep_kernel<Number, Logit, kHasOthers>,
                             dim3(unsigned(arguments.plan.num_blocks())), dim3(Shape::kThreads),
                             kThresholdSweepSharedBytes<Number, Logit, kHasOthers>, stream,
                             arguments);
    };
    if constexpr (kHasOthers) {
      return sweep_by(static_cast<AnyMeasureLogit<Real>*>(nullptr));
    } else {
      return with_measure<Number>(measure, sweep_by);
    }
  }

  cudaError_t finish(const Problem& problem, const ThresholdSweepArguments<Number>& arguments,
                     Real* sums, cudaStream_t stream) const {
    const int64_t count = arguments.lists.count;
    const int64_t row_begin = arguments.first_row;
    const int64_t rows = std::min(slot_rows, problem.n - row_begin);
    if (arguments.counts != nullptr)
      return fusedml::launch(finish_searched_sums_kernel<Real>, finish_grid(rows * kWarpSize),
                             dim3(kFinishSumsThreads), 0, stream, slots, counts, plan.num_slots,
                             slot_rows, row_begin, rows, arguments.lists, sums);
    return fusedml::launch(finish_threshold_sums_kernel<Real>, finish_grid(rows * count),
                           dim3(kFinishSumsThreads), 0, stream, slots, plan.num_slots,
                           arguments.num_sums, slot_rows * count, row_begin, rows, problem.n, count,
                           sums);
  }
};

template <class Number>
size_t summed_thresholds_workspace(const Problem& problem, const Thresholds& thresholds,
                                   const SweepOptions& options) {
  Workspace workspace(nullptr);
  TypedProblem<Number>::take(problem, workspace);
  OtherRows<Number>::take(problem, thresholds, workspace);
  with_others(thresholds, [&](auto has_others) {
    ThresholdSweep<Number, has_others>::take(problem, thresholds, options, workspace);
  });
  return workspace.bytes();
}

template <class Number>
cudaError_t summed_thresholds(const Problem& problem, const Thresholds& thresholds, void* sums,
                              void* memory, cudaStream_t stream, const SweepOptions& options) {
  using Real = typename Number::Real;
  if (problem.n == 0 || thresholds.count == 0) return cudaSuccess;
  Workspace workspace(memory);
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  const auto others = OtherRows<Number>::take(problem, thresholds, workspace);
  if (const cudaError_t error = typed.prepare(stream)) return error;
  if (const cudaError_t error = others.prepare(stream)) return error;
  ThresholdSweepArguments<Number> arguments{};
  arguments.problem = typed.pairs;
  arguments.others = others.side();
  arguments.lists = threshold_lists<Real>(problem, thresholds, nullptr);
  arguments.num_sums = num_threshold_sums(thresholds);
  const bool is_searched = is_searched_form(thresholds.terms.form, thresholds.count);
  return with_others(thresholds, [&](auto has_others) {
    const auto sweep =
        ThresholdSweep<Number, has_others>::take(problem, thresholds, options, workspace);
    return sweep.launch(problem, arguments, is_searched, static_cast<Real*>(sums), stream);
  });
}

/// A weight is too large for a float of 16 bits where its row's gradients are: their scale is that
/// of a logit 1 / unit.
inline Problem with_unit_as_logit(Problem problem, const Thresholds& thresholds) {
  problem.device_logit = nullptr;
  problem.logit[0] = problem.logit[2] = 1 / thresholds.terms.unit;
  return problem;
}

inline GradientOptions by_panels(GradientOptions options) {
  options.route = GradientRoute::kPanel;
  return options;
}

template <class Number>
size_t thresholds_gradient_workspace(const Problem& problem, const Thresholds& thresholds,
                                     const GradientOutputs& outputs,
                                     const GradientOptions& options) {
  Workspace workspace(nullptr);
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  OtherRows<Number>::take(problem, thresholds, workspace);
  GradientProblem<Number>::take(problem, typed, outputs, by_panels(options), workspace);
  return workspace.bytes();
}

template <class Number, class Logit, bool kHasOthers>
cudaError_t launch_threshold_weights(const GradientTask<Number>& task,
                                     const ThresholdLists<typename Number::Real>& lists,
                                     const PairSide<Number>& others,
                                     const WeightPanel<Number>& panel, cudaStream_t stream) {
  ThresholdWeightsArguments<Number> arguments{};
  arguments.problem = task.pairs;
  arguments.lists = lists;
  arguments.others = others;
  arguments.rows_own = task.source.rows_own;
  arguments.cols_own = task.source.cols_own;
  arguments.weight_scale = task.weight_scale;
  arguments.panel = panel;
  const dim3 grid(unsigned(panel.cols / SmallTile::kCols), unsigned(panel.rows / SmallTile::kRows));
  return launch(threshold_weights_kernel<Number, Logit, kHasOthers>, grid,
                dim3(SmallTile::kThreads), kThresholdWeightsSharedBytes<Number, Logit, kHasOthers>,
                stream, arguments);
}

template <class Number>
cudaError_t thresholds_gradient(const Problem& given, const Thresholds& thresholds,
                                const void* sums_grad, const void* largest_weights,
                                const GradientOutputs& outputs, void* memory, cudaStream_t stream,
                                const GradientOptions& options) {
  using Real = typename Number::Real;
  Workspace workspace(memory);
  const Problem problem = with_unit_as_logit(given, thresholds);
  const auto typed = TypedProblem<Number>::take(problem, workspace);
  const auto others = OtherRows<Number>::take(problem, thresholds, workspace);
  const auto gradient =
      GradientProblem<Number>::take(problem, typed, outputs, by_panels(options), workspace);
  if (const cudaError_t error = typed.prepare(stream)) return error;
  if (const cudaError_t error = others.prepare(stream)) return error;
  if (const cudaError_t error = launch_weight_scale(
          gradient, {static_cast<const Real*>(largest_weights), problem.n, nullptr, 0}, stream))
    return error;
  const auto lists = threshold_lists<Real>(problem, thresholds, sums_grad);
  return gradient.launch(
      problem, GradientTask<Number>{}, outputs,
      [&](const GradientTask<Number>& task, const GradientPlan& plan) {
        if (task.pairs.anchors.embeddings.rows == 0) return cudaSuccess;
        return with_measure<Number>(problem.measure, [&](auto* logit) {
          using Logit = std::remove_pointer_t<decltype(logit)>;
          return launch_panels<Number, Logit>(
              task, plan, gradient.buffers, stream,
              [&](const WeightPanel<Number>& panel, bool /*is_halved*/) {
                if (thresholds.others != nullptr)
                  return launch_threshold_weights<Number, AnyMeasureLogit<Real>, true>(
                      task, lists, others.side(), panel, stream);
                return launch_threshold_weights<Number, Logit, false>(task, lists, others.side(),
                                                                      panel, stream);
              });
        });
      });
}

}  // namespace fusedml
