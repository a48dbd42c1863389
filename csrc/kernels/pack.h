// torch's row-major weights -> panels, and gradients in panels -> torch's layout. Units and inputs beyond the real ones
// are zeros in the packed form, so padded lanes compute zeros and never reach a real one.
#pragma once

#include "forms.h"
#include "layout.h"
#include "parallel.h"

namespace fusedrnn::FUSEDRNN_ISA {

inline constexpr double kPackCost = 100;  // of moving a word, in floating-point operations, for did()

// Both gate orders of a phase: the recurrent columns of a split phase start one gate later (see cells/gru.h).
template <class P>
inline Index gate_of_x(Index g) {
  return P::order[g];
}
template <class P>
inline Index gate_of_h(Index g) {
  return P::order[(g + P::split) % P::gates];
}

template <class T>
inline void zero(T* p, Index n) {
  __builtin_memset(p, 0, static_cast<size_t>(n) * sizeof(T));
}

// What no row has a step for becomes zero.
template <class T>
inline void zero_gaps(const Rows& rows, const Strided& array, Index width, const Member& m) {
  const Range mine = part_of(rows.gaps, m.rank, m.team->size);
  for (Index i = mine.begin; i < mine.end; ++i)
    zero(reinterpret_cast<T*>(array.data + rows.gap[i].time * array.time + rows.gap[i].row * array.batch), width);
}

// Calls visit(row of torch's weights, column in the panel) for every real unit and gate of panel p.
template <class T, class P, class Gate, class Visit>
inline void for_each_column(const P& phase, Index p, Index H, Gate gate, Visit visit) {
  constexpr Index W = kLanes<T>;
  const Index width = phase.panels.width(p);
  for (Index g = 0; g < P::gates; ++g)
    for (Index j = 0; j < width; ++j)
      for (Index l = 0; l < W; ++l) {
        const Index unit = (phase.panels.start(p) + j) * W + l;
        if (unit < H) visit(gate(g) * H + unit, (g * width + j) * W + l);
      }
}

// Calls square(row of torch's weights, k, column in the panel) for every square of a vector's width of panel p, which
// has K rows, and rest(row, k, column) for every single weight beside them. Columns inside, k outside: then the cache
// line of a torch row that one square leaves half read is still near when its other half is due.
template <class T, class P, class Gate, class Square, class Rest>
inline void for_each_square(const P& phase, Index p, Index H, Gate gate, Index K, Square square, Rest rest) {
  constexpr Index W = kLanes<T>;
  const Index width = phase.panels.width(p);
  for (Index g = 0; g < P::gates; ++g)
    for (Index j = 0; j < width; ++j)
      for (Index k = 0; k < K; k += W) {
        const Index unit = (phase.panels.start(p) + j) * W, column = (g * width + j) * W, row = gate(g) * H + unit;
        if (k + W <= K && unit + W <= H) {
          square(row, k, column);
          continue;
        }
        for (Index l = 0; l < W && unit + l < H; ++l)
          for (Index i = k; i < K && i < k + W; ++i) rest(row + l, i, column + l);
      }
}

// panel[k][column] = w[row][k]
template <class T, class P, class Gate>
inline void pack_panel(const P& phase, Index p, Index H, Gate gate, const T* w, Index K, T* panel) {
  const Index width = phase.w_width(p);
  if (phase.padded != H) zero(panel, K * width);
  for_each_square<T>(
      phase, p, H, gate, K,
      [&](Index row, Index k, Index column) { transpose(w + row * K + k, K, panel + k * width + column, width); },
      [&](Index row, Index k, Index column) { panel[k * width + column] = w[row * K + k]; });
}

template <class T, class P, class Gate>
inline void unpack_panel(const P& phase, Index p, Index H, Gate gate, const T* panel, Index K, T* w) {
  const Index width = phase.w_width(p);
  for_each_square<T>(
      phase, p, H, gate, K,
      [&](Index row, Index k, Index column) { transpose(panel + k * width + column, width, w + row * K + k, K); },
      [&](Index row, Index k, Index column) { w[row * K + k] = panel[k * width + column]; });
}

// The same weights for dx and dh: [panel of K columns][gate columns in the order of gate rows][K columns]. For the gate
// panels `from`, into the column panels `to`. A torch row is read as it lies and dealt out to the panels: panel by
// panel, each piece would be a page of its own.
template <class T, class P, class Gate>
inline void pack_back(const P& phase, Range from, Index H, Gate gate, const T* w, Index K, T* packed, Range to,
                      Member& m) {
  constexpr Index W = kLanes<T>;
  const Panels columns(blocks_of<T>(K), kMaxBackVectors);
  const Index rows = P::gates * phase.padded;
  for (Index p = from.begin; p < from.end; ++p) {
    const Index before = P::gates * phase.panels.start(p) * W, count = P::gates * phase.panels.width(p) * W;
    for (Index q = to.begin; q < to.end; ++q) {
      const Index first = columns.start(q) * W, width = columns.width(q) * W;
      if (first + width > K || phase.padded != H) zero(packed + first * rows + before * width, count * width);
    }
    for_each_column<T>(phase, p, H, gate, [&](Index row, Index column) {
      for (Index q = to.begin; q < to.end; ++q) {
        const Index first = columns.start(q) * W, width = columns.width(q) * W;
        T* out = packed + first * rows + (before + column) * width;
        const T* in = w + row * K + first;
        if (first + width <= K)
          for (Index k = 0; k < width; k += W) store(out + k, load(in + k));
        else __builtin_memcpy(out, in, static_cast<size_t>(K - first) * sizeof(T));
      }
    });
    did(m, kPackCost * static_cast<double>(count * (columns.start(to.end) - columns.start(to.begin)) * W));
    if (stopped(m)) return;
  }
}

template <class T, class Cell, int P>
void pack_phase(const RawWeights<T>& raw, const Packed<T>& packed, Member& m) {
  using ThisPhase = Phase<T, Cell, P>;
  constexpr Index W = kLanes<T>;
  const Index I = packed.I, H = packed.H, R = packed.R;
  const ThisPhase phase(H);
  const Range mine = part_of(phase.panels.count, m.rank, m.team->size);
  // For backward each thread packs the columns that it will multiply with. Alone, a thread packs a panel's rows both
  // ways while they are near.
  const bool alone = m.team->size == 1;
  const auto back = [&](Range panels, auto gate, const T* w, Index K, T* to) {
    if (!to) return;
    const Index columns = Panels(blocks_of<T>(K), kMaxBackVectors).count;
    pack_back<T>(phase, panels, H, gate, w, K, to + phase.gates_before() * phase.padded * blocks_of<T>(K) * W,
                 part_of(columns, m.rank, m.team->size), m);
  };
  const auto back_x = [&](Range panels) { back(panels, gate_of_x<ThisPhase>, raw.W_ih, I, packed.W_x_back); };
  const auto back_h = [&](Range panels) { back(panels, gate_of_h<ThisPhase>, raw.W_hh, R, packed.W_h_back); };
  for (Index p = mine.begin; p < mine.end; ++p) {
    pack_panel<T>(phase, p, H, gate_of_x<ThisPhase>, raw.W_ih, I, packed.W_x + phase.weight_offset(p, I));
    if (alone) back_x({p, p + 1});
    pack_panel<T>(phase, p, H, gate_of_h<ThisPhase>, raw.W_hh, R, packed.W_h + phase.weight_offset(p, R));
    if (alone) back_h({p, p + 1});
    T* b_x = packed.b_x + phase.weight_offset(p, 1);
    zero(b_x, phase.w_width(p));
    for_each_column<T>(phase, p, H, gate_of_x<ThisPhase>, [&](Index row, Index column) {
      // The split gate's recurrent bias stays inside its own product.
      const bool apart = ThisPhase::split && column < phase.panels.width(p) * W;
      b_x[column] = (raw.b_ih ? raw.b_ih[row] : T(0)) + (raw.b_hh && !apart ? raw.b_hh[row] : T(0));
    });
    if constexpr (ThisPhase::split) {
      T* b_h = packed.b_h + phase.panels.start(p) * W;
      zero(b_h, phase.panels.width(p) * W);
      for (Index l = 0; l < phase.panels.width(p) * W; ++l) {
        const Index unit = phase.panels.start(p) * W + l;
        if (unit < H && raw.b_hh) b_h[l] = raw.b_hh[gate_of_x<ThisPhase>(0) * H + unit];
      }
    }
    did(m, kPackCost * static_cast<double>((I + R) * phase.w_width(p)));
    if (stopped(m)) return;
  }
  if (alone) return;
  back_x({0, phase.panels.count});
  back_h({0, phase.panels.count});
}

template <class T>
void pack_projection(const RawWeights<T>& raw, const Packed<T>& packed, Member& m) {
  using ThisPhase = Phase<T, Projection, 0>;
  const ThisPhase phase(packed.R);
  const Range mine = part_of(phase.panels.count, m.rank, m.team->size);
  for (Index p = mine.begin; p < mine.end && !stopped(m); ++p) {
    pack_panel<T>(phase, p, packed.R, gate_of_x<ThisPhase>, raw.W_hr, packed.H,
                  packed.W_r + phase.weight_offset(p, packed.H));
    did(m, kPackCost * static_cast<double>(packed.H * phase.w_width(p)));
  }
  const Panels columns(blocks_of<T>(packed.H), kMaxBackVectors);
  if (packed.W_r_back)
    pack_back<T>(phase, {0, phase.panels.count}, packed.R, gate_of_x<ThisPhase>, raw.W_hr, packed.H, packed.W_r_back,
                 part_of(columns.count, m.rank, m.team->size), m);
}

template <class T, class Cell>
void pack(const RawWeights<T>& raw, const Packed<T>& packed, Member& m) {
  const FloatingPointState state;  // the biases are added here
  pack_phase<T, Cell, 0>(raw, packed, m);
  if constexpr (Cell::phases == 2) pack_phase<T, Cell, 1>(raw, packed, m);
  if (raw.W_hr) pack_projection(raw, packed, m);
}

}  // namespace fusedrnn::FUSEDRNN_ISA
