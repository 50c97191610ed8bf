#pragma once
// Makes the maps by which Hopper's copy unit reads matrices: host code, about a microsecond each.
#include <cstring>

#include "core/tensor_map.h"
#if !defined(FUSEDML_EMULATION)
#include <cuda.h>
#include <cuda_runtime_api.h>
#endif

namespace fusedml {

enum class SixteenBitType { kBf16, kFp16 };

/// Boxes of box_rows x kBoxCols elements of a row-major matrix [rows, cols] of 16-bit elements in
/// global memory, in shared memory with the 128-byte swizzle; elements outside the matrix are zero.
/// cudaErrorInvalidValue unless `data` is aligned to 16 bytes, cols is a multiple of 8, and
/// box_rows is one of kAtomRows up to kMostBoxRows (cuda.h, cuTensorMapEncodeTiled).
inline cudaError_t make_tensor_map(TensorMap& map, [[maybe_unused]] SixteenBitType type,
                                   const void* data, int64_t rows, int64_t cols, int box_rows) {
  constexpr int64_t kMostRowBytes = int64_t(1) << 40, kMostExtent = int64_t(1) << 32;
  const int64_t row_bytes = 2 * cols;
  const bool is_valid = reinterpret_cast<uintptr_t>(data) % 16 == 0 && rows > 0 && cols > 0 &&
                        rows <= kMostExtent && row_bytes % 16 == 0 && row_bytes < kMostRowBytes &&
                        box_rows > 0 && box_rows % kAtomRows == 0 && box_rows <= kMostBoxRows;
  if (!is_valid) return cudaErrorInvalidValue;
#if defined(FUSEDML_EMULATION)
  const emulation::TensorMapTwin twin{emulation::TensorMapTwin::kMagic,
                                      data,
                                      uint64_t(cols),
                                      uint64_t(rows),
                                      uint64_t(row_bytes),
                                      uint32_t(kBoxCols),
                                      uint32_t(box_rows),
                                      {}};
  std::memcpy(&map, &twin, sizeof(map));
#else
  // the driver's function, without linking its library
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                             12000, cudaEnableDefault, &found);
  if (error != cudaSuccess) return error;
  if (found != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
  CUtensorMap encoded;
  static_assert(sizeof(encoded) == sizeof(map));
  const cuuint64_t extents[] = {cuuint64_t(cols), cuuint64_t(rows)};
  const cuuint64_t strides[] = {cuuint64_t(row_bytes)};
  const cuuint32_t box[] = {cuuint32_t(kBoxCols), cuuint32_t(box_rows)}, steps[] = {1, 1};
  const CUresult result = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function)(
      &encoded,
      type == SixteenBitType::kBf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                    : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
      2, const_cast<void*>(data), extents, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) return cudaErrorInvalidValue;
  std::memcpy(&map, &encoded, sizeof(map));
#endif
  return cudaSuccess;
}

}  // namespace fusedml
