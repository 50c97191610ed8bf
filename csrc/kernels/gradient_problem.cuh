#pragma once
// What the backward operators share: buffers, plans, one sweep per gradient.
#include "hopper/gradient_plan.h"
#include "kernels/backward.cuh"
#include "kernels/group_columns.cuh"

namespace fusedml {

/// What the weights of a gradient are made of, of which the plan depends.
enum class WeightKind { kOfPairs, kOfGroups, kOfOneKernel, kOnHopper };

template <class Number>
GradientPlan plan_gradient(const GradientSize& size, const GradientOptions& options,
                           const GradientSpace& space, WeightKind kind) {
  if (kind == WeightKind::kOnHopper) return plan_hopper_gradient(size, options, space);
  using Rows = typename GradientRowsShape<Number, 64>::Tile;
  using Weights = SweepShapeOf<Number>;
  using Product = ProductShape<Number>;
  GradientTiles tiles{Number::kTensorCores ? Rows::kRows : 0,
                      Rows::kCols,
                      Weights::kRows,
                      Product::kCols,
                      sizeof(typename Number::PanelElement),
                      sizeof(typename Number::Real),
                      GradientSums<Number>::kLowBytes,
                      kHasSmallTile<Weights> ? SmallTile::kRows : 0,
                      0};
  static_assert(Weights::kRows == Weights::kCols && Weights::kRows == Product::kRows);
  if (kind == WeightKind::kOfOneKernel) {  // weights in tiles of one size, and no route A
    tiles.row_tile = 0;
    tiles.weights_tile = SmallTile::kRows;
  }
  if (kind == WeightKind::kOfGroups) {  // tiles of one size, and no route A
    tiles.row_tile = tiles.small_tile = 0;
    tiles.panel_tile = GroupTile<false>::kRows;
    static_assert(GroupTile<false>::kRows % Weights::kRows == 0);
  }
  return plan_gradient(size, tiles, options, space);
}

/// The larger of 64 MB and 1.5 times the bytes of the embeddings, unless the options say otherwise.
template <class Number>
int64_t max_gradient_bytes(const Problem& problem, const GradientOptions& options) {
  if (options.max_workspace_bytes > 0) return options.max_workspace_bytes;
  const int64_t rows = problem.n + (problem.is_self ? 0 : problem.m);
  return std::max(kMaxWorkspaceBytes,
                  rows * problem.d * int64_t(sizeof(typename Number::Element)) / 2 * 3);
}

constexpr int64_t kMostScaleBlocks = 264;

/// Everything that a backward needs, divided from one block of memory.
template <class Number>
struct GradientProblem {
  using Real = typename Number::Real;
  using Element = typename Number::Element;

  TypedProblem<Number> typed;
  GradientPlan to_anchors{}, to_references{};
  GradientBuffers<Number> buffers;
  Real* weight_scale = nullptr;  ///< and what the blocks that look for it leave

  static GradientProblem take(const Problem& problem, const TypedProblem<Number>& typed,
                              const GradientOutputs& outputs, const GradientOptions& options,
                              Workspace& workspace, WeightKind kind = WeightKind::kOfPairs) {
    GradientProblem result;
    result.typed = typed;
    if (Number::kNeedsWeightScale) result.weight_scale = workspace.take<Real>(1 + kMostScaleBlocks);
    const int64_t bytes = max_gradient_bytes<Number>(problem, options);
    const GradientSpace space{workspace.left(std::min(bytes, kMaxWorkspaceBytes)),
                              workspace.left(bytes)};
    const int64_t n = problem.n, m = problem.num_references(), d = problem.d;
    if (is_of_groups(problem.measure)) kind = WeightKind::kOfGroups;
    if (outputs.anchors != nullptr || outputs.references == nullptr)
      result.to_anchors = plan_gradient<Number>(
          {n, m, d, problem.is_self, outputs.anchors != nullptr, outputs.logit != nullptr}, options,
          space, kind);
    if (outputs.references != nullptr)
      result.to_references =
          plan_gradient<Number>({m, n, d, false, true, false}, options, space, kind);
    result.buffers = GradientBuffers<Number>::take(result.to_anchors, result.to_references,
                                                   outputs.logit != nullptr, workspace);
    return result;
  }

