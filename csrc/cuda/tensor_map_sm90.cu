// Tensor maps: descriptions of arrays that copies find their way by, made on the host.
#include <string>

#include "cuda/hopper.h"

#if !defined(CNNFAST_SHIM)
#include <cudaTypedefs.h>
#endif

namespace cnnfast::cuda {

#if defined(CNNFAST_SHIM)
TensorMap tiled_map(bool, const void* data, int rank, const int64_t (&size)[4], int rows) {
  TensorMap map{};
  map.data = static_cast<const char*>(data), map.rank = rank, map.rows = rows;
  int64_t bytes = 2;
  for (int d = 0; d < rank; ++d) {
    map.size[d] = size[d], map.stride[d] = bytes;
    bytes *= size[d];
  }
  return map;
}
TensorMap window_map(bool half, const void* data, const int64_t (&size)[4], const int (&lower)[2],
                     const int (&upper)[2], const int (&step)[2], int rows) {
  TensorMap map = tiled_map(half, data, 4, size, rows);
  std::copy_n(lower, 2, map.lower);
  std::copy_n(upper, 2, map.upper);
  std::copy_n(step, 2, map.step);
  return map;
}
#else
namespace {

template <class F>
F driver_function(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  CNNFAST_CUDA_CHECK(cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found));
#else
  CNNFAST_CUDA_CHECK(cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &found));
#endif
  if (found != cudaDriverEntryPointSuccess)
    throw CudaError("cudaErrorNotSupported", "the driver lacks a function", name);
  return reinterpret_cast<F>(function);
}

void check_map(CUresult result, const char* name) {
  if (result != CUDA_SUCCESS)
    throw CudaError("cudaErrorInvalidValue", "tensor map refused with error " + std::to_string(result), name);
}

struct Extent {
  cuuint64_t size[4], stride[3];  // bytes; none for the innermost
  Extent(int rank, const int64_t (&sizes)[4]) {
    cuuint64_t bytes = 2;
    for (int d = 0; d < rank; ++d) {
      size[d] = static_cast<cuuint64_t>(sizes[d]);
      if (d > 0) stride[d - 1] = bytes;
      bytes *= size[d];
    }
  }
};

CUtensorMapDataType element_type(bool half) {
  return half ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
}

}  // namespace

TensorMap tiled_map(bool half, const void* data, int rank, const int64_t (&size)[4], int rows) {
  static const auto encode = driver_function<PFN_cuTensorMapEncodeTiled_v12000>("cuTensorMapEncodeTiled");
  const Extent extent(rank, size);
  cuuint32_t box[3] = {64, 1, 1};
  box[rank - 1] = static_cast<cuuint32_t>(rows);
  const cuuint32_t steps[3] = {1, 1, 1};
  TensorMap map;
  check_map(
      encode(&map, element_type(half), static_cast<cuuint32_t>(rank), const_cast<void*>(data), extent.size,
             extent.stride, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
      "cuTensorMapEncodeTiled");
  return map;
}

TensorMap window_map(bool half, const void* data, const int64_t (&size)[4], const int (&lower)[2],
                     const int (&upper)[2], const int (&step)[2], int rows) {
  static const auto encode = driver_function<PFN_cuTensorMapEncodeIm2col_v12000>("cuTensorMapEncodeIm2col");
  const Extent extent(4, size);
  const cuuint32_t steps[4] = {1, static_cast<cuuint32_t>(step[0]), static_cast<cuuint32_t>(step[1]), 1};
  TensorMap map;
  check_map(encode(&map, element_type(half), 4, const_cast<void*>(data), extent.size, extent.stride, lower,
                   upper, 64, static_cast<cuuint32_t>(rows), steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                   CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
            "cuTensorMapEncodeIm2col");
  return map;
}
#endif

}  // namespace cnnfast::cuda
