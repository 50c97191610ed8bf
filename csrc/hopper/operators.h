#pragma once
// What starts the kernels of this folder, for the plans in kernels/.  Defined by bf16.cu and
// fp16.cu for sm_90a, and for the emulator.
#include "core/pair.h"
#include "core/plain_squares.h"
#include "core/row_statistics.h"
#include "hopper/product_tile.h"
#include "kernels/gradient_rows_block.cuh"
#include "kernels/gradient_sums.cuh"
#include "kernels/pair_weights.cuh"
#include "kernels/statistics.cuh"
#include "kernels/sweep_plan.h"

namespace fusedml {

/// Squares of the forward sweep and of panels of weights, and of route A: 256 and 128 lines.
constexpr int kPanelSquareBits = 8, kRowsSquareBits = 7;
constexpr int kMostHopperRowsDims = 128;  ///< of route A

struct HopperSweepArguments {
  SweepPlan plan;  ///< in squares
  LogitParameters logit;
  PlainSquares squares;
  int dim;
  RowStatistics<float>* partials;  ///< [plan.num_slots, slot_rows]
  int64_t slot_rows;               ///< from row plan.first_row_tile * squares.side() on
};

/// Of a plain pair, with dL/ds_ij from both rows:
///   h_ij = scale (g_i exp(z_ij - lse_i) + g_j exp(z_ij - lse_j)) = exp(scale s_ij) (u_i + u_j),
///   u_i = g_i scale exp(shift - lse_i)  (0 where lse_i = -inf),
/// one exponential for a pair.  exp(z_ij) is a part of either sum, so that no product exceeds
/// g scale, and in plain tiles exp(scale s) stays within 2^+-100.
struct FactorArguments {
  int64_t rows;
  const float* lse;           ///< [rows], lse_negative; null: the rows own no loss, u = 0
  const float* lse_grad;      ///< [rows], g
  const float* weight_scale;  ///< one number, by which all weights are multiplied, or null: 1
  LogitParameters logit;
  float* factors;  ///< [rows], u
};

template <class Number>
struct HopperWeightsArguments {
  LogitParameters logit;
  PlainSquares squares;
  const float *row_factors, *col_factors;  ///< u; col_factors null: the columns own no loss
  int64_t row_begin, col_begin;            ///< of the panel, multiples of squares.side()
  int64_t rows, cols;                      ///< of it: whole squares, or up to the problem's end
  int64_t pitch;                           ///< of its lines, at least cols
  int dim;
  typename Number::PanelElement* panel;  ///< [rows, pitch]
};

template <class Number>
struct HopperProductArguments {
  int64_t rows, cols;            ///< of the panel
  int64_t row_begin, col_begin;  ///< of the gradient, that the panel's first row and column feed
  ProductTurn of_rows;           ///< gradient of the rows += panel x embeddings of the columns
  ProductTurn of_cols;           ///< gradient of the columns += panel^T x embeddings of the rows
  bool feeds_rows, feeds_cols;
  const float* weight_scale;  ///< one number, or null: 1
  GradientSums<Number> sums;
};

/// anchors, references: all embeddings of the rows' and the columns' side; those of the panel begin
/// at row_begin and col_begin.
template <class Number>
struct HopperProductOperands {
  using Element = typename Number::Element;
  const Element* weights;  ///< [rows, pitch] of the panel; zero or finite beyond its columns
  int64_t pitch;           ///< a multiple of 8
  const Element *anchors, *references;
};

template <class Number>
struct HopperRowsArguments {
  LogitParameters logit;
  PlainSquares squares;
  const float *row_factors, *col_factors;  ///< u; col_factors null: the columns own no loss
  ProductTurn turn;
  const float* weight_scale;  ///< one number, or null: 1
  GradientSums<Number> sums;  ///< of the rows
};

/// All return cudaErrorInvalidValue unless the dimension is a multiple of 8 and all operands are
/// aligned to 16 bytes.
template <class Number>
struct HopperOperators {
  /// ranges: [num_squares(rows, side_bits)].
  static cudaError_t row_ranges(const PairSide<Number>& side, int side_bits, RowRange* ranges,
                                cudaStream_t stream);
  /// One launch of the plan, of squares of kPanelSquareBits.
  static cudaError_t sweep(const PairProblem<Number>& problem,
                           const HopperSweepArguments& arguments, cudaStream_t stream);
  static cudaError_t weight_factors(const FactorArguments& arguments, cudaStream_t stream);
  /// The plain squares of a panel; nothing is written to the others.
  static cudaError_t weights(const PairProblem<Number>& problem,
                             const HopperWeightsArguments<Number>& arguments, cudaStream_t stream);
  /// Adds panel x references to the rows' gradient, and panel^T x anchors to the columns', as
  /// `arguments` says.
  static cudaError_t product(const HopperProductArguments<Number>& arguments,
                             const HopperProductOperands<Number>& operands, cudaStream_t stream);
  /// Adds the gradient of the rows by all pairs in plain squares of kRowsSquareBits to their sums;
  /// at most kMostHopperRowsDims dimensions.
  static cudaError_t rows(const PairProblem<Number>& problem,
                          const HopperRowsArguments<Number>& arguments, cudaStream_t stream);

  // Kernels of mma.sync for all that lies in no plain square (special_host.cuh):

  static cudaError_t special_sweep(
      const SweepArguments<Number, StatisticsReduction<Number>>& arguments, cudaStream_t stream);
  /// Writes every tile of the panel that is not plain, also what lies behind the last pair.
  static cudaError_t special_weights(const PairWeightsArguments<Number, WeightSource>& arguments,
                                     cudaStream_t stream);
  /// Adds to the rows' sums, as `arguments.turn` says.
  static cudaError_t special_rows(const GradientRowsArguments<Number>& arguments,
                                  cudaStream_t stream);
};

}  // namespace fusedml
