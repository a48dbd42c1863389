// One layer in one direction: packed weights, schedule, tape, and the calls that run a kernel over them. Allocates
// everything a kernel needs, chooses how many threads take part, and owns what outlives the call.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "api.h"
#include "buffer.h"
#include "team.h"

namespace fusedrnn {

CellId cell_named(const std::string& name);  // throws std::invalid_argument
ActivationId activation_named(const std::string& name);
const char* name_of(CellId cell);

// Rows by step. With lengths (each in [0, T]) the rows are sorted by falling length, stably. A mask leaves each row the
// steps where it is true. A reset cuts a row into runs: each becomes a row inside, starts from the caller's row's
// initial state, and only the last to run (in reverse the first in time) hands its final state out. So a skipped step
// costs nothing, and a run has the bits it would have alone.
class Schedule {
 public:
  // mask, reset: (B, T) bytes in C order, not 0 for true; or null. Past a row's length neither is read; reset[b, 0]
  // means nothing. Each element is read once.
  Schedule(Index T, Index B, const std::int64_t* lengths, const std::uint8_t* mask = nullptr,
           const std::uint8_t* reset = nullptr);
  // One of `parts` equal shares of another's rows, which has no cuts and lives as long. The caller's arrays are the
  // same.
  Schedule(const Schedule& whole, Index part, Index parts);
  Index T() const { return T_; }  // of the caller's arrays
  Index B() const { return B_; }
  Index row_count() const { return rows_.offset(rows_.T); }
  const Rows& rows() const { return rows_; }

  // Runs of the caller's row, as rows inside, in the order of time; without cuts every row is one run.
  bool cut() const { return !runs_.empty(); }
  Range runs_of(Index row) const {
    return {runs_from_[static_cast<std::size_t>(row)], runs_from_[static_cast<std::size_t>(row) + 1]};
  }
  Index run(Index i) const { return runs_[static_cast<std::size_t>(i)]; }
  Index last_run(Index row, bool reverse) const { return run(reverse ? runs_of(row).begin : runs_of(row).end - 1); }

  // (T, B): where the output that stands at a step is from, when outputs are held: the last step that ran, or -1.
  std::vector<Index> held_from(bool reverse) const;

 private:
  void cut_into_runs(const std::vector<Index>& ends, const std::uint8_t* mask, const std::uint8_t* reset);
  void sort_by_length(std::vector<Index> lengths, const std::vector<Index>& rows);

  Index T_, B_;
  Rows rows_;
  std::vector<Index> active_, offset_, order_, length_, time_, time_from_, runs_, runs_from_;
  std::vector<Gap> gaps_;
};

// Outputs at skipped steps become those of the step before (in running order), zero before the first.
template <class T>
void hold(const Schedule& schedule, const Strided& y, Index H, bool reverse);
// The gradient of held outputs belongs to the step they are from: `sums` (T, B, H) gets it, where a step ran.
template <class T>
void sum_held(const Schedule& schedule, const Strided& dy, T* sums, Index H, bool reverse);

struct Interrupt {
  InterruptCheck check = nullptr;
  void* argument = nullptr;
};

struct Interrupted {};  // thrown when a signal ended a call

// What is not the cell's own: kernels/forms.h.
struct Structure {
  Index R = 0;                      // units of a projected h; 0: not projected
  double zoneout[kMaxStates] = {};  // of h and c; in training masks stand for them
  bool normed = false;              // layer normalisation, with RawWeights' norm
};

class WeightsBase {
 public:
  virtual ~WeightsBase() = default;
  const Kernels* kernels;
  CellId cell;
  Index I, H, R;  // R: units of h
  Structure structure;
  bool training;
  std::size_t nbytes;
  bool is_double;
};

template <class T>
class Weights final : public WeightsBase {
 public:
  Weights(const Kernels& kernels, CellId cell, const CellOptions& options, Index I, Index H, const RawWeights<T>& raw,
          bool training, const Structure& structure = {}, Interrupt interrupt = {});
  const CellKernels<T>& kernel() const;
  Index padded() const;  // hidden units rounded up to whole vectors
  Index units(int state) const { return state == 0 ? R : H; }
  Index padded(int state) const;
  bool has_form(Form form) const { return kernel().forward[form] != nullptr; }
  Form form(bool masked) const;

  Packed<T> packed;

