// One forward step of the normed form (normed.h): members of ForwardPass (forward.h).
#pragma once

#include "forward.h"
#include "normed.h"

namespace fusedrnn::FUSEDRNN_ISA {

// Stores the shares of block j of a product's panel, [group][means, squares][block][row]; `apart` is the column of the
// split gate.
template <class T, class Cell, class Form>
void ForwardPass<T, Cell, Form>::note_shares(Index p, Index j, const T* product, Index row, int apart, Index count,
                                             T* shares, Index stride) const {
  const Index step = first.panels.width(p) * W, block = first.panels.start(p) + j, units = real_units<T>(block, H);
  const Index squares = first.panels.blocks * stride;
  const T* const others = product + j * W + (Cell::split && apart == 0 ? step : 0);
  shares += block * stride;
  share_moments<T, Groups::gates(0)>(others, row, step, count, units, shares, shares + squares);
  if constexpr (Cell::split)
    share_moments<T, 1>(product + j * W + apart * step, row, 0, count, units, shares + 2 * squares,
                        shares + 3 * squares);
}

template <class T, class Cell, class Form>
void ForwardPass<T, Cell, Form>::note_input(Index p, Index row, Index count) const {
  for (Index j = 0; j < first.panels.width(p); ++j)
    note_shares(p, j, gates.row(first, p, row), first.row_width(p), 0, count, f.norm.shares_x + row - chunk_from,
                f.chunk_rows);
}

template <class T, class Cell, class Form>
T* ForwardPass<T, Cell, Form>::product_row(Index p, Index t, Index b) const {
  const Index rows_of_all = f.history ? rows.offset(rows.T) : rows.B;
  return f.norm.products_h + first.weight_offset(p, rows_of_all) + (operand_row(t) + b) * first.w_width(p);
}

// The recurrent product of a step for one panel (or two), without the input part and without biases.
template <class T, class Cell, class Form>
void ForwardPass<T, Cell, Form>::product_panel(Index t, Range r, Index p, int panels) {
  const Index w_width = first.w_width(p);
  PanelProduct<T> product(r, f.weights->W_h + first.weight_offset(p, R), R, w_width, panels);
  product.of(f.recurrent + (old_row(t) + r.begin) * padded_h, padded_h);
  product.start_from(zeros<T>(), 0, 0);
  product.write_to(product_row(p, t, r.begin), w_width, product_row(p + panels - 1, t, 0) - product_row(p, t, 0));
  while (product.more()) {
    const Range part = product.next();
    for (Index q = p; q < p + panels; ++q)
      for (Index j = 0; j < first.panels.width(q); ++j)
        note_shares(q, j, product_row(q, t, part.begin), w_width, Cell::gates - 1, part.end - part.begin,
                    f.norm.shares_h + part.begin, rows.B);
  }
  did(m, 2.0 * static_cast<double>((r.end - r.begin) * R * w_width) * panels);
}

// The rest of a step, once the shares of its products are computed.
template <class T, class Cell, class Form>
bool ForwardPass<T, Cell, Form>::normed_step(Index t) {
  const auto& norm = f.weights->norm;
  const Range panels = my_panels(first), r = my_rows(t);
  const Index blocks = first.panels.blocks;
  Moments<T> x[Groups::count], h[Groups::count];
  for (Range part{r.begin, 0}; part.begin < r.end; part.begin = part.end) {
    part.end = part.begin + kMomentRows < r.end ? part.begin + kMomentRows : r.end;
    const Index row = rows.offset(t) + part.begin, count = part.end - part.begin;
    for (int g = 0; g < Groups::count; ++g) {
      put_together(f.norm.shares_x + 2 * g * blocks * f.chunk_rows + row - chunk_from, blocks, f.chunk_rows,
                   Groups::gates(g), H, norm.eps, count, x[g]);
      put_together(f.norm.shares_h + 2 * g * blocks * rows.B + part.begin, blocks, rows.B, Groups::gates(g), H,
                   norm.eps, count, h[g]);
      keep_moments(2 * g, row, count, x[g]);
      keep_moments(2 * (Groups::count + g), row, count, h[g]);
    }
    for (Index p = panels.begin; p < panels.end; ++p) normed_cells(t, part, p, x, h);
  }
  if constexpr (Cell::states == 2) {
    if (!sync(m)) return false;
    for (Range part{r.begin, 0}; part.begin < r.end; part.begin = part.end) {
      part.end = part.begin + kMomentRows < r.end ? part.begin + kMomentRows : r.end;
      const Index row = rows.offset(t) + part.begin, count = part.end - part.begin;
      put_together(f.norm.shares_c + part.begin, blocks, rows.B, 1, H, norm.eps, count, x[0]);
      keep_moments(4 * Groups::count, row, count, x[0]);
      for (Index p = panels.begin; p < panels.end; ++p) normed_hidden(t, part, p, x[0]);
    }
  }
  return true;
}

template <class T, class Cell, class Form>
void ForwardPass<T, Cell, Form>::keep_moments(Index which, Index row, Index count, const Moments<T>& moments) const {
  if (!f.norm.moments || unit_rank(m) != 0) return;
  T* to = f.norm.moments + which * rows.offset(rows.T) + row;
  __builtin_memcpy(to, moments.mean, static_cast<size_t>(count) * sizeof(T));
  __builtin_memcpy(to + rows.offset(rows.T), moments.rate, static_cast<size_t>(count) * sizeof(T));
}

template <class T, class Cell, class Form>
[[gnu::noinline]] void ForwardPass<T, Cell, Form>::normed_cells(Index t, Range r, Index p, const Moments<T>* x,
                                                                const Moments<T>* h) {
  const auto& norm = f.weights->norm;
  const Index blocks = first.panels.width(p), step = blocks * W;
  for (Index b = r.begin; b < r.end; ++b) {
    const T* const input = gates.row(first, p, rows.offset(t) + b);
    T* const saved = saved_row(p, t, b);
    const T* const product = product_row(p, t, b);
    T* const y = Cell::states == 1 ? output_row(t, b) : nullptr;
    for (Index j = 0; j < blocks; ++j) {
      const Index unit = (first.panels.start(p) + j) * W;
      const Index column = first.weight_offset(p, 1) + j * W;
      Vec<T> a[First::columns], s[Cell::states], s_new[Cell::states], save[First::columns], none[1];
      for (int c = 0; c < Cell::gates; ++c) {
        const Moments<T>& of = x[Groups::of_x(c)];
        const Vec<T> normal = (load(input + c * step + j * W) - of.mean[b - r.begin]) * of.rate[b - r.begin];
        a[c] = normal * load(norm.gain_x + column + c * step) + load(norm.bias_x + column + c * step);
      }
      for (int c = 0; c < Cell::gates; ++c) {
        const Moments<T>& of = h[Groups::of_h(c)];
        const Vec<T> normal = (load(product + c * step + j * W) - of.mean[b - r.begin]) * of.rate[b - r.begin];
        const Vec<T> part = normal * load(norm.gain_h + column + c * step) + load(norm.bias_h + column + c * step);
        a[c + Cell::split] = c + Cell::split < Cell::gates ? a[c + Cell::split] + part : part;
      }
      for (int i = 0; i < Cell::states; ++i) s[i] = load(f.states[i] + (old_row(t) + b) * padded + unit);
      cell.forward(a, s, none, s_new, save);
      if (f.keep || Cell::states == 2)  // hidden() needs o
        for (int c = 0; c < First::columns; ++c) store(saved + c * step + j * W, save[c]);
      if constexpr (Cell::states == 2) {
        store(f.candidate + (new_row(t) + b) * padded + unit, s_new[1]);
        store(f.states[1] + (new_row(t) + b) * padded + unit, zone_out(1, t, b, unit, s[1], s_new[1]));
      } else {
        settle_normed(t, b, unit, s[0], s_new[0], y);
      }
    }
  }
  if constexpr (Cell::states == 2)
    for (Index j = 0; j < blocks; ++j) {
      const Index block = first.panels.start(p) + j;
      T* shares = f.norm.shares_c + block * rows.B + r.begin;
      share_moments<T, 1>(f.candidate + (new_row(t) + r.begin) * padded + block * W, padded, 0, r.end - r.begin,
                          real_units<T>(block, H), shares, shares + first.panels.blocks * rows.B);
    }
}

template <class T, class Cell, class Form>
T* ForwardPass<T, Cell, Form>::saved_row(Index p, Index t, Index b) const {
  return f.norm.saved + (gates.row(first, p, rows.offset(t) + b) - f.gates);
}

template <class T, class Cell, class Form>
[[gnu::noinline]] void ForwardPass<T, Cell, Form>::normed_hidden(Index t, Range r, Index p, const Moments<T>& c) {
  if constexpr (Cell::states == 2) {
    const auto& norm = f.weights->norm;
    const Index blocks = first.panels.width(p);
    for (Index b = r.begin; b < r.end; ++b) {
      const T* const from = saved_row(p, t, b);
      T* const y = output_row(t, b);
      for (Index j = 0; j < blocks; ++j) {
        const Index unit = (first.panels.start(p) + j) * W;
        Vec<T> save[First::columns];
        for (int k = 0; k < First::columns; ++k) save[k] = load(from + (k * blocks + j) * W);
        const Vec<T> candidate = load(f.candidate + (new_row(t) + b) * padded + unit);
        const Vec<T> normal = (candidate - c.mean[b - r.begin]) * c.rate[b - r.begin];
        const Vec<T> hidden = cell.hidden(save, normal * load(norm.gain_c + unit) + load(norm.bias_c + unit));
        settle_normed(t, b, unit, load(f.states[0] + (old_row(t) + b) * padded + unit), hidden, y);
      }
    }
  }
}

template <class T, class Cell, class Form>
void ForwardPass<T, Cell, Form>::settle_normed(Index t, Index b, Index unit, Vec<T> old, Vec<T> candidate, T* y) const {
  const Vec<T> h = zone_out(0, t, b, unit, old, candidate);
  store(f.states[0] + (new_row(t) + b) * padded + unit, h);
  keep_operand(t, b, unit, h);
  if (y) store_partial(y + unit, h, H - unit);
}

}  // namespace fusedrnn::FUSEDRNN_ISA
