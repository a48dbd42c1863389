// The scan h_t = a_t h_{t-1} + b_t over plain arrays, forward and backward. Time runs in order; threads share rows and
// blocks of units, and never wait for each other. Every number of h depends on its own unit alone, so the bits depend
// on neither blocks nor threads.
//
// A thread carries a block of kScanBlock numbers through time. Their state is in L1, not in registers: as many as fit
// the registers would be a few lines of each step's row, and memory then delivers at half its speed (docs/decisions/
// 0017-time-in-order.md). Not here: which rows run when (core/array_scan.cpp makes the flags). Next, read
// core/array_scan.cpp.
#pragma once

#include "../math/complex.h"
#include "parallel.h"
#include "recurrence_contract.h"

namespace fusedrnn::FUSEDRNN_ISA {

template <class T, bool STREAM>
inline void put(T* p, Vec<T> v) {
  if constexpr (STREAM) store_past_cache(p, v);
  else store(p, v);
}

// One number, or one pair (re, im), in all lanes.
template <class T, bool COMPLEX>
inline Vec<T> splat_unit(const T* a) {
  Vec<T> v = splat(a[0]);
  if constexpr (COMPLEX)
    for (int l = 1; l < kLanes<T>; l += 2) v[l] = a[1];
  return v;
}

// A part of a row: `count` numbers from `from` on, whose state is at `at` in the block.
struct Segment {
  Index row, from, count, at, granule;
};

struct ScanBlock {
  static constexpr int kMost = kScanBlock / kScanLanes;
  Segment segments[kMost];
  int count = 0;
  Index used = 0;

  // Takes positions from `position` on, at most to `end`; returns the first position that is left.
  template <class T>
  [[gnu::noinline]] Index fill(const Scan<T>& s, Index position, Index end, bool sums) {
    const Index granule = scan_granule(sums), granules = (s.units + granule - 1) / granule;
    count = 0, used = 0;
    while (position < end && count < kMost && used + granule <= kScanBlock) {
      const Index row = position / granules, first = position % granules, room = (kScanBlock - used) / granule;
      Index take = granules - first < end - position ? granules - first : end - position;
      if (take > room) take = room;
      if (sums) take = 1;
      const Index from = first * granule, rest = s.units - from;
      const Index n = rest < take * granule ? rest : take * granule;
      segments[count++] = {row, from, n, used, first};
      used += (n + kScanLanes - 1) / kScanLanes * kScanLanes;
      position += take;
    }
    return position;
  }
};

template <class T, bool COMPLEX>
[[gnu::always_inline]] inline Vec<T> advance(Vec<T> a, Vec<T> h, Vec<T> b) {
  if constexpr (COMPLEX) return complex_product<T>(a, h, b);
  else return a * h + b;
}
template <class T, bool COMPLEX>
[[gnu::always_inline]] inline Vec<T> conjugate_times(Vec<T> a, Vec<T> g) {
  if constexpr (COMPLEX) return conjugate_product<T>(a, g);
  else return a * g;
}

// Whole vectors only; n is a multiple of their lanes.
template <class T, bool COMPLEX, bool SPLAT, bool STREAM>
void forward_segment(Index n, const T* a, const T* b, T* state, T* h) {
  const Vec<T> same = SPLAT ? splat_unit<T, COMPLEX>(a) : Vec<T>{};
#pragma GCC unroll 2
  for (Index i = 0; i < n; i += kLanes<T>) {
    const Vec<T> v = advance<T, COMPLEX>(SPLAT ? same : load(a + i), load(state + i), load(b + i));
    store(state + i, v);
    put<T, STREAM>(h + i, v);
  }
}

template <class T>
[[gnu::noinline]] void clear(T* p, Index n) {
  Index i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) store(p + i, Vec<T>{});
  for (; i < n; ++i) p[i] = T(0);
}
template <class T>
[[gnu::noinline]] void copy_numbers(const T* from, T* to, Index n) {
  if (!from) return clear(to, n);
  Index i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) store(to + i, load(from + i));
  for (; i < n; ++i) to[i] = from[i];
}

// The last numbers of a row, in a whole vector.
template <class T>
struct Padded {
  alignas(kVectorBytes) T at[kLanes<T>];
  [[gnu::noinline]] T* read(const T* from, Index count) {
    store(at, load_partial(from, count));
    return at;
  }
};

