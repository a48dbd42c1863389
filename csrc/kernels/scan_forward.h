// The forward pass of a layer without a recurrent matrix, in one direction over a whole sequence:
//
//   for a chunk of steps, for each panel:  gates = b + x W_x          one product for all steps of the chunk
//                                          for each step: cell        while the gates are in the cache
//
// Units do not mix over time, so no thread waits for another: each computes its panels of units and its batch rows, in
// order of time. What the layer shares with recurrent ones is in products.h. Next, read scan_backward.h.
//
// Buffers: in training, gate rows live as long as the tape (they become the saved gates, in place), and so do the
// states of all steps. In inference each thread reuses gate rows of its own for every panel, and states are written at
// the end of a chunk, or of a row.
//
// Only scan_cells() knows the cell; the rest is compiled once.
#pragma once

#include "forms.h"
#include "products.h"

namespace fusedrnn::FUSEDRNN_ISA {

inline constexpr Index kScanRows = 16;  // batch rows that run through a chunk together: their states stay in L1

// What a pass has to know about its cell besides the functions.
struct ScanShape {
  Shape shape;
  int states, skip, unit_parameters;
  bool masks;
};
template <class Cell, class Form>
constexpr ScanShape scan_shape() {
  return {ShapeOf<Cell, 0>(), Cell::states, Cell::skip, Cell::unit_parameters, Form::masks};
}

// The parameters per unit of the blocks of a panel, as the steps take them.
template <class T, class Cell>
struct UnitParameters {
  static constexpr Index W = kLanes<T>;
  Vec<T> of[widest_panel(Cell::gates)][Cell::unit_parameters + 1];

  inline UnitParameters(const Cell& cell, const T* units, Index padded, Index block, Index count) {
    for (Index j = 0; j < count; ++j) {
      for (int i = 0; i < Cell::unit_parameters; ++i) of[j][i] = load(units + i * padded + (block + j) * W);
      cell.prepare(of[j]);
    }
  }
};

template <class T>
class ScanForward {
 public:
  // Applies the cell to rows r of steps [t, end) in panel p.
  using Cells = void (*)(const ScanForward& pass, Index p, Index t, Index end, Range r, const GateRows<T>& gates);

  ScanForward(const Forward<T>& forward, Member& member, const ScanShape& shape, Cells cells)
      : f(forward),
        m(member),
        rows(forward.rows),
        H(forward.weights->H),
        phase(H, shape.shape),
        padded(phase.padded),
        shape_(shape),
        cells_(cells),
        input_({f.x, f.x_direct, f.gather, f.tokens, f.reverse, f.weights->I, f.weights->W_x, f.weights->b_x}, rows,
               member),
        mine_(part_of(rows.B, row_rank(member), member.team->row_groups)),
        panels_(part_of(phase.panels.count, unit_rank(member), units_in_group(member))) {}

  [[gnu::noinline]] void run() {
    if (shape_.masks && !barrier(m)) return;  // every thread has copied part of the masks
    if (f.y.data) zero_past_the_end<T>(rows, f.y, f.y_T, H, m);
    copy_initial();
    for (Index t = 0; t < rows.T;) {
      const Index end = chunk_end(rows, t, f.input_rows);
      if (!wait_for_input(m, end)) return;
      if (m.team->row_groups == 1 && rows.offset(end) - rows.offset(t) <= kGatherRows) {
        piece(t, end, {0, rows.active(t)});
      } else {
        for (Index step = t; step < end; ++step) {
          const Range r = active_rows(rows, mine_, step);
          for (Index b = r.begin; b < r.end; b += kGatherRows)
            piece(step, step + 1, {b, b + kGatherRows < r.end ? b + kGatherRows : r.end});
        }
      }
      if (stopped(m)) return;
      note_progress(m, end);
      t = end;
    }
    // In a stream the same team runs the next layer, which reads these outputs (core/stepper.cpp).
    if (f.own_gates == 0 && !f.keep) sync(m);
  }

