#pragma once
// launch(kernel, grid, block, shared_bytes, stream, arguments...): the only way a kernel starts.
#include <type_traits>
#include <utility>

#include "core/platform.h"

namespace fusedml {

/// Starts `kernel` with `shared_bytes` of dynamic shared memory and returns the launch's error.
/// Parameters are trivially copyable and travel by value.  On a GPU the kernel's limit of dynamic
/// shared memory is raised when 48 KiB are not enough.  The emulator runs the kernel to its end
/// before it returns, ignores the stream and throws emulation::Fault where it finds one.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                   [[maybe_unused]] cudaStream_t stream, Arguments&&... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...));
  static_assert((!std::is_reference_v<Parameters> && ...));
  static_assert((sizeof(Parameters) + ... + 0) <= 4096, "sm_80 takes 4 KiB of parameters");
#if defined(FUSEDML_EMULATION)
  emulation::launch(kernel, grid, block, shared_bytes,
                    static_cast<Parameters>(std::forward<Arguments>(arguments))...);
  return cudaSuccess;
#else
  constexpr size_t kDefaultLimit = 48 * 1024;
  if (shared_bytes > kDefaultLimit) {
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  // two blocks share a multiprocessor only if its L1 cache leaves them the memory; the tiles come
  // past that cache anyway
  cudaLaunchAttribute carveout = {};
  carveout.id = cudaLaunchAttributePreferredSharedMemoryCarveout;
  carveout.val.sharedMemCarveout = cudaSharedmemCarveoutMaxShared;
  config.attrs = &carveout;
  config.numAttrs = shared_bytes > 0 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel,
                            static_cast<Parameters>(std::forward<Arguments>(arguments))...);
#endif
}

}  // namespace fusedml
