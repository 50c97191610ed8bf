#pragma once
// Vectors of classes [C, K, d] as the columns of tiles, in an order in which one thread holds a
// row's pairs with all K vectors of a class.
#include "core/group_values.cuh"
#include "kernels/api.h"
#include "kernels/launch.h"
#include "kernels/prepare.cuh"
#include "kernels/workspace.h"

namespace fusedml {

/// A tile's columns are [blocks of classes][K][8 classes], by 8 because a thread holds every eighth
/// column, and some that fill up the tile where 16 is no multiple of K.
struct GroupOrder {
  static constexpr int kColumns = GroupTile<false>::kCols, kClasses = 8;

  int64_t num_classes;
  int size;  ///< K

  /// Of a column: its class, or -1; and its vector, or -1.
  struct Column {
    int64_t label, vector;
  };

  FUSEDML_HOST_DEVICE int classes_per_tile() const { return kMostGroupVectors / size * kClasses; }
  FUSEDML_HOST_DEVICE int64_t num_columns() const {
    return ceil_div(num_classes, int64_t(classes_per_tile())) * kColumns;
  }
  FUSEDML_HOST_DEVICE Column column(int64_t index) const {
    const int64_t first_class = index / kColumns * classes_per_tile();
    const int item = int(index % kColumns) / kClasses, block = item / size;
    // what fills up a tile has the label of a class nearby, or no range of labels were narrow
    if (block >= kMostGroupVectors / size) return {first_class, -1};
    const int64_t label = first_class + block * kClasses + index % kClasses;
    if (label >= num_classes) return {-1, -1};
    return {label, label * size + item % size};
  }
  /// The column of a vector.
  FUSEDML_HOST_DEVICE int64_t column_of(int64_t vector) const {
    const int64_t label = vector / size, tile = label / classes_per_tile();
    const int within = int(label % classes_per_tile());
    const int item = within / kClasses * size + int(vector % size);
    return tile * kColumns + item * kClasses + within % kClasses;
  }
};

/// columns [num_columns, d] and their labels from vectors [C, K, d]; one warp per column.
template <class Number>
__global__ void __launch_bounds__(kPrepareThreads)
    gather_vectors_kernel(GroupOrder order, int64_t d, const typename Number::Element* vectors,
                          typename Number::Element* columns, int64_t* labels) {
  const int lane = int(threadIdx.x) % kWarpSize;
  const int64_t index = int64_t(blockIdx.x) * kPrepareWarps + threadIdx.x / kWarpSize;
  if (index >= order.num_columns()) return;  // the whole warp
  const GroupOrder::Column column = order.column(index);
  if (lane == 0) labels[index] = column.label;
  for (int64_t depth = lane; depth < d; depth += kWarpSize)
    columns[index * d + depth] =
        column.vector >= 0 ? vectors[column.vector * d + depth] : Number::to_element(0);
}

/// Their gradient [C, K, d] from that of the columns; one warp per vector.
template <class Number>
__global__ void __launch_bounds__(kPrepareThreads)
    scatter_vectors_kernel(GroupOrder order, int64_t d, const typename Number::Element* columns,
                           typename Number::Element* vectors) {
  const int lane = int(threadIdx.x) % kWarpSize;
  const int64_t vector = int64_t(blockIdx.x) * kPrepareWarps + threadIdx.x / kWarpSize;
  if (vector >= order.num_classes * order.size) return;  // the whole warp
  const int64_t column = order.column_of(vector);
  for (int64_t depth = lane; depth < d; depth += kWarpSize)
    vectors[vector * d + depth] = columns[column * d + depth];
}

/// A problem of groups as one of pairs with columns; any other stays as it is.
template <class Number>
struct GroupColumns {
  using Element = typename Number::Element;

  Problem problem;  ///< what the kernels compute
  GroupOrder order{};
  const void* vectors = nullptr;
  Element *columns = nullptr, *columns_grad = nullptr;
  int64_t* labels = nullptr;

  static GroupColumns take(const Problem& given, Workspace& workspace,
                           bool wants_gradient = false) {
    GroupColumns result{given};
    if (!is_of_groups(given.measure)) return result;
    Problem& problem = result.problem;
    result.order = {given.m / given.group_size, given.group_size};
    result.vectors = given.references;
    problem.m = result.order.num_columns();
    problem.references = result.columns = workspace.take<Element>(problem.m * problem.d);
    problem.reference_labels = result.labels = workspace.take<int64_t>(problem.m);
    if (wants_gradient) result.columns_grad = workspace.take<Element>(problem.m * problem.d);
    workspace.set_aside();  // in proportion to the vectors, which are inputs
    return result;
  }

  cudaError_t gather(cudaStream_t stream) const {
    if (problem.m == 0 || vectors == nullptr) return cudaSuccess;
    return launch(gather_vectors_kernel<Number>, grid(problem.m), dim3(kPrepareThreads), 0, stream,
                  order, problem.d, static_cast<const Element*>(vectors), columns, labels);
  }

  /// Where the kernels write what goes to `outputs`.
  GradientOutputs outputs(GradientOutputs outputs) const {
    if (columns_grad != nullptr) outputs.references = columns_grad;
    return outputs;
  }

  cudaError_t scatter(void* vectors_grad, cudaStream_t stream) const {
    if (columns_grad == nullptr || order.num_classes == 0) return cudaSuccess;
    return launch(scatter_vectors_kernel<Number>, grid(order.num_classes * order.size),
                  dim3(kPrepareThreads), 0, stream, order, problem.d,
                  static_cast<const Element*>(columns_grad), static_cast<Element*>(vectors_grad));
  }

 private:
  static dim3 grid(int64_t warps) {
    return dim3(unsigned(ceil_div(warps, int64_t(kPrepareWarps))));
  }
};

/// The statistics of n rows, one after the other: three of pairs, two of groups.
template <class Real>
struct StatisticsRows {
  Real *lse_positive, *lse_negative, *sum_positive;

  static StatisticsRows of(const Problem& problem, Real* first) {
    const int64_t n = problem.n;
    if (first == nullptr) return {};
    if (is_of_groups(problem.measure)) return {nullptr, first, first + n};
    return {first, first + n, first + 2 * n};
  }
};

}  // namespace fusedml
