// The forward sweep over plain tiles on Hopper's instructions, against plain loops in double.
#include <cmath>
#include <numeric>

#include "hopper/sweep_host.cuh"
#include "hopper_problem.h"

namespace fusedml {
namespace {

using testing::Buffer;
using testing::Side;
using testing::Square;

/// m = 0: a self problem.  scale: of the negatives' logits.
struct SweepCase {
  int64_t n, m;
  int d, samples;  ///< of a class; labels are sorted
  double scale, shift;
  SweepOptions options;
};

/// Sums of exp(z - shift) and counts of each row over its plain squares.
struct Expected {
  std::vector<double> sums;
  std::vector<int64_t> counts;
};

template <class Number>
Expected expect(const SweepCase& c, int64_t square, Side<Number>& anchors, Side<Number>& others) {
  const int64_t m = c.m == 0 ? c.n : c.m;
  Expected expected{std::vector<double>(size_t(c.n)), std::vector<int64_t>(size_t(c.n))};
  for (int64_t i = 0; i + square <= c.n; i += square) {
    const Square a = square_of(anchors, i, i + square, c.d);
    for (int64_t j = 0; j + square <= m; j += square) {
      const Square b = square_of(others, j, j + square, c.d);
      if (!are_plain(a, b, c.scale)) continue;
      for (int64_t row = i; row < i + square; ++row) {
        for (int64_t col = j; col < j + square; ++col) {
          expected.sums[size_t(row)] += std::exp(c.scale * anchors.product(row, others, col, c.d));
        }
        expected.counts[size_t(row)] += square;
      }
    }
  }
  return expected;
}

template <class Number, class Tile>
PairProblem<Number> problem_of(const SweepCase& c, Side<Number>& anchors, Side<Number>& others) {
  using Element = typename Number::Element;
  PairProblem<Number> problem{};
  problem.anchors.embeddings = MatrixView<Element>::of(anchors.embeddings, c.n, c.d);
  problem.anchors.labels = anchors.labels;
  problem.references = problem.anchors;
  if (c.m > 0) {
    problem.references.embeddings = MatrixView<Element>::of(others.embeddings, c.m, c.d);
    problem.references.labels = others.labels;
  }
  problem.logit.value[2] = c.scale;
  problem.logit.value[3] = c.shift;
  if (c.m == 0) problem.excluded = ExcludedDiagonals::of(0, c.n);
  return problem;
}

void synchronise() {
#if !defined(FUSEDML_EMULATION)
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
#endif
}

/// Runs all launches and compares; `spoil(anchors)` may change the embeddings first.
template <class Number, class Tile, class Spoil>
void check_sweep(const SweepCase& c, std::mt19937& random, const Spoil& spoil) {
  Side<Number> anchors(c.n, c.d, c.samples, random);
  Side<Number> others(c.m > 0 ? c.m : 1, c.d, c.samples, random);
  Side<Number>& references = c.m > 0 ? others : anchors;
  spoil(anchors);
  anchors.read();
  others.read();
  const PairProblem<Number> problem = problem_of<Number, Tile>(c, anchors, others);
  const int64_t m = c.m > 0 ? c.m : c.n;
  const SweepSize size{c.n, m, Tile::kSquare, Tile::kSquare, sizeof(RowStatistics<float>)};
  HopperSweepArguments arguments{};
  const SweepPlan plan =
      c.m == 0 ? plan_self(size, c.options, 64'000'000) : plan_rectangle(size, c.options);
  constexpr int kBits = testing::side_bits(Tile::kSquare);
  Buffer<RowRange> row_ranges(size_t(num_squares(c.n, kBits)));
  Buffer<RowRange> col_ranges(size_t(num_squares(m, kBits)));
  CHECK(launch_row_ranges(problem.anchors, kBits, row_ranges, nullptr) == cudaSuccess);
  CHECK(launch_row_ranges(problem.references, kBits, col_ranges, nullptr) == cudaSuccess);
  const int64_t slot_rows = std::min(c.n, plan.row_tiles_per_launch * int64_t(Tile::kSquare));
  Buffer<RowStatistics<float>> partials(size_t(plan.num_slots * slot_rows),
                                        RowStatistics<float>{{}, {0, NAN}, 0, 0, 0});
  arguments.logit = problem.logit;
  arguments.squares = {row_ranges, col_ranges, c.n, m, kBits};
  arguments.dim = c.d;
  arguments.partials = partials;
  arguments.slot_rows = slot_rows;
  const Expected expected = expect(c, Tile::kSquare, anchors, references);
  CHECK(std::accumulate(expected.counts.begin(), expected.counts.end(), int64_t(0)) > 0);
  for (int index = 0; index < plan.num_launches(); ++index) {
    arguments.plan = plan.launch(index);
    CHECK(launch_hopper_sweep<Number, Tile>(problem, arguments, nullptr) == cudaSuccess);
    synchronise();
    if (!arguments.plan.finishes_rows()) continue;
    const int64_t begin = int64_t(arguments.plan.first_row_tile) * Tile::kSquare;
    for (int64_t row = begin; row < std::min(c.n, begin + slot_rows); ++row) {
      RowStatistics<float> merged;
      for (int slot = 0; slot < plan.num_slots; ++slot)
        merged.merge(partials[size_t(slot * slot_rows + row - begin)]);
      const double want = expected.sums[size_t(row)];
      CHECK(merged.num_negative == expected.counts[size_t(row)] && merged.num_positive == 0);
      CHECK(std::fabs(merged.negative.sum - want) <= 2e-5 * want);
      CHECK(want == 0 || merged.negative.max == float(c.shift));
    }
  }
}

template <class Number, class Tile>
void check_sweep(const SweepCase& c, std::mt19937& random) {
  check_sweep<Number, Tile>(c, random, [](Side<Number>&) {});
}

void test_all(std::mt19937& random) {
  using SmallTile = HopperSweepTile<64, 3>;
#if defined(FUSEDML_EMULATION)
  using emulation::AsyncTiming;
  const AsyncTiming timings[] = {AsyncTiming::kLate, AsyncTiming::kEarly, AsyncTiming::kRandom};
  emulation::config.async_timing = timings[emulation::config.seed % 3];
#endif
  // a self problem in one launch and in several, with one slice and with more than there are stages
  check_sweep<Bf16, SmallTile>({400, 0, 64, 8, 2, 0.5, {}}, random);
  check_sweep<Bf16, SmallTile>({650, 0, 72, 16, -3, 0, {1, 4}}, random);
  check_sweep<Fp16, SmallTile>({400, 0, 264, 4, 20, 0, {}}, random);
  // two operands: no sums of columns; the rows in several launches
  check_sweep<Fp16, SmallTile>({300, 500, 72, 100, 1, 0, {1, 0}}, random);
  check_sweep<Bf16, LargeSweepTile>({520, 0, 128, 32, 5, -1, {}}, random);
  // embeddings that are not finite, or too large, have no plain squares
  for (const float value : {NAN, INFINITY, 1e4f}) {
    check_sweep<Bf16, SmallTile>({400, 0, 16, 8, 2, 0, {}}, random, [&](Side<Bf16>& anchors) {
      anchors.embeddings[130 * 16 + 3] = Bf16::to_element(value);
    });
  }
}

}  // namespace
}  // namespace fusedml

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 3, fusedml::test_all);
}
