// The selective scan, backward. With e_t = dy_t silu(z_t), last step first:
//
//   g_t = C_t e_t + a_{t+1} g_{t+1}             dC_t = sum over channels of e_t h_t
//   du_t = sum over n of g_t b B_t + D e_t      dB_t = sum over channels of g_t b u_t
//   da = g_t h_{t-1}, db = g_t B_t u_t, and from these the gradients of step size and A
//
// (conjugates where numbers are complex). A thread takes a panel of channels and some rows. For each chunk of steps it
// computes kSelectiveTile states of each block again, from those that forward kept, and goes back over them while they
// are in the first cache. Sums over channels are made in fixed panels, sums over rows in fixed parts, and both are
// added in order: bits do not depend on threads. Next, read core/selective_scan.cpp.
#pragma once

#include "selective_scan.h"

namespace fusedrnn::FUSEDRNN_ISA {

// What a thread needs for one block of a panel: the arrays over the steps of a chunk.
template <class T>
struct BlockArrays {
  T *delta, *slope, *u, *e, *of_z, *p, *of_u, *of_delta;
  explicit BlockArrays(T* at) {
    constexpr Index kSize = kSelectiveChunk * kLanes<T>;
    delta = at, slope = delta + kSize, u = slope + kSize, e = u + kSize;
    of_z = e + kSize, p = of_z + kSize, of_u = p + kSize, of_delta = of_u + kSize;
  }
};

// Gradients of N states: of the state, and of A, in memory between chunks.
template <class T>
struct TileGradients {
  T *g, *dA;
  T *db, *dc;  // (chunk, N) vectors, sums over the blocks of a panel
};

// N states of a chunk again: h before and after each step (a cut takes one more place), decays, and outputs if they are
// needed.
template <class T, int N>
[[gnu::noinline]] void recompute(const ChunkSteps& steps, const T* A, const T* kept, const BlockArrays<T>& block,
                                 const T* b, Index b_time, const T* c, Index c_time, bool outputs, T* states,
                                 T* of_decay, const Ahead<T>& ahead) {
  constexpr int W = kLanes<T>;
  Vec<T> h[N];
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) h[n] = load(kept + n * W);
#pragma GCC unroll 1
  for (int i = 0; i < steps.count; ++i) {
    if (steps.cut[i]) {
      if (i > 0) states += N * W;
      for (Vec<T>& of_state : h) of_state = Vec<T>{};
    }
    if (i == 0 || steps.cut[i])
      for (int n = 0; n < N; ++n) store(states + n * W, h[n]);
    states += N * W;
    const T *const of_b = b + steps.at[i] * b_time, *const of_c = c + steps.at[i] * c_time;
    const Vec<T> step = load(block.delta + i * W), write = step * load(block.u + i * W);
    ahead.fetch(i);
    Vec<T> decay[N];
    decays<N>(step, A, decay);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      store(of_decay + (i * N + n) * W, decay[n]);
      h[n] = decay[n] * h[n] + write * of_b[n];
      store(states + n * W, h[n]);
    }
    if (outputs) {
      Vec<T> sum = load(block.p + i * W);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sum = h[n] * of_c[n] + sum;
      store(block.p + i * W, sum);
    }
  }
}

template <class T, int N>
[[gnu::noinline]] void go_back(const ChunkSteps& steps, const T* A, const BlockArrays<T>& block, const T* b,
                               Index b_time, const T* c, Index c_time, const T* states, const T* decays,
                               const TileGradients<T>& d, const Ahead<T>& ahead) {
  constexpr int W = kLanes<T>;
  Vec<T> g[N], dA[N], a[N], h[N];
  for (int i = 1; i < steps.count; ++i)
    if (steps.cut[i]) states += N * W;
  states += steps.count * N * W;
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) {
    g[n] = steps.cut[steps.count] ? Vec<T>{} : load(d.g + n * W);
    dA[n] = load(d.dA + n * W), a[n] = load(A + n * W), h[n] = load(states + n * W);
  }