  const Forward<T>& f;
  Member& m;
  const Rows& rows;
  const Index H;
  const Phase<T> phase;
  const Index padded;

  // The first rows of step t in the state buffers, before and after the step.
  Index old_row(Index t) const { return f.history ? row_before_step(rows, t) : slot(t) * rows.B; }
  Index new_row(Index t) const { return f.history ? rows.B + rows.offset(t) : slot(t + 1) * rows.B; }

  void note_final(int i, Index b, Index unit, Vec<T> state) const {
    if (f.states_n[i]) store_partial(f.states_n[i] + rows.caller_row(b) * f.states_n_stride[i] + unit, state, H - unit);
  }

 private:
  static constexpr Index W = kLanes<T>;

  const ScanShape shape_;
  const Cells cells_;
  InputProduct<T> input_;
  const Range mine_, panels_;  // this thread's batch rows and panels

  Index slot(Index t) const { return (t + f.slot) & 1; }

  // The final states of rows that never run are the initial ones.
  void copy_initial() const {
    const Index active = rows.active(0);
    for (Index b = mine_.begin > active ? mine_.begin : active; b < mine_.end; ++b)
      for (Index p = panels_.begin; p < panels_.end; ++p)
        for (Index j = 0; j < phase.panels.width(p); ++j)
          for (int i = 0; i < shape_.states; ++i) {
            const Index unit = (phase.panels.start(p) + j) * W;
            note_final(i, b, unit, load(f.states[i] + (old_row(0) + b) * padded + unit));
          }
  }

  // Rows r of steps [t, end): all rows of these steps, or rows of a single step.
  void piece(Index t, Index end, Range r) {
    const Index count = end == t + 1 ? r.end - r.begin : rows.offset(end) - rows.offset(t);
    const Index row = rows.offset(t) + r.begin;
    Index at = t, b = r.begin;
    input_.point_at(at, b, count);
    for (Index p = panels_.begin; p < panels_.end;) {
      // A single row takes two panels at once.
      const bool pair = count == 1 && p + 1 < panels_.end && phase.panels.width(p) == phase.panels.width(p + 1);
      const GateRows<T> gates = gate_rows(p, row, count);
      input_.panel(phase, p, pair ? 2 : 1, row, count, gates);
      for (int i = 0; i <= pair; ++i, ++p) {
        if (shape_.skip) fill_skip(p, t, r.begin, row, count, gates);
        cells_(*this, p, t, end, r, gates);
      }
    }
  }

  GateRows<T> gate_rows(Index p, Index row, Index count) const {
    if (f.own_gates == 0) return {f.gates, f.gate_rows};
    // The panel's gate rows start where this thread's buffer does.
    const Index before = m.rank * f.own_gates - phase.gate_offset(p, count);
    return {reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(f.gates) + static_cast<uintptr_t>(before) * sizeof(T)),
            count, row};
  }

  // Copies the units' own inputs behind the gates: x itself is one of the pre-activations.
  void fill_skip(Index p, Index t, Index b, Index row, Index count, const GateRows<T>& gates) const {
    const Index width = phase.panels.width(p) * W, unit = phase.panels.start(p) * W;
    const Index real = H - unit < width ? H - unit : width;
    T* out = gates.row(phase, p, row) + phase.gates * width;
    for (Index i = 0; i < count; ++i, out += phase.row_width(p)) {
      zero(out, width);
      if (f.tokens) {
        const Index token = f.tokens[row + i] - unit;
        if (token >= 0 && token < real) out[token] = T(1);
      } else {
        __builtin_memcpy(out, input_.row(i) + unit, static_cast<size_t>(real) * sizeof(T));
      }
      if (++b == rows.active(t)) ++t, b = 0;
    }
  }
};

