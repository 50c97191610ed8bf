#pragma once
// What the engine tells AddressSanitizer and ThreadSanitizer.  The engine itself is never
// instrumented; FUSEDML_EMULATION_ASAN / _TSAN say how the kernels that it is linked with are.
#include <cstddef>

#if defined(FUSEDML_EMULATION_ASAN)
extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
void __asan_poison_memory_region(const volatile void* begin, size_t bytes);
void __asan_unpoison_memory_region(const volatile void* begin, size_t bytes);
void* __asan_region_is_poisoned(void* begin, size_t bytes);
}
#endif
#if defined(FUSEDML_EMULATION_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* token);
void __tsan_release(void* token);
void __tsan_read_range(void* begin, unsigned long bytes);
void __tsan_write_range(void* begin, unsigned long bytes);
}
#endif

namespace fusedml::emulation::sanitizer {

// --- AddressSanitizer: which bytes may be touched ---
#if defined(FUSEDML_EMULATION_ASAN)
inline void forbid(const void* begin, size_t bytes) { __asan_poison_memory_region(begin, bytes); }
inline void permit(const void* begin, size_t bytes) { __asan_unpoison_memory_region(begin, bytes); }
/// The first byte that may not be touched, or nullptr.
inline const void* first_forbidden(const void* begin, size_t bytes) {
  return bytes == 0 ? nullptr : __asan_region_is_poisoned(const_cast<void*>(begin), bytes);
}
#else
inline void forbid(const void*, size_t) {}
inline void permit(const void*, size_t) {}
inline const void* first_forbidden(const void*, size_t) { return nullptr; }
#endif

// --- ThreadSanitizer: who orders what, and accesses made on a kernel's behalf ---
#if defined(FUSEDML_EMULATION_TSAN)
inline void acquire(char* token) { __tsan_acquire(token); }
inline void release(char* token) { __tsan_release(token); }
inline void note_read(const void* begin, size_t bytes) {
  if (bytes != 0) __tsan_read_range(const_cast<void*>(begin), bytes);
}
inline void note_write(void* begin, size_t bytes) {
  if (bytes != 0) __tsan_write_range(begin, bytes);
}
/// Who reads on a warp's behalf, beside its lanes: a thread of its own to the race detector.
class Agent {
 public:
  template <class Work>
  void run(Work work) {
    constexpr unsigned kNoSynchronisation = 1;
    if (fiber_ == nullptr) fiber_ = __tsan_create_fiber(0);
    void* const running = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(fiber_, kNoSynchronisation);
    work();
    __tsan_switch_to_fiber(running, kNoSynchronisation);
  }

 private:
  void* fiber_ = nullptr;
};
#else
class Agent {
 public:
  template <class Work>
  void run(Work) {}
};
inline void acquire(char*) {}
inline void release(char*) {}
inline void note_read(const void*, size_t) {}
inline void note_write(void*, size_t) {}
#endif

}  // namespace fusedml::emulation::sanitizer