#pragma GCC unroll 1
  for (int i = steps.count - 1; i >= 0; --i) {
    const T *const of_b = b + steps.at[i] * b_time, *const of_c = c + steps.at[i] * c_time;
    T *const db = d.db + i * N * W, *const dc = d.dc + i * N * W;
    const T* const decay = decays + i * N * W;
    states -= N * W;
    ahead.fetch(i);
    const Vec<T> e = load(block.e + i * W), step = load(block.delta + i * W), write = step * load(block.u + i * W);
    Vec<T> of_u = load(block.of_u + i * W), of_delta = load(block.of_delta + i * W);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      const Vec<T> total = e * of_c[n] + g[n], before = load(states + n * W);
      store(dc + n * W, e * h[n] + load(dc + n * W));
      store(db + n * W, write * total + load(db + n * W));
      of_u = total * of_b[n] + of_u;
      g[n] = total * load(decay + n * W);
      const Vec<T> of_decay = g[n] * before;
      of_delta = of_decay * a[n] + of_delta;
      dA[n] = of_decay * step + dA[n];
      h[n] = before;
    }
    store(block.of_u + i * W, of_u), store(block.of_delta + i * W, of_delta);
    if (steps.cut[i]) {
      for (Vec<T>& of_state : g) of_state = Vec<T>{};
      if (i > 0) {
        states -= N * W;
        for (int n = 0; n < N; ++n) h[n] = load(states + n * W);
      }
    }
  }
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) store(d.g + n * W, g[n]), store(d.dA + n * W, dA[n]);
}

// ---- the general case, one state at a time

// The derivatives of a by x = delta A, of b by delta, and of b by A.
template <class T, class S>
[[gnu::noinline]] void derivatives(Discretization rule, S A, int count, const T* delta, const T* a, T* a_x, T* b_delta,
                                   T* b_A) {
  using P = PartsOf<T, S>;
  constexpr int W = kLanes<T>, size = P::kCount * W;
  for (int i = 0; i < count; ++i) {
    const Vec<T> step = load(delta + i * W), square = step * step;
    const S x = step * A, power = P::read(a + i * size);
    S of_x = power, of_delta = power, of_A = P::zero();
    if (rule == kMamba) {
      of_delta = P::zero();
      add_real(of_delta, T(1));
    } else if (rule == kZeroOrderHold) {
      of_A = square * phi_slope<T>(x, power, phi<T>(x, power));
    } else {
      S below = splat(T(-0.5)) * x;
      add_real(below, T(1));
      const S inverse = reciprocal(below, T());
      of_x = of_delta = inverse * inverse;
      of_A = (square * T(0.5)) * of_x;
    }
    P::write(a_x + i * size, of_x), P::write(b_delta + i * size, of_delta), P::write(b_A + i * size, of_A);
  }
}

template <class T, class S>
[[gnu::noinline]] void go_back_any(const SelectiveScan<T>& s, const ChannelBlock& block, const ChunkSteps& steps,
                                   Index t0, Index n, const T* of_A, const T* kept, const BlockArrays<T>& arrays,
                                   const TileGradients<T>& d, Index stride, T* states, T* work) {
  using P = PartsOf<T, S>;
  constexpr int W = kLanes<T>, size = P::kCount * W;
  StateArrays<T> of;
  T *const a_x = of.take(work, P::kCount), *const b_delta = a_x + kSelectiveChunk * size,
           *const b_A = b_delta + kSelectiveChunk * size;
  const S A = P::read(of_A);
  coefficients<T, S>(s.rule, A, steps.count, arrays.delta, of.a, of.b);
  derivatives<T, S>(s.rule, A, steps.count, arrays.delta, of.a, a_x, b_delta, b_A);
  couplings<T, S>(s, s.b, block, steps, t0, n, of.of_b);
  couplings<T, S>(s, s.c, block, steps, t0, n, of.of_c);
  const T twice = P::kCount == 2 ? T(2) : T(1);
  S h = P::read(kept);
  for (int i = 0; i < steps.count; ++i) {  // states[i]: before step i; after it, if no cut follows, in states[i + 1]
    if (steps.cut[i]) h = P::zero();
    P::write(states + 2 * i * size, h);
    const S write = P::read(of.b + i * size) * P::read(of.of_b + i * size);
    h = P::read(of.a + i * size) * h + load(arrays.u + i * W) * write;
    P::write(states + (2 * i + 1) * size, h);
    const S read = P::read(of.of_c + i * size) * h;
    Vec<T> out;
    if constexpr (P::kCount == 2) out = read.re;
    else out = read;
    store(arrays.p + i * W, load(arrays.p + i * W) + twice * out);
  }
  S g = steps.cut[steps.count] ? P::zero() : P::read(d.g), dA = P::read(d.dA);
  for (int i = steps.count - 1; i >= 0; --i) {
    const Vec<T> e = load(arrays.e + i * W) * twice, step = load(arrays.delta + i * W), u = load(arrays.u + i * W);
    const S before = P::read(states + 2 * i * size), after = P::read(states + (2 * i + 1) * size);
    const S of_b = P::read(of.of_b + i * size), of_c = P::read(of.of_c + i * size), b = P::read(of.b + i * size);
    S unit = P::zero();
    add_real(unit, T(1));
    const S total = e * conjugate_times(of_c, unit, T()) + g;
    const S with_b = conjugate_times(b, total, T());
    P::write(d.dc + i * stride, P::read(d.dc + i * stride) + e * conjugate_times(after, unit, T()));
    P::write(d.db + i * stride, P::read(d.db + i * stride) + u * with_b);
    store(arrays.of_u + i * W, load(arrays.of_u + i * W) + real_product(of_b, with_b, T()));
    const S of_decay = conjugate_times(before, total, T()), of_write = u * conjugate_times(of_b, total, T());
    const S of_x = P::read(a_x + i * size);
    store(arrays.of_delta + i * W,
          load(arrays.of_delta + i * W) +
              (real_product(A * of_x, of_decay, T()) + real_product(P::read(b_delta + i * size), of_write, T())));
    dA = dA + (step * conjugate_times(of_x, of_decay, T()) + conjugate_times(P::read(b_A + i * size), of_write, T()));
    g = steps.cut[i] ? P::zero() : conjugate_times(P::read(of.a + i * size), total, T());
  }
  P::write(d.g, g), P::write(d.dA, dA);
}

