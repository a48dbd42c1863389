// Dense state spaces over plain arrays: x_t = A_t x_{t-1} + B_t u_t and y_t = C_t x_t + D_t u_t, forward and backward.
// Each matrix is constant, or given for each step, or for each step and row. All products are those of gemm.h's tiles:
// a sum over k runs in increasing order into one accumulator, so the bits of a row depend neither on the other rows nor
// on the form of the tiles. Threads share rows; in backward they meet twice, around the sums of matrix gradients.
// Not here: gathering and padding of inputs (core/state_space.cpp). Next, read core/state_space.cpp.
#pragma once

#include "array_scan.h"
#include "gemm.h"
#include "parallel.h"
#include "recurrence_contract.h"
#include "state_space_lanes.h"

namespace fusedrnn::FUSEDRNN_ISA {

template <class T>
inline Index padded(Index n) {
  return (n + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// The matrix of a product out_j = sum over k of M(j, k) in_k, N by K. In memory it is (N, K), or `turned` (K, N).
template <class T>
struct Factor {
  const T* at;
  Index N, K;
  bool turned;
  inline T operator()(Index j, Index k) const { return turned ? at[k * N + j] : at[j * K + k]; }
};

// Panels of up to kMaxVectors vectors of columns j; in a panel (k, columns).
template <class T>
[[gnu::noinline]] void pack_factor(const Factor<T>& f, T* to) {
  constexpr Index W = kLanes<T>;
  const Panels panels(divide_up(f.N, W), kMaxVectors);
  for (Index p = 0; p < panels.count; ++p) {
    const Index width = panels.width(p) * W;
    for (Index v = 0; v < panels.width(p); ++v) {
      const Index first = (panels.start(p) + v) * W, columns = f.N - first < W ? f.N - first : W;
      T* const block = to + v * W;
      Index k = 0;
      if (f.turned) {
        for (; k < f.K; ++k) store(block + k * width, load_partial(f.at + k * f.N + first, columns));
      } else {
        if (columns == W)
          for (; k + W <= f.K; k += W) transpose<T>(f.at + first * f.K + k, f.K, block + k * width, width);
        for (; k < f.K; ++k)
          for (Index j = 0; j < W; ++j) block[k * width + j] = j < columns ? f.at[(first + j) * f.K + k] : T(0);
      }
    }
    to += width * f.K;
  }
}

// Rows at equal distances.
template <class T>
struct Evenly {
  T* at;
  Index row;
};

// The same at several steps, which are `step` numbers apart.
template <class T>
struct Plane {
  T* at;
  Index row, step;
  Evenly<T> step_at(Index t) const { return {at + t * step, row}; }
  Plane<const T> read() const { return {at, row, step}; }
};

// out = init + M in for all rows; `packed` is M as pack_factor() leaves it.
template <class T>
[[gnu::noinline, gnu::noclone]] void multiply_rows(const T* packed, Index N, Index K, Index rows, Evenly<const T> in,
                                                   Evenly<const T> init, Evenly<T> out, Member& m) {
  constexpr Index W = kLanes<T>;
  const Panels panels(divide_up(N, W), kMaxVectors);
  for (Index p = 0; p < panels.count;) {
    const int vectors = static_cast<int>(panels.width(p));
    const Index width = vectors * W, first = panels.start(p) * W;
    const int together = rows == 1 && p + 1 < panels.count && panels.width(p + 1) == vectors ? 2 : 1;
    Tile<T> tile;
    tile.k = K, tile.segments = 1, tile.a_step = K, tile.w = packed + first * K, tile.w_panel = width * K;
    tile.out_row = out.row, tile.out_panel = width;
    const TileRows tiles(Range{0, rows}, vectors);
    for (Index i = 0; i < tiles.tiles; ++i) {
      const Range r = tiles.tile(i);
      for (Index j = r.begin; j < r.end; ++j) tile.a[j - r.begin] = in.at + j * in.row;
      init_all(tile, vectors, init.at + r.begin * init.row + first, init.row, width);
      tile.out = out.at + r.begin * out.row + first;
      run(tile, static_cast<int>(r.end - r.begin), vectors, together);
    }
    p += together;
    did(m, 2.0 * static_cast<double>(width * together * K * rows));
  }
}

// The same for one row and a matrix so small that packing would take longer than the product.
inline constexpr Index kUnpacked = 64;  // numbers
template <class T>
[[gnu::noinline]] void multiply_row(const Factor<T>& f, const T* in, const T* init, T* out, Index width) {
  for (Index j = 0; j < width; ++j) {
    T sum = init[j];
    if (j < f.N)
      for (Index k = 0; k < f.K; ++k) sum = f(j, k) * in[k] + sum;
    out[j] = sum;
  }
}

template <class T>
struct StateSpacePass {
  const StateSpace<T>& s;
  Member& m;
  Range b;  // this thread's rows
  T* packed;
  T* chunk;  // outputs of a chunk of steps, padded
  const T* none;
  Index chunk_steps;

  [[gnu::noinline]] StateSpacePass(const StateSpace<T>& s_, Member& m_)
      : s(s_), m(m_), b(part_of(s_.B, m_.rank, m_.team->size)) {
    const Index widest = widest_padded(s);
    packed = s.work + m.rank * s.work_size;
    Index most = 0;
    for (const Matrices<T>& matrices : s.of)
      if (matrices.at) {
        const Index size = padded<T>(matrices.rows) * padded<T>(matrices.columns);
        if (size > most) most = size;
      }
    chunk = packed + most;
    T* const zero = chunk + s.chunk_rows * widest;
    for (Index i = 0; i < widest; ++i) zero[i] = T(0);
    none = zero;
    chunk_steps = b.end > b.begin ? s.chunk_rows / (b.end - b.begin) : 1;
    if (chunk_steps < 1) chunk_steps = 1;
  }

  bool constant(Operand of) const { return s.of[of].time == 0 && s.of[of].row == 0; }
  Factor<T> factor(Operand of, Index t, Index row, bool turned) const {
    const Matrices<T>& matrices = s.of[of];
    const T* at = matrices.at + t * matrices.time + row * matrices.row;
    return turned ? Factor<T>{at, matrices.columns, matrices.rows, true}
                  : Factor<T>{at, matrices.rows, matrices.columns, false};
  }

  // The constant matrices, packed by all threads together; each takes some of them.
  bool pack_constants(bool turned) {
    for (int of = 0; of < kOperands; ++of)
      if (s.of[of].at && constant(static_cast<Operand>(of)) && of % m.team->size == m.rank)
        pack_factor(factor(static_cast<Operand>(of), 0, 0, turned), s.packed[of]);
    return barrier(m);
  }

  // The rows of this thread in an array of all rows, at step t.
  template <class P>
  Plane<P> all_rows(P* at, Index t, Index width) const {
    return {at + (t * s.B + b.begin) * width, width, s.B * width};
  }
  Plane<const T> nothing() const { return {none, 0, 0}; }
  Plane<T> of_chunk(Index width) const { return {chunk, width, (b.end - b.begin) * width}; }

  // out = init + M in, for this thread's rows at the steps [from, to).
  [[gnu::noinline, gnu::noclone]] void multiply(Operand of, bool turned, Index from, Index to, Plane<const T> in,
                                                Plane<const T> init, Plane<T> out) {
    const Index rows = b.end - b.begin;
    const bool together = constant(of) && rows == s.B;  // then the rows of all steps are at equal distances
    for (Index t = from; t < to; t = together ? to : t + 1) {
      const Evenly<const T> of_in = in.step_at(t - from), of_init = init.step_at(t - from);
      const Evenly<T> of_out = out.step_at(t - from);
      if (s.of[of].row != 0) {
        for (Index r = 0; r < rows; ++r) {
          const Factor<T> f = factor(of, t, b.begin + r, turned);
          const T *x = of_in.at + r * in.row, *start = of_init.at + r * init.row;
          if (f.N * f.K <= kUnpacked) {
            multiply_row(f, x, start, of_out.at + r * out.row, padded<T>(f.N));
            did(m, 64.0);
          } else {
            pack_factor(f, packed);
            multiply_rows<T>(packed, f.N, f.K, 1, {x, 0}, {start, 0}, {of_out.at + r * out.row, 0}, m);
          }
        }
        continue;
      }
      const Factor<T> f = factor(of, t, 0, turned);
      if (turned && !constant(of) && f.N % kLanes<T> == 0) {
        strided_product<T>({of_in.at, of_in.row, f.K, f.at, f.N, of_init.at, of_init.row, of_out.at, of_out.row, false},
                           rows, f.N / kLanes<T>);
        did(m, 2.0 * static_cast<double>(f.N * f.K * rows));
        continue;
      }
      if (!constant(of)) pack_factor(f, packed);
      multiply_rows<T>(constant(of) ? s.packed[of] : packed, f.N, f.K, together ? rows * (to - from) : rows, of_in,
                       of_init, of_out, m);
    }
  }

  uint8_t flags(Index t, Index row) const { return s.flags ? s.flags[t * s.B + row] : uint8_t{kRuns}; }

  // Where the outputs of a chunk go: to the caller's array, if its rows are whole vectors and all of them run.
  Plane<T> outputs(T* target, Index from, Index width, Index padded_width, Index time) const {
    if (width != padded_width || s.flags || time != s.B * width) return of_chunk(padded_width);
    return all_rows(target, from, width);
  }

  // Copies the outputs of a chunk to the caller's rows; zeros where a row does not run.
  [[gnu::noinline]] void hand_over(Index from, Index to, Index width, Index padded_width, T* target, Index time) const {
    const Index rows = b.end - b.begin;
    for (Index t = from; t < to; ++t)
      for (Index r = 0; r < rows; ++r) {
        const T* const given = chunk + ((t - from) * rows + r) * padded_width;
        T* const out = target + t * time + (b.begin + r) * width;
        const bool ran = flags(t, b.begin + r) & kRuns;
        for (Index i = 0; i < width; ++i) out[i] = ran ? given[i] : T(0);
      }
  }
};

template <class T>
void state_space_forward(const StateSpace<T>& s, Member& m) {
  const FloatingPointState floating_point;
  StateSpacePass<T> pass(s, m);
  // All threads pack together, so that they agree on whether any needs packed matrices.
  if (lanes_pay(s, divide_up(s.B, m.team->size))) return forward_in_lanes(s, m, pass.b);
  if (!pass.pack_constants(false)) return;
  const Index first = pass.b.begin, rows = pass.b.end - first, np = s.np, numbers = rows * np;
  if (rows == 0) return;
  T* const state = s.state + first * np;
  if (!s.flags) copy_numbers<T>(state, s.earlier + first * np, numbers);
  for (Index from = 0; from < s.T_; from += pass.chunk_steps) {
    const Index to = from + pass.chunk_steps < s.T_ ? from + pass.chunk_steps : s.T_;
    const Plane<const T> u = pass.all_rows(s.u, from, s.u_row);
    pass.multiply(kB, false, from, to, u, pass.nothing(), pass.all_rows(s.x, from, np));
    for (Index t = from; t < to; ++t) {
      const Plane<T> now = pass.all_rows(s.x, t, np), before = pass.all_rows(s.earlier, t, np);
      for (Index r = 0; s.flags && r < rows; ++r) {
        const uint8_t flags = pass.flags(t, first + r);
        if (flags & kCut) clear(state + r * np, np);
        copy_numbers<T>(flags & kRuns ? state + r * np : nullptr, before.at + r * np, np);
      }
      pass.multiply(kA, false, t, t + 1, before.read(), now.read(), now);
      for (Index r = 0; s.flags && r < rows; ++r) {
        if (pass.flags(t, first + r) & kRuns) copy_numbers<T>(now.at + r * np, state + r * np, np);
        else clear(now.at + r * np, np);
      }
      if (stopped(m)) return;
    }
    Plane<const T> start = pass.nothing();
    const Plane<T> y = pass.outputs(s.y, from, s.p, s.pp, s.y_time);
    if (s.of[kD].at) {
      pass.multiply(kD, false, from, to, u, start, y);
      start = y.read();
    }
    const Plane<const T> seen = pass.all_rows(s.before ? s.earlier : s.x, from, np).read();
    pass.multiply(kC, false, from, to, seen, start, y);
    if (y.at == pass.chunk) pass.hand_over(from, to, s.p, s.pp, s.y, s.y_time);
    if (stopped(m)) return;
  }
  if (!s.flags) copy_numbers<T>(s.earlier + (s.T_ * s.B + first) * np, state, numbers);
}

// ---- backward

// d (rows, padded columns) = sum over n of left_n right_n^T: `rows` of the numbers of each left, all of each right;
// with `add`, d += this sum.
template <class T>
[[gnu::noinline]] void sum_products(Evenly<const T> left, Index rows, Evenly<const T> right, Index columns, Index n,
                                    bool add, T* d, Member& m) {
  const Panels panels(columns / kLanes<T>, kMaxVectors);
  if (n == 0 && !add) clear(d, rows * columns);
  for (Index p = 0; p < panels.count && n > 0; ++p) {
    const int vectors = static_cast<int>(panels.width(p));
    const Index column = panels.start(p) * kLanes<T>;
    const TileRows tiles(Range{0, rows}, vectors);
    for (Index i = 0; i < tiles.tiles; ++i) {
      const Range r = tiles.tile(i);
      const OuterTile<T> tile = {
          left.at + r.begin, n, left.row, right.at + column, right.row, d + r.begin * columns + column, columns, add};
      run(tile, static_cast<int>(r.end - r.begin), vectors);
    }
    did(m, 2.0 * static_cast<double>(rows * vectors * kLanes<T> * n));
  }
}

// The gradient of an operand is the sum of left right^T.
template <class T>
struct GradientSum {
  Evenly<const T> left, right;
};

// Of constant matrices only the parts, of all these matrices at once, because they share the arrays.
template <class T>
[[gnu::noinline]] void constant_gradients(const StateSpacePass<T>& pass, const GradientSum<T> (&sums)[kOperands],
                                          Member& m) {
  constexpr Index kAtOnce = 256;  // as many rows as stay in L2 while all tiles read them
  const StateSpace<T>& s = pass.s;
  const Range mine = part_of(s.parts, m.rank, m.team->size);
  for (Index part = mine.begin; part < mine.end && !stopped(m); ++part) {
    const Range n = part_of(s.T_ * s.B, part, s.parts);
    for (Index from = n.begin; from == n.begin || from < n.end; from += kAtOnce)
      for (int of = 0; of < kOperands; ++of) {
        const GradientSum<T>& sum = sums[of];
        if (!sum.left.at || !pass.constant(static_cast<Operand>(of))) continue;
        const Index rows = s.of[of].rows, columns = padded<T>(s.of[of].columns);
        sum_products<T>({sum.left.at + from * sum.left.row, sum.left.row}, rows,
                        {sum.right.at + from * sum.right.row, sum.right.row}, columns,
                        n.end - from < kAtOnce ? n.end - from : kAtOnce, from > n.begin,
                        s.d[of].parts + part * rows * columns, m);
      }
  }
}

// Of a matrix that is not constant.
template <class T>
[[gnu::noinline, gnu::noclone]] void matrix_gradient(const StateSpacePass<T>& pass, Operand of,
                                                     const GradientSum<T>& sum, Member& m) {
  const StateSpace<T>& s = pass.s;
  const Matrices<T>& form = s.of[of];
  const Index columns = padded<T>(form.columns);
  const bool whole = columns == form.columns;
  const Index together = form.row == 0 ? s.B : 1, count = form.row == 0 ? s.T_ : s.T_ * s.B;
  const Range mine = part_of(count, m.rank, m.team->size);
  for (Index i = mine.begin; i < mine.end && !stopped(m); ++i) {
    const Index n = i * together;
    const MatrixGradients<T>& d = s.d[of];
    T* const to = d.at + (form.row == 0 ? i * d.time : i / s.B * d.time + i % s.B * d.row);
    sum_products<T>({sum.left.at + n * sum.left.row, sum.left.row}, form.rows,
                    {sum.right.at + n * sum.right.row, sum.right.row}, columns, together, false,
                    whole ? to : pass.packed, m);
    for (Index r = 0; r < form.rows && !whole; ++r)
      for (Index c = 0; c < form.columns; ++c) to[r * form.columns + c] = pass.packed[r * columns + c];
  }
}

template <class T>
[[gnu::noinline]] void add_parts(const StateSpace<T>& s, Operand of, Member& m) {
  const Matrices<T>& form = s.of[of];
  const Index columns = padded<T>(form.columns), size = form.rows * columns;
  const Range mine = part_of(form.rows, m.rank, m.team->size);
  for (Index r = mine.begin; r < mine.end; ++r)
    for (Index c = 0; c < form.columns; ++c) {
      T sum = s.d[of].parts[r * columns + c];
      for (Index part = 1; part < s.parts; ++part) sum += s.d[of].parts[part * size + r * columns + c];
      s.d[of].at[r * form.columns + c] = sum;
    }
}

// The gradients of the states, of u and of the first state; this thread's rows.
template <class T>
void state_gradients(const StateSpace<T>& s, StateSpacePass<T>& pass, Member& m) {
  const Index first = pass.b.begin, rows = pass.b.end - first, np = s.np, numbers = rows * np;
  if (rows == 0) return;
  T* const carry = s.state + first * np;  // the gradient of the state after step t
  for (Index to = s.T_; to > 0;) {
    const Index from = to > pass.chunk_steps ? to - pass.chunk_steps : 0;
    const Plane<T> of_l = pass.all_rows(s.l, from, np);
    if (s.dy) pass.multiply(kC, true, from, to, pass.all_rows(s.dy, from, s.pp), pass.nothing(), of_l);
    for (Index t = to - 1; t >= from; --t) {
      const Plane<T> l = pass.all_rows(s.l, t, np), next = pass.of_chunk(np);
      // With `before`, y_t sees the state before the step: the gradient that C gives belongs to that one.
      if (!s.before)
        for (Index i = 0; i < numbers; i += kLanes<T>)
          store(l.at + i, s.dy ? load(l.at + i) + load(carry + i) : load(carry + i));
      const Plane<const T> of_carry{carry, np, 0};
      if (s.before) pass.multiply(kA, true, t, t + 1, of_carry, s.dy ? l.read() : pass.nothing(), next);
      else pass.multiply(kA, true, t, t + 1, l.read(), pass.nothing(), next);
      for (Index r = 0; r < rows; ++r) {
        const uint8_t flags = pass.flags(t, first + r);
        if (flags & kRuns) {
          if (s.before) copy_numbers<T>(carry + r * np, l.at + r * np, np);
          copy_numbers<T>(next.at + r * np, carry + r * np, np);
        } else {
          clear(l.at + r * np, np);
        }
        if (flags & kCut) clear(carry + r * np, np);
      }
      if (stopped(m)) return;
    }
    Plane<const T> start = pass.nothing();
    const Plane<T> du = pass.outputs(s.du, from, s.m, s.mp, s.du_time);
    if (s.of[kD].at && s.dy) {
      pass.multiply(kD, true, from, to, pass.all_rows(s.dy, from, s.pp), start, du);
      start = du.read();
    }
    pass.multiply(kB, true, from, to, of_l.read(), start, du);
    if (du.at == pass.chunk) pass.hand_over(from, to, s.m, s.mp, s.du, s.du_time);
    if (stopped(m)) return;
    to = from;
  }
}

template <class T>
void state_space_backward(const StateSpace<T>& s, Member& m) {
  const FloatingPointState floating_point;
  StateSpacePass<T> pass(s, m);
  if (!pass.pack_constants(true)) return;
  state_gradients(s, pass, m);
  if (!barrier(m)) return;
  const Evenly<const T> l{s.l, s.np}, dy{s.dy, s.pp}, u{s.u, s.mp};
  const GradientSum<T> sums[] = {{l, {s.earlier, s.np}},
                                 {l, u},
                                 {dy, {s.before ? s.earlier : s.x, s.np}},
                                 {s.of[kD].at ? dy : Evenly<const T>{nullptr, 0}, u}};
  constant_gradients(pass, sums, m);
  for (int i = 0; i < kOperands; ++i) {
    const auto of = static_cast<Operand>(i);
    if (sums[of].left.at && !pass.constant(of)) matrix_gradient(pass, of, sums[of], m);
  }
  if (!barrier(m)) return;
  for (int i = 0; i < kOperands; ++i) {
    const auto of = static_cast<Operand>(i);
    if (s.of[of].at && pass.constant(of) && (s.dy || of == kA || of == kB)) add_parts(s, of, m);
  }
}

}  // namespace fusedrnn::FUSEDRNN_ISA
