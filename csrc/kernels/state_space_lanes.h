// Products of dense state spaces that take matrices as they lie in memory, without packing them. In the forward pass
// the rows of the batch lie in the lanes of a vector: x^T (n, rows) = A x^T (n, rows) broadcasts the numbers of A. In
// the backward pass, whose matrices are transposed, the columns of a matrix lie in the lanes.
//
// Every number is its first value plus a sum over k, in increasing order, in one accumulator, as in gemm.h: so the bits
// are those of packed matrices, and it is only a question of speed which form a pass takes. Next, read state_space.h.
#pragma once

#include "array_scan.h"
#include "gemm.h"
#include "parallel.h"
#include "recurrence_contract.h"

namespace fusedrnn::FUSEDRNN_ISA {

// out[r][v] = init[r][v] + sum over k of a[r][k] w[k][v]; `init` null: zeros. Rows of all arrays are at any distance.
template <class T>
struct StridedTile {
  const T* a;
  Index a_row, k;
  const T* w;
  Index w_row;
  const T* init;
  Index init_row;
  T* out;
  Index out_row;
  bool by_rows;  // which operand is a matrix that may come from memory: a, else w
};

// The hardware does not foresee the lines of a matrix: a tile fetches those of the next one, one line for each k.
template <class T, int ROWS, int VECTORS>
void run_strided_tile(const StridedTile<T>& t) {
  constexpr int W = kLanes<T>;
  Vec<T> sum[ROWS][VECTORS];
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) sum[r][v] = t.init ? load(t.init + r * t.init_row + v * W) : Vec<T>{};
  const T* a[ROWS];
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r) a[r] = t.a + r * t.a_row;
  const T* w = t.w;
  const Index depth = t.k, w_row = t.w_row;
  const char* ahead = reinterpret_cast<const char*>(t.by_rows ? t.a + ROWS * t.a_row : t.w + VECTORS * W);
  const Index ahead_row = t.by_rows ? kCacheLine : w_row * static_cast<Index>(sizeof(T));
#pragma GCC unroll 2
  for (Index k = 0; k < depth; ++k) {
    __builtin_prefetch(ahead);
    ahead += ahead_row;
    add_product<T>(sum, [&](int r) { return a[r][k]; }, w);
    w += w_row;
  }
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) store(t.out + r * t.out_row + v * W, sum[r][v]);
}

// Heights of tiles, from the tallest: as many accumulators as fit the registers beside two vectors of w.
inline constexpr int kTallest = kRegisters == 32 ? 12 : 6;

// out = init + a w for `rows` rows and `vectors` vectors.
template <class T>
[[gnu::noinline]] void strided_product(const StridedTile<T>& whole, Index rows, Index vectors) {
  using Run = void (*)(const StridedTile<T>&);
  static constexpr Run tiles[][2] = {
      {run_strided_tile<T, kTallest, 1>, run_strided_tile<T, kTallest, 2>},
      {run_strided_tile<T, 4, 1>, run_strided_tile<T, 4, 2>},
      {run_strided_tile<T, 2, 1>, run_strided_tile<T, 2, 2>},
      {run_strided_tile<T, 1, 1>, run_strided_tile<T, 1, 2>},
  };
  static constexpr Index heights[] = {kTallest, 4, 2, 1};
  StridedTile<T> t = whole;
  for (int of = 0; rows > 0;) {
    if (heights[of] > rows) {
      ++of;
      continue;
    }
    for (Index v = 0; v < vectors;) {
      const Index wide = v + 2 <= vectors ? 2 : 1;
      tiles[of][wide - 1](t);
      v += wide;
      t.w += wide * kLanes<T>, t.out += wide * kLanes<T>;
      if (t.init) t.init += wide * kLanes<T>;
    }
    const Index done = vectors * kLanes<T>;
    rows -= heights[of];
    t.a += heights[of] * t.a_row;
    t.w = whole.w;
    t.out += heights[of] * t.out_row - done;
    if (t.init) t.init += heights[of] * t.init_row - done;
  }
}

