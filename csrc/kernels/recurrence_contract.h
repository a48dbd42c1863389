// The contract between core and the kernels of linear recurrences on plain arrays: scans (array_scan.h) and dense state
// spaces (state_space.h). As in contract.h, core allocates every array, and kernels never allocate, throw or touch
// Python. Not here: cells and layers.
//
// Letters: T steps, B rows, H units, n states, m inputs, p outputs. Strides count elements. Arrays whose names end in
// `_time` have a stride of steps, in running order: it is negative for a scan from the last step to the first, so the
// kernels know nothing of directions.
#pragma once

#include "contract.h"

namespace fusedrnn {

// One byte for each step and row, (T, B) in running order: whether the row runs the step, and whether its state becomes
// zero before the step. A null array means that all rows run all steps.
enum StepFlag : uint8_t { kRuns = 1, kCut = 2 };

// h_t = a_t h_{t-1} + b_t for B independent rows of `units` numbers. A complex unit is two numbers side by side.
template <class T>
struct Scan {
  Index T_ = 0, B = 0, units = 0;
  bool complex = false;
  bool stream = false;  // the outputs exceed the caches: stores bypass them
  const uint8_t* flags = nullptr;
  // a_unit: 1, or 0 when all units share one number. The other strides are 0 where a does not change.
  const T* a = nullptr;
  Index a_time = 0, a_row = 0, a_unit = 0;
  const T* b = nullptr;  // forward only
  Index b_time = 0, b_row = 0;
  const T* h_0 = nullptr;  // (B, units), or null: zeros
  T* h = nullptr;          // forward writes, backward reads it; its stride of rows is `units`
  Index h_time = 0;
  T* h_n = nullptr;  // (B, units), forward only

  // Backward only. dh and dh_n may be null: zeros.
  const T* dh = nullptr;
  Index dh_time = 0, dh_row = 0;
  const T* dh_n = nullptr;
  T* db = nullptr;
  Index db_time = 0;  // strides of rows of db and da are `units`
  T* dh_0 = nullptr;
  // The gradient of a, summed over what the kernel sees at once: with a_time = 0 over the steps, (B, units); else with
  // a_unit = 0 over kScanSum numbers at a time, (T, B, sums) pairs of numbers; else (T, B, units).
  T* da = nullptr;
  Index da_time = 0;

  T* work = nullptr;  // scan_work() numbers for each thread
};

inline constexpr Index kScanBlock = 4096;  // numbers that a thread carries through time at once: 16 or 32 KiB of state
inline constexpr Index kScanSum = 1024;    // numbers whose products are summed to one part of the gradient of a
inline constexpr Index kScanLanes = 16;    // of the widest vector; blocks of units are multiples of it

FUSEDRNN_INLINE Index scan_granule(bool sums) { return sums ? kScanSum : kScanLanes; }
// State, and two sums in time.
FUSEDRNN_INLINE Index scan_work() { return 3 * kScanBlock; }

// Matrices (rows, columns) in C order: one for all steps and rows (strides 0), or one for each step, or for each step
// and row.
template <class T>
struct Matrices {
  const T* at = nullptr;
  Index rows = 0, columns = 0, time = 0, row = 0;
};

// Gradients of matrices, in the same form, and the partial sums that a constant matrix needs.
template <class T>
struct MatrixGradients {
  T* at = nullptr;
  Index time = 0, row = 0;
  T* parts = nullptr;  // (parts, rows, padded columns), filled by core
};

enum Operand { kA, kB, kC, kD, kOperands };

// x_t = A_t x_{t-1} + B_t u_t;  y_t = C_t x_t + D_t u_t, or with `before` y_t = C_t x_{t-1} + D_t u_t. All inner arrays
// are in running order and contiguous; n, m and p are padded to whole vectors, with zeros in the padding.
template <class T>
struct StateSpace {
  Index T_ = 0, B = 0, n = 0, m = 0, p = 0;
  Index np = 0, mp = 0, pp = 0;  // padded
  bool before = false;
  const uint8_t* flags = nullptr;
  Matrices<T> of[kOperands];  // D.at may be null
  // (T, B, u_row), zero where a row does not run. Backward needs the padding, u_row = mp; forward also reads the
  // caller's array, u_row = m.
  const T* u = nullptr;
  Index u_row = 0;
  T *earlier = nullptr, *x = nullptr;  // (T, B, np): x_{t-1} and x_t, zero where a row does not run; without flags one
                                       // array (T + 1, B, np), of which both are parts
  T* state = nullptr;                  // (B, np): in: the first state; out: the last one
  T* y = nullptr;                      // the caller's, row stride p
  Index y_time = 0;

  // Backward only
  const T* dy = nullptr;  // (T, B, pp), zero where a row does not run, or null: zeros
  T* l = nullptr;         // (T, B, np): gradients of x_t, zero where a row does not run
  T* du = nullptr;        // the caller's, row stride m
  Index du_time = 0;
  MatrixGradients<T> d[kOperands];
  Index parts = 0;  // partial sums of a constant matrix; part i sums its share of the T * B rows

  T* packed[kOperands] = {};  // constant operands, packed as they are multiplied: (k, columns of a panel) by panel
  T* work = nullptr;          // `work_size` numbers for each thread
  Index work_size = 0;
  Index chunk_rows = 0;  // most rows of a chunk of steps
};

// The width of a chunk's rows, and of a row of zeros, in a thread's work.
template <class T>
FUSEDRNN_INLINE Index widest_padded(const StateSpace<T>& s) {
  const Index most = s.np > s.mp ? s.np : s.mp;
  return most > s.pp ? most : s.pp;
}

inline constexpr Index kStateSpaceRows = 256;  // rows of a chunk, unless one step has more
inline constexpr Index kLaneVectors = 8;       // vectors of rows that state_space_lanes.h carries through time at once

// The entry points of one instruction set for one dtype.
template <class T>
struct RecurrenceTable {
  int lanes;
  void (*scan_forward)(const Scan<T>&, Member&);
  void (*scan_backward)(const Scan<T>&, Member&);
  void (*state_space_forward)(const StateSpace<T>&, Member&);
  void (*state_space_backward)(const StateSpace<T>&, Member&);
};

}  // namespace fusedrnn
