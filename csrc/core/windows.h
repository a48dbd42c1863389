// The inputs of a causal convolution over time: each step sees the inputs of the last `window` steps of its run, the
// oldest first, and zeros in place of those before the run began. Around the kernels, which see wide inputs alone: one
// layer in one direction reads the wide array that widen() made, and narrow() folds the gradient of this array. Streams
// keep the inputs of their last steps themselves (core/stepper.cpp).
#pragma once

#include "../kernels/contract.h"
#include "run.h"
#include "schedule.h"

namespace fusedrnn {

// The caller's arrays over the steps of a schedule; `I` numbers at each step, or `window` times as many.
template <class T>
struct Windows {
  const Schedule& schedule;
  Index I, window;
  bool reverse;
  Strided narrow;                        // of any strides, as an input; rows contiguous, as a gradient
  const std::int64_t* tokens = nullptr;  // in place of an input: (T, columns), each a one-hot row; C order
  Strided wide;                          // rows contiguous
};

// wide = the inputs in `narrow`, or the tokens; places where no step runs are not written. Throws Interrupted, and
// std::out_of_range for a token outside [0, I).
template <class T>
void widen(const Windows<T>& arrays, Interrupt interrupt);

// narrow (+)= the gradient of the inputs from that of `wide`, step by step in running order and zero where no step
// runs. `add` is the kernels' y += x. Throws Interrupted.
template <class T>
void narrow(const Windows<T>& arrays, bool accumulate, void (*add)(const T*, T*, Index), Interrupt interrupt);

}  // namespace fusedrnn
