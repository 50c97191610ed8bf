#include "emulation/fiber.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#include "emulation/sanitizer.h"

namespace fusedml::emulation {
namespace {

// Instrumented frames are larger: ASan pads every array, TSan keeps more values alive.
#if defined(FUSEDML_EMULATION_ASAN) || defined(FUSEDML_EMULATION_TSAN)
constexpr size_t kStackBytes = 192 * 1024;
#else
constexpr size_t kStackBytes = 96 * 1024;
#endif
constexpr size_t kGuardBytes = 4096;

void map_stack(Fiber& fiber) {
  void* mapped = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) {
    std::perror("emulation: mmap of a fiber's stack");
    std::abort();
  }
  mprotect(mapped, kGuardBytes, PROT_NONE);
  fiber.stack = static_cast<char*>(mapped) + kGuardBytes;
  fiber.stack_bytes = kStackBytes;
}

void unmap_stack(Fiber& fiber) {
  munmap(fiber.stack - kGuardBytes, fiber.stack_bytes + kGuardBytes);
  fiber.stack = nullptr;
}

}  // namespace

#if !defined(FUSEDML_EMULATION_UCONTEXT)
// void fusedml_emulation_swap(void** save, void* load): ten times faster than swapcontext, which
// makes a system call for the signal mask.
extern "C" void fusedml_emulation_swap(void** save, void* load);
asm(R"(
.text
.globl fusedml_emulation_swap
.hidden fusedml_emulation_swap
.type fusedml_emulation_swap,@function
fusedml_emulation_swap:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fusedml_emulation_swap,.-fusedml_emulation_swap
)");
#endif

void adopt_current_stack([[maybe_unused]] Fiber& fiber) {
#if defined(FUSEDML_EMULATION_ASAN)
  pthread_attr_t attributes;
  void* stack = nullptr;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &stack, &fiber.stack_bytes);
  pthread_attr_destroy(&attributes);
  fiber.stack = static_cast<char*>(stack);
#endif
#if defined(FUSEDML_EMULATION_TSAN)
  fiber.tsan_fiber = __tsan_get_current_fiber();
#endif
}

void prepare_fiber(Fiber& fiber, void (*entry)()) {
  if (fiber.stack == nullptr) {
    map_stack(fiber);
#if defined(FUSEDML_EMULATION_TSAN)
    fiber.tsan_fiber = __tsan_create_fiber(0);
#endif
  }
  fiber.finished = false;
  fiber.asan_fake_stack = nullptr;
#if defined(FUSEDML_EMULATION_UCONTEXT)
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = fiber.stack_bytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#else
  // entry() must see the stack pointer 8 bytes off a multiple of 16, as after a call.
  void** top = reinterpret_cast<void**>(fiber.stack + fiber.stack_bytes - 64);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int saved_register = 0; saved_register < 6; ++saved_register) *--top = nullptr;
  fiber.stack_pointer = top;
#endif
}

void switch_fiber(Fiber& from, Fiber& to) {
#if defined(FUSEDML_EMULATION_ASAN)
  __sanitizer_start_switch_fiber(from.finished ? nullptr : &from.asan_fake_stack, to.stack,
                                 to.stack_bytes);
#endif
#if defined(FUSEDML_EMULATION_TSAN)
  constexpr unsigned kNoSynchronisation = 1;  // a switch orders nothing between CUDA threads
  __tsan_switch_to_fiber(to.tsan_fiber, kNoSynchronisation);
#endif
#if defined(FUSEDML_EMULATION_UCONTEXT)
  swapcontext(&from.context, &to.context);
#else
  fusedml_emulation_swap(&from.stack_pointer, to.stack_pointer);
#endif
#if defined(FUSEDML_EMULATION_ASAN)
  __sanitizer_finish_switch_fiber(from.asan_fake_stack, nullptr, nullptr);
#endif
}

void finish_first_switch() {
#if defined(FUSEDML_EMULATION_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

void discard_fiber(Fiber& fiber, [[maybe_unused]] Fiber& running) {
  if (fiber.stack == nullptr) return;
  // Frames that never returned left their red zones marked, and munmap does not clear the marks.
  sanitizer::permit(fiber.stack, fiber.stack_bytes);
  unmap_stack(fiber);
#if defined(FUSEDML_EMULATION_TSAN)
  // A switch with flag 0 orders the abandoned fiber's accesses before the caller's next ones.
  __tsan_switch_to_fiber(fiber.tsan_fiber, 1);
  __tsan_switch_to_fiber(running.tsan_fiber, 0);
  __tsan_destroy_fiber(fiber.tsan_fiber);
#endif
  fiber = Fiber{};
}

}  // namespace fusedml::emulation
