#pragma once
// Sums of a row's pairs against thresholds of its own: what a pair adds to them, and its weight.
#include "core/platform.h"
#include "core/threshold_terms.h"

namespace fusedml {

/// The thresholds of all rows, what is summed against them, and in backwards the gradient of it.
template <class Real>
struct ThresholdLists {
  const Real* values;  ///< [rows, count], ascending, padded with kAbsent; null: 0, 1, .., count - 1
  int64_t count;
  ThresholdForm form;
  Real origin, unit;  ///< y = (x - origin) / unit
  Real margin;
  Real least, counted_from;         ///< u above which a pair has a loss, and from which it counts
  bool takes_least, takes_counted;  ///< or which are that bound
  Real below;
  const Real* gradient;  ///< by form: hinge, softplus [rows]; sigmoid [rows, count]; pulse
                         ///< [2, rows, count], of the positives first
  int64_t rows;

  FUSEDML_DEVICE Real hardness(Real x) const { return (x - origin) / unit; }
  FUSEDML_DEVICE Real at(int64_t row, int64_t k) const {
    return values == nullptr ? Real(k) : values[row * count + k];
  }

  /// Whether y - t has a loss, or counts: y is compared with sums that ascend with t.
  FUSEDML_DEVICE bool has_loss(Real y, Real t) const {
    return is_beyond(y, t + least, takes_least);
  }
  FUSEDML_DEVICE bool counts(Real y, Real t) const { return counts_from(y, t) && is_below(y, t); }
  FUSEDML_DEVICE bool is_below(Real y, Real t) const { return y < t + below; }
  /// Whether a pair counts at all thresholds of its row.
  FUSEDML_DEVICE bool counts_all() const {
    return counted_from <= Real(-kAbsent / 2) && !(below < Real(INFINITY));
  }
  FUSEDML_DEVICE bool counts_from(Real y, Real t) const {
    return is_beyond(y, t + counted_from, takes_counted);
  }
  /// A threshold amid those of a row: sums of what is measured from here keep their digits.
  FUSEDML_DEVICE Real center(int64_t row) const {
    const int64_t end = search(row, [](Real t) { return t < Real(kAbsent); });
    return end > 0 ? at(row, end / 2) : Real(0);
  }

  /// First k of a row's list for which meets(t_k) is false; it is true up to there.
  template <class Meets>
  FUSEDML_DEVICE int64_t search(int64_t row, const Meets& meets) const {
    int64_t begin = 0, end = count;
    while (begin < end) {
      const int64_t middle = (begin + end) / 2;
      if (meets(at(row, middle))) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    return begin;
  }

 private:
  static FUSEDML_DEVICE bool is_beyond(Real y, Real bound, bool takes_bound) {
    return y > bound || (takes_bound && y == bound);
  }
};

/// What pairs add to a threshold: sum of f, of f', and of how many count, or of u f' for a sigmoid.
template <class Real>
struct ThresholdSums {
  static constexpr int kCount = 3;
  Real sum[kCount] = {};

  FUSEDML_DEVICE void add_hinge(const ThresholdLists<Real>& lists, Real y, Real t) {
    const bool has_loss = lists.has_loss(y, t) && lists.is_below(y, t);
    if (has_loss) sum[0] += (y - t) + lists.margin;  // t - margin would always round the same way
    if (has_loss) sum[1] += 1;
    if (lists.counts(y, t)) sum[2] += 1;
  }
  FUSEDML_DEVICE void add_softplus(const ThresholdLists<Real>& lists, Real y, Real t) {
    if (!lists.counts(y, t)) return;
    const Real u = (y - t) + lists.margin;
    sum[0] += softplus(u);
    sum[1] += sigmoid(u);
    sum[2] += 1;
  }
  FUSEDML_DEVICE void add_sigmoid(const ThresholdLists<Real>&, Real y, Real t) {
    const Real u = y - t, step = sigmoid(u), slope = step * (1 - step);
    sum[0] += step;
    sum[1] += slope;
    sum[2] += u * slope;
  }
  FUSEDML_DEVICE void add_pulse(const ThresholdLists<Real>&, Real y, Real t) {
    const Real share = 1 - std::fabs(y - t);
    sum[0] += share > Real(0) ? share : Real(0);
  }
};

/// A run [low, high) of a row's sorted thresholds.
struct ThresholdRun {
  int64_t low, high;

  FUSEDML_DEVICE int64_t length() const { return high > low ? high - low : 0; }
};

/// Those that a pair meets with a hinge: it has a loss with each.
template <class Real>
FUSEDML_DEVICE ThresholdRun met_run(const ThresholdLists<Real>& lists, int64_t row, Real y) {
  ThresholdRun run{0, lists.search(row, [&](Real t) { return lists.has_loss(y, t); })};
  if (lists.below < Real(INFINITY))
    run.low = lists.search(row, [&](Real t) { return !lists.is_below(y, t); });
  return run;
}

/// dL/dy of a pair, by the sums of one row.  Not inlined: the unrolled epilogue would hold a copy
/// of each loop per pair.
template <class Real>
__device__ __attribute__((noinline)) Real threshold_weight(const ThresholdLists<Real>* given,
                                                           int64_t row, Real y, bool is_positive) {
  const ThresholdLists<Real>& lists = *given;
  const int64_t count = lists.count;
  if (lists.form == ThresholdForm::kHinge)
    return lists.gradient[row] * Real(met_run(lists, row, y).length());
  if (lists.form == ThresholdForm::kPulse) {  // the slope between two edges of a grid
    const Real last = Real(count - 2), cell = std::floor(y);
    const int64_t k = cell > Real(0) ? int64_t(cell < last ? cell : last) : 0;  // NaN: the first
    const Real* of_row = lists.gradient + (is_positive ? row : lists.rows + row) * count;
    return of_row[k + 1] - of_row[k];
  }
  Real sum = 0;
  for (int64_t k = 0; k < count; ++k) {
    const Real t = lists.at(row, k);
    if (t >= Real(kAbsent)) break;
    if (lists.form == ThresholdForm::kSoftplus) {
      if (lists.counts(y, t)) sum += sigmoid((y - t) + lists.margin);
    } else {
      const Real step = sigmoid(y - t);
      sum += lists.gradient[row * count + k] * (step * (1 - step));
    }
  }
  return lists.form == ThresholdForm::kSoftplus ? lists.gradient[row] * sum : sum;
}

}  // namespace fusedml