template <class T>
void scan_forward(const Scan<T>& s, Member& m) {
  const FloatingPointState floating_point;
  const Index granules = (s.units + scan_granule(false) - 1) / scan_granule(false);
  const Range mine = part_of(s.B * granules, m.rank, m.team->size);
  T* const state = s.work + m.rank * scan_work();
  using Row = void (*)(Index, const T*, const T*, T*, T*);
  static constexpr Row rows[] = {
      forward_segment<T, false, false, false>, forward_segment<T, false, false, true>,
      forward_segment<T, false, true, false>,  forward_segment<T, false, true, true>,
      forward_segment<T, true, false, false>,  forward_segment<T, true, false, true>,
      forward_segment<T, true, true, false>,   forward_segment<T, true, true, true>,
  };
  const int kind = 4 * s.complex + 2 * (s.a_unit == 0);
  const Row run = rows[kind + s.stream], run_rest = rows[kind];
  ScanBlock block;
  for (Index position = mine.begin; position < mine.end;) {
    position = block.fill(s, position, mine.end, false);
    clear(state, block.used);
    for (int i = 0; i < block.count; ++i) {
      const Segment& g = block.segments[i];
      if (s.h_0) copy_numbers(s.h_0 + g.row * s.units + g.from, state + g.at, g.count);
    }
    for (Index t = 0; t < s.T_; ++t) {
      for (int i = 0; i < block.count; ++i) {
        const Segment& g = block.segments[i];
        const uint8_t flags = s.flags ? s.flags[t * s.B + g.row] : uint8_t{kRuns};
        T* const h = s.h + t * s.h_time + g.row * s.units + g.from;
        if (flags & kCut) clear(state + g.at, g.count);
        if (!(flags & kRuns)) {
          clear(h, g.count);
          continue;
        }
        const T* const a = s.a + t * s.a_time + g.row * s.a_row + g.from * s.a_unit;
        const T* const b = s.b + t * s.b_time + g.row * s.b_row + g.from;
        const Index rest = g.count % kLanes<T>, whole = g.count - rest;
        run(whole, a, b, state + g.at, h);
        if (rest > 0) {
          Padded<T> of_a, of_b, of_h;
          run_rest(kLanes<T>, s.a_unit ? of_a.read(a + whole, rest) : a, of_b.read(b + whole, rest),
                   state + g.at + whole, of_h.at);
          copy_numbers(of_h.at, h + whole, rest);
        }
      }
      did(m, static_cast<double>(2 * block.used));
      if (stopped(m)) return stores_done();
    }
    for (int i = 0; i < block.count; ++i) {
      const Segment& g = block.segments[i];
      copy_numbers(state + g.at, s.h_n + g.row * s.units + g.from, g.count);
    }
  }
  stores_done();
}

// ---- backward

// The arrays of one segment at one step.
template <class T>
struct BackwardSegment {
  Index n;
  const T *a, *dh, *earlier;  // dh and earlier, the state before the step, may be null: zeros
  T *carry, *db;
  T *da,
      *sum;  // da: (n,), stored, or with ACCUMULATE added up; else, with SPLAT, its total goes to sum[0] (and sum[1])
};

template <class T, bool COMPLEX>
inline void add_up(const Vec<T>& lanes, T* sum) {
  if constexpr (COMPLEX) {
    T re = 0, im = 0;
    for (int l = 0; l < kLanes<T>; l += 2) re += lanes[l], im += lanes[l + 1];
    sum[0] = re, sum[1] = im;
  } else {
    sum[0] = sum_lanes<T>(lanes);
  }
}

// Whole vectors only; n is a multiple of their lanes.
template <class T, bool COMPLEX, bool SPLAT, bool ACCUMULATE, bool STREAM>
void backward_segment(const BackwardSegment<T>& s) {
  const T *const of_a = s.a, *const dh = s.dh, *const earlier = s.earlier;
  T *const carry = s.carry, *const db = s.db, *const of_da = s.da;
  const Vec<T> same = SPLAT ? splat_unit<T, COMPLEX>(of_a) : Vec<T>{};
  Vec<T> total = {};
#pragma GCC unroll 1
  for (Index i = 0; i < s.n; i += kLanes<T>) {
    Vec<T> g = load(carry + i), da = {};
    if (dh) g += load(dh + i);
    const Vec<T> a = SPLAT ? same : load(of_a + i);
    if (earlier) da = conjugate_times<T, COMPLEX>(load(earlier + i), g);
    put<T, STREAM>(db + i, g);
    if constexpr (ACCUMULATE) store(of_da + i, load(of_da + i) + da);
    else if constexpr (SPLAT) total += da;
    else put<T, STREAM>(of_da + i, da);
    store(carry + i, conjugate_times<T, COMPLEX>(a, g));
  }
  if constexpr (SPLAT && !ACCUMULATE) add_up<T, COMPLEX>(total, s.sum);
}

// The last `rest` numbers of a row, of which `whole` numbers are done, in whole vectors of `run`.
template <class T>
[[gnu::noinline]] void backward_rest(BackwardSegment<T> s, Index whole, Index rest, bool over_time, bool lanes,
                                     Index pair, void (*run)(const BackwardSegment<T>&)) {
  Padded<T> a, dh, earlier, db, da;
  T sum[2] = {};
  BackwardSegment<T> q = s;
  q.n = kLanes<T>, q.carry += whole, q.db = db.at;
  if (lanes) q.a = a.read(s.a + whole, rest);
  if (s.dh) q.dh = dh.read(s.dh + whole, rest);
  if (s.earlier) q.earlier = earlier.read(s.earlier + whole, rest);
  if (over_time) q.da += whole;  // sums over time are in padded rows
  else q.da = da.at;
  q.sum = sum;
  run(q);
  copy_numbers(db.at, s.db + whole, rest);
  if (s.sum)
    for (Index i = 0; i < pair; ++i) s.sum[i] += sum[i];
  else if (!over_time) copy_numbers(da.at, s.da + whole, rest);
}

