#pragma once
// Rows divided by their norms, and the gradient of that: one kernel each, one warp per row.
#include "core/row_chunk.cuh"
#include "kernels/api.h"
#include "kernels/launch.h"

namespace fusedml {

constexpr int kNormalizeThreads = 128;
/// Blocks that share a multiprocessor: without being told, ptxas takes so few registers that it
/// spills.
constexpr int kNormalizeBlocks = 6;
constexpr int kNormalizeWarps = kNormalizeThreads / kWarpSize;

/// A row below has no direction: it becomes 0, as does its gradient, because its norm counts inf.
constexpr double kLeastNorm = 1e-12;

/// Numbers whose squares might exceed the reals are scaled first; what is small enough for squares
/// to vanish belongs to rows below the least norm.
template <class Real>
struct NormScale {
  static constexpr Real kLarge = sizeof(Real) == 8 ? Real(0x1p500) : Real(0x1p60);
  static constexpr Real kFactor = sizeof(Real) == 8 ? Real(0x1p-600) : Real(0x1p-80);

  static FUSEDML_DEVICE Real of(Real largest) { return largest > kLarge ? kFactor : Real(1); }
  static FUSEDML_DEVICE Real inverse_of(Real largest) {
    return largest > kLarge ? 1 / kFactor : Real(1);
  }
};

/// x: rows as Given, another type that is as wide; unit rows as Number.
template <class Number, class Given>
struct NormalizeArguments {
  using Real = typename Number::Real;
  const typename Given::Element* x;  ///< [rows, dim]
  const int64_t *order, *places;     ///< [rows], or null
  int64_t rows;
  int dim;
  Real* norms;                             ///< [rows], in the order of the unit rows
  typename Number::Element* unit_rows;     ///< [rows, dim]
  const typename Number::Element* y_grad;  ///< [rows, dim], of the unit rows
  typename Given::Element* x_grad;         ///< [rows, dim]
  bool is_wide;                            ///< all rows begin at multiples of 16 bytes of x
};

/// What lanes have, combined over the warp.
template <class Real, class Combine>
FUSEDML_DEVICE Real over_warp(Real value, const Combine& combine) {
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2)
    value = combine(value, shuffle_xor(value, mask));
  return value;
}

/// Visits (first dimension, chunk) of this lane's chunks of a row.
template <bool kWide, class Given, class Visit>
FUSEDML_DEVICE void for_chunks(const typename Given::Element* row, int dim, const Visit& visit) {
  using Chunk = RowChunk<Given>;
  constexpr int kSize = Chunk::kSize;
  for (int depth = int(threadIdx.x) % kWarpSize * kSize; depth < dim; depth += kWarpSize * kSize)
    visit(depth, Chunk::template load<kWide>(row, depth, dim));
}

/// combine(value, number) over the numbers of this lane's chunks of a row, from zero on; then the
/// lanes' values merged.
template <bool kWide, class Given, class Real, class Combine, class Merge>
FUSEDML_DEVICE Real over_row(const typename Given::Element* row, int dim, const Combine& combine,
                             const Merge& merge) {
  Real value = 0;
  for_chunks<kWide, Given>(row, dim, [&](int, const RowChunk<Given>& chunk) {
#pragma unroll
    for (int e = 0; e < chunk.kSize; ++e) value = combine(value, Real(chunk.x[e]));
  });
  return over_warp(value, merge);
}

template <bool kWide, class Number, class Given>
FUSEDML_DEVICE void normalize_row(const NormalizeArguments<Number, Given>& arguments, int64_t row) {
  using Real = typename Number::Real;
  using Chunk = RowChunk<Given>;
  const int dim = arguments.dim;
  const auto* x = arguments.x + (arguments.order ? arguments.order[row] : row) * dim;
  const Real largest = over_row<kWide, Given, Real>(
      x, dim, [](Real a, Real b) { return std::fmax(a, std::fabs(b)); },
      [](Real a, Real b) { return std::fmax(a, b); });
  const Real scale = NormScale<Real>::of(largest);
  const Real squares = over_row<kWide, Given, Real>(
      x, dim, [&](Real sum, Real b) { return sum + (b * scale) * (b * scale); },
      [](Real a, Real b) { return a + b; });
  Real root = std::isinf(squares) ? Real(NAN) : std::sqrt(squares);  // inf has no direction
  if (root < Real(kLeastNorm) * scale) root = Real(INFINITY);
  if (threadIdx.x % kWarpSize == 0)
    arguments.norms[row] = root * NormScale<Real>::inverse_of(largest);
  const Real inverse = 1 / root;
  for_chunks<kWide, Given>(x, dim, [&](int depth, const Chunk& chunk) {
    RowChunk<Number, Chunk::kSize> unit;
#pragma unroll
    for (int e = 0; e < Chunk::kSize; ++e) unit.x[e] = chunk.x[e] * scale * inverse;
    unit.template store<kWide>(arguments.unit_rows + row * dim, depth, dim);
  });
}

/// run(std::true_type or std::false_type: is_wide, this warp's row), if it has one.
template <class Arguments, class Run>
FUSEDML_DEVICE void for_my_row(const Arguments& arguments, const Run& run) {
  const int64_t row = int64_t(blockIdx.x) * kNormalizeWarps + threadIdx.x / kWarpSize;
  if (row >= arguments.rows) return;  // the whole warp
  if (arguments.is_wide) {
    run(std::true_type(), row);
  } else {
    run(std::false_type(), row);
  }
}

