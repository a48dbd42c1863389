// The matrix products of one step, or of the input before a chunk of steps:
//
//   InputProduct   gates = b + x W_x     for the rows of a chunk of steps, or of one step
//   PanelProduct   out = init + a W      for the rows of one step and one panel of weights
//   product_back   (+)= da W^T           for the rows of one step: the gradient of the operand
//
// A product knows how many gates a phase has (Shape in layout.h) and nothing else about a cell, so one compiled copy
// serves all cells and forms, and also layers without a recurrent product (tests/native/products.cpp is one).
//
// Not here: sums over the rows of a chunk, and dx (chunk_products.h); the register tiles (gemm.h; read it next).
#pragma once

#include "gemm.h"
#include "pack.h"
#include "parallel.h"

namespace fusedrnn::FUSEDRNN_ISA {

inline constexpr Index kBackwardK = 256;  // gate columns of dh per pass: a 64 KiB piece of a panel stays in L2

// The part of the batch rows `mine` that is active at step t.
inline Range active_rows(const Rows& rows, Range mine, Index t) {
  const Index active = rows.active(t);
  return {mine.begin < active ? mine.begin : active, mine.end < active ? mine.end : active};
}

// Row 0 of step t in arrays with one row per step and batch row; and, in state buffers, row 0 of the state before step
// t: those begin with the B initial states.
inline Index row_of_step(const Rows& rows, Index t) { return rows.offset(t); }
inline Index row_before_step(const Rows& rows, Index t) { return t == 0 ? 0 : rows.B + rows.offset(t - 1); }

// Row b of step t of a caller's array.
template <class T>
inline T* caller_row(const Rows& rows, const Strided& array, Index t, Index b, bool reverse) {
  return reinterpret_cast<T*>(array.data + rows.caller_time(t, b, reverse) * array.time +
                              rows.caller_row(b) * array.batch);
}

// Zeros the caller's array (steps, B, width) wherever a row does not run a step.
template <class T>
[[gnu::noinline]] void zero_past_the_end(const Rows& rows, const Strided& array, Index steps, Index width,
                                         const Member& m) {
  const auto row_of = [&](Index time, Index row) {
    return reinterpret_cast<T*>(array.data + time * array.time + row * array.batch);
  };
  if (rows.time) {
    const Range mine = part_of(rows.gaps, m.rank, m.team->size);
    for (Index i = mine.begin; i < mine.end; ++i) zero(row_of(rows.gap[i].time, rows.gap[i].row), width);
    return;
  }
  for (Index b = m.rank; b < rows.B; b += m.team->size)
    for (Index t = rows.length_of(b); t < steps; ++t) zero(row_of(t, rows.caller_row(b)), width);
}

// ---- input product --------------------------------------------------------------------------------------------------

// The input of a layer: either x, the caller's (T, B, I), or tokens, (N,) in the order of rows; and the packed weights
// and biases.
template <class T>
struct Input {
  Strided x;
  bool direct;  // rows of x are aligned and contiguous, and read in place; else copied to `gather`
  T* gather;    // (threads, kGatherRows, I)
  const int64_t* tokens;
  bool reverse;
  Index I;
  const T* W;  // panels of (I, gates * units)
  const T* b;  // (gates * units,) by panel
};

struct Nothing {
  template <class... Arguments>
  inline void operator()(const Arguments&...) const {}
};

template <class T>
class InputProduct {
 public:
  inline InputProduct(const Input<T>& input, const Rows& rows, Member& member) : in_(input), rows_(rows), m_(member) {}

  // gates[row] = b + x[row] W for the rows of steps [t, end). Each thread computes its panels of `count` phases and, at
  // each step, the batch rows `mine` of its group. after(panel, row, n) is called as soon as n rows of a panel are
  // computed. Shapes: x (rows, I), W (I, gates * units), gates (rows, gate rows)
  template <class After = Nothing>
  [[gnu::noinline]] void chunk(const Phase<T>* phases, int count, const GateRows<T>& gates, Index t, Index end,
                               Range mine, After after = {}) {
    if (m_.team->row_groups == 1) return run(phases, count, gates, t, 0, rows_.offset(end) - rows_.offset(t), after);
    for (; t < end; ++t) {
      const Range r = active_rows(rows_, mine, t);
      run(phases, count, gates, t, r.begin, r.end - r.begin, after);
    }
  }

  // Sets the rows that panel() reads: n rows from row b of step t on. Moves t and b to the row after them.
  void point_at(Index& t, Index& b, Index n) {
    for (Index i = 0; i < n; ++i) {
      if (!in_.tokens) x_[i] = input_row(caller_row<char>(rows_, in_.x, t, b, in_.reverse), i);
      if (++b == rows_.active(t)) ++t, b = 0;
    }
  }

