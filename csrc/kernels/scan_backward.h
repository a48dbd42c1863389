// The backward pass of a layer without a recurrent matrix, in one direction over a whole sequence:
//
//   for a chunk of steps, last to first:
//     for each panel, for each step, last to first:  dgates, ds = cell(ds + dy)     no thread waits for another
//     dW += x^T dgates, db += dgates, dx = dgates W_x                              large products over the chunk's rows
//
// The gradients of the pre-activations live for one chunk only; the tape is never written. Sums over rows run chunk by
// chunk and, within a chunk, in the order of rows. Gradients of parameters per unit are summed over the steps of each
// batch row, last to first, then over the batch rows in order: so no sum depends on the number of threads.
#pragma once

#include "chunk_products.h"
#include "scan_forward.h"

namespace fusedrnn::FUSEDRNN_ISA {

template <class T>
class ScanBackward {
 public:
  // Applies the cell's backward function to rows r of steps [begin, end) in panel p, last step first; and makes the
  // gradients of the parameters per unit of some blocks from their sums over the rows.
  using Cells = void (*)(const ScanBackward& pass, Index p, Index begin, Index end, Range r);
  using Finish = void (*)(const ScanBackward& pass, Range blocks);

  ScanBackward(const Backward<T>& backward, Member& member, const ScanShape& shape, Cells cells, Finish finish)
      : f(backward),
        m(member),
        rows(backward.rows),
        N(rows.offset(rows.T)),
        H(backward.weights->H),
        phase(H, shape.shape),
        padded(phase.padded),
        dgates{f.dgates, f.chunk_rows},
        shape_(shape),
        cells_(cells),
        finish_(finish),
        chunk_(rows, f.chunk_rows, f.few_rows, shape.shape.gates * static_cast<int>(widest_panel(shape.shape.gates)),
               member),
        mine_(part_of(rows.B, row_rank(member), member.team->row_groups)),
        panels_(part_of(phase.panels.count, unit_rank(member), units_in_group(member))) {}

  [[gnu::noinline]] void run() {
    const Index I = f.weights->I;
    if (f.dx.data && !f.accumulate) zero_past_the_end<T>(rows, f.dx, f.dx_T, I, m);
    for (Index end = rows.T; end > 0;) {
      Index begin = end - 1;
      while (begin > 0 && rows.offset(end) - rows.offset(begin - 1) <= f.chunk_rows) --begin;
      chunk_.start(begin, end);
      dgates.from = chunk_.from();
      if (!f.tokens) chunk_.pack(f.x, I, I, row_of_step, f.inputs);
      const Range r = active_rows(rows, mine_, begin);
      for (Index p = panels_.begin; p < panels_.end && !stopped(m); ++p) cells_(*this, p, begin, end, r);
      if (!barrier(m)) return;
      add_chunk(begin, end < rows.T);
      if (!barrier(m)) return;
      end = begin;
    }
    if (!f.few_rows || f.tokens) chunk_.unpack(phase, kOfX, f.dW_x, I, f.dW_ih);
    chunk_.unpack_bias(phase, kOfX, f.db, f.db_ih);
    if (f.dunits && shape_.unit_parameters) finish_(*this, part_of(phase.panels.blocks, m.rank, m.team->size));
  }

  const Backward<T>& f;
  Member& m;
  const Rows& rows;
  const Index N, H;
  const Phase<T> phase;
  const Index padded;
  GateRows<T> dgates;

  // Sums over a batch row's steps for parameter i per unit.
  T* unit_sums(int i, Index b) const { return f.dunit_rows + (b * shape_.unit_parameters + i) * padded; }

 private:
  static constexpr Index W = kLanes<T>;

  const ScanShape shape_;
  const Cells cells_;
  const Finish finish_;
  ChunkProducts<T> chunk_;
  const Range mine_, panels_;  // this thread's batch rows and panels

  void add_chunk(Index begin, bool add) {
    const Index I = f.weights->I;
    const Range own = chunk_.my_panels(phase);
    for (Index p = own.begin; p < own.end; ++p) {
      chunk_.bias_sums(phase, p, dgates, f.db, add);
      if (f.tokens) chunk_.token_sums(phase, p, dgates, f.tokens, I, f.dW_x, add);
    }
    if (!f.tokens) chunk_.weight_sums(phase, kOfX, dgates, f.inputs, I, f.dW_x, f.dW_ih, add);
    if (!f.dx.data) return;
    chunk_.input_gradients(&phase, 1, dgates, {f.dx, f.reverse, f.accumulate, I, f.weights->W_x_back});
    if (shape_.skip) add_skip_gradients(begin);
  }

