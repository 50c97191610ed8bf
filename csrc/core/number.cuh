#pragma once
// Number types: how embeddings are stored, how fragments of them are multiplied, what sums are kept
// in.  The tensor cores take a 16 x 32-byte piece of one operand and an 8 x 32-byte piece of the
// other, whatever the elements are (m16n8k16 for 16 bits, m16n8k8 for tf32), so one main loop
// serves them all.
#include "core/primitives.cuh"

namespace fusedml {

/// One lane's share of an operand, as loaded.
template <int kRegisters>
struct Fragment {
  uint32_t bits[kRegisters];
};

/// An fp32 operand as the sum of two tf32 numbers.
template <int kRegisters>
struct SplitFragment {
  uint32_t large[kRegisters], small[kRegisters];
};

/// What the 16-bit types share.
///
/// Of all types: exp(x) = exponential_of_scaled(x * kExponentScale), so that the scale may be
/// folded into a factor of x.
template <class Element_>
struct SixteenBit {
  using Element = Element_;
  using Real = float;            ///< statistics, exponentials and sums
  using PanelElement = Element;  ///< pair weights in global memory (route B)
  static constexpr bool kTensorCores = true;
  static constexpr int kProductDepth = 16;  ///< columns of A that one mma multiplies
  static constexpr int kSliceUnroll = 4;    ///< main-loop steps of a slice that are unrolled
  static constexpr bool kIsSplit = false;   ///< an operand is the sum of two numbers
  static constexpr float kExponentScale = kLog2E;

  static FUSEDML_DEVICE float exponential_of_scaled(float x) { return exp2_approx(x); }
  static FUSEDML_DEVICE float exponential(float x) {
    return exponential_of_scaled(x * kExponentScale);
  }
  static FUSEDML_DEVICE float inverse_sqrt(float x) { return rsqrt_approx(x); }

  template <int kRegisters>
  static FUSEDML_DEVICE Fragment<kRegisters> prepare(const uint32_t (&raw)[kRegisters]) {
    Fragment<kRegisters> fragment;
#pragma unroll
    for (int r = 0; r < kRegisters; ++r) fragment.bits[r] = raw[r];
    return fragment;
  }
};

struct Bf16 : SixteenBit<__nv_bfloat16> {
  static constexpr bool kNeedsWeightScale = false;  // the exponents of fp32

  static FUSEDML_DEVICE void multiply(float (&sum)[4], const Fragment<4>& a, const Fragment<2>& b) {
    mma_bf16(sum, a.bits, b.bits);
  }
  static FUSEDML_DEVICE uint32_t pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return reinterpret_bits(pair);
  }
  static FUSEDML_HOST_DEVICE float to_real(Element x) { return __bfloat162float(x); }
  static FUSEDML_HOST_DEVICE Element to_element(float x) { return __float2bfloat16_rn(x); }

 private:
  static FUSEDML_DEVICE uint32_t reinterpret_bits(const __nv_bfloat162& pair) {
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
  }
};

struct Fp16 : SixteenBit<__half> {
  /// Weights of a mean over many rows lie below fp16's smallest numbers: they travel scaled.
  static constexpr bool kNeedsWeightScale = true;

  static FUSEDML_DEVICE void multiply(float (&sum)[4], const Fragment<4>& a, const Fragment<2>& b) {
    mma_f16(sum, a.bits, b.bits);
  }
  static FUSEDML_DEVICE uint32_t pack(float low, float high) {
    const __half2 pair = __floats2half2_rn(saturate(low), saturate(high));
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
  }
  static FUSEDML_HOST_DEVICE float to_real(Element x) { return __half2float(x); }
  static FUSEDML_HOST_DEVICE Element to_element(float x) { return __float2half_rn(saturate(x)); }

  /// The largest finite number instead of inf; NaN stays.
  static FUSEDML_HOST_DEVICE float saturate(float x) {
    constexpr float kLargest = 65504.f;
    return x > kLargest ? kLargest : x < -kLargest ? -kLargest : x;
  }
};

