#pragma once
// Host side of the backward: which route, which buffers, which launches.
#include "kernels/gradient_plan.h"
#include "kernels/gradient_rows.cuh"
#include "kernels/launch.h"
#include "kernels/merge.cuh"
#include "kernels/typed_problem.cuh"
#include "kernels/weights_product.cuh"
#include "logits/curved.h"
#include "logits/euclidean.h"

namespace fusedml {

/// One gradient: the rows of `pairs` are those it belongs to.
template <class Number, class Source = WeightSource>
struct GradientTask {
  using Real = typename Number::Real;
  PairProblem<Number> pairs;
  Source source;
  RowVectors<Real, Source::kVectors> row_vectors, col_vectors;
  Measure measure;
  const Real* weight_scale;
  typename Number::Element* gradient;  ///< null: only the logit's gradient is wanted
  double* logit_grad;                  ///< [4] or null
  bool rows_are_grouped;               ///< of a measure of groups: else its columns are
};

/// Memory of one gradient; the two gradients of a problem use it one after the other.
template <class Number>
struct GradientBuffers {
  using Real = typename Number::Real;
  typename Number::PanelElement* panel = nullptr;
  Real* splits = nullptr;        ///< sums of the splits of route A
  uint16_t* low_sums = nullptr;  ///< lower halves of the unfinished sums of route B
  double* logit_partials = nullptr;

