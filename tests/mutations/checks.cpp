// A few small cases of one test of csrc/kernels, in one number type: enough to notice a fault, and
// over in a second.  MUTATION_TEST is the test's file, MUTATION_CASES the group of cases below.
#define main main_of_all_cases
#include MUTATION_TEST
#undef main

namespace fusedml::testing {

extern const bool kIsSanitized = false;  // no kernel is looked up in place of another

namespace {

#if MUTATION_CASES != 7 && MUTATION_CASES != 12
constexpr NumberType kType = NumberType::MUTATION_TYPE;
constexpr Measure kDot = Measure::kDot, kEuclidean = Measure::kEuclidean;
#endif

#if MUTATION_CASES == 1  // row statistics
/// Rows beyond the extent, whose slots in the workspace nobody writes.
void check_inactive_rows(std::mt19937& generator) {
  Case c{kType, kDot, 70, 0, 5, 3};
  c.has_extent = true;
  EmulatedProblem p(c, generator);
  Stored statistics(real_type(kType), 3 * c.n);
  Buffer<char> workspace(pair_statistics_workspace(p.problem), poison());
  CHECK(pair_statistics(p.problem, {}, {statistics.data(), nullptr, nullptr, nullptr}, workspace,
                        nullptr) == cudaSuccess);
  expect_close("statistics", c, statistics.values(), dense_statistics(p.dense).statistics,
               tolerance(kType));
}

void run_cases(std::mt19937& generator) {
  check_statistics({kType, kDot, 130, 127, 20, 9, false, true, true}, generator);
  check_statistics({kType, kDot, 129, 0, 16, 4, true}, generator);
  check_statistics({kType, kEuclidean, 37, 5, 144, 3}, generator);
  check_extrema({kType, kEuclidean, 37, 50, 8, 3}, generator);
  check_inactive_rows(generator);
  // in two launches of rows, and in three of small tiles
  check_statistics({kType, kDot, 131, 0, 7, 9}, generator, {1, 0});
  check_statistics({kType, kDot, 131, 70, 7, 9}, generator, {1, 0, TileSize::kSmall});
  Case sets{kType, kDot, 37, 40, 5, 4};
  sets.set_words = 2;
  check_statistics(sets, generator);
  // ordered by their words, and yet any may meet
  sets = {kType, kDot, 128, 128, 5, 8, true};
  sets.set_words = 1;
  check_statistics(sets, generator, {0, 0, TileSize::kSmall});
  Case own{kType, kDot, 130, 300, 5, 4};
  own.self_offset = 200;
  check_statistics(own, generator);
  const NoBankConflicts no_bank_conflicts;
  check_statistics({kType, kDot, 40, 0, 72, 9}, generator);
}
#elif MUTATION_CASES == 17  // both engines together
void run_cases(std::mt19937& generator) {
  check_statistics({kType, 520, 0, 16, 8}, generator);
  check_gradient({kType, 300, 0, 16, 8}, generator);
  check_gradient({kType, 530, 260, 24, 4}, generator, panels_of(2));
}
#elif MUTATION_CASES == 2   // embeddings that are not finite
void run_cases(std::mt19937& generator) {
  check_not_finite({kType, kDot, 70, 40, 5, 3}, TileSize::kLarge, generator);
}
#elif MUTATION_CASES == 9   // parts of tiles without positives
void run_cases(std::mt19937& generator) {
  check_plain_parts(kType, kDot, TileSize::kLarge, generator);
  Case own{kType, kDot, 128, 256, 4, 200, true};
  own.self_offset = 200;
  check_statistics(own, generator);
  check_not_finite({kType, kDot, 130, 260, 5, 40, true}, TileSize::kLarge, generator);
}
#elif MUTATION_CASES == 3   // the symmetric schedule of a self problem, in one and in two launches
void run_cases(std::mt19937& generator) {
  for (const int64_t max_slot_bytes : {0, 1})
    check_statistics({kType, kDot, 330, 0, 4, 9, true, true, true}, generator, {max_slot_bytes, 4});
}
#elif MUTATION_CASES == 4 || MUTATION_CASES == 5  // gradients, route A and route B
void run_cases(std::mt19937& generator) {
  const GradientOptions options{MUTATION_CASES == 4 ? GradientRoute::kRows : GradientRoute::kPanel,
                                128 * 128 * 4};
  check_gradient({kType, kDot, 67, 0, 33, 3}, options, {}, 1, generator);
  check_gradient({kType, kEuclidean, 130, 129, 8, 9, true, true, true}, options, {}, 1e-5,
                 generator);
  const Needs without_logit{true, true, false};
  check_gradient({kType, kDot, 257, 0, 4, 60, true}, options, without_logit, 1, generator);
  check_gradient({kType, kEuclidean, 128, 128, 20, 150, true}, options, without_logit, 1,
                 generator);
  Case own{kType, kDot, 67, 140, 8, 3};
  own.self_offset = 100;
  check_gradient(own, options, {}, 1, generator);
  check_far_lines(kType, generator);
#if MUTATION_CASES == 5
  check_halved_panels(kType, kDot, generator);
  check_gradient({kType, kDot, 130, 65, 7, 9, true, true, true}, small_tiles(), {}, 1, generator);
  check_gradient({kType, kDot, 300, 3, 8, 3, false, false, true}, options, {}, 1, generator);
  if (kType == NumberType::kFp16) check_weight_scale(generator);
#endif
}
#elif MUTATION_CASES == 6   // losses of positive pairs
void run_cases(std::mt19937& generator) {
  const GradientOptions options{};
  check_pairs({kType, kDot, 150, 0, 18, 40, true}, PositivePairHead::kSquaredHinge, options,
              generator);
  check_pairs({kType, kDot, 70, 133, 9, 20, true}, PositivePairHead::kSoftplusGap, options,
              generator);
  Case sets{kType, kDot, 70, 133, 9, 8, true};  // sorted, and yet all may meet
  sets.set_words = 1;
  check_pairs(sets, PositivePairHead::kSoftplusGap, options, generator);
  check_skipped_tiles(kType, generator);
}
#elif MUTATION_CASES == 11  // classes of several vectors
void run_cases(std::mt19937& generator) {
  check_groups({kType, Measure::kSoftMaximum, 20, 11, 10, 20}, generator);
  check_groups({kType, Measure::kMaximum, 20, 41, 3, 7, 1, true}, generator);
  check_not_finite({kType, Measure::kMaximum, 9, 5, 3, 5}, generator);
}
#elif MUTATION_CASES == 13  // sums against thresholds
void run_cases(std::mt19937& generator) {
  for (const ThresholdForm form : kForms)
    check_form(kType, form == ThresholdForm::kSoftplus ? kEuclidean : kDot, form, generator);
  check_searched(kType, kDot, generator);
  check_others(kType, kDot, kHinge, 1, generator);
  check_others(kType, Measure::kSquaredEuclidean, ThresholdForm::kSoftplus, 3, generator);
  // launches of a row of tiles each, in slots that are used again, and columns that are divided
  check_sums({{kType, kDot, 140, 300, 4, 9}, kHinge, 3}, generator, {1, 0});
  check_sums({{kType, kDot, 140, 300, 4, 9}, kHinge, 40}, generator, {1, 0});
}
#elif MUTATION_CASES == 15  // sums of terms
void run_cases(std::mt19937& generator) {
  check_sums({kType, kDot, 67, 0, 5, 4}, kSeveral, true, false, generator);
  check_sums({kType, kEuclidean, 37, 70, 3, 4, false, false, true}, kEnds, true, true, generator);
  check_sums({kType, kDot, 9, 6, 5, 4}, kOfNegatives, false, false, generator);
  check_not_finite(kType, generator);
  check_device_logit(kType, generator);
  if (kType == NumberType::kFp16) check_steep_terms(kType, generator);
}
#elif MUTATION_CASES == 18  // divergences of two products
void run_cases(std::mt19937& generator) {
  check_divergences({kType, kDot, 67, 0, 5, 4}, {9}, generator);
  check_divergences({kType, kDot, 130, 0, 33, 9, true}, {3, false, 10, true}, generator, {}, {},
                    1e-5);
  check_divergences({kType, kDot, 330, 0, 4, 40}, {3}, generator, {1, 4}, {false, true, false});
  check_extremes(kType, generator);
  check_not_finite(kType, generator);
  if (kType == NumberType::kFp16) check_large_shift(kType, generator);
}
#elif MUTATION_CASES == 16  // extreme pairs
void run_cases(std::mt19937& generator) {
  check_extremes({kType, kDot, 131, 0, 3, 4}, false, true, false, generator, {0, 1});
  check_extremes({kType, kEuclidean, 37, 129, 3, 4, false, false, true}, true, false, true,
                 generator);
  check_nan(kType, generator);
  test_below(kType, kDot, true, generator);
  check_nan_below(kType, generator);
}
#elif MUTATION_CASES == 20  // pairs in windows
void run_cases(std::mt19937& generator) {
  check_windows({kType, kDot, 131, 0, 3, 4}, kUnit, generator);
  check_windows({kType, Measure::kSquaredEuclidean, 20, 330, 4, 9, true, false, true}, 2 * kUnit,
                generator, false);
  check_short_list(kType, generator);
}
#elif MUTATION_CASES == 14  // both sides of two operands
void run_cases(std::mt19937& generator) {
  check_plans();
  check_two_sided({kType, kDot, 130, 135, 9, 12}, generator);
  check_two_sided({kType, kEuclidean, 260, 300, 20, 90, true}, generator, {1, 4});
  check_two_sided({kType, kDot, 37, 129, 33, 9, true, false, true}, generator);
  check_two_sided({kType, kDot, 3, 700, 4, 9}, generator, {0, 1});
}
#elif MUTATION_CASES == 8   // listed pairs
void run_cases(std::mt19937& generator) {
  check({kType, kDot, 9, 0, 72, 2}, 100, generator);
  check({kType, kEuclidean, 6, 7, 13, 2}, 40, generator);
  check({kType, Measure::kSquaredEuclidean, 6, 7, 16, 2}, 40, generator);
  check_out_of_range(kType, kDot, generator);
}
#elif MUTATION_CASES == 10  // unit rows
void run_cases(std::mt19937& generator) { test_type(kType, generator); }
#elif MUTATION_CASES == 12  // a test of Hopper's instructions as it is
void run_cases(std::mt19937& generator) { test_all(generator); }
#elif MUTATION_CASES == 7   // the test as it is
void run_cases(std::mt19937& generator) { test(generator); }
#endif

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::run_cases);
}