// Interleaves two vectors: lane l of a and lane l of b become lanes 2 l and 2 l + 1 of the pair (a, b); and back.
template <class T>
inline void interleave(Vec<T>& a, Vec<T>& b) {
  constexpr int W = kLanes<T>;
  const Vec<T> x = a, y = b;
#if defined(__clang__)
  for (int l = 0; l < W; ++l) {
    a[l] = l % 2 ? y[l / 2] : x[l / 2];
    b[l] = l % 2 ? y[(W + l) / 2] : x[(W + l) / 2];
  }
#else
  Bits<Vec<T> > low, high;
  for (int l = 0; l < W; ++l) low[l] = l / 2 + l % 2 * W, high[l] = low[l] + W / 2;
  a = __builtin_shuffle(x, y, low);
  b = __builtin_shuffle(x, y, high);
#endif
}
template <class T>
inline void deinterleave(Vec<T>& a, Vec<T>& b) {
  constexpr int W = kLanes<T>;
  const Vec<T> x = a, y = b;
#if defined(__clang__)
  for (int l = 0; l < W; ++l) {
    a[l] = l < W / 2 ? x[2 * l] : y[2 * l - W];
    b[l] = l < W / 2 ? x[2 * l + 1] : y[2 * l + 1 - W];
  }
#else
  Bits<Vec<T> > even, odd;
  for (int l = 0; l < W; ++l) even[l] = 2 * l, odd[l] = 2 * l + 1;
  a = __builtin_shuffle(x, y, even);
  b = __builtin_shuffle(x, y, odd);
#endif
}

// COUNT vectors, the numbers of kLanes rows, to these rows one after the other, or back. COUNT is a power of two.
template <class T, int COUNT>
inline void to_short_rows(Vec<T>* v) {
  if constexpr (COUNT > 1) {
    Vec<T> left[COUNT / 2], right[COUNT / 2];
#pragma GCC unroll 8
    for (int i = 0; i < COUNT / 2; ++i) left[i] = v[2 * i], right[i] = v[2 * i + 1];
    to_short_rows<T, COUNT / 2>(left);
    to_short_rows<T, COUNT / 2>(right);
#pragma GCC unroll 8
    for (int i = 0; i < COUNT / 2; ++i) {
      interleave<T>(left[i], right[i]);
      v[2 * i] = left[i], v[2 * i + 1] = right[i];
    }
  }
}
template <class T, int COUNT>
inline void from_short_rows(Vec<T>* v) {
  if constexpr (COUNT > 1) {
    Vec<T> left[COUNT / 2], right[COUNT / 2];
#pragma GCC unroll 8
    for (int i = 0; i < COUNT / 2; ++i) {
      left[i] = v[2 * i], right[i] = v[2 * i + 1];
      deinterleave<T>(left[i], right[i]);
    }
    from_short_rows<T, COUNT / 2>(left);
    from_short_rows<T, COUNT / 2>(right);
#pragma GCC unroll 8
    for (int i = 0; i < COUNT / 2; ++i) v[2 * i] = left[i], v[2 * i + 1] = right[i];
  }
}

// The rows of a block, kLanes of them with COUNT numbers each, to lanes: `from` has them one after the other.
template <class T, int COUNT>
[[gnu::noinline]] void short_rows_to_lanes(const T* from, T* to, Index lanes) {
  Vec<T> v[COUNT];
#pragma GCC unroll 8
  for (int i = 0; i < COUNT; ++i) v[i] = load(from + i * kLanes<T>);
  from_short_rows<T, COUNT>(v);
#pragma GCC unroll 8
  for (int i = 0; i < COUNT; ++i) store(to + i * lanes, v[i]);
}
// Back; rows that are `width` apart, a multiple of kLanes, end in zeros.
template <class T, int COUNT>
[[gnu::noinline]] void lanes_to_short_rows(const T* from, Index lanes, T* to, Index width) {
  constexpr int W = kLanes<T>;
  Vec<T> v[COUNT];
#pragma GCC unroll 8
  for (int i = 0; i < COUNT; ++i) v[i] = load(from + i * lanes);
  to_short_rows<T, COUNT>(v);
  if (width == COUNT) {
#pragma GCC unroll 8
    for (int i = 0; i < COUNT; ++i) store(to + i * W, v[i]);
    return;
  }
  constexpr int kRows = W / COUNT;  // in one vector
#pragma GCC unroll 8
  for (int i = 0; i < COUNT; ++i)
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      Vec<T> row = {};
      for (int l = 0; l < COUNT; ++l) row[l] = v[i][r * COUNT + l];
      store(to + (i * kRows + r) * width, row);
    }
}