  static GradientBuffers take(const GradientPlan& a, const GradientPlan& b, bool wants_logit,
                              Workspace& workspace) {
    GradientBuffers buffers;
    buffers.panel = workspace.take<typename Number::PanelElement>(
        std::max(a.panel_rows * a.panel_cols, b.panel_rows * b.panel_cols));
    buffers.splits = workspace.take<Real>(std::max(a.num_split_sums, b.num_split_sums));
    if (GradientSums<Number>::kIsSplit)
      buffers.low_sums = workspace.take<uint16_t>(std::max(a.num_sums, b.num_sums));
    if (wants_logit)
      buffers.logit_partials = workspace.take<double>(4 * std::max(a.num_blocks, b.num_blocks));
    return buffers;
  }
};

template <class Number, class Logit, int kMaxDim>
cudaError_t launch_gradient_rows(const GradientTask<Number, WeightSource>& task,
                                 const GradientPlan& plan, const GradientBuffers<Number>& buffers,
                                 cudaStream_t stream) {
  using Shape = GradientRowsShape<Number, kMaxDim>;
  GradientRowsArguments<Number> arguments{};
  arguments.problem = task.pairs;
  arguments.source = task.source;
  arguments.row_vectors = task.row_vectors;
  arguments.col_vectors = task.col_vectors;
  arguments.weight_scale = task.weight_scale;
  arguments.num_splits = int(plan.num_splits);
  arguments.gradient = task.gradient;
  arguments.split_gradients = buffers.splits;
  arguments.logit_partials = task.logit_grad ? buffers.logit_partials : nullptr;
  const cudaError_t error =
      launch(gradient_rows_kernel<Number, Logit, kMaxDim>, dim3(unsigned(plan.num_blocks)),
             dim3(Shape::Tile::kThreads), GradientRowsTiles<Number, kMaxDim>::kSharedBytes, stream,
             arguments);
  if (error != cudaSuccess || plan.num_splits == 1) return error;
  const int64_t count = task.pairs.anchors.embeddings.rows * task.pairs.anchors.embeddings.dim;
  return launch(merge_gradients_kernel<Number>,
                dim3(unsigned(ceil_div(count, int64_t(kMergeThreads)))), dim3(kMergeThreads), 0,
                stream, buffers.splits, plan.num_splits, count, task.gradient);
}

/// One panel's place in the sums of the gradient.
struct PanelTurn {
  ProductTurn of_rows, of_cols;
  bool feeds_cols;        ///< of a self problem: its transpose is not visited
  int64_t first_low_row;  ///< with a place in the lower halves of the sums
};

/// Weights of one panel.
template <class Number, class Logit, class Source>
cudaError_t launch_weights(const GradientTask<Number, Source>& task, const GradientPlan& plan,
                           const WeightPanel<Number>& panel, const GradientBuffers<Number>& buffers,
                           bool is_halved, cudaStream_t stream) {
  PairWeightsArguments<Number, Source> weights{};
  weights.problem = task.pairs;
  weights.source = task.source;
  weights.source.is_halved |= is_halved;
  weights.row_vectors = task.row_vectors;
  weights.col_vectors = task.col_vectors;
  weights.weight_scale = task.weight_scale;
  weights.panel = panel;
  weights.logit_partials = task.logit_grad ? buffers.logit_partials : nullptr;
  using Shape = typename WeightsTile<Number, Logit>::Shape;
  return with_tile<Shape>(plan.weights_tile == SmallTile::kRows, [&](auto tile) {
    using Tile = decltype(tile);
    const dim3 grid(unsigned(panel.cols / Tile::kCols), unsigned(panel.rows / Tile::kRows));
    return launch(pair_weights_kernel<Number, Logit, Tile, Source>, grid, dim3(Tile::kThreads),
                  kPairWeightsSharedBytes<Number, Logit, Tile, Source>, stream, weights);
  });
}

/// The panel's product with the embeddings.
template <bool kSubtractsAnchors, class Number, class Source>
cudaError_t launch_product(const GradientTask<Number, Source>& task, const GradientPlan& plan,
                           const WeightPanel<Number>& panel, const GradientBuffers<Number>& buffers,
                           const PanelTurn& turn, cudaStream_t stream) {
  const int d = task.pairs.anchors.embeddings.dim;
  WeightsProductArguments<Number> product{};
  product.panel = panel;
  product.anchors = task.pairs.anchors;
  product.references = task.pairs.references;
  product.weight_scale = task.weight_scale;
  product.of_rows = turn.of_rows;
  product.of_cols = turn.of_cols;
  product.sums = GradientSums<Number>::of(task.gradient, buffers.low_sums, turn.first_low_row, d);
  const int64_t lines = panel.rows + (turn.feeds_cols ? panel.cols : 0);
  return with_tile<ProductShape<Number>>(plan.product_tile == SmallTile::kRows, [&](auto tile) {
    using Tile = decltype(tile);
    const dim3 grid(unsigned(ceil_div(d, int(Tile::kCols))), unsigned(lines / Tile::kRows));
    return launch(weights_product_kernel<Number, kSubtractsAnchors, Tile>, grid,
                  dim3(Tile::kThreads), WeightsProductShared<Number, Tile>::kBytes, stream,
                  product);
  });
}

/// run(panel, turn) for each panel, row by row.  All of them: then a row of panels is summed before
/// the next begins, and only the rows of one panel have unfinished sums.  Halved: those on and
/// above the diagonal, where the sums of a row of panels have been begun by the panels above and
/// end with its last one.  The sides of a panel are multiples of `tile`.
template <class Number, class Run>
cudaError_t for_each_panel(const PairProblem<Number>& pairs, const GradientPlan& plan, int64_t tile,
                           typename Number::PanelElement* weights, const Run& run) {
  const int64_t n = pairs.anchors.embeddings.rows, m = pairs.references.embeddings.rows;
  for (int64_t row = 0; row < n; row += plan.panel_rows) {
    const int64_t first_col = plan.is_halved ? row : 0;
    for (int64_t col = first_col; col == 0 || col < m; col += plan.panel_cols) {
      const int64_t rows = std::min(plan.panel_rows, round_up(n - row, tile));
      const int64_t cols = std::min(plan.panel_cols, round_up(std::max<int64_t>(m - col, 1), tile));
      PanelTurn turn{};
      turn.feeds_cols = plan.is_halved && col > row;
      turn.of_rows = {col == 0, col + cols >= m};
      turn.of_cols = {row == 0, false};
      turn.first_low_row = plan.is_halved ? 0 : row;
      const cudaError_t error = run(WeightPanel<Number>{weights, row, col, rows, cols}, turn);
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

/// weigh(panel, is_halved) launches what fills a panel.
template <class Number, class Logit, class Source, class Weigh>
cudaError_t launch_panels(const GradientTask<Number, Source>& task, const GradientPlan& plan,
                          const GradientBuffers<Number>& buffers, cudaStream_t stream,
                          const Weigh& weigh) {
  const auto run = [&](const WeightPanel<Number>& panel, const PanelTurn& turn) {
    cudaError_t error = weigh(panel, turn.feeds_cols);
    if (error == cudaSuccess && task.gradient != nullptr)
      error = is_distance(task.measure)
                  ? launch_product<true>(task, plan, panel, buffers, turn, stream)
                  : launch_product<false>(task, plan, panel, buffers, turn, stream);
    if (error != cudaSuccess || task.logit_grad == nullptr) return error;
    const bool is_first = panel.row_begin == 0 && panel.col_begin == 0;
    return launch(merge_logit_gradient_kernel, dim3(4), dim3(kMergeThreads), 0, stream,
                  buffers.logit_partials, plan.weights_blocks(panel.rows, panel.cols), is_first,
                  task.logit_grad);
  };
  return for_each_panel(task.pairs, plan, kPanelTile<Number, Logit>, buffers.panel, run);
}

/// The panels of the weights of pairs.
template <class Number, class Logit, class Source>
cudaError_t launch_weighed_panels(const GradientTask<Number, Source>& task,
                                  const GradientPlan& plan, const GradientBuffers<Number>& buffers,
                                  cudaStream_t stream) {
  return launch_panels<Number, Logit>(
      task, plan, buffers, stream, [&](const WeightPanel<Number>& panel, bool is_halved) {
        return launch_weights<Number, Logit>(task, plan, panel, buffers, is_halved, stream);
      });
}

template <class Number, class Logit>
cudaError_t launch_route(const GradientTask<Number, WeightSource>& task, const GradientPlan& plan,
                         const GradientBuffers<Number>& buffers, cudaStream_t stream) {
  if constexpr (Number::kTensorCores && !Logit::kIsGrouped) {
    if (plan.route == GradientRoute::kRows) {
      const bool is_short = task.pairs.anchors.embeddings.dim <= 64;
      const cudaError_t error =
          is_short ? launch_gradient_rows<Number, Logit, 64>(task, plan, buffers, stream)
                   : launch_gradient_rows<Number, Logit, 128>(task, plan, buffers, stream);
      if (error != cudaSuccess || task.logit_grad == nullptr) return error;
      return launch(merge_logit_gradient_kernel, dim3(4), dim3(kMergeThreads), 0, stream,
                    buffers.logit_partials, plan.num_blocks, true, task.logit_grad);
    }
  }
  return launch_weighed_panels<Number, Logit>(task, plan, buffers, stream);
}

template <class Number, class Source>
cudaError_t launch_gradient(const GradientTask<Number, Source>& task, const GradientPlan& plan,
                            const GradientBuffers<Number>& buffers, cudaStream_t stream) {
  using Real = typename Number::Real;
  if (task.pairs.anchors.embeddings.rows == 0) {  // no gradient to write, but a sum of nothing
    if (task.logit_grad == nullptr) return cudaSuccess;
    return launch(merge_logit_gradient_kernel, dim3(4), dim3(kMergeThreads), 0, stream,
                  buffers.logit_partials, int64_t(0), true, task.logit_grad);
  }
  if constexpr (Source::kHasOneKernel) {
    return launch_weighed_panels<Number, typename Source::Logit>(task, plan, buffers, stream);
  } else {
    if (task.measure == Measure::kDot)
      return launch_route<Number, AffineLogit<Real>>(task, plan, buffers, stream);
    if (is_distance(task.measure))
      return launch_route<Number, EuclideanLogit<Real>>(task, plan, buffers, stream);
    if (is_of_groups(task.measure))
      return task.rows_are_grouped
                 ? launch_route<Number, GroupedLogit<Real, true>>(task, plan, buffers, stream)
                 : launch_route<Number, GroupedLogit<Real, false>>(task, plan, buffers, stream);
    return launch_route<Number, CurvedLogit<Real>>(task, plan, buffers, stream);
  }
}

}  // namespace fusedml
