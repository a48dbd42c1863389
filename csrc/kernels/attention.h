// Linear attention, forward. Time runs in order; threads share rows, heads and blocks of values, whose columns of the
// state do not depend on each other. The sums over keys run in order, whatever the block or the chunk, so a sequence in
// parts has the same bits as in one. Next, read attention_backward.h.
#pragma once

#include "attention_tiles.h"
#include "parallel.h"
#include "steps.h"

namespace fusedrnn::FUSEDRNN_ISA {

template <class T>
inline constexpr Index kTileWidth = kTileVectors * kLanes<T>;
template <class T>
inline constexpr Index kSweepWidth = kSweepVectors * kLanes<T>;
inline Index blocks_of(Index n, Index width) { return (n + width - 1) / width; }

// A block of one matrix of state: of a row, a head, and `count` lanes from `from` on.
template <class T>
struct Block {
  Index row, head, from, count, width;

  Block(const Attention<T>& a, Index position, Index lanes, Index most) {
    const Index blocks = blocks_of(lanes, most);
    row = position / blocks / a.kv_heads, head = position / blocks % a.kv_heads;
    from = position % blocks * most, count = lanes - from < most ? lanes - from : most;
    width = block_width<T>(count, most);
  }
  Index matrix(const Attention<T>& a) const { return (row * a.kv_heads + head) * a.dk * a.dv; }
};

// The decays of n steps from t on, `way` 1, or back in time, -1: `count` numbers of a head from `from` on, `stride`
// apart; without a decay per key one number for each step.
template <class T>
void fill_decays(const Attention<T>& a, Index t, Index way, Index n, const Block<T>& b, Index from, Index count,
                 Index stride, T* to) {
  if (a.decays == Attention<T>::kPerKey) {
    for (Index i = 0; i < n; ++i) {
      const T* const at = a.decay.of(t + way * i, b.row) + b.head * a.dk + from;
      for (Index l = 0; l < stride; l += kLanes<T>)
        store(to + i * stride + l, l < count ? decay_of<T>(load_partial(at + l, count - l)) : splat(T(1)));
    }
    return;
  }
  for (Index i = 0; i < n; ++i) to[i] = a.decays == Attention<T>::kNone ? T(1) : a.decay.of(t + way * i, b.row)[b.head];
  if (a.decays == Attention<T>::kPerHead)
    for (Index i = 0; i < n; i += kLanes<T>) store_partial(to + i, decay_of<T>(load_partial(to + i, n - i)), n - i);
}

template <class T>
void store_state(const T* state, Index width, T* to, Index row, Index rows, Index count) {
  for (Index m = 0; m < rows; ++m) copy_row(state + m * width, to + m * row, count);
}

template <class T>
void forward_tiles(const Attention<T>& a, const Block<T>& b, const AttentionWork<T>& w, Member& m) {
  const bool per_key = a.decays == Attention<T>::kPerKey;
  const Index stride = per_key ? rounded_up(a.dk, kLanes<T>) : 1, group = a.group(), q_head = b.head * group;
  const Index matrix = b.matrix(a) + b.from;
  load_state(a.S_0 ? a.S_0 + matrix : nullptr, a.dv, 1, a.dk, b.count, w.state, b.width);
  Tile<T> s;
  s.state = w.state, s.width = b.width, s.rows = a.dk;
  s.decay = w.decay, s.decay_step = stride;
  s.u = w.u, s.u_step = b.width, s.c_step = a.k.time;
  s.reads = group, s.e_step = a.q.time, s.e_next = a.dk, s.y = w.y;
  const RowSteps steps{a.flags, a.B, b.row, 0};
  for (Index t = 0; t < a.T_;) {
    if (steps.cut(t)) load_state<T>(nullptr, a.dv, 1, a.dk, b.count, w.state, b.width);
    if (!steps.runs(t)) {
      for (Index g = 0; g < group; ++g) copy_row<T>(nullptr, a.o.of(t, b.row) + (q_head + g) * a.dv + b.from, b.count);
      ++t;
      continue;
    }
    const Index end = steps.end(t, a.T_, kAttentionSteps);
    s.steps = end - t;
    fill_decays(a, t, 1, s.steps, b, 0, a.dk, stride, w.decay);
    for (Index i = 0; i < s.steps; ++i)
      pack_lanes(a.v.of(t + i, b.row) + b.head * a.dv + b.from, b.count, T(1), w.u + i * b.width, b.width);
    s.c = a.k.of(t, b.row) + b.head * a.dk, s.e = a.q.of(t, b.row) + q_head * a.dk;
    run_tiles(s, per_key ? kOfRow : kScalar, w);
    const T* y = w.y;
    for (Index i = 0; i < s.steps; ++i)
      for (Index g = 0; g < group; ++g, y += b.width) {
        T* const o = a.o.of(t + i, b.row) + (q_head + g) * a.dv + b.from;
        for (Index l = 0; l < b.count; l += kLanes<T>) store_partial(o + l, load(y + l) * a.scale, b.count - l);
      }
    t = end;
    did(m, static_cast<double>(6 * s.steps * a.dk * b.width));
    if (stopped(m)) return;
  }
  store_state(w.state, b.width, a.S_n + matrix, a.dv, a.dk, b.count);
}

// What the delta rule's next step adds to the state first: key * u^T. Minus zero adds nothing, not even to a zero's
// sign.
template <class T>
struct Pending {
  const T *key, *zeros;
  T* u;
  Index width;
  void clear() {
    key = zeros;
    for (Index l = 0; l < width; ++l) u[l] = T(-0.0);
  }
};

template <class T>
void clear_zeros(const AttentionWork<T>& w, Index n) {
  for (Index i = 0; i < n; ++i) w.zeros[i] = T(0);
}

template <class T>
void forward_sweeps(const Attention<T>& a, const Block<T>& b, const AttentionWork<T>& w, Member& m) {
  const bool per_key = a.decays == Attention<T>::kPerKey;
  const Index stride = per_key ? rounded_up(a.dk, kLanes<T>) : 1, group = a.group(), q_head = b.head * group;
  const Index matrix = b.matrix(a) + b.from;
  load_state(a.S_0 ? a.S_0 + matrix : nullptr, a.dv, 1, a.dk, b.count, w.state, b.width);
  clear_zeros(w, a.dk);
  Pending<T> pending{nullptr, w.zeros, w.pre_u, b.width};
  pending.clear();
  Sweep<T> s;
  s.state = w.state, s.width = b.width, s.rows = a.dk;
  s.decay = w.decay, s.pre_u = pending.u, s.read = w.u, s.y = w.y;
  const RowSteps steps{a.flags, a.B, b.row, 0};
  for (Index t = 0; t < a.T_; ++t) {
    if (steps.cut(t)) {
      load_state<T>(nullptr, a.dv, 1, a.dk, b.count, w.state, b.width);
      pending.clear();
    }
    T* const o = a.o.of(t, b.row) + q_head * a.dv + b.from;
    if (!steps.runs(t)) {
      for (Index g = 0; g < group; ++g) copy_row<T>(nullptr, o + g * a.dv, b.count);
      continue;
    }
    fill_decays(a, t, 1, 1, b, 0, a.dk, stride, w.decay);
    const T *const key = a.k.of(t, b.row) + b.head * a.dk, *const q = a.q.of(t, b.row) + q_head * a.dk;
    s.pre_c = pending.key, s.key = key, s.e = q;
    run_sweep<T, true>(s, per_key);
    const T* const v = a.v.of(t, b.row) + b.head * a.dv + b.from;
    T* const error = a.error.of(t, b.row) + b.head * a.dv + b.from;
    const T beta = a.beta.of(t, b.row)[b.head * a.beta_head];
    for (Index l = 0; l < b.width; l += kLanes<T>) {
      const Vec<T> e = l < b.count ? load_partial(v + l, b.count - l) - load(w.u + l) : Vec<T>{};
      if (l < b.count) store_partial(error + l, e, b.count - l);
      store(pending.u + l, e * beta);
    }
    pending.key = key;
    for (Index g = 0; g < group; ++g) {
      if (g > 0) read_again(s, q + g * a.dk, w.y);
      const T of_key = dot(key, q + g * a.dk, a.dk);
      for (Index l = 0; l < b.count; l += kLanes<T>)
        store_partial(o + g * a.dv + l, (load(pending.u + l) * of_key + load(w.y + l)) * a.scale, b.count - l);
    }
    did(m, static_cast<double>(8 * a.dk * b.width));
    if (stopped(m)) return;
  }
  write_last<T>(w.state, b.width, a.dk, pending.key, pending.u, nullptr, false);
  store_state(w.state, b.width, a.S_n + matrix, a.dv, a.dk, b.count);
}

template <class T>
AttentionWork<T> work_of(const Attention<T>& a, const Member& m) {
  return attention_work(a, static_cast<Index>(kLanes<T>), a.work + m.rank * a.work_size);
}

template <class T>
void attention_forward(const Attention<T>& a, Member& m) {
  const FloatingPointState floating_point;
  const AttentionWork<T> w = work_of(a, m);
  const Index most = a.beta.at ? kSweepWidth<T> : kTileWidth<T>;
  const Range mine = part_of(a.B * a.kv_heads * blocks_of(a.dv, most), m.rank, m.team->size);
  for (Index position = mine.begin; position < mine.end && !stopped(m); ++position) {
    const Block<T> b(a, position, a.dv, most);
    a.beta.at ? forward_sweeps(a, b, w, m) : forward_tiles(a, b, w, m);
  }
}

}  // namespace fusedrnn::FUSEDRNN_ISA
