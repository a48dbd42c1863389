// One layer in one direction over a whole sequence, forward. Knows no gate: what a cell is stands in cells/cell.h.
//
//   for a chunk of steps: gates = b + x W_x          many steps in one product, each thread its own panels, no waiting
//     for each step:      gates + h W_h -> cell      tile by tile, the cell applied while the tile is in L1
//
// What else may happen to a step (masks, zoneout, projection): kernels/forms.h.
//
// Buffers: gate rows live for a chunk (inference) or as long as the tape (they become the saved gates, in place).
// States: two slots that alternate, or all of them (training); the first B rows are the initial state. The second
// phase's operand: one slot, or all.
#pragma once

#include "forms.h"
#include "gemm.h"
#include "pack.h"
#include "parallel.h"

namespace fusedrnn::FUSEDRNN_ISA {

template <class T, class Cell, class Form>
class ForwardPass {
 public:
  ForwardPass(const Forward<T>& forward, Member& member)
      : f(forward),
        m(member),
        rows(forward.rows),
        I(forward.weights->I),
        H(forward.weights->H),
        R(forward.weights->R),
        first(H),
        last(H),
        projection(R),
        padded(first.padded),
        padded_h(projection.padded),
        cell(forward.weights->options),
        mine(part_of(rows.B, row_rank(member), member.team->row_groups)) {}

  void run() {
    if constexpr (Form::masks)  // every thread has copied some of the masks
      if (!barrier(m)) return;
    zero_past_the_end();
    finish(old_row(0), rows.active(0), rows.B);
    for (Index t = 0; t < rows.T;) {
      const Index end = chunk_end(rows, t, f.projected_rows);
      if (!wait_for_input(m, end)) return;
      chunk_from = rows.offset(t);
      if (!f.keep) gates_from = chunk_from;
      // Rows of unequal length lie elsewhere in every chunk: another group's may lie where this group's did.
      if (t > 0 && rows.offset_at && m.team->row_groups > 1 && !barrier(m)) return;
      // A chunk of one step takes a panel's input and recurrent part together: its gates stay in L1, and going back and
      // forth over the panels then saves input weights from the cache's edge, too.
      const Range r = my_rows(t);
      const bool together = end == t + 1 && r.end - r.begin <= kGatherRows;
      if (together) point_at_step(t, r);
      else project(t, end);
      for (; t < end; ++t) {
        step<0>(t, together);
        if constexpr (Cell::phases == 2) {
          if (!sync(m)) return;
          step<1>(t, together);
        }
        if constexpr (Form::projects) {
          if (!sync(m)) return;
          project_hidden(t);
        }
        if constexpr (Form::normalises)
          if (!sync(m) || !normed_step(t)) return;
        finish(new_row(t), rows.active(t + 1), rows.active(t));
        if (!sync(m)) return;
      }
      note_progress(m, end);
    }
  }

 private:
  static constexpr Index W = kLanes<T>;
  using First = Phase<T, Cell, 0>;
  using Last = Phase<T, Cell, Cell::phases - 1>;

  const Forward<T>& f;
  Member& m;
  const Rows& rows;
  const Index I, H, R;
  const First first;
  const Last last;
  const Phase<T, Projection, 0> projection;
  const Index padded, padded_h;  // units of the cell, and of h
  const Cell cell;
  const Range mine;         // batch rows of this thread's group
  Index chunk_from = 0;     // the first row of the steps whose input part is there
  Index gates_from = 0;     // the row of the sequence that is row 0 of the gate buffer
  const T* x[kGatherRows];  // the rows being projected

  template <int P>
  const auto& phase() const {
    if constexpr (P == 0) return first;
    else return last;
  }
  template <class P>
  Range my_panels(const P& p) const {
    return part_of(p.panels.count, unit_rank(m), units_in_group(m));
  }
  Range my_rows(Index t) const {
    const Index active = rows.active(t);
    return {mine.begin < active ? mine.begin : active, mine.end < active ? mine.end : active};
  }

  // First rows of step t in the state buffers, before and after it, and in the operand's.
  Index old_row(Index t) const { return !f.history ? slot(t) * rows.B : t == 0 ? 0 : rows.B + rows.offset(t - 1); }
  Index new_row(Index t) const { return !f.history ? slot(t + 1) * rows.B : rows.B + rows.offset(t); }
  Index slot(Index t) const { return (t + f.slot) & 1; }
  Index operand_row(Index t) const { return f.history ? rows.offset(t) : 0; }

