// The backward call of one layer in one direction over a sequence: its arrays, and the call itself.
#pragma once

#include <vector>

#include "../kernels/contract.h"
#include "buffer.h"
#include "forward.h"
#include "policy.h"
#include "run.h"

namespace fusedrnn {

template <class T>
struct BackwardArrays {
  Strided dy, dx;
  bool accumulate = false;
  const T* dstate_n[kMaxStates] = {};  // null: zero gradients
  Index dstate_n_stride[kMaxStates] = {};
  T* dstate[kMaxStates] = {};  // of the state before the first step, (B, units)
  Index dstate_stride[kMaxStates] = {};
  T* dinitial[kMaxStates] = {};  // of the own initial state, the part of each row, (B, units); or null
  Index dinitial_stride[kMaxStates] = {};
  T *dW_ih = nullptr, *dW_hh = nullptr, *db_ih = nullptr, *db_hh = nullptr, *dW_hr = nullptr;
  T* dunits = nullptr;  // (unit_rows, H)
  Index unit_rows = 0;
  T *dgain_ih = nullptr, *dgain_hh = nullptr, *dgain_c = nullptr, *dbias_c = nullptr;  // normed form
};

template <class T>
class BackwardCall {
 public:
  BackwardCall(const Tape<T>& tape, const BackwardArrays<T>& arrays);
  const Workload& load() const { return load_; }
  // `tape` needs its weights, schedule and form, and its tokens if there are any, but no memory.
  static Measured measure(const Tape<T>& tape, bool need_dx);
  void run(Member& m) const;
  void finish() const;  // copies the gradients of initial states and unit parameters to the caller's arrays

  // Sends dx to a separate array for now, to be added to the caller's array later: two directions must not write one
  // array at the same time.
  bool accumulates() const { return f_.dx.data && f_.accumulate; }
  void detach_dx();
  void add_dx() const;

 private:
  struct Unallocated {};
  BackwardCall(Unallocated, const Tape<T>& tape, const BackwardArrays<T>& arrays);
  Workload workload() const;
  void lay_out(Arena& arena);
  void gather_final_states(int s) const;
  void scatter_initial_states(int s) const;

  const Tape<T>& tape_;
  BackwardArrays<T> arrays_;
  Backward<T> f_{};
  Workload load_;
  Buffer memory_, dx_;
  std::size_t sums_at_ = 0;  // where the sums over all steps start in memory_
};

// Runs calls that are ready and independent of each other, except that they may add to the same dx, in order. Throws
// Interrupted.
template <class T>
void run_backward(std::vector<BackwardCall<T>>& calls, Interrupt interrupt);

}  // namespace fusedrnn
