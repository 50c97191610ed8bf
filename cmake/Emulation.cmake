# The kernels on a CPU.  fusedml_add_emulated_executable(name variant sources...) compiles kernel
# sources for the emulator in one of these variants:
#   plain   optimised
#   asan    AddressSanitizer and UndefinedBehaviorSanitizer
#   tsan    ThreadSanitizer, every CUDA thread a thread of its own
#   traced  plain accesses to shared memory are seen and their bank conflicts counted

# NVIDIA's headers: of a toolkit, or of the packages nvidia-cuda-{runtime,crt,cccl} on PyPI.
find_path(FUSEDML_CUDA_INCLUDE cuda_bf16.h
          HINTS ENV CUDA_HOME ENV CUDA_PATH /usr/local/cuda
          PATH_SUFFIXES include
          DOC "Folder with NVIDIA's cuda_bf16.h")
if(NOT FUSEDML_CUDA_INCLUDE)
  message(FATAL_ERROR "cuda_bf16.h was not found: set FUSEDML_CUDA_INCLUDE to the include folder of "
                      "a CUDA toolkit (only its headers are needed)")
endif()

include(CheckCXXCompilerFlag)
check_cxx_compiler_flag(-march=native FUSEDML_HAS_MARCH_NATIVE)

# -g1: reports name lines, and nobody steps through half a gigabyte of variables.
set(FUSEDML_EMULATION_FLAGS -g1 -Wall -Wextra -Wno-unknown-pragmas)
if(FUSEDML_HAS_MARCH_NATIVE)
  list(APPEND FUSEDML_EMULATION_FLAGS -march=native)  # half of the time of an mma
endif()

# Flags of the kernels only: the engine is never instrumented.  Uninitialised variables get a
# pattern, as on a GPU where registers hold what the last kernel left.
set(FUSEDML_KERNEL_FLAGS -ftrivial-auto-var-init=pattern)
set(FUSEDML_KERNEL_FLAGS_plain -O2)
# -Og: 0.55 of the time that -O1 takes to compile what both sanitizers add, 1.06 of that to run.
set(FUSEDML_KERNEL_FLAGS_asan -Og -fno-omit-frame-pointer -fsanitize=address,undefined
                              -fno-sanitize-recover=undefined)
set(FUSEDML_KERNEL_FLAGS_tsan -O1 -fno-omit-frame-pointer -fsanitize=thread -Wno-tsan)
# -fno-tree-sra: a vector that is loaded as a whole stays one access.
set(FUSEDML_KERNEL_FLAGS_traced -O1 -fno-tree-sra -fsanitize=thread -Wno-tsan)
set(FUSEDML_LINK_FLAGS_asan -fsanitize=address,undefined)
set(FUSEDML_LINK_FLAGS_tsan -fsanitize=thread)
set(FUSEDML_ENGINE_DEFINITIONS_asan FUSEDML_EMULATION_ASAN)
set(FUSEDML_ENGINE_DEFINITIONS_tsan FUSEDML_EMULATION_TSAN)

set(FUSEDML_ENGINE_SOURCES
    async_copy.cpp async_units.cpp bank_conflicts.cpp barrier.cpp box_copy.cpp collectives.cpp
    fiber.cpp launch.cpp memory_barrier.cpp raw_memory.cpp scheduler.cpp shared_memory.cpp
    tensor_core.cpp warpgroup.cpp wgmma_product.cpp)
list(TRANSFORM FUSEDML_ENGINE_SOURCES PREPEND "${PROJECT_SOURCE_DIR}/csrc/emulation/")

function(fusedml_add_engine variant)
  set(engine fusedml_engine_${variant})
  if(TARGET ${engine})
    return()
  endif()
  add_library(${engine} STATIC EXCLUDE_FROM_ALL ${FUSEDML_ENGINE_SOURCES})
  if(variant STREQUAL "traced")
    target_sources(${engine} PRIVATE "${PROJECT_SOURCE_DIR}/csrc/emulation/access_hooks.cpp")
  endif()
  # -fno-tree-loop-distribute-patterns: no loop may become a call of an intercepted memset.
  # -fno-semantic-interposition: what nobody replaces may be inlined, 0.93 of the time.
  target_compile_options(${engine} PRIVATE -O2 -fno-tree-loop-distribute-patterns
                                           -fno-semantic-interposition ${FUSEDML_EMULATION_FLAGS})
  target_compile_definitions(${engine} PUBLIC FUSEDML_EMULATION
                                       PRIVATE ${FUSEDML_ENGINE_DEFINITIONS_${variant}})
  target_include_directories(${engine} PUBLIC "${PROJECT_SOURCE_DIR}/csrc")
  target_include_directories(${engine} SYSTEM PUBLIC "${FUSEDML_CUDA_INCLUDE}")
  set_target_properties(${engine} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
endfunction()

function(fusedml_add_emulated_executable name variant)
  fusedml_add_engine(${variant})
  add_executable(${name} ${ARGN})
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX)
  target_compile_options(${name} PRIVATE ${FUSEDML_EMULATION_FLAGS} ${FUSEDML_KERNEL_FLAGS}
                                         ${FUSEDML_KERNEL_FLAGS_${variant}})
  target_link_libraries(${name} PRIVATE fusedml_engine_${variant})
  target_link_options(${name} PRIVATE ${FUSEDML_LINK_FLAGS_${variant}})
endfunction()
