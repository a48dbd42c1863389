// Linear attention, backward, in three phases with a barrier between them.
//   1. Blocks of values, back in time: G_t, the gradient of S_t, gives dv and the gradient of S_0. No states needed.
//   2. Blocks of keys. Forward in time: S_t again, transposed, gives dq; back in time: G_t, transposed, gives dk. The
//      gradient of a decay is a sum over later steps of q dq - k dk (the products of G with the decayed state are what
//      one step's terms add to the next one's), from the end or the nearest checkpoint of S.
//   3. Sums over blocks.
// With the delta correction S_t and G_t have one more write each, and phase 1 comes first because both need dv.
#pragma once

#include "attention.h"

namespace fusedrnn::FUSEDRNN_ISA {

template <class T>
void set_ones(T* to, Index n) {
  for (Index i = 0; i < n; ++i) to[i] = T(1);
}

template <class T>
Index part_at(const Attention<T>& a, const Block<T>& b, Index t, Index blocks, Index most) {
  return ((t * a.B + b.row) * a.kv_heads + b.head) * blocks + b.from / most;
}

// ---- phase 1

// The factors' rows are shifted by one: row i is the decay of the step after step i, which acts on G first.
template <class T>
void values_tiles(const Attention<T>& a, const Block<T>& b, const AttentionWork<T>& w, Member& m) {
  const bool per_key = a.decays == Attention<T>::kPerKey;
  const Index stride = per_key ? rounded_up(a.dk, kLanes<T>) : 1, group = a.group(), q_head = b.head * group;
  const Index matrix = b.matrix(a) + b.from, value = b.head * a.dv + b.from;
  load_state(a.dS_n ? a.dS_n + matrix : nullptr, a.dv, 1, a.dk, b.count, w.state, b.width);
  set_ones(w.decay, stride);
  clear_zeros(w, a.dk > b.width ? a.dk : b.width);
  Tile<T> s;
  s.state = w.state, s.width = b.width, s.rows = a.dk;
  s.decay = w.decay, s.decay_step = stride;
  s.writes = group, s.u = w.u, s.u_step = group * b.width, s.u_next = b.width, s.c_step = -a.q.time, s.c_next = a.dk;
  s.e_step = -a.k.time, s.y = w.y;
  const RowSteps steps{a.flags, a.B, b.row, 0};
  for (Index t = a.T_; t > 0;) {
    Index begin = t - 1;
    if (steps.runs(begin)) {
      begin = steps.begin(t, kAttentionSteps);
      s.steps = t - begin;
      fill_decays(a, t - 1, -1, s.steps, b, 0, a.dk, stride, w.decay + stride);
      for (Index i = 0; i < s.steps; ++i)
        for (Index g = 0; g < group; ++g)
          pack_lanes(a.d_o.of(t - 1 - i, b.row) + (q_head + g) * a.dv + b.from, b.count, a.scale,
                     w.u + (i * group + g) * b.width, b.width);
      s.c = a.q.of(t - 1, b.row) + q_head * a.dk, s.e = a.k.of(t - 1, b.row) + b.head * a.dk;
      run_tiles(s, per_key ? kOfRow : kScalar, w);
      for (Index i = 0; i < s.steps; ++i) copy_row(w.y + i * b.width, a.dv_.of(t - 1 - i, b.row) + value, b.count);
      for (Index n = 0; n < stride; ++n) w.decay[n] = w.decay[s.steps * stride + n];
      did(m, static_cast<double>(6 * s.steps * a.dk * b.width));
    } else {
      copy_row<T>(nullptr, a.dv_.of(begin, b.row) + value, b.count);
    }
    if (steps.cut(begin)) {
      load_state<T>(nullptr, a.dv, 1, a.dk, b.count, w.state, b.width);
      set_ones(w.decay, stride);
    }
    t = begin;
    if (stopped(m)) return;
  }
  write_last<T>(w.state, b.width, a.dk, w.zeros, w.zeros, w.decay, per_key);
  store_state(w.state, b.width, a.dS_0 + matrix, a.dv, a.dk, b.count);
}

template <class T>
void values_sweeps(const Attention<T>& a, const Block<T>& b, const AttentionWork<T>& w, Member& m) {
  const bool per_key = a.decays == Attention<T>::kPerKey;
  const Index stride = per_key ? rounded_up(a.dk, kLanes<T>) : 1, group = a.group(), q_head = b.head * group;
  const Index matrix = b.matrix(a) + b.from, value = b.head * a.dv + b.from;
  const Index blocks = blocks_of(a.dv, kSweepWidth<T>);
  load_state(a.dS_n ? a.dS_n + matrix : nullptr, a.dv, 1, a.dk, b.count, w.state, b.width);
  clear_zeros(w, a.dk);
  Pending<T> pending{nullptr, w.zeros, w.pre_u, b.width};
  pending.clear();
  set_ones(w.decay, stride);
  Sweep<T> s;
  s.state = w.state, s.width = b.width, s.rows = a.dk;
  s.decay = w.decay, s.pre_u = pending.u, s.read = w.y;
  s.writes = group, s.u = w.u, s.u_next = b.width, s.c_next = a.dk;
  const RowSteps steps{a.flags, a.B, b.row, 0};
  for (Index t = a.T_ - 1; t >= 0; --t) {
    T *const dv = a.dv_.of(t, b.row) + value, *const part = a.beta_parts + part_at(a, b, t, blocks, kSweepWidth<T>);
    if (steps.runs(t)) {
      for (Index g = 0; g < group; ++g)
        pack_lanes(a.d_o.of(t, b.row) + (q_head + g) * a.dv + b.from, b.count, a.scale, w.u + g * b.width, b.width);
      s.pre_c = pending.key, s.c = a.q.of(t, b.row) + q_head * a.dk, s.key = a.k.of(t, b.row) + b.head * a.dk;
      run_sweep<T, false>(s, per_key);
      const T beta = a.beta.of(t, b.row)[b.head * a.beta_head];
      for (Index l = 0; l < b.width; l += kLanes<T>) {
        const Vec<T> of_value = load(w.y + l) * beta;
        if (l < b.count) store_partial(dv + l, of_value, b.count - l);
        store(pending.u + l, -of_value);
      }
      *part = dot<T>(w.y, a.error.of(t, b.row) + value, b.count);
      pending.key = s.key;
      fill_decays(a, t, 1, 1, b, 0, a.dk, stride, w.decay);
      did(m, static_cast<double>(8 * a.dk * b.width));
    } else {
      copy_row<T>(nullptr, dv, b.count);
      *part = T(0);
    }
    if (steps.cut(t)) {
      load_state<T>(nullptr, a.dv, 1, a.dk, b.count, w.state, b.width);
      pending.clear();
      set_ones(w.decay, stride);
    }
    if (stopped(m)) return;
  }
  write_last(w.state, b.width, a.dk, pending.key, pending.u, w.decay, per_key);
  store_state(w.state, b.width, a.dS_0 + matrix, a.dv, a.dk, b.count);
}

// ---- phase 2

template <class T>
inline constexpr int kWide = static_cast<int>(sizeof(double) / sizeof(T));
template <class T>
[[gnu::always_inline]] inline void widen(Vec<T> v, Vec<double>* to) {
  if constexpr (kWide<T> == 1) {
    to[0] = v;
  } else {
    typename LanesOf<T, kLanes<T> / 2>::type half[2];
    __builtin_memcpy(half, &v, sizeof v);
    to[0] = __builtin_convertvector(half[0], Vec<double>), to[1] = __builtin_convertvector(half[1], Vec<double>);
  }
}
template <class T>
[[gnu::always_inline]] inline Vec<T> narrow(const Vec<double>* from) {
  Vec<T> v;
  if constexpr (kWide<T> == 1) {
    v = from[0];
  } else {
    using Half = typename LanesOf<T, kLanes<T> / 2>::type;
    const Half half[2] = {__builtin_convertvector(from[0], Half), __builtin_convertvector(from[1], Half)};
    __builtin_memcpy(&v, half, sizeof v);
  }
  return v;
}

// A block of keys. Rows of the transposed state are values.
template <class T>
struct Keys {
  const Attention<T>& a;
  const Block<T>& b;
  const AttentionWork<T>& w;
  Member& m;
  const bool delta = a.beta.at, per_key = a.decays == Attention<T>::kPerKey, decays = a.decays != Attention<T>::kNone;
  const Index group = a.group(), stride = per_key ? b.width : 1, rows = a.dv;
  const Index key = b.head * a.dk + b.from, value = b.head * a.dv;
  const Index query = b.head * group * a.dk + b.from, output = b.head * group * a.dv;
  const RowSteps steps = {a.flags, a.B, b.row, decays ? a.spacing : 0};
  Vec<double> sums[kAttentionVectors * 2] = {};  // of the gradient of the decay
  Index first = -1;  // step that the row runs; without S_0 there is nothing to decay before it

