// Matrices of more than 2^31 elements: their rows are found by 64-bit offsets.  The memory is
// reserved but only the rows that are touched become real.
#include <sys/mman.h>

#include "check.h"
#include "core/tile.cuh"
#include "kernels/launch.h"

namespace fusedml::testing {
namespace {

constexpr int kRows = 32, kThreads = 64;

/// slices [2, kRows * kSliceDepth] = the slices that copy_slice makes of rows [begin, + kRows).
__global__ void copy_kernel(MatrixView<float> from, int64_t begin, float* slices) {
  Carver carver;
  float* slice = carver.take<float>(kRows * kSliceDepth<float>, 128);
  copy_slice<kRows, kThreads>(slice, from, begin, 0);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();  // every thread's copies have landed
  for (int i = int(threadIdx.x); i < kRows * kSliceDepth<float>; i += kThreads)
    slices[i] = slice[slice_index<float>(i / kSliceDepth<float>, i % kSliceDepth<float>)];
}

void test(std::mt19937&) {
  for (const int64_t dim : {32, 33}) {  // wide and narrow copies
    const int64_t rows = (int64_t(1) << 32) / dim + 7, begin = rows - kRows / 2;
    const size_t bytes = size_t(rows * dim) * sizeof(float);
    void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(mapped != MAP_FAILED);
    if (mapped == MAP_FAILED) return;
    auto* data = static_cast<float*>(mapped);
    for (int64_t row = begin; row < rows; ++row)
      for (int64_t k = 0; k < dim; ++k) data[row * dim + k] = float(row - begin + k * 100 + 1);
    Buffer<float> slices(kRows * kSliceDepth<float>);
    const auto view = MatrixView<float>::of(data, rows, dim);
    CHECK(launch(copy_kernel, dim3(1), dim3(kThreads), kRows * kSliceBytes, nullptr, view, begin,
                 static_cast<float*>(slices)) == cudaSuccess);
    for (int i = 0; i < kRows * kSliceDepth<float>; ++i) {
      const int row = i / kSliceDepth<float>, k = i % kSliceDepth<float>;
      CHECK(slices[i] == (row < kRows / 2 ? float(row + k * 100 + 1) : 0.f));
    }
    munmap(mapped, bytes);
  }
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
