#pragma once
// The main loop: S = A R^T for one tile after the other, staged through shared memory.
#include <utility>

#include "core/tile.cuh"
#include "core/tile_sequence.h"

namespace fusedml {

/// sums += A R^T over one slice.  Both operands lie in shared memory, one embedding per row.
template <class Number, class Shape>
FUSEDML_DEVICE void multiply_slice_by_tensor_cores(TileValues<float, Shape>& sums,
                                                   const typename Number::Element* anchors,
                                                   const typename Number::Element* references) {
  const ThreadMap<Shape> map;
  const int lane = int(threadIdx.x) % kWarpSize;
  // ldmatrix.x4 takes the rows of matrix q from lanes 8 q to 8 q + 7.  Of the anchors, matrix q is
  // rows 8 (q % 2) of chunk q / 2; of the references, rows 8 (q / 2) of chunk q % 2.
  const SliceRow anchor_row(shared_address(anchors), map.warp_row + lane % 16, lane / 16);
  const SliceRow reference_row(shared_address(references), map.warp_col + lane / 16 * 8 + lane % 8,
                               lane / 8 % 2);

#pragma unroll(Number::kSliceUnroll)
  for (int chunk = 0; chunk < kChunksPerRow; chunk += 2) {
    decltype(Number::prepare(std::declval<uint32_t (&)[4]>())) a[Shape::kFragmentsDown];
#pragma unroll
    for (int down = 0; down < Shape::kFragmentsDown; ++down) {
      uint32_t raw[4];
      ldmatrix_x4(raw, anchor_row.at(chunk, 16 * down));
      a[down] = Number::prepare(raw);
    }
#pragma unroll
    for (int across = 0; across < Shape::kFragmentsAcross; across += 2) {
      uint32_t raw[4];
      ldmatrix_x4(raw, reference_row.at(chunk, 8 * across));
      const uint32_t raw_left[2] = {raw[0], raw[1]}, raw_right[2] = {raw[2], raw[3]};
      const auto left = Number::prepare(raw_left), right = Number::prepare(raw_right);
#pragma unroll
      for (int down = 0; down < Shape::kFragmentsDown; ++down) {
        Number::multiply(sums.fragment[down][across], a[down], left);
        Number::multiply(sums.fragment[down][across + 1], a[down], right);
      }
    }
  }
}

/// The same by plain multiply-adds.
template <class Number, class Shape>
FUSEDML_DEVICE void multiply_slice_by_fma(TileValues<typename Number::Real, Shape>& sums,
                                          const typename Number::Element* anchors,
                                          const typename Number::Element* references) {
  using Real = typename Number::Real;
  const ThreadMap<Shape> map;
  for (int depth = 0; depth < kSliceDepth<typename Number::Element>; ++depth) {
    Real a[Shape::kThreadRows];
#pragma unroll
    for (int i = 0; i < Shape::kThreadRows; ++i)
      a[i] = anchors[slice_index<Real>(map.row(i), depth)];
#pragma unroll
    for (int j = 0; j < Shape::kThreadCols; ++j) {
      const Real b = references[slice_index<Real>(map.col(j), depth)];
#pragma unroll
      for (int i = 0; i < Shape::kThreadRows; ++i) sums.at(i, j) += a[i] * b;
    }
  }
}

template <class Number, class Shape>
FUSEDML_DEVICE void multiply_slice(TileValues<typename Number::Real, Shape>& sums,
                                   const typename Number::Element* anchors,
                                   const typename Number::Element* references) {
  if constexpr (Number::kTensorCores) {
    multiply_slice_by_tensor_cores<Number, Shape>(sums, anchors, references);
  } else {
    multiply_slice_by_fma<Number, Shape>(sums, anchors, references);
  }
}

/// Streams the slices of a sequence of tiles through kStages buffers, across the tiles' borders:
/// while one tile is being reduced, the next one's first slices are already under way.
template <class Number, class Shape, int kStages = 2>
class SimilarityStream {
 public:
  using Element = typename Number::Element;
  using Real = typename Number::Real;
  static constexpr int kAnchorElements = Shape::kRows * kSliceDepth<Element>;
  static constexpr int kReferenceElements = Shape::kCols * kSliceDepth<Element>;
  static constexpr int kSharedBytes =
      kStages * (kAnchorElements + kReferenceElements) * int(sizeof(Element));

  FUSEDML_DEVICE SimilarityStream(Carver& carver, const MatrixView<Element>& anchors,
                                  const MatrixView<Element>& references,
                                  const TileSequence& sequence)
      : anchors_(anchors),
        references_(references),
        sequence_(sequence),
        ahead_(sequence.first()),
        num_slices_(ceil_div(anchors.dim, kSliceDepth<Element>)) {
    anchor_slices_ = carver.take<Element>(kStages * kAnchorElements, 128);
    reference_slices_ = carver.take<Element>(kStages * kReferenceElements, 128);
    for (int stage = 0; stage < kStages - 1; ++stage) issue(stage);
  }

  /// Similarities of the sequence's next tile.
  FUSEDML_DEVICE void compute(TileValues<Real, Shape>& similarities) {
    similarities.clear();
    for (int slice = 0; slice < num_slices_; ++slice) {
      cp_async_wait<kStages - 2>();
      __syncthreads();  // every thread's copies of this slice have landed, and nobody reads the
                        // previous one any more, whose buffer issue() fills
      issue((stage_ + kStages - 1) % kStages);
      multiply_slice<Number, Shape>(similarities, anchor_slices_ + stage_ * kAnchorElements,
                                    reference_slices_ + stage_ * kReferenceElements);
      stage_ = (stage_ + 1) % kStages;
    }
  }

 private:
  /// Starts the copies of the next slice; an empty group keeps the count of groups at the end.
  FUSEDML_DEVICE void issue(int stage) {
    if (ahead_.is_valid()) {
      const int depth = ahead_slice_ * kSliceDepth<Element>;
      copy_slice<Shape::kRows, Shape::kThreads>(anchor_slices_ + stage * kAnchorElements, anchors_,
                                                int64_t(ahead_.row) * Shape::kRows, depth);
      copy_slice<Shape::kCols, Shape::kThreads>(reference_slices_ + stage * kReferenceElements,
                                                references_, int64_t(ahead_.col) * Shape::kCols,
                                                depth);
      if (++ahead_slice_ == num_slices_) {
        ahead_slice_ = 0;
        sequence_.advance(ahead_);
      }
    }
    cp_async_commit();
  }

  MatrixView<Element> anchors_, references_;
  const TileSequence& sequence_;
  TilePosition ahead_;  ///< tile of the next slice to copy
  int ahead_slice_ = 0, num_slices_;
  int stage_ = 0;  ///< buffer of the next slice to multiply
  Element *anchor_slices_, *reference_slices_;
};

/// In place of a second stream, in kernels that have one product.
struct NoStream {
  static constexpr int kSharedBytes = 0;
};

}  // namespace fusedml
