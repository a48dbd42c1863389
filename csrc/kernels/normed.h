// The normed form: layer normalisation of both products of a step and of an LSTM's c on its way to h.
// Ba, Kiros & Hinton 2016, arXiv:1607.06450; the equations stand in python/fusedrnn/reference/layer_norm.py.
//
//   forward    products of x and of h apart -> mean and rate of each row -> cell -> (LSTM) the same of c, then h
//   backward   (LSTM) dh -> dc; da; from it the gradients of both products, without what moves mean or variance; from
//              there on as in the other forms
//
// A row's units belong to several threads. So each block of units leaves its share of a sum (for a variance: its mean
// and the squares about it, which lose no digits when put together); after the threads have met, each adds up the
// shares of all rows, in the order of the blocks: no bit depends on who computed what.
//
// What is normalised together: all gates; but a split gate apart from the others. Padded units have gains and biases of
// zero; only the squares have to leave them out.
#pragma once

#include "backward.h"
#include "forward.h"

namespace fusedrnn::FUSEDRNN_ISA {

inline constexpr Index kMomentRows = 64;  // rows whose moments are on the stack at once; a multiple of any vector

template <class T>
struct Moments {
  alignas(64) T mean[kMomentRows];
  alignas(64) T rate[kMomentRows];  // one over the standard deviation
};

// Of a product: x's columns start with the split gate, h's end with it (cells/gru.h).
template <class Cell>
struct NormGroups {
  static constexpr int count = 1 + Cell::split;
  static constexpr int of_x(int column) { return column < Cell::split ? 1 : 0; }
  static constexpr int of_h(int column) { return column >= Cell::gates - Cell::split ? 1 : 0; }
  static constexpr int gates(int group) { return group == 0 ? Cell::gates - Cell::split : Cell::split; }
};

template <class T>
inline Index real_units(Index block, Index H) {
  const Index left = H - block * kLanes<T>;
  return left < kLanes<T> ? left : kLanes<T>;
}

// The shares of one block: its mean, and the squares about it. `values` has N vectors of each of `count` rows.
template <class T, int N>
[[gnu::noinline]] void share_moments(const T* values, Index row, Index step, Index count, Index units, T* means,
                                     T* squares) {
  constexpr Index W = kLanes<T>;
  T lanes[W];
  for (Index l = 0; l < W; ++l) lanes[l] = l < units ? T(1) : T(0);
  const Vec<T> real = load(lanes);
  const T each = T(1) / static_cast<T>(N * units);
  for (Index b = 0; b < count; ++b, values += row) {
    Vec<T> v[N], sum{}, square{};
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) sum += v[i] = load(values + i * step);
    const T mean = sum_lanes<T>(sum) * each;
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      const Vec<T> distance = (v[i] - mean) * real;
      square += distance * distance;
    }
    means[b] = mean, squares[b] = sum_lanes<T>(square);
  }
}

// Of `count` rows at most kMomentRows, from the shares of all blocks: [means, squares][block][row].
template <class T>
[[gnu::noinline]] void put_together(const T* shares, Index blocks, Index stride, Index gates, Index H, T eps,
                                    Index count, Moments<T>& to) {
  constexpr Index W = kLanes<T>;
  const T* squares = shares + blocks * stride;
  const T all = static_cast<T>(gates * H);
  for (Index b = 0; b < count; b += W) {
    Vec<T> mean{}, square{};
    for (Index k = 0; k < blocks; ++k)
      mean += static_cast<T>(gates * real_units<T>(k, H)) * load_partial(shares + k * stride + b, count - b);
    mean = mean / all;
    for (Index k = 0; k < blocks; ++k) {
      const Vec<T> distance = load_partial(shares + k * stride + b, count - b) - mean;
      square += static_cast<T>(gates * real_units<T>(k, H)) * distance * distance +
                load_partial(squares + k * stride + b, count - b);
    }
    store(to.mean + b, mean);
    store(to.rate + b, T(1) / square_root(square / all + eps));
  }
}

// Sums over the blocks, divided by what there is: [block][row] -> [row].
template <class T>
[[gnu::noinline]] void add_shares(const T* shares, Index blocks, Index stride, Index all, Index count, T* to) {
  for (Index b = 0; b < count; b += kLanes<T>) {
    Vec<T> sum{};
    for (Index k = 0; k < blocks; ++k) sum += load_partial(shares + k * stride + b, count - b);
    store(to + b, sum / static_cast<T>(all));
  }
}

