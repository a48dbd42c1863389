// What kernels and core agree on: plain structs of pointers and sizes. Standard C headers only, because the kernels
// include it with their own ISA's flags. Kernels never allocate, throw, print or touch Python.
//
// Names: T time, B batch, I input, H hidden, G gates, N = sum of lengths ("rows"), Hp = H rounded up to whole vectors.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace fusedrnn {

using Index = ptrdiff_t;

// Functions shared by core and kernels are always inlined: a copy compiled with one ISA's flags must never be the one
// the linker keeps for everybody. The `objects` check of CMakeLists.txt looks for leaks.
#define FUSEDRNN_INLINE inline __attribute__((always_inline))

// The usual form of a cell has its functions compiled in; its ...Options form takes them from CellOptions.
enum CellId {
  kRNNTanh,
  kRNNRelu,
  kGRUAfter,
  kGRUBefore,
  kGRUSimple,
  kLSTM,
  kRNNOptions,
  kGRUAfterOptions,
  kGRUBeforeOptions,
  kGRUSimpleOptions,
  kLSTMOptions,
  kLSTMCoupled,
  kCellCount
};

// The same order as kActivationNames of core/weights.cpp.
enum ActivationId {
  kSigmoid,
  kTanh,
  kRelu,
  kHardSigmoid,
  kHardTanh,
  kSoftsign,
  kSoftplus,
  kLeakyRelu,
  kElu,
  kAffine,
  kScaledTanh,
  kThresholdedRelu,
  kLinear,
  kActivationCount
};
struct Activation {
  ActivationId id = kTanh;
  double alpha = 0, beta = 0;
};

enum Peephole { kNoPeephole, kPeepholeIFO, kPeepholeOPrev };  // see cells/lstm.h

// What a cell's ...Options form computes with; the usual forms ignore it.
struct CellOptions {
  Activation gate{kSigmoid}, state, output;
  double clip = __builtin_inf(), cell_clip = __builtin_inf();  // of pre-activations, of c; infinity: none
  Peephole peephole = kNoPeephole;
};

inline constexpr int kMaxStates = 2;

// A step that is skipped, in the caller's arrays.
struct Gap {
  Index time, row;
};

// How a step is built around its cell: kernels/forms.h.
enum Form { kPlain, kMasked, kProjected, kNormed, kFormCount };

// The rows of a batch by step. Rows are sorted by falling length inside, so those active at step t are the first
// active(t); row b of step t is row offset(t) + b of every buffer over time. A mask leaves a row the steps it has, a
// reset makes a row of its own of what follows (Schedule in core/schedule.h): the loop over time knows of neither.
struct Rows {
  Index T = 0, B = 0;                // T: steps with at least one active row
  const Index* active_at = nullptr;  // (T,), offset_at (T + 1,); null when every length is T
  const Index* offset_at = nullptr;
  const Index* order = nullptr;   // (B,) sorted row -> the caller's; null: the same
  const Index* length = nullptr;  // (B,) of sorted rows; null: T
  const Index* time = nullptr;    // times of each row's steps, from time_from[b] on, in rising order; null: 0, 1, ...
  const Index* time_from = nullptr;
  const Gap* gap = nullptr;  // with a table of times: the steps that no row has
  Index gaps = 0;

  FUSEDRNN_INLINE Index active(Index t) const { return t >= T ? 0 : active_at ? active_at[t] : B; }
  FUSEDRNN_INLINE Index offset(Index t) const { return offset_at ? offset_at[t] : t * B; }
  FUSEDRNN_INLINE Index caller_row(Index b) const { return order ? order[b] : b; }
  FUSEDRNN_INLINE Index length_of(Index b) const { return length ? length[b] : T; }
  FUSEDRNN_INLINE Index caller_time(Index t, Index b, bool reverse) const {
    const Index step = reverse ? length_of(b) - 1 - t : t;
    return time ? time[time_from[b] + step] : step;
  }
};

// Layer normalisation: gains and biases of both products in the order of the packed columns, and of an LSTM's c, (Hp,).
template <class T>
struct Norm {
  T *gain_x = nullptr, *gain_h = nullptr, *bias_x = nullptr, *bias_h = nullptr, *gain_c = nullptr, *bias_c = nullptr;
  T eps = 0;
};
template <class T>
struct RawNorm {  // torch's layout
  const T *gain_ih = nullptr, *gain_hh = nullptr, *gain_c = nullptr, *bias_c = nullptr;
  const T *b_ih = nullptr, *b_hh = nullptr;  // in place of those of RawWeights
  double eps = 0;
};

