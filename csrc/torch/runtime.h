#pragma once
// What the binding asks of the torch that is running, beyond the stable ABI's headers.
#include <cuda_runtime_api.h>

#include <cstdint>

namespace fusedml::binding {

/// The stream that torch enqueues on, now and on this thread.
cudaStream_t current_stream(int32_t device);

enum class Float32Precision { kHighest, kHigh, kMedium };

/// torch.get_float32_matmul_precision(), read at each call; kHighest with a torch that does not tell.
Float32Precision float32_precision();
const char* name_of(Float32Precision precision);

/// Selects `device` for the kernels' own copy of the CUDA runtime.
void select_device(int32_t device);

/// Raises a readable exception unless `error` is cudaSuccess.
void check_cuda(cudaError_t error, const char* operation);

}  // namespace fusedml::binding