// The gradient of a normalised row loses what would move its mean, and what would move its variance.
template <class T>
struct NormSums {
  alignas(64) T mean[4][kMomentRows];
  alignas(64) T along[4][kMomentRows];

  void add(int to, const T* shares, int which, Index blocks, Index stride, Range rows, Index all) {
    const T* from = shares + 2 * which * blocks * stride + rows.begin;
    add_shares(from, blocks, stride, all, rows.end - rows.begin, mean[to]);
    add_shares(from + blocks * stride, blocks, stride, all, rows.end - rows.begin, along[to]);
  }
  Vec<T> differentiated(int which, Index row, Vec<T> dnormal, Vec<T> normal, T rate) const {
    return rate * (dnormal - mean[which][row] - normal * along[which][row]);
  }
};

// ---- forward --------------------------------------------------------------------------------------

// The shares of block j of a panel of a product, [group][means, squares][block][row]; `apart` is the split gate's
// column.
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
    note_shares(p, j, gate_row(first, p, row), first.row_width(p), 0, count, f.norm.shares_x + row - chunk_from,
                f.chunk_rows);
}

template <class T, class Cell, class Form>
T* ForwardPass<T, Cell, Form>::product_row(Index p, Index t, Index b) const {
  const Index rows_of_all = f.history ? rows.offset(rows.T) : rows.B;
  return f.norm.products_h + first.weight_offset(p, rows_of_all) + (operand_row(t) + b) * first.w_width(p);
}

template <class T, class Cell, class Form>
void ForwardPass<T, Cell, Form>::product_panel(Index t, Range r, Index p, int panels) {
  const Index w_width = first.w_width(p);
  const int vectors = static_cast<int>(w_width / W);
  Tile<T> tile;
  tile.k = R, tile.segments = 1, tile.a_step = 0;
  tile.w = f.weights->W_h + first.weight_offset(p, R), tile.w_panel = R * w_width;
  tile.out_row = w_width, tile.out_panel = product_row(p + panels - 1, t, 0) - product_row(p, t, 0);
  init_all(tile, vectors, zeros<T>(), 0, 0);
  const TileRows tiles(r, vectors);
  for (Index i = 0; i < tiles.tiles; ++i) {
    const Range part = tiles.tile(i);
    for (Index b = part.begin; b < part.end; ++b) tile.a[b - part.begin] = f.recurrent + (old_row(t) + b) * padded_h;
    tile.out = product_row(p, t, part.begin);
    fusedrnn::FUSEDRNN_ISA::run(tile, static_cast<int>(part.end - part.begin), vectors, panels);
    for (Index q = p; q < p + panels; ++q)
      for (Index j = 0; j < first.panels.width(q); ++j)
        note_shares(q, j, product_row(q, t, part.begin), w_width, Cell::gates - 1, part.end - part.begin,
                    f.norm.shares_h + part.begin, rows.B);
  }
  did(m, 2.0 * static_cast<double>((r.end - r.begin) * R * w_width) * panels);
}

// What comes after the products of a step, whose shares are there.
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
    const T* const input = gate_row(first, p, rows.offset(t) + b);
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
      if (f.keep || Cell::states == 2)  // an o is needed once more
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
  return f.norm.saved + (gate_row(first, p, rows.offset(t) + b) - f.gates);
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

// ---- backward -------------------------------------------------------------------------------------

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
          dgates_x + (of.dgates - f.dgates),
          dgates_h + (of.dgates - f.dgates) + Cell::split * of.column,
          f.norm.dseen + (block * f.chunk_rows + row - chunk_from) * W,
          first.w_width(panel),
          block * W,
          first.weight_offset(panel, 1) + within};
}

// All of `count` blocks of a row in turn, as differentiate_cell does.
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

// A normalised quantity, and its rate. `which` is in the order in which forward kept them: x's groups, h's groups, c.
template <class T, class Cell, class Form>
inline Vec<T> BackwardPass<T, Cell, Form>::normal(int which, Index row, Vec<T> value) const {
  return (value - f.norm.moments[2 * which * N + row]) * rate(which, row);
}
template <class T, class Cell, class Form>
inline T BackwardPass<T, Cell, Form>::rate(int which, Index row) const {
  return f.norm.moments[(2 * which + 1) * N + row];
}

