// Losses with one term per positive pair, and their gradients, against double loops in float64.
#include "emulated_problem.h"

namespace fusedml::testing {
namespace {

PairLoss<double> dense_pair_loss(PositivePairHead head, double z, double anchor_lse,
                                 double reference_lse) {
  if (head == PositivePairHead::kSoftplusGap) {
    const double gap = anchor_lse - z, share = 1 / (1 + std::exp(-gap));
    return {std::log1p(std::exp(gap)), -share, share, 0};
  }
  const double both = log_sum_exp({anchor_lse, reference_lse});
  const double inner = std::max(0.0, both + z);
  if (inner == 0) return {0, 0, 0, 0};
  return {inner * inner / 2, inner, inner * std::exp(anchor_lse - both),
          inner * std::exp(reference_lse - both)};
}

void check_pairs(const Case& c, PositivePairHead head, const GradientOptions& given,
                 std::mt19937& generator) {
  const GradientOptions options = with_large_tiles(given);
  EmulatedProblem p(c, generator);
  // logits of moderate slope, with hinges that are open and closed
  const double logit[4] = {3, -0.5, p.problem.logit[2], c.measure == Measure::kDot ? -3.0 : 9.0};
  for (int k = 0; k < 4; ++k) p.dense.logit[k] = p.problem.logit[k] = logit[k];
  const NumberType real = real_type(c.type);
  const bool is_self = p.dense.is_self;
  const DenseStatistics exact = dense_statistics(p.dense);
  Stored reference_lse(real, c.m), losses_grad(real, c.n);
  std::normal_distribution<double> normal;
  for (int64_t j = 0; j < c.m; ++j) reference_lse.set(j, normal(generator));
  for (int64_t i = 0; i < c.n; ++i) losses_grad.set(i, normal(generator));
  if (c.m > 1) reference_lse.set(c.m - 1, -kInfinity);  // a reference without negatives

  const Vector lse_i(exact.statistics.begin() + c.n, exact.statistics.begin() + 2 * c.n);
  const Vector g = losses_grad.values(), lse_p = is_self ? lse_i : reference_lse.values();
  Vector losses(c.n, 0.0), anchor_lse_grad(c.n, 0.0), reference_lse_grad(c.m, 0.0);
  for (int64_t i = 0; i < c.n; ++i)
    for (int64_t j = 0; j < p.dense.m; ++j) {
      if (!p.dense.exists(i, j) || !p.dense.is_positive(i, j)) continue;
      const auto v = dense_pair_loss(head, p.dense.z(i, j), lse_i[i], lse_p[j]);
      losses[i] += v.value;
      anchor_lse_grad[i] += g[i] * v.d_anchor_lse;
      (is_self ? anchor_lse_grad : reference_lse_grad)[j] += g[i] * v.d_reference_lse;
    }
  const DenseGradient expected = dense_gradient(p.dense, [&](int64_t i, int64_t j) {
    const double z = p.dense.z(i, j);
    if (!p.dense.is_positive(i, j)) return anchor_lse_grad[i] * std::exp(z - lse_i[i]);
    return g[i] * dense_pair_loss(head, z, lse_i[i], lse_p[j]).d_logit;
  });

  const PositivePairs pairs{head, is_self ? nullptr : reference_lse.data()};
  Stored actual_losses(real, c.n), statistics(real, 3 * c.n);
  Buffer<int64_t> counts(2 * c.n, -1);
  const SweepOptions sweep{options.max_slot_bytes, 0, options.tile_size};
  Buffer<char> workspace(positive_pair_losses_workspace(p.problem, sweep), poison());
  CHECK(positive_pair_losses(p.problem, pairs,
                             {statistics.data(), counts, actual_losses.data(), nullptr}, workspace,
                             nullptr, sweep) == cudaSuccess);
  const double tolerance_of_sums = 4 * tolerance(c.type);
  expect_close("pair statistics", c, statistics.values(), exact.statistics, tolerance(c.type));
  expect_close("pair counts", c, Vector(counts.begin(), counts.end()), exact.counts, 0);
  expect_close("pair losses", c, actual_losses.values(), losses, tolerance_of_sums);

  Stored anchors_grad(c.type, c.n * c.d), references_grad(c.type, c.m * c.d);
  Stored actual_lse_grad(real, c.m);
  Buffer<double> logit_grad(4, -1.0);
  const GradientOutputs outputs{anchors_grad.data(), is_self ? nullptr : references_grad.data(),
                                logit_grad};
  Buffer<char> backward_workspace(positive_pair_gradient_workspace(p.problem, outputs, options),
                                  poison());
  CHECK(positive_pair_gradient(p.problem, pairs, statistics.data(), losses_grad.data(), outputs,
                               is_self ? nullptr : actual_lse_grad.data(), backward_workspace,
                               nullptr, options) == cudaSuccess);
  const double allowed = gradient_tolerance(c.type);
  expect_close("pair anchors_grad", c, anchors_grad.values(), expected.anchors, allowed);
  expect_close("pair logit_grad", c, Vector(logit_grad.begin(), logit_grad.end()), expected.logit,
               allowed, std::sqrt(double(c.n)));  // terms of either sign, which may cancel
  if (is_self) return;
  expect_close("pair references_grad", c, references_grad.values(), expected.references, allowed);
  expect_close("reference_lse_grad", c, actual_lse_grad.values(), reference_lse_grad,
               tolerance_of_sums);
}

#if defined(FUSEDML_EMULATION)  // which counts
/// Matrix products of positive_pair_losses beyond those of the statistics.
uint64_t products_over_positives(const Case& c, std::mt19937& generator) {
  EmulatedProblem p(c, generator);
  const NumberType real = real_type(c.type);
  Stored losses(real, c.n), statistics(real, 3 * c.n);
  const StatisticsOutputs outputs{statistics.data(), nullptr, losses.data(), nullptr};
  const StatisticsOutputs statistics_only{statistics.data(), nullptr, nullptr, nullptr};
  Buffer<char> workspace(positive_pair_losses_workspace(p.problem), poison());
  emulation::reset_counters();
  CHECK(pair_statistics(p.problem, {}, statistics_only, workspace, nullptr) == cudaSuccess);
  const uint64_t of_statistics = emulation::counters.mma;
  CHECK(positive_pair_losses(p.problem, {PositivePairHead::kSoftplusGap, nullptr}, outputs,
                             workspace, nullptr) == cudaSuccess);
  return emulation::counters.mma - 2 * of_statistics;
}

/// Of 64 tiles of 64 x 64 pairs, those that can hold a positive: all of them where the labels of
/// 128 classes are in disorder; where they are sorted, 8 on the diagonal and at most 14 beside it.
void check_skipped_tiles(NumberType type, std::mt19937& generator) {
  Case c{type, Measure::kDot, 512, 0, 5, 128};
  const uint64_t of_all = products_over_positives(c, generator);
  c.sorted_labels = true;
  const uint64_t of_sorted = products_over_positives(c, generator);
  CHECK(of_all > 0 && of_all % 64 == 0);
  CHECK(of_sorted >= of_all / 64 * 8 && of_sorted <= of_all / 64 * 22);
}

#endif

void test(std::mt19937& generator) {
#if defined(FUSEDML_EMULATION)
  if (emulation::config.seed == 0 && !kIsSanitized) check_skipped_tiles(kSixteenBit, generator);
#endif
  for (const NumberType type : kNumberTypes)
    for (const Measure measure : kMeasures)
      for (const PositivePairHead head :
           {PositivePairHead::kSoftplusGap, PositivePairHead::kSquaredHinge})
        for (const GradientRoute route : {GradientRoute::kRows, GradientRoute::kPanel}) {
          // the head is chosen when the kernels run: half of the combinations per seed
          if ((uint64_t(measure) + uint64_t(head) + uint64_t(route) + emulation::config.seed) % 2)
            continue;
          if (!is_tested(type, measure)) continue;
          const GradientOptions options{route, 128 * 128 * 4};
          // sorted labels of many classes: most tiles are skipped
          check_pairs({type, measure, 150, 0, 18, 40, true}, head, options, generator);
          if (emulation::config.seed != 0) continue;
          check_pairs({type, measure, 70, 133, 9, 20, true}, head, options, generator);
          // in launches of one tile of rows, whose slots are used again
          GradientOptions few_slots = options;
          few_slots.max_slot_bytes = 1;
          check_pairs({type, measure, 135, 70, 9, 20, true}, head, few_slots, generator);
          GradientOptions small_tiles = options;
          small_tiles.tile_size = TileSize::kSmall;
          check_pairs({type, measure, 135, 70, 9, 20, true}, head, small_tiles, generator);
          check_pairs({type, measure, 33, 20, 5, 4, false}, head, options, generator);
          check_pairs({type, measure, 1, 0, 4, 2, false}, head, options, generator);
          check_pairs({type, measure, 4, 0, 4, 2, false, false, false, true}, head, options,
                      generator);
          if (!is_in_turn(type, measure, int(route))) continue;
          Case own{type, measure, 70, 133, 9, 20, true};
          own.self_offset = 100;
          check_pairs(own, head, options, generator);
          for (const int words : {1, 3}) {
            Case sets{type, measure, 70, words == 1 ? 0 : 67, 9, 4};
            sets.set_words = words;
            check_pairs(sets, head, options, generator);
          }
        }
}

}  // namespace
}  // namespace fusedml::testing

int main(int argc, char** argv) {
  return fusedml::testing::run_over_seeds(argc, argv, 1, fusedml::testing::test);
}