// (rows, count) to (count, lanes), zeros in the lanes without a row; `lanes` is a multiple of the vector's.
template <class T>
[[gnu::noinline]] void rows_to_lanes(const T* from, Index from_row, Index rows, Index count, T* to, Index lanes) {
  constexpr Index W = kLanes<T>;
  for (Index r = 0; r < lanes; r += W) {
    const T* const in = from + r * from_row;
    const Index have = rows - r < W ? rows - r : W;
    Index i = 0;
    if (have == W) {
      if (count == 2 && from_row == 2) short_rows_to_lanes<T, 2>(in, to + r, lanes), i = 2;
      if constexpr (W > 4)
        if (count == 4 && from_row == 4) short_rows_to_lanes<T, 4>(in, to + r, lanes), i = 4;
      for (; i + W <= count; i += W) transpose<T>(in + i, from_row, to + i * lanes + r, lanes);
    }
    for (; i < count; ++i)
      for (Index l = 0; l < W; ++l) to[i * lanes + r + l] = l < have ? in[l * from_row + i] : T(0);
  }
}

// (count, lanes) to (rows, width), zeros in the columns from `count` on.
template <class T>
[[gnu::noinline]] void lanes_to_rows(const T* from, Index lanes, Index rows, Index count, T* to, Index width) {
  constexpr Index W = kLanes<T>;
  for (Index r = 0; r < rows; r += W) {
    T* const out = to + r * width;
    const Index have = rows - r < W ? rows - r : W;
    const bool one_block = width == count || width == W;
    Index i = 0;
    if (have == W) {
      if (count == 2 && one_block) lanes_to_short_rows<T, 2>(from + r, lanes, out, width), i = width;
      if constexpr (W > 4)
        if (count == 4 && one_block) lanes_to_short_rows<T, 4>(from + r, lanes, out, width), i = width;
      for (; i + W <= width; i += W) {
        Vec<T> square[W];
#pragma GCC unroll 16
        for (Index k = 0; k < W; ++k) square[k] = i + k < count ? load(from + (i + k) * lanes + r) : Vec<T>{};
        transpose<T>(square);
#pragma GCC unroll 16
        for (Index k = 0; k < W; ++k) store(out + k * width + i, square[k]);
      }
    }
    for (Index l = 0; l < have; ++l) {
      for (Index k = i; k < count; ++k) out[l * width + k] = from[k * lanes + r + l];
      for (Index k = i < count ? count : i; k < width; ++k) out[l * width + k] = T(0);
    }
  }
}

template <class T>
inline bool constant(const Matrices<T>& m) {
  return m.time == 0 && m.row == 0;
}

// Whether `rows` rows in lanes take less time than matrices packed by columns: counts vectors of multiply-adds, and for
// a matrix of one step also those that packing is worth.
template <class T>
[[gnu::noinline]] bool lanes_pay(const StateSpace<T>& s, Index rows) {
  constexpr Index W = kLanes<T>;
  double lanes = 0, columns = 0;
  for (const Matrices<T>& m : s.of) {
    if (!m.at) continue;
    if (m.row != 0) return false;
    const auto size = static_cast<double>(m.rows * m.columns);
    lanes += size * static_cast<double>(divide_up(rows, W));
    columns += static_cast<double>(divide_up(m.rows, W) * m.columns) * static_cast<double>(rows);
    if (!constant(m)) columns += size;
  }
  return lanes < columns;
}