// ---- a panel

// The gradients of B and C of `states` states from `n` on: sums over the lanes of (chunk, states) vectors, or of a
// constant: sums over steps, which each block adds to its own.
template <class T>
[[gnu::noinline]] void sum_all_lanes(T* vectors, Index n) {
  constexpr int W = kLanes<T>;
  for (Index i = 0; i < n; i += W) {
    transpose<T>(vectors + i * W, W, vectors + i * W, W);
    Vec<T> sum = load(vectors + i * W);
    for (int l = 1; l < W; ++l) sum += load(vectors + (i + l) * W);
    store(vectors + i, sum);
  }
}

template <class T>
struct PanelPass {
  static constexpr int W = kLanes<T>;
  const SelectiveScan<T>& s;
  const Channels channels;
  Member& m;
  const Index parts, columns, size;  // of a number; numbers of a channel; of a block
  const bool plain;
  // of the panel
  Index group = 0, number_in_group = 0, first_block = 0, blocks = 0;
  T *g, *A, *dA, *db_constant, *dc_constant, *dskip, *dbias, *arrays, *db, *dc, *states, *decays, *rest;

  [[gnu::noinline]] PanelPass(const SelectiveScan<T>& s_, Member& m_)
      : s(s_),
        channels(s_.D, s_.G, W),
        m(m_),
        parts(s_.complex ? 2 : 1),
        columns(s_.N * parts),
        size(columns * W),
        plain(plain_decays(s_)) {
    const Index most = channels.blocks_of_panel, of_panel = most * size;
    const Index of_tile = kSelectiveTile * parts * kSelectiveChunk * W;
    g = s.work + m.rank * s.work_size, A = g + of_panel, dA = A + of_panel;
    db_constant = dA + of_panel, dc_constant = db_constant + of_panel;
    dskip = dc_constant + of_panel, dbias = dskip + most * W, arrays = dbias + most * W;
    db = arrays + most * kSelectiveArrays * kSelectiveChunk * W, dc = db + of_tile, states = dc + of_tile;
    decays = states + (2 * kSelectiveChunk + 1) * kSelectiveTile * parts * W, rest = decays + of_tile;
  }

  ChannelBlock block_of(Index row, Index j) const {
    const Index number = first_block + j;
    return {row, channels.first(number), channels.count(number), group, number};
  }
  BlockArrays<T> arrays_of(Index j) const {
    return BlockArrays<T>(arrays + j * kSelectiveArrays * kSelectiveChunk * W);
  }

