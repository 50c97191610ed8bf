#pragma once
// A call stack of its own, entered and left by hand.
#include <cstddef>

#if !defined(__x86_64__)
#define FUSEDML_EMULATION_UCONTEXT 1
#endif
#if defined(FUSEDML_EMULATION_UCONTEXT)
#include <ucontext.h>
#endif

namespace fusedml::emulation {

struct Fiber {
#if defined(FUSEDML_EMULATION_UCONTEXT)
  ucontext_t context;
#else
  void* stack_pointer = nullptr;
#endif
  char* stack = nullptr;
  size_t stack_bytes = 0;
  void* asan_fake_stack = nullptr;
  void* tsan_fiber = nullptr;
  bool finished = false;
};

/// Describes the stack that the caller runs on, so that fibers can switch back to it.
void adopt_current_stack(Fiber& fiber);
/// Makes the fiber start at `entry`, which never returns, with an empty stack; allocates the stack
/// (guarded by an inaccessible page) the first time.
void prepare_fiber(Fiber& fiber, void (*entry)());
/// Leaves `from`, which must be running, and goes on in `to`.
void switch_fiber(Fiber& from, Fiber& to);
/// To be called first thing in a fresh fiber.
void finish_first_switch();
/// Frees a fiber that may have been left in the middle of its work.  `running` is the caller's.
void discard_fiber(Fiber& fiber, Fiber& running);

}  // namespace fusedml::emulation
