// ldmatrix and mma: data movement and arithmetic of a full warp.  The fragment layouts are those of
// the PTX ISA, quoted in core/primitives.cuh.
#include <cmath>
#include <cstring>

#include "emulation/engine.h"
#include "emulation/sanitizer.h"
#include "emulation/tensor_core_numbers.h"

namespace fusedml::emulation {
namespace {

float tf32_to_float(uint32_t bits) {
  constexpr uint32_t kIgnoredBits = 0x1fff;
  const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
  if (config.strict_tf32 && (bits & kIgnoredBits) != 0 && !is_nan) {
    fault("mma.tf32 operand %08x has non-zero low bits: to_tf32 is missing", bits);
  }
  return from_bits(bits & ~kIgnoredBits);
}

/// C += A B for A [16, kDepth], B [kDepth, 8]; products of the operand types are exact in double.
template <int kDepth>
struct Tile {
  alignas(64) double a[16][kDepth];
  alignas(64) double b[kDepth][8];
  float c[16][8];

  __attribute__((optimize("O3"))) void multiply() {
    const bool truncates = config.mma_rounding == MmaRounding::kTruncate;
    const int step = truncates ? 8 : kDepth;
    for (int begin = 0; begin < kDepth; begin += step) {
      for (int i = 0; i < 16; ++i) {
        double sum[8];
        for (int j = 0; j < 8; ++j) sum[j] = c[i][j];
        for (int k = begin; k < begin + step; ++k) {
          for (int j = 0; j < 8; ++j) sum[j] += a[i][k] * b[k][j];
        }
        for (int j = 0; j < 8; ++j) c[i][j] = truncates ? truncate(sum[j]) : float(sum[j]);
      }
    }
  }
};

template <class ToFloat>
void gather_16_bit(const Rendezvous& rendezvous, Tile<16>& tile, ToFloat to_float) {
  for (int lane = 0; lane < 32; ++lane) {
    const uint32_t* a = rendezvous.operands[lane].input;
    const uint32_t* b = a + 4;
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; ++r) {
      double* pair = &tile.a[g + 8 * (r % 2)][2 * t + 8 * (r / 2)];
      pair[0] = to_float(a[r] & 0xffff);
      pair[1] = to_float(a[r] >> 16);
    }
    for (int r = 0; r < 2; ++r) {
      tile.b[2 * t + 8 * r][g] = to_float(b[r] & 0xffff);
      tile.b[2 * t + 8 * r + 1][g] = to_float(b[r] >> 16);
    }
  }
}

void gather_tf32(const Rendezvous& rendezvous, Tile<8>& tile) {
  for (int lane = 0; lane < 32; ++lane) {
    const uint32_t* a = rendezvous.operands[lane].input;
    const uint32_t* b = a + 4;
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; ++r) tile.a[g + 8 * (r % 2)][t + 4 * (r / 2)] = tf32_to_float(a[r]);
    for (int r = 0; r < 2; ++r) tile.b[t + 4 * r][g] = tf32_to_float(b[r]);
  }
}

/// Takes the accumulator from the lanes, multiplies and gives it back.
template <int kDepth>
void accumulate(Rendezvous& rendezvous, Tile<kDepth>& tile) {
  const auto element = [&](int lane, int r) -> float& {
    return tile.c[lane / 4 + 8 * (r / 2)][2 * (lane % 4) + r % 2];
  };
  for (int lane = 0; lane < 32; ++lane) {
    for (int r = 0; r < 4; ++r)
      element(lane, r) = from_bits(rendezvous.operands[lane].input[6 + r]);
  }
  tile.multiply();
  for (int lane = 0; lane < 32; ++lane) {
    for (int r = 0; r < 4; ++r) {
      std::memcpy(&rendezvous.operands[lane].output[r], &element(lane, r), sizeof(float));
    }
  }
}

