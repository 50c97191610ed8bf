# The kernels for GPUs, the library fusedml_kernels, and the Python extension over them, _C.
#
#   FUSEDML_TORCH_ROOT      folder of an installed torch package; without it there is no _C
#   FUSEDML_PYTHON_INCLUDE  folder with Python.h, for _C
#   FUSEDML_CUDA_ARCHITECTURES  as CMAKE_CUDA_ARCHITECTURES; empty for the default
#   FUSEDML_ONE_MACHINE_CODE    three tenths less to compile, for tests without a GPU: of 16 bits and
#                               of 32 one number type has machine code, the others have PTX alone

set(FUSEDML_TORCH_ROOT "" CACHE PATH "Folder of the installed torch package; builds _C")
set(FUSEDML_PYTHON_INCLUDE "" CACHE PATH "Folder with Python.h, for _C")
set(FUSEDML_CUDA_ARCHITECTURES "" CACHE STRING "Architectures; empty: sm_80 with PTX, and sm_90a")
option(FUSEDML_ONE_MACHINE_CODE "Machine code of fp16 for sm_90a and of fp32 for sm_80, and PTX" OFF)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
# Ampere and what runs its code (sm_86, sm_89), its PTX for what comes after, and Hopper.  The
# kernels of csrc/kernels are the same for both, and the PTX of sm_80 costs no compiler pass.
set(CMAKE_CUDA_ARCHITECTURES 80 90a-real)
if(FUSEDML_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES ${FUSEDML_CUDA_ARCHITECTURES})
endif()
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)

# a repeated build of the same sources, in another environment say, takes no time
find_program(FUSEDML_CCACHE ccache)
if(FUSEDML_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${FUSEDML_CCACHE}")
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${FUSEDML_CCACHE}")
endif()

# no symbol leaves the library
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)

add_library(fusedml_kernels STATIC
            csrc/kernels/api.cpp csrc/kernels/engine.cpp csrc/kernels/bf16.cu csrc/kernels/fp16.cu
            csrc/kernels/fp32.cu csrc/kernels/fp64.cu csrc/kernels/tf32.cu)
if(NOT FUSEDML_CUDA_ARCHITECTURES)
  set(ampere --generate-code=arch=compute_80,code=[compute_80,sm_80])
  set(hopper --generate-code=arch=compute_90a,code=sm_90a)
  set(code_bf16 ${ampere} ${hopper})
  set(code_fp16 ${ampere} ${hopper})
  # The PTX of wide numbers is the same for both (core/architecture.h): it is made once.
  set(wide --generate-code=arch=compute_80,code=[compute_80,sm_80,sm_90a])
  set(code_fp32 ${wide})
  set(code_fp64 ${wide})
  set(code_tf32 ${wide})
  if(FUSEDML_ONE_MACHINE_CODE)
    # fp16 in one pass, whose PTX is Hopper's, too: tests interpret it.  bf16 differs from fp16, and
    # tf32 from fp32, by little more than the instruction of its products, which PTX shows.
    set(ptx --generate-code=arch=compute_80,code=compute_80)
    set(code_bf16 ${ptx})
    set(code_fp16 --generate-code=arch=compute_90a,code=[compute_90a,sm_90a])
    set(code_fp32 ${ampere})
    set(code_fp64 ${ptx})
    set(code_tf32 ${ptx})
  endif()
  set_target_properties(fusedml_kernels PROPERTIES CUDA_ARCHITECTURES OFF)
  foreach(type bf16 fp16 fp32 fp64 tf32)
    set_source_files_properties(csrc/kernels/${type}.cu PROPERTIES COMPILE_OPTIONS "${code_${type}}")
  endforeach()
endif()
# Hopper's own instructions are in the code of its own architecture alone.
set(FUSEDML_HOPPER_OBJECTS "")
if(CMAKE_CUDA_ARCHITECTURES MATCHES "90a")
  add_library(fusedml_hopper OBJECT csrc/hopper/bf16.cu csrc/hopper/fp16.cu)
  set_target_properties(fusedml_hopper PROPERTIES CUDA_ARCHITECTURES 90a-real)
  set(FUSEDML_HOPPER_OBJECTS $<TARGET_OBJECTS:fusedml_hopper>)
  target_sources(fusedml_kernels PRIVATE ${FUSEDML_HOPPER_OBJECTS})
  target_compile_definitions(fusedml_kernels PRIVATE FUSEDML_HAS_HOPPER)
endif()
foreach(library fusedml_kernels fusedml_hopper)
  if(TARGET ${library})
    target_include_directories(${library} PUBLIC "${PROJECT_SOURCE_DIR}/csrc")
    target_include_directories(${library} SYSTEM PUBLIC
                               ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
    target_compile_options(
      ${library}
      PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>
              $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr -Xfatbin=-compress-all>)
  endif()
endforeach()

if(FUSEDML_TORCH_ROOT)
  fusedml_add_binding(_C fusedml_kernels module.cpp)
  target_compile_definitions(_C PRIVATE Py_LIMITED_API=0x030A0000)
  target_include_directories(_C SYSTEM PRIVATE "${FUSEDML_PYTHON_INCLUDE}")
endif()

if(FUSEDML_GPU_TESTS)
  # the kernels once for all programs, which find them in their own folder
  find_package(CUDAToolkit REQUIRED)
  set(CMAKE_BUILD_RPATH_USE_ORIGIN ON)
  add_library(fusedml_gpu SHARED $<TARGET_OBJECTS:fusedml_kernels> ${FUSEDML_HOPPER_OBJECTS})
  # each program has a CUDA runtime of its own, too
  target_link_options(fusedml_gpu PRIVATE -Wl,--exclude-libs,libcudart_static.a)
  set_target_properties(fusedml_gpu PROPERTIES LINKER_LANGUAGE CUDA)
  target_include_directories(fusedml_gpu PUBLIC "${PROJECT_SOURCE_DIR}/csrc")
  target_include_directories(fusedml_gpu SYSTEM PUBLIC ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  # the test programs of the emulated kernels, on a GPU
  foreach(test statistics gradient engine groups sums divergences extreme_pairs two_sided
               positive_pairs thresholds listed_pairs windows normalize)
    add_executable(gpu_${test} tests/csrc/kernels/test_${test}.cpp)
    target_compile_options(gpu_${test} PRIVATE -Wall -Wextra)
    target_include_directories(gpu_${test} PRIVATE tests/gpu/native tests/csrc)
    target_link_libraries(gpu_${test} PRIVATE fusedml_gpu CUDA::cudart_static)
  endforeach()
  add_executable(gpu_timer benchmarks/native/timer.cpp)
  target_compile_options(gpu_timer PRIVATE -Wall -Wextra)
  target_link_libraries(gpu_timer PRIVATE fusedml_gpu CUDA::cudart_static)
  if(NOT FUSEDML_TESTS)  # which adds it, too
    add_subdirectory(tests/csrc/gpu)
  endif()
endif()
