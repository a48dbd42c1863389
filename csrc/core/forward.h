// The forward call of one layer in one direction over a sequence: the caller's arrays, the tape kept for backward, and
// the call itself.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "../kernels/contract.h"
#include "buffer.h"
#include "policy.h"
#include "run.h"
#include "schedule.h"
#include "weights.h"

namespace fusedrnn {

// The caller's inputs and outputs.
template <class T>
struct ForwardArrays {
  Strided x;
  bool x_direct = true;
  const std::int64_t* tokens = nullptr;  // (T, columns of the schedule), C order
  Strided y;
  const T* state[kMaxStates] = {};  // (B, units), before the first step; null: the own initial state
  Index state_stride[kMaxStates] = {};
  const T* initial[kMaxStates] = {};  // (units,), the layer's own initial state, to which resets return; null: zeros
  T* state_n[kMaxStates] = {};
  Index state_n_stride[kMaxStates] = {};
  // Training only: factors of h in the recurrent product, (B, R), or null; where a unit keeps its state, (T, B, units),
  // or null.
  const T* recurrent_mask = nullptr;
  Index recurrent_mask_stride = 0;
  Strided kept[kMaxStates];
  bool masked() const { return recurrent_mask || kept[0].data || kept[1].data; }
};

class TapeBase {
 public:
  explicit TapeBase(Dtype dtype_) : dtype(dtype_) {}
  virtual ~TapeBase() = default;
  const Dtype dtype;
  std::size_t nbytes = 0;
};

// What forward keeps for backward. Nothing in a tape belongs to the caller.
template <class T>
class Tape final : public TapeBase {
 public:
  Tape() : TapeBase(kDtypeOf<T>) {}
  std::shared_ptr<const Weights<T>> weights;
  std::shared_ptr<const Schedule> schedule;
  bool reverse;
  bool given[kMaxStates] = {};  // whether there was a state before the first step
  Form form = kPlain;
  Buffer memory;
  T *gates = nullptr, *states[kMaxStates] = {}, *operand = nullptr, *x = nullptr;
  T *recurrent = nullptr, *candidate = nullptr, *hidden = nullptr;
  const T *products_x = nullptr, *products_h = nullptr, *moments = nullptr;  // normed form
  Masks<T> masks;
  const std::int64_t* tokens = nullptr;
};

// Reads a state before and after each step, (T, columns of the schedule, units) in the caller's order; steps that did
// not run are not written. `ran`, without units, becomes true for steps that ran.
template <class T>
void read_states(const Tape<T>& tape, int state, T* before, T* after, bool* ran);

// The memory and work of a call, computed without making it.
struct Measured {
  Workload load;
  Form form = kPlain;
  Index chunk_rows = 0;
  std::size_t lasting_bytes = 0, scratch_bytes = 0;  // lasting: the tape's, in training
};

// One layer in one direction, with everything allocated, ready for a team to run. The two directions of a layer are two
// calls that may run side by side.
template <class T>
class ForwardCall {
 public:
  // threads: the limit of the call that this is part of. No team with more members may run it.
  ForwardCall(std::shared_ptr<const Weights<T>> weights, std::shared_ptr<const Schedule> schedule,
              const ForwardArrays<T>& arrays, bool reverse, bool training, ThreadLimit& threads);
  const Workload& load() const { return load_; }
  static Measured measure(std::shared_ptr<const Weights<T>> weights, std::shared_ptr<const Schedule> schedule,
                          const ForwardArrays<T>& arrays, bool training);
  // Splits this call into one call per share of the rows; for calls whose load is divisible.
  std::vector<ForwardCall> by_rows(Index parts) const;
  // Limits the input product to `steps` steps at once, for a layer that runs concurrently with the layer below or
  // above.
  void keep_close(Index steps) { f_.input_rows = std::min(f_.input_rows, steps * f_.rows.B); }
  void run(Member& m, Interrupt interrupt) const;
  void finish() const;  // with resets: copies the final states to the caller's arrays
  std::unique_ptr<TapeBase> take_tape() { return std::move(tape_); }

 private:
  ForwardCall(std::shared_ptr<const Weights<T>> weights, std::shared_ptr<const Schedule> schedule,
              const ForwardArrays<T>& arrays, bool reverse, bool training);  // without memory
  Workload workload() const;
  void lay_out(Arena& lasting, Arena& scratch);
  void fill();
  void fill_states(int s);
  void fill_tape(std::size_t nbytes);
  void copy_input(Member& m, Interrupt interrupt) const;
  void copy_kept(Member& m) const;

  std::shared_ptr<const Weights<T>> weights_;
  std::shared_ptr<const Schedule> schedule_;
  ForwardArrays<T> arrays_;
  Forward<T> f_{};
  Form form_;
  Workload load_;
  std::unique_ptr<Tape<T>> tape_;         // null: inference
  Buffer memory_, scratch_;               // memory_: in training the tape owns it instead
  T *factors_ = nullptr, *x_ = nullptr;   // factors_: the recurrent mask; x_: the tape's copy of x
  std::uint8_t* stays_[kMaxStates] = {};  // where a unit keeps its state
  std::int64_t* tokens_ = nullptr;
  // The numbers of threads that f_.gather has space for, when x is gathered, and f_.gates, when each has its own.
  Index gathering_threads_ = 0, threads_with_gates_ = 1;
};

// Runs calls that are ready. Throws Interrupted.
template <class T>
void run_forward(std::vector<ForwardCall<T>>& calls, Order order, ThreadLimit& threads, Interrupt interrupt);

}  // namespace fusedrnn