/// A [8, 4], B [4, 8], C [8, 8]: one fused multiply-add after the other, in order of k.
void execute_mma_f64(Rendezvous& rendezvous) {
  double a[8][4], b[4][8];
  for (int lane = 0; lane < 32; ++lane) {
    double operands[2];
    std::memcpy(operands, rendezvous.operands[lane].input, sizeof(operands));
    a[lane / 4][lane % 4] = operands[0];
    b[lane % 4][lane / 4] = operands[1];
  }
  for (int lane = 0; lane < 32; ++lane) {
    double c[2];
    std::memcpy(c, rendezvous.operands[lane].input + 4, sizeof(c));
    for (int r = 0; r < 2; ++r) {
      for (int k = 0; k < 4; ++k) {
        c[r] = std::fma(a[lane / 4][k], b[k][2 * (lane % 4) + r], c[r]);
      }
    }
    std::memcpy(rendezvous.operands[lane].output, c, sizeof(c));
  }
}

}  // namespace

void execute_mma(Rendezvous& rendezvous) {
  ++counters.mma;
  if (rendezvous.operation == Collective::kMmaF64) {
    execute_mma_f64(rendezvous);
  } else if (rendezvous.operation == Collective::kMmaTf32) {
    Tile<8> tile;
    gather_tf32(rendezvous, tile);
    accumulate(rendezvous, tile);
  } else {
    Tile<16> tile;
    if (rendezvous.operation == Collective::kMmaBf16) {
      gather_16_bit(rendezvous, tile, [](uint32_t bits) { return bf16_to_float(bits); });
    } else {
      gather_16_bit(rendezvous, tile, [](uint32_t bits) { return f16_to_float(bits); });
    }
    accumulate(rendezvous, tile);
  }
}

void execute_ldmatrix(Rendezvous& rendezvous) {
  ++counters.ldmatrix;
  record_ldmatrix(rendezvous);
  const bool transposed = rendezvous.operation == Collective::kLdmatrixTransposed;
  const auto element = [&](int matrix, int row, int col) {
    uint16_t value;
    const auto* bytes = reinterpret_cast<const char*>(rendezvous.operands[8 * matrix + row].input);
    std::memcpy(&value, bytes + 2 * col, sizeof(value));
    return uint32_t(value);
  };
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    const LaneOperands& own = rendezvous.operands[lane];
    for (int matrix = 0; matrix < own.words; ++matrix) {
      own.output[matrix] = transposed
                               ? element(matrix, 2 * t, g) | element(matrix, 2 * t + 1, g) << 16
                               : element(matrix, g, 2 * t) | element(matrix, g, 2 * t + 1) << 16;
    }
  }
}

void ldmatrix(uint32_t* fragment, int matrices, uint32_t row_address, bool transposed, Site site) {
  alignas(16) uint32_t row[4] = {};
  const bool gives_a_row = int(engine.running->context.lane) < 8 * matrices;
  if (gives_a_row) {
    const char* source = checked_shared(row_address, sizeof(row), 16, "ldmatrix");
    sanitizer::note_read(source, sizeof(row));
    raw_copy(row, source, sizeof(row));
  }
  collective(transposed ? Collective::kLdmatrixTransposed : Collective::kLdmatrix, ~0u,
             {row, fragment, matrices, row_address}, site);
}

void mma(Collective operation, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
         Site site) {
  uint32_t input[10], output[4];
  std::memcpy(input, a, sizeof(a));
  std::memcpy(input + 4, b, sizeof(b));
  std::memcpy(input + 6, c, sizeof(c));
  collective(operation, ~0u, {input, output, 4}, site);
  std::memcpy(c, output, sizeof(c));
}

void mma_f64(double (&c)[2], double a, double b, Site site) {
  uint32_t input[8], output[4];
  std::memcpy(input, &a, sizeof(a));
  std::memcpy(input + 2, &b, sizeof(b));
  std::memcpy(input + 4, c, sizeof(c));
  collective(Collective::kMmaF64, ~0u, {input, output, 4}, site);
  std::memcpy(c, output, sizeof(c));
}

}  // namespace fusedml::emulation
