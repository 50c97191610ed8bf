// Runs one mistake that only a sanitizer can see; ctest looks for the sanitizer's report.
//   sanitizer_cases memory|race|ring <number of the mistake> [seed]
#include "check.h"
#include "fault_kernels.cuh"
#include "hopper_ring.cuh"
#include "kernels/launch.h"
#include "kernels/tensor_map.h"

namespace fusedml {

/// Three tiles of the ring of Hopper's units, which work early: whoever comes too soon sees
/// numbers.
void run_ring(units::RingMistake mistake) {
  using Ring = units::RingBlock<true>;
  constexpr int kSlices = 2, kTiles = 3, kDepth = 128, kRows = 128 * kTiles;
  testing::Buffer<uint16_t> a(kRows * kDepth), b(kDepth * 64);
  testing::Buffer<float> product(kRows * 64), column_sums(kTiles * 64);
  TensorMap a_map, b_map;
  make_tensor_map(a_map, SixteenBitType::kBf16, a, kRows, kDepth, 128);
  make_tensor_map(b_map, SixteenBitType::kBf16, b, kDepth, 64, 64);
  emulation::config.async_timing = emulation::AsyncTiming::kEarly;
  launch(units::ring_kernel<true>, 1, 384, Ring::kStages * Ring::kStageBytes, nullptr, a_map, b_map,
         units::RingArguments{kSlices, kTiles, product, column_sums, mistake});
}

}  // namespace fusedml

int main(int argc, char** argv) {
  using namespace fusedml;
  if (argc < 3) return 2;
  const std::string kind = argv[1];
  const int mistake = std::atoi(argv[2]);
  emulation::config.seed = argc > 3 ? uint64_t(std::atoi(argv[3])) : 0;
  try {
    if (kind == "memory") {
      testing::Buffer<float> global(32, 1.0f);
      launch(units::memory_mistake_kernel, 1, 32, 512, nullptr,
             static_cast<units::MemoryMistake>(mistake), global);
    } else if (kind == "ring") {
      run_ring(static_cast<units::RingMistake>(mistake));
    } else {
      testing::Buffer<float> in(128, 1.0f), out(256);
      launch(units::race_kernel, 2, 64, 0, nullptr, static_cast<units::Race>(mistake), in, out);
    }
  } catch (const emulation::Fault& fault) {
    std::printf("fault: %s\n", fault.what());
    return 1;
  }
  std::printf("finished\n");
  return 0;
}