 private:
  Buffer memory_;
};

// What a caller passes in and out of a sequence.
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

template <class T>
struct BackwardArrays {
  Strided dy, dx;
  bool accumulate = false;
  const T* dstate_n[kMaxStates] = {};  // null: zeros
  Index dstate_n_stride[kMaxStates] = {};
  T* dstate[kMaxStates] = {};
  Index dstate_stride[kMaxStates] = {};
  T *dW_ih = nullptr, *dW_hh = nullptr, *db_ih = nullptr, *db_hh = nullptr, *dW_hr = nullptr;
  T* dunits = nullptr;  // (unit_rows, H)
  Index unit_rows = 0;
  T *dgain_ih = nullptr, *dgain_hh = nullptr, *dgain_c = nullptr, *dbias_c = nullptr;  // normed form
};

class TapeBase {
 public:
  virtual ~TapeBase() = default;
  std::size_t nbytes = 0;
};

// What forward keeps for backward; nothing in it belongs to the caller.
template <class T>
class Tape final : public TapeBase {
 public:
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

// What a call costs, for choosing its threads.
struct Workload {
  double flops, weight_bytes;  // weights: read at every step
  Index steps, unit_panels, rows;
  int lanes;
  Index meetings = 0;  // of a team, one or several a step
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
  // The same call as one for each share of the rows; empty when that can't be.
  std::vector<ForwardCall> by_rows(Index parts) const;
  // Computes the input part of no more than so many steps at once, for a layer below or above that runs beside it.
  void keep_close(Index steps) { f_.input_rows = std::min(f_.input_rows, steps * f_.rows.B); }
  void run(Member& m, Interrupt interrupt) const;
  void finish() const;  // with resets: the final states to their place
  std::unique_ptr<TapeBase> take_tape() { return std::move(tape_); }

 private:
  void copy_input(Member& m, Interrupt interrupt) const;
  void copy_kept(Member& m) const;

  std::shared_ptr<const Weights<T>> weights_;
  std::shared_ptr<const Schedule> schedule_;
  ForwardArrays<T> arrays_;
  Forward<T> f_{};
  Form form_;
  Workload load_;
  std::unique_ptr<Tape<T>> tape_;  // null: inference
  Buffer temporary_;
  Index gathering_threads_ = 0;  // for how many f_.gather has room, where x is gathered
};

template <class T>
class BackwardCall {
 public:
  BackwardCall(const Tape<T>& tape, const BackwardArrays<T>& arrays);
  const Workload& load() const { return load_; }
  void run(Member& m) const;
  void finish() const;  // the gradients of initial states and unit parameters to their place

  // Sends dx elsewhere for now, and adds it to its place later: two directions must not write one array at once.
  bool accumulates() const { return f_.dx.data && f_.accumulate; }
  void detach_dx();
  void add_dx() const;

 private:
  void gather_final_states(int s) const;

  const Tape<T>& tape_;
  BackwardArrays<T> arrays_;
  Backward<T> f_{};
  Workload load_;
  Buffer memory_, dx_;
};

// Run calls that do not depend on each other, but for adding to one dx in their order: side by side where that is
// quicker. Throws Interrupted.
template <class T>
void run_forward(std::vector<ForwardCall<T>>& calls, ThreadLimit& threads, Interrupt interrupt);
template <class T>
void run_backward(std::vector<BackwardCall<T>>& calls, Interrupt interrupt);
// Inference through one-way layers upon each other: each call's x is the y of the one before it, over the same steps.
template <class T>
void run_stacked(std::vector<ForwardCall<T>>& calls, ThreadLimit& threads, Interrupt interrupt);

// Stacked one-way layers, one step at a time: on the calling thread, which then allocates nothing, or, when the weights
// exceed a core's cache, on several. Owns the states.
template <class T>
class StepRunner {
 public:
  // alone: on the calling thread whatever the size, as callers need who must not wait or allocate.
  StepRunner(std::vector<std::shared_ptr<const Weights<T>>> layers, Index B, bool alone = false);
  // x: rows of (B, I), or tokens (B,); y: (B, H), rows contiguous. Throws std::out_of_range for a token outside [0, I),
  // before anything has changed.
  void step(const T* x, const std::int64_t* tokens, T* y);
  // All layers' h (which = 0) or c (1) as of now, (layers, B, H).
  void read_state(int which, T* to) const;
  void write_state(int which, const T* from);
  template <class Chosen>
  void reset(Chosen chosen) {  // zeros for every row b with chosen(b), asked once a row
    for (Index b = 0; b < B_; ++b) {
      if (!chosen(b)) continue;
      for (std::size_t l = 0; l < layers_.size(); ++l)
        for (int s = 0; s < states(); ++s) std::fill_n(state(l, s) + b * padded(l, s), padded(l, s), T(0));
    }
  }
  Index padded(std::size_t layer, int which) const { return layers_[layer].weights->padded(which); }
  int states() const { return layers_.front().weights->kernel().states; }
  std::size_t layers() const { return layers_.size(); }
  const Weights<T>& weights(std::size_t layer) const { return *layers_[layer].weights; }
  Index B() const { return B_; }
  double flops() const { return flops_; }

 private:
  struct Layer {
    std::shared_ptr<const Weights<T>> weights;
    Buffer memory;
    Forward<T> forward;
  };
  T* state(std::size_t layer, int which) const;  // (B, padded)

  bool shareable() const;  // whether several threads may take a step
  Index threads() const;

  Index B_;
  bool alone_;
  std::vector<std::int64_t> tokens_;  // of the step under way, checked
  std::vector<Layer> layers_;
  double flops_ = 0, weight_bytes_ = 0;
  long long last_step_ = 0;  // when it ended; kept when the weights may be worth several threads
};

}  // namespace fusedrnn