  // Row i of those set by point_at; not for tokens.
  const T* row(Index i) const { return x_[i]; }

  // The input product for one panel and the n rows set by point_at, which are `row` and the rows after it; or, for a
  // single row, for two panels of equal width.
  [[gnu::noinline]] void panel(const Phase<T>& phase, Index p, int panels, Index row, Index n,
                               const GateRows<T>& gates) {
    const Index I = in_.I, width = phase.w_width(p), row_width = phase.row_width(p);
    const T* w = in_.W + phase.weight_offset(p, I);
    const T* bias = in_.b + phase.weight_offset(p, 1);
    T* out = gates.row(phase, p, row);
    if (in_.tokens) {
      for (int q = 0; q < panels; ++q, out += row_width * gates.room, w += I * width, bias += width)
        for (Index i = 0; i < n; ++i)
          for (Index v = 0; v < width; v += kLanes<T>)
            store(out + i * row_width + v, load(bias + v) + load(w + in_.tokens[row + i] * width + v));
      did(m_, static_cast<double>(n * width));
      return;
    }
    const int vectors = static_cast<int>(width / kLanes<T>);
    Tile<T> tile;
    tile.k = I, tile.segments = 1, tile.a_step = 0, tile.w = w, tile.w_panel = I * width;
    init_all(tile, vectors, bias, 0, width);
    tile.out_row = row_width, tile.out_panel = row_width * gates.room;
    const TileRows tiles({0, n}, vectors);
    for (Index i = 0; i < tiles.tiles; ++i) {
      const Range r = tiles.tile(i);
      for (Index j = r.begin; j < r.end; ++j) tile.a[j - r.begin] = x_[j];
      tile.out = out + r.begin * row_width;
      fusedrnn::FUSEDRNN_ISA::run(tile, static_cast<int>(r.end - r.begin), vectors, panels);
    }
    did(m_, 2.0 * static_cast<double>(n * I * width) * panels);
  }

 private:
  // The product of `count` rows from row b of step t on, continuing into the next steps.
  template <class After>
  void run(const Phase<T>* phases, int phase_count, const GateRows<T>& gates, Index t, Index b, Index count,
           After after) {
    for (Index row = rows_.offset(t) + b; count > 0;) {
      const Index n = count < kGatherRows ? count : kGatherRows;
      point_at(t, b, n);
      for (int i = 0; i < phase_count; ++i) {
        const Range panels = part_of(phases[i].panels.count, unit_rank(m_), units_in_group(m_));
        for (Index p = panels.begin; p < panels.end; ++p) {
          panel(phases[i], p, 1, row, n, gates);
          after(p, row, n);
        }
      }
      if (stopped(m_)) return;
      row += n, count -= n;
    }
  }

  const T* input_row(const char* source, Index i) {
    if (in_.direct) return reinterpret_cast<const T*>(source);
    T* copy = in_.gather + (m_.rank * kGatherRows + i) * in_.I;
    for (Index k = 0; k < in_.I; ++k) __builtin_memcpy(copy + k, source + k * in_.x.feature, sizeof(T));
    return copy;
  }

  const Input<T> in_;
  const Rows& rows_;
  Member& m_;
  const T* x_[kGatherRows];  // the rows set by point_at
};

// ---- products of a step ---------------------------------------------------------------------------------------------

// out[b] = init[b] + a[b] W for the batch rows b of a step and one panel of packed weights, or two panels of equal
// width for a single row. next() computes one tile of rows at a time, so that the cell finds the tile in L1.
// a (rows, K), W (K, width), init and out (rows, width)
template <class T>
class PanelProduct {
 public:
  inline PanelProduct(Range rows, const T* W, Index K, Index width, int panels)
      : tiles_(rows, static_cast<int>(width / kLanes<T>)),
        vectors_(static_cast<int>(width / kLanes<T>)),
        panels_(panels) {
    tile_.k = K, tile_.segments = 1, tile_.a_step = 0, tile_.w = W, tile_.w_panel = K * width;
  }

  // Each setter takes the address for the first row, the distance to the next row and, where there is one, the distance
  // to the second panel.
  inline void of(const T* a, Index row) { a_ = a, a_row_ = row; }
  inline void start_from(const T* init, Index row, Index panel) { init_all(tile_, vectors_, init, row, panel); }
  inline void start_last_vector_from(const T* init, Index panel) { tile_.init[vectors_ - 1] = {init, 0, panel}; }
  inline void write_to(T* out, Index row, Index panel) {
    tile_.out = out, tile_.out_row = row, tile_.out_panel = panel, out_step_ = row;
  }
  // Writes every tile to the same place, row by row and panel by panel.
  inline void write_each_to(T* scratch) {
    const Index width = vectors_ * kLanes<T>;
    write_to(scratch, width, width);
    out_step_ = 0;
  }
  // While the tiles are computed, they prefetch the next panel's weights into L2; each tile fetches a share.
  inline void fetch(const T* next) {
    if (tiles_.tiles >= kFetchingTiles) ahead_ = next;
  }

