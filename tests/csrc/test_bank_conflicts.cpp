// The counters of bank conflicts against hand-counted kernels.
#include "check.h"
#include "conflict_kernels.cuh"
#include "kernels/launch.h"

namespace fusedml {
namespace {

using emulation::counters;
using testing::Buffer;

template <bool kSwizzled>
void run_swizzle(bool skips) {
  Buffer<uint16_t> in(512, 1);
  Buffer<uint32_t> out(128);
  emulation::reset_counters();
  launch(units::swizzle_kernel<kSwizzled>, 1, 32, 1024, nullptr, in, out, skips);
}

void test_ldmatrix_and_copies(std::mt19937&) {
  run_swizzle<true>(false);
  CHECK(counters.ldmatrix == 1);
  CHECK(counters.cp_async == 64);
  CHECK(counters.ldmatrix_conflicts == 0);
  CHECK(counters.cp_async_conflicts == 0);
  CHECK(emulation::bank_conflict_report().empty());

  run_swizzle<false>(false);
  // Rows of 64 bytes: 8 rows of a matrix meet in 2 groups of 4 banks, 4 passes for each matrix.
  CHECK(counters.ldmatrix_conflicts == 4 * 3);
  CHECK(counters.cp_async_conflicts == 0);  // 8 lanes fill two whole rows
  CHECK(testing::contains(emulation::bank_conflict_report(), "ldmatrix"));
  CHECK(testing::contains(emulation::bank_conflict_report(), "conflict_kernels.cuh:"));

  run_swizzle<true>(true);  // lanes that skip a copy do not confuse the bookkeeping
  CHECK(counters.cp_async == 48);
  CHECK(counters.cp_async_conflicts == 0);
}

#if defined(FUSEDML_TESTS_TRACED)
void test_plain_accesses(std::mt19937&) {
  Buffer<float> out(32);
  emulation::reset_counters();
  launch(units::column_kernel<32>, 1, 32, 0, nullptr, out);
  CHECK(out[31] == 31 * 32 / 2);
  CHECK(counters.shared_stores == 32);
  CHECK(counters.shared_loads == 32);
  CHECK(counters.shared_store_conflicts == 32 * 31);
  CHECK(counters.shared_load_conflicts == 32 * 31);
  CHECK(testing::contains(emulation::bank_conflict_report(), "store"));

  emulation::reset_counters();
  launch(units::column_kernel<33>, 1, 32, 0, nullptr, out);
  CHECK(counters.shared_loads == 32);
  CHECK(counters.shared_store_conflicts == 0);
  CHECK(counters.shared_load_conflicts == 0);
}

void test_vectors(std::mt19937&) {
  Buffer<units::FourFloats> in(32, {1, 2, 3, 4}), out(32);
  emulation::reset_counters();
  launch(units::vector_kernel<1>, 1, 32, 0, nullptr, in, out);
  CHECK(out[31].w == 4);
  CHECK(counters.shared_loads == 1);
  CHECK(counters.shared_load_conflicts == 0);  // four phases of 8 lanes, 128 bytes each

  emulation::reset_counters();
  launch(units::vector_kernel<2>, 1, 32, 0, nullptr, in, out);
  CHECK(counters.shared_load_conflicts == 4);  // a phase spans 256 bytes: two passes
}

void test_broadcast(std::mt19937&) {
  Buffer<float> out(32);
  for (const int stride : {1, 3}) {
    emulation::reset_counters();
    launch(units::broadcast_kernel, 1, 32, 0, nullptr, out, stride);
    CHECK(out[30] == 3.0f);
    CHECK(counters.shared_loads == 1);
    CHECK(counters.shared_load_conflicts == 0);
  }
}

/// core/weighted_sum.cuh promises that these loads are free of conflicts.
void test_embedding_fragments(std::mt19937&) {
  Buffer<float> out(64);
  emulation::reset_counters();
  launch(units::embedding_fragments_kernel, 1, 64, 32 * 32 * sizeof(float), nullptr, out);
  float sum = 0;
  for (int lane = 0; lane < 32; ++lane) sum += out[lane];
  CHECK(sum == 1024 * 1023 / 2);  // every number once per warp
  CHECK(counters.shared_loads == 2 * 4 * 2 * 4);
  CHECK(counters.shared_load_conflicts == 0);
  if (counters.shared_load_conflicts > 0)
    std::printf("%s", emulation::bank_conflict_report().c_str());
}

void test_predicated(std::mt19937&) {
  Buffer<float> out(32);
  emulation::reset_counters();
  launch(units::predicated_kernel, 1, 32, 0, nullptr, out);
  CHECK(out[0] == 31 && out[31] == 31);
  CHECK(counters.shared_loads == 2);
}
#endif

void test_all(std::mt19937& random) {
  test_ldmatrix_and_copies(random);
#if defined(FUSEDML_TESTS_TRACED)
  test_plain_accesses(random);
  test_vectors(random);
  test_broadcast(random);
  test_predicated(random);
  test_embedding_fragments(random);
#endif
}

}  // namespace
}  // namespace fusedml

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 4, fusedml::test_all);
}
