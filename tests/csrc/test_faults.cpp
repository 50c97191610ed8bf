// Each mistake that the engine promises to notice, made once.
#include <cmath>

#include "check.h"
#include "fault_kernels.cuh"
#include "kernels/launch.h"

namespace fusedml {
namespace {

using testing::Buffer;
using testing::contains;
using units::Mistake;

std::string fault_of(Mistake mistake) {
  Buffer<float> global(64);
  const unsigned threads = mistake == Mistake::kBarrierCountMismatch ? 64 : 32;
  return testing::fault_of(
      [&] { launch(units::mistake_kernel, 1, threads, 512, nullptr, mistake, global); });
}

struct Expectation {
  Mistake mistake;
  const char* text;  ///< part of the report
};

void test_mistakes(std::mt19937&) {
  const Expectation expectations[] = {
      {Mistake::kDivergentCollective, "divergent warp"},
      {Mistake::kForeignMask, "the calling lane is not in its mask"},
      {Mistake::kShuffleWidth, "shuffle width 24"},
      {Mistake::kTooManyMasks, "more than 8 collectives"},
      {Mistake::kMmaWithoutALane, "needs all 32 lanes"},
      {Mistake::kMissedBarrier, "deadlock"},
      {Mistake::kDivergentBarrier, "divergent warp at barrier 0"},
      {Mistake::kBarrierCount, "24 threads, needs a multiple of 32"},
      {Mistake::kBarrierCountMismatch, "for those already there"},
      {Mistake::kMisalignedLdmatrix, "is not 16-byte aligned"},
      {Mistake::kLdmatrixOutside, "outside every array"},
      {Mistake::kCopyOutside, "outside every array"},
      {Mistake::kMisalignedCopySource, "global address"},
      {Mistake::kMisalignedCopyDestination, "shared address"},
      {Mistake::kCopySize, "source size 17 of 16 bytes"},
      {Mistake::kCopyNeverAwaited, "1 cp.async that were never waited for"},
      {Mistake::kGlobalAsShared, "is not shared memory of this block"},
      {Mistake::kMisalignedAtomic, "is not 4-byte aligned"},
      {Mistake::kCarveTooMuch, "Carver: bytes [256, 516) of 512 bytes"},
      {Mistake::kCarveDifferently, "in another thread"},
      {Mistake::kCarveAlignment, "alignment 256"},
      {Mistake::kTooMuchStatic, "of shared memory, the limit is"},
  };
  for (const auto& [mistake, text] : expectations) {
    const std::string fault = fault_of(mistake);
    CHECK(contains(fault, text));
    if (!contains(fault, text)) {
      std::printf("  mistake %d: got \"%s\", want \"%s\"\n", int(mistake), fault.c_str(), text);
    }
  }
}

void test_reports_name_both_places(std::mt19937&) {
  const std::string fault = fault_of(Mistake::kDivergentCollective);
  const size_t first = fault.find("fault_kernels.cuh:");
  CHECK(first != std::string::npos && fault.find("fault_kernels.cuh:", first + 1) != fault.npos);
  CHECK(contains(fault, "block (0,0,0) thread ("));
  const std::string deadlock = fault_of(Mistake::kMissedBarrier);
  CHECK(contains(deadlock, "waits at __syncthreads (") && contains(deadlock, "31 threads"));
}

void test_strict_tf32(std::mt19937&) {
  CHECK(fault_of(Mistake::kUnroundedTf32).empty());
  emulation::config.strict_tf32 = true;
  CHECK(contains(fault_of(Mistake::kUnroundedTf32), "to_tf32 is missing"));
  emulation::config.strict_tf32 = false;
}

void test_launch_limits(std::mt19937&) {
  Buffer<float> global(64);
  const auto fault_with = [&](dim3 grid, dim3 block, size_t bytes) {
    return testing::fault_of([&] {
      launch(units::mistake_kernel, grid, block, bytes, nullptr, Mistake::kForeignMask, global);
    });
  };
  CHECK(contains(fault_with(1, 0, 0), "needs 1 to 1024 threads"));
  CHECK(contains(fault_with(1, 1025, 0), "needs 1 to 1024 threads"));
  CHECK(contains(fault_with(0, 32, 0), "grid size"));
  CHECK(contains(fault_with(dim3(1, 65536), 32, 0), "grid size"));
  CHECK(contains(fault_with(1, 32, 227 * 1024 + 1), "the limit is 232448"));
}

void test_poison(std::mt19937&) {
  Buffer<float> in(32, 1.0f), out(160);
  launch(units::poison_kernel, 1, 32, 0, nullptr, in, out);
  for (int i = 0; i < 112; ++i) CHECK(std::isnan(out[i]));
  for (int lane = 0; lane < 32; ++lane) CHECK(out[128 + lane] == 1.0f);
}

/// After a fault the engine must run the next kernel as if nothing had happened.
void test_recovery(std::mt19937&) {
  CHECK(contains(fault_of(Mistake::kMissedBarrier), "deadlock"));
  CHECK(fault_of(Mistake::kUnroundedTf32).empty());
}

void test_all(std::mt19937& random) {
  test_mistakes(random);
  test_reports_name_both_places(random);
  test_strict_tf32(random);
  test_launch_limits(random);
  test_poison(random);
  test_recovery(random);
}

}  // namespace
}  // namespace fusedml

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 4, fusedml::test_all);
}
