#pragma once
// The operators as double loops in float64, straight from their definitions: the ground truth.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "kernels/api.h"

namespace fusedml::testing {

// Sanitizers are to look at the kernels: here they would take a quarter of a test's time.
#define FUSEDML_UNSANITIZED __attribute__((no_sanitize("thread", "address")))

using Vector = std::vector<double>;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// A problem with its numbers in float64, already rounded to the number type.
struct DenseProblem {
  Measure measure = Measure::kDot;
  bool is_self = true, exclude_diagonal = true;
  int64_t self_offset = 0;
  int64_t n = 0, m = 0, d = 0;
  int64_t active_rows = 0, active_cols = 0;
  Vector anchors, references;
  std::vector<int64_t> anchor_labels, reference_labels;  ///< [max(1, set_words), rows]
  int set_words = 0;
  double logit[4] = {};
  Vector thresholds;  ///< [2, n] or empty

  bool exists(int64_t i, int64_t j) const {
    const int64_t own = i + self_offset < m ? i + self_offset : i + self_offset - m;
    return i < active_rows && j < active_cols && !(exclude_diagonal && j == own);
  }
  bool is_positive(int64_t i, int64_t j) const {
    for (int w = 0; w < set_words; ++w)
      if (anchor_labels[w * n + i] & reference_labels[w * m + j]) return true;
    return set_words == 0 && anchor_labels[i] == reference_labels[j];
  }

  FUSEDML_UNSANITIZED double x(int64_t i, int64_t j) const {
    const double *a = anchors.data() + i * d, *r = references.data() + j * d;
    double similarity = 0, squared = 0;
    for (int64_t k = 0; k < d; ++k) {
      similarity += a[k] * r[k];
      squared += (a[k] - r[k]) * (a[k] - r[k]);
    }
    if (measure == Measure::kDot) return similarity;
    return measure == Measure::kSquaredEuclidean ? squared : std::sqrt(squared);
  }
  double hardness(double x) const { return measure == Measure::kDot ? x : -x; }
  bool is_counted(int64_t i, int64_t j) const {
    if (!exists(i, j)) return false;
    if (thresholds.empty()) return true;
    const double y = hardness(x(i, j));
    return is_positive(i, j) ? y < thresholds[i] : y > thresholds[n + i];
  }
  double z(int64_t i, int64_t j) const {
    const int side = is_positive(i, j) ? 0 : 2;
    return logit[side] * x(i, j) + logit[side + 1];
  }
};

inline double log_sum_exp(const Vector& values) {
  double max = -kInfinity, sum = 0;
  for (double value : values) max = std::max(max, value);
  if (max == -kInfinity) return max;
  for (double value : values) sum += std::exp(value - max);
  return max + std::log(sum);
}

/// statistics [3, n], counts [2, n], extrema [2, n].
struct DenseStatistics {
  Vector statistics, counts, extrema;
};

inline DenseStatistics dense_statistics(const DenseProblem& p) {
  DenseStatistics result{Vector(3 * p.n, 0.0), Vector(2 * p.n, 0.0), Vector(2 * p.n)};
  for (int64_t i = 0; i < p.n; ++i) {
    Vector positive, negative;
    double min_positive = kInfinity, max_negative = -kInfinity;
    for (int64_t j = 0; j < p.m; ++j) {
      if (p.exists(i, j)) {
        const double y = p.hardness(p.x(i, j));
        if (p.is_positive(i, j)) min_positive = std::min(min_positive, y);
        if (!p.is_positive(i, j)) max_negative = std::max(max_negative, y);
      }
      if (!p.is_counted(i, j)) continue;
      (p.is_positive(i, j) ? positive : negative).push_back(p.z(i, j));
    }
    result.statistics[i] = log_sum_exp(positive);
    result.statistics[p.n + i] = log_sum_exp(negative);
    for (double z : positive) result.statistics[2 * p.n + i] += z;
    result.counts[i] = double(positive.size());
    result.counts[p.n + i] = double(negative.size());
    result.extrema[i] = min_positive;
    result.extrema[p.n + i] = max_negative;
  }
  return result;
}

/// Gradients of a sum over pairs whose derivative by z_ij is d_logit(i, j).
struct DenseGradient {
  Vector anchors, references, logit;  ///< a self problem's references are added to its anchors
};

inline DenseGradient dense_gradient(const DenseProblem& p,
                                    const std::function<double(int64_t, int64_t)>& d_logit) {
  DenseGradient g{Vector(p.n * p.d, 0.0), Vector(p.m * p.d, 0.0), Vector(4, 0.0)};
  Vector& to_references = p.is_self ? g.anchors : g.references;
  for (int64_t i = 0; i < p.n; ++i)
    for (int64_t j = 0; j < p.m; ++j) {
      if (!p.is_counted(i, j)) continue;
      const double d_z = d_logit(i, j), x = p.x(i, j);
      if (d_z == 0) continue;
      const int side = p.is_positive(i, j) ? 0 : 2;
      g.logit[side] += d_z * x;
      g.logit[side + 1] += d_z;
      const double d_x = d_z * p.logit[side];
      for (int64_t k = 0; k < p.d; ++k) {
        const double a = p.anchors[i * p.d + k], r = p.references[j * p.d + k];
        if (p.measure == Measure::kDot) {
          g.anchors[i * p.d + k] += d_x * r;
          to_references[j * p.d + k] += d_x * a;
        } else {
          const double slope =
              p.measure == Measure::kSquaredEuclidean ? 2.0 : (x == 0 ? 0.0 : 1 / x);
          g.anchors[i * p.d + k] += d_x * slope * (a - r);
          to_references[j * p.d + k] += d_x * slope * (r - a);
        }
      }
    }
  return g;
}

/// d_logit of statistics_grad . statistics.
inline std::function<double(int64_t, int64_t)> statistics_weights(const DenseProblem& p,
                                                                  const Vector& statistics,
                                                                  const Vector& grad) {
  return [=, &p](int64_t i, int64_t j) {
    const double z = p.z(i, j);
    if (p.is_positive(i, j)) return grad[i] * std::exp(z - statistics[i]) + grad[2 * p.n + i];
    return grad[p.n + i] * std::exp(z - statistics[p.n + i]);
  };
}

}  // namespace fusedml::testing
