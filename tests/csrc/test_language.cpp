// C++ and CUDA constructs that a kernel may use and that the emulation must not break.
#include "check.h"
#include "core/primitives.cuh"
#include "kernels/launch.h"

namespace fusedml {
namespace {

using testing::Buffer;

/// One static array per block and per instantiation; collectives inside a lambda; a functor.
template <int kCount, class Operation>
__global__ void template_kernel(float* out, Operation operation) {
  FUSEDML_SHARED(float, values, [kCount]);
  const int thread = threadIdx.x;
  values[thread] = operation(float(thread));
  __syncthreads();  // values are complete
  const auto plus_first = [&](int i) { return values[i] + shuffle(values[thread], 0); };
  out[blockIdx.x * blockDim.x + thread] = plus_first(thread);
}

struct Twice {
  FUSEDML_DEVICE float operator()(float x) const { return 2 * x; }
};

void test_templates() {
  Buffer<float> out(128);
  launch(template_kernel<64, Twice>, 2, 64, 0, nullptr, out, Twice{});
  for (int block = 0; block < 2; ++block) {
    for (int thread = 0; thread < 64; ++thread) {
      CHECK(out[block * 64 + thread] == 2 * thread + 2 * (thread / 32 * 32));
    }
  }
  launch(template_kernel<32, Twice>, 1, 32, 0, nullptr, out, Twice{});
  CHECK(out[31] == 62);
}

/// Static, carved and dynamic arrays are different memory; alignment as asked for.
__global__ void arrays_kernel(int* out) {
  FUSEDML_SHARED(int, first, [32]);
  FUSEDML_SHARED(int, second, [2][16]);
  Carver carver;
  int* third = carver.take<int>(32);
  int* fourth = carver.take<int>(32, 128);
  const int lane = threadIdx.x;
  first[lane] = 1;
  second[lane / 16][lane % 16] = 10;
  third[lane] = 100;
  fourth[lane] = 1000;
  __syncthreads();  // all four are written
  const int other = 31 - lane;
  out[32 * blockIdx.x + lane] =
      first[other] + second[other / 16][other % 16] + third[other] + fourth[other];
  if (shared_address(fourth) % 128 != 0) out[32 * blockIdx.x + lane] = -1;
}

void test_arrays() {
  Buffer<int> out(96);
  launch(arrays_kernel, 3, 32, 256, nullptr, out);
  for (const int sum : out) CHECK(sum == 1111);
}

/// Blocks that are resident together may wait for each other through atomics.
__global__ void spin_kernel(int* flag, int* data) {
  if (blockIdx.x == 0) {
    data[0] = 1;
    __threadfence();  // the datum before the flag
    atomicExch(flag, 1);
  } else {
    while (atomicAdd(flag, 0) == 0) {
    }
    __threadfence();  // the flag before the datum
    data[1] = data[0] + 1;
  }
}

void test_spinning() {
  Buffer<int> flag(1), data(2);
  emulation::config.resident_blocks = 2;
  launch(spin_kernel, 2, 1, 0, nullptr, flag, data);
  emulation::config.resident_blocks = 1;
  CHECK(data[1] == 2);
}

/// Threads may leave early when the masks of the others say so.
__global__ void early_exit_kernel(int count, float* out) {
  const int thread = threadIdx.x;
  if (thread >= count) return;
  out[thread] = __shfl_xor_sync((1u << count) - 1, float(thread), 1);
}

/// A lane that has left is not waited for.
__global__ void late_exit_kernel(float* out) {
  if (threadIdx.x == 31) return;
  __syncwarp();
  out[threadIdx.x] = 1;
}

void test_early_exit() {
  Buffer<float> out(32);
  launch(late_exit_kernel, 1, 32, 0, nullptr, out);
  CHECK(out[30] == 1 && out[31] == 0);
  launch(early_exit_kernel, 1, 32, 0, nullptr, 16, out);
  CHECK(out[4] == 5);
}

/// Warps of one block take different paths between barriers; block sizes need not be full warps.
__global__ void ragged_block_kernel(int* out) {
  FUSEDML_SHARED(int, sum, [1]);
  const int thread = threadIdx.x + blockDim.x * threadIdx.y;
  if (thread == 0) sum[0] = 0;
  __syncthreads();  // sum is zero
  if (thread / 32 % 2 == 0) {
    atomicAdd(&sum[0], 1);
  } else {
    atomicAdd(&sum[0], 100);
  }
  const int count = __syncthreads_count(thread % 3 == 0);
  if (thread == 0) out[blockIdx.x] = sum[0] * 1000 + count;
}

void test_ragged_block() {
  Buffer<int> out(2);
  launch(ragged_block_kernel, 2, dim3(10, 5), 0, nullptr, out);
  CHECK(out[1] == (32 + 18 * 100) * 1000 + 17);
}

/// Parameters are copies: one thread's changes are not another's.
struct Parameters {
  int values[100];
};

__global__ void parameters_kernel(Parameters parameters, int* out) {
  parameters.values[0] += int(threadIdx.x);
  __syncthreads();  // every thread has changed its copy
  out[threadIdx.x] = parameters.values[0];
}

void test_parameters() {
  Buffer<int> out(64);
  Parameters parameters{};
  parameters.values[0] = 7;
  CHECK(launch(parameters_kernel, 1, 64, 0, nullptr, parameters, out) == cudaSuccess);
  for (int thread = 0; thread < 64; ++thread) CHECK(out[thread] == 7 + thread);
}

/// The order of lanes, warps and blocks depends on the seed, and only on the seed.
__global__ void order_kernel(int* tickets, int* out) {
  const int thread = threadIdx.x + blockDim.x * blockIdx.x;
  out[thread] = atomicAdd(tickets, 1);
}

void test_schedules() {
  const auto order = [](uint64_t seed) {
    Buffer<int> tickets(1), out(4 * 64);
    const uint64_t previous = emulation::config.seed;
    emulation::config.seed = seed;
    launch(order_kernel, 4, 64, 0, nullptr, tickets, out);
    emulation::config.seed = previous;
    return std::vector<int>(out.begin(), out.end());
  };
  CHECK(order(0) == order(0));
  CHECK(order(5) == order(5));
  CHECK(order(5) != order(6));
}

void test_all(std::mt19937&) {
  test_templates();
  test_arrays();
  test_spinning();
  test_early_exit();
  test_ragged_block();
  test_parameters();
  test_schedules();
}

}  // namespace
}  // namespace fusedml

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 4, fusedml::test_all);
}
