// From torch's row-major weights to panels, and from gradients in panels to torch's layout. Padded units and inputs are
// zeros in the packed form, so padded lanes compute zeros and never affect a real unit.
#pragma once

#include "forms.h"
#include "layout.h"
#include "parallel.h"

namespace fusedrnn::FUSEDRNN_ISA {

inline constexpr double kPackCost = 100;  // of moving one word, in floating-point operations, for did()

template <class T>
inline void zero(T* p, Index n) {
  __builtin_memset(p, 0, static_cast<size_t>(n) * sizeof(T));
}

// Calls visit(row of torch's weights, column in the panel) for every real unit and gate of panel p.
template <class T, class Visit>
inline void for_each_column(const Phase<T>& phase, Index p, Product of, Visit visit) {
  constexpr Index W = kLanes<T>;
  const Index width = phase.panels.width(p), H = phase.units;
  for (Index g = 0; g < phase.gates; ++g) {
    const Index first = phase.torch_block(of, g) * H;
    for (Index j = 0; j < width; ++j)
      for (Index l = 0; l < W; ++l) {
        const Index unit = (phase.panels.start(p) + j) * W + l;
        if (unit < H) visit(first + unit, (g * width + j) * W + l);
      }
  }
}

// Visits panel p, which has K rows: calls square(row of torch's weights, k, column in the panel) for every square as
// wide as a vector, and rest(row, k, column) for every single weight outside the squares. The loop over k is outside
// and the loop over columns inside: when one square has read half a cache line of a torch row, the line is still in the
// cache when the other half is read.
template <class T, class Square, class Rest>
inline void for_each_square(const Phase<T>& phase, Index p, Product of, Index K, Square square, Rest rest) {
  constexpr Index W = kLanes<T>;
  const Index width = phase.panels.width(p), H = phase.units;
  for (Index g = 0; g < phase.gates; ++g) {
    const Index first = phase.torch_block(of, g) * H;
    for (Index j = 0; j < width; ++j)
      for (Index k = 0; k < K; k += W) {
        const Index unit = (phase.panels.start(p) + j) * W, column = (g * width + j) * W, row = first + unit;
        if (k + W <= K && unit + W <= H) {
          square(row, k, column);
          continue;
        }
        for (Index l = 0; l < W && unit + l < H; ++l)
          for (Index i = k; i < K && i < k + W; ++i) rest(row + l, i, column + l);
      }
  }
}

// panel[k][column] = w[row][k]
// w (rows of torch's weights, K) -> panel (K, the panel's columns), zeros for padded units
template <class T>
[[gnu::noinline]] void pack_panel(const Phase<T>& phase, Index p, Product of, const T* w, Index K, T* panel) {
  const Index width = phase.w_width(p);
  if (phase.padded != phase.units) zero(panel, K * width);
  for_each_square(
      phase, p, of, K,
      [&](Index row, Index k, Index column) { transpose(w + row * K + k, K, panel + k * width + column, width); },
      [&](Index row, Index k, Index column) { panel[k * width + column] = w[row * K + k]; });
}

// w[row][k] = panel[k][column]
// panel (K, the panel's columns) -> w (rows of torch's weights, K)
template <class T>
[[gnu::noinline]] void unpack_panel(const Phase<T>& phase, Index p, Product of, const T* panel, Index K, T* w) {
  const Index width = phase.w_width(p);
  for_each_square(
      phase, p, of, K,
      [&](Index row, Index k, Index column) { transpose(panel + k * width + column, width, w + row * K + k, K); },
      [&](Index row, Index k, Index column) { w[row * K + k] = panel[k * width + column]; });
}

// The same weights for dx and dh: [panel of K columns][gate columns in the order of gate rows][K columns]. Packs the
// gate panels `from` into the column panels `to`. A torch row is read sequentially and distributed over the panels:
// panel by panel, each piece read would be on a page of its own.
// w (rows of torch's weights, K) -> packed (gates * padded units, K in whole vectors), zeros for padded units
template <class T>
[[gnu::noinline]] void pack_back(const Phase<T>& phase, Range from, Product of, const T* w, Index K, T* packed,
                                 Range to, Member& m) {
  constexpr Index W = kLanes<T>;
  const Panels columns(blocks_of<T>(K), kMaxBackVectors);
  const Index rows = phase.gates * phase.padded;
  for (Index p = from.begin; p < from.end; ++p) {
    const Index before = phase.gates * phase.panels.start(p) * W, count = phase.w_width(p);
    for (Index q = to.begin; q < to.end; ++q) {
      const Index first = columns.start(q) * W, width = columns.width(q) * W;
      if (first + width > K || phase.padded != phase.units) zero(packed + first * rows + before * width, count * width);
    }
    for_each_column(phase, p, of, [&](Index row, Index column) {
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

// Packs the weights and biases of a phase: W_ih (gates * H, I), W_hh (gates * H, R), b_ih and b_hh (gates * H,) into
// W_x, W_h, b_x, b_h and, for training, W_x_back and W_h_back.
template <class T>
[[gnu::noinline]] void pack_phase(const Phase<T>& phase, const RawWeights<T>& raw, const Packed<T>& packed, Member& m) {
  constexpr Index W = kLanes<T>;
  const Index I = packed.I, H = packed.H, R = packed.R;
  const Range mine = part_of(phase.panels.count, m.rank, m.team->size);
  // For backward each thread packs the columns that it will multiply by. A single thread packs a panel's rows for both
  // directions while they are in the cache.
  const bool alone = m.team->size == 1;
  const auto back = [&](Range panels, Product of, const T* w, Index K, T* to) {
    if (!to || K == 0) return;
    const Index columns = Panels(blocks_of<T>(K), kMaxBackVectors).count;
    pack_back(phase, panels, of, w, K, to + phase.gates_before * phase.padded * blocks_of<T>(K) * W,
              part_of(columns, m.rank, m.team->size), m);
  };
  const auto back_x = [&](Range panels) { back(panels, kOfX, raw.W_ih, I, packed.W_x_back); };
  const auto back_h = [&](Range panels) { back(panels, kOfH, raw.W_hh, R, packed.W_h_back); };
  for (Index p = mine.begin; p < mine.end; ++p) {
    pack_panel(phase, p, kOfX, raw.W_ih, I, packed.W_x + phase.weight_offset(p, I));
    if (alone) back_x({p, p + 1});
    pack_panel(phase, p, kOfH, raw.W_hh, R, packed.W_h + phase.weight_offset(p, R));
    if (alone) back_h({p, p + 1});
    T* b_x = packed.b_x + phase.weight_offset(p, 1);
    zero(b_x, phase.w_width(p));
    for_each_column(phase, p, kOfX, [&](Index row, Index column) {
      // The recurrent bias of the split gate stays within the recurrent product.
      const bool apart = phase.split && column < phase.panels.width(p) * W;
      b_x[column] = (raw.b_ih ? raw.b_ih[row] : T(0)) + (raw.b_hh && !apart ? raw.b_hh[row] : T(0));
    });
    if (phase.split) {
      T* b_h = packed.b_h + phase.panels.start(p) * W;
      zero(b_h, phase.panels.width(p) * W);
      for (Index l = 0; l < phase.panels.width(p) * W; ++l) {
        const Index unit = phase.panels.start(p) * W + l;
        if (unit < H && raw.b_hh) b_h[l] = raw.b_hh[phase.torch_block(kOfX, 0) * H + unit];
      }
    }
    did(m, kPackCost * static_cast<double>((I + R) * phase.w_width(p)));
    if (stopped(m)) return;
  }
  if (alone) return;
  back_x({0, phase.panels.count});
  back_h({0, phase.panels.count});
}

// Packs W_hr (R, H) into W_r and, for training, W_r_back.
template <class T>
void pack_projection(const RawWeights<T>& raw, const Packed<T>& packed, Member& m) {
  const Phase<T> phase = CellPhase<T, Projection, 0>(packed.R);
  const Range mine = part_of(phase.panels.count, m.rank, m.team->size);
  for (Index p = mine.begin; p < mine.end && !stopped(m); ++p) {
    pack_panel(phase, p, kOfX, raw.W_hr, packed.H, packed.W_r + phase.weight_offset(p, packed.H));
    did(m, kPackCost * static_cast<double>(packed.H * phase.w_width(p)));
  }
  const Panels columns(blocks_of<T>(packed.H), kMaxBackVectors);
  if (packed.W_r_back)
    pack_back(phase, {0, phase.panels.count}, kOfX, raw.W_hr, packed.H, packed.W_r_back,
              part_of(columns.count, m.rank, m.team->size), m);
}

template <class T, class Cell>
void pack(const RawWeights<T>& raw, const Packed<T>& packed, Member& m) {
  const FloatingPointState state;  // the biases are added here
  pack_phase<T>(CellPhase<T, Cell, 0>(packed.H), raw, packed, m);
  if constexpr (Cell::recurrent)
    if constexpr (Cell::phases == 2) pack_phase<T>(CellPhase<T, Cell, 1>(packed.H), raw, packed, m);
  if (raw.W_hr) pack_projection(raw, packed, m);
}

}  // namespace fusedrnn::FUSEDRNN_ISA
