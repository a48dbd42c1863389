// The selective scan over plain arrays, forward: h_t = a h_{t-1} + b B_t u_t and y_t = (C_t h_t + D u_t) silu(z_t),
// where a and b depend on step size, channel and state. The lanes of a vector are channels; time runs in order, and the
// states of a block of channels stay in registers for a chunk of steps, a few at a time if there are many. No array
// holds all states (docs/decisions/0018-states-not-materialised.md): only those before each chunk are kept for
// backward. Threads share rows and blocks, and never wait for each other. A sum over states runs from the first to the
// last, so bits depend on neither blocks nor threads.
//
// The usual case, real A, "mamba" and B and C that change in time, has a loop of its own; all others take the general
// one, which computes the coefficients of one state for all steps of a chunk first. Next, read selective_backward.h.
#pragma once

#include "../math/exponentials.h"
#include "parallel.h"
#include "selective_contract.h"

namespace fusedrnn::FUSEDRNN_ISA {

// The steps of a chunk that a row runs, and where its state becomes zero.
struct ChunkSteps {
  int count = 0;
  int at[kSelectiveChunk];        // positions in the chunk of the steps that run
  bool cut[kSelectiveChunk + 1];  // before each of these; [count]: after the last one

  template <class T>
  [[gnu::noinline]] ChunkSteps(const SelectiveScan<T>& s, Index row, Index from, Index to) {
    cut[0] = false;
    for (Index t = from; t < to; ++t) {
      const uint8_t flags = s.flags ? s.flags[t * s.B + row] : uint8_t{kRuns};
      if (flags & kCut) cut[count] = true;
      if (!(flags & kRuns)) continue;
      at[count++] = static_cast<int>(t - from);
      cut[count] = false;
    }
  }
};

// A number of states that the compiler knows.
template <int N>
struct Constant {
  static constexpr int value = N;
};

// The channels of one vector.
struct ChannelBlock {
  Index row, first, count, group, number;
};

// The usual case: no coefficient needs more than 2^x.
template <class T>
inline bool plain_decays(const SelectiveScan<T>& s) {
  return !s.complex && s.rule == kMamba && !s.b.constant && !s.c.constant;
}

// Rows of channels, `columns` numbers each, become vectors of channels, and back; lanes beyond `count` become zero.
template <class T>
[[gnu::noinline]] void to_lanes(const T* from, Index columns, Index count, T* to) {
  constexpr Index W = kLanes<T>;
  Index q = 0;
  if (count == W)
    for (; q + W <= columns; q += W) transpose<T>(from + q, columns, to + q * W, W);
  for (; q < columns; ++q)
    for (Index l = 0; l < W; ++l) to[q * W + l] = l < count ? from[l * columns + q] : T(0);
}
template <class T>
[[gnu::noinline]] void from_lanes(const T* from, Index columns, Index count, T* to) {
  constexpr Index W = kLanes<T>;
  Index q = 0;
  if (count == W)
    for (; q + W <= columns; q += W) transpose<T>(from + q * W, W, to + q, columns);
  for (; q < columns; ++q)
    for (Index l = 0; l < count; ++l) to[l * columns + q] = from[q * W + l];
}

template <class T>
[[gnu::noinline]] void copy_vectors(const T* from, T* to, Index n) {
  for (Index i = 0; i < n; i += kLanes<T>) store(to + i, from ? load(from + i) : Vec<T>{});
}

// A of one block. Decays of the usual case are powers of two.
template <class T>
[[gnu::noinline]] void read_A(const SelectiveScan<T>& s, const ChannelBlock& block, T* A) {
  const Index columns = s.N * (s.complex ? 2 : 1);
  to_lanes(s.A + block.first * columns, columns, block.count, A);
  if (plain_decays(s))
    for (Index i = 0; i < columns * kLanes<T>; i += kLanes<T>) store(A + i, load(A + i) * MathConstants<T>::log2_e);
}

template <class T>
inline const T* at_step(const Steps<const T>& steps, const ChannelBlock& block, Index t) {
  return steps.at + t * steps.time + block.row * steps.row + block.first;
}
template <class T>
inline T* at_step(const Steps<T>& steps, const ChannelBlock& block, Index t) {
  return steps.at + t * steps.time + block.row * steps.row + block.first;
}
// B or C, which changes in time, for the channels of a block at the first step of a chunk.
template <class T, class P>
inline P* at_chunk(const SelectiveScan<T>& s, const Couplings<P>& c, const ChannelBlock& block, Index t) {
  return c.at + t * c.time + block.row * c.row + block.group * s.N * (s.complex ? 2 : 1);
}

// The lines of a block in the steps of the next chunk. They are far apart, where no prefetcher of a core expects them;
// each step asks for those of one step, because a core waits for a dozen lines at most.
template <class T>
struct Ahead {
  const T* at[4];
  Index time[4];
  int count = 0;

