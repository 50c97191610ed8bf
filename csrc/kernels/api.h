#pragma once
// The kernel library for C++ callers: no torch header, structs by value, the caller's memory and
// stream.  Every function only enqueues work on `stream`, allocates nothing, never waits for the
// device, and returns the first error of a launch.  The arguments are not checked here.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/threshold_terms.h"
#include "heads/pair_term.h"
#include "heads/positive_pair_head.h"
#include "heads/row_head.h"

// what a shared library of the kernels exports; the Python extension exports none of it
#pragma GCC visibility push(default)

namespace fusedml {

/// How embeddings are stored and multiplied.  Statistics and vectors of reals are float32, or
/// float64 for kFp64.
enum class NumberType {
  kBf16,
  kFp16,
  kTf32,  ///< float32 storage, TF32 products: torch's "high"
  kFp32,  ///< float32 storage and accuracy: torch's "highest"
  kFp64,
};

/// x_ij: the dot product s, or d or d^2 with d^2 = max(0, |a_i|^2 + |r_j|^2 - 2 s_ij).  The logits
/// are affine in these; in kAngularMargin and kCircle x_ij is s, and the logits are another curve
/// of it.  In the last two the references are several vectors of each class, and the logits affine
/// in max_k s_ik, or in sum_k p_k s_ik with p = softmax(sharpness s), over the vectors of a class.
enum class Measure {
  kDot,
  kEuclidean,
  kSquaredEuclidean,
  kAngularMargin,
  kCircle,
  kMaximum,
  kSoftMaximum,
};

constexpr bool is_distance(Measure measure) {
  return measure == Measure::kEuclidean || measure == Measure::kSquaredEuclidean;
}

/// Of those that a kernel for any measure computes.
constexpr bool is_of_any_measure(Measure measure) {
  return measure == Measure::kDot || is_distance(measure);
}

constexpr bool is_of_groups(Measure measure) { return measure >= Measure::kMaximum; }

/// All pairs of anchors [n, d] and references [m, d], both row-major and contiguous; or of anchors
/// and classes, of which pair_statistics and pair_gradient alone know: see `group_size`.
struct Problem {
  NumberType number_type;
  Measure measure;
  const void* anchors;              ///< [n, d]
  const void* references;           ///< [m, d]; unused in a self problem
  const int64_t* anchor_labels;     ///< [n], or [set_words, n]
  const int64_t* reference_labels;  ///< [m], or [set_words, m]; unused in a self problem
  int64_t n, m, d;                  ///< n, m >= 0, d >= 1; m is unused in a self problem
  bool is_self;                     ///< the references are the anchors
  bool exclude_diagonal;            ///< pairs (i, (i + self_offset) mod m) are ignored
  const double* device_logit;       ///< [4] on the device, or null: then `logit` holds
  double logit[4];                  ///< scale+, shift+, scale-, shift-
  const void* thresholds;           ///< [2, n] reals on the device, or null: no mining
  const int64_t* extent;            ///< [2] on the device, or null: all rows take part
  /// K, from 2 to 16, of a measure of groups: references [C, K, d], m = C K, are vectors of the
  /// classes 0 to C - 1, which the anchors' labels name; reference_labels are not read, and neither
  /// thresholds nor extent may be given.  Statistics and their gradients are [2, n]: lse_negative
  /// over the other classes, and the logit of the own one, 0 without it.
  int group_size;
  double sharpness;                ///< of kSoftMaximum
  const double* device_sharpness;  ///< one number on the device, or null: then `sharpness` holds
  bool labels_sorted;  ///< those of both sides ascend, as far as is known; results do not depend on
                       ///< it
  /// 0 where pairs of equal labels are positive; W where a label is a set of W words of 64 bits,
  /// and pairs of sets that have a bit in common are.  Not of groups.
  int set_words;
  int64_t self_offset;  ///< from 0 to m - 1; 0 in a self problem, and where n > m

