#pragma once
// What Hopper's copy unit (TMA) knows of a matrix of 16-bit elements in global memory.
#include "core/platform.h"

namespace fusedml {

/// A CUtensorMap; on the emulator an emulation::TensorMapTwin.  A kernel takes it by value as
/// `const __grid_constant__ TensorMap`, and never copies it: the unit reads the parameter itself.
struct alignas(64) TensorMap {
  unsigned char bytes[128];
};

/// Columns of a box: 128 bytes, the width of the swizzle.
constexpr int kBoxCols = 64;
constexpr int kBoxRowBytes = 128;
/// Rows after which the swizzle's pattern repeats; a box begins at a multiple of so many bytes.
constexpr int kAtomRows = 8;
constexpr int kAtomBytes = kAtomRows * kBoxRowBytes;
constexpr int kMostBoxRows = 256;

/// Where the byte `offset` of a box's row lies, counted from the box's beginning: bits 4 to 6 of
/// the address are xored with bits 7 to 9.
FUSEDML_HOST_DEVICE constexpr int swizzled_offset(int row, int offset) {
  return row * kBoxRowBytes + (offset ^ (row % kAtomRows) * 16);
}

}  // namespace fusedml
