#pragma once
// Sums of terms over the pairs of each line as a reduction of the forward sweep.
#include "kernels/finish.cuh"
#include "kernels/line_terms.cuh"
#include "kernels/pair_sweep.cuh"
#include "logits/any_measure.h"

namespace fusedml {

/// What one kind of pair adds to a line.
template <class Real>
struct KindSums {
  Real value[kMostTermsOfKind] = {}, slope[kMostTermsOfKind] = {};
  int count[kMostTermsOfKind] = {};  ///< pairs in the intervals
  int num_pairs = 0;

  /// Of one term; no index that only the running kernel knows, which would want local memory.
  FUSEDML_DEVICE void set(int index, Real term_value, Real term_slope, int term_count) {
#pragma unroll
    for (int j = 0; j < kMostTermsOfKind; ++j) {
      if (j != index) continue;
      value[j] = term_value;
      slope[j] = term_slope;
      count[j] = term_count;
    }
  }

  FUSEDML_HOST_DEVICE void merge(const KindSums& other) {
    for (int j = 0; j < kMostTermsOfKind; ++j) {
      value[j] += other.value[j];
      slope[j] += other.slope[j];
      count[j] += other.count[j];
    }
    num_pairs += other.num_pairs;
  }
};

template <class Real>
struct TermSums {
  KindSums<Real> kind[2];  ///< by kind_index()

  FUSEDML_HOST_DEVICE void merge(const TermSums& other) {
    for (int k = 0; k < 2; ++k) kind[k].merge(other.kind[k]);
  }
};

template <class Number>
struct TermSumsReduction {
  using Real = typename Number::Real;
  using Partial = TermSums<Real>;
  static constexpr int kVectors = 2;  ///< the shifts of a line, by kind_index()
  static constexpr bool kPositivesOnly = false;
  static constexpr bool kIsHot = false;  ///< worth a high occupancy
  static constexpr bool kReadsLogits = true;
  static constexpr bool kTakesGroups = false;
  static constexpr bool kHasPlain = false;
  static constexpr bool kHasOneKernel = true;  ///< for all measures, with small tiles
  using Logit = AnyMeasureLogit<Real>;
  using Parameters = LineTerms<Real>;

  /// Measures become logits, without the lines' shifts.
  template <class Logit, class Shape>
  static FUSEDML_DEVICE void prepare(const Logit& logit, TileValues<Real, Shape>& values,
                                     uint64_t positive) {
#pragma unroll
    for (int i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
      for (int j = 0; j < Shape::kThreadCols; ++j)
        values.at(i, j) = logit.logit(positive & PairBits<Shape>::bit(i, j), values.at(i, j));
  }

  template <class Lanes, bool kPositive, int kItems, class Context, class PairAt>
  static FUSEDML_DEVICE KindSums<Real> reduce(const Context& context, PairAt pair_at, int count) {
    constexpr int kKind = kind_index(kPositive);
    const Parameters& terms = context.parameters;
    const auto& lines = context.template lines<Lanes::kIsOfRows>();
    KindSums<Real> sums;
#pragma unroll 1  // or the code were as many times as long
    for (int j = 0; j < terms.count[kKind]; ++j) {
      const PairTerm<Real> term = terms.get(kKind, j);
      Real value = 0, slope = 0;
      int num_counted = 0;
#pragma unroll
      for (int item = 0; item < kItems; ++item) {
        const auto pair = pair_at(item);
        if (!pair.is_counted) continue;
        const Real z = pair.value + lines.vector[kKind][pair.template line<Lanes::kIsOfRows>()];
        const auto evaluated = term.evaluate(z, true, terms.has_shifts, TermFunctions<Number>());
        value += evaluated.value;
        slope += evaluated.slope;
        num_counted += evaluated.counts;
      }
      sums.set(j, Lanes::sum(value), Lanes::sum(slope), Lanes::sum(num_counted));
    }
    sums.num_pairs = Lanes::sum(count);
    return sums;
  }

  template <bool kPositive>
  static FUSEDML_DEVICE void store(const KindSums<Real>& sums, Partial& partial) {
    if constexpr (!kPositive) partial = Partial();
    partial.kind[kind_index(kPositive)] = sums;
  }
};

/// Where the sums of a side's rows go, those of a term `stride` behind those of the one before.
template <class Real>
struct TermSumsOutputs {
  Real *sums, *slopes;        ///< [terms, rows]; slopes null without shifts
  int64_t *counts, *numbers;  ///< [terms, rows], [2, rows]
  int64_t stride;
};

template <class Real>
__global__ void __launch_bounds__(kFinishThreads, 1)
    finish_term_sums_kernel(RowSlots<TermSums<Real>> slots, const int64_t* extent,
                            LineTerms<Real> terms, TermSumsOutputs<Real> out) {
  const int64_t row = slots.my_row();
  if (row >= slots.row_end) return;
  const TermSums<Real> merged = slots.merged(row, extent);
  // an embedding that is not finite concerns the whole row, whichever kind its pair is of
  Real poison = 0;
#pragma unroll
  for (int kind = 0; kind < 2; ++kind) {
#pragma unroll
    for (int j = 0; j < kMostTermsOfKind; ++j)
      if (std::isnan(merged.kind[kind].value[j])) poison = Real(NAN);
    out.numbers[kind * out.stride + row] = merged.kind[kind].num_pairs;
  }
#pragma unroll
  for (int kind = 0; kind < 2; ++kind)
#pragma unroll
    for (int j = 0; j < kMostTermsOfKind; ++j) {
      const int64_t place = terms.place[kind][j];
      if (place < 0) continue;
      out.sums[place * out.stride + row] = merged.kind[kind].value[j] + poison;
      out.counts[place * out.stride + row] = merged.kind[kind].count[j];
      if (out.slopes != nullptr) out.slopes[place * out.stride + row] = merged.kind[kind].slope[j];
    }
}

/// shifts_grad [2, lines] from dL/dF and D, both [terms, lines]:  sum_k dL/dF_k D_k  of each kind.
template <class Real>
__global__ void __launch_bounds__(kFinishThreads, 1)
    shifts_gradient_kernel(LineTerms<Real> terms, int64_t num_lines, const Real* slopes,
                           const Real* sums_grad, Real* shifts_grad) {
  const int64_t line = int64_t(blockIdx.x) * kFinishThreads + threadIdx.x;
  if (line >= num_lines) return;
#pragma unroll
  for (int kind = 0; kind < 2; ++kind) {
    Real sum = 0;
#pragma unroll
    for (int j = 0; j < kMostTermsOfKind; ++j) {
      const int64_t place = terms.place[kind][j];
      if (place >= 0) sum += sums_grad[place * num_lines + line] * slopes[place * num_lines + line];
    }
    shifts_grad[kind * num_lines + line] = sum;
  }
}

}  // namespace fusedml