  void load_transposed(const T* from) {
    load_state(from ? from + b.matrix(a) + b.from * a.dv : nullptr, 1, a.dv, rows, b.count, w.state, b.width);
  }
  // Saves the state before step t, or the last one.
  T* checkpoint(Index t) const { return w.checkpoints + (t / a.spacing - 1) * rows * b.width; }
  T* last_checkpoint() const { return w.checkpoints + (a.checkpoints - 1) * rows * b.width; }
  void save(T* to) const {
    if (decays)
      for (Index i = 0; i < rows * b.width; i += kLanes<T>) store(to + i, load(w.state + i));
  }
  // What a step writes: v, or beta * error, of n steps from t on, `way` 1 or -1.
  void fill_writes(Tile<T>& s, Index t, Index way, const T*& at, Index& step) {
    at = a.v.of(t, b.row) + value, step = way * a.v.time;
    if (!delta) return;
    for (Index i = 0; i < s.steps; ++i) {
      const T beta = a.beta.of(t + way * i, b.row)[b.head * a.beta_head];
      pack_lanes(a.error.of(t + way * i, b.row) + value, rows, beta, w.c + i * rounded_up(rows, kLanes<T>),
                 rounded_up(rows, kLanes<T>));
    }
    at = w.c, step = rounded_up(rows, kLanes<T>);
  }
  Tile<T> tile_of_block() const {
    Tile<T> s;
    s.state = w.state, s.width = b.width, s.rows = rows;
    s.decay_step = stride, s.u = w.u, s.y = w.y;
    return s;
  }

