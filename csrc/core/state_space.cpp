#include "state_space.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "dispatch.h"

namespace fusedrnn {
namespace {

Index padded(Index n, Index lanes) {
  size(n) + size(lanes) > PTRDIFF_MAX ? throw std::bad_alloc() : void();
  return (n + lanes - 1) / lanes * lanes;
}
std::size_t numbers(Index a, Index b, Index c) { return product(product(size(a), size(b)), size(c)); }

template <class T>
StateSpace<T> sized(const StateSpaceArrays<T>& arrays, Index lanes) {
  StateSpace<T> s;
  s.T_ = arrays.T_, s.B = arrays.B, s.n = arrays.n, s.m = arrays.m, s.p = arrays.p;
  s.np = padded(s.n, lanes), s.mp = padded(s.m, lanes), s.pp = padded(s.p, lanes);
  s.before = arrays.before;
  s.flags = arrays.flags ? arrays.flags->bytes() : nullptr;
  std::copy(arrays.of, arrays.of + kOperands, s.of);
  s.chunk_rows = std::max(kStateSpaceRows, s.B);
  return s;
}

template <class T>
bool constant(const Matrices<T>& m) {
  return m.at && m.time == 0 && m.row == 0;
}
template <class T>
std::size_t packed_numbers(const Matrices<T>& m, Index lanes) {
  return product(size(padded(m.rows, lanes)), size(padded(m.columns, lanes)));
}

// Claims the arrays that both directions need; the sizes are those that the kernels expect.
template <class T>
void claim_work(StateSpace<T>& s, Arena& arena, Index lanes, Index threads) {
  const Index widest = widest_padded(s);
  std::size_t most = 0;
  for (int of = 0; of < kOperands; ++of) {
    if (!s.of[of].at) continue;
    most = std::max(most, packed_numbers(s.of[of], lanes));
    if (constant(s.of[of])) arena.claim(s.packed[of], packed_numbers(s.of[of], lanes));
  }
  std::size_t each = sum(sum(most, product(size(s.chunk_rows), size(widest))), size(widest));
  const Index in_lanes = std::min(padded(s.B, lanes), kLaneVectors * lanes);  // u, two states and y of these rows
  each = std::max(each, product(sum(sum(size(s.m), size(s.n)), sum(size(s.n), size(s.p))), size(in_lanes)));
  s.work_size = static_cast<Index>(sum(each, 63) / 64 * 64);
  arena.claim(s.work, product(size(s.work_size), size(threads)));
}

// The time of one thread; products with the same matrix read it once for all rows.
template <class T>
double seconds(const StateSpace<T>& s, Index lanes, double passes) {
  const double rows = static_cast<double>(s.T_) * static_cast<double>(s.B);
  double time = 0;
  for (const Matrices<T>& m : s.of) {
    if (!m.at) continue;
    const double size = static_cast<double>(m.rows) * static_cast<double>(m.columns);
    time += 2 * size * rows / (4e9 * static_cast<double>(lanes));
    if (m.row != 0) time += size * rows * sizeof(T) / 8e9;
    else if (m.time != 0) time += size * static_cast<double>(s.T_) * sizeof(T) / 8e9;
  }
  return passes * time;
}

Index shares(Index B) { return std::max<Index>(1, (B + 3) / 4); }  // a tile should have some rows

// Whether an array (T, B, width) is aligned and in C order.
bool plain(const Strided& a, Index T_, Index B, Index width, Index item) {
  return reinterpret_cast<std::uintptr_t>(a.data) % static_cast<std::uintptr_t>(item) == 0 &&
         (width == 1 || a.feature == item) && (B == 1 || a.batch == width * item) &&
         (T_ == 1 || a.time == B * width * item);
}

// Copies one thread's rows to (T, B, width), zeros in the padding and where a row does not run.
template <class T>
void gather(const Strided& from, Index T_, Index B, Index width, Index padded_width, const std::uint8_t* flags, T* to,
            const Member& member) {
  const Range rows = part_of(B, member.rank, member.team->size);
  for (Index t = 0; t < T_; ++t)
    for (Index b = rows.begin; b < rows.end; ++b) {
      T* const out = to + (t * B + b) * padded_width;
      const char* const in = from.data + t * from.time + b * from.batch;
      const bool runs = !flags || flags[t * B + b] & kRuns;
      Index i = 0;
      if (runs && from.feature == static_cast<Index>(sizeof(T)) && width >= 16) {
        std::memcpy(out, in, size(width) * sizeof(T));
        i = width;
      } else if (runs) {
        for (; i < width; ++i) std::memcpy(out + i, in + i * from.feature, sizeof(T));
      }
      for (; i < padded_width; ++i) out[i] = T(0);
    }
}

template <class T>
void copy_states(const T* from, Index from_row, T* to, Index to_row, Index B, Index n) {
  for (Index b = 0; b < B; ++b) {
    for (Index i = 0; i < n; ++i) to[b * to_row + i] = from ? from[b * from_row + i] : T(0);
    for (Index i = n; i < to_row; ++i) to[b * to_row + i] = T(0);
  }
}

}  // namespace

template <class T>
std::unique_ptr<StateSpaceTape> state_space_forward(const StateSpaceArrays<T>& arrays, Interrupt interrupt) {
  const Kernels& kernels = current_kernels();
  const RecurrenceTable<T>& table = recurrences_of<T>(kernels);
  const Index lanes = table.lanes;
  StateSpace<T> s = sized(arrays, lanes);
  ThreadLimit limit;
  const Index threads = threads_for(seconds(s, lanes, 1), shares(s.B), limit);

  auto tape = std::make_unique<StateSpaceTape>();
  tape->dtype = kDtypeOf<T>, tape->kernels = &kernels;
  tape->T_ = s.T_, tape->B = s.B, tape->n = s.n, tape->m = s.m, tape->p = s.p;
  tape->before = s.before, tape->flags = arrays.flags;
  T* u = nullptr;
  T* x = nullptr;  // without flags also the earlier states
  const bool in_place = !s.flags && plain(arrays.u, s.T_, s.B, s.m, static_cast<Index>(sizeof(T)));
  Arena kept;
  const Index steps = s.T_ + 1;
  if (!in_place) kept.claim(u, numbers(s.T_, s.B, s.mp));
  kept.claim(x, product(numbers(steps, s.B, s.np), s.flags ? 2 : 1));
  tape->buffer = kept.allocate();
  tape->nbytes = kept.size();
  s.u = in_place ? reinterpret_cast<const T*>(arrays.u.data) : u;
  s.u_row = in_place ? s.m : s.mp;
  s.earlier = x;
  s.x = x + s.B * s.np * (s.flags ? steps : 1);
  tape->u = u, tape->earlier = s.earlier, tape->x = s.x;

  Arena arena;
  claim_work(s, arena, lanes, threads);
  arena.claim(s.state, product(size(s.B), size(s.np)));
  const Buffer buffer = arena.allocate();
  copy_states(arrays.x_0, s.n, s.state, s.np, s.B, s.n);
  s.y = arrays.y, s.y_time = arrays.y_time;
  run_team(
      threads,
      [&](Member& member) {
        if (u) gather(arrays.u, s.T_, s.B, s.m, s.mp, s.flags, u, member);
        table.state_space_forward(s, member);
      },
      interrupt);
  copy_states(static_cast<const T*>(s.state), s.np, arrays.x_n, s.n, s.B, s.n);
  return tape;
}

template <class T>
void state_space_backward(const StateSpaceTape& tape, const StateSpaceArrays<T>& arrays, Interrupt interrupt) {
  const RecurrenceTable<T>& table = recurrences_of<T>(*tape.kernels);
  const Index lanes = table.lanes;
  StateSpace<T> s = sized(arrays, lanes);
  s.earlier = static_cast<T*>(tape.earlier), s.x = static_cast<T*>(tape.x);
  ThreadLimit limit;
  const Index threads = threads_for(seconds(s, lanes, 2), shares(s.B), limit);
  // Parts of at least 1024 rows, at most 64: their number, hence the order of the sums, depends on T and B alone.
  const Index rows = s.T_ * s.B;
  s.parts = std::max<Index>(1, std::min<Index>(64, rows / 1024));

  Arena arena;
  claim_work(s, arena, lanes, threads);
  arena.claim(s.state, product(size(s.B), size(s.np)));
  arena.claim(s.l, numbers(s.T_, s.B, s.np));
  T *dy = nullptr, *u = static_cast<T*>(tape.u);
  if (!u) arena.claim(u, numbers(s.T_, s.B, s.mp));
  if (arrays.dy.data) arena.claim(dy, numbers(s.T_, s.B, s.pp));
  for (int of = 0; of < kOperands; ++of) {
    s.d[of] = arrays.d[of];
    if (constant(s.of[of]))
      arena.claim(s.d[of].parts, numbers(s.parts, s.of[of].rows, padded(s.of[of].columns, lanes)));
  }
  const Buffer buffer = arena.allocate();
  s.u = u, s.u_row = s.mp;
  s.dy = dy;
  s.du = arrays.du, s.du_time = arrays.du_time;
  copy_states(arrays.dx_n, s.n, s.state, s.np, s.B, s.n);
  if (!dy) std::fill_n(s.l, numbers(s.T_, s.B, s.np), T(0));
  run_team(
      threads,
      [&](Member& member) {
        if (!tape.u) gather(arrays.u, s.T_, s.B, s.m, s.mp, s.flags, u, member);
        if (dy) gather(arrays.dy, s.T_, s.B, s.p, s.pp, s.flags, dy, member);
        table.state_space_backward(s, member);
      },
      interrupt);
  copy_states(static_cast<const T*>(s.state), s.np, arrays.dx_0, s.n, s.B, s.n);
}

template std::unique_ptr<StateSpaceTape> state_space_forward(const StateSpaceArrays<float>&, Interrupt);
template std::unique_ptr<StateSpaceTape> state_space_forward(const StateSpaceArrays<double>&, Interrupt);
template void state_space_backward(const StateSpaceTape&, const StateSpaceArrays<float>&, Interrupt);
template void state_space_backward(const StateSpaceTape&, const StateSpaceArrays<double>&, Interrupt);

}  // namespace fusedrnn
