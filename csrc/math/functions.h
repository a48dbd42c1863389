// The list of activation functions; activations.h computes them. Core and the kernels both include this file, so it
// contains nothing that depends on an instruction set.
#pragma once

namespace fusedrnn {

// The list of activation functions: X(name, name in Python).
#define FUSEDRNN_ACTIVATIONS(X)          \
  X(Sigmoid, "sigmoid")                  \
  X(Tanh, "tanh")                        \
  X(Relu, "relu")                        \
  X(HardSigmoid, "hard_sigmoid")         \
  X(HardTanh, "hard_tanh")               \
  X(Softsign, "softsign")                \
  X(Softplus, "softplus")                \
  X(LeakyRelu, "leaky_relu")             \
  X(Elu, "elu")                          \
  X(Affine, "affine")                    \
  X(ScaledTanh, "scaled_tanh")           \
  X(ThresholdedRelu, "thresholded_relu") \
  X(Linear, "linear")

enum ActivationId {
#define FUSEDRNN_ID(name, text) k##name,
  FUSEDRNN_ACTIVATIONS(FUSEDRNN_ID)
#undef FUSEDRNN_ID
      kActivationCount
};

struct Activation {
  ActivationId id = kTanh;
  double alpha = 0, beta = 0;
};

}  // namespace fusedrnn