// Packed weights. Columns of a gate row are ordered [panel][gate][unit block of the panel][lane]: see kernels/layout.h.
template <class T>
struct Packed {
  Index I = 0, H = 0;
  Index R = 0;            // units of h, and so of the recurrent product: H, or fewer with a projection
  T* W_x = nullptr;       // per phase: panels of (I, gates * units)
  T* W_h = nullptr;       // per phase: panels of (R, gates * units)
  T* b_x = nullptr;       // initial value of the input part
  T* b_h = nullptr;       // split cells: initial value of the recurrent part of the first gate, (Hp,)
  T* W_x_back = nullptr;  // panels of input columns: (gates * Hp, columns); null when not packed for training
  T* W_h_back = nullptr;  // panels of columns of h, the same
  T *W_r = nullptr, *W_r_back = nullptr;  // projection: panels of (H, units of h); of hidden columns
  T* units = nullptr;                     // (unit_parameters, Hp)
  Norm<T> norm;
  CellOptions options;
  bool fetch_ahead = false;  // W_h is larger than a core's cache: while a panel is used, the next one comes from beyond
};

template <class T>
struct RawWeights {
  const T *W_ih, *W_hh, *b_ih, *b_hh;  // torch's layout; biases may be null
  const T* units = nullptr;            // (unit_rows, H)
  Index unit_rows = 0;                 // the cell's last ones; those before them are zeros
  const T* W_hr = nullptr;             // (R, H), or null
  RawNorm<T> norm = {};
};

// A caller's (time, batch, feature) array; strides in bytes, so that any NumPy view fits.
struct Strided {
  char* data = nullptr;
  Index time = 0, batch = 0, feature = 0;
};

// A team of `size` threads is a grid: `row_groups` groups of rows, each split over size / row_groups threads by hidden
// units. How they keep in step: kernels/parallel.h.
struct alignas(64) Flag {
  Index at = 0;
};

struct Team {
  Index size = 1, row_groups = 1;
  Flag* flags = nullptr;        // one per thread: steps done, watched by the thread's row group
  Flag* barriers = nullptr;     // one per thread: barriers passed, watched by everybody
  int* stop = nullptr;          // set by rank 0 when a signal arrived: everybody returns at once
  Flag* progress = nullptr;     // one per thread: steps whose outputs are there, watched by the team above
  const Team* below = nullptr;  // whose outputs this team reads while they come
  bool (*interrupted)(void*) = nullptr;
  void* interrupted_argument = nullptr;
};

struct Member {
  Team* team;
  Index rank;
  Index steps = 0, barriers = 0;  // passed so far
  Index waited = 0;               // nanoseconds in waits that outlasted spinning
  double work = 0;                // floating-point operations since the last look for signals
};

// [begin, end) of part `index` of `parts` nearly equal parts of n things.
struct Range {
  Index begin, end;
};
FUSEDRNN_INLINE Range part_of(Index n, Index index, Index parts) {
  const Index small = n / parts, extra = n % parts;
  const Index begin = index * small + (index < extra ? index : extra);
  return {begin, begin + small + (index < extra ? 1 : 0)};
}

// What masked forms apply to the states; see kernels/forms.h.
template <class T>
struct Masks {
  const T* recurrent = nullptr;  // factors of h in the recurrent product, by sorted row; row stride 0: the same for all
  Index recurrent_row = 0;
  const uint8_t* kept[kMaxStates] = {};  // by row of the sequence: 1 where a unit keeps its old state
  Index kept_row[kMaxStates] = {};
  T rate[kMaxStates] = {};  // the share of its old state that every unit keeps
};

// Of the normed form (kernels/normed.h). Shares are what blocks of units contribute to sums over a row.
template <class T>
struct NormForward {
  T* products_h = nullptr;  // rows of the recurrent product: N (training) or B, in the layout of packed columns
  T* saved = nullptr;       // gate rows for backward; inference: the gate buffer itself
  T *shares_x = nullptr, *shares_h = nullptr, *shares_c = nullptr;  // [group][mean, squares][block][row]
  T* moments = nullptr;  // training: [x's groups, h's groups, c][mean, rate][N]
};
template <class T>
struct NormBackward {
  const T *products_x = nullptr, *products_h = nullptr, *moments = nullptr;  // of forward; x's in gate rows
  T *dproducts_x = nullptr, *dproducts_h = nullptr;                          // chunk_rows gate rows
  T* dseen = nullptr;   // gradient of normalised c: [block][chunk_rows][lane]
  T* shares = nullptr;  // [c, x's groups, h's groups][sum, sum along][block][row]
  T *dgain_x = nullptr, *dgain_h = nullptr, *dgain_c = nullptr, *dbias_c = nullptr;  // packed; final place of two:
  T *dgain_ih = nullptr, *dgain_hh = nullptr;
};