// Out of line, so that every path (whole sequence, single steps) runs the same instructions.
template <class T, class Cell, class Form>
[[gnu::noinline]] void scan_cells(const ScanForward<T>& pass, Index p, Index t, Index end, Range r,
                                  const GateRows<T>& gates) {
  constexpr Index W = kLanes<T>, kBlocks = widest_panel(Cell::gates);
  constexpr int kColumns = ShapeOf<Cell, 0>::columns;
  const Forward<T>& f = pass.f;
  const Rows& rows = pass.rows;
  const Index blocks = pass.phase.panels.width(p), first = pass.phase.panels.start(p), padded = pass.padded;
  const Index row_width = kColumns * blocks * W;
  const Cell cell(f.weights->options);
  const UnitParameters<T, Cell> units(cell, f.weights->units, padded, first, blocks);
  alignas(64) T states[kScanRows][kBlocks][Cell::states][W];
  for (Range part = {r.begin, 0}; part.begin < r.end; part.begin = part.end) {
    part.end = part.begin + kScanRows < r.end ? part.begin + kScanRows : r.end;
    for (Index b = part.begin; b < part.end; ++b)
      for (Index j = 0; j < blocks; ++j)
        for (int i = 0; i < Cell::states; ++i)
          store(states[b - part.begin][j][i], load(f.states[i] + (pass.old_row(t) + b) * padded + (first + j) * W));
    for (Index step = t; step < end; ++step) {
      const Index active = rows.active(step), last = part.end < active ? part.end : active;
      T* gate_row = gates.row(pass.phase, p, rows.offset(step) + part.begin);
      for (Index b = part.begin; b < last; ++b, gate_row += row_width) {
        T* const y = f.y.data ? caller_row<T>(rows, f.y, step, b, f.reverse) : nullptr;
        for (Index j = 0; j < blocks; ++j) {
          const Index unit = (first + j) * W;
          T(&kept)[Cell::states][W] = states[b - part.begin][j];
          Vec<T> a[kColumns], s[Cell::states], s_new[Cell::states], save[kColumns];
          for (int c = 0; c < kColumns; ++c) a[c] = load(gate_row + (c * blocks + j) * W);
          for (int i = 0; i < Cell::states; ++i) s[i] = load(kept[i]);
          if constexpr (Form::masks)
            cell.forward_zoned(a, s, zone_share(f.masks, rows.offset(step) + b, unit), s_new, save);
          else cell.forward(a, s, units.of[j], s_new, save);
          if (f.keep)
            for (int c = 0; c < Cell::saved; ++c) store(gate_row + (c * blocks + j) * W, save[c]);
          for (int i = 0; i < Cell::states; ++i) {
            store(kept[i], s_new[i]);
            if (f.history) store(f.states[i] + (pass.new_row(step) + b) * padded + unit, s_new[i]);
          }
          if (y) store_partial(y + unit, s_new[0], pass.H - unit);
        }
      }
      // Rows that end here, or go on in the next chunk.
      const Index goes_on = rows.active(step + 1);
      for (Index b = step + 1 == end || part.begin > goes_on ? part.begin : goes_on; b < last; ++b)
        for (Index j = 0; j < blocks; ++j)
          for (int i = 0; i < Cell::states; ++i) {
            const Vec<T> state = load(states[b - part.begin][j][i]);
            const Index unit = (first + j) * W;
            if (!f.history) store(f.states[i] + (pass.new_row(step) + b) * padded + unit, state);
            if (b >= goes_on) pass.note_final(i, b, unit, state);
          }
    }
  }
  // Roughly the floating-point operations of a gate.
  did(pass.m, 20.0 * static_cast<double>((rows.offset(end) - rows.offset(t)) * row_width));
}

template <class T, class Cell, class Form>
void scan_forward(const Forward<T>& f, Member& m) {
  const FloatingPointState state;
  ScanForward<T>(f, m, scan_shape<Cell, Form>(), scan_cells<T, Cell, Form>).run();
}

}  // namespace fusedrnn::FUSEDRNN_ISA
