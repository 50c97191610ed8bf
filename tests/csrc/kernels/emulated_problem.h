#pragma once
// A random problem in a number type's own storage beside the same numbers in float64.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "check.h"
#include "kernels/reference.h"

namespace fusedml::testing {

/// Error allowed relative to the largest value: units of the number type's rounding.
inline double tolerance(NumberType type) {
  switch (type) {
    case NumberType::kBf16:
    case NumberType::kFp16:
      return 2e-5;  // statistics: products are exact, sums and logits fp32
    case NumberType::kTf32:
      return 4e-3;
    case NumberType::kFp32:
      return 1e-5;
    case NumberType::kFp64:
      break;
  }
  return 1e-13;
}

/// Rounding of a gradient: the weights of the 16-bit types are rounded too.
inline double gradient_tolerance(NumberType type) {
  if (type == NumberType::kBf16) return 1.2e-2;
  if (type == NumberType::kFp16) return 2e-3;
  if (type == NumberType::kTf32) return 1.5e-2;  // logits of slope 10 amplify the products' error
  return type == NumberType::kFp32 ? 4e-5 : tolerance(type);
}

inline const char* name_of(NumberType type) {
  static const char* const kNames[] = {"bf16", "fp16", "tf32", "fp32", "fp64"};
  return kNames[int(type)];
}
inline const char* name_of(Measure measure) {
  static const char* const kNames[] = {"dot",    "euclidean", "squared_euclidean", "angular_margin",
                                       "circle", "maximum",   "soft_maximum"};
  return kNames[int(measure)];
}

/// Checks at its end that the swizzled slices were read and written without bank conflicts.  That
/// is promised for rows that begin at multiples of 16 bytes; copies of 4 bytes meet in a bank.
struct NoBankConflicts {
  NoBankConflicts() { emulation::reset_counters(); }
  ~NoBankConflicts() {
    CHECK(emulation::counters.ldmatrix > 0);
    CHECK(emulation::counters.ldmatrix_conflicts == 0);
    CHECK(emulation::counters.cp_async_conflicts == 0);
    if (emulation::counters.ldmatrix_conflicts + emulation::counters.cp_async_conflicts > 0)
      std::printf("%s", emulation::bank_conflict_report().c_str());
  }
};

/// What workspaces and outputs hold before: huge numbers, of either sign by the seed, so that a
/// slot that nobody has written is seen in a sum, and in a smallest or a largest number.
inline char poison() { return char(emulation::config.seed % 2 == 0 ? 0x7f : 0xfe); }

/// An array stored as a number type, exactly as long as needed.
class Stored {
 public:
  Stored(NumberType type, size_t count)
      : type_(type), bytes_(count * size_of(type), static_cast<unsigned char>(poison())) {}
  static size_t size_of(NumberType type) {
    return type == NumberType::kFp64 ? 8 : type <= NumberType::kFp16 ? 2 : 4;
  }
  void* data() { return bytes_.begin(); }
  size_t count() { return bytes_.size() / size_of(type_); }

  void set(size_t index, double value) {
    unsigned char* to = bytes_.begin() + index * size_of(type_);
    if (type_ == NumberType::kBf16) {
      const __nv_bfloat16 x = __float2bfloat16_rn(float(value));
      std::memcpy(to, &x, sizeof x);
    } else if (type_ == NumberType::kFp16) {
      const __half x = __float2half_rn(float(value));
      std::memcpy(to, &x, sizeof x);
    } else if (type_ == NumberType::kFp64) {
      std::memcpy(to, &value, sizeof value);
    } else {
      const float x = float(value);
      std::memcpy(to, &x, sizeof x);
    }
  }
  double get(size_t index) {
    const unsigned char* from = bytes_.begin() + index * size_of(type_);
    if (type_ == NumberType::kBf16) {
      __nv_bfloat16 x;
      std::memcpy(&x, from, sizeof x);
      return __bfloat162float(x);
    }
    if (type_ == NumberType::kFp16) {
      __half x;
      std::memcpy(&x, from, sizeof x);
      return __half2float(x);
    }
    if (type_ == NumberType::kFp64) {
      double x;
      std::memcpy(&x, from, sizeof x);
      return x;
    }
    float x;
    std::memcpy(&x, from, sizeof x);
    return x;
  }
  Vector values() {
    Vector result(count());
    for (size_t i = 0; i < result.size(); ++i) result[i] = get(i);
    return result;
  }

