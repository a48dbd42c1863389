// Where things lie in packed weights and gate rows.
//
// Hidden units are cut into blocks of one vector, blocks into panels of at most four vectors, so that all gates of a
// panel's units come out of one register tile. A phase (see cells/cell.h) has panels of its own:
//
//   gate rows     [phase][panel][row][gate][block][lane]      the rows of one panel are contiguous over time
//   W_x, W_h      [phase][panel][k][gate][block][lane]        one panel is one sequential stream
//
// LSTM: one block with four gates. GRU, reset after: one block, three gates. RNN: four blocks. GRU, reset before: two
// blocks with r and z, then four blocks with n.
#pragma once

#include "../core/api.h"
#include "simd.h"

namespace fusedrnn::FUSEDRNN_ISA {

inline Index divide_up(Index n, Index d) { return (n + d - 1) / d; }
template <class T>
inline Index blocks_of(Index n) {
  return divide_up(n, kLanes<T>);
}

// Blocks cut into panels of at most `most`, the wider ones first, widths differing by at most one. An odd count above
// one is made even, so that two threads (or any even number) get equal shares: three panels of four become four of
// three.
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

inline constexpr int kMaxVectors = 4;  // of a panel
inline constexpr int kMaxBackVectors = 4;

// What sums without a bias start from.
template <class T>
inline const T* zeros() {
  alignas(64) static const T none[kMaxVectors * kLanes<T>] = {};
  return none;
}

// One phase of a cell, with the sizes that follow.
template <class T, class Cell, int P>
struct Phase {
  static constexpr int gates = P == 0 ? Cell::first : Cell::gates - Cell::first;
  static constexpr int split = P == 0 ? Cell::split : 0;
  static constexpr int columns = gates + split;  // vectors of a gate row per block
  static constexpr int most = kMaxVectors / gates > 0 ? kMaxVectors / gates : 1;
  static constexpr const int* order = Cell::order + (P == 0 ? 0 : Cell::first);  // torch's row block of each gate

  Panels panels;
  Index padded;  // hidden units rounded up to whole blocks

  inline explicit Phase(Index H) : panels(blocks_of<T>(H), most), padded(blocks_of<T>(H) * kLanes<T>) {}

  // Vectors (and elements) before this phase in packed weights and gate rows.
  inline Index gates_before() const { return P == 0 ? 0 : Cell::first; }
  inline Index columns_before() const { return P == 0 ? 0 : Cell::first + Cell::split; }

  inline Index row_width(Index p) const { return columns * panels.width(p) * kLanes<T>; }
  inline Index w_width(Index p) const { return gates * panels.width(p) * kLanes<T>; }

  // Offset of panel p in gate rows that have room for `rows` rows, and in weights over K inputs.
  inline Index gate_offset(Index p, Index rows) const {
    return (columns_before() * padded + columns * panels.start(p) * kLanes<T>)*rows;
  }
  inline Index weight_offset(Index p, Index K) const {
    return (gates_before() * padded + gates * panels.start(p) * kLanes<T>)*K;
  }
};

template <class T, class Cell>
Index panels_of(Index H) {
  const Index first = Phase<T, Cell, 0>(H).panels.count;
  if constexpr (Cell::phases == 1) {
    return first;
  } else {
    const Index second = Phase<T, Cell, 1>(H).panels.count;
    return first > second ? first : second;
  }
}
template <class T>
Index back_panels_of(Index R) {
  return Panels(blocks_of<T>(R), kMaxBackVectors).count;
}

// The row of torch's weights from which the gate `g` of block `block`, lane 0, comes.
template <class T, class P>
inline Index torch_row(Index g, Index block, Index H) {
  return P::order[g] * H + block * kLanes<T>;
}

}  // namespace fusedrnn::FUSEDRNN_ISA
