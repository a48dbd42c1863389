// Which rows of a batch run at which step: converts a caller's lengths, masks and resets to the kernels' Rows.
#pragma once

#include <cstdint>
#include <vector>

#include "../kernels/contract.h"

namespace fusedrnn {

// The rows active at each step. With lengths (each in [0, T]) the rows are sorted by decreasing length, stably. A mask
// leaves a row only the steps where the mask is true. A reset cuts a row into runs. Each run becomes a row of the
// kernels. Only the first run in running order starts from the state that was given, and only if no reset comes before
// it; every other run starts from the layer's own initial state. Only the last run returns its final state. So a
// skipped step costs nothing, and a run gives the same bits as if it were computed alone.
class Schedule {
 public:
  // mask, reset: (B, T) bytes in C order, nonzero for true; or null. Past a row's length neither is read. Each element
  // is read once.
  Schedule(Index T, Index B, const std::int64_t* lengths, const std::uint8_t* mask = nullptr,
           const std::uint8_t* reset = nullptr);
  // One of `parts` equal shares of the rows of `whole`, which must have no cuts and live as long as this object. The
  // caller's arrays are the same.
  Schedule(const Schedule& whole, Index part, Index parts);
  Index T() const { return T_; }  // of the caller's arrays
  Index B() const { return B_; }
  Index row_count() const { return rows_.offset(rows_.T); }
  const Rows& rows() const { return rows_; }

  // The runs of the caller's row, as rows of the kernels, in the order of time; without cuts every row is one run.
  bool cut() const { return !runs_.empty(); }
  Range runs_of(Index row) const {
    return {runs_from_[static_cast<std::size_t>(row)], runs_from_[static_cast<std::size_t>(row) + 1]};
  }
  Index run(Index i) const { return runs_[static_cast<std::size_t>(i)]; }
  Index last_run(Index row, bool reverse) const { return run(reverse ? runs_of(row).begin : runs_of(row).end - 1); }

  // Whether there is any reset, and whether row b of the kernels starts from the state that was given. A reverse pass
  // comes to reset[b, 0] only after its last step.
  bool resets() const { return cut() || !anew_.empty(); }
  bool goes_on(Index b, bool reverse) const {
    const Index row = rows_.caller_row(b);
    if (!reverse && !anew_.empty() && anew_[static_cast<std::size_t>(row)]) return false;
    return !cut() || last_run(row, !reverse) == b;
  }

  // (T, B): when outputs are held, the step that the output at each step comes from: the last step that ran, or -1.
  std::vector<Index> held_from(bool reverse) const;

 private:
  void cut_into_runs(const std::vector<Index>& ends, const std::uint8_t* mask, const std::uint8_t* reset);
  void sort_by_length(std::vector<Index> lengths, const std::vector<Index>& rows);

  Index T_, B_;
  Rows rows_;
  std::vector<Index> active_, offset_, order_, length_, time_, time_from_, runs_, runs_from_;
  std::vector<Gap> gaps_;
  std::vector<char> anew_;  // (B,) where reset[b, 0] is true; empty if it is true nowhere
};

// Sets the outputs of skipped steps to the output of the previous step (in running order), or to zero before the first
// step.
template <class T>
void hold(const Schedule& schedule, const Strided& y, Index H, bool reverse);
// The gradient of a held output belongs to the step that computed it: adds it up in `sums` (T, B, H), at the steps that
// ran.
template <class T>
void sum_held(const Schedule& schedule, const Strided& dy, T* sums, Index H, bool reverse);

// Copies the tokens of the steps that run, in the order of rows, from a caller's (T, B) in C order. Each token is read
// once, and that value is checked. Throws std::out_of_range for a token outside [0, input_size).
void take_tokens(const std::int64_t* from, std::int64_t* to, const Schedule& schedule, Index input_size, bool reverse);
// The same for a single step: (B,).
void take_tokens(const std::int64_t* from, std::int64_t* to, Index B, Index input_size);

// Copies rows from the caller's order to sorted order, or back. A null `from` means zeros. Rows copied to sorted order
// are padded to `to_stride` with zeros, because padded lanes start from zero and stay there.
template <class T>
void copy_rows(T* to, Index to_stride, const T* from, Index from_stride, Index rows, Index width, const Rows& order,
               bool sorted_to);

}  // namespace fusedrnn