 private:
  NumberType type_;
  Buffer<unsigned char> bytes_;
};

/// Whether the library that is linked is sanitized (library_variant.cpp); none is on a GPU.
#if defined(FUSEDML_EMULATION)
extern const bool kIsSanitized;
#else
constexpr bool kIsSanitized = false;
#endif

/// The number types that are compiled: all of them, or one of each size where what is looked for,
/// addresses and races, does not depend on more; and the measures, two of which share a kernel.
inline const std::vector<NumberType> kNumberTypes =
    kIsSanitized ? std::vector<NumberType>{NumberType::kFp16, NumberType::kFp32, NumberType::kFp64}
                 : std::vector<NumberType>{NumberType::kBf16, NumberType::kFp16, NumberType::kTf32,
                                           NumberType::kFp32, NumberType::kFp64};
inline const std::vector<Measure> kMeasures =
    kIsSanitized
        ? std::vector<Measure>{Measure::kDot, Measure::kEuclidean}
        : std::vector<Measure>{Measure::kDot, Measure::kEuclidean, Measure::kSquaredEuclidean};
inline const NumberType kSixteenBit = kNumberTypes[0];

/// Sanitized, which takes ten times as long, the type of 16 bits has both measures, and each of the
/// other types one of them.
inline bool is_tested(NumberType type, Measure measure) {
  return !kIsSanitized || type == kSixteenBit ||
         (type == NumberType::kFp64) == (measure == Measure::kDot);
}

/// Sanitized, what adds another layout to a kernel that the other cases run with every type is
/// shared out: the type of 16 bits and one other per turn, with a measure each; odd turns take the
/// rest.
inline bool is_in_turn(NumberType type, Measure measure, int turn) {
  if (!is_tested(type, measure) || !kIsSanitized) return is_tested(type, measure);
  const bool is_even = type == kSixteenBit ? measure == Measure::kDot : type == NumberType::kFp32;
  return is_even == (turn % 2 == 0);
}

/// Small problems get small tiles: a case that asks for none has large ones, which most are about.
template <class Options>
Options with_large_tiles(Options options) {
  if (options.tile_size == TileSize::kAuto) options.tile_size = TileSize::kLarge;
  return options;
}

/// The type of statistics and of other reals.
inline NumberType real_type(NumberType type) {
  return type == NumberType::kFp64 ? NumberType::kFp64 : NumberType::kFp32;
}

/// What a test asks for.
struct Case {
  NumberType type;
  Measure measure;
  int64_t n, m, d;  ///< m = 0 means a self problem
  int num_classes;
  bool sorted_labels = false, mined = false, has_extent = false;
  bool is_empty_references = false;  ///< a problem with references of which there are none
  double scale_of_negatives = 10;    ///< of their logits
  int set_words = 0;                 ///< of labels that are sets
  int64_t self_offset = -1;          ///< of an excluded diagonal of a problem with references

  int64_t words_per_row() const { return std::max(1, set_words); }
};

struct EmulatedProblem {
  Case test;
  DenseProblem dense;
  Stored anchors, references, thresholds;
  Buffer<int64_t> anchor_labels, reference_labels, extent;
  Problem problem{};

  EmulatedProblem(const Case& c, std::mt19937& generator)
      : test(c),
        anchors(c.type, c.n * c.d),
        references(c.type, c.m * c.d),
        thresholds(real_type(c.type), 2 * c.n),
        anchor_labels(c.n * c.words_per_row()),
        reference_labels(c.m * c.words_per_row()),
        extent(2) {
    dense.measure = c.measure;
    dense.is_self = c.m == 0 && !c.is_empty_references;
    dense.exclude_diagonal = dense.is_self || c.self_offset >= 0;
    dense.self_offset = problem.self_offset = std::max(int64_t(0), c.self_offset);
    dense.n = c.n;
    dense.m = dense.is_self ? c.n : c.m;
    dense.d = c.d;
    dense.set_words = problem.set_words = c.set_words;
    fill(generator, anchors, anchor_labels, c.n, dense.anchors, dense.anchor_labels);
    if (dense.is_self) {
      dense.references = dense.anchors;
      dense.reference_labels = dense.anchor_labels;
    } else {
      fill(generator, references, reference_labels, c.m, dense.references, dense.reference_labels);
    }
    dense.active_rows = extent[0] = c.has_extent ? c.n * 3 / 4 : c.n;
    dense.active_cols = extent[1] =
        dense.is_self ? dense.active_rows : (c.has_extent ? dense.m * 2 / 3 : dense.m);
    // rows beyond the extent may hold anything
    for (size_t e = size_t(dense.active_rows * c.d); e < anchors.count(); ++e)
      anchors.set(e, std::nan(""));
    for (size_t e = size_t(dense.active_cols * c.d); e < references.count(); ++e)
      references.set(e, std::nan(""));
    const bool is_dot = c.measure == Measure::kDot;
    const double sign = is_dot ? 1 : -1;
    const double logit[4] = {-2 * sign, 1, c.scale_of_negatives * sign, -3};
    for (int k = 0; k < 4; ++k) dense.logit[k] = problem.logit[k] = logit[k];
    if (c.mined) mine();
    problem.number_type = c.type;
    problem.measure = c.measure;
    problem.anchors = anchors.data();
    problem.is_self = dense.is_self;
    problem.references = dense.is_self ? nullptr : references.data();
    problem.anchor_labels = anchor_labels;
    problem.reference_labels = dense.is_self ? nullptr : static_cast<int64_t*>(reference_labels);
    problem.n = c.n;
    problem.m = c.m;
    problem.d = c.d;
    problem.exclude_diagonal = dense.exclude_diagonal;
    problem.thresholds = c.mined ? thresholds.data() : nullptr;
    problem.extent = c.has_extent ? static_cast<int64_t*>(extent) : nullptr;
  }