  template <class P>
  void add(const Steps<P>& steps, const ChannelBlock& block, Index t) {
    if (steps.at) at[count] = at_step(steps, block, t), time[count++] = steps.time;
  }
  inline void fetch(int i) const {
    for (int k = 0; k < count; ++k) __builtin_prefetch(at[k] + i * time[k]);
  }
};

// Step sizes and inputs of a block. `slope`, that of softplus, may be null.
template <class T>
[[gnu::noinline]] void read_chunk(const SelectiveScan<T>& s, const ChannelBlock& block, const ChunkSteps& steps,
                                  Index t0, T* delta, T* u, T* slope) {
  constexpr int W = kLanes<T>;
  const Vec<T> bias = s.bias ? load_partial(s.bias + block.first, block.count) : Vec<T>{};
  for (int i = 0; i < steps.count; ++i) {
    const Index t = t0 + steps.at[i];
    Vec<T> step = load_partial(at_step(s.delta, block, t), block.count);
    if (s.bias) step += bias;
    if (slope) store(slope + i * W, s.softplus ? logistic(step) : splat(T(1)));
    store(delta + i * W, s.softplus ? softplus(step) : step);
    store(u + i * W, load_partial(at_step(s.u, block, t), block.count));
  }
}
// The part of the output that needs no state.
template <class T>
[[gnu::noinline]] void start_outputs(const SelectiveScan<T>& s, const ChannelBlock& block, int count, const T* u,
                                     T* p) {
  constexpr int W = kLanes<T>;
  const Vec<T> skip = s.skip ? load_partial(s.skip + block.first, block.count) : Vec<T>{};
  for (int i = 0; i < count; ++i) store(p + i * W, s.skip ? skip * load(u + i * W) : Vec<T>{});
}

// Zeros where the row of a block does not run.
template <class T>
[[gnu::noinline]] void clear_skipped(const Steps<T>& out, const ChannelBlock& block, const ChunkSteps& steps,
                                     Index from, Index to) {
  if (steps.count == to - from || !out.at) return;
  int i = 0;
  for (Index t = from; t < to; ++t) {
    if (i < steps.count && steps.at[i] == t - from) ++i;
    else store_partial(at_step(out, block, t), Vec<T>{}, block.count);
  }
}

// N states of all steps of a chunk, in registers; b and c are those of the chunk's first step.
template <class T, int N>
[[gnu::noinline]] void advance(const ChunkSteps& steps, const T* A, T* state, const T* delta, const T* u, T* y,
                               const T* b, Index b_time, const T* c, Index c_time, const Ahead<T>& ahead) {
  constexpr int W = kLanes<T>, kTogether = N < 4 ? N : 4;
  Vec<T> h[N];
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) h[n] = load(state + n * W);
#pragma GCC unroll 1
  for (int i = 0; i < steps.count; ++i) {
    if (steps.cut[i])
      for (Vec<T>& of_state : h) of_state = Vec<T>{};
    const T *const of_b = b + steps.at[i] * b_time, *const of_c = c + steps.at[i] * c_time;
    const Vec<T> step = load(delta + i * W), write = step * load(u + i * W);
    Vec<T> sum = load(y + i * W);
    ahead.fetch(i);
#pragma GCC unroll 16
    for (int from = 0; from < N; from += kTogether) {
      Vec<T> decay[kTogether];
      decays<kTogether>(step, A + from * W, decay);
#pragma GCC unroll 4
      for (int k = 0; k < kTogether; ++k) {
        h[from + k] = decay[k] * h[from + k] + write * of_b[from + k];
        sum = h[from + k] * of_c[from + k] + sum;
      }
    }
    store(y + i * W, sum);
  }
  if (steps.cut[steps.count])
    for (Vec<T>& of_state : h) of_state = Vec<T>{};
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) store(state + n * W, h[n]);
}

// ---- the general case: one state at a time; S is Vec<T> or Complex<T>

