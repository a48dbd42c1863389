// The inner loops of linear attention: a state is a matrix of rows m and lanes, and a step is
//   X <- decay * (X + pre_c pre_u^T) + sum_w c_w u_w^T,  then  y_r += X^T e_r  for some reads r.
// Forward over values, its gradients over values, and those over keys differ only in which operand is which.
//
// tile() keeps some rows of X in registers and runs a chunk of steps. sweep() runs one step over all rows, for the
// delta rule, whose writes depend on what it read.
#pragma once

#include "../math/math.h"
#include "attention_contract.h"
#include "steps.h"

namespace fusedrnn::FUSEDRNN_ISA {

// A decay is one number of a step, one for each row m, or one for each lane.
enum DecayForm { kScalar, kOfRow, kOfLane };

// Operand arrays have one row for each step (`*_step`) and write or read (`*_next`); those in lanes are padded.
template <class T>
struct Tile {
  T* state = nullptr;
  Index steps = 0, width = 0, rows = 0;
  const T* decay = nullptr;
  Index decay_step = 0;
  const T *pre_u = nullptr, *pre_c = nullptr;  // or null
  Index pre_u_step = 0, pre_c_step = 0;
  Index writes = 1, reads = 1;
  const T *u = nullptr, *c = nullptr;
  Index u_step = 0, u_next = 0, c_step = 0, c_next = 0;
  const T* e = nullptr;
  Index e_step = 0, e_next = 0;
  const T* last_e = nullptr;  // of the last read, if it is of another array; or null
  Index last_e_step = 0;
  T* y = nullptr;  // y_step = reads * width
};

template <class T, int ROWS, int VECTORS, int DECAY>
[[gnu::noinline]] void tile(const Tile<T>& s, Index m) {
  constexpr int W = kLanes<T>;
  Vec<T> x[ROWS][VECTORS];
#pragma GCC unroll 4
  for (int j = 0; j < ROWS; ++j)
#pragma GCC unroll 4
    for (int p = 0; p < VECTORS; ++p) x[j][p] = load(s.state + (m + j) * s.width + p * W);
  T* y = s.y;
  for (Index i = 0; i < s.steps; ++i) {
    if (s.pre_u) {
      const T *const u = s.pre_u + i * s.pre_u_step, *const c = s.pre_c + i * s.pre_c_step + m;
#pragma GCC unroll 4
      for (int p = 0; p < VECTORS; ++p) {
        const Vec<T> v = load(u + p * W);
#pragma GCC unroll 4
        for (int j = 0; j < ROWS; ++j) x[j][p] = v * c[j] + x[j][p];
      }
    }
    const T* const decay = s.decay + i * s.decay_step;
#pragma GCC unroll 4
    for (int p = 0; p < VECTORS; ++p) {
      const Vec<T> of_lane = DECAY == kOfLane ? load(decay + p * W) : splat(decay[0]);
#pragma GCC unroll 4
      for (int j = 0; j < ROWS; ++j) x[j][p] *= DECAY == kOfRow ? splat(decay[m + j]) : of_lane;
    }
    const T *u = s.u + i * s.u_step, *c = s.c + i * s.c_step + m;
    for (Index w = 0; w < s.writes; ++w, u += s.u_next, c += s.c_next) {
#pragma GCC unroll 4
      for (int p = 0; p < VECTORS; ++p) {
        const Vec<T> v = load(u + p * W);
#pragma GCC unroll 4
        for (int j = 0; j < ROWS; ++j) x[j][p] = v * c[j] + x[j][p];
      }
    }
    const T* e = s.e + i * s.e_step + m;
    for (Index r = 0; r < s.reads; ++r, e += s.e_next, y += s.width) {
#pragma GCC unroll 4
      for (int p = 0; p < VECTORS; ++p) {
        Vec<T> v = load(y + p * W);
#pragma GCC unroll 4
        for (int j = 0; j < ROWS; ++j) v = x[j][p] * e[j] + v;
        store(y + p * W, v);
      }
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < ROWS; ++j)
#pragma GCC unroll 4
    for (int p = 0; p < VECTORS; ++p) store(s.state + (m + j) * s.width + p * W, x[j][p]);
}

template <class T, int VECTORS, int DECAY>
void tiles_of(const Tile<T>& s) {
  Index m = 0;
  for (; m + 4 <= s.rows; m += 4) tile<T, 4, VECTORS, DECAY>(s, m);
  for (; m < s.rows; ++m) tile<T, 1, VECTORS, DECAY>(s, m);
}
template <class T, int VECTORS>
void tiles_of(const Tile<T>& s, DecayForm form) {
  if (form == kScalar) tiles_of<T, VECTORS, kScalar>(s);
  else if (form == kOfRow) tiles_of<T, VECTORS, kOfRow>(s);
  else tiles_of<T, VECTORS, kOfLane>(s);
}

inline constexpr int kTileVectors = kRegisters == 32 ? kAttentionVectors : kAttentionVectors / 2;

// Copies the rows of n steps, `items` each, so that they follow each other in memory: from step to step, those of the
// caller may be a multiple of 4 KiB apart, and would then evict each other from L1.
template <class T>
void pack_rows(const T* from, Index step, Index next, Index n, Index items, Index count, T* to, Index to_step) {
  const Index stride = attention_row(count, static_cast<Index>(kLanes<T>));
  for (Index i = 0; i < n; ++i)
    for (Index j = 0; j < items; ++j) copy_row(from + i * step + j * next, to + i * to_step + j * stride, count);
}

// All rows of the state over the steps of a chunk; y starts at zero.
template <class T>
void run_tiles(Tile<T> s, DecayForm form, const AttentionWork<T>& w) {
  const Index stride = attention_row(s.rows, static_cast<Index>(kLanes<T>)), own = s.reads - (s.last_e ? 1 : 0);
  pack_rows(s.c, s.c_step, s.c_next, s.steps, s.writes, s.rows, w.packed_c, s.writes * stride);
  pack_rows(s.e, s.e_step, s.e_next, s.steps, own, s.rows, w.packed_e, s.reads * stride);
  if (s.last_e) pack_rows(s.last_e, s.last_e_step, 0, s.steps, 1, s.rows, w.packed_e + own * stride, s.reads * stride);
  s.c = w.packed_c, s.c_step = s.writes * stride, s.c_next = stride;
  s.e = w.packed_e, s.e_step = s.reads * stride, s.e_next = stride;
  for (Index i = 0; i < s.steps * s.reads * s.width; i += kLanes<T>) store(s.y + i, Vec<T>{});
  if constexpr (kTileVectors == 4)
    if (s.width == 4 * kLanes<T>) return tiles_of<T, 4>(s, form);
  if (s.width == 2 * kLanes<T>) tiles_of<T, 2>(s, form);
  else tiles_of<T, 1>(s, form);
}

// The width of the block of `count` numbers, in whole vectors of a tile.
template <class T>
Index block_width(Index count, Index most) {
  Index vectors = 1;
  while (vectors * kLanes<T> < count) vectors *= 2;
  const Index width = vectors * kLanes<T>;
  return width < most ? width : most;
}

// ---- one step over all rows

template <class T>
struct Sweep {
  T* state = nullptr;
  Index width = 0, rows = 0;
  const T* decay = nullptr;                    // one, or one for each row
  const T *pre_c = nullptr, *pre_u = nullptr;  // rows; lanes
  Index writes = 0;
  const T *u = nullptr, *c = nullptr;
  Index u_next = 0, c_next = 0;
  const T *key = nullptr, *e = nullptr;  // two reads; without `e` one
  T *read = nullptr, *y = nullptr;       // and their results, in lanes
};

template <class T, int VECTORS, bool OF_ROW, bool FORWARD>
[[gnu::noinline]] void sweep(const Sweep<T>& s) {
  constexpr int W = kLanes<T>;
  Vec<T> pre[VECTORS], read[VECTORS] = {}, y[VECTORS] = {};
#pragma GCC unroll 2
  for (int p = 0; p < VECTORS; ++p) pre[p] = load(s.pre_u + p * W);
  T* state = s.state;
  for (Index m = 0; m < s.rows; ++m, state += s.width) {
    Vec<T> x[VECTORS];
    const T decay = s.decay[OF_ROW ? m : 0];
#pragma GCC unroll 2
    for (int p = 0; p < VECTORS; ++p) x[p] = (pre[p] * s.pre_c[m] + load(state + p * W)) * decay;
    if constexpr (!FORWARD)
      for (Index w = 0; w < s.writes; ++w)
#pragma GCC unroll 2
        for (int p = 0; p < VECTORS; ++p) x[p] = load(s.u + w * s.u_next + p * W) * s.c[w * s.c_next + m] + x[p];
#pragma GCC unroll 2
    for (int p = 0; p < VECTORS; ++p) {
      store(state + p * W, x[p]);
      read[p] = x[p] * s.key[m] + read[p];
      if constexpr (FORWARD) y[p] = x[p] * s.e[m] + y[p];
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < VECTORS; ++p) {
    store(s.read + p * W, read[p]);
    if constexpr (FORWARD) store(s.y + p * W, y[p]);
  }
}

template <class T, bool FORWARD>
void run_sweep(const Sweep<T>& s, bool of_row) {
  if (s.width == 2 * kLanes<T>) of_row ? sweep<T, 2, true, FORWARD>(s) : sweep<T, 2, false, FORWARD>(s);
  else of_row ? sweep<T, 1, true, FORWARD>(s) : sweep<T, 1, false, FORWARD>(s);
}

// y = X^T e for one more read of a forward step.
template <class T>
[[gnu::noinline]] void read_again(const Sweep<T>& s, const T* e, T* y) {
  for (Index l = 0; l < s.width; l += kLanes<T>) {
    Vec<T> v = {};
    for (Index m = 0; m < s.rows; ++m) v = load(s.state + m * s.width + l) * e[m] + v;
    store(y + l, v);
  }
}

// X += c u^T, and then, with `decay`, times that of each row, or of all.
template <class T>
[[gnu::noinline]] void write_last(T* state, Index width, Index rows, const T* c, const T* u, const T* decay,
                                  bool of_row) {
  for (Index m = 0; m < rows; ++m)
    for (Index l = 0; l < width; l += kLanes<T>) {
      Vec<T> x = load(u + l) * c[m] + load(state + m * width + l);
      if (decay) x *= decay[of_row ? m : 0];
      store(state + m * width + l, x);
    }
}

// ---- operands

// exp of a decay; below the range of exp() it is zero.
template <class T>
inline Vec<T> decay_of(Vec<T> x) {
  const Vec<T> e = exp(x);
  return x < MathConstants<T>::lowest ? Vec<T>{} : e;
}

template <class T>
[[gnu::noinline]] T dot(const T* a, const T* b, Index n) {
  Vec<T> sum = {};
  for (Index i = 0; i < n; i += kLanes<T>) sum = load_partial(a + i, n - i) * load_partial(b + i, n - i) + sum;
  return sum_lanes<T>(sum);
}

// factor * from, in `width` lanes, zeros past `count`.
template <class T>
inline void pack_lanes(const T* from, Index count, T factor, T* to, Index width) {
  for (Index l = 0; l < width; l += kLanes<T>)
    store(to + l, l < count ? load_partial(from + l, count - l) * factor : Vec<T>{});
}

// A block of a state: rows m of `width` lanes, from a matrix (rows, lanes) with strides; null: zeros.
template <class T>
[[gnu::noinline]] void load_state(const T* from, Index row, Index lane, Index rows, Index count, T* state,
                                  Index width) {
  for (Index m = 0; m < rows; ++m)
    if (from && lane == 1) {
      pack_lanes(from + m * row, count, T(1), state + m * width, width);
    } else {
      for (Index l = 0; l < width; ++l) state[m * width + l] = from && l < count ? from[m * row + l * lane] : T(0);
    }
}

}  // namespace fusedrnn::FUSEDRNN_ISA
