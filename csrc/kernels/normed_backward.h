// One backward step of the normed form (normed.h): members of BackwardPass (backward.h).
#pragma once

#include "backward.h"
#include "normed.h"

namespace fusedrnn::FUSEDRNN_ISA {

template <class T, class Cell, class Form>
bool BackwardPass<T, Cell, Form>::normed_step(Index t) {
  const Range r = my_rows(t);
  const Index blocks = first.panels.blocks;
  const auto for_my_panels = [&](auto visit) {
    for (Index q = my_unit_panels.begin; q < my_unit_panels.end; ++q) visit(unit_panels.start(q), unit_panels.width(q));
  };
  const auto in_parts = [&](auto visit) {
    for (Range part{r.begin, 0}; part.begin < r.end; part.begin = part.end) {
      part.end = part.begin + kMomentRows < r.end ? part.begin + kMomentRows : r.end;
      visit(part);
    }
  };
  NormSums<T> sums;
  if constexpr (Cell::states == 2) {
    for_my_panels([&](Index block, Index count) { differentiate_hidden(t, r, block, count); });
    if (!sync(m)) return false;
  }
  in_parts([&](Range part) {
    if constexpr (Cell::states == 2) sums.add(0, f.norm.shares, 0, blocks, rows.B, part, H);
    for_my_panels([&](Index block, Index count) { differentiate_normed(t, part, block, count, sums); });
  });
  if (!sync(m)) return false;
  in_parts([&](Range part) {
    for (int i = 0; i < 2 * Groups::count; ++i)
      sums.add(i, f.norm.shares, 1 + i, blocks, rows.B, part, Groups::gates(i % Groups::count) * H);
    for_my_panels([&](Index block, Index count) { differentiate_products(t, part, block, count, sums); });
  });
  if (!sync(m)) return false;
  hidden_gradients<0>(t, r, f.drecurrent, true);
  return true;
}

template <class T, class Cell, class Form>
auto BackwardPass<T, Cell, Form>::norm_place(Index block, Index row) const -> NormPlace {
  const Index panel = first.panels.holding(block), within = (block - first.panels.start(panel)) * W;
  const Index product = first.weight_offset(panel, N) + row * first.w_width(panel) + within;
  const Place of = place(first, block, row);
  return {of,
          f.norm.products_x + (of.saved - f.gates),
          f.norm.products_h + product,
          dgates_x.at + (of.dgates - f.dgates),
          dgates_h.at + (of.dgates - f.dgates) + Cell::split * of.column,
          f.norm.dseen + (block * f.chunk_rows + row - chunk.from()) * W,
          first.w_width(panel),
          block * W,
          first.weight_offset(panel, 1) + within};
}

// Visits all of `count` blocks of a row in turn, as differentiate_cell does.
template <class T, class Cell, class Form>
template <class Visit>
inline void BackwardPass<T, Cell, Form>::for_each_unit(Index t, Range r, Index block, Index count, Visit visit) const {
  NormPlace places[kMaxBackVectors];
  for (Index j = 0; j < count; ++j) places[j] = norm_place(block + j, rows.offset(t) + r.begin);
  for (Index b = r.begin; b < r.end; ++b) {
    const T* const dy = dy_row(t, b);
    for (Index j = 0; j < count; ++j) {
      visit(b, places[j], dy);
      places[j].next_row();
    }
  }
}

// A normalised quantity, and its rate. `which` follows the order in which forward kept them: x's groups, h's groups, c.
template <class T, class Cell, class Form>
inline Vec<T> BackwardPass<T, Cell, Form>::normal(int which, Index row, Vec<T> value) const {
  return (value - f.norm.moments[2 * which * N + row]) * rate(which, row);
}
template <class T, class Cell, class Form>
inline T BackwardPass<T, Cell, Form>::rate(int which, Index row) const {
  return f.norm.moments[(2 * which + 1) * N + row];
}

// Here the order is c, then x's groups, then h's groups.
template <class T, class Cell, class Form>
inline T* BackwardPass<T, Cell, Form>::share_of(int which, Index block, Index b) const {
  return f.norm.shares + (2 * which * first.panels.blocks + block) * rows.B + b;
}

// LSTM only: from dh to the gradients of o and of the normalised c.
template <class T, class Cell, class Form>
[[gnu::noinline]] void BackwardPass<T, Cell, Form>::differentiate_hidden(Index t, Range r, Index block,
                                                                         Index count) const {
  if constexpr (Cell::states == 2) {
    const auto& norm = f.weights->norm;
    const Index along = first.panels.blocks * rows.B;
    for_each_unit(t, r, block, count, [&](Index b, const NormPlace& at, const T* dy) {
      const Index row = rows.offset(t) + b;
      Vec<T> save[kValues], ds_new[Cell::states], da_o, dseen;
      load_saved(at, at, save);
      load_gradients(b, at.unit, dy, ds_new);
      const Vec<T> share = zone_share(0, row, at.unit);
      store(f.dstates[0] + b * padded + at.unit, share * ds_new[0]);
      const Vec<T> c = normal(2 * Groups::count, row, load(f.candidate + (rows.B + row) * padded + at.unit));
      const Vec<T> gain = load(norm.gain_c + at.unit);
      cell.backward_hidden(save, c * gain + load(norm.bias_c + at.unit), (T(1) - share) * ds_new[0], da_o, dseen);
      store(at.dgates + (Cell::gates - 1) * at.column, da_o);
      store(at.dseen, dseen);
      T* const shares = share_of(0, at.unit / W, b);
      shares[0] = sum_lanes<T>(dseen * gain), shares[along] = sum_lanes<T>(dseen * gain * c);
    });
  }
}

// Applies the cell backward, and stores the shares that both normalisations need of the pre-activations' gradients.
template <class T, class Cell, class Form>
[[gnu::noinline]] void BackwardPass<T, Cell, Form>::differentiate_normed(Index t, Range r, Index block, Index count,
                                                                         const NormSums<T>& sums) const {
  const auto& norm = f.weights->norm;
  constexpr int last = Cell::states - 1;  // the state whose gradient is needed here; an LSTM's dh is already handled
  for_each_unit(t, r, block, count, [&](Index b, const NormPlace& at, const T* dy) {
    const Index row = rows.offset(t) + b;
    Vec<T> save[kValues], s[Cell::states], ds_new[Cell::states], da[kValues], ds[Cell::states], none[1] = {};
    load_saved(at, at, save);
    for (int i = 0; i < Cell::states; ++i) s[i] = load(f.states[i] + (old_row(t) + b) * padded + at.unit);
    const Vec<T> share = zone_share(last, row, at.unit);
    if constexpr (Cell::states == 2) {
      ds_new[1] = load(f.dstates[1] + b * padded + at.unit);
      const Vec<T> c = normal(2 * Groups::count, row, load(f.candidate + (rows.B + row) * padded + at.unit));
      const Vec<T> dc = sums.differentiated(0, b - r.begin, load(at.dseen) * load(norm.gain_c + at.unit), c,
                                            rate(2 * Groups::count, row));
      da[Cell::gates - 1] = load(at.dgates + (Cell::gates - 1) * at.column);
      cell.backward_state(save, s, none, dc + (T(1) - share) * ds_new[1], da, ds);
    } else {
      load_gradients(b, at.unit, dy, ds_new);
      const Vec<T> dh[1] = {(T(1) - share) * ds_new[0]};
      cell.backward(save, s, none, none, dh, da, ds);
    }
    store(f.dstates[last] + b * padded + at.unit, ds[last] + share * ds_new[last]);
    for (int c = 0; c < First::columns; ++c) store(at.dgates + c * at.column, da[c]);
    Vec<T> sum[2 * Groups::count] = {}, along[2 * Groups::count] = {};
    for (int c = 0; c < Cell::gates; ++c) {
      const int x = Groups::of_x(c), h = Groups::count + Groups::of_h(c);
      const Vec<T> dx = da[c] * load(norm.gain_x + at.gains + c * at.column);
      const Vec<T> dh = da[c + Cell::split] * load(norm.gain_h + at.gains + c * at.column);
      sum[x] += dx, along[x] += dx * normal(x, row, load(at.input + c * at.column));
      sum[h] += dh, along[h] += dh * normal(h, row, load(at.product + c * at.column));
    }
    for (int i = 0; i < 2 * Groups::count; ++i) {
      T* const shares = share_of(1 + i, at.unit / W, b);
      shares[0] = sum_lanes<T>(sum[i]), shares[first.panels.blocks * rows.B] = sum_lanes<T>(along[i]);
    }
  });
}

// The gradients of both products, before normalisation.
template <class T, class Cell, class Form>
[[gnu::noinline]] void BackwardPass<T, Cell, Form>::differentiate_products(Index t, Range r, Index block, Index count,
                                                                           const NormSums<T>& sums) const {
  const auto& norm = f.weights->norm;
  for_each_unit(t, r, block, count, [&](Index b, const NormPlace& at, const T*) {
    const Index row = rows.offset(t) + b;
    for (int c = 0; c < Cell::gates; ++c) {
      const int x = Groups::of_x(c), h = Groups::count + Groups::of_h(c);
      const Index column = c * at.column;
      const Vec<T> dx = load(at.dgates + column) * load(norm.gain_x + at.gains + column);
      const Vec<T> dh = load(at.dgates + column + Cell::split * at.column) * load(norm.gain_h + at.gains + column);
      store(at.dinput + column,
            sums.differentiated(x, b - r.begin, dx, normal(x, row, load(at.input + column)), rate(x, row)));
      store(at.dproduct + column,
            sums.differentiated(h, b - r.begin, dh, normal(h, row, load(at.product + column)), rate(h, row)));
    }
  });
}

// Gradients of the gains, and of the bias of c, from the rows of a chunk, in order.
template <class T, class Cell, class Form>
void BackwardPass<T, Cell, Form>::norm_gradients(bool add) const {
  const Range panels = chunk.my_panels(first);
  for (Index block = first.panels.start(panels.begin); block < first.panels.start(panels.end); ++block) {
    NormPlace at = norm_place(block, chunk.from());
    T *const dgain_x = f.norm.dgain_x + at.gains, *const dgain_h = f.norm.dgain_h + at.gains;
    Vec<T> x[Cell::gates] = {}, h[Cell::gates] = {}, gain_c{}, bias_c{};
    for (int c = 0; add && c < Cell::gates; ++c)
      x[c] = load(dgain_x + c * at.column), h[c] = load(dgain_h + c * at.column);
    if (add && Cell::states == 2) gain_c = load(f.norm.dgain_c + at.unit), bias_c = load(f.norm.dbias_c + at.unit);
    for (Index row = chunk.from(); row < chunk.from() + chunk.count(); ++row, at.next_row()) {
      for (int c = 0; c < Cell::gates; ++c) {
        const Index column = c * at.column;
        x[c] += load(at.dgates + column) * normal(Groups::of_x(c), row, load(at.input + column));
        h[c] += load(at.dgates + column + Cell::split * at.column) *
                normal(Groups::count + Groups::of_h(c), row, load(at.product + column));
      }
      if constexpr (Cell::states == 2) {
        const Vec<T> c = load(f.candidate + (rows.B + row) * padded + at.unit);
        gain_c += load(at.dseen) * normal(2 * Groups::count, row, c);
        bias_c += load(at.dseen);
      }
    }
    for (int c = 0; c < Cell::gates; ++c) store(dgain_x + c * at.column, x[c]), store(dgain_h + c * at.column, h[c]);
    if constexpr (Cell::states == 2) store(f.norm.dgain_c + at.unit, gain_c), store(f.norm.dbias_c + at.unit, bias_c);
  }
}

template <class T, class Cell, class Form>
void BackwardPass<T, Cell, Form>::unpack_norm() const {
  const Range panels = chunk.my_panels(first);
  for (Index p = panels.begin; p < panels.end; ++p) {
    const T *x = f.norm.dgain_x + first.weight_offset(p, 1), *h = f.norm.dgain_h + first.weight_offset(p, 1);
    for_each_column(phases[0], p, kOfX, [&](Index row, Index c) { f.norm.dgain_ih[row] = x[c]; });
    for_each_column(phases[0], p, kOfH, [&](Index row, Index c) { f.norm.dgain_hh[row] = h[c]; });
  }
}

}  // namespace fusedrnn::FUSEDRNN_ISA