  int64_t num_references() const { return is_self ? n : m; }
};

/// Outputs of a forward, on the device; a null pointer is not written.
struct StatisticsOutputs {
  void* statistics;  ///< [3, n] reals: lse_positive, lse_negative, sum_positive (groups: [2, n])
  int64_t* counts;   ///< [2, n]: num_positive, num_negative
  void* losses;      ///< [n] reals, L_i; needs a head
  void* partials;    ///< [3, n] reals, dL_i / d(statistics); written with the losses
};

/// Gradients on the device; a null pointer is not computed.
struct GradientOutputs {
  void* anchors;     ///< [n, d], as stored; in a self problem the whole gradient
  void* references;  ///< [m, d], as stored; null in a self problem
  double* logit;     ///< [4]
};

/// Tiles of pairs that a block computes at a time, where a kernel has two sizes: for the number
/// types of the tensor cores.
enum class TileSize {
  kAuto,   ///< small ones where large ones would leave most multiprocessors idle
  kLarge,  ///< 128 x 128
  kSmall,  ///< 64 x 64
};

/// Which instructions multiply, in pair_statistics and pair_gradient; the other operators have
/// kernels of mma.sync alone.
enum class Engine {
  kAuto,     ///< Hopper's where they can compute the problem and are expected to be faster
  kMmaSync,  ///< those of every GPU from sm_80 on
  kHopper,   ///< wgmma, fed by the copy unit; cudaErrorNotSupported where they cannot
};

/// kMmaSync or kHopper, and why it is not kHopper.
struct EngineChoice {
  Engine engine;
  const char* reason;  ///< null with kHopper
};

/// Why a device has no kernels of Hopper's instructions, or null.
const char* hopper_device_refusal(int device);

/// What pair_statistics takes for `wanted`, on the current device.
EngineChoice choose_engine(const Problem& problem, Engine wanted);
/// What pair_gradient takes.
EngineChoice choose_engine(const Problem& problem, const GradientOutputs& outputs, Engine wanted);

/// Choices that change neither the result's meaning nor its accuracy; for tests and benchmarks.
struct SweepOptions {
  int64_t max_slot_bytes = 0;  ///< of partial results; 0: 8 MB
  int64_t grid_blocks = 0;     ///< that fill the GPU; 0: 264
  TileSize tile_size = TileSize::kAuto;
  Engine engine = Engine::kAuto;
};

/// pair_statistics, and row_losses where `outputs.losses` is not null.
size_t pair_statistics_workspace(const Problem& problem, const SweepOptions& options = {});
cudaError_t pair_statistics(const Problem& problem, const RowHead& head,
                            const StatisticsOutputs& outputs, void* workspace, cudaStream_t stream,
                            const SweepOptions& options = {});

/// The statistics [3, n + m] and counts [2, n + m] of the rows and then of the columns of two
/// operands, neither mined nor of groups, without a head.
size_t two_sided_statistics_workspace(const Problem& problem, const SweepOptions& options = {});
cudaError_t two_sided_statistics(const Problem& problem, const StatisticsOutputs& outputs,
                                 void* workspace, cudaStream_t stream,
                                 const SweepOptions& options = {});

/// extrema [2, n] reals in hardness space (y = x, or -x for distances): the smallest y of the
/// positives (+inf without any) and the largest of the negatives (-inf without any).
size_t pair_extrema_workspace(const Problem& problem, const SweepOptions& options = {});
cudaError_t pair_extrema(const Problem& problem, void* extrema, void* workspace,
                         cudaStream_t stream, const SweepOptions& options = {});

/// Which pair of each kind is wanted of a row: positives first, then negatives.
struct ExtremePairs {
  bool is_largest[2];     ///< that of the largest measure x; else of the smallest
  const void* intervals;  ///< [2, 2, n] reals: low <= x <= high of each kind counts; null: all do
};

/// measures [2, n] reals and columns [2, n] of the extreme pairs, of equal ones that of the lowest
/// column; without any, -inf of the largest or +inf of the smallest, and -1.  A row that meets a
/// NaN has it.  The measure is kDot or a distance; no thresholds.
size_t extreme_pairs_workspace(const Problem& problem, const SweepOptions& options = {});
cudaError_t extreme_pairs(const Problem& problem, const ExtremePairs& wanted, void* measures,
                          int64_t* columns, void* workspace, cudaStream_t stream,
                          const SweepOptions& options = {});

/// Sums of terms over the pairs of each line, the rows and, with both_sides, then the columns of
/// two operands:
///   z = logit + shift of the line,   F_k = sum f_k(z),   D_k = sum f_k'(z),
///   C_k = number of z in f_k's interval,
/// over the pairs of f_k's kind.  The measure is kDot or a distance; no thresholds.
constexpr int kMostTermsOfKind = 2, kMostTerms = 2 * kMostTermsOfKind;
struct PairSums {
  PairTerm<double> terms[kMostTerms];
  bool is_positive[kMostTerms];  ///< the kind; of each at most kMostTermsOfKind
  int num_terms;
  bool both_sides;
  const void* shifts;  ///< [2, lines] reals, of positives and of negatives, or null: none

