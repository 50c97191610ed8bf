#pragma once
// From the caller's untyped problem to what the kernels take.
#include "kernels/api.h"
#include "kernels/launch.h"
#include "kernels/prepare.cuh"
#include "kernels/workspace.h"

namespace fusedml {

/// The kernels' problem and the buffers that have to be filled before they run.
template <class Number>
struct TypedProblem {
  using Element = typename Number::Element;
  using Real = typename Number::Real;

  PairProblem<Number> pairs;
  bool is_self;
  Real *anchor_norms = nullptr, *reference_norms = nullptr;       ///< null for the dot product
  int64_t *anchor_ranges = nullptr, *reference_ranges = nullptr;  ///< null unless asked for

  static TypedProblem take(const Problem& problem, Workspace& workspace,
                           bool wants_label_ranges = false) {
    if (problem.set_words > 0) wants_label_ranges = false;  // sets have no order
    TypedProblem typed{};
    typed.is_self = problem.is_self;
    const int64_t m = problem.num_references();
    auto& pairs = typed.pairs;
    pairs.anchors.embeddings =
        MatrixView<Element>::of(static_cast<const Element*>(problem.anchors), problem.n, problem.d);
    pairs.anchors.labels = problem.anchor_labels;
    pairs.anchors.set_words = problem.set_words;
    pairs.anchors.extent = problem.extent;
    pairs.anchors.thresholds = static_cast<const Real*>(problem.thresholds);
    if (is_distance(problem.measure)) typed.anchor_norms = workspace.take<Real>(problem.n);
    if (wants_label_ranges)
      typed.anchor_ranges = workspace.take<int64_t>(2 * num_ranges(problem.n));
    pairs.anchors.squared_norms = typed.anchor_norms;
    pairs.anchors.label_ranges = typed.anchor_ranges;

    pairs.references = pairs.anchors;
    if (!typed.is_self) {
      pairs.references.embeddings =
          MatrixView<Element>::of(static_cast<const Element*>(problem.references), m, problem.d);
      pairs.references.labels = problem.reference_labels;
      pairs.references.extent = problem.extent ? problem.extent + 1 : nullptr;
      pairs.references.thresholds = nullptr;  // the rule of a row concerns the row's statistics
      if (is_distance(problem.measure)) typed.reference_norms = workspace.take<Real>(m);
      if (wants_label_ranges) typed.reference_ranges = workspace.take<int64_t>(2 * num_ranges(m));
      pairs.references.squared_norms = typed.reference_norms;
      pairs.references.label_ranges = typed.reference_ranges;
    }
    pairs.logit.device = problem.device_logit;
    for (int k = 0; k < 4; ++k) pairs.logit.value[k] = problem.logit[k];
    pairs.logit.groups = {problem.group_size, problem.device_sharpness, problem.sharpness};
    pairs.logit.is_dot = problem.measure == Measure::kDot;
    if (problem.exclude_diagonal) pairs.excluded = ExcludedDiagonals::of(problem.self_offset, m);
    pairs.is_second_kind = problem.measure == Measure::kSquaredEuclidean ||
                           problem.measure == Measure::kCircle ||
                           problem.measure == Measure::kSoftMaximum;
    return typed;
  }

  /// Fills the norms and label ranges; nothing to do for plain statistics of dot products.
  cudaError_t prepare(cudaStream_t stream) const {
    cudaError_t error = prepare_side(pairs.anchors, anchor_norms, anchor_ranges, stream);
    if (error == cudaSuccess && !is_self)
      error = prepare_side(pairs.references, reference_norms, reference_ranges, stream);
    return error;
  }

 private:
  static int64_t num_ranges(int64_t rows) {
    return ceil_div(rows, int64_t(LabelRanges::kRowsPerRange));
  }

  cudaError_t prepare_side(const PairSide<Number>& side, Real* norms, int64_t* ranges,
                           cudaStream_t stream) const {
    const int64_t rows = side.embeddings.rows;
    if (norms != nullptr && rows > 0) {
      const dim3 grid(unsigned(ceil_div(rows, int64_t(kPrepareWarps))));
      const cudaError_t error = launch(squared_norms_kernel<Number>, grid, dim3(kPrepareThreads), 0,
                                       stream, side.embeddings, norms);
      if (error != cudaSuccess) return error;
    }
    if (ranges == nullptr || rows == 0) return cudaSuccess;
    const int64_t blocks = ceil_div(num_ranges(rows), int64_t(kPrepareWarps));
    return launch(label_ranges_kernel, dim3(unsigned(blocks)), dim3(kPrepareThreads), 0, stream,
                  side.labels, rows, side.extent, ranges);
  }
};

}  // namespace fusedml
