// Matrices of more than 2^31 elements: their rows are read and written at 64-bit offsets.  The
// memory is reserved but only the rows that are touched become real.
#include <sys/mman.h>

#include "check.h"
#include "core/tile.cuh"
#include "kernels/gradient_rows.cuh"
#include "kernels/launch.h"
#include "kernels/weights_product.cuh"
#include "logits/affine.h"

namespace fusedml::testing {
namespace {

constexpr int64_t kNumbers = int64_t(1) << 32;
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

/// Memory for `count` numbers, which becomes real where it is touched.
class Reserved {
 public:
  explicit Reserved(int64_t count) : bytes_(size_t(count) * sizeof(float)) {
    mapped_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(mapped_ != MAP_FAILED);
    if (mapped_ == MAP_FAILED) std::abort();
  }
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;
  ~Reserved() { munmap(mapped_, bytes_); }
  float* data() const { return static_cast<float*>(mapped_); }

 private:
  size_t bytes_;
  void* mapped_;
};

void test_reads() {
  for (const int64_t dim : {32, 33}) {  // wide and narrow copies
    const int64_t rows = kNumbers / dim + 7, begin = rows - kRows / 2;
    const Reserved matrix(rows * dim);
    float* data = matrix.data();
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
  }
}

/// What the store kernels write for `row` of their tile.
constexpr int kDim = 64;
FUSEDML_HOST_DEVICE float number_at(int row, int dim) { return float(row * kDim + dim + 1); }

/// Writes a block's gradient as route A does.
__global__ void store_rows_kernel(GradientRowsArguments<Fp32> arguments, int64_t row_begin,
                                  int split) {
  using Gradients = RowGradients<Fp32, AffineLogit<float>, kDim>;
  const ThreadMap<Gradients::Tile> map;
  Gradients gradients;
  for (int fragment = 0; fragment < kDim / 8; ++fragment)
    for (int r = 0; r < 4; ++r)
      gradients.value[fragment][r] = number_at(map.row(r / 2), fragment * 8 + map.lane_col + r % 2);
  gradients.store(arguments, row_begin, split, 1.f);
}

/// Writes a tile of a gradient as route B does.
__global__ void store_product_kernel(WeightsProductArguments<Fp32> arguments) {
  using Shape = ProductShape<Fp32>;
  const ThreadMap<Shape> map;
  TileValues<float, Shape> values;
  const float weight_sums[Shape::kThreadRows] = {};
  for (int i = 0; i < Shape::kThreadRows; ++i)
    for (int j = 0; j < Shape::kThreadCols; ++j)
      values.at(i, j) = number_at(map.row(i), map.col(j));
  PanelProduct<Fp32, false, Shape>(arguments, 0, 0).store<false>(values, weight_sums);
}

/// The last rows of a gradient, which are the first of a tile.
void check_last_rows(const float* gradient, int64_t rows, int64_t begin) {
  for (int64_t row = begin; row < rows; ++row)
    for (int dim = 0; dim < kDim; ++dim)
      CHECK(gradient[row * kDim + dim] == number_at(int(row - begin), dim));
}

void test_stores() {
  const int64_t rows = kNumbers / kDim + 7, begin = rows - 5;
  const Reserved matrix(2 * rows * kDim);
  float* data = matrix.data();

  GradientRowsArguments<Fp32> of_rows{};
  of_rows.problem.anchors.embeddings = MatrixView<float>::of(nullptr, rows, kDim);
  of_rows.gradient = of_rows.split_gradients = data;
  const dim3 threads(RowGradients<Fp32, AffineLogit<float>, kDim>::Tile::kThreads);
  of_rows.num_splits = 1;
  run(store_rows_kernel, dim3(1), threads, 0, of_rows, begin, 0);
  check_last_rows(data, rows, begin);
  of_rows.num_splits = 2;
  run(store_rows_kernel, dim3(1), threads, 0, of_rows, begin, 1);
  check_last_rows(data + rows * kDim, rows, begin);

  std::fill(data + begin * kDim, data + rows * kDim, 0.f);
  WeightsProductArguments<Fp32> product{};
  product.anchors.embeddings = of_rows.problem.anchors.embeddings;
  product.panel.row_begin = begin;
  product.of_rows = {true, true};
  product.sums = GradientSums<Fp32>::of(data, nullptr, 0, kDim);
  run(store_product_kernel, dim3(1), dim3(ProductShape<Fp32>::kThreads), 0, product);
  check_last_rows(data, rows, begin);
}

/// sums[row] = 1 + 2^-20 at first, from which 1 is taken the second time.
template <bool kInPairs>
__global__ void sum_kernel(GradientSums<Bf16> sums, int64_t row, bool is_first) {
  const int dim = 2 * int(threadIdx.x);
  if (is_first) {
    sums.template store<kInPairs>(row, dim, {1 + 0x1p-20f, -1 - 0x1p-19f});
  } else {
    const auto sum = sums.template load<kInPairs>(row, dim);
    sums.template finish<kInPairs>(row, dim, {sum.x - 1, sum.y + 1});
  }
}

/// Both halves of an unfinished sum of 16-bit numbers, of an even and of an odd number of them.
void test_sums() {
  const int64_t rows = kNumbers / kDim + 7, row = rows - 1;
  const Reserved gradient(rows * kDim), low(rows * kDim);
  for (const int dims : {kDim, kDim - 1}) {
    auto* elements = reinterpret_cast<__nv_bfloat16*>(gradient.data());
    const auto sums =
        GradientSums<Bf16>::of(elements, reinterpret_cast<uint16_t*>(low.data()), 3, dims);
    CHECK(sums.in_pairs == (dims % 2 == 0));
    for (const bool is_first : {true, false})
      run(dims % 2 == 0 ? sum_kernel<true> : sum_kernel<false>, dim3(1), dim3((dims + 1) / 2), 0,
          sums, row, is_first);
    for (int dim = 0; dim < dims; ++dim)
      CHECK(__bfloat162float(elements[row * dims + dim]) == (dim % 2 == 0 ? 0x1p-20f : -0x1p-19f));
  }
}

void test(std::mt19937&) {
  test_sums();
  test_reads();
  test_stores();
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
