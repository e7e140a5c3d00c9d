// The wrappers of ptx.h and hopper.h one by one, for a comparison of what they do on a device with what they
// are said to do; the host's emulation is compared with the same.
#pragma once
#include "cuda/check.h"

namespace cnnfast::cuda {

enum class Wrapper : int {
  kLdmatrixX4 = 0,  // 32 lanes' byte offsets (int32), then the bytes of shared memory -> 32 x 4 words
  kLdmatrixX4Trans = 1,
  kLdmatrixX2 = 2,  // -> 32 x 2 words
  kMmaBf16 = 3,     // 32 x (4 words of a, 2 of b, 4 floats of d) -> 32 x 4 floats
  kMmaF16 = 4,
  kMmaTf32 = 5,
  kToTf32 = 6,       // 32 floats -> 32 words
  kCopyAsync16 = 7,  // 32 x 16 bytes -> 32 x 16 bytes, those of odd lanes not valid
  kCopyAsync8 = 8,   // 32 x 8 bytes
};

// One warp does it once.
void run_wrapper(Wrapper wrapper, const void* in, size_t in_bytes, void* out, cudaStream_t stream);

// One tile of 64 elements by 64 rows as copies by tensor map leave it in shared memory: of a matrix (rows, c)
// or (rows, taps, c), or of windows of pictures (n, h, w, c); in order of the calls' arguments.
void run_copy_tile(const void* x, int64_t c, int64_t taps, int64_t rows, int at_c, int at_tap, int at_row,
                   void* out, cudaStream_t stream);
struct WindowsAt {
  int64_t n, h, w, c;
  int lower[2], upper[2], step[2];  // columns, rows
  int at[4];                        // channel, column, row, picture
  int tap[2];                       // right, down
};
void run_copy_windows(const void* x, const WindowsAt& s, void* out, cudaStream_t stream);
// d (64, 64) += x (64, 16) w (16, 64) by one warp group; x and w are tiles as copies leave them (64 rows of
// 128 bytes), of which the 16 elements from `first` on are taken.
void run_wgmma(bool half, const void* x, const void* w, int first, const float* d, float* out,
               cudaStream_t stream);

}  // namespace cnnfast::cuda
