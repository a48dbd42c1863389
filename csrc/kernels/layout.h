// The layout of packed weights and of gate rows: which element is where. Not here: the code that packs weights (pack.h)
// or multiplies by them (products.h), and the arrays themselves (contract.h). Next, read kernels/products.h.
//
// Hidden units are cut into blocks of one vector, and blocks into panels of at most four vectors, so that all gates of
// a panel's units come out of one register tile. Each phase (see cells/cell.h) has its own panels:
//
//   gate rows     [phase][panel][row][gate][block][lane]      the rows of one panel are contiguous over time
//   W_x, W_h      [phase][panel][k][gate][block][lane]        one panel is one sequential stream
//
// Blocks in a panel: LSTM, one block of four gates; GRU, reset after, one block of three gates; RNN, four blocks; GRU,
// reset before, two blocks of r and z, then (second phase) four blocks of n.
#pragma once

#include "../math/simd.h"
#include "contract.h"

namespace fusedrnn::FUSEDRNN_ISA {

inline Index divide_up(Index n, Index d) { return (n + d - 1) / d; }
template <class T>
inline Index blocks_of(Index n) {
  return divide_up(n, kLanes<T>);
}

// Cuts blocks into panels of at most `most` blocks, the wider panels first, widths differing by at most one. An odd
// count above one is made even, so that two threads (or any even number) get equal shares: three panels of four become
// four panels of three.
struct Panels {
  Index blocks, count, small, extra;

  inline Panels(Index blocks_, Index most) : blocks(blocks_), count(divide_up(blocks_, most)) {
    if (most > 1 && count > 1 && count % 2 == 1) ++count;
    small = blocks / count, extra = blocks % count;
  }
  inline Index width(Index p) const { return small + (p < extra ? 1 : 0); }
  inline Index start(Index p) const { return p * small + (p < extra ? p : extra); }
  inline Index holding(Index block) const {
    const Index wide = extra * (small + 1);
    return block < wide ? block / (small + 1) : extra + (block - wide) / small;
  }
};

inline constexpr int kMaxVectors = 4;  // in a panel
inline constexpr int kMaxBackVectors = 4;

// Initial values of sums that have no bias.
template <class T>
inline const T* zeros() {
  alignas(64) static const T none[kMaxVectors * kLanes<T>] = {};
  return none;
}

// The shape of a phase: how many gates it has, and where they are among all gates of its cell. A matrix product needs
// to know nothing else about a cell. Cells have the shape as constants (ShapeOf); products.h and pack.h take it as
// numbers (Shape), so that one compiled copy serves every cell.
struct Shape {
  int gates, split;
  int columns;                       // vectors of a gate row per block: gates + split
  int gates_before, columns_before;  // in the phase before this one
  const int* order;                  // row block in torch's weights of each gate
};

template <class Cell, int P, bool RECURRENT = Cell::recurrent>
struct ShapeOf {
  static constexpr int gates = P == 0 ? Cell::first : Cell::gates - Cell::first;
  static constexpr int split = P == 0 ? Cell::split : 0;
  static constexpr int columns = gates + split;
  static constexpr int gates_before = P == 0 ? 0 : Cell::first;
  static constexpr int columns_before = P == 0 ? 0 : Cell::first + Cell::split;
  static constexpr const int* order = Cell::order + gates_before;
  constexpr operator Shape() const { return {gates, split, columns, gates_before, columns_before, order}; }
};

// Without a recurrent product: the gates are those of x, and x itself may be a column behind them.
template <class Cell>
struct ShapeOf<Cell, 0, false> {
  static constexpr int gates = Cell::gates, split = Cell::skip, columns = gates + split;
  static constexpr int gates_before = 0, columns_before = 0;
  static constexpr const int* order = Cell::order;
  constexpr operator Shape() const { return {gates, split, columns, 0, 0, order}; }
};

// The most blocks in a panel of `gates` gates.
constexpr Index widest_panel(int gates) { return kMaxVectors / gates > 0 ? kMaxVectors / gates : 1; }

// The two products of a phase. The gates of x are the first columns of a gate row, the gates of h the last: in a split
// phase the two share all but one (cells/gru.h).
enum Product { kOfX, kOfH };

// One phase of H hidden units, and the sizes that follow from it. S is ShapeOf<Cell, P> or Shape.
template <class T, class S = Shape>
struct Phase : S {
  static constexpr Index W = kLanes<T>;
  Panels panels;
  Index units, padded;  // H, and H rounded up to whole blocks

  inline explicit Phase(Index H, S shape = S())
      : S(shape), panels(blocks_of<T>(H), widest_panel(S::gates)), units(H), padded(panels.blocks * W) {}
  template <class Constants>
  inline Phase(const Phase<T, Constants>& p) : S(p), panels(p.panels), units(p.units), padded(p.padded) {}

  // Numbers in a gate row of panel p, and in a row of the panel's weights.
  inline Index row_width(Index p) const { return S::columns * panels.width(p) * W; }
  inline Index w_width(Index p) const { return S::gates * panels.width(p) * W; }

  // Offset of panel p in gate rows that have room for `rows` rows, and in weights over K inputs.
  inline Index gate_offset(Index p, Index rows) const {
    return (S::columns_before * padded + S::columns * panels.start(p) * W) * rows;
  }
  inline Index weight_offset(Index p, Index K) const {
    return (S::gates_before * padded + S::gates * panels.start(p) * W) * K;
  }

  // Where a product's gates start in a gate row of panel p; and the row block of its gate g in torch's weights.
  inline Index first_column(Product of, Index p) const { return of == kOfX ? 0 : S::split * panels.width(p) * W; }
  inline Index torch_block(Product of, Index g) const {
    const Index at = of == kOfX ? g : g + S::split;
    return S::order[at < S::gates ? at : at - S::gates];
  }
};

template <class T, class Cell, int P>
using CellPhase = Phase<T, ShapeOf<Cell, P>>;

// Gate rows of a sequence, or their gradients, from row `from` on; there is space for `room` rows.
template <class T>
struct GateRows {
  T* at;
  Index room, from = 0;

  template <class S>
  inline T* row(const Phase<T, S>& phase, Index panel, Index row) const {
    return at + phase.gate_offset(panel, room) + (row - from) * phase.row_width(panel);
  }
};

// How many panels threads can share: panels of units in forward, the most of any phase; panels of units of h in
// backward.
template <class T, class Cell>
Index panels_of(Index H) {
  const Index first = CellPhase<T, Cell, 0>(H).panels.count;
  if constexpr (!Cell::recurrent) {
    return first;
  } else if constexpr (Cell::phases == 1) {
    return first;
  } else {
    const Index second = CellPhase<T, Cell, 1>(H).panels.count;
    return first > second ? first : second;
  }
}
template <class T>
Index back_panels_of(Index R) {
  return Panels(blocks_of<T>(R), kMaxBackVectors).count;
}

}  // namespace fusedrnn::FUSEDRNN_ISA
