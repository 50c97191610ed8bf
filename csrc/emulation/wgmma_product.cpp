// The operands of wgmma in shared memory, and the product of one warp's 16 rows.
#include <cstring>

#include "emulation/engine.h"
#include "emulation/tensor_core_numbers.h"

namespace fusedml::emulation {
namespace {

constexpr int kWarpLines = 16, kDepth = 16;

// --- descriptors (PTX ISA 9.7.15.5.1.2.2) ---

struct Descriptor {
  uint32_t start, leading_bytes, stride_bytes, base_offset, swizzle;
  bool has_reserved_bits;
};

Descriptor decode(uint64_t bits) {
  const auto field = [&](int begin, int count) {
    return uint32_t(bits >> begin & ((uint64_t(1) << count) - 1));
  };
  constexpr uint64_t kReserved =
      (uint64_t(3) << 14) | (uint64_t(3) << 30) | (uint64_t(7) << 46) | (uint64_t(0x3ff) << 52);
  return {field(0, 14) << 4, field(16, 14) << 4, field(32, 14) << 4,
          field(49, 3),      field(62, 2),       (bits & kReserved) != 0};
}

/// Address of element (line, k); `by_lines`: 128-byte rows run along the lines.
uint32_t element_address(const Descriptor& from, int line, int k, bool by_lines) {
  const uint32_t l = uint32_t(line), depth = uint32_t(k);
  const uint32_t plain =
      by_lines ? from.start + l / 64 * from.leading_bytes + l % 64 * 2 +
                     depth / 8 * from.stride_bytes + depth % 8 * kRowBytes
               : from.start + l / 8 * from.stride_bytes + l % 8 * kRowBytes + depth * 2;
  return swizzled(plain);
}

}  // namespace

SharedRange checked_operand(const Block& block, uint64_t bits, int lines, bool by_lines,
                            Site site) {
  const Descriptor from = decode(bits);
  if (from.swizzle != 1 || from.base_offset != 0 || from.has_reserved_bits) {
    fault(
        "wgmma at %s:%d: descriptor %016llx: needs the 128-byte swizzle, base offset 0 and no "
        "reserved bits",
        site.file, site.line, static_cast<unsigned long long>(bits));
  }
  if (from.stride_bytes == 0 || from.stride_bytes % kAtomBytes != 0) {
    fault("wgmma at %s:%d: stride of %u bytes, needs a multiple of %u", site.file, site.line,
          from.stride_bytes, kAtomBytes);
  }
  const uint32_t within = from.start % kAtomBytes;
  if (by_lines ? within != 0 : within >= kRowBytes) {
    fault("wgmma at %s:%d: operand at %u, which is not in the first row of an atom of %u bytes",
          site.file, site.line, from.start, kAtomBytes);
  }
  const uint32_t begin = from.start - within;
  const uint32_t last = by_lines ? uint32_t(lines / 64 - 1) * from.leading_bytes + from.stride_bytes
                                 : uint32_t(lines / 8 - 1) * from.stride_bytes;
  const SharedRange range{begin, begin + last + kAtomBytes};
  checked_shared(range.begin, range.end - range.begin, 16, "wgmma");
  for (const BoxCopy& copy : block.units.copies) {
    if (!overlap(copy.range(), range)) continue;
    fault("wgmma at %s:%d: the box of %s:%d has not landed in its operand yet", site.file,
          site.line, copy.site.file, copy.site.line);
  }
  for (const ProxyStore& store : block.units.stores) {
    if (store.is_fenced || !overlap(store.range, range)) continue;
    fault("wgmma at %s:%d: its operand was stored without fence_proxy_async by the same thread",
          site.file, site.line);
  }
  return range;
}

namespace {

double number_at(const Block& block, uint32_t address, bool is_fp16) {
  uint16_t bits;
  std::memcpy(&bits, block.arena + address, sizeof(bits));
  return is_fp16 ? f16_to_float(bits) : bf16_to_float(bits);
}

void gather_a(const Block& block, const WgmmaInFlight& product, int first_line,
              double (&a)[kWarpLines][kDepth]) {
  const Wgmma& operation = product.operation;
  const auto number = [&](uint32_t half) {
    return operation.is_fp16 ? f16_to_float(half) : bf16_to_float(half);
  };
  if (operation.registers != nullptr) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int r = 0; r < 4; ++r) {
        const uint32_t bits = product.register_values[lane][r];
        double* pair = &a[lane / 4 + 8 * (r % 2)][2 * (lane % 4) + 8 * (r / 2)];
        pair[0] = number(bits & 0xffff);
        pair[1] = number(bits >> 16);
      }
    }
    return;
  }
  const Descriptor from = decode(operation.a);
  for (int line = 0; line < kWarpLines; ++line) {
    for (int k = 0; k < kDepth; ++k) {
      const uint32_t address = element_address(from, first_line + line, k, operation.transposes_a);
      a[line][k] = number_at(block, address, operation.is_fp16);
    }
  }
}

__attribute__((optimize("O3"))) void multiply(const double (&a)[kWarpLines][kDepth],
                                              const double (&b)[kDepth][256], Accumulators& sums,
                                              bool adds) {
  const int cols = 2 * sums.num_sums;
  const bool truncates = config.mma_rounding == MmaRounding::kTruncate;
  const int step = truncates ? 8 : kDepth;
  for (int row = 0; row < kWarpLines; ++row) {
    double total[256];
    for (int begin = 0; begin < kDepth; begin += step) {
      for (int j = 0; j < cols; ++j) total[j] = adds || begin > 0 ? sums.tile[row][j] : 0;
      for (int k = begin; k < begin + step; ++k) {
        for (int j = 0; j < cols; ++j) total[j] += a[row][k] * b[k][j];
      }
      for (int j = 0; j < cols; ++j) {
        sums.tile[row][j] = truncates ? truncate(total[j]) : float(total[j]);
      }
    }
  }
}

}  // namespace

void perform(const Warp& warp, WgmmaInFlight& product) {
  const Block& block = *warp.block;
  const int warp_of_group = int(&warp - block.warps.data()) % 4;
  alignas(64) double a[kWarpLines][kDepth], b[kDepth][256];
  gather_a(block, product, kWarpLines * warp_of_group, a);
  const Descriptor from = decode(product.operation.b);
  for (int col = 0; col < 2 * product.operation.num_sums; ++col) {
    for (int k = 0; k < kDepth; ++k) {
      const uint32_t address = element_address(from, col, k, product.operation.transposes_b);
      b[k][col] = number_at(block, address, product.operation.is_fp16);
    }
  }
  multiply(a, b, *product.accumulators, product.operation.adds);
  product.is_done = true;
}

}  // namespace fusedml::emulation