template <class T>
struct Forward {
  const Packed<T>* weights;
  Rows rows;
  bool reverse, keep;     // keep: save gates for backward
  bool history;           // states of every step are kept (training), else two slots alternate
  Strided x;              // or
  const int64_t* tokens;  // (N,) in the order of rows: core's checked copy
  bool x_direct;          // x rows are aligned and contiguous: read in place; else gathered
  T* gather;              // (threads, kGatherRows, I), when not x_direct
  Strided y;              // feature contiguous; data may be null
  Index y_T;              // steps of y, for the zeros past a row's end
  T* gates;               // gate rows: N (keep) or chunk_rows of them
  Index gate_rows;
  Index chunk_rows;
  Index input_rows;       // most rows whose input part is computed at once
  T* states[kMaxStates];  // (B + N or 2 * B, Hp; h: Rp); the first B rows hold the initial state
  Index slot;             // 0 or 1: which of the two slots holds it, when there is no history
  T* recurrent;           // operand of the recurrent product, rows as of the states: h itself, or h under its mask
  T* operand;             // two phases: second operand, (N or B, Hp)
  T* candidate;           // masked forms: c before zoneout, rows as of the states, or c itself
  T* hidden;              // projected form: what h is the projection of, (N or B, Hp)
  NormForward<T> norm;
  Masks<T> masks;
  T* states_n[kMaxStates];  // final states, caller's order; null: left in the slots
  Index states_n_stride[kMaxStates];
};

template <class T>
struct Backward {
  const Packed<T>* weights;
  Rows rows;
  bool reverse;
  const T* x;             // (N, I) in row order, or
  const int64_t* tokens;  // (N,)
  const T* gates;         // N gate rows
  const T* states[kMaxStates];
  const T *recurrent, *candidate;  // as in Forward
  const T *operand, *hidden;       // (N, Hp)
  NormBackward<T> norm;
  Masks<T> masks;
  Strided dy;       // feature contiguous; data may be null
  Strided dx;       // feature contiguous; data null: not wanted
  bool accumulate;  // add to dx
  Index dx_T;
  Index chunk_rows;
  T* dgates;                // chunk_rows gate rows
  T* dstates[kMaxStates];   // (B, Hp; h: Rp), sorted rows; in: gradient of the final states, out: of the initial ones
  T* doperand;              // two phases: (B, Hp)
  T* drecurrent;            // masked forms: gradient of the operand of the recurrent product, (B, Rp), zeros at first
  T *dprojected, *dhidden;  // projected form: gate rows of Projection for chunk_rows; (B, Hp)
  T* inputs;      // the chunk's x, h and second operand (or hidden), packed for the weight gradients: their widths,
                  // rounded up to whole vectors, times chunk_rows
  bool few_rows;  // all rows are one chunk, and so few that weight gradients are summed where the caller wants them
  T *dW_x, *dW_h, *db, *dW_r;  // sums in panel layout, and their final place:
  T *dW_ih, *dW_hh, *db_ih, *db_hh, *dW_hr;
  T* dunits;  // (unit_parameters, Hp); null: not wanted
};

// One cell of one ISA: its traits (cells/cell.h) and its entry points.
template <class T>
struct CellKernels {
  int gates, states, phases, split, saved, unit_parameters;
  Index (*panels)(Index H);       // of units in forward, the most of any phase: what threads can share
  Index (*back_panels)(Index R);  // of units of h in backward
  void (*pack)(const RawWeights<T>&, const Packed<T>&, Member&);
  void (*pack_norm)(const RawNorm<T>&, const Norm<T>&, Index H);  // null: no normed form
  void (*forward[kFormCount])(const Forward<T>&, Member&);        // null: this cell has no such form
  void (*backward[kFormCount])(const Backward<T>&, Member&);
};

template <class T>
struct KernelTable {
  int lanes;
  CellKernels<T> cells[kCellCount];
  void (*add)(const T*, T*, Index);  // to y
  void (*exp)(const T*, T*, Index);
  void (*sigmoid)(const T*, T*, Index);
  void (*tanh)(const T*, T*, Index);
};

struct Kernels {
  const char* name;
  const KernelTable<float>& f32;
  const KernelTable<double>& f64;
};

inline constexpr Index kInputRows = 192;     // most rows of an input product: their gates stay in L2 until their step
inline constexpr Index kGatherRows = 192;    // rows of x a thread addresses (or gathers) at once
inline constexpr Index kBackwardRows = 768;  // rows per chunk of backward: dW is read and written once per chunk
inline constexpr Index kFewRows = 4;         // so many times fewer rows than inputs are few: Backward::few_rows

// The end of the chunk of steps that starts at t: as many whole steps as fit in `rows`, at least one.
FUSEDRNN_INLINE Index chunk_end(const Rows& r, Index t, Index rows) {
  Index end = t + 1;
  while (end < r.T && r.offset(end + 1) - r.offset(t) <= rows) ++end;
  return end;
}

}  // namespace fusedrnn