  // h has the cell's units, unless it is projected.
  Index state_units(int state) const { return Form::projects && state == 0 ? R : H; }
  Index state_width(int state) const { return Form::projects && state == 0 ? padded_h : padded; }

  template <class P>
  T* gate_row(const P& p, Index panel, Index row) const {
    return f.gates + p.gate_offset(panel, f.gate_rows) + (row - gates_from) * p.row_width(panel);
  }

  void zero_past_the_end() {
    if (!f.y.data) return;
    if (rows.time) return zero_gaps<T>(rows, f.y, state_units(0), m);
    for (Index b = m.rank; b < rows.B; b += m.team->size) {
      char* row = f.y.data + rows.caller_row(b) * f.y.batch;
      for (Index t = rows.length_of(b); t < f.y_T; ++t) zero(reinterpret_cast<T*>(row + t * f.y.time), state_units(0));
    }
  }

  // Rows [begin, end) have seen their last step: their states, from `at`, are final.
  void finish(Index at, Index begin, Index end) {
    if (!f.states_n[0]) return;
    if (begin < mine.begin) begin = mine.begin;
    if (end > mine.end) end = mine.end;
    for (int s = 0; s < Cell::states; ++s) {
      const Panels& panels = Form::projects && s == 0 ? projection.panels : last.panels;
      const Range own = part_of(panels.count, unit_rank(m), units_in_group(m));
      const Index unit = panels.start(own.begin) * W;
      Index count = panels.start(own.end) * W - unit;
      if (unit + count > state_units(s)) count = state_units(s) - unit;
      if (count <= 0) continue;
      for (Index b = begin; b < end; ++b)
        __builtin_memcpy(f.states_n[s] + rows.caller_row(b) * f.states_n_stride[s] + unit,
                         f.states[s] + (at + b) * state_width(s) + unit, static_cast<size_t>(count) * sizeof(T));
    }
  }

  // ---- input part -------------------------------------------------------------------------------

  void project(Index t, Index end) {
    if (m.team->row_groups == 1) return project_run(t, 0, rows.offset(end) - rows.offset(t));
    for (; t < end; ++t) {
      const Range r = my_rows(t);
      project_run(t, r.begin, r.end - r.begin);
    }
  }

  // `count` rows from row b of step t on, running over into the next steps.
  void project_run(Index t, Index b, Index count) {
    for (Index row = rows.offset(t) + b; count > 0;) {
      const Index n = count < kGatherRows ? count : kGatherRows;
      point_at(t, b, n);
      project_rows<0>(row, n);
      if constexpr (Cell::phases == 2) project_rows<1>(row, n);
      if (stopped(m)) return;
      row += n, count -= n;
    }
  }

  void point_at_step(Index t, Range r) { point_at(t, r.begin, r.end - r.begin); }

  // Sets x for `n` rows, and t and b to the row after them.
  void point_at(Index& t, Index& b, Index n) {
    for (Index i = 0; i < n; ++i) {
      const Index time = rows.caller_time(t, b, f.reverse), at = rows.caller_row(b);
      if (!f.tokens) x[i] = input_row(f.x.data + time * f.x.time + at * f.x.batch, i);
      if (++b == rows.active(t)) ++t, b = 0;
    }
  }

  const T* input_row(const char* source, Index i) {
    if (f.x_direct) return reinterpret_cast<const T*>(source);
    T* copy = f.gather + (m.rank * kGatherRows + i) * I;
    for (Index k = 0; k < I; ++k) __builtin_memcpy(copy + k, source + k * f.x.feature, sizeof(T));
    return copy;
  }

  template <int P>
  void project_rows(Index row, Index n) {
    const Range panels = my_panels(phase<P>());
    for (Index p = panels.begin; p < panels.end; ++p) project_panels<P>(p, 1, row, n);
  }

