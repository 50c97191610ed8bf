#pragma once
// What the tests of Hopper's kernels share: one side of a problem, and which squares are plain.
#include <cmath>
#include <numeric>

#include "check.h"
#include "core/number.cuh"

namespace fusedml::testing {

/// Rows of about unit length, with sorted labels.
template <class Number>
struct Side {
  Side(int64_t rows, int d, int samples, std::mt19937& random)
      : embeddings(size_t(rows * d)), labels(size_t(rows)) {
    std::normal_distribution<float> normal;
    for (int64_t row = 0; row < rows; ++row) {
      labels[size_t(row)] = row / samples;
      for (int k = 0; k < d; ++k)
        embeddings[size_t(row * d + k)] = Number::to_element(normal(random) / std::sqrt(float(d)));
    }
  }
  /// To be called when the embeddings have their final values.
  void read() {
    for (const auto element : embeddings) numbers.push_back(double(Number::to_real(element)));
  }
  double product(int64_t row, const Side& other, int64_t other_row, int d) const {
    const double *a = &numbers[size_t(row * d)], *b = &other.numbers[size_t(other_row * d)];
    return std::inner_product(a, a + d, b, 0.0);
  }

  Buffer<typename Number::Element> embeddings;
  Buffer<int64_t> labels;
  std::vector<double> numbers;
};

constexpr int side_bits(int side) { return side == 1 ? 0 : 1 + side_bits(side / 2); }

/// Largest norm, and first and last label, of the rows of a square.
struct Square {
  double norm = 0;
  int64_t first_label, last_label;
};

template <class Number>
Square square_of(Side<Number>& side, int64_t begin, int64_t end, int d) {
  Square square;
  square.first_label = side.labels[size_t(begin)];
  square.last_label = side.labels[size_t(end - 1)];
  for (int64_t row = begin; row < end; ++row) {
    const double sum = side.product(row, side, row, d);
    square.norm = std::isfinite(sum) ? std::fmax(square.norm, std::sqrt(sum)) : INFINITY;
  }
  return square;
}

/// Whether no pair is positive, and no exponent of 2 beyond +-100.
inline bool are_plain(const Square& a, const Square& b, double scale) {
  const bool meet = a.first_label <= b.last_label && b.first_label <= a.last_label;
  return !meet && std::fabs(scale) * a.norm * b.norm / std::log(2.0) <= 100;
}

}  // namespace fusedml::testing
