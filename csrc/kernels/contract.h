// The contract between core and kernels: plain structs of pointers and sizes, and the table of entry points of one ISA.
// Standard C headers only, because the kernels include this file with their own ISA's compiler flags. Not here: any
// computation, or the layout of packed arrays (kernels/layout.h). Next, read kernels/forward.h, which uses Forward, and
// core/forward.cpp, which fills it.
//
// Kernels never allocate, throw, print or touch Python: core allocates every array that a struct points to. Comments
// say who fills an array and how long it lives: for a call, for a chunk of steps within the call, or for as long as the
// tape (in training) or the weights.
//
// Names: T time, B batch, I input, H hidden, G gates, N = sum of the lengths ("rows"), R units of h. Hp and Rp are H
// and R rounded up to whole vectors.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../cells/cells.h"

namespace fusedrnn {

using Index = ptrdiff_t;

// Functions shared by core and kernels are always inlined: a copy compiled with one ISA's flags must never be the copy
// that the linker keeps for everybody. The `objects` check of CMakeLists.txt looks for leaks.
#define FUSEDRNN_INLINE inline __attribute__((always_inline))

inline constexpr int kMaxStates = 2;

// A skipped step, at its position in the caller's arrays.
struct Gap {
  Index time, row;
};

// What a step does besides applying its cell: kernels/forms.h.
enum Form { kPlain, kMasked, kProjected, kNormed, kFormCount };

// Which rows of the batch are active at each step. The kernels see rows sorted by decreasing length, so that the rows
// active at step t are the first active(t); row b of step t is row offset(t) + b of every buffer over time. A mask
// reduces a row to its unmasked steps, and a reset turns the steps after it into a row of their own (Schedule in
// core/schedule.h), so the loop over time knows about neither. Filled by Schedule, which owns the arrays; read-only,
// and valid as long as the Schedule.
struct Rows {
  Index T = 0, B = 0;                // T: steps with at least one active row
  const Index* active_at = nullptr;  // (T,); offset_at: (T + 1,). Both null when every length is T
  const Index* offset_at = nullptr;
  const Index* order = nullptr;   // (B,) sorted row -> the caller's row; null: the same
  const Index* length = nullptr;  // (B,) lengths of the sorted rows; null: T
  // Where on the caller's time axis the steps of row b are, in rising order: time[time_from[b]] and the entries after
  // it; without `time`: time_from[b], time_from[b] + 1, ...; without both: 0, 1, ...
  const Index* time = nullptr;
  const Index* time_from = nullptr;
  const Gap* gap = nullptr;  // (gaps,) with a table of times: the steps at which a row does not run
  Index gaps = 0;

