// The forward pass of one layer in one direction over a whole sequence:
//
//   for a chunk of steps: gates = b + x W_x          many steps in one product; each thread computes its own panels,
//                                                    and no thread waits
//     for each step:      gates + h W_h -> cell      tile by tile; the cell is applied while the tile is in L1
//
// Not here: gate equations (cells/), the products themselves (products.h), and allocation (core/forward.cpp). Masks,
// zoneout and projection are in kernels/forms.h, layer normalisation in kernels/normed.h. Next, read
// kernels/backward.h.
//
// Buffers: gate rows live for a chunk (inference) or as long as the tape (they become the saved gates, in place).
// States: two alternating slots (inference) or the states of all steps (training); the first B rows are the initial
// state. The operand of the second phase: one slot, or all steps.
#pragma once

#include "forms.h"
#include "products.h"

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
        phases{first, last},
        padded(first.padded),
        padded_h(projection.padded),
        cell(forward.weights->options),
        input({f.x, f.x_direct, f.gather, f.tokens, f.reverse, I, f.weights->W_x, f.weights->b_x}, rows, member),
        gates{f.gates, f.gate_rows},
        mine(part_of(rows.B, row_rank(member), member.team->row_groups)) {}

  void run() {
    if constexpr (Form::masks)  // every thread has copied part of the masks
      if (!barrier(m)) return;
    if (f.y.data) zero_past_the_end<T>(rows, f.y, f.y_T, state_units(0), m);
    finish(old_row(0), rows.active(0), rows.B);
    for (Index t = 0; t < rows.T;) {
      const Index end = chunk_end(rows, t, f.input_rows);
      if (!wait_for_input(m, end)) return;
      chunk_from = rows.offset(t);
      if (!f.keep) gates.from = chunk_from;
      // With rows of unequal length, gate rows are at different positions in every chunk: one group may write where
      // another group still reads.
      if (t > 0 && rows.offset_at && m.team->row_groups > 1 && !barrier(m)) return;
      // A chunk of one step computes a panel's input and recurrent part together: the gates stay in L1, and walking the
      // panels back and forth then also reuses the input weights that are still in the cache.
      const Range r = my_rows(t);
      const bool together = end == t + 1 && r.end - r.begin <= kGatherRows;
      if (together) point_at_step(t, r);
      else if constexpr (Form::normalises)
        input.chunk(phases, 1, gates, t, end, mine, [this](Index p, Index row, Index n) { note_input(p, row, n); });
      else input.chunk(phases, Cell::phases, gates, t, end, mine);
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
  using First = CellPhase<T, Cell, 0>;
  using Last = CellPhase<T, Cell, Cell::phases - 1>;

  const Forward<T>& f;
  Member& m;
  const Rows& rows;
  const Index I, H, R;
  const First first;
  const Last last;
  const CellPhase<T, Projection, 0> projection;
  const Phase<T> phases[2];      // the same phases in the form that products take
  const Index padded, padded_h;  // widths of the cell's states and of h
  const Cell cell;
  InputProduct<T> input;
  GateRows<T> gates;
  const Range mine;      // batch rows of this thread's group
  Index chunk_from = 0;  // first row of the current chunk: the input part of its steps is computed

  template <int P>
  const auto& phase() const {
    if constexpr (P == 0) return first;
    else return last;
  }
  template <class P>
  Range my_panels(const P& p) const {
    return part_of(p.panels.count, unit_rank(m), units_in_group(m));
  }
  Range my_rows(Index t) const { return active_rows(rows, mine, t); }

  // The first rows of step t in the state buffers, before and after the step, and in the operand buffer.
  Index old_row(Index t) const { return !f.history ? slot(t) * rows.B : t == 0 ? 0 : rows.B + rows.offset(t - 1); }
  Index new_row(Index t) const { return !f.history ? slot(t + 1) * rows.B : rows.B + rows.offset(t); }
  Index slot(Index t) const { return (t + f.slot) & 1; }
  Index operand_row(Index t) const { return f.history ? rows.offset(t) : 0; }

  // h has as many units as the cell, unless it is projected.
  Index state_units(int state) const { return Form::projects && state == 0 ? R : H; }
  Index state_width(int state) const { return Form::projects && state == 0 ? padded_h : padded; }

  // Rows [begin, end) have run their last step: copies their states, which start at row `at`, to states_n.
  void finish(Index at, Index begin, Index end) {
    if (begin < mine.begin) begin = mine.begin;
    if (end > mine.end) end = mine.end;
    if (begin < end && f.states_n[0]) copy_final(at, begin, end);
  }
  [[gnu::noinline]] void copy_final(Index at, Index begin, Index end) {
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

  // ---- one step ---------------------------------------------------------------------------------

  void point_at_step(Index t, Range r) { input.point_at(t, r.begin, r.end - r.begin); }

  // Odd steps walk the panels backwards, so that the panels the last step left in the cache are used first.
  template <int P>
  void step(Index t, bool with_input) {
    const auto& ph = phase<P>();
    const Range panels = my_panels(ph), r = my_rows(t);
    if (r.begin == r.end) return;
    const Index stride = r.end - r.begin == 1 ? 2 : 1;  // a single row takes two panels at once
    const Index groups = divide_up(panels.end - panels.begin, stride);
    for (Index i = 0; i < groups; ++i) {
      Index p = panels.begin + stride * (slot(t) ? groups - 1 - i : i);
      const Index end = p + stride < panels.end ? p + stride : panels.end;
      while (p < end) {
        const bool pair = p + 1 < end && ph.panels.width(p) == ph.panels.width(p + 1);
        const int count = pair ? 2 : 1;
        if (with_input) input_panels<P>(t, r, p, count);
        if constexpr (Form::normalises) product_panel(t, r, p, count);
        else step_panel<P>(t, r, p, count);
        p += count;
      }
    }
  }

  template <int P>
  void input_panels(Index t, Range r, Index p, int panels) {
    const Index row = rows.offset(t) + r.begin, n = r.end - r.begin;
    input.panel(phases[P], p, panels, row, n, gates);
    if constexpr (Form::normalises)
      for (int q = 0; q < panels; ++q) note_input(p + q, row, n);
  }

  // One panel, or two of equal width for a single row: the recurrent product, and the cell as soon as each tile is
  // computed.
  template <int P>
  void step_panel(Index t, Range r, Index p, int panels) {
    using ThisPhase = CellPhase<T, Cell, P>;
    const ThisPhase& ph = phase<P>();
    const Index width = ph.panels.width(p) * W, w_width = ph.w_width(p), row_width = ph.row_width(p);
    alignas(64) T scratch[kMaxTileVectors * W];

    PanelProduct<T> product(r, f.weights->W_h + ph.weight_offset(p, R), R, w_width, panels);
    const Index operand_width = P == 0 ? state_width(0) : padded;
    const T* operand = P == 0 ? f.recurrent + old_row(t) * operand_width : f.operand + operand_row(t) * operand_width;
    product.of(operand + r.begin * operand_width, operand_width);
    product.start_from(gates.row(ph, p, rows.offset(t) + r.begin) + ThisPhase::split * width, row_width,
                       row_width * f.gate_rows);
    if constexpr (ThisPhase::split)  // the recurrent part of the split gate starts from a bias of its own
      product.start_last_vector_from(f.weights->b_h + ph.panels.start(p) * W, width);
    product.write_each_to(scratch);
    const Range own = my_panels(ph);
    const Index next = slot(t) ? p - 1 : p + 1;
    if (f.weights->fetch_ahead && next >= own.begin && next < own.end)
      product.fetch(f.weights->W_h + ph.weight_offset(next, R));
    while (product.more()) {
      const Range part = product.next();
      for (int q = 0; q < panels; ++q) apply_cell<P>(t, part, p + q, scratch + q * w_width);
    }
    did(m, 2.0 * static_cast<double>((r.end - r.begin) * R * w_width) * panels);
  }

  // Out of line, so that every path (whole sequence, single steps, any tile) runs the same instructions.
  template <int P>
  [[gnu::noinline]] void apply_cell(Index t, Range r, Index p, const T* scratch) {
    using ThisPhase = CellPhase<T, Cell, P>;
    const ThisPhase& ph = phase<P>();
    const Index blocks = ph.panels.width(p), w_width = ph.w_width(p);
    const bool keep = f.keep && Cell::saved > 0;
    for (Index b = r.begin; b < r.end; ++b, scratch += w_width) {
      T* saved = gates.row(ph, p, rows.offset(t) + b);
      T* y = output_row(t, b);
      for (Index j = 0; j < blocks; ++j) {
        const Index block = ph.panels.start(p) + j, unit = block * W;
        Vec<T> a[ThisPhase::columns], s[Cell::states], s_new[Cell::states], save[Cell::gates + Cell::split];
        for (int c = 0; c < ThisPhase::split; ++c) a[c] = load(saved + (c * blocks + j) * W);
        for (int g = 0; g < ThisPhase::gates; ++g) a[ThisPhase::split + g] = load(scratch + (g * blocks + j) * W);
        if constexpr (Form::projects) s[0] = Vec<T>{};  // h has other units, and no projected cell reads it
        for (int i = Form::projects ? 1 : 0; i < Cell::states; ++i)
          s[i] = load(f.states[i] + (old_row(t) + b) * padded + unit);

        if constexpr (Cell::phases == 2 && P == 0) {
          Vec<T> operand[1];
          cell.gate(a, s, operand, save);
          if constexpr (Form::masks) operand[0] *= load(f.masks.recurrent + b * f.masks.recurrent_row + unit);
          store(f.operand + (operand_row(t) + b) * padded + unit, operand[0]);
          for (int c = 0; c < ThisPhase::columns; ++c) store(saved + (c * blocks + j) * W, save[c]);
        } else {
          if constexpr (Cell::phases == 2) {
            load_first(block, rows.offset(t) + b, save);
            cell.forward(a, s, save, s_new, save + Cell::first);
            if (keep) store(saved + j * W, save[Cell::first]);
          } else {
            Vec<T> p[Cell::unit_parameters + 1];
            for (int i = 0; i < Cell::unit_parameters; ++i) p[i] = load(f.weights->units + i * padded + unit);
            cell.forward(a, s, p, s_new, save);
            if (keep)
              for (int c = 0; c < ThisPhase::columns; ++c) store(saved + (c * blocks + j) * W, save[c]);
          }
          if constexpr (Form::projects) store(f.hidden + (operand_row(t) + b) * padded + unit, s_new[0]);
          if constexpr (Form::masks && Cell::states == 2)
            store(f.candidate + (new_row(t) + b) * padded + unit, s_new[1]);
          if constexpr (Form::masks)
            for (int i = Form::projects ? 1 : 0; i < Cell::states; ++i)
              s_new[i] = zone_out(i, t, b, unit, s[i], s_new[i]);
          // Stored before h, because the operand may be the same array as h, and only h has its padded lanes cleared.
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

  T* output_row(Index t, Index b) const { return f.y.data ? caller_row<T>(rows, f.y, t, b, f.reverse) : nullptr; }

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

  // h = W_hr hidden; each thread computes its panels of h.
  void project_hidden(Index t) {
    const Range panels = my_panels(projection), r = my_rows(t);
    if (r.begin == r.end) return;
    alignas(64) T scratch[kMaxTileVectors * W];
    for (Index p = panels.begin; p < panels.end; ++p) {
      const Index w_width = projection.w_width(p);
      PanelProduct<T> product(r, f.weights->W_r + projection.weight_offset(p, H), H, w_width, 1);
      product.of(f.hidden + (operand_row(t) + r.begin) * padded, padded);
      product.start_from(zeros<T>(), 0, 0);
      product.write_each_to(scratch);
      while (product.more()) {
        const Range part = product.next();
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

  // ---- normed form: see kernels/normed.h

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

  // Loads the first phase's gates of one block and row.
  void load_first(Index block, Index row, Vec<T>* save) const {
    const Index p = first.panels.holding(block);
    const T* from = gates.row(first, p, row) + (block - first.panels.start(p)) * W;
    for (int c = 0; c < First::columns; ++c) save[c] = load(from + c * first.panels.width(p) * W);
  }
};

template <class T, class Cell, class Form>
void forward(const Forward<T>& f, Member& m) {
  const FloatingPointState state;
  ForwardPass<T, Cell, Form>(f, m).run();
}

}  // namespace fusedrnn::FUSEDRNN_ISA
