// Copies of boxes by the tensor memory unit.  The destination is poison from the issue on, and what
// lands is placed by the 128-byte swizzle.
#include <numeric>

#include "emulation/engine.h"
#include "emulation/sanitizer.h"

namespace fusedml::emulation {
namespace {

constexpr uint32_t kPieceBytes = 16, kPieceElements = 8;

void land_piece(Block& block, const BoxCopy& copy, uint32_t piece) {
  const uint32_t box_row = piece / 8, box_col = piece % 8 * kPieceElements;
  const int64_t row = copy.row + box_row;
  uint16_t values[kPieceElements];
  for (uint32_t i = 0; i < kPieceElements; ++i) {
    const int64_t col = copy.col + box_col + i;
    values[i] = 0;
    if (row < 0 || row >= int64_t(copy.map.rows) || col < 0 || col >= int64_t(copy.map.cols)) {
      continue;
    }
    const char* source = static_cast<const char*>(copy.map.data) +
                         uint64_t(row) * copy.map.row_bytes + uint64_t(col) * sizeof(uint16_t);
    if (sanitizer::first_forbidden(source, sizeof(uint16_t)) != nullptr) {
      fault("box issued at %s:%d: element (%lld, %lld) is invalid memory", copy.site.file,
            copy.site.line, static_cast<long long>(row), static_cast<long long>(col));
    }
    raw_copy(&values[i], source, sizeof(uint16_t));
  }
  const uint32_t address = copy.destination + box_row * kRowBytes + piece % 8 * kPieceBytes;
  raw_copy(block.arena + swizzled(address), values, sizeof(values));
}

/// Lands up to `pieces` of the copy; the last one completes the whole box.
void land(Block& block, size_t index, uint32_t pieces) {
  BoxCopy& copy = block.units.copies[index];
  for (; pieces > 0 && copy.landed < copy.pieces(); --pieces) {
    land_piece(block, copy, (copy.first_piece + copy.landed * copy.stride) % copy.pieces());
    ++copy.landed;
  }
  if (copy.landed < copy.pieces()) return;
  const uint32_t barrier = copy.barrier;
  const int64_t bytes = int64_t(copy.pieces()) * kPieceBytes;
  block.units.copies.remove(index);
  complete_bytes(block, barrier, bytes);
}

/// A step that visits all pieces.
uint32_t random_stride(uint32_t pieces) {
  uint32_t stride = uint32_t(random_bits() % pieces) | 1;
  while (std::gcd(stride, pieces) != 1) stride += 2;
  return stride;
}

void check_issue(Block& block, const BoxCopy& copy) {
  const Site site = copy.site;
  if (copy.map.magic != TensorMapTwin::kMagic) {
    fault("box at %s:%d: the map is none of make_tensor_map", site.file, site.line);
  }
  published_barrier(block, copy.barrier, "box", site);
  checked_shared(copy.destination, copy.map.box_rows * kRowBytes, kAtomBytes, "box");
  Site reader;
  if (is_read_by_wgmma(block, copy.range(), &reader)) {
    fault("box at %s:%d: [%u, %u) is still read by the wgmma of %s:%d", site.file, site.line,
          copy.range().begin, copy.range().end, reader.file, reader.line);
  }
  for (const BoxCopy& other : block.units.copies) {
    if (!overlap(other.range(), copy.range())) continue;
    fault("box at %s:%d: the one of %s:%d has not landed there yet", site.file, site.line,
          other.site.file, other.site.line);
  }
}

}  // namespace

void copy_box(uint32_t destination, const void* map, uint32_t barrier, int row, int col,
              Site site) {
  Block& block = *engine.running->warp->block;
  BoxCopy copy{{}, destination, barrier, row, col, 0, 1, 0, site};
  raw_copy(&copy.map, map, sizeof(copy.map));
  check_issue(block, copy);
  ++counters.boxes;
  if (config.seed != 0) {
    copy.first_piece = uint32_t(random_bits() % copy.pieces());
    copy.stride = random_stride(copy.pieces());
  }
  char* target = block.arena + destination;
  const size_t bytes = copy.range().end - copy.range().begin;
  // To the race detector the issuing thread writes, and the barrier's waiters come after it.
  sanitizer::note_write(target, bytes);
  const MemoryBarrier& announced = published_barrier(block, barrier, "box", site);
  sanitizer::release(token_of(block, barrier, announced.phases));
  raw_poison(target, bytes);
  block.units.copies.push_back(copy);
  if (config.async_timing == AsyncTiming::kEarly) {
    land(block, block.units.copies.size() - 1, copy.pieces());
  }
  let_units_work(block);
}

bool land_any_box() {
  const size_t count = engine.warps.size();
  const size_t start = config.seed != 0 && count != 0 ? random_bits() % count : 0;
  for (size_t i = 0; i < count; ++i) {
    Block& block = *engine.warps[(start + i) % count]->block;
    const size_t copies = block.units.copies.size();
    if (copies == 0) continue;
    const size_t index = config.seed != 0 ? random_bits() % copies : 0;
    land(block, index, block.units.copies[index].pieces());
    return true;
  }
  return false;
}

void land_some_pieces(Block& block) {
  const size_t copies = block.units.copies.size();
  if (copies == 0) return;
  const size_t index = random_bits() % copies;
  land(block, index, uint32_t(random_bits() % (2 * block.units.copies[index].pieces())));
}

}  // namespace fusedml::emulation
