// Runs the kernels of kernels/state_space.h: gathers and pads the inputs, owns what backward needs. Next, read
// bindings/recurrences.cpp.
#pragma once

#include <memory>

#include "array_scan.h"
#include "buffer.h"
#include "dtype.h"
#include "step_flags.h"

namespace fusedrnn {

// The caller's arrays in running order: times, rows and features have any strides (in bytes) in u and dy; y and du are
// contiguous but for their stride of steps, in numbers. Matrices are in C order but for theirs.
template <class T>
struct StateSpaceArrays {
  Index T_ = 0, B = 0, n = 0, m = 0, p = 0;
  bool before = false;
  std::shared_ptr<const StepFlags> flags;
  Matrices<T> of[kOperands];
  Strided u;  // backward reads it again unless forward gathered it
  // forward
  const T* x_0 = nullptr;  // (B, n), or null: zeros
  T* y = nullptr;
  Index y_time = 0;
  T* x_n = nullptr;  // (B, n)
  // backward
  Strided dy;  // data null: zeros
  const T* dx_n = nullptr;
  T* du = nullptr;
  Index du_time = 0;
  MatrixGradients<T> d[kOperands];  // without parts
  T* dx_0 = nullptr;
};

// What forward keeps for backward. The matrices stay the caller's.
struct StateSpaceTape {
  Dtype dtype;
  const Kernels* kernels;  // the padding is that of their vectors
  Index T_, B, n, m, p;
  bool before;
  std::shared_ptr<const StepFlags> flags;
  Buffer buffer;
  std::size_t nbytes = 0;
  void *u, *earlier, *x;  // u null: the caller's array was read in place
};

// Both throw Interrupted.
template <class T>
std::unique_ptr<StateSpaceTape> state_space_forward(const StateSpaceArrays<T>& arrays, Interrupt interrupt);
template <class T>
void state_space_backward(const StateSpaceTape& tape, const StateSpaceArrays<T>& arrays, Interrupt interrupt);

}  // namespace fusedrnn