  [[gnu::noinline]] void start_panel(Index panel) {
    group = panel / channels.panels_of_group, number_in_group = panel % channels.panels_of_group;
    const Index from = number_in_group * channels.blocks_of_panel, left = channels.blocks_of_group - from;
    first_block = group * channels.blocks_of_group + from;
    blocks = left < channels.blocks_of_panel ? left : channels.blocks_of_panel;
    for (Index j = 0; j < blocks; ++j) read_A(s, block_of(0, j), A + j * size);
    T* const all_sums[] = {dA, db_constant, dc_constant};
    for (T* sums : all_sums) copy_vectors<T>(nullptr, sums, blocks * size);
    copy_vectors<T>(nullptr, dskip, blocks * W);
    copy_vectors<T>(nullptr, dbias, blocks * W);
  }

  [[gnu::noinline]] void start_chunk(Index row, Index j, const ChunkSteps& steps, Index t0) {
    const ChannelBlock block = block_of(row, j);
    const BlockArrays<T> at = arrays_of(j);
    read_chunk(s, block, steps, t0, at.delta, at.u, at.slope);
    start_outputs(s, block, steps.count, at.u, at.p);
    for (int i = 0; i < steps.count; ++i) {
      const Index t = t0 + steps.at[i];
      Vec<T> e = s.dy.at ? load_partial(at_step(s.dy, block, t), block.count) : Vec<T>{};
      if (s.z.at) {
        const Vec<T> z = load_partial(at_step(s.z, block, t), block.count), open = logistic(z);
        store(at.of_z + i * W, e * open * (T(1) + z * (T(1) - open)));
        e *= z * open;
      }
      store(at.e + i * W, e), store(at.of_u + i * W, Vec<T>{}), store(at.of_delta + i * W, Vec<T>{});
    }
  }

  template <int N>
  void plain_tile(const ChannelBlock& block, const ChunkSteps& steps, Index t0, Index j, Index n, const T* kept) {
    const BlockArrays<T> at = arrays_of(j);
    const T *const b = at_chunk(s, s.b, block, t0) + n, *const c = at_chunk(s, s.c, block, t0) + n;
    const T* const of_A = A + j * size + n * W;
    Ahead<T> inputs, outputs;
    const Index next = t0 - kSelectiveChunk;
    if (n == 0 && next >= 0) {
      inputs.add(s.u, block, next), inputs.add(s.delta, block, next), inputs.add(s.z, block, next);
      inputs.add(s.dy, block, next);
      outputs.add(s.du, block, next), outputs.add(s.ddelta, block, next), outputs.add(s.dz, block, next);
    }
    recompute<T, N>(steps, of_A, kept + n * W, at, b, s.b.time, c, s.c.time, s.z.at != nullptr, states, decays, inputs);
    go_back<T, N>(steps, of_A, at, b, s.b.time, c, s.c.time, states, decays,
                  {g + j * size + n * W, dA + j * size + n * W, db, dc}, outputs);
  }

  void tile(const ChannelBlock& block, const ChunkSteps& steps, Index t0, Index j, Index n, int count) {
    const Index chunks_block =
        (t0 / kSelectiveChunk * s.B + block.row) * (s.G * channels.blocks_of_group) + block.number;
    const T* const kept = s.kept + chunks_block * size;
    if (plain && count == 4) return plain_tile<4>(block, steps, t0, j, n, kept);
    if (plain && count == 2) return plain_tile<2>(block, steps, t0, j, n, kept);
    if (plain) return plain_tile<1>(block, steps, t0, j, n, kept);
    const Index at = j * size + n * parts * W;
    const TileGradients<T> d = {g + at, dA + at, db, dc};
    if (s.complex)
      go_back_any<T, Complex<T>>(s, block, steps, t0, n, A + at, kept + n * parts * W, arrays_of(j), d, parts * W,
                                 states, rest);
    else go_back_any<T, Vec<T>>(s, block, steps, t0, n, A + at, kept + n * W, arrays_of(j), d, W, states, rest);
    for (int i = 0; i < steps.count; ++i)
      for (Index p = 0; p < parts; ++p) {
        T *const of_b = db + (i * parts + p) * W, *const of_c = dc + (i * parts + p) * W;
        T *const sum_b = db_constant + at + p * W, *const sum_c = dc_constant + at + p * W;
        if (s.b.constant) store(sum_b, load(sum_b) + load(of_b)), store(of_b, Vec<T>{});
        if (s.c.constant) store(sum_c, load(sum_c) + load(of_c)), store(of_c, Vec<T>{});
      }
  }