  /// `anchor_vectors` and `reference_vectors` as the weights want them.
  template <class Source>
  cudaError_t launch(const Problem& problem, const Source& source,
                     const RowVectors<Real, Source::kVectors>& anchor_vectors,
                     const RowVectors<Real, Source::kVectors>& reference_vectors,
                     const GradientOutputs& outputs, cudaStream_t stream,
                     bool both_sides = false) const {
    using Task = GradientTask<Number, Source>;
    Task task{};
    task.source = source;
    task.row_vectors = anchor_vectors;
    task.col_vectors = reference_vectors;
    return launch(
        problem, task, outputs,
        [&](const Task& of_side, const GradientPlan& plan) {
          return launch_gradient(of_side, plan, buffers, stream);
        },
        both_sides);
  }

  /// launch_one(task, plan) for each side; `task` holds the source and the vectors.  both_sides:
  /// the columns of two operands have losses, too.
  template <class Source, class LaunchOne>
  cudaError_t launch(const Problem& problem, GradientTask<Number, Source> task,
                     const GradientOutputs& outputs, const LaunchOne& launch_one,
                     bool both_sides = false) const {
    task.measure = problem.measure;
    task.weight_scale = weight_scale;
    task.logit_grad = outputs.logit;
    // no self problem, where the transposed pairs are visited: each pair stands for both of its
    // lines
    task.source.is_halved = both_sides;
    if (outputs.anchors != nullptr || outputs.references == nullptr) {
      task.pairs = typed.pairs;
      task.source.rows_own = true;
      task.source.cols_own = typed.is_self || both_sides;
      task.gradient = static_cast<Element*>(outputs.anchors);
      const cudaError_t error = launch_one(task, to_anchors);
      if (error != cudaSuccess || outputs.references == nullptr) return error;
      task.logit_grad = nullptr;
    }
    task.rows_are_grouped = true;
    task.pairs = typed.pairs.swapped();
    std::swap(task.row_vectors, task.col_vectors);
    task.source.rows_own = both_sides;
    task.source.cols_own = true;
    task.gradient = static_cast<Element*>(outputs.references);
    return launch_one(task, to_references);
  }
};

/// Chooses the scale of the weights where the number type needs one: from row gradients, by one
/// block, or, from 4096 of them on, by as many as read them at the memory's speed.
/// steepness: of a pair's loss by its logit.  has_one_scale: the first of the logit's numbers.
template <class Number>
cudaError_t launch_weight_scale(const GradientProblem<Number>& gradient,
                                RowGradientSizes<typename Number::Real> sizes, cudaStream_t stream,
                                double steepness = 1, bool has_one_scale = false) {
  if constexpr (Number::kNeedsWeightScale) {
    using Real = typename Number::Real;
    const int64_t blocks = std::min<int64_t>(sizes.total() / (kMergeThreads * 8), kMostScaleBlocks);
    if (blocks > 1) {
      Real* const largest = gradient.weight_scale + 1;
      const cudaError_t error = launch(largest_gradient_kernel<Real>, dim3(unsigned(blocks)),
                                       dim3(kMergeThreads), 0, stream, sizes, largest);
      if (error != cudaSuccess) return error;
      sizes = {largest, blocks, nullptr, 0};
    }
    return launch(weight_scale_kernel<Real>, dim3(1), dim3(kMergeThreads), 0, stream, sizes,
                  gradient.typed.pairs.logit, has_one_scale, Real(steepness),
                  gradient.weight_scale);
  }
  return cudaSuccess;
}

/// What the weights need of the rows that own statistics.
template <class Real>
RowVectors<Real, kNumWeightVectors> statistics_vectors(const Problem& problem,
                                                       const void* statistics,
                                                       const void* statistics_grad) {
  using Rows = StatisticsRows<const Real>;
  const Rows values = Rows::of(problem, static_cast<const Real*>(statistics));
  const Rows grads = Rows::of(problem, static_cast<const Real*>(statistics_grad));
  RowVectors<Real, kNumWeightVectors> vectors{};
  vectors.vector[kLsePositive] = values.lse_positive;
  vectors.vector[kLseNegative] = values.lse_negative;
  vectors.vector[kGradLsePositive] = grads.lse_positive;
  vectors.vector[kGradLseNegative] = grads.lse_negative;
  vectors.vector[kGradSumPositive] = grads.sum_positive;
  return vectors;
}

}  // namespace fusedml
