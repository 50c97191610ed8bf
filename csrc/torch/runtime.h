#pragma once
// What the binding asks of the torch that is running, beyond the stable ABI's headers.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <utility>

#include "core/platform.h"

// The operators that this binding belongs to.  Tests also build it around the emulated kernels,
// whose device is the CPU.
#if defined(FUSEDML_EMULATION)
#define FUSEDML_NAMESPACE fusedml_emulated_binding
#define FUSEDML_DISPATCH_KEY CPU
#else
#define FUSEDML_NAMESPACE fusedml
#define FUSEDML_DISPATCH_KEY CUDA
#endif

namespace fusedml::binding {

/// Whether the kernels can read the tensor's memory.
bool is_on_device(const torch::stable::Tensor& tensor);

/// Makes a device the current one, for torch and for the kernels' own copy of the CUDA runtime, as
/// long as this object lives.
class DeviceScope {
 public:
  explicit DeviceScope(int32_t device);
  /// The stream that torch enqueues on, now and on this thread.
  cudaStream_t stream() const { return stream_; }

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
  cudaStream_t stream_ = nullptr;
};

enum class Float32Precision { kHighest, kHigh, kMedium };

/// torch.get_float32_matmul_precision(), read at each call; kHighest with a torch that does not
/// tell.
Float32Precision float32_precision();
const char* name_of(Float32Precision precision);

/// Values and indices of torch.sort(tensor, stable=True) of a 1-D tensor.
std::pair<torch::stable::Tensor, torch::stable::Tensor> stable_sort(
    const torch::stable::Tensor& tensor);

/// Raises a readable exception unless `error` is cudaSuccess.
void check_cuda(cudaError_t error, const char* operation);

}  // namespace fusedml::binding