  // The gradients of B or C of some states, from vectors (chunk, numbers), for the steps that run.
  [[gnu::noinline]] void hand_over(const Couplings<T>& d, T* panels, Index row, const ChunkSteps& steps, Index t0,
                                   Index n, Index numbers, T* vectors) {
    if (d.constant) return;
    sum_all_lanes(vectors, kSelectiveChunk * numbers);
    for (int i = 0; i < steps.count; ++i) {
      T* const to = gradient_at(d, panels, t0 + steps.at[i], row) + n * parts;
      for (Index k = 0; k < numbers; ++k) to[k] = vectors[i * numbers + k];
    }
  }
  T* gradient_at(const Couplings<T>& d, T* panels, Index t, Index row) const {
    if (!panels) return d.at + t * d.time + row * d.row + group * columns;
    return panels + (((number_in_group * s.T_ + t) * s.B + row) * s.G + group) * columns;
  }
  [[gnu::noinline]] void clear_couplings(const Couplings<T>& d, T* panels, Index row, const ChunkSteps& steps, Index t0,
                                         Index t1) {
    if (d.constant || steps.count == t1 - t0) return;
    int i = 0;
    for (Index t = t0; t < t1; ++t) {
      if (i < steps.count && steps.at[i] == t - t0) {
        ++i;
        continue;
      }
      T* const to = gradient_at(d, panels, t, row);
      for (Index k = 0; k < columns; ++k) to[k] = T(0);
    }
  }

  [[gnu::noinline]] void finish_chunk(Index row, Index j, const ChunkSteps& steps, Index t0, Index t1) {
    const ChannelBlock block = block_of(row, j);
    const BlockArrays<T> at = arrays_of(j);
    const Vec<T> skip = s.skip ? load_partial(s.skip + block.first, block.count) : Vec<T>{};
    Vec<T> of_skip = load(dskip + j * W), of_bias = load(dbias + j * W);
    for (int i = steps.count - 1; i >= 0; --i) {
      const Index t = t0 + steps.at[i];
      const Vec<T> e = load(at.e + i * W), u = load(at.u + i * W), sum = load(at.of_u + i * W);
      Vec<T> of_delta = load(at.of_delta + i * W), of_u = sum;
      if (plain) {  // sums over g B, and over the gradients of exponents of 2
        of_u = sum * load(at.delta + i * W);
        of_delta = of_delta * T(0.69314718055994530942) + sum * u;
      }
      if (s.skip) of_u += skip * e;
      of_delta *= load(at.slope + i * W);
      of_skip += e * u, of_bias += of_delta;
      store_partial(at_step(s.du, block, t), of_u, block.count);
      store_partial(at_step(s.ddelta, block, t), of_delta, block.count);
      if (s.z.at) store_partial(at_step(s.dz, block, t), load(at.of_z + i * W) * load(at.p + i * W), block.count);
    }
    store(dskip + j * W, of_skip), store(dbias + j * W, of_bias);
    clear_skipped(s.du, block, steps, t0, t1);
    clear_skipped(s.ddelta, block, steps, t0, t1);
    if (s.z.at) clear_skipped(s.dz, block, steps, t0, t1);
  }

  [[gnu::noinline]] void chunk(Index row, Index t0, Index t1) {
    const ChunkSteps steps(s, row, t0, t1);
    for (Index j = 0; j < blocks; ++j) start_chunk(row, j, steps, t0);
    for (Index n = 0; n < s.N;) {
      const Index left = s.N - n;
      const int count = !plain ? 1 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
      const Index numbers = count * parts;
      copy_vectors<T>(nullptr, db, kSelectiveChunk * numbers * W);
      copy_vectors<T>(nullptr, dc, kSelectiveChunk * numbers * W);
      for (Index j = 0; j < blocks; ++j) {
        tile(block_of(row, j), steps, t0, j, n, count);
        did(m, static_cast<double>(steps.count * W * numbers * 60));
      }
      hand_over(s.db, s.db_panels, row, steps, t0, n, numbers, db);
      hand_over(s.dc, s.dc_panels, row, steps, t0, n, numbers, dc);
      n += count;
    }
    clear_couplings(s.db, s.db_panels, row, steps, t0, t1);
    clear_couplings(s.dc, s.dc_panels, row, steps, t0, t1);
    for (Index j = 0; j < blocks; ++j) finish_chunk(row, j, steps, t0, t1);
  }