  // One panel, or for a single row two of equal width.
  template <int P>
  void project_panels(Index p, int panels, Index row, Index n) {
    const auto& ph = phase<P>();
    const Index width = ph.w_width(p), row_width = ph.row_width(p);
    const T* w = f.weights->W_x + ph.weight_offset(p, I);
    const T* bias = f.weights->b_x + ph.weight_offset(p, 1);
    T* out = gate_row(ph, p, row);
    if (f.tokens) {
      for (int q = 0; q < panels; ++q, out = gate_row(ph, p + 1, row), w += I * width, bias += width)
        for (Index i = 0; i < n; ++i)
          for (Index v = 0; v < width; v += W)
            store(out + i * row_width + v, load(bias + v) + load(w + f.tokens[row + i] * width + v));
      if constexpr (Form::normalises)
        for (int q = 0; q < panels; ++q) note_input(p + q, row, n);
      did(m, static_cast<double>(n * width));
      return;
    }
    const int vectors = static_cast<int>(width / W);
    Tile<T> tile;
    tile.k = I, tile.segments = 1, tile.a_step = 0, tile.w = w, tile.w_panel = I * width;
    init_all(tile, vectors, bias, 0, width);
    tile.out_row = row_width, tile.out_panel = row_width * f.gate_rows;
    const TileRows tiles({0, n}, vectors);
    for (Index i = 0; i < tiles.tiles; ++i) {
      const Range r = tiles.tile(i);
      for (Index j = r.begin; j < r.end; ++j) tile.a[j - r.begin] = x[j];
      tile.out = out + r.begin * row_width;
      fusedrnn::FUSEDRNN_ISA::run(tile, static_cast<int>(r.end - r.begin), vectors, panels);
    }
    if constexpr (Form::normalises)
      for (int q = 0; q < panels; ++q) note_input(p + q, row, n);
    did(m, 2.0 * static_cast<double>(n * I * width) * panels);
  }

  // ---- recurrent part ---------------------------------------------------------------------------

  // Odd steps walk the panels backwards: what the last step left in the cache is used first.
  template <int P>
  void step(Index t, bool project) {
    const auto& ph = phase<P>();
    const Range panels = my_panels(ph), r = my_rows(t);
    if (r.begin == r.end) return;
    const Index stride = r.end - r.begin == 1 ? 2 : 1;  // one row: two panels at once
    const Index groups = divide_up(panels.end - panels.begin, stride);
    for (Index i = 0; i < groups; ++i) {
      Index p = panels.begin + stride * (slot(t) ? groups - 1 - i : i);
      const Index end = p + stride < panels.end ? p + stride : panels.end;
      while (p < end) {
        const bool pair = p + 1 < end && ph.panels.width(p) == ph.panels.width(p + 1);
        if (project) project_panels<P>(p, pair ? 2 : 1, rows.offset(t) + r.begin, r.end - r.begin);
        if constexpr (Form::normalises) product_panel(t, r, p, pair ? 2 : 1);
        else step_panel<P>(t, r, p, pair ? 2 : 1);
        p += pair ? 2 : 1;
      }
    }
  }

  template <int P>
  void step_panel(Index t, Range r, Index p, int panels) {
    using ThisPhase = Phase<T, Cell, P>;
    const ThisPhase& ph = phase<P>();
    const Index width = ph.panels.width(p) * W, w_width = ph.w_width(p), row_width = ph.row_width(p);
    const int vectors = static_cast<int>(w_width / W);
    alignas(64) T scratch[kMaxTileVectors * W];

    Tile<T> tile;
    tile.k = R, tile.segments = 1, tile.a_step = 0;
    tile.w = f.weights->W_h + ph.weight_offset(p, R), tile.w_panel = R * w_width;
    tile.out = scratch, tile.out_row = w_width, tile.out_panel = w_width;

    const TileRows tiles(r, vectors);
    const Range own = my_panels(ph);
    const Index next = slot(t) ? p - 1 : p + 1;
    const bool ahead = f.weights->fetch_ahead && tiles.tiles >= kFetchingTiles && next >= own.begin && next < own.end;
    for (Index i = 0; i < tiles.tiles; ++i) {
      const Range part = tiles.tile(i);
      if (ahead)
        fetch_ahead(tile, f.weights->W_h + ph.weight_offset(next, R), R * w_width * static_cast<Index>(sizeof(T)), i,
                    tiles.tiles);
      T* gates = gate_row(ph, p, rows.offset(t) + part.begin);
      init_all<T>(tile, vectors, gates + ThisPhase::split * width, row_width, row_width * f.gate_rows);
      if constexpr (ThisPhase::split)  // the recurrent part of the split gate starts from its own bias
        tile.init[vectors - 1] = {f.weights->b_h + ph.panels.start(p) * W, 0, width};
      const Index operand_width = P == 0 ? state_width(0) : padded;
      const T* operand = P == 0 ? f.recurrent + old_row(t) * operand_width : f.operand + operand_row(t) * operand_width;
      for (Index b = part.begin; b < part.end; ++b) tile.a[b - part.begin] = operand + b * operand_width;
      fusedrnn::FUSEDRNN_ISA::run(tile, static_cast<int>(part.end - part.begin), vectors, panels);
      for (int q = 0; q < panels; ++q) apply_cell<P>(t, part, p + q, scratch + q * w_width);
    }
    did(m, 2.0 * static_cast<double>((r.end - r.begin) * R * w_width) * panels);
  }