  FUSEDRNN_INLINE Index active(Index t) const { return t >= T ? 0 : active_at ? active_at[t] : B; }
  FUSEDRNN_INLINE Index offset(Index t) const { return offset_at ? offset_at[t] : t * B; }
  FUSEDRNN_INLINE Index caller_row(Index b) const { return order ? order[b] : b; }
  FUSEDRNN_INLINE Index length_of(Index b) const { return length ? length[b] : T; }
  FUSEDRNN_INLINE Index caller_time(Index t, Index b, bool reverse) const {
    const Index step = reverse ? length_of(b) - 1 - t : t;
    if (!time_from) return step;
    return time ? time[time_from[b] + step] : time_from[b] + step;
  }
};

// Packed parameters of layer normalisation. Gains and biases of both products are (gates * Hp,), in the order of the
// packed columns; gain_c and bias_c, for an LSTM's c, are (Hp,). Filled by pack_norm; owned by the weights.
template <class T>
struct Norm {
  T *gain_x = nullptr, *gain_h = nullptr, *bias_x = nullptr, *bias_h = nullptr, *gain_c = nullptr, *bias_c = nullptr;
  T eps = 0;
};
template <class T>
struct RawNorm {  // torch's layout; the caller's arrays, read while the weights are packed
  const T *gain_ih = nullptr, *gain_hh = nullptr, *gain_c = nullptr, *bias_c = nullptr;
  const T *b_ih = nullptr, *b_hh = nullptr;  // replace the biases of RawWeights
  double eps = 0;
};

// Packed weights. Columns of a gate row are ordered [panel][gate][unit block of the panel][lane]: see kernels/layout.h.
// Filled by CellKernels::pack (units, options and fetch_ahead by core/weights.cpp) when the weights are made; read-only
// afterwards, and owned by the Weights object.
template <class T>
struct Packed {
  Index I = 0, H = 0;
  Index R = 0;  // inputs of the recurrent product, the units of h: H, or fewer with a projection; 0: no such product
  T* W_x = nullptr;       // per phase: panels of (I, gates * units)
  T* W_h = nullptr;       // per phase: panels of (R, gates * units)
  T* b_x = nullptr;       // (gates * Hp,) by panel: what the input part starts from
  T* b_h = nullptr;       // (Hp,), split cells only: what the recurrent part of the first gate starts from
  T* W_x_back = nullptr;  // panels of input columns: (gates * Hp, columns); null unless packed for training
  T* W_h_back = nullptr;  // panels of columns of h, in the same layout
  T *W_r = nullptr, *W_r_back = nullptr;  // projection: panels of (H, units of h); back: panels of hidden columns
  T* units = nullptr;                     // (unit_parameters, Hp), zeros for rows that RawWeights lacks
  Norm<T> norm;
  CellOptions options;
  bool fetch_ahead = false;  // W_h exceeds a core's L2: tiles prefetch the next panel while they use this one
};

// The caller's parameters; read only while the weights are packed.
template <class T>
struct RawWeights {
  const T *W_ih, *W_hh, *b_ih, *b_hh;  // torch's layout; biases may be null
  const T* units = nullptr;            // (unit_rows, H / sharing)
  Index unit_rows = 0;                 // rows given: the last ones of the cell's unit parameters; the others are zeros
  const T* W_hr = nullptr;             // (R, H), or null
  RawNorm<T> norm = {};
};

// A caller's (time, batch, feature) array. Strides are in bytes, so that any NumPy view fits. In a packed array, which
// has the steps of all rows on its time axis (Schedule in core/schedule.h), `batch` is 0: the time alone says where a
// step is.
struct Strided {
  char* data = nullptr;
  Index time = 0, batch = 0, feature = 0;
};

// A counter on a cache line of its own, written by one thread and read by others.
struct alignas(64) Flag {
  Index at = 0;
};

// A team of `size` threads is a grid: `row_groups` groups, each with its own rows; the size / row_groups threads of a
// group share the hidden units. kernels/parallel.h synchronises the threads. A Team and its arrays are made by
// core/team.cpp and live for one call.
struct Team {
  Index size = 1, row_groups = 1;
  Index l2_bytes = 1 << 20;     // of one core; how many rows are multiplied at once follows from this
  Flag* flags = nullptr;        // (size,) steps each thread has finished; its row group waits for them in sync()
  Flag* barriers = nullptr;     // (size,) barriers each thread has reached; the whole team waits for them
  int* stop = nullptr;          // set by rank 0 when a signal arrived: every thread then returns at once
  Flag* progress = nullptr;     // (size,) steps whose outputs are written; the team of the layer above waits for them
  const Team* below = nullptr;  // the team whose outputs this team reads while they are written; null: none
  // Asks whether a signal arrived. Set only in the team whose rank 0 is the thread that made the call.
  bool (*interrupted)(void*) = nullptr;
  void* interrupted_argument = nullptr;
};

// One thread of a team.
struct Member {
  Team* team;
  Index rank;
  Index steps = 0, barriers = 0;  // how many it has passed
  Index waited = 0;               // nanoseconds spent in waits that outlasted spinning
  double work = 0;                // floating-point operations since the last check for signals
};

// Part `index`, [begin, end), of n items cut into `parts` nearly equal parts.
struct Range {
  Index begin, end;
};
FUSEDRNN_INLINE Range part_of(Index n, Index index, Index parts) {
  const Index small = n / parts, extra = n % parts;
  const Index begin = index * small + (index < extra ? index : extra);
  return {begin, begin + small + (index < extra ? 1 : 0)};
}

// Masks and rates that the masked forms apply to the states (kernels/forms.h). Filled by core; they live as long as the
// tape in training, else for the call.
template <class T>
struct Masks {
  const T* recurrent = nullptr;          // (B, Rp) factors of h in the recurrent product, sorted rows
  Index recurrent_row = 0;               // stride of a row; 0: the same factors for all rows
  const uint8_t* kept[kMaxStates] = {};  // (N, Rp) for h, (N, Hp) for c: 1 where a unit keeps its old state, else 0
  Index kept_row[kMaxStates] = {};       // stride of a row; 0: the same for all rows
  T rate[kMaxStates] = {};               // the share of its old state that every unit keeps
};

// Arrays of the normed form (kernels/normed.h). Shares are what single blocks of units contribute to sums over a row.
// The forward pass fills all of these; products_h, saved and moments live as long as the tape in training, the shares
// for the call.
template <class T>
struct NormForward {
  // (N in training, else B, gates * Hp): the rows of the recurrent product, in panels like packed columns
  T* products_h = nullptr;
  T* saved = nullptr;  // N gate rows that backward reads; in inference the gate buffer itself
  T *shares_x = nullptr, *shares_h = nullptr, *shares_c = nullptr;  // [group][mean, squares][block][row]
  T* moments = nullptr;  // training only: [x's groups, h's groups, c][mean, rate][N]
};
// The same for backward. The first three are forward's, read-only; the backward pass fills the others, which live for
// the call.
template <class T>
struct NormBackward {
  // as forward left them; products_x in gate rows
  const T *products_x = nullptr, *products_h = nullptr, *moments = nullptr;
  T *dproducts_x = nullptr, *dproducts_h = nullptr;  // chunk_rows gate rows each, for one chunk
  T* dseen = nullptr;   // gradient of normalised c, for one chunk: [block][chunk_rows][lane]
  T* shares = nullptr;  // for one step: [c, x's groups, h's groups][sum, sum along][block][row]
  // Sums over all steps in packed order, and then the caller's arrays that two of them are unpacked to.
  T *dgain_x = nullptr, *dgain_h = nullptr, *dgain_c = nullptr, *dbias_c = nullptr;
  T *dgain_ih = nullptr, *dgain_hh = nullptr;
};

// One forward call: one layer in one direction over a sequence. Core (core/forward.cpp; core/stepper.cpp for a stream)
// sets the sizes and pointers, the initial states and the masks; the pass fills the rest. Arrays live for the call
// unless a comment says otherwise; "tape" means as long as the tape in training, else for the call.
template <class T>
struct Forward {
  const Packed<T>* weights;
  Rows rows;
  bool reverse, keep;     // keep: save the gates for backward
  bool history;           // keep the states of every step (training); else two slots alternate
  Strided x;              // the caller's (T, B, I), or null and
  const int64_t* tokens;  // (N,) in the order of rows: core's checked copy; tape
  bool x_direct;          // x rows are aligned and contiguous, and read in place; else gathered
  T* gather;              // (threads, kGatherRows, I), filled by the pass; null when x_direct
  Strided y;              // the caller's (y_T, B, R), feature contiguous, filled by the pass; data may be null
  Index y_T;              // steps of y, 0 if packed; where a row does not run, y becomes zero
  T* gates;               // gate_rows gate rows, filled by the pass: all N (keep; tape) or the current chunk's
  Index gate_rows;
  // Without a recurrent matrix, if gates are not kept: numbers of each thread's own gate rows of one panel. 0: all
  // panels have gate rows, which a single step needs.
  Index own_gates;
  Index chunk_rows;       // most rows of a chunk
  Index input_rows;       // most rows whose input part is computed at once
  T* states[kMaxStates];  // tape. (B + N, or 2 * B without history; Hp, for h Rp); core sets the initial states, the
                          // first B rows
  Index slot;             // 0 or 1: the slot with the initial state, when there is no history
  T* recurrent;           // tape. Operand of the recurrent product, rows as in states: h itself, or h times its mask
  T* operand;             // tape. Two phases: the second product's operand, (N or B, Hp)
  T* candidate;           // tape. Masked forms: c before zoneout, rows as in states; or c itself
  T* hidden;              // tape. Projected form: the cell's h before the projection, (N or B, Hp)
  NormForward<T> norm;
  Masks<T> masks;
  T* states_n[kMaxStates];  // final states, the caller's rows; null: the caller of the kernel reads them from states
  Index states_n_stride[kMaxStates];
};

// One backward call. Core (core/backward.cpp) sets the sizes and pointers. What forward kept is read-only and lives as
// long as the tape; dy is the caller's; the pass fills the other arrays, which live for the call unless they are the
// caller's (dx and the gradients in torch's layout).
template <class T>
struct Backward {
  const Packed<T>* weights;
  Rows rows;
  bool reverse;
  const T* x;                      // (N, I) in the order of rows, or null and
  const int64_t* tokens;           // (N,)
  const T* gates;                  // N gate rows
  const T* states[kMaxStates];     // (B + N, Hp; for h Rp)
  const T *recurrent, *candidate;  // rows as in states
  const T *operand, *hidden;       // (N, Hp)
  NormBackward<T> norm;
  Masks<T> masks;
  Strided dy;        // (dx_T, B, R), feature contiguous; data may be null
  Strided dx;        // (dx_T, B, I), feature contiguous; data null: not wanted
  bool accumulate;   // add to dx instead of overwriting it
  Index dx_T;        // steps of dx, 0 if packed; where a row does not run, dx becomes zero
  Index chunk_rows;  // most rows of a chunk
  T* dgates;         // chunk_rows gate rows: gradients of the pre-activations of one chunk
  // (B; Hp, for h Rp), sorted rows. In, set by core: the gradient of the final states; out: that of the initial states.
  T* dstates[kMaxStates];
  T* doperand;              // two phases: gradient of the second product's operand at one step, (B, Hp)
  T* drecurrent;            // masked forms: gradient of the recurrent product's operand, (B, Rp), zeroed by core
  T *dprojected, *dhidden;  // projected form: chunk_rows gate rows of Projection; (B, Hp)
  // The chunk's x, h and second operand (or hidden), packed for the weight gradients: the sum of their widths, each
  // rounded up to whole vectors, times chunk_rows.
  T* inputs;
  // All rows are one chunk, and so few that weight gradients are summed directly in the caller's arrays: set when N <=
  // kBackwardRows, kFewRows * N <= I + R and h is not projected.
  bool few_rows;
  T *dW_x, *dW_h, *db, *dW_r;  // sums in panel layout, which are then unpacked to the caller's:
  T *dW_ih, *dW_hh, *db_ih, *db_hh, *dW_hr;
  T* dunits;  // (unit_parameters, Hp); null: not wanted
  // Without a recurrent matrix: the sums over each batch row's steps, (B, unit_parameters, Hp); zeroed by core.
  T* dunit_rows;
};

// The kernels of one cell in one ISA: the cell's traits (cells/cell.h) and its entry points.
template <class T>
struct CellKernels {
  int gates, states, phases, split, saved, unit_parameters;
  bool recurrent;
  // Without a recurrent matrix: see cells/cell.h; and numbers in a gate row of the widest panel.
  int sharing, skip, panel_width;
  // panels of units in forward, the most of any phase: the units of work that threads can share
  Index (*panels)(Index H);
  Index (*back_panels)(Index R);  // the same in backward, of units of h
  void (*pack)(const RawWeights<T>&, const Packed<T>&, Member&);
  void (*pack_norm)(const RawNorm<T>&, const Norm<T>&, Index H);  // null: no normed form
  void (*forward[kFormCount])(const Forward<T>&, Member&);        // null: the cell does not have this form
  void (*backward[kFormCount])(const Backward<T>&, Member&);
};

// The kernels of one ISA for one dtype.
template <class T>
struct KernelTable {
  int lanes;
  const CellKernels<T>*recurrent_cells, *scan_cells;  // in the order of the lists in cells/cells.h
  void (*add)(const T*, T*, Index);                   // y += x
  void (*exp)(const T*, T*, Index);
  void (*sigmoid)(const T*, T*, Index);
  void (*tanh)(const T*, T*, Index);

  FUSEDRNN_INLINE const CellKernels<T>& cell(int id) const {
    return id < kRecurrentCells ? recurrent_cells[id] : scan_cells[id - kRecurrentCells];
  }
};

struct Kernels {
  const char* name;
  const KernelTable<float>& f32;
  const KernelTable<double>& f64;
};

inline constexpr Index kInputRows = 192;     // most rows of an input product: their gates stay in L2 until their step
inline constexpr Index kGatherRows = 192;    // most rows of x that a thread addresses (or gathers) at once
inline constexpr Index kBackwardRows = 768;  // most rows of a backward chunk: dW is read and written once per chunk
inline constexpr Index kFewRows = 4;         // Backward::few_rows is set when kFewRows * rows <= I + R

// The end of the chunk of steps that starts at t: as many whole steps as have at most `rows` rows in all, and at least
// one.
FUSEDRNN_INLINE Index chunk_end(const Rows& r, Index t, Index rows) {
  Index end = t + 1;
  while (end < r.T && r.offset(end + 1) - r.offset(t) <= rows) ++end;
  return end;
}

}  // namespace fusedrnn