  // The sums of a part of the rows, in the caller's order of channels.
  [[gnu::noinline]] void finish_panel(Index part) const {
    for (Index j = 0; j < blocks; ++j) {
      const ChannelBlock block = block_of(0, j);
      const Index at = (part * s.D + block.first) * columns, unit = part * s.D + block.first;
      from_lanes<T>(dA + j * size, columns, block.count, s.dA_parts + at);
      if (s.b.constant) from_lanes<T>(db_constant + j * size, columns, block.count, s.db_parts + at);
      if (s.c.constant) from_lanes<T>(dc_constant + j * size, columns, block.count, s.dc_parts + at);
      store_partial(s.dskip_parts + unit, load(dskip + j * W), block.count);
      store_partial(s.dbias_parts + unit, load(dbias + j * W), block.count);
    }
  }

  [[gnu::noinline]] void run(Index part, Index panel) {
    start_panel(panel);
    const Range rows = part_of(s.B, part, s.parts);
    for (Index row = rows.begin; row < rows.end; ++row) {
      for (Index j = 0; j < blocks; ++j) {
        const ChannelBlock block = block_of(row, j);
        to_lanes<T>(s.h + (row * s.D + block.first) * columns, columns, block.count, g + j * size);
      }
      for (Index t0 = (s.T_ - 1) / kSelectiveChunk * kSelectiveChunk; t0 >= 0; t0 -= kSelectiveChunk) {
        chunk(row, t0, t0 + kSelectiveChunk < s.T_ ? t0 + kSelectiveChunk : s.T_);
        if (stopped(m)) return;
      }
      for (Index j = 0; j < blocks; ++j) {
        const ChannelBlock block = block_of(row, j);
        from_lanes<T>(g + j * size, columns, block.count, s.h + (row * s.D + block.first) * columns);
      }
    }
    finish_panel(part);
  }
};

// to_k = sum of all parts of number k, from the first part to the last; this thread's share of n numbers.
template <class T>
[[gnu::noinline]] void add_shares(const T* parts, Index count, Index n, T* to, const Member& m) {
  if (parts == to || !to) return;
  const Range mine = part_of(n, m.rank, m.team->size);
  for (Index k = mine.begin; k < mine.end; ++k) {
    T sum = parts[k];
    for (Index part = 1; part < count; ++part) sum += parts[part * n + k];
    to[k] = sum;
  }
}

// The same for the panels of B or C, whose sums over time may run from the last step to the first.
template <class T>
[[gnu::noinline]] void add_panels(const SelectiveScan<T>& s, const Couplings<T>& d, const T* panels, Index count,
                                  const Member& m) {
  if (!panels || d.constant) return;
  const Index numbers = s.G * s.N * (s.complex ? 2 : 1), all = s.T_ * s.B * numbers;
  const Range mine = part_of(s.T_ * s.B, m.rank, m.team->size);
  for (Index i = mine.begin; i < mine.end; ++i) {
    T* const to = d.at + i / s.B * d.time + i % s.B * d.row;
    for (Index k = 0; k < numbers; ++k) {
      T sum = panels[i * numbers + k];
      for (Index panel = 1; panel < count; ++panel) sum += panels[panel * all + i * numbers + k];
      to[k] = sum;
    }
  }
}

template <class T>
void selective_backward(const SelectiveScan<T>& s, Member& m) {
  const FloatingPointState floating_point;
  PanelPass<T> pass(s, m);
  const Index panels = s.G * pass.channels.panels_of_group;
  const Range mine = part_of(panels * s.parts, m.rank, m.team->size);
  for (Index i = mine.begin; i < mine.end && !stopped(m); ++i) pass.run(i / panels, i % panels);
  if (!barrier(m)) return;
  const Index all = s.D * pass.columns;
  add_shares(s.dA_parts, s.parts, all, s.dA, m);
  if (s.b.constant) add_shares(s.db_parts, s.parts, all, s.db.at, m);
  if (s.c.constant) add_shares(s.dc_parts, s.parts, all, s.dc.at, m);
  add_shares(s.dskip_parts, s.parts, s.D, s.dskip, m);
  add_shares(s.dbias_parts, s.parts, s.D, s.dbias, m);
  add_panels(s, s.db, s.db_panels, pass.channels.panels_of_group, m);
  add_panels(s, s.dc, s.dc_panels, pass.channels.panels_of_group, m);
}

}  // namespace fusedrnn::FUSEDRNN_ISA
