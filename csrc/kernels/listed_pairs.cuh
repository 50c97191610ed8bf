#pragma once
// Pairs that are listed by their indices: what is measured of each, and the gradient of its rows.
#include "core/row_chunk.cuh"
#include "kernels/api.h"

namespace fusedml {

constexpr int kListedThreads = 128;
constexpr int kListedWarps = kListedThreads / kWarpSize;
/// Lanes that read a row together, 128 bytes of it at a time.
constexpr int kGroupLanes = kChunksPerRow;
constexpr int kGroupsPerWarp = kWarpSize / kGroupLanes;
constexpr int kGroupsPerBlock = kListedThreads / kGroupLanes;

/// The pairs (rows[k], columns[k]) of two sides.
template <class Number>
struct ListedProblem {
  MatrixView<typename Number::Element> anchors, references;
  const int64_t *rows, *columns;  ///< [count]
  int64_t count;
  Measure measure;
};

template <class Element>
FUSEDML_DEVICE bool is_wide(const MatrixView<Element>& one, const MatrixView<Element>& other) {
  return one.copy_bytes == kChunkBytes && other.copy_bytes == kChunkBytes;
}
template <class Element>
FUSEDML_DEVICE bool has_row(const MatrixView<Element>& matrix, int64_t row) {
  return row >= 0 && row < matrix.rows;
}
template <class Element>
FUSEDML_DEVICE const Element* row_of(const MatrixView<Element>& matrix, int64_t row) {
  return matrix.data + row * matrix.dim;
}

/// This lane's part of s_ij, or of d_ij^2.
template <bool kWide, class Number>
FUSEDML_DEVICE typename Number::Real measure_part(const typename Number::Element* anchor,
                                                  const typename Number::Element* reference,
                                                  int dim, bool is_dot) {
  using Real = typename Number::Real;
  using Chunk = RowChunk<Number>;
  const int lane = int(threadIdx.x) % kGroupLanes;
  Real sum = 0;
#pragma unroll(kWide ? 4 : 1)
  for (int depth = lane * Chunk::kSize; depth < dim; depth += kGroupLanes * Chunk::kSize) {
    const Chunk a = Chunk::template load<kWide>(anchor, depth, dim);
    const Chunk r = Chunk::template load<kWide>(reference, depth, dim);
#pragma unroll
    for (int e = 0; e < Chunk::kSize; ++e) {
      const Real difference = a.x[e] - r.x[e];
      sum += is_dot ? a.x[e] * r.x[e] : difference * difference;
    }
  }
  return sum;
}

/// values[k] = x of the k-th pair.  With values_grad instead dL/dx / x, the weight of a_i - r_j in
/// the gradient of a Euclidean distance, and 0 where that has no derivative.  NaN for an index out
/// of range.  One group of lanes per pair.
template <class Number>
__global__ void __launch_bounds__(kListedThreads)
    pair_values_kernel(ListedProblem<Number> problem, const typename Number::Real* values_grad,
                       typename Number::Real* values) {
  using Real = typename Number::Real;
  const int64_t k = int64_t(blockIdx.x) * kGroupsPerBlock + int(threadIdx.x) / kGroupLanes;
  const bool exists = k < problem.count;
  const int64_t i = exists ? problem.rows[k] : -1, j = exists ? problem.columns[k] : -1;
  const bool is_inside = has_row(problem.anchors, i) && has_row(problem.references, j);
  // the groups of a warp stay together: one without a pair has no dimensions
  const auto* anchor = row_of(problem.anchors, is_inside ? i : 0);
  const auto* reference = row_of(problem.references, is_inside ? j : 0);
  const int dim = is_inside ? problem.anchors.dim : 0;
  const bool is_dot = problem.measure == Measure::kDot;
  Real sum = is_wide(problem.anchors, problem.references)
                 ? measure_part<true, Number>(anchor, reference, dim, is_dot)
                 : measure_part<false, Number>(anchor, reference, dim, is_dot);
  if (!is_inside) sum = Real(NAN);
#pragma unroll
  for (int mask = kGroupLanes / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  if (!exists || threadIdx.x % kGroupLanes != 0) return;
  if (problem.measure == Measure::kEuclidean) sum = std::sqrt(sum);
  if (values_grad != nullptr) sum = sum == Real(0) ? Real(0) : values_grad[k] / sum;
  values[k] = sum;
}

/// begins[r] = the first of the ascending keys that is not below r, r in [0, num_rows]; one thread
/// each.
static __global__ void __launch_bounds__(kListedThreads)
    segment_begins_kernel(const int64_t* keys, int64_t count, int64_t num_rows, int64_t* begins) {
  const int64_t row = int64_t(blockIdx.x) * kListedThreads + threadIdx.x;
  if (row > num_rows) return;
  int64_t begin = 0, end = count;
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (keys[middle] < row) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  begins[row] = begin;
}

/// The pairs of one side's rows: those of row r are order[k] for k in [begins[r], begins[r + 1]).
struct PairSegments {
  const int64_t* begins;  ///< [rows + 1]
  const int64_t* order;   ///< [count]
  const int64_t* others;  ///< [count], of the k-th pair the index on the other side
};

template <class Number>
struct ListedGradientArguments {
  using Real = typename Number::Real;
  using Element = typename Number::Element;
  MatrixView<Element> own, other;
  PairSegments segments[2];  ///< in a self problem, a row's pairs as an anchor and as a reference
  int num_segments;
  const Real* weights;  ///< [count]
  Real factor;          ///< of all weights
  bool is_distance;     ///< the weights are of own - other, not of other
  Element* gradient;    ///< [own.rows, own.dim]
};

/// A lane's share of the gradient of a row: weight * (own + sign x) over the row's pairs.
template <class Number>
struct ListedSum {
  using Real = typename Number::Real;
  using Chunk = RowChunk<Number>;
  const ListedGradientArguments<Number>& arguments;
  int64_t row;
  int depth;      ///< of the lane's chunk
  Chunk own{};    ///< the row's; zero for dot products
  Real sign = 1;  ///< -1 for distances
  Chunk sum{};

  template <bool kWide>
  FUSEDML_DEVICE void add_all() {
    if (arguments.is_distance) {
      own = Chunk::template load<kWide>(row_of(arguments.own, row), depth, arguments.own.dim);
      sign = -1;
    }
    add<kWide>(arguments.segments[0]);
    if (arguments.num_segments == 2) add<kWide>(arguments.segments[1]);
  }

 private:
  /// In the order of the pairs, at which the warp's groups of lanes take turns.
  template <bool kWide>
  FUSEDML_DEVICE void add(const PairSegments& segments) {
    const int lane = int(threadIdx.x) % kWarpSize;
    const int64_t end = segments.begins[row + 1];
    for (int64_t first = segments.begins[row]; first < end; first += kWarpSize) {
      int64_t other = -1;
      Real weight = 0;
      if (first + lane < end) {  // each lane looks up one pair, for all
        const int64_t pair = segments.order[first + lane], index = segments.others[pair];
        const bool exists = has_row(arguments.other, index);
        other = exists ? index : -1;
        weight = exists ? arguments.factor * arguments.weights[pair] : Real(NAN);
      }
      for (int begin = 0; begin < kWarpSize && first + begin < end; begin += kPairsAtOnce)
        add_some<kWide>(other, weight, begin);
    }
  }

  static constexpr int kUnrolled = 4;  ///< reads of a lane that are under way at once
  static constexpr int kPairsAtOnce = kUnrolled * kGroupsPerWarp;

  template <bool kWide>
  FUSEDML_DEVICE void add_some(int64_t other, Real weight, int begin) {
    const int group = int(threadIdx.x) % kWarpSize / kGroupLanes;
    Chunk x[kUnrolled];
    Real w[kUnrolled];
    int64_t j[kUnrolled];
    __syncwarp();  // groups without a pair have gone ahead
#pragma unroll
    for (int k = 0; k < kUnrolled; ++k) {
      j[k] = shuffle(other, begin + k * kGroupsPerWarp + group);
      w[k] = shuffle(weight, begin + k * kGroupsPerWarp + group);
    }
#pragma unroll
    for (int k = 0; k < kUnrolled; ++k)
      if (j[k] >= 0)
        x[k] = Chunk::template load<kWide>(row_of(arguments.other, j[k]), depth, arguments.own.dim);
#pragma unroll
    for (int k = 0; k < kUnrolled; ++k)
#pragma unroll
      for (int e = 0; e < Chunk::kSize; ++e) sum.x[e] += w[k] * (own.x[e] + sign * x[k].x[e]);
  }
};

/// gradient[r] = sum over the row's pairs of weight * (other, or own - other).  One warp per row
/// and 128 bytes of it.
template <class Number>
__global__ void __launch_bounds__(kListedThreads)
    listed_gradient_kernel(ListedGradientArguments<Number> arguments) {
  using Chunk = RowChunk<Number>;
  const int lane = int(threadIdx.x) % kWarpSize, dim = arguments.own.dim;
  const int64_t row = int64_t(blockIdx.x) * kListedWarps + int(threadIdx.x) / kWarpSize;
  if (row >= arguments.own.rows) return;  // the whole warp
  const int depth = (int(blockIdx.y) * kGroupLanes + lane % kGroupLanes) * Chunk::kSize;
  // lanes behind the last chunk sum what nobody wants
  ListedSum<Number> pairs{arguments, row, depth < dim ? depth : 0};
  if (is_wide(arguments.own, arguments.other)) {
    pairs.template add_all<true>();
  } else {
    pairs.template add_all<false>();
  }
  auto& sum = pairs.sum.x;
#pragma unroll
  for (int e = 0; e < Chunk::kSize; ++e) {
#pragma unroll
    for (int mask = kGroupLanes; mask < kWarpSize; mask *= 2) sum[e] += shuffle_xor(sum[e], mask);
    if (lane < kGroupLanes && depth + e < dim)
      arguments.gradient[row * dim + depth + e] = Number::to_element(sum[e]);
  }
}

}  // namespace fusedml
