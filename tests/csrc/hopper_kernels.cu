// What nvcc compiles for the PTX interpreter.
#include "hopper_kernels.cuh"
#include "hopper_ring.cuh"

namespace fusedml::units {

constexpr Major kDepth = Major::kDepth, kLines = Major::kLines;
constexpr WgmmaType kBf16 = WgmmaType::kBf16, kFp16 = WgmmaType::kFp16;
#define FUSEDML_KERNEL(type, a_major, b_major, cols)                                     \
  template __global__ void wgmma_kernel<type, a_major, b_major, cols>(                   \
      const __grid_constant__ TensorMap, const __grid_constant__ TensorMap, float*, int, \
      HopperMistake)
FUSEDML_KERNEL(kBf16, kDepth, kDepth, 64);
FUSEDML_KERNEL(kBf16, kDepth, kDepth, 256);
FUSEDML_KERNEL(kFp16, kDepth, kLines, 128);
FUSEDML_KERNEL(kBf16, kDepth, kLines, 192);
FUSEDML_KERNEL(kBf16, kLines, kLines, 64);
#undef FUSEDML_KERNEL
template __global__ void wgmma_registers_kernel<kBf16, 64>(const uint32_t*,
                                                           const __grid_constant__ TensorMap,
                                                           float*, HopperMistake);
template __global__ void wgmma_registers_kernel<kFp16, 128>(const uint32_t*,
                                                            const __grid_constant__ TensorMap,
                                                            float*, HopperMistake);
template __global__ void ring_kernel<false>(const __grid_constant__ TensorMap,
                                            const __grid_constant__ TensorMap,
                                            const __grid_constant__ RingArguments);

}  // namespace fusedml::units