  // Out of line, so that every path (whole sequence, step by step, any tile) runs the very same instructions.
  template <int P>
  [[gnu::noinline]] void apply_cell(Index t, Range r, Index p, const T* scratch) {
    using ThisPhase = Phase<T, Cell, P>;
    const ThisPhase& ph = phase<P>();
    const Index blocks = ph.panels.width(p), w_width = ph.w_width(p);
    const bool keep = f.keep && Cell::saved > 0;
    for (Index b = r.begin; b < r.end; ++b, scratch += w_width) {
      T* gates = gate_row(ph, p, rows.offset(t) + b);
      T* y = output_row(t, b);
      for (Index j = 0; j < blocks; ++j) {
        const Index block = ph.panels.start(p) + j, unit = block * W;
        Vec<T> a[ThisPhase::columns], s[Cell::states], s_new[Cell::states], save[Cell::gates + Cell::split];
        for (int c = 0; c < ThisPhase::split; ++c) a[c] = load(gates + (c * blocks + j) * W);
        for (int g = 0; g < ThisPhase::gates; ++g) a[ThisPhase::split + g] = load(scratch + (g * blocks + j) * W);
        if constexpr (Form::projects) s[0] = Vec<T>{};  // has other units; no projected cell looks at it
        for (int i = Form::projects ? 1 : 0; i < Cell::states; ++i)
          s[i] = load(f.states[i] + (old_row(t) + b) * padded + unit);

        if constexpr (Cell::phases == 2 && P == 0) {
          Vec<T> operand[1];
          cell.gate(a, s, operand, save);
          if constexpr (Form::masks) operand[0] *= load(f.masks.recurrent + b * f.masks.recurrent_row + unit);
          store(f.operand + (operand_row(t) + b) * padded + unit, operand[0]);
          for (int c = 0; c < ThisPhase::columns; ++c) store(gates + (c * blocks + j) * W, save[c]);
        } else {
          if constexpr (Cell::phases == 2) {
            load_first(block, rows.offset(t) + b, save);
            cell.forward(a, s, save, s_new, save + Cell::first);
            if (keep) store(gates + j * W, save[Cell::first]);
          } else {
            Vec<T> p[Cell::unit_parameters + 1];
            for (int i = 0; i < Cell::unit_parameters; ++i) p[i] = load(f.weights->units + i * padded + unit);
            cell.forward(a, s, p, s_new, save);
            if (keep)
              for (int c = 0; c < ThisPhase::columns; ++c) store(gates + (c * blocks + j) * W, save[c]);
          }
          if constexpr (Form::projects) store(f.hidden + (operand_row(t) + b) * padded + unit, s_new[0]);
          if constexpr (Form::masks && Cell::states == 2)
            store(f.candidate + (new_row(t) + b) * padded + unit, s_new[1]);
          if constexpr (Form::masks)
            for (int i = Form::projects ? 1 : 0; i < Cell::states; ++i)
              s_new[i] = zone_out(i, t, b, unit, s[i], s_new[i]);
          // Before h itself, which it may be: only h has its padded lanes put back.
          if constexpr (Form::masks && !Form::projects) keep_operand(t, b, unit, s_new[0]);
          for (int i = Form::projects ? 1 : 0; i < Cell::states; ++i) {
            T* to = f.states[i] + (new_row(t) + b) * padded + unit;
            store(to, s_new[i]);
            if constexpr (!Cell::zeros_stay)
              if (unit + W > H) zero(to + (H - unit), unit + W - H);
          }
          if constexpr (!Form::projects)
            if (y) store_partial(y + unit, s_new[0], H - unit);
        }
      }
    }
  }

  T* output_row(Index t, Index b) const {
    if (!f.y.data) return nullptr;
    return reinterpret_cast<T*>(f.y.data + rows.caller_time(t, b, f.reverse) * f.y.time +
                                rows.caller_row(b) * f.y.batch);
  }

