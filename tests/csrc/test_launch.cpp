// What launch() asks of the CUDA runtime, of which this file has a stand-in.
#include <cuda_runtime.h>

#include <cstdio>

#include "kernels/launch.h"

static cudaLaunchConfig_t launched = {};
static cudaLaunchAttribute attribute = {};
static int limit = 0;

extern "C" cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void*, void**) {
  launched = *config;
  if (config->numAttrs > 0) attribute = config->attrs[0];
  return cudaSuccess;
}
extern "C" cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute which, int value) {
  if (which == cudaFuncAttributeMaxDynamicSharedMemorySize) limit = value;
  return cudaSuccess;
}

static void kernel(int) {}

static int num_failed = 0;
#define CHECK(condition) \
  if (!(condition)) ++num_failed, std::printf("%s:%d: %s\n", __FILE__, __LINE__, #condition)

int main() {
  constexpr int kBytes = 97 * 1024;
  CHECK(fusedml::launch(kernel, dim3(3), dim3(128), kBytes, nullptr, 1) == cudaSuccess);
  CHECK(limit == kBytes && launched.dynamicSmemBytes == size_t(kBytes));
  CHECK(launched.numAttrs == 1 && attribute.id == cudaLaunchAttributePreferredSharedMemoryCarveout);
  CHECK(attribute.val.sharedMemCarveout == unsigned(cudaSharedmemCarveoutMaxShared));
  CHECK(fusedml::launch(kernel, dim3(3), dim3(128), 0, nullptr, 1) == cudaSuccess);
  CHECK(limit == kBytes && launched.numAttrs == 0);
  return num_failed == 0 ? 0 : 1;
}
