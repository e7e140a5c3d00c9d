// What may follow a convolution or a dense layer in the registers: y = act(sum + bias + residual).
#pragma once
#include <cstddef>

namespace cnnfast {

enum Activation : int {
  kNone = 0,
  kRelu = 1,
  kRelu6 = 2,
  kLeakyRelu = 3,
  kSigmoid = 4,
  kTanh = 5,
  kSilu = 6,
  kHardSwish = 7,
};

struct Epilogue {
  const float* bias = nullptr;      // one value per output channel
  const float* residual = nullptr;  // laid out as the output
  int activation = kNone;
  float slope = 0.01f;  // of leaky ReLU
};

}  // namespace cnnfast