  // dq, and with the delta correction what dk gets from the read of the decayed state.
  void forward() {
    load_transposed(a.S_0);
    Tile<T> s = tile_of_block();
    s.decay = w.decay, s.u_step = b.width;
    s.reads = group + delta, s.e_step = a.d_o.time, s.e_next = a.dv, s.last_e_step = a.dv_.time;
    for (Index t = 0; t < a.T_;) {
      if (t > 0 && steps.spacing && t % steps.spacing == 0) save(checkpoint(t));
      if (steps.cut(t)) load_transposed(nullptr);
      if (!steps.runs(t)) {
        for (Index g = 0; g < group; ++g) copy_row<T>(nullptr, a.dq.of(t, b.row) + query + g * a.dk, b.count);
        copy_row<T>(nullptr, a.dk_.of(t++, b.row) + key, b.count);
        continue;
      }
      if (first < 0) first = t;
      const Index end = steps.end(t, a.T_, kAttentionSteps);
      s.steps = end - t;
      fill_decays(a, t, 1, s.steps, b, b.from, b.count, stride, w.decay);
      for (Index i = 0; i < s.steps; ++i)
        pack_lanes(a.k.of(t + i, b.row) + key, b.count, T(1), w.u + i * b.width, b.width);
      fill_writes(s, t, 1, s.c, s.c_step);
      s.e = a.d_o.of(t, b.row) + output;
      if (delta) s.last_e = a.dv_.of(t, b.row) + value;
      run_tiles(s, per_key ? kOfLane : kScalar, w);
      const T* y = w.y;
      for (Index i = 0; i < s.steps; ++i) {
        for (Index g = 0; g < group; ++g, y += b.width) {
          T* const dq = a.dq.of(t + i, b.row) + query + g * a.dk;
          for (Index l = 0; l < b.count; l += kLanes<T>) store_partial(dq + l, load(y + l) * a.scale, b.count - l);
        }
        if (!delta) continue;
        const T written = dot(s.c + i * s.c_step, a.dv_.of(t + i, b.row) + value, rows);
        T* const dk = a.dk_.of(t + i, b.row) + key;
        for (Index l = 0; l < b.count; l += kLanes<T>)
          store_partial(dk + l, load(w.u + i * b.width + l) * written - load(y + l), b.count - l);
        y += b.width;
      }
      t = end;
      did(m, static_cast<double>(6 * s.steps * rows * b.width));
      if (stopped(m)) return;
    }
    save(last_checkpoint());
  }