  bool has_columns(const Problem& problem) const { return both_sides && !problem.is_self; }
  int64_t num_lines(const Problem& problem) const {
    return problem.n + (has_columns(problem) ? problem.m : 0);
  }
};

struct PairSumsOutputs {
  void *sums, *slopes;  ///< F and D [terms, lines] reals; D null without shifts
  int64_t *counts,
      *numbers;  ///< C [terms, lines]; positives and negatives of each line, [2, lines]
};

size_t pair_sums_workspace(const Problem& problem, const PairSums& sums,
                           const SweepOptions& options = {});
cudaError_t pair_sums(const Problem& problem, const PairSums& sums, const PairSumsOutputs& outputs,
                      void* workspace, cudaStream_t stream, const SweepOptions& options = {});

/// A second matrix of the anchors' rows, whose products are computed beside those of a self problem
/// of kDot, without thresholds or extent.  Its logit is (scale, shift, second shift, equal):
///   x = scale (<a_i, a_j> + shift),   y = scale (<t_i, t_j> + second shift),
/// and both are scale equal for pairs of equal labels; anchor_labels may be null: none are.
struct SecondProduct {
  const void* rows;  ///< t, [n, d], as the anchors are stored
  int64_t d;
};

/// losses [n] reals:  KL = sum_j q_j (log q_j - log p_j),  p and q the softmax rows of x and of y;
/// log_sums [2, n] reals: the log-sum-exps of x and of y.
size_t row_divergences_workspace(const Problem& problem, const SecondProduct& second,
                                 const SweepOptions& options = {});
cudaError_t row_divergences(const Problem& problem, const SecondProduct& second, void* losses,
                            void* log_sums, void* workspace, cudaStream_t stream,
                            const SweepOptions& options = {});

enum class GradientRoute {
  kAuto,
  kRows,   ///< A: a block owns rows, the gradient stays in registers; d <= 128, not float64
  kPanel,  ///< B: a bounded panel of pair weights in memory, then a matrix product; any d
};

/// Choices that change neither the result's meaning nor its accuracy; for tests and benchmarks.
struct GradientOptions {
  GradientRoute route = GradientRoute::kAuto;
  int64_t max_panel_bytes = 0;  ///< 0: 32 MiB
  int64_t max_sum_bytes = 0;    ///< of the sums over panels; 0: what 64 MB leave
  int64_t max_slot_bytes = 0;   ///< of partial sums over positives; 0: 8 MB
  /// Of all of these; 0: the larger of 64 MB and 1.5 times the bytes of the embeddings.  Self
  /// problems use more than 64 MB to compute each weight once instead of twice.
  int64_t max_workspace_bytes = 0;
  TileSize tile_size = TileSize::kAuto;  ///< of route B
  Engine engine = Engine::kAuto;
};

/// Gradient of sum over i of statistics_grad . statistics.  `statistics` are those of the forward.
size_t pair_gradient_workspace(const Problem& problem, const GradientOutputs& outputs,
                               const GradientOptions& options = {});
cudaError_t pair_gradient(const Problem& problem, const void* statistics,
                          const void* statistics_grad, const GradientOutputs& outputs,
                          void* workspace, cudaStream_t stream,
                          const GradientOptions& options = {});

/// The same of two_sided_statistics, all [3, n + m].
size_t two_sided_gradient_workspace(const Problem& problem, const GradientOutputs& outputs,
                                    const GradientOptions& options = {});
cudaError_t two_sided_gradient(const Problem& problem, const void* statistics,
                               const void* statistics_grad, const GradientOutputs& outputs,
                               void* workspace, cudaStream_t stream,
                               const GradientOptions& options = {});

/// Gradient of sum over k and lines of sums_grad F, by route B.  slopes: D of the forward, and
/// shifts_grad [2, lines] reals, both null without shifts.
size_t pair_sums_gradient_workspace(const Problem& problem, const PairSums& sums,
                                    const GradientOutputs& outputs,
                                    const GradientOptions& options = {});
cudaError_t pair_sums_gradient(const Problem& problem, const PairSums& sums, const void* slopes,
                               const void* sums_grad, const GradientOutputs& outputs,
                               void* shifts_grad, void* workspace, cudaStream_t stream,
                               const GradientOptions& options = {});

/// Gradient of sum over i of losses_grad_i losses_i, by route B; outputs.references [n, d] is that
/// of the second matrix.
size_t row_divergences_gradient_workspace(const Problem& problem, const SecondProduct& second,
                                          const GradientOutputs& outputs,
                                          const GradientOptions& options = {});
cudaError_t row_divergences_gradient(const Problem& problem, const SecondProduct& second,
                                     const void* losses, const void* log_sums,
                                     const void* losses_grad, const GradientOutputs& outputs,
                                     void* workspace, cudaStream_t stream,
                                     const GradientOptions& options = {});

/// A loss with one term v(z_ip, lse_i, lse_p) per positive pair, lse_i being lse_negative of row i.
struct PositivePairs {
  PositivePairHead head;
  const void* reference_lse;  ///< [m] reals; null in a self problem, and for heads without lse_p
};

/// outputs.losses [n]: sum over p in P(i) of v(z_ip, lse_i, lse_p).  statistics must not be null;
/// partials are not written.
size_t positive_pair_losses_workspace(const Problem& problem, const SweepOptions& options = {});
cudaError_t positive_pair_losses(const Problem& problem, const PositivePairs& pairs,
                                 const StatisticsOutputs& outputs, void* workspace,
                                 cudaStream_t stream, const SweepOptions& options = {});

/// Gradient of sum over i of losses_grad_i losses_i, through both sweeps.
/// reference_lse_grad [m] reals, or null.
size_t positive_pair_gradient_workspace(const Problem& problem, const GradientOutputs& outputs,
                                        const GradientOptions& options = {});
cudaError_t positive_pair_gradient(const Problem& problem, const PositivePairs& pairs,
                                   const void* statistics, const void* losses_grad,
                                   const GradientOutputs& outputs, void* reference_lse_grad,
                                   void* workspace, cudaStream_t stream,
                                   const GradientOptions& options = {});

/// Thresholds of each row, against which its pairs are summed: of the logit and the rows'
/// thresholds of a problem nothing is read, and no extent may be given.
struct Thresholds {
  const void* values;  ///< [n, count] reals, ascending, padded with kAbsent; of pulses unused: a
                       ///< grid 0, 1, .., count - 1, count >= 2
  int64_t count;
  ThresholdTerms terms;
  /// [n, d], further embeddings of the rows, as the anchors are stored, or null.  With them y is
  /// the larger of what is measured from the one and from the other; the problem has two operands.
  const void* others = nullptr;
};

/// sums [3, n, count] reals, over the negatives of each row: of f(y - t), of f', and of 1 where a
/// pair counts (of a sigmoid u f').  Of pulses [2, n, count]: of f over the positives, and over the
/// negatives.
size_t threshold_sums_workspace(const Problem& problem, const Thresholds& thresholds,
                                const SweepOptions& options = {});
cudaError_t threshold_sums(const Problem& problem, const Thresholds& thresholds, void* sums,
                           void* workspace, cudaStream_t stream, const SweepOptions& options = {});

/// Gradient, but through the thresholds, of the sums of f weighted by sums_grad: [n] reals for each
/// row of hinges or softplus, [n, count] of sigmoids, [2, n, count] of pulses; of two embeddings of
/// a row as far as it is through the anchors: exchanged with the others they give the rest, of
/// equal measures each a half.  largest_weights [n] reals: of each row a bound of its |dL/dy|, near
/// enough for the scale of 16-bit floats.  By route B; outputs.logit must be null, and one of the
/// others not.
size_t threshold_gradient_workspace(const Problem& problem, const Thresholds& thresholds,
                                    const GradientOutputs& outputs,
                                    const GradientOptions& options = {});
cudaError_t threshold_gradient(const Problem& problem, const Thresholds& thresholds,
                               const void* sums_grad, const void* largest_weights,
                               const GradientOutputs& outputs, void* workspace, cudaStream_t stream,
                               const GradientOptions& options = {});

/// columns [n, count] of each row's thresholds [n, count] reals, ascending, padded with kAbsent: of
/// the negatives with y < t, in hardness space as pair_extrema, the one of the largest y, of equal
/// ones that of the lowest column; -1 without any.  None is a NaN.  The measure is kDot or a
/// distance; no thresholds of the problem's own, and no extent.
size_t threshold_pairs_workspace(const Problem& problem, int64_t count,
                                 const SweepOptions& options = {});
cudaError_t threshold_pairs(const Problem& problem, const void* thresholds, int64_t count,
                            int64_t* columns, void* workspace, cudaStream_t stream,
                            const SweepOptions& options = {});

/// The pairs (rows[k], columns[k]) instead of all pairs, of a problem of which only the embeddings
/// and the measure are read.  Arrays on the device; what an index out of range touches is NaN.
struct ListedPairs {
  const int64_t *rows, *columns;  ///< [count]; anchors and references
  int64_t count;
};

/// values [count] reals: x of each pair.
cudaError_t pair_values(const Problem& problem, const ListedPairs& pairs, void* values,
                        cudaStream_t stream);

/// The order in which the gradient is summed: that of the rows, or the columns, of listed pairs.
struct SortedPairs {
  const int64_t* keys;   ///< [count], the rows or columns, ascending
  const int64_t* order;  ///< [count], which pairs they belong to
};

/// Gradient of sum over k of values_grad_k values_k.  `by_column` is not read where a self
/// problem's or the references' gradient is not wanted; outputs.logit must be null.
size_t pair_values_gradient_workspace(const Problem& problem, const ListedPairs& pairs);
cudaError_t pair_values_gradient(const Problem& problem, const ListedPairs& pairs,
                                 const SortedPairs& by_row, const SortedPairs& by_column,
                                 const void* values_grad, const GradientOutputs& outputs,
                                 void* workspace, cudaStream_t stream);

/// The pairs of each row with low <= x + shift <= high, of positives and of negatives; none with a
/// NaN.  The measure is kDot or a distance; no thresholds.
struct PairWindows {
  static constexpr int64_t kUnit = 128;  ///< of the width: a multiple of the tiles' columns
  const void* values;                    ///< [2, 3, n] reals: low, high, shift of each kind
  int64_t width;                         ///< columns of a split, a multiple of kUnit

