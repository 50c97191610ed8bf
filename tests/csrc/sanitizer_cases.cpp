// Runs one mistake that only a sanitizer can see; ctest looks for the sanitizer's report.
//   sanitizer_cases memory|race <number of the mistake> [seed]
#include "check.h"
#include "fault_kernels.cuh"
#include "kernels/launch.h"

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