// The forward pass of rows [begin, end), at most kLaneVectors vectors of them.
template <class T>
struct LanesPass {
  const StateSpace<T>& s;
  Member& m;
  Index begin, rows, lanes;
  T *u, *before, *now, *y;

  LanesPass(const StateSpace<T>& s_, Member& m_, Range r, T* work)
      : s(s_), m(m_), begin(r.begin), rows(r.end - r.begin), lanes(divide_up(rows, kLanes<T>) * kLanes<T>) {
    u = work, before = u + s.m * lanes, now = before + s.n * lanes, y = now + s.n * lanes;
  }

  void multiply(Operand of, Index t, const T* in, const T* init, T* out) const {
    const Matrices<T>& f = s.of[of];
    const StridedTile<T> tile = {f.at + t * f.time, f.columns, f.columns, in, lanes, init, lanes, out, lanes, true};
    strided_product(tile, f.rows, lanes / kLanes<T>);
    did(m, 2.0 * static_cast<double>(f.rows * f.columns * lanes));
  }

  // The flags of step t, or null if all rows run and none is cut. Clears the states of rows that are cut.
  const uint8_t* start_step(Index t) const {
    if (!s.flags) return nullptr;
    const uint8_t* const flags = s.flags + t * s.B + begin;
    bool plain = true;
    for (Index r = 0; r < rows; ++r) {
      plain = plain && flags[r] == kRuns;
      if (flags[r] & kCut)
        for (Index i = 0; i < s.n; ++i) before[i * lanes + r] = T(0);
    }
    return plain ? nullptr : flags;
  }

  static void zero_skipped(const uint8_t* flags, Index rows, T* at, Index row, Index width) {
    if (!flags) return;
    for (Index r = 0; r < rows; ++r)
      if (!(flags[r] & kRuns)) clear(at + r * row, width);
  }

  void run() {
    rows_to_lanes<T>(s.state + begin * s.np, s.np, rows, s.n, before, lanes);
    if (!s.flags) lanes_to_rows<T>(before, lanes, rows, s.n, s.earlier + begin * s.np, s.np);
    for (Index t = 0; t < s.T_ && !stopped(m); ++t) {
      const Index at = t * s.B + begin;
      const uint8_t* const flags = start_step(t);
      if (s.flags) {
        lanes_to_rows<T>(before, lanes, rows, s.n, s.earlier + at * s.np, s.np);
        zero_skipped(flags, rows, s.earlier + at * s.np, s.np, s.np);
      }
      rows_to_lanes<T>(s.u + at * s.u_row, s.u_row, rows, s.m, u, lanes);
      multiply(kB, t, u, nullptr, now);
      multiply(kA, t, before, now, now);
      if (s.of[kD].at) multiply(kD, t, u, nullptr, y);
      multiply(kC, t, s.before ? before : now, s.of[kD].at ? y : nullptr, y);
      T* const out = s.y + t * s.y_time + begin * s.p;
      lanes_to_rows<T>(now, lanes, rows, s.n, s.x + at * s.np, s.np);
      lanes_to_rows<T>(y, lanes, rows, s.p, out, s.p);
      zero_skipped(flags, rows, s.x + at * s.np, s.np, s.np);
      zero_skipped(flags, rows, out, s.p, s.p);
      for (Index r = 0; flags && r < rows; ++r)
        if (!(flags[r] & kRuns))
          for (Index i = 0; i < s.n; ++i) now[i * lanes + r] = before[i * lanes + r];
      T* const last = now;
      now = before, before = last;
    }
    lanes_to_rows<T>(before, lanes, rows, s.n, s.state + begin * s.np, s.np);
  }
};

template <class T>
void forward_in_lanes(const StateSpace<T>& s, Member& m, Range rows) {
  const Index most = kLaneVectors * kLanes<T>;
  for (Index b = rows.begin; b < rows.end && !stopped(m); b += most)
    LanesPass<T>(s, m, {b, b + most < rows.end ? b + most : rows.end}, s.work + m.rank * s.work_size).run();
}

}  // namespace fusedrnn::FUSEDRNN_ISA
