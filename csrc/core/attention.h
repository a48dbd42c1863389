// Runs the kernels of kernels/convolution.h and kernels/attention.h on the threads that a call is worth. Next, read
// bindings/attention.cpp.
#pragma once

#include "../kernels/attention_contract.h"
#include "run.h"

namespace fusedrnn {

// All of the argument is set, except for what core allocates. Throw Interrupted.
template <class T>
void run_convolution(Convolution<T> convolution, bool backward, Interrupt interrupt);
template <class T>
void run_attention(Attention<T> attention, bool backward, Interrupt interrupt);

}  // namespace fusedrnn
