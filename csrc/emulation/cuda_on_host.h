#pragma once
// What a kernel source sees when a plain C++ compiler reads it: CUDA's words, served by the engine.
#if defined(__CUDACC__)
#error "FUSEDML_EMULATION is for plain C++ compilers, nvcc builds the kernels without it"
#endif

#include <cmath>
#include <cstdint>
#include <tuple>
#include <type_traits>

#include "emulation/emulator.h"

// Defined before the rest of NVIDIA's headers, which keep an existing definition outside nvcc.
#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __shared__
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static_assert(false, "use FUSEDML_SHARED or Carver instead of raw __shared__");
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <driver_types.h>
#include <vector_functions.h>
#include <vector_types.h>
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__

#define threadIdx (::fusedml::emulation::current->thread_index)
#define blockIdx (::fusedml::emulation::current->block_index)
#define blockDim (::fusedml::emulation::current->block_dim)
#define gridDim (::fusedml::emulation::current->grid_dim)
constexpr int warpSize = 32;

#include "emulation/atomics.h"
#include "emulation/intrinsics.h"
#include "emulation/warp_functions.h"

namespace fusedml::emulation {

/// Runs the grid to its end; throws Fault.  Every CUDA thread gets its own copy of the arguments.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_shared_bytes,
            Arguments... arguments) {
  using ArgumentTuple = std::tuple<Parameters...>;
  struct Call {
    void (*kernel)(Parameters...);
    ArgumentTuple arguments;
  };
  Call call{kernel, ArgumentTuple(static_cast<Parameters>(arguments)...)};
  if (launch_observer != nullptr) {
    const auto observe = [&](const auto&... argument) {
      const void* const values[] = {&argument..., nullptr};
      const size_t sizes[] = {sizeof(argument)..., 0};
      const Launch launch{reinterpret_cast<void*>(kernel), grid,   block, dynamic_shared_bytes,
                          int(sizeof...(Parameters)),      values, sizes};
      return launch_observer(launch);
    };
    if (std::apply(observe, call.arguments)) return;
  }
  const auto run_thread = [](void* opaque) {
    auto* shared_call = static_cast<Call*>(opaque);
    ArgumentTuple own_arguments = shared_call->arguments;
    std::apply(shared_call->kernel, own_arguments);
  };
  run_grid(grid, block, dynamic_shared_bytes, run_thread, &call);
}

}  // namespace fusedml::emulation
