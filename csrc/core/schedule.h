// Which rows of a batch run at which step: lengths, masks and resets of a caller, as the kernels' Rows.
#pragma once

#include <cstdint>
#include <vector>

#include "api.h"

namespace fusedrnn {

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

// The tokens of the steps that run, in the order of rows, from a caller's (T, B) in C order. Each is read once and
// checked then. Throws std::out_of_range for one outside [0, input_size).
void take_tokens(const std::int64_t* from, std::int64_t* to, const Schedule& schedule, Index input_size, bool reverse);
// The same for a single step: (B,).
void take_tokens(const std::int64_t* from, std::int64_t* to, Index B, Index input_size);

// Rows of the caller's order to sorted rows, or back. A null `from` is zeros. Rows that go to sorted ones are padded to
// `to_stride` with zeros: padded lanes start from zero and stay there.
template <class T>
void copy_rows(T* to, Index to_stride, const T* from, Index from_stride, Index rows, Index width, const Rows& order,
               bool sorted_to);

}  // namespace fusedrnn
