// Runs the kernels of kernels/selective_scan.h: owns the states that forward keeps, and backward's sums. Next, read
// bindings/selective_scan.cpp.
#pragma once

#include <memory>

#include "../kernels/selective_contract.h"
#include "array_scan.h"
#include "buffer.h"
#include "dtype.h"
#include "step_flags.h"

namespace fusedrnn {

// What forward keeps for backward, besides the caller's arrays.
struct SelectiveTape {
  Dtype dtype;
  const Kernels* kernels;  // the states that are kept have the lanes of their vectors
  Index T_, B, D, N, G;
  bool complex, softplus;
  Discretization rule;
  std::shared_ptr<const StepFlags> flags;
  Buffer buffer;
  std::size_t nbytes = 0;
};

// All of `scan` is set but flags, work and what kernels keep for each other. Without `keep` the result is null. Both
// throw Interrupted.
template <class T>
std::unique_ptr<SelectiveTape> selective_forward(SelectiveScan<T> scan, std::shared_ptr<const StepFlags> flags,
                                                 bool keep, Interrupt interrupt);
template <class T>
void selective_backward(const SelectiveTape& tape, SelectiveScan<T> scan, Interrupt interrupt);

// The kernels of this level; core/dispatch.cpp.
const SelectiveTable<float>& selective_f32(const Kernels& k);
const SelectiveTable<double>& selective_f64(const Kernels& k);
template <class T>
const SelectiveTable<T>& selective_of(const Kernels& k) {
  if constexpr (sizeof(T) == 4) return selective_f32(k);
  else return selective_f64(k);
}

}  // namespace fusedrnn