// a and b of h_t = a h_{t-1} + b B_t u_t.
template <class T, class S>
[[gnu::noinline]] void coefficients(Discretization rule, S A, int count, const T* delta, T* a, T* b) {
  using P = PartsOf<T, S>;
  constexpr int W = kLanes<T>, size = P::kCount * W;
  for (int i = 0; i < count; ++i) {
    const Vec<T> step = load(delta + i * W);
    const S x = step * A;
    S of_a, of_b = P::zero();
    if (rule == kBilinear) {
      S below = splat(T(-0.5)) * x, above = splat(T(0.5)) * x;
      add_real(below, T(1)), add_real(above, T(1));
      const S inverse = reciprocal(below, T());
      of_a = above * inverse, of_b = step * inverse;
    } else {
      of_a = exp_of(x, T());
      add_real(of_b, T(1));
      if (rule == kZeroOrderHold) of_b = phi<T>(x, of_a);
      of_b = step * of_b;
    }
    P::write(a + i * size, of_a), P::write(b + i * size, of_b);
  }
}

// State n of B or C at all steps of a chunk, for each channel of a block.
template <class T, class S>
[[gnu::noinline]] void couplings(const SelectiveScan<T>& s, const Couplings<const T>& c, const ChannelBlock& block,
                                 const ChunkSteps& steps, Index t0, Index n, T* to) {
  constexpr int W = kLanes<T>, parts = PartsOf<T, S>::kCount;
  for (int p = 0; p < parts; ++p) {
    Vec<T> same = {};
    if (c.constant)
      for (Index l = 0; l < block.count; ++l) same[l] = c.at[((block.first + l) * s.N + n) * parts + p];
    const T* const from = c.constant ? nullptr : at_chunk(s, c, block, t0) + n * parts + p;
    for (int i = 0; i < steps.count; ++i)
      store(to + (i * parts + p) * W, from ? splat(from[steps.at[i] * c.time]) : same);
  }
}

// The arrays over a chunk's steps of one state.
template <class T>
struct StateArrays {
  T *a, *b, *of_b, *of_c;
  T* take(T* work, int parts) {
    const Index size = kSelectiveChunk * kLanes<T> * parts;
    a = work, b = a + size, of_b = b + size, of_c = of_b + size;
    return of_c + size;
  }
};

template <class T, class S>
[[gnu::noinline]] void advance_any(const SelectiveScan<T>& s, const ChannelBlock& block, const ChunkSteps& steps,
                                   Index t0, const T* A, T* state, const T* delta, const T* u, T* y, T* work) {
  using P = PartsOf<T, S>;
  constexpr int W = kLanes<T>, size = P::kCount * W;
  StateArrays<T> of;
  of.take(work, P::kCount);
  for (Index n = 0; n < s.N; ++n) {
    coefficients<T, S>(s.rule, P::read(A + n * size), steps.count, delta, of.a, of.b);
    couplings<T, S>(s, s.b, block, steps, t0, n, of.of_b);
    couplings<T, S>(s, s.c, block, steps, t0, n, of.of_c);
    S h = P::read(state + n * size);
    for (int i = 0; i < steps.count; ++i) {
      if (steps.cut[i]) h = P::zero();
      const S write = P::read(of.b + i * size) * P::read(of.of_b + i * size);
      h = P::read(of.a + i * size) * h + load(u + i * W) * write;
      const S read = P::read(of.of_c + i * size) * h;
      Vec<T> out;
      if constexpr (P::kCount == 2) out = read.re + read.re;
      else out = read;
      store(y + i * W, load(y + i * W) + out);
    }
    if (steps.cut[steps.count]) h = P::zero();
    P::write(state + n * size, h);
  }
}

// All states of a block, as many at once as the registers hold.
template <class T>
[[gnu::noinline]] void advance_all(const SelectiveScan<T>& s, const ChannelBlock& block, const ChunkSteps& steps,
                                   Index t0, const T* A, T* state, const T* delta, const T* u, T* y) {
  constexpr int W = kLanes<T>, kMost = kRegisters >= 32 ? 16 : 8;
  const T *const b = at_chunk(s, s.b, block, t0), *const c = at_chunk(s, s.c, block, t0);
  Ahead<T> ahead;
  const Index next = t0 + kSelectiveChunk;
  if (next + kSelectiveChunk <= s.T_)
    ahead.add(s.u, block, next), ahead.add(s.delta, block, next), ahead.add(s.z, block, next),
        ahead.add(s.y, block, next);
  for (Index n = 0; n < s.N;) {
    const Index rest = s.N - n;
    const auto run = [&](auto tile) {
      constexpr int kTile = decltype(tile)::value;
      advance<T, kTile>(steps, A + n * W, state + n * W, delta, u, y, b + n, s.b.time, c + n, s.c.time, ahead);
      n += kTile, ahead.count = 0;
    };
    if (rest >= kMost) run(Constant<kMost>());
    else if (rest >= 8) run(Constant<8>());
    else if (rest >= 4) run(Constant<4>());
    else if (rest >= 2) run(Constant<2>());
    else run(Constant<1>());
  }
}