  inline bool more() const { return done_ < tiles_.tiles; }
  // Computes the next tile and returns its batch rows.
  [[gnu::noinline]] Range next() {
    const Range rows = tiles_.tile(done_);
    const Index n = rows.end - rows.begin;
    if (ahead_) fetch_ahead(tile_, ahead_, tile_.w_panel * static_cast<Index>(sizeof(T)), done_, tiles_.tiles);
    for (Index b = 0; b < n; ++b, a_ += a_row_) tile_.a[b] = a_;
    fusedrnn::FUSEDRNN_ISA::run(tile_, static_cast<int>(n), vectors_, panels_);
    for (int v = 0; v < vectors_; ++v) tile_.init[v].at += n * tile_.init[v].row;
    tile_.out += n * out_step_;
    ++done_;
    return rows;
  }

 private:
  Tile<T> tile_;
  const TileRows tiles_;
  const int vectors_, panels_;
  Index done_ = 0;
  const T* a_;
  Index a_row_, out_step_;
  const T* ahead_ = nullptr;
};

// Gate panels have at most two widths; the panels of each width form one run of equally long segments of a gate row.
// Calls visit(first panel, length, segments) for runs of at most `most_k` columns.
template <class T, class Visit>
inline void for_each_segment_run(const Phase<T>& phase, Index most_k, Visit visit) {
  for (Index p = 0; p < phase.panels.count;) {
    const Index k = phase.w_width(p);
    const Index kind_end = p < phase.panels.extra ? phase.panels.extra : phase.panels.count;
    Index segments = most_k / k > 0 ? most_k / k : 1;
    if (segments > kind_end - p) segments = kind_end - p;
    visit(p, k, segments);
    p += segments;
  }
}

// to[b] (+)= da[first + b] W for the batch rows b of a step: the gradient of the operand of a recurrent product (or of
// W_hr's). `columns` are the panels of W's columns; each thread computes its panels `own`.
// da (gate rows), W (gate columns, K in whole vectors) as packed by pack_back, to (B, K in whole vectors)
template <class T>
[[gnu::noinline]] void product_back(const Phase<T>& phase, const GateRows<T>& da, Index first, Range r, const T* W,
                                    const Panels& columns, Range own, T* to, bool from_zero, Member& m) {
  if (r.begin == r.end) return;
  const bool one = r.end - r.begin == 1;
  const Index rows = phase.gates * phase.padded, to_row = columns.blocks * kLanes<T>;
  for (Index q = own.begin; q < own.end;) {
    const Index width = columns.width(q) * kLanes<T>, unit = columns.start(q) * kLanes<T>;
    const int panels = one && q + 1 < own.end && columns.width(q + 1) == columns.width(q) ? 2 : 1;
    const int vectors = static_cast<int>(width / kLanes<T>);
    const TileRows tiles(r, vectors);
    for_each_segment_run(phase, kBackwardK, [&](Index p, Index k, Index segments) {
      const Index row_width = phase.row_width(p);
      Tile<T> tile;
      tile.k = k, tile.segments = segments, tile.a_step = da.room * row_width;
      tile.w = W + unit * rows + phase.gates * phase.panels.start(p) * kLanes<T> * width;
      tile.w_panel = rows * width;
      tile.out_row = to_row, tile.out_panel = width;
      const T* const a = da.row(phase, p, first) + phase.first_column(kOfH, p);
      for (Index i = 0; i < tiles.tiles; ++i) {
        const Range part = tiles.tile(i);
        for (Index b = part.begin; b < part.end; ++b) tile.a[b - part.begin] = a + b * row_width;
        tile.out = to + part.begin * to_row + unit;
        if (from_zero && p == 0) init_all(tile, vectors, zeros<T>(), 0, 0);
        else init_all<T>(tile, vectors, tile.out, to_row, width);
        fusedrnn::FUSEDRNN_ISA::run(tile, static_cast<int>(part.end - part.begin), vectors, panels);
      }
    });
    did(m, 2.0 * static_cast<double>((r.end - r.begin) * rows * width) * panels);
    q += panels;
  }
}

}  // namespace fusedrnn::FUSEDRNN_ISA
