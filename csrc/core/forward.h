// One layer in one direction over a sequence, forward: what a caller passes in, what is kept for backward, and the
// call.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "api.h"
#include "buffer.h"
#include "policy.h"
#include "run.h"
#include "schedule.h"
#include "weights.h"

namespace fusedrnn {

// What a caller passes in and out.
template <class T>
struct ForwardArrays {
  Strided x;
  bool x_direct = true;
  const std::int64_t* tokens = nullptr;  // (T, B), C order
  Strided y;
  const T* state[kMaxStates] = {};
  Index state_stride[kMaxStates] = {};
  T* state_n[kMaxStates] = {};
  Index state_n_stride[kMaxStates] = {};
  // Training: factors of h in the recurrent product (B, R), or null; where a unit keeps its state, (T, B, units), or
  // null.
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

// What forward keeps for backward; nothing in it belongs to the caller.
template <class T>
class Tape final : public TapeBase {
 public:
  Tape() : TapeBase(kDtypeOf<T>) {}
  std::shared_ptr<const Weights<T>> weights;
  std::shared_ptr<const Schedule> schedule;
  bool reverse;
  Form form = kPlain;
  Buffer memory;
  T *gates = nullptr, *states[kMaxStates] = {}, *operand = nullptr, *x = nullptr;
  T *recurrent = nullptr, *candidate = nullptr, *hidden = nullptr;
  const T *products_x = nullptr, *products_h = nullptr, *moments = nullptr;  // normed form
  Masks<T> masks;
  const std::int64_t* tokens = nullptr;
};

// A state before and after each step, (T, B, units) in the caller's order; nothing is written where no step ran. `ran`
// (T, B) becomes true where one did.
template <class T>
void read_states(const Tape<T>& tape, int state, T* before, T* after, bool* ran);

// What a call would need, without making anything.
struct Measured {
  Workload load;
  Form form = kPlain;
  Index chunk_rows = 0;
  std::size_t lasting_bytes = 0, scratch_bytes = 0;  // lasting: in training the tape's
};

// One layer in one direction, made ready: everything allocated, to be run by a team. Two directions of a layer are two
// calls that may run side by side.
template <class T>
class ForwardCall {
 public:
  // threads: of the call that this is part of. No team that runs it may have more members.
  ForwardCall(std::shared_ptr<const Weights<T>> weights, std::shared_ptr<const Schedule> schedule,
              const ForwardArrays<T>& arrays, bool reverse, bool training, ThreadLimit& threads);
  const Workload& load() const { return load_; }
  static Measured measure(std::shared_ptr<const Weights<T>> weights, std::shared_ptr<const Schedule> schedule,
                          const ForwardArrays<T>& arrays, bool training);
  // The same call as one for each share of the rows; for calls whose load is divisible.
  std::vector<ForwardCall> by_rows(Index parts) const;
  // Computes the input part of no more than so many steps at once, for a layer below or above that runs beside it.
  void keep_close(Index steps) { f_.input_rows = std::min(f_.input_rows, steps * f_.rows.B); }
  void run(Member& m, Interrupt interrupt) const;
  void finish() const;  // with resets: the final states to their place
  std::unique_ptr<TapeBase> take_tape() { return std::move(tape_); }

 private:
  ForwardCall(std::shared_ptr<const Weights<T>> weights, std::shared_ptr<const Schedule> schedule,
              const ForwardArrays<T>& arrays, bool reverse, bool training);  // without memory
  Workload workload() const;
  void lay_out(Arena& lasting, Arena& scratch);
  void fill();
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
  Buffer memory_, scratch_;               // memory_: what is the tape's in training
  T *factors_ = nullptr, *x_ = nullptr;   // of the recurrent mask; the tape's copy of x
  std::uint8_t* stays_[kMaxStates] = {};  // where a unit keeps its state
  std::int64_t* tokens_ = nullptr;
  Index gathering_threads_ = 0;  // for how many f_.gather has room, where x is gathered
};

// Runs calls that are ready. Throws Interrupted.
template <class T>
void run_forward(std::vector<ForwardCall<T>>& calls, Order order, ThreadLimit& threads, Interrupt interrupt);

}  // namespace fusedrnn
