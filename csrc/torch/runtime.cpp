#include "torch/runtime.h"

#include <dlfcn.h>
#include <torch/csrc/stable/stableivalue_conversions.h>
#include <torch/csrc/stable/version.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#include <array>
#include <exception>

namespace fusedml::binding {
namespace {

/// A symbol of a library that torch has loaded, or null.  Linking the library, weakly or not, would
/// tie the module to a CUDA build of torch, or to torch's C++ ABI.
template <class Function>
Function symbol_of(const char* library, const char* name) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_NOLOAD);
  return handle ? reinterpret_cast<Function>(dlsym(handle, name)) : nullptr;
}

/// at::Context's precision of float32 products on CUDA devices.  The stable ABI has no such
/// question; asking through Python would need its lock in every call and would not be seen by a
/// compiled graph.  These symbols are C++ ABI, so they are looked up instead of linked: a torch
/// without them costs speed ("highest"), never accuracy, and a test holds them to what Python says.
struct ContextSymbols {
  using GlobalContext = void* (*)();
  using MatmulPrecision = int (*)(const void* context);
  using Precision = int (*)(const void* context, int backend, int operation);

  GlobalContext context = symbol_of<GlobalContext>("libtorch_cpu.so", "_ZN2at13globalContextEv");
  MatmulPrecision matmul_precision =
      symbol_of<MatmulPrecision>("libtorch_cpu.so", "_ZNK2at7Context22float32MatmulPrecisionEv");
  Precision precision = symbol_of<Precision>(
      "libtorch_cpu.so", "_ZNK2at7Context16float32PrecisionENS_14Float32BackendENS_9Float32OpE");
};

/// torch.backends.cuda.matmul.fp32_precision, the newer setting, with its own enumerations.
Float32Precision newer_setting(const ContextSymbols& symbols) {
  constexpr int kCudaBackend = 1, kMatmul = 3, kTf32 = 2;
  if (symbols.precision == nullptr) return Float32Precision::kHighest;
  const int precision = symbols.precision(symbols.context(), kCudaBackend, kMatmul);
  return precision == kTf32 ? Float32Precision::kHigh : Float32Precision::kHighest;
}

}  // namespace

#if defined(FUSEDML_EMULATION)

bool is_on_device(const torch::stable::Tensor& tensor) { return tensor.is_cpu(); }

DeviceScope::DeviceScope(int32_t) {}

void check_cuda(cudaError_t error, const char* operation) {
  STD_TORCH_CHECK(error == cudaSuccess, "fusedml: ", operation, " failed with CUDA error ",
                  int(error));
}

#else

bool is_on_device(const torch::stable::Tensor& tensor) { return tensor.is_cuda(); }

DeviceScope::DeviceScope(int32_t device) : guard_(device) {
  using CurrentStream = int32_t (*)(int32_t device, void** stream);
  static const auto current_stream =
      symbol_of<CurrentStream>("libtorch_cuda.so", "aoti_torch_get_current_cuda_stream");
  STD_TORCH_CHECK(current_stream != nullptr,
                  "fusedml: this torch has no CUDA (libtorch_cuda.so is not loaded)");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(current_stream(device, &stream));
  stream_ = static_cast<cudaStream_t>(stream);
  int current = -1;
  check_cuda(cudaGetDevice(&current), "cudaGetDevice");
  if (current != device) check_cuda(cudaSetDevice(device), "cudaSetDevice");
}

void check_cuda(cudaError_t error, const char* operation) {
  if (error == cudaSuccess) return;
  const bool is_missing_code = error == cudaErrorNoKernelImageForDevice ||
                               error == cudaErrorUnsupportedPtxVersion ||
                               error == cudaErrorInvalidDeviceFunction;
  STD_TORCH_CHECK(
      false, "fusedml: ", operation, " failed with CUDA error ", int(error), " (",
      cudaGetErrorName(error), "): ", cudaGetErrorString(error),
      is_missing_code
          ? ". The kernels were not compiled for this GPU, or it is older than sm_80, which they "
            "need: rebuild with TORCH_CUDA_ARCH_LIST, or choose backend='torch'"
          : "");
}

#endif

std::pair<torch::stable::Tensor, torch::stable::Tensor> stable_sort(
    const torch::stable::Tensor& tensor) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  constexpr int64_t kDim = 0;
  std::array<StableIValue, 4> stack{from(tensor), from(std::optional<bool>(true)), from(kDim),
                                    from(false)};  // not descending
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {to<torch::stable::Tensor>(stack[0]), to<torch::stable::Tensor>(stack[1])};
}

Float32Precision float32_precision() {
  static const ContextSymbols symbols;
  if (symbols.context == nullptr || symbols.matmul_precision == nullptr)
    return Float32Precision::kHighest;
  try {
    switch (symbols.matmul_precision(symbols.context())) {
      case 1:
        return Float32Precision::kHigh;
      case 2:
        return Float32Precision::kMedium;
      default:
        return Float32Precision::kHighest;
    }
  } catch (const std::exception&) {
    // torch refuses to answer where the two kinds of setting were mixed
    return newer_setting(symbols);
  }
}

const char* name_of(Float32Precision precision) {
  static constexpr const char* kNames[] = {"highest", "high", "medium"};
  return kNames[int(precision)];
}

}  // namespace fusedml::binding