  /// Into which the columns are divided, so that few rows, too, fill the GPU.
  int64_t num_splits(const Problem& problem) const {
    return (problem.num_references() + width - 1) / width;
  }
};

/// counts [2, n, splits], of which positives come first.
size_t window_counts_workspace(const Problem& problem);
cudaError_t window_counts(const Problem& problem, const PairWindows& windows, int64_t* counts,
                          void* workspace, cudaStream_t stream);

/// What is listed: positives, then negatives, row by row, in the order of the columns.
struct WindowList {
  const int64_t* ends;      ///< [2, n, splits], the running sums of the counts
  int64_t size;             ///< the last of them: nothing is written behind it
  int64_t *rows, *columns;  ///< [size]
  void* measures;           ///< [size] reals, x, or null
};

size_t window_pairs_workspace(const Problem& problem);
cudaError_t window_pairs(const Problem& problem, const PairWindows& windows, const WindowList& list,
                         void* workspace, cudaStream_t stream);

/// Rows x [rows, d] to be divided by their norms.  A row of a norm below 1e-12 becomes 0, and so
/// does its gradient: its norm counts inf.
struct Normalization {
  NumberType number_type;  ///< of the unit rows
  bool is_float;           ///< x is float32; otherwise as the unit rows
  const void* x;           ///< [rows, d]
  const int64_t* order;    ///< [rows], or null: unit row k is that of x's row order[k]
  const int64_t* places;   ///< [rows], or null: the inverse of order, for the gradient
  int64_t rows, d;
};

/// unit_rows [rows, d]; norms [rows] reals, in their order.
cudaError_t normalize_rows(const Normalization& given, void* unit_rows, void* norms,
                           cudaStream_t stream);

/// x_grad [rows, d], as x, from unit_grad [rows, d], as the unit rows.
cudaError_t normalize_rows_gradient(const Normalization& given, const void* norms,
                                    const void* unit_grad, void* x_grad, cudaStream_t stream);

}  // namespace fusedml

#pragma GCC visibility pop
