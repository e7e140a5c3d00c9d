#include "cuda/device.h"
#include "cuda/wrappers.h"

namespace cnnfast::cuda {
namespace {

// `in` in shared memory, words first.
__global__ void __launch_bounds__(32) try_wrapper(int wrapper, const uint32_t* in, int words, uint32_t* out) {
  ptx::begin_kernel();
  CNNFAST_DYNAMIC_SHARED(uint32_t, shared);
  const int lane = static_cast<int>(threadIdx.x);
  const auto which = static_cast<Wrapper>(wrapper);
  if (which == Wrapper::kCopyAsync16 || which == Wrapper::kCopyAsync8) {
    const int count = which == Wrapper::kCopyAsync16 ? 4 : 2;
    const bool valid = lane % 2 == 0;
    if (count == 4)
      ptx::cp_async<16>(shared + 4 * lane, in + 4 * lane, valid);
    else
      ptx::cp_async<8>(shared + 2 * lane, in + 2 * lane, valid);
    ptx::cp_commit();
    ptx::cp_wait<0>();
    __syncthreads();
    for (int i = 0; i < count; ++i) out[count * lane + i] = shared[count * lane + i];
    return;
  }
  for (int i = lane; i < words; i += 32) shared[i] = in[i];
  __syncthreads();
  const unsigned char* bytes = reinterpret_cast<const unsigned char*>(shared + 32);
  const uint32_t* mine = shared + 10 * lane;
  uint32_t four[4];
  if (which == Wrapper::kLdmatrixX4 || which == Wrapper::kLdmatrixX4Trans) {
    if (which == Wrapper::kLdmatrixX4)
      ptx::ldmatrix_x4(four, bytes + shared[lane]);
    else
      ptx::ldmatrix_x4_trans(four, bytes + shared[lane]);
    for (int i = 0; i < 4; ++i) out[4 * lane + i] = four[i];
  } else if (which == Wrapper::kLdmatrixX2) {
    uint32_t two[2];
    ptx::ldmatrix_x2(two, bytes + shared[lane]);
    for (int i = 0; i < 2; ++i) out[2 * lane + i] = two[i];
  } else if (which == Wrapper::kToTf32) {
    out[lane] = ptx::to_tf32(__uint_as_float(shared[lane]));
  } else {
    const uint32_t a[4] = {mine[0], mine[1], mine[2], mine[3]}, b[2] = {mine[4], mine[5]};
    float d[4];
    for (int i = 0; i < 4; ++i) d[i] = __uint_as_float(mine[6 + i]);
    if (which == Wrapper::kMmaBf16) ptx::mma_m16n8k16_bf16(d, a, b);
    if (which == Wrapper::kMmaF16) ptx::mma_m16n8k16_f16(d, a, b);
    if (which == Wrapper::kMmaTf32) ptx::mma_m16n8k8_tf32(d, a, b);
    for (int i = 0; i < 4; ++i) out[4 * lane + i] = __float_as_uint(d[i]);
  }
}

}  // namespace

void run_wrapper(Wrapper wrapper, const void* in, size_t in_bytes, void* out, cudaStream_t stream) {
  CNNFAST_LAUNCH((try_wrapper), dim3(1), dim3(32), in_bytes, stream, static_cast<int>(wrapper),
                 static_cast<const uint32_t*>(in), static_cast<int>(in_bytes / 4),
                 static_cast<uint32_t*>(out));
}

}  // namespace cnnfast::cuda