 private:
  /// Rows of norm about one; the labels skip some classes, and sets are of a few bits, the sign
  /// among them, or empty, so some rows have no positive.
  void fill(std::mt19937& generator, Stored& stored, Buffer<int64_t>& labels, int64_t rows,
            Vector& values, std::vector<int64_t>& dense_labels) {
    std::normal_distribution<double> normal(0, 1 / std::sqrt(double(test.d)));
    values.resize(rows * test.d);
    dense_labels.resize(rows * test.words_per_row());
    for (int64_t i = 0; i < rows * test.d; ++i) {
      stored.set(i, normal(generator));
      values[i] = stored.get(i);
    }
    for (int64_t& label : dense_labels) {
      label = int64_t(generator() % unsigned(test.num_classes)) - 1;
      label *= int64_t(1) << 33;  // labels are compared in 64 bits
    }
    if (test.set_words > 0) {
      const auto bit = [&] {
        return uint64_t(1) << (63 - generator() % unsigned(test.num_classes));
      };
      for (int64_t& word : dense_labels)
        word = generator() % unsigned(2 * test.set_words) == 0 ? int64_t(bit() | bit()) : 0;
    }
    if (test.sorted_labels) std::sort(dense_labels.begin(), dense_labels.end());
    std::copy(dense_labels.begin(), dense_labels.end(), labels.begin());
  }

  /// Thresholds in the widest gap near the middle of each row's hardnesses, so that rounding
  /// moves no pair across.
  void mine() {
    Vector rule(2 * dense.n, 0.0);
    for (int64_t i = 0; i < dense.n; ++i) {
      Vector y;
      for (int64_t j = 0; j < dense.m; ++j)
        if (dense.exists(i, j)) y.push_back(dense.hardness(dense.x(i, j)));
      std::sort(y.begin(), y.end());
      double middle = 0, gap = 0;
      for (size_t k = y.size() / 4; k + 1 < y.size() * 3 / 4 + 1 && k + 1 < y.size(); ++k)
        if (y[k + 1] - y[k] > gap) gap = y[k + 1] - y[k], middle = (y[k + 1] + y[k]) / 2;
      for (int side = 0; side < 2; ++side) {
        thresholds.set(side * dense.n + i, middle);
        rule[side * dense.n + i] = thresholds.get(side * dense.n + i);
      }
    }
    dense.thresholds = rule;
  }
};

/// Largest |actual - expected| relative to the largest |expected|, at least `floor`; infinities
/// and NaN have to match.
inline double relative_error(const Vector& actual, const Vector& expected, double floor = 1) {
  double largest = floor, error = 0;
  for (double e : expected)
    if (std::isfinite(e)) largest = std::max(largest, std::fabs(e));
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::isfinite(expected[i]) && std::isfinite(actual[i])) {
      error = std::max(error, std::fabs(actual[i] - expected[i]) / largest);
    } else {
      const bool is_same =
          std::isnan(expected[i]) ? std::isnan(actual[i]) : actual[i] == expected[i];
      if (!is_same) return kInfinity;
    }
  }
  return error;
}

/// Reports a failed comparison with everything that is needed to repeat it.
inline void expect_close(const char* what, const Case& c, const Vector& actual,
                         const Vector& expected, double allowed, double floor = 1) {
  const double error =
      actual.size() == expected.size() ? relative_error(actual, expected, floor) : kInfinity;
  ++(error <= allowed ? num_passed : num_failed);
  if (error <= allowed || num_failed > 20) return;
  std::printf("%s %s %s n=%ld m=%ld d=%ld classes=%d%s%s%s seed %lu: error %.3g, allowed %.3g\n",
              what, name_of(c.type), name_of(c.measure), long(c.n), long(c.m), long(c.d),
              c.num_classes,
              c.set_words          ? " sets"
              : c.sorted_labels    ? " sorted"
              : c.self_offset >= 0 ? " own"
                                   : "",
              c.mined ? " mined" : "", c.has_extent ? " extent" : "",
              (unsigned long)emulation::config.seed, error, allowed);
}

}  // namespace fusedml::testing
