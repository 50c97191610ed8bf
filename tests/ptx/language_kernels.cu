// Code as nvcc likes to make of ordinary C++: what the interpreter must understand beside the
// primitives.  test_language.py computes the same with numpy.
#include "core/platform.h"

namespace fusedml::units {

/// out[k][i], k-th function of x[i] (and y[i]), in the order of test_language.py.
template <class Real>
__global__ void functions_kernel(const Real* x, const Real* y, Real* out, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const Real a = x[i], b = y[i];
  int k = 0;
  const auto put = [&](Real value) { out[int64_t(k++) * count + i] = value; };
  put(exp(a));
  put(log(fabs(a)));
  put(log1p(fabs(a)));
  put(softplus(a));
  put(sigmoid(a));
  put(sqrt(fabs(a)));
  put(Real(1) / sqrt(fabs(a)));
  put(a / b);
  put(fma(a, b, Real(1)));
  put(fmin(a, b));
  put(fmax(a, b));
  put(a < b ? a : -b);
  put(copysign(a, b));
  put(rint(a));
  put(floor(a));
  put(Real(int(a)));
  put(isnan(a) || isinf(b) ? Real(1) : Real(0));
  put(tanh(a));
}

/// The float x as bf16, fp16 and back, alone and in pairs: out[0..3][i].
__global__ void conversions_kernel(const float* x, float* out, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  out[i] = __bfloat162float(__float2bfloat16_rn(x[i]));
  out[count + i] = __half2float(__float2half_rn(x[i]));
  const __nv_bfloat162 bfloats = __floats2bfloat162_rn(x[i], 2 * x[i]);
  out[2 * count + i] = __bfloat162float(bfloats.x) + __bfloat162float(bfloats.y);
  const __half2 halves = __floats2half2_rn(x[i], 2 * x[i]);
  out[3 * count + i] = __half2float(halves.x) + __half2float(halves.y);
}

/// out[k][i], integer functions of x[i] and y[i], in the order of test_language.py.
__global__ void integers_kernel(const int64_t* x, const int64_t* y, int64_t* out, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int64_t a = x[i], b = y[i];
  const int c = int(a), d = int(b);
  int k = 0;
  const auto put = [&](int64_t value) { out[int64_t(k++) * count + i] = value; };
  put(a * b);
  put(a / b);
  put(a % b);
  put(a >> 5);
  put(int64_t(uint64_t(a) >> 7));
  put(a << 3);
  put(a < b ? a : b);
  put(int64_t(c) * d);
  put(c / (d | 1));
  put(c % 7);
  put(uint32_t(c) / 10u);
  put(__popc(unsigned(c)) + __clz(c));
  put(int16_t(c) + uint8_t(d));
  put(a == b || c > d);
}

struct Vectors {
  const float4* in;
  float4* out;
  int64_t count;
  float scale;
};

/// A struct by value, 16-byte vectors through shared memory, loops of different lengths.
__global__ void vectors_kernel(Vectors vectors) {
  FUSEDML_SHARED(float4, staged, [64]);
  const int thread = threadIdx.x;
  float4 sum = {0, 0, 0, 0};
  for (int64_t begin = 0; begin < vectors.count; begin += 64) {
    if (begin + thread < vectors.count) staged[thread] = vectors.in[begin + thread];
    __syncthreads();  // the vectors are there
    const int present = int(vectors.count - begin < 64 ? vectors.count - begin : 64);
    for (int i = thread % 5; i < present; i += 1 + thread % 3) {
      sum.x += staged[i].x;
      sum.y = fmaxf(sum.y, staged[i].y * vectors.scale);
      sum.z -= staged[i].z;
      sum.w += 1;
    }
    __syncthreads();  // the vectors may be overwritten
  }
  vectors.out[thread] = sum;
}

struct Pair {
  float sum;
  int64_t steps;
};

/// Not inlined, calls another function, keeps an array in local memory, returns a struct.
__device__ __noinline__ int collatz(int value) {
  return value % 2 == 0 ? value / 2 : 3 * value + 1;
}

__device__ __noinline__ Pair walk(int begin, const float* weights, int count) {
  float recent[8];
  for (int i = 0; i < 8; ++i) recent[i] = 0;
  Pair pair{0, 0};
  for (int value = begin; value > 1 && pair.steps < count; value = collatz(value)) {
    recent[value % 8] += weights[value % 5];
    ++pair.steps;
  }
  for (int i = 0; i < 8; ++i) pair.sum += recent[i] * float(i);
  return pair;
}

/// out[0][i], out[1][i]: sum and steps of the walk from x[i]; odd threads walk twice.
__global__ void calls_kernel(const int* x, float* out, int count) {
  const int i = threadIdx.x;
  if (i >= count) return;
  float weights[5];
  for (int k = 0; k < 5; ++k) weights[k] = float(k + x[0]);
  Pair pair = walk(x[i], weights, 40);
  if (i % 2 == 1) {
    const Pair second = walk(x[i] + 1, weights, 20);
    pair.sum += second.sum;
    pair.steps += second.steps;
  }
  out[i] = pair.sum;
  out[count + i] = float(pair.steps);
}

template __global__ void functions_kernel<float>(const float*, const float*, float*, int);
template __global__ void functions_kernel<double>(const double*, const double*, double*, int);

}  // namespace fusedml::units