  // dx[row] += the gradients of x as a pre-activation, for the rows that input_gradients() gives to this thread.
  void add_skip_gradients(Index t) const {
    const Range share = part_of(chunk_.count(), m.rank, m.team->size);
    if (share.begin == share.end) return;
    Index b = share.begin;
    while (b >= rows.active(t)) b -= rows.active(t), ++t;
    for (Index i = share.begin; i < share.end; ++i) {
      T* const to = caller_row<T>(rows, f.dx, t, b, f.reverse);
      for (Index p = 0; p < phase.panels.count; ++p) {
        const Index width = phase.panels.width(p) * W, unit = phase.panels.start(p) * W;
        const T* const from = dgates.row(phase, p, dgates.from + i) + phase.gates * width;
        for (Index k = 0; k < width; k += W) {
          const Index left = H - unit - k;
          if (left > 0) store_partial(to + unit + k, load_partial(to + unit + k, left) + load(from + k), left);
        }
      }
      if (++b == rows.active(t)) ++t, b = 0;
    }
  }
};

template <class T, class Cell, class Form>
[[gnu::noinline]] void scan_cells_back(const ScanBackward<T>& pass, Index p, Index begin, Index end, Range r) {
  constexpr Index W = kLanes<T>, kBlocks = widest_panel(Cell::gates);
  constexpr int U = Cell::unit_parameters, kColumns = ShapeOf<Cell, 0>::columns;
  const Backward<T>& f = pass.f;
  const Rows& rows = pass.rows;
  const Index blocks = pass.phase.panels.width(p), first = pass.phase.panels.start(p), padded = pass.padded;
  const Index row_width = kColumns * blocks * W;
  const Cell cell(f.weights->options);
  const UnitParameters<T, Cell> units(cell, f.weights->units, padded, first, blocks);
  // The gradients of the states, and the sums for the parameters per unit.
  alignas(64) T kept[kScanRows][kBlocks][Cell::states + U][W];
  for (Range part = {r.begin, 0}; part.begin < r.end; part.begin = part.end) {
    part.end = part.begin + kScanRows < r.end ? part.begin + kScanRows : r.end;
    const auto for_each = [&](auto move) {
      for (Index b = part.begin; b < part.end; ++b)
        for (Index j = 0; j < blocks; ++j)
          for (int i = 0; i < Cell::states + U; ++i)
            move(
                kept[b - part.begin][j][i],
                (i < Cell::states ? f.dstates[i] + b * padded : pass.unit_sums(i - Cell::states, b)) + (first + j) * W);
    };
    for_each([](T* here, T* there) { store(here, load(there)); });
    for (Index step = end - 1; step >= begin; --step) {
      const Index active = rows.active(step), last = part.end < active ? part.end : active;
      const Index row = rows.offset(step) + part.begin, before = row_before_step(rows, step) + part.begin;
      const T* saved = f.gates + pass.phase.gate_offset(p, pass.N) + row * row_width;
      T* da_row = pass.dgates.row(pass.phase, p, row);
      for (Index i_row = 0; i_row < last - part.begin; ++i_row, saved += row_width, da_row += row_width) {
        const T* const dy = f.dy.data ? caller_row<T>(rows, f.dy, step, part.begin + i_row, f.reverse) : nullptr;
        for (Index j = 0; j < blocks; ++j) {
          const Index unit = (first + j) * W;
          T(&here)[Cell::states + U][W] = kept[i_row][j];
          Vec<T> save[kColumns], s[Cell::states], s_new[Cell::states], ds_new[Cell::states], da[kColumns],
              ds[Cell::states], dp[U + 1];
          for (int c = 0; c < Cell::saved; ++c) save[c] = load(saved + (c * blocks + j) * W);
          for (int i = 0; i < Cell::states; ++i) {
            s[i] = load(f.states[i] + (before + i_row) * padded + unit);
            s_new[i] = load(f.states[i] + (rows.B + row + i_row) * padded + unit);
            ds_new[i] = load(here[i]);
          }
          if (dy) ds_new[0] = ds_new[0] + load_partial(dy + unit, pass.H - unit);
          for (int i = 0; i < U; ++i) dp[i] = load(here[Cell::states + i]);
          if constexpr (Form::masks)
            cell.backward_zoned(save, s, s_new, zone_share(f.masks, row + i_row, unit), ds_new, da, ds);
          else cell.backward(save, s, s_new, units.of[j], ds_new, da, ds, dp);
          for (int c = 0; c < kColumns; ++c) store(da_row + (c * blocks + j) * W, da[c]);
          for (int i = 0; i < Cell::states; ++i) store(here[i], ds[i]);
          for (int i = 0; i < U; ++i) store(here[Cell::states + i], dp[i]);
        }
      }
    }
    for_each([](T* here, T* there) { store(there, load(here)); });
  }
  did(pass.m, 40.0 * static_cast<double>((rows.offset(end) - rows.offset(begin)) * row_width));
}

template <class T, class Cell>
[[gnu::noinline]] void finish_units(const ScanBackward<T>& pass, Range blocks) {
  constexpr int U = Cell::unit_parameters;
  constexpr Index W = kLanes<T>;
  const Backward<T>& f = pass.f;
  const Cell cell(f.weights->options);
  for (Index unit = blocks.begin * W; unit < blocks.end * W; unit += W) {
    Vec<T> p[U + 1], dp[U + 1];
    for (int i = 0; i < U; ++i) {
      p[i] = load(f.weights->units + i * pass.padded + unit), dp[i] = Vec<T>{};
      for (Index b = 0; b < pass.rows.B; ++b) dp[i] += load(pass.unit_sums(i, b) + unit);
    }
    cell.finish(p, dp);
    for (int i = 0; i < U; ++i) store(f.dunits + i * pass.padded + unit, dp[i]);
  }
}

template <class T, class Cell, class Form>
void scan_backward(const Backward<T>& f, Member& m) {
  const FloatingPointState state;
  typename ScanBackward<T>::Finish finish = nullptr;
  if constexpr (Cell::unit_parameters > 0) finish = finish_units<T, Cell>;
  ScanBackward<T>(f, m, scan_shape<Cell, Form>(), scan_cells_back<T, Cell, Form>, finish).run();
}

}  // namespace fusedrnn::FUSEDRNN_ISA