template <class Number, class Given>
__global__ void __launch_bounds__(kNormalizeThreads, kNormalizeBlocks)
    normalize_rows_kernel(NormalizeArguments<Number, Given> arguments) {
  for_my_row(arguments, [&](auto is_wide, int64_t row) {
    normalize_row<decltype(is_wide)::value>(arguments, row);
  });
}

/// dL/dx = (g - y <g, y>) / |x| with y = x / |x| and g = dL/dy.
template <bool kWide, class Number, class Given>
FUSEDML_DEVICE void gradient_of_row(const NormalizeArguments<Number, Given>& arguments,
                                    int64_t row) {
  using Real = typename Number::Real;
  using Chunk = RowChunk<Given>;
  using Gradient = RowChunk<Number, Chunk::kSize>;
  const int dim = arguments.dim;
  const int64_t place = arguments.places ? arguments.places[row] : row;
  const auto* x = arguments.x + row * dim;
  const auto* y_grad = arguments.y_grad + place * dim;
  const Real inverse = 1 / arguments.norms[place];
  Real along = 0;
  for_chunks<kWide, Given>(x, dim, [&](int depth, const Chunk& chunk) {
    const Gradient g = Gradient::template load<kWide>(y_grad, depth, dim);
#pragma unroll
    for (int e = 0; e < Chunk::kSize; ++e) along += g.x[e] * (chunk.x[e] * inverse);
  });
  along = over_warp(along, [](Real a, Real b) { return a + b; });
  for_chunks<kWide, Given>(x, dim, [&](int depth, Chunk chunk) {
    const Gradient g = Gradient::template load<kWide>(y_grad, depth, dim);
#pragma unroll
    for (int e = 0; e < Chunk::kSize; ++e)
      chunk.x[e] = (g.x[e] - chunk.x[e] * inverse * along) * inverse;
    chunk.template store<kWide>(arguments.x_grad + row * dim, depth, dim);
  });
}

template <class Number, class Given>
__global__ void __launch_bounds__(kNormalizeThreads, kNormalizeBlocks)
    normalize_gradient_kernel(NormalizeArguments<Number, Given> arguments) {
  for_my_row(arguments, [&](auto is_wide, int64_t row) {
    gradient_of_row<decltype(is_wide)::value>(arguments, row);
  });
}

template <class Number, class Given>
cudaError_t launch_normalize(void (*kernel)(NormalizeArguments<Number, Given>),
                             const NormalizeArguments<Number, Given>& arguments,
                             cudaStream_t stream) {
  const dim3 grid(unsigned(ceil_div(arguments.rows, int64_t(kNormalizeWarps))));
  return launch(kernel, grid, dim3(kNormalizeThreads), 0, stream, arguments);
}

/// Calls run(NormalizeArguments<Number, Given>) for the type of x.
template <class Number, class Run>
cudaError_t with_normalization(const Normalization& given, void* norms, const Run& run) {
  const auto call = [&](auto given_number) {
    using Given = decltype(given_number);
    NormalizeArguments<Number, Given> arguments{};
    arguments.x = static_cast<const typename Given::Element*>(given.x);
    arguments.order = given.order;
    arguments.places = given.places;
    arguments.rows = given.rows;
    arguments.dim = int(given.d);
    arguments.norms = static_cast<typename Number::Real*>(norms);
    return run(arguments);
  };
  if constexpr (sizeof(typename Number::Element) == 2)
    if (given.is_float) return call(Fp32{});
  return call(Number{});
}

/// Whether all rows of all these matrices begin where wide reads and writes may.
template <class... Pointers>
bool rows_are_wide(int64_t dim, int element_bytes, const Pointers*... pointers) {
  const uint64_t bits = (reinterpret_cast<uintptr_t>(pointers) | ...);
  return (bits | uint64_t(dim * element_bytes)) % kChunkBytes == 0;
}

template <class Number>
cudaError_t normalized_rows(const Normalization& given, void* unit_rows, void* norms,
                            cudaStream_t stream) {
  if (given.rows == 0) return cudaSuccess;
  return with_normalization<Number>(given, norms, [&](auto arguments) {
    arguments.unit_rows = static_cast<typename Number::Element*>(unit_rows);
    arguments.is_wide = rows_are_wide(given.d, sizeof *arguments.x, arguments.x, unit_rows);
    return launch_normalize(normalize_rows_kernel, arguments, stream);
  });
}

template <class Number>
cudaError_t normalized_rows_gradient(const Normalization& given, const void* norms,
                                     const void* unit_grad, void* x_grad, cudaStream_t stream) {
  if (given.rows == 0) return cudaSuccess;
  return with_normalization<Number>(given, const_cast<void*>(norms), [&](auto arguments) {
    arguments.y_grad = static_cast<const typename Number::Element*>(unit_grad);
    arguments.x_grad =
        static_cast<std::remove_const_t<std::remove_pointer_t<decltype(arguments.x)>>*>(x_grad);
    arguments.is_wide = rows_are_wide(given.d, sizeof *arguments.x, arguments.x, unit_grad, x_grad);
    return launch_normalize(normalize_gradient_kernel, arguments, stream);
  });
}

}  // namespace fusedml