  // The gradient of the next step's decay: the sum of G, decayed, times the state before that step.
  void restart(const T* state) {
    if (!decays) return;
    for (Index l = 0; l < b.width; l += kLanes<T>) {
      Vec<T> sum = {};
      for (Index i = 0; i < rows; ++i) {
        Vec<T> g = load(w.state + i * b.width + l);
        if (delta) g = load(w.pre_u + l) * w.pre_c[i] + g;
        sum = g * load(state + i * b.width + l) + sum;
      }
      widen<T>(sum * (per_key ? load(w.decay + l) : splat(w.decay[0])), sums + l / kLanes<T> * kWide<T>);
    }
  }
  void clear_shifted() {
    set_ones(w.decay, stride);
    for (Index l = 0; l < b.width; ++l) w.pre_u[l] = T(0);
    for (Index i = 0; i < rows; ++i) w.pre_c[i] = T(0);
  }
  void store_decay(Index t, bool none) {
    Vec<double> total = {};
    for (Index l = 0; l < b.width; l += kLanes<T>) {
      Vec<double>* const sum = sums + l / kLanes<T> * kWide<T>;
      if (none)
        for (int i = 0; i < kWide<T>; ++i) sum[i] = Vec<double>{};
      if (per_key) {
        if (l < b.count) store_partial(a.ddecay.of(t, b.row) + key + l, narrow<T>(sum), b.count - l);
      } else {
        for (int i = 0; i < kWide<T>; ++i) total += sum[i];
      }
    }
    if (!per_key)
      a.decay_parts[part_at(a, b, t, blocks_of(a.dk, kTileWidth<T>), kTileWidth<T>)] =
          static_cast<T>(sum_lanes<double>(total));
  }
  // One step's dk, from y = G w, and the gradient of its decay.
  void finish_step(Index t, const T* y, const T* decay, bool none) {
    T* const dk = a.dk_.of(t, b.row) + key;
    const T *const k = a.k.of(t, b.row) + key, *const q = a.q.of(t, b.row) + query;
    const T* const dq = a.dq.of(t, b.row) + query;
    for (Index l = 0; l < b.count; l += kLanes<T>) {
      const Index rest = b.count - l;
      const Vec<T> of_write = load(y + l), of_read = delta ? load_partial(dk + l, rest) : Vec<T>{};
      store_partial(dk + l, of_write + of_read, rest);
      if (!decays) continue;
      Vec<double>* const sum = sums + l / kLanes<T> * kWide<T>;
      Vec<double> x[kWide<T>], z[kWide<T>];
      for (Index g = 0; g < group; ++g) {
        widen<T>(load_partial(q + g * a.dk + l, rest), x), widen<T>(load_partial(dq + g * a.dk + l, rest), z);
        for (int i = 0; i < kWide<T>; ++i) sum[i] += x[i] * z[i];
      }
      widen<T>(load_partial(k + l, rest), x), widen<T>(of_write - of_read, z);
      for (int i = 0; i < kWide<T>; ++i) sum[i] -= x[i] * z[i];
    }
    if (!decays) return;
    store_decay(t, none);
    if (!per_key && decay[0] != T(0)) return;
    for (Index l = 0; l < b.count; l += kLanes<T>) {  // nothing before a decay of zero counts
      const Vec<T> factor = per_key ? load(decay + l) : Vec<T>{};
      Vec<double> x[kWide<T>];
      widen<T>(factor, x);
      Vec<double>* const sum = sums + l / kLanes<T> * kWide<T>;
      for (int i = 0; i < kWide<T>; ++i) sum[i] = x[i] == 0 ? Vec<double>{} : sum[i];
    }
  }

