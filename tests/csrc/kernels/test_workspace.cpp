// The memory that the operators ask for, at the sizes of the design's goals: it is what the binding
// allocates, so it bounds the extra memory of a step.
#include "emulated_problem.h"

namespace fusedml::testing {
namespace {

constexpr size_t kMiB = size_t(1) << 20;

Problem problem_of(NumberType type, Measure measure, int64_t n, int64_t m, int64_t d) {
  Problem problem{};
  problem.number_type = type;
  problem.measure = measure;
  problem.n = n;
  problem.m = m;
  problem.d = d;
  problem.is_self = m == 0;
  return problem;
}

/// Non-null pointers: sizes depend on which gradients are asked for, not on where they go.
GradientOutputs outputs_of(const Problem& problem) {
  static char element;
  static double logit[4];
  return {&element, problem.is_self ? nullptr : &element, logit};
}

void test(std::mt19937&) {
  for (const NumberType type : {NumberType::kBf16, NumberType::kFp16, NumberType::kTf32,
                                NumberType::kFp32, NumberType::kFp64})
    for (const Measure measure : {Measure::kDot, Measure::kEuclidean}) {
      // two operands: one slot of partial results per row
      const Problem pair = problem_of(type, measure, 65536, 65536, 768);
      const size_t real_bytes = type == NumberType::kFp64 ? 8 : 4;
      CHECK(pair_statistics_workspace(pair) <= real_bytes * kMiB / 2 + kMiB / 2);
      // self problems up to 75 000 rows buy half the products with at most 32 MiB of slots
      CHECK(pair_statistics_workspace(problem_of(type, measure, 65536, 0, 768)) <= 34 * kMiB);
      CHECK(pair_statistics_workspace(problem_of(type, measure, 1 << 20, 0, 512)) <= 64 * kMiB);
      for (const int64_t d : {128, 512, 768})
        for (const int64_t m : {0, 65536}) {
          const Problem problem = problem_of(type, measure, 65536, m, d);
          CHECK(pair_gradient_workspace(problem, outputs_of(problem)) <= 64 * kMiB);
        }
      const Problem large = problem_of(type, measure, 1 << 20, 0, 512);
      CHECK(pair_gradient_workspace(large, outputs_of(large)) <= 64 * kMiB);
    }
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