/// What the fp32 types share.
struct SinglePrecision {
  using Element = float;
  using Real = float;
  using PanelElement = float;
  static constexpr bool kTensorCores = true;
  static constexpr int kProductDepth = 8;
  static constexpr bool kNeedsWeightScale = false;

  static FUSEDML_HOST_DEVICE float to_real(float x) { return x; }
  static FUSEDML_HOST_DEVICE float to_element(float x) { return x; }
  static constexpr float kExponentScale = 1;
  static FUSEDML_DEVICE float exponential_of_scaled(float x) { return expf(x); }
  static FUSEDML_DEVICE float exponential(float x) { return expf(x); }
  static FUSEDML_DEVICE float inverse_sqrt(float x) { return 1 / sqrtf(x); }
};

/// fp32 storage, products of numbers rounded to 10 bits of mantissa ("high").
struct Tf32 : SinglePrecision {
  static constexpr int kSliceUnroll = 4;
  static constexpr bool kIsSplit = false;

  template <int kRegisters>
  static FUSEDML_DEVICE Fragment<kRegisters> prepare(const uint32_t (&raw)[kRegisters]) {
    Fragment<kRegisters> fragment;
#pragma unroll
    for (int r = 0; r < kRegisters; ++r) fragment.bits[r] = to_tf32(__uint_as_float(raw[r]));
    return fragment;
  }
  static FUSEDML_DEVICE void multiply(float (&sum)[4], const Fragment<4>& a, const Fragment<2>& b) {
    mma_tf32(sum, a.bits, b.bits);
  }
};

/// fp32 with the accuracy of fp32 ("highest"): x = large + small, and three of the four products.
/// Ootomo and Yokota, "Recovering single precision accuracy from Tensor Cores", 2022, section 3.
struct Fp32 : SinglePrecision {
  static constexpr int kSliceUnroll = 1;  // more steps at once spill their split fragments
  static constexpr bool kIsSplit = true;

  template <int kRegisters>
  static FUSEDML_DEVICE SplitFragment<kRegisters> prepare(const uint32_t (&raw)[kRegisters]) {
    SplitFragment<kRegisters> fragment;
#pragma unroll
    for (int r = 0; r < kRegisters; ++r) {
      // Three operations.  What a truncated residual lacks is below 2^-23 of x; a NaN stays in it.
      const float x = __uint_as_float(raw[r]), large = nearest_tf32(x);
      fragment.large[r] = __float_as_uint(large);
      fragment.small[r] = truncated_tf32(x - large);
    }
    return fragment;
  }

  /// The tensor cores truncate when they accumulate, so they only add up one step's products; the
  /// long sum is made by ordinary, rounding additions.
  static FUSEDML_DEVICE void multiply(float (&sum)[4], const SplitFragment<4>& a,
                                      const SplitFragment<2>& b) {
    float step[4] = {0.f, 0.f, 0.f, 0.f};
    mma_tf32(step, a.small, b.large);
    mma_tf32(step, a.large, b.small);
    mma_tf32(step, a.large, b.large);
#pragma unroll
    for (int r = 0; r < 4; ++r) sum[r] += step[r];
  }
};

/// Plain FMA: for gradcheck, not for speed.
struct Fp64 {
  using Element = double;
  using Real = double;
  using PanelElement = double;
  static constexpr bool kTensorCores = false;
  static constexpr int kProductDepth = 1;
  static constexpr bool kNeedsWeightScale = false;

  static FUSEDML_HOST_DEVICE double to_real(double x) { return x; }
  static FUSEDML_HOST_DEVICE double to_element(double x) { return x; }
  static constexpr double kExponentScale = 1;
  static FUSEDML_DEVICE double exponential_of_scaled(double x) { return exp(x); }
  static FUSEDML_DEVICE double exponential(double x) { return exp(x); }
  static FUSEDML_DEVICE double inverse_sqrt(double x) { return 1 / sqrt(x); }
};

}  // namespace fusedml