// The state before step t: of the last step that ran, if no cut lies between; else the first state, or null for zeros.
template <class T>
inline const T* state_before(const Scan<T>& s, Index t, const Segment& g) {
  const Index at = g.row * s.units + g.from;
  if (!s.flags) return t > 0 ? s.h + (t - 1) * s.h_time + at : s.h_0 ? s.h_0 + at : nullptr;
  const uint8_t* flags = s.flags + g.row;
  while (!(flags[t * s.B] & kCut)) {
    if (t == 0) return s.h_0 ? s.h_0 + at : nullptr;
    if (flags[--t * s.B] & kRuns) return s.h + t * s.h_time + at;
  }
  return nullptr;
}

// Sums over time are made of sums over kScanTime steps, so that errors grow with the root of few terms.
inline constexpr Index kScanTime = 512;

template <class T>
void scan_backward(const Scan<T>& s, Member& m) {
  const FloatingPointState floating_point;
  const bool over_time = s.a_time == 0, sums = s.a_unit == 0 && !over_time;
  const Index granules = (s.units + scan_granule(sums) - 1) / scan_granule(sums);
  const Range mine = part_of(s.B * granules, m.rank, m.team->size);
  T* const carry = s.work + m.rank * scan_work();
  T* const recent = carry + kScanBlock;
  T* const all = recent + kScanBlock;
  using Row = void (*)(const BackwardSegment<T>&);
#define FUSEDRNN_ROWS(complex)                                                                           \
  backward_segment<T, complex, false, false, false>, backward_segment<T, complex, false, false, true>,   \
      backward_segment<T, complex, false, true, false>, backward_segment<T, complex, false, true, true>, \
      backward_segment<T, complex, true, false, false>, backward_segment<T, complex, true, false, true>, \
      backward_segment<T, complex, true, true, false>, backward_segment<T, complex, true, true, true>
  static constexpr Row rows[] = {FUSEDRNN_ROWS(false), FUSEDRNN_ROWS(true)};
#undef FUSEDRNN_ROWS
  const int kind = 8 * s.complex + 4 * (s.a_unit == 0) + 2 * over_time;
  const Row run = rows[kind + s.stream], run_rest = rows[kind];
  const Index pair = s.complex ? 2 : 1;
  ScanBlock block;
  for (Index position = mine.begin; position < mine.end;) {
    position = block.fill(s, position, mine.end, sums);
    clear(carry, block.used);
    if (over_time) clear(recent, block.used), clear(all, block.used);
    for (int i = 0; i < block.count; ++i) {
      const Segment& g = block.segments[i];
      if (s.dh_n) copy_numbers(s.dh_n + g.row * s.units + g.from, carry + g.at, g.count);
    }
    for (Index t = s.T_ - 1; t >= 0; --t) {
      for (int i = 0; i < block.count; ++i) {
        const Segment& g = block.segments[i];
        const uint8_t flags = s.flags ? s.flags[t * s.B + g.row] : uint8_t{kRuns};
        const Index at = g.row * s.units + g.from;
        BackwardSegment<T> q;
        q.carry = carry + g.at, q.db = s.db + t * s.db_time + at;
        q.sum = sums ? s.da + t * s.da_time + (g.row * granules + g.granule) * pair : nullptr;
        q.da = over_time ? recent + g.at : sums ? nullptr : s.da + t * s.da_time + at;
        if (flags & kRuns) {
          q.a = s.a + t * s.a_time + g.row * s.a_row + g.from * s.a_unit;
          q.dh = s.dh ? s.dh + t * s.dh_time + g.row * s.dh_row + g.from : nullptr;
          q.earlier = state_before(s, t, g);
          const Index rest = g.count % kLanes<T>, whole = g.count - rest;
          q.n = whole;
          run(q);
          if (rest > 0) backward_rest(q, whole, rest, over_time, s.a_unit != 0, pair, run_rest);
        } else {
          clear(q.db, g.count);
          if (sums) clear(q.sum, pair);
          else if (!over_time) clear(q.da, g.count);
        }
        if (flags & kCut) clear(q.carry, g.count);
      }
      if (over_time && t % kScanTime == 0)
        for (Index i = 0; i < block.used; ++i) all[i] += recent[i], recent[i] = 0;
      did(m, static_cast<double>(4 * block.used));
      if (stopped(m)) return stores_done();
    }
    for (int i = 0; i < block.count; ++i) {
      const Segment& g = block.segments[i];
      copy_numbers(carry + g.at, s.dh_0 + g.row * s.units + g.from, g.count);
      if (over_time) copy_numbers(all + g.at, s.da + g.row * s.units + g.from, g.count);
    }
  }
  stores_done();
}

}  // namespace fusedrnn::FUSEDRNN_ISA
