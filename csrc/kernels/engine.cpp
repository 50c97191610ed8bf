#include "kernels/engine.h"

#include <cuda_runtime_api.h>

namespace fusedml {
namespace {

constexpr uintptr_t kAlignment = 16;  // of what the copy unit reads
constexpr int64_t kRowMultiple = 8;   // its rows are multiples of that many bytes

bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % kAlignment == 0; }

const char* current_device_refusal() {
  int device = 0;
#if !defined(FUSEDML_EMULATION)
  if (cudaGetDevice(&device) != cudaSuccess) return "there is no GPU";
#endif
  return hopper_device_refusal(device);
}

/// Why mma.sync is expected to be as fast; null where it is not.
const char* no_gain(const Problem& problem) {
  constexpr int64_t kLeastRows = 4096, kLeastDims = 64;  // estimates
  if (!problem.labels_sorted) return "the labels are not known to be sorted";
  if (problem.d < kLeastDims) return "the embeddings have fewer than 64 dimensions";
  const bool is_small = problem.n * problem.num_references() < kLeastRows * kLeastRows;
  return is_small ? "there are fewer than 4096 x 4096 pairs" : nullptr;
}

EngineChoice choose(const Problem& problem, Engine wanted, const char* refusal) {
  if (wanted == Engine::kMmaSync) return {Engine::kMmaSync, "it was chosen"};
  if (refusal == nullptr && wanted == Engine::kAuto) refusal = no_gain(problem);
  return {refusal == nullptr ? Engine::kHopper : Engine::kMmaSync, refusal};
}

}  // namespace

const char* hopper_device_refusal([[maybe_unused]] int device) {
  if (!kHopperIsBuilt) return "the kernels were built without sm_90a";
#if !defined(FUSEDML_EMULATION)
  int major = 0;
  const cudaError_t error =
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess || major != 9) return "the GPU is not of architecture sm_90";
#endif
  return nullptr;
}

const char* hopper_refusal(const Problem& problem) {
  if (const char* refusal = current_device_refusal()) return refusal;
  const bool has_16_bits =
      problem.number_type == NumberType::kBf16 || problem.number_type == NumberType::kFp16;
  if (!has_16_bits) return "the embeddings are neither bfloat16 nor float16";
  if (problem.measure != Measure::kDot) return "the logits are not affine in the dot product";
  if (problem.thresholds != nullptr) return "the pairs are mined";
  if (problem.set_words > 0) return "the rows have several labels each";
  if (problem.extent != nullptr) return "only the device knows how many rows take part";
  if (problem.exclude_diagonal && !problem.is_self)
    return "the pairs (i, i) of two operands are left out";
  if (problem.n == 0 || problem.num_references() == 0) return "there are no pairs";
  if (problem.d % kRowMultiple != 0) return "the dimension is not a multiple of 8";
  if (!is_aligned(problem.anchors) || (!problem.is_self && !is_aligned(problem.references)))
    return "the embeddings do not begin at a multiple of 16 bytes";
  return nullptr;
}

EngineChoice choose_engine(const Problem& problem, Engine wanted) {
  return choose(problem, wanted, hopper_refusal(problem));
}

EngineChoice choose_engine(const Problem& problem, const GradientOutputs& outputs, Engine wanted) {
  const char* refusal = hopper_refusal(problem);
  if (refusal == nullptr && outputs.logit != nullptr)
    refusal = "the gradient of the logit is wanted";
  if (refusal == nullptr && (!is_aligned(outputs.anchors) || !is_aligned(outputs.references)))
    refusal = "the gradients do not begin at a multiple of 16 bytes";
  return choose(problem, wanted, refusal);
}

}  // namespace fusedml