  // ---- masked and projected forms ---------------------------------------------------------------

  Vec<T> zone_out(int i, Index t, Index b, Index unit, Vec<T> old, Vec<T> candidate) const {
    const Vec<T> share =
        load_bytes<T>(f.masks.kept[i] + (rows.offset(t) + b) * f.masks.kept_row[i] + unit) + f.masks.rate[i];
    return share * old + (T(1) - share) * candidate;
  }
  void keep_operand(Index t, Index b, Index unit, Vec<T> h) const {
    store(f.recurrent + (new_row(t) + b) * state_width(0) + unit,
          h * load(f.masks.recurrent + b * f.masks.recurrent_row + unit));
  }

  // h = W_hr hidden, each thread its panels of h.
  void project_hidden(Index t) {
    const Range panels = my_panels(projection), r = my_rows(t);
    if (r.begin == r.end) return;
    alignas(64) T scratch[kMaxTileVectors * W];
    for (Index p = panels.begin; p < panels.end; ++p) {
      const Index w_width = projection.w_width(p);
      const int vectors = static_cast<int>(w_width / W);
      Tile<T> tile;
      tile.k = H, tile.segments = 1, tile.a_step = 0;
      tile.w = f.weights->W_r + projection.weight_offset(p, H), tile.w_panel = H * w_width;
      tile.out = scratch, tile.out_row = w_width, tile.out_panel = w_width;
      init_all(tile, vectors, zeros<T>(), 0, 0);
      const TileRows tiles(r, vectors);
      for (Index i = 0; i < tiles.tiles; ++i) {
        const Range part = tiles.tile(i);
        for (Index b = part.begin; b < part.end; ++b) tile.a[b - part.begin] = f.hidden + (operand_row(t) + b) * padded;
        fusedrnn::FUSEDRNN_ISA::run(tile, static_cast<int>(part.end - part.begin), vectors, 1);
        settle_h(t, part, p, scratch);
      }
      did(m, 2.0 * static_cast<double>((r.end - r.begin) * H * w_width));
    }
  }

  [[gnu::noinline]] void settle_h(Index t, Range r, Index p, const T* projected) {
    const Index w_width = projection.w_width(p);
    for (Index b = r.begin; b < r.end; ++b, projected += w_width) {
      T* y = output_row(t, b);
      for (Index j = 0; j < projection.panels.width(p); ++j) {
        const Index unit = (projection.panels.start(p) + j) * W;
        const Vec<T> old = load(f.states[0] + (old_row(t) + b) * padded_h + unit);
        const Vec<T> h = zone_out(0, t, b, unit, old, load(projected + j * W));
        store(f.states[0] + (new_row(t) + b) * padded_h + unit, h);
        keep_operand(t, b, unit, h);
        if (y) store_partial(y + unit, h, R - unit);
      }
    }
  }

  // ---- normed form: kernels/normed.h

  using Groups = NormGroups<Cell>;
  void note_shares(Index p, Index j, const T* product, Index row, int apart, Index count, T* shares,
                   Index stride) const;
  void note_input(Index p, Index row, Index count) const;
  void product_panel(Index t, Range r, Index p, int panels);
  bool normed_step(Index t);
  void normed_cells(Index t, Range r, Index p, const Moments<T>* x, const Moments<T>* h);
  void normed_hidden(Index t, Range r, Index p, const Moments<T>& c);
  void settle_normed(Index t, Index b, Index unit, Vec<T> old, Vec<T> candidate, T* y) const;
  void keep_moments(Index which, Index row, Index count, const Moments<T>& moments) const;
  T* product_row(Index p, Index t, Index b) const;
  T* saved_row(Index p, Index t, Index b) const;

  // The first phase's gates of one block and row.
  void load_first(Index block, Index row, Vec<T>* save) const {
    const Index p = first.panels.holding(block);
    const T* gates = gate_row(first, p, row) + (block - first.panels.start(p)) * W;
    for (int c = 0; c < First::columns; ++c) save[c] = load(gates + c * first.panels.width(p) * W);
  }
};

template <class T, class Cell, class Form>
void forward(const Forward<T>& f, Member& m) {
  const FloatingPointState state;
  ForwardPass<T, Cell, Form>(f, m).run();
}

}  // namespace fusedrnn::FUSEDRNN_ISA