  void backward() {
    load_transposed(a.dS_n);
    clear_shifted();
    restart(last_checkpoint());
    Tile<T> s = tile_of_block();
    const Index padded = rounded_up(rows, kLanes<T>);
    s.decay = w.decay, s.writes = group, s.u_step = group * b.width, s.u_next = b.width;
    s.c_step = -a.d_o.time, s.c_next = a.dv;
    if (delta) s.pre_u = w.pre_u, s.pre_c = w.pre_c, s.pre_u_step = b.width, s.pre_c_step = padded;
    for (Index t = a.T_; t > 0;) {
      Index begin = t - 1;
      const bool runs = steps.runs(begin);
      if (runs) begin = steps.begin(t, kAttentionSteps);
      const bool cut = steps.cut(begin);
      if (runs) {
        s.steps = t - begin;
        fill_decays(a, t - 1, -1, s.steps, b, b.from, b.count, stride, w.decay + stride);
        for (Index i = 0; i < s.steps; ++i) {
          const Index at = t - 1 - i;
          for (Index g = 0; g < group; ++g)
            pack_lanes(a.q.of(at, b.row) + query + g * a.dk, b.count, a.scale, w.u + (i * group + g) * b.width,
                       b.width);
          if (!delta) continue;
          pack_lanes(a.k.of(at, b.row) + key, b.count, T(-1), w.pre_u + (i + 1) * b.width, b.width);
          pack_lanes(a.dv_.of(at, b.row) + value, rows, T(1), w.pre_c + (i + 1) * padded, padded);
        }
        s.c = a.d_o.of(t - 1, b.row) + output;
        fill_writes(s, t - 1, -1, s.e, s.e_step);
        run_tiles(s, per_key ? kOfLane : kScalar, w);
        const bool none = cut || (!a.S_0 && begin == first);
        for (Index i = 0; i < s.steps; ++i)
          finish_step(t - 1 - i, w.y + i * b.width, w.decay + (i + 1) * stride, none && i == s.steps - 1);
        for (Index n = 0; n < stride; ++n) w.decay[n] = w.decay[s.steps * stride + n];
        if (delta) {
          copy_row(w.pre_u + s.steps * b.width, w.pre_u, b.width);
          copy_row(w.pre_c + s.steps * padded, w.pre_c, padded);
        }
        did(m, static_cast<double>(6 * s.steps * rows * b.width));
      } else if (per_key) {
        copy_row<T>(nullptr, a.ddecay.of(begin, b.row) + key, b.count);
      } else if (decays) {
        a.decay_parts[part_at(a, b, begin, blocks_of(a.dk, kTileWidth<T>), kTileWidth<T>)] = T(0);
      }
      t = begin;
      if (cut) {
        load_transposed(nullptr);
        clear_shifted();
        for (Vec<double>& sum : sums) sum = Vec<double>{};
      } else if (t > 0 && steps.spacing && t % steps.spacing == 0) {
        restart(checkpoint(t));
      }
      if (stopped(m)) return;
    }
  }
};

template <class T>
void attention_backward(const Attention<T>& a, Member& m) {
  const FloatingPointState floating_point;
  const AttentionWork<T> w = work_of(a, m);
  const Index most = a.beta.at ? kSweepWidth<T> : kTileWidth<T>, value_blocks = blocks_of(a.dv, most);
  const Index key_blocks = blocks_of(a.dk, kTileWidth<T>), matrices = a.B * a.kv_heads;
  const Range of_values = part_of(matrices * value_blocks, m.rank, m.team->size);
  for (Index position = of_values.begin; position < of_values.end && !stopped(m); ++position) {
    const Block<T> b(a, position, a.dv, most);
    a.beta.at ? values_sweeps(a, b, w, m) : values_tiles(a, b, w, m);
  }
  if (!barrier(m)) return;
  const Range of_keys = part_of(matrices * key_blocks, m.rank, m.team->size);
  for (Index position = of_keys.begin; position < of_keys.end && !stopped(m); ++position) {
    const Block<T> b(a, position, a.dk, kTileWidth<T>);
    Keys<T> keys{a, b, w, m};
    keys.forward();
    if (!stopped(m)) keys.backward();
  }
  if (!barrier(m)) return;
  const Range rows = part_of(a.B, m.rank, m.team->size);
  const bool per_head = a.decays == Attention<T>::kPerHead;
  for (Index t = 0; t < a.T_ && (per_head || a.beta.at); ++t)
    for (Index row = rows.begin; row < rows.end; ++row) {
      T of_all_heads = 0;
      for (Index head = 0; head < a.kv_heads; ++head) {
        const Index at = (t * a.B + row) * a.kv_heads + head;
        if (per_head) {
          T sum = 0;
          for (Index i = 0; i < key_blocks; ++i) sum += a.decay_parts[at * key_blocks + i];
          a.ddecay.of(t, row)[head] = sum;
        }
        if (!a.beta.at) continue;
        T sum = 0;
        for (Index i = 0; i < value_blocks; ++i) sum += a.beta_parts[at * value_blocks + i];
        of_all_heads += sum;
        if (a.beta_head) a.dbeta.of(t, row)[head] = sum;
      }
      if (a.beta.at && !a.beta_head) a.dbeta.of(t, row)[0] = of_all_heads;
    }
}

}  // namespace fusedrnn::FUSEDRNN_ISA