// Here c comes first, then x's groups, then h's.
template <class T, class Cell, class Form>
inline T* BackwardPass<T, Cell, Form>::share_of(int which, Index block, Index b) const {
  return f.norm.shares + (2 * which * first.panels.blocks + block) * rows.B + b;
}

// (LSTM) from dh to the gradient of o, and of what h sees of c.
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

// The cell, and the shares of what both normalisations need of its pre-activations' gradients.
template <class T, class Cell, class Form>
[[gnu::noinline]] void BackwardPass<T, Cell, Form>::differentiate_normed(Index t, Range r, Index block, Index count,
                                                                         const NormSums<T>& sums) const {
  const auto& norm = f.weights->norm;
  constexpr int last = Cell::states - 1;  // the state whose gradient is wanted here; an LSTM's dh has been seen to
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

// The gradients of both products.
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

// What gains, and the bias of c, get from the rows of a chunk, in their order.
template <class T, class Cell, class Form>
void BackwardPass<T, Cell, Form>::norm_gradients(bool add) const {
  const Range panels = part_of(first.panels.count, m.rank, m.team->size);
  for (Index block = first.panels.start(panels.begin); block < first.panels.start(panels.end); ++block) {
    NormPlace at = norm_place(block, chunk_from);
    T *const dgain_x = f.norm.dgain_x + at.gains, *const dgain_h = f.norm.dgain_h + at.gains;
    Vec<T> x[Cell::gates] = {}, h[Cell::gates] = {}, gain_c{}, bias_c{};
    for (int c = 0; add && c < Cell::gates; ++c)
      x[c] = load(dgain_x + c * at.column), h[c] = load(dgain_h + c * at.column);
    if (add && Cell::states == 2) gain_c = load(f.norm.dgain_c + at.unit), bias_c = load(f.norm.dbias_c + at.unit);
    for (Index row = chunk_from; row < chunk_from + chunk_count; ++row, at.next_row()) {
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
  const Range panels = part_of(first.panels.count, m.rank, m.team->size);
  for (Index p = panels.begin; p < panels.end; ++p) {
    const T *x = f.norm.dgain_x + first.weight_offset(p, 1), *h = f.norm.dgain_h + first.weight_offset(p, 1);
    for_each_column<T>(first, p, H, gate_of_x<First>, [&](Index row, Index c) { f.norm.dgain_ih[row] = x[c]; });
    for_each_column<T>(first, p, H, gate_of_h<First>, [&](Index row, Index c) { f.norm.dgain_hh[row] = h[c]; });
  }
}

// ---- weights --------------------------------------------------------------------------------------

// Gains and biases in the order of the packed columns; zeros for padded units.
template <class T, class Cell>
void pack_norm(const RawNorm<T>& raw, const Norm<T>& packed, Index H) {
  using First = Phase<T, Cell, 0>;
  const First phase(H);
  const auto place = [&](const T* from, T* to, Index (*gate)(Index)) {
    zero(to, Cell::gates * phase.padded);
    for (Index p = 0; from && p < phase.panels.count; ++p)
      for_each_column<T>(phase, p, H, gate, [&](Index row, Index c) { to[phase.weight_offset(p, 1) + c] = from[row]; });
  };
  place(raw.gain_ih, packed.gain_x, gate_of_x<First>);
  place(raw.b_ih, packed.bias_x, gate_of_x<First>);
  place(raw.gain_hh, packed.gain_h, gate_of_h<First>);
  place(raw.b_hh, packed.bias_h, gate_of_h<First>);
  if constexpr (Cell::states == 2) {
    zero(packed.gain_c, phase.padded), zero(packed.bias_c, phase.padded);
    __builtin_memcpy(packed.gain_c, raw.gain_c, static_cast<size_t>(H) * sizeof(T));
    __builtin_memcpy(packed.bias_c, raw.bias_c, static_cast<size_t>(H) * sizeof(T));
  }
}

}  // namespace fusedrnn::FUSEDRNN_ISA