// The blocks [from, from + count) of a row, through time.
template <class T>
[[gnu::noinline]] void forward_blocks(const SelectiveScan<T>& s, const Channels& channels, Index row, Index from,
                                      Index count, T* work, Member& m) {
  constexpr int W = kLanes<T>;
  const Index columns = s.N * (s.complex ? 2 : 1), size = columns * W, total = s.G * channels.blocks_of_group;
  const bool plain = plain_decays(s);
  T *const state = work, *const A = state + count * size, *const delta = A + count * size;
  T *const u = delta + kSelectiveChunk * W, *const y = u + kSelectiveChunk * W, *const rest = y + kSelectiveChunk * W;
  const auto block_of = [&](Index j) {
    const Index number = from + j;
    return ChannelBlock{row, channels.first(number), channels.count(number), channels.group_of(number), number};
  };
  for (Index j = 0; j < count; ++j) {
    const ChannelBlock block = block_of(j);
    read_A(s, block, A + j * size);
    to_lanes<T>(s.h + (row * s.D + block.first) * columns, columns, block.count, state + j * size);
  }
  for (Index t0 = 0; t0 < s.T_; t0 += kSelectiveChunk) {
    const Index t1 = t0 + kSelectiveChunk < s.T_ ? t0 + kSelectiveChunk : s.T_;
    const ChunkSteps steps(s, row, t0, t1);
    for (Index j = 0; j < count; ++j) {
      const ChannelBlock block = block_of(j);
      if (s.kept)
        copy_vectors(state + j * size, s.kept + ((t0 / kSelectiveChunk * s.B + row) * total + block.number) * size,
                     size);
      read_chunk<T>(s, block, steps, t0, delta, u, nullptr);
      start_outputs(s, block, steps.count, u, y);
      if (plain) advance_all(s, block, steps, t0, A + j * size, state + j * size, delta, u, y);
      else if (s.complex)
        advance_any<T, Complex<T>>(s, block, steps, t0, A + j * size, state + j * size, delta, u, y, rest);
      else advance_any<T, Vec<T>>(s, block, steps, t0, A + j * size, state + j * size, delta, u, y, rest);
      for (int i = 0; i < steps.count; ++i) {
        const Index t = t0 + steps.at[i];
        Vec<T> out = load(y + i * W);
        if (s.z.at) {
          const Vec<T> z = load_partial(at_step(s.z, block, t), block.count);
          out *= z * logistic(z);
        }
        store_partial(at_step(s.y, block, t), out, block.count);
      }
      clear_skipped(s.y, block, steps, t0, t1);
      did(m, static_cast<double>(steps.count * size * 20));
    }
    if (stopped(m)) return;
  }
  for (Index j = 0; j < count; ++j) {
    const ChannelBlock block = block_of(j);
    from_lanes<T>(state + j * size, columns, block.count, s.h + (row * s.D + block.first) * columns);
  }
}

template <class T>
void selective_forward(const SelectiveScan<T>& s, Member& m) {
  const FloatingPointState floating_point;
  const Channels channels(s.D, s.G, kLanes<T>);
  const Index blocks = s.G * channels.blocks_of_group;
  const Range mine = part_of(s.B * blocks, m.rank, m.team->size);
  for (Index position = mine.begin; position < mine.end && !stopped(m);) {
    const Index from = position % blocks;
    Index count = blocks - from < channels.blocks_of_panel ? blocks - from : channels.blocks_of_panel;
    if (count > mine.end - position) count = mine.end - position;
    forward_blocks(s, channels, position / blocks, from, count, s.work + m.rank * s.work_size, m);
    position += count;
  }
}

}  // namespace fusedrnn::FUSEDRNN_ISA
