// Sees the plain accesses of kernels.  The compiler's -fsanitize=thread puts a call before each
// access; linked without ThreadSanitizer's library, these calls come here.  Accesses to shared
// memory are recorded for bank_conflicts.cpp, all others are ignored.
#include <atomic>

#include "emulation/engine.h"

namespace fusedml::emulation {
namespace {

void note(SharedAccess::Kind kind, const void* pointer, size_t bytes, const void* code) {
  if (engine.running == nullptr || engine.running == &engine.launcher) return;
  const ptrdiff_t offset = static_cast<const char*>(pointer) - engine.running->warp->block->arena;
  if (offset < 0 || offset >= ptrdiff_t(kArenaBytes)) return;
  record_access({kind, {}, code, uint32_t(offset), int(bytes)});
}

}  // namespace
}  // namespace fusedml::emulation

#define FUSEDML_CODE __builtin_return_address(0)
#define FUSEDML_HOOKS(bytes)                                                                    \
  void __tsan_read##bytes(void* p) {                                                            \
    fusedml::emulation::note(fusedml::emulation::SharedAccess::kLoad, p, bytes, FUSEDML_CODE);  \
  }                                                                                             \
  void __tsan_write##bytes(void* p) {                                                           \
    fusedml::emulation::note(fusedml::emulation::SharedAccess::kStore, p, bytes, FUSEDML_CODE); \
  }                                                                                             \
  void __tsan_unaligned_read##bytes(void* p) {                                                  \
    fusedml::emulation::note(fusedml::emulation::SharedAccess::kLoad, p, bytes, FUSEDML_CODE);  \
  }                                                                                             \
  void __tsan_unaligned_write##bytes(void* p) {                                                 \
    fusedml::emulation::note(fusedml::emulation::SharedAccess::kStore, p, bytes, FUSEDML_CODE); \
  }                                                                                             \
  void __tsan_volatile_read##bytes(void* p) {                                                   \
    fusedml::emulation::note(fusedml::emulation::SharedAccess::kLoad, p, bytes, FUSEDML_CODE);  \
  }                                                                                             \
  void __tsan_volatile_write##bytes(void* p) {                                                  \
    fusedml::emulation::note(fusedml::emulation::SharedAccess::kStore, p, bytes, FUSEDML_CODE); \
  }

// Atomics become calls too; they are not traced, only carried out.
#define FUSEDML_ATOMICS(bits, Type)                                                               \
  Type __tsan_atomic##bits##_load(const volatile Type* p, int) {                                  \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                  \
  }                                                                                               \
  void __tsan_atomic##bits##_store(volatile Type* p, Type value, int) {                           \
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST);                                                 \
  }                                                                                               \
  Type __tsan_atomic##bits##_fetch_add(volatile Type* p, Type value, int) {                       \
    return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);                                        \
  }                                                                                               \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile Type* p, Type* expected, Type value, \
                                                    int, int) {                                   \
    return __atomic_compare_exchange_n(p, expected, value, false, __ATOMIC_SEQ_CST,               \
                                       __ATOMIC_SEQ_CST);                                         \
  }                                                                                               \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile Type* p, Type* expected, Type value,   \
                                                  int, int) {                                     \
    return __tsan_atomic##bits##_compare_exchange_strong(p, expected, value, 0, 0);               \
  }

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* p, unsigned long bytes) {
  fusedml::emulation::note(fusedml::emulation::SharedAccess::kLoad, p, bytes, FUSEDML_CODE);
}
void __tsan_write_range(void* p, unsigned long bytes) {
  fusedml::emulation::note(fusedml::emulation::SharedAccess::kStore, p, bytes, FUSEDML_CODE);
}
FUSEDML_HOOKS(1)
FUSEDML_HOOKS(2)
FUSEDML_HOOKS(4)
FUSEDML_HOOKS(8)
FUSEDML_HOOKS(16)
FUSEDML_ATOMICS(8, unsigned char)
FUSEDML_ATOMICS(16, unsigned short)
FUSEDML_ATOMICS(32, unsigned)
FUSEDML_ATOMICS(64, unsigned long)
}
