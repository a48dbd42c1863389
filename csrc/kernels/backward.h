// One layer in one direction over a whole sequence, backward through time.
//
//   for a chunk of steps, last to first:
//     for each step:  dgates = cell(dh + dy); dh = what the cell hands back + dgates W_h
//     dW += [x, h]^T dgates, db += dgates, dx = dgates W_x        large products over the chunk's rows
//
// The gradient of the pre-activations lives for one chunk only; the tape is never written. The sums over rows run in
// the order of the chunks, and inside a chunk in the order of rows, whatever the number of threads.
#pragma once

#include "forms.h"
#include "gemm.h"
#include "pack.h"
#include "parallel.h"

namespace fusedrnn::FUSEDRNN_ISA {

inline constexpr Index kInputBlockBytes = 512 << 10;     // of packed inputs, to stay in L2 beside a panel of gradients
inline constexpr Index kGradientBlockBytes = 768 << 10;  // of gate gradients, the same beside a panel of weights
inline constexpr Index kBackwardK = 256;  // gate columns of dh taken at once: a 64 KiB piece of a panel stays in L2

template <class T, class Cell, class Form>
class BackwardPass {
 public:
  BackwardPass(const Backward<T>& backward, Member& member)
      : f(backward),
        m(member),
        rows(backward.rows),
        N(rows.offset(rows.T)),
        I(backward.weights->I),
        H(backward.weights->H),
        R(backward.weights->R),
        first(H),
        last(H),
        projection(R),
        x_panels(blocks_of<T>(I), kMaxBackVectors),
        h_panels(blocks_of<T>(R), kMaxBackVectors),
        unit_panels(blocks_of<T>(H), kMaxBackVectors),
        padded(first.padded),
        padded_h(projection.padded),
        cell(backward.weights->options),
        dgates_x(Form::normalises ? backward.norm.dproducts_x : backward.dgates),
        dgates_h(Form::normalises ? backward.norm.dproducts_h : backward.dgates),
        mine(part_of(rows.B, row_rank(member), member.team->row_groups)),
        my_panels(part_of(h_panels.count, unit_rank(member), units_in_group(member))),
        my_unit_panels(part_of(unit_panels.count, unit_rank(member), units_in_group(member))) {}

  void run() {
    zero_past_the_end();
    for (Index end = rows.T; end > 0;) {
      Index begin = end - 1;
      while (begin > 0 && rows.offset(end) - rows.offset(begin - 1) <= f.chunk_rows) --begin;
      chunk_from = rows.offset(begin);
      chunk_count = rows.offset(end) - chunk_from;
      for (Index t = end - 1; t >= begin; --t) {
        if constexpr (Form::normalises) {
          if (!normed_step(t)) return;
        } else if (!step(t)) {
          return;
        }
      }
      if (!barrier(m)) return;
      const bool add = end < rows.T;
      pack_inputs(begin, end);
      if (!barrier(m)) return;
      weight_gradients<0>(add);
      if constexpr (Cell::phases == 2) weight_gradients<1>(add);
      if constexpr (Cell::unit_parameters > 0)
        if (f.dunits) unit_gradients(begin, end, add);
      if constexpr (Form::normalises) norm_gradients(add);
      if constexpr (Form::projects) outer_products(projection, f.dprojected, packed_h(1), H, 0, f.dW_r, add);
      if (f.dx.data) input_gradients(begin);
      if (!barrier(m)) return;
      end = begin;
    }
    unpack<0>();
    if constexpr (Cell::phases == 2) unpack<1>();
    if constexpr (Form::masks) add_recurrent();
    if constexpr (Form::projects) unpack_projection();
    if constexpr (Form::normalises) unpack_norm();
  }

 private:
  static constexpr Index W = kLanes<T>;
  static constexpr int kValues = Cell::gates + Cell::split;
  using First = Phase<T, Cell, 0>;
  using Last = Phase<T, Cell, Cell::phases - 1>;

  const Backward<T>& f;
  Member& m;
  const Rows& rows;
  const Index N, I, H, R;
  const First first;
  const Last last;
  const Phase<T, Projection, 0> projection;
  const Panels x_panels, h_panels, unit_panels;  // of the columns of the weights packed for backward
  const Index padded, padded_h;                  // units of the cell, and of h
  const Cell cell;
  T *const dgates_x, *const dgates_h;           // of the input and of the recurrent product
  const Range mine, my_panels, my_unit_panels;  // batch rows and panels of this thread
  Index chunk_from = 0, chunk_count = 0;

  template <int P>
  const auto& phase() const {
    if constexpr (P == 0) return first;
    else return last;
  }
  Range my_rows(Index t) const {
    const Index active = rows.active(t);
    return {mine.begin < active ? mine.begin : active, mine.end < active ? mine.end : active};
  }
  Index old_row(Index t) const { return t == 0 ? 0 : rows.B + rows.offset(t - 1); }

  template <class P>
  T* dgate_row(const P& p, Index panel, Index row) const {
    return dgate_row(f.dgates, p, panel, row);
  }
  template <class P>
  T* dgate_row(T* dgates, const P& p, Index panel, Index row) const {
    return dgates + p.gate_offset(panel, f.chunk_rows) + (row - chunk_from) * p.row_width(panel);
  }

  void zero_past_the_end() {
    if (!f.dx.data || f.accumulate) return;
    if (rows.time) return zero_gaps<T>(rows, f.dx, I, m);
    for (Index b = m.rank; b < rows.B; b += m.team->size) {
      char* row = f.dx.data + rows.caller_row(b) * f.dx.batch;
      for (Index t = rows.length_of(b); t < f.dx_T; ++t) zero(reinterpret_cast<T*>(row + t * f.dx.time), I);
    }
  }

  // ---- one step ---------------------------------------------------------------------------------

  bool step(Index t) {
    const Range r = my_rows(t);
    if constexpr (Form::projects) {
      for (Index q = my_panels.begin; q < my_panels.end; ++q)
        for (Index j = 0; j < h_panels.width(q); ++j) differentiate_h(t, r, h_panels.start(q) + j);
      if (!sync(m)) return false;
      product_back(projection, f.dprojected, f.weights->W_r_back, unit_panels, my_unit_panels, t, r, f.dhidden, true);
    }
    for (Index q = my_unit_panels.begin; q < my_unit_panels.end; ++q)
      differentiate_cell(t, r, unit_panels.start(q), unit_panels.width(q));
    if (!sync(m)) return false;
    if constexpr (Cell::phases == 2) {
      hidden_gradients<1>(t, r, f.doperand, true);
      for (Index q = my_panels.begin; q < my_panels.end; ++q)
        differentiate_gate(t, r, h_panels.start(q), h_panels.width(q));
      if (!sync(m)) return false;
    }
    if constexpr (Form::masks) hidden_gradients<0>(t, r, f.drecurrent, true);
    else hidden_gradients<0>(t, r, f.dstates[0], !Cell::carries_h);
    return true;
  }

  // Where the gates of one block of units lie: `column` from gate to gate, `row` from batch row to batch row.
  struct Place {
    const T* saved;
    T* dgates;
    Index column, row;
    inline void next_row() { saved += row, dgates += row; }
  };
  template <class P>
  Place place(const P& p, Index block, Index row) const {
    const Index panel = p.panels.holding(block), within = (block - p.panels.start(panel)) * W;
    return {f.gates + p.gate_offset(panel, N) + row * p.row_width(panel) + within, dgate_row(p, panel, row) + within,
            p.panels.width(panel) * W, p.row_width(panel)};
  }
  static void load_saved(const Place& of_first, const Place& of_last, Vec<T>* save) {
    if constexpr (Cell::saved > 0)
      for (int c = 0; c < First::columns; ++c) save[c] = load(of_first.saved + c * of_first.column);
    if constexpr (Cell::phases == 2) save[Cell::first] = load(of_last.saved);
  }

  // dh and dc of one block of units at step t, dy included.
  void load_gradients(Index b, Index unit, const T* dy, Vec<T>* ds_new) const {
    for (int i = Form::projects ? 1 : 0; i < Cell::states; ++i) ds_new[i] = load(f.dstates[i] + b * padded + unit);
    if constexpr (Form::projects) ds_new[0] = load(f.dhidden + b * padded + unit);
    else ds_new[0] = with_dy(dy, unit, Form::masks ? ds_new[0] + masked_recurrent(b, unit) : ds_new[0]);
  }
  const T* dy_row(Index t, Index b) const {
    if (!f.dy.data) return nullptr;
    return reinterpret_cast<const T*>(f.dy.data + rows.caller_time(t, b, f.reverse) * f.dy.time +
                                      rows.caller_row(b) * f.dy.batch);
  }
  Vec<T> with_dy(const T* dy, Index unit, Vec<T> dh) const { return dy ? dh + load_partial(dy + unit, R - unit) : dh; }

  // ---- masked and projected forms: what the cell hands back and what comes through the product stay apart, since the
  // mask of the recurrent product is in between

  Vec<T> masked_recurrent(Index b, Index unit) const {
    return load(f.drecurrent + b * padded_h + unit) * load(f.masks.recurrent + b * f.masks.recurrent_row + unit);
  }
  // Zoneout takes its share of a gradient, which goes to the old state.
  Vec<T> zone_share(int i, Index row, Index unit) const {
    return load_bytes<T>(f.masks.kept[i] + row * f.masks.kept_row[i] + unit) + f.masks.rate[i];
  }
  void add_recurrent() const {
    const Range share = part_of(rows.B, m.rank, m.team->size);
    for (Index b = share.begin; b < share.end; ++b)
      for (Index unit = 0; unit < padded_h; unit += W) {
        T* to = f.dstates[0] + b * padded_h + unit;
        store(to, load(to) + masked_recurrent(b, unit));
      }
  }

  // Gradient of the projection, before zoneout.
  void differentiate_h(Index t, Range r, Index block) const {
    const Index unit = block * W;
    for (Index b = r.begin; b < r.end; ++b) {
      T* dh = f.dstates[0] + b * padded_h + unit;
      const Vec<T> total = with_dy(dy_row(t, b), unit, load(dh) + masked_recurrent(b, unit));
      const Vec<T> share = zone_share(0, rows.offset(t) + b, unit);
      const Index panel = projection.panels.holding(block);
      store(
          dgate_row(f.dprojected, projection, panel, rows.offset(t) + b) + (block - projection.panels.start(panel)) * W,
          (T(1) - share) * total);
      store(dh, share * total);
    }
  }

  void unpack_projection() {
    using ThisPhase = Phase<T, Projection, 0>;
    const Range panels = part_of(projection.panels.count, m.rank, m.team->size);
    for (Index p = panels.begin; p < panels.end; ++p)
      unpack_panel<T>(projection, p, R, gate_of_x<ThisPhase>, f.dW_r + projection.weight_offset(p, H), H, f.dW_hr);
  }

  // ---- normed form: kernels/normed.h

  using Groups = NormGroups<Cell>;
  // Where a block of units lies in all that belongs to a row, and in packed gains.
  struct NormPlace : Place {
    const T *input, *product;  // of both products, as forward left them
    T *dinput, *dproduct, *dseen;
    Index product_row, unit, gains;
    inline void next_row() {
      Place::next_row();
      input += this->row, product += product_row, dinput += this->row, dproduct += this->row, dseen += W;
    }
  };
  NormPlace norm_place(Index block, Index row) const;
  bool normed_step(Index t);
  template <class Visit>
  void for_each_unit(Index t, Range r, Index block, Index count, Visit visit) const;
  void differentiate_hidden(Index t, Range r, Index block, Index count) const;
  void differentiate_normed(Index t, Range r, Index block, Index count, const NormSums<T>& sums) const;
  void differentiate_products(Index t, Range r, Index block, Index count, const NormSums<T>& sums) const;
  void norm_gradients(bool add) const;
  void unpack_norm() const;
  Vec<T> normal(int which, Index row, Vec<T> value) const;
  T rate(int which, Index row) const;
  T* share_of(int which, Index block, Index b) const;

  // ---- the cell

  // `count` blocks of units from `block` on, all blocks of a row in turn: then dy and the states are read by
  // neighbouring cache lines. Block by block, each row would be a line of its own, and the loop would wait for memory.
  [[gnu::noinline]] void differentiate_cell(Index t, Range r, Index block, Index count) const {
    Place of_first[kMaxBackVectors], of_last[kMaxBackVectors];
    for (Index j = 0; j < count; ++j) {
      of_first[j] = place(first, block + j, rows.offset(t) + r.begin);
      of_last[j] = place(last, block + j, rows.offset(t) + r.begin);
    }
    for (Index b = r.begin; b < r.end; ++b) {
      const T* dy = dy_row(t, b);
      for (Index j = 0; j < count; ++j) {
        differentiate_unit(t, b, (block + j) * W, dy, of_first[j], of_last[j]);
        of_first[j].next_row(), of_last[j].next_row();
      }
    }
  }

  inline void differentiate_unit(Index t, Index b, Index unit, const T* dy, const Place& of_first,
                                 const Place& of_last) const {
    const Index row = rows.offset(t) + b;
    Vec<T> save[kValues], s[Cell::states], s_new[Cell::states], ds_new[Cell::states], da[kValues], ds[Cell::states];
    load_saved(of_first, of_last, save);
    load_gradients(b, unit, dy, ds_new);
    if constexpr (Form::projects) s[0] = Vec<T>{}, s_new[0] = load(f.hidden + row * padded + unit);
    for (int i = Form::projects ? 1 : 0; i < Cell::states; ++i) {
      s[i] = load(f.states[i] + (old_row(t) + b) * padded + unit);
      const T* after = Form::masks && i == 1 ? f.candidate : f.states[i];
      s_new[i] = load(after + (rows.B + row) * padded + unit);
    }
    Vec<T> carried[Cell::states] = {};
    if constexpr (Form::masks)
      for (int i = Form::projects ? 1 : 0; i < Cell::states; ++i) {
        const Vec<T> share = zone_share(i, row, unit);
        carried[i] = share * ds_new[i];
        ds_new[i] = (T(1) - share) * ds_new[i];
      }
    if constexpr (Cell::phases == 2) {
      cell.backward(save, s, ds_new, da, ds);
      store(of_last.dgates, da[0]);
      // dh itself is needed once more when the operand's gradient is known: the first phase's slot keeps it.
      store(of_first.dgates, ds_new[0]);
    } else {
      Vec<T> p[Cell::unit_parameters + 1];
      for (int i = 0; i < Cell::unit_parameters; ++i) p[i] = load(f.weights->units + i * padded + unit);
      cell.backward(save, s, s_new, p, ds_new, da, ds);
      for (int c = 0; c < First::columns; ++c) store(of_first.dgates + c * of_first.column, da[c]);
    }
    for (int i = Cell::carries_h ? 0 : 1; i < Cell::states; ++i)
      store(f.dstates[i] + b * padded + unit, Form::masks ? ds[i] + carried[i] : ds[i]);
    if constexpr (Form::masks && !Form::projects && !Cell::carries_h)
      store(f.dstates[0] + b * padded + unit, carried[0]);
  }

  void differentiate_gate(Index t, Range r, Index block, Index count) const {
    if constexpr (Cell::phases == 2) {
      Place of_first[kMaxBackVectors], of_last[kMaxBackVectors];
      for (Index j = 0; j < count; ++j) {
        of_first[j] = place(first, block + j, rows.offset(t) + r.begin);
        of_last[j] = place(last, block + j, rows.offset(t) + r.begin);
      }
      for (Index b = r.begin; b < r.end; ++b)
        for (Index j = 0; j < count; ++j) {
          const Index unit = (block + j) * W;
          Vec<T> save[kValues], s[1], ds_new[1], doperand[1], da[Cell::first], ds[1];
          load_saved(of_first[j], of_last[j], save);
          s[0] = load(f.states[0] + (old_row(t) + b) * padded + unit);
          ds_new[0] = load(of_first[j].dgates);
          doperand[0] = load(f.doperand + b * padded + unit);
          if constexpr (Form::masks) doperand[0] *= load(f.masks.recurrent + b * f.masks.recurrent_row + unit);
          ds[0] = load(f.dstates[0] + b * padded + unit);
          cell.backward_gate(save, s, ds_new, doperand, da, ds);
          for (int c = 0; c < Cell::first; ++c) store(of_first[j].dgates + c * of_first[j].column, da[c]);
          store(f.dstates[0] + b * padded + unit, ds[0]);
          of_first[j].next_row(), of_last[j].next_row();
        }
    }
  }

  // The products with weights packed for backward: rows of `to` (+)= gate gradients W, for one panel of columns.
  // Panels of gate columns come in at most two widths; each kind is one run of equally long segments.
  template <class ThisPhase, class Visit>
  void for_each_segment_run(const ThisPhase& ph, bool recurrent, Index most_k, Visit visit) const {
    for (Index p = 0; p < ph.panels.count;) {
      const Index width = ph.panels.width(p) * W, k = ThisPhase::gates * width;
      const Index kind_end = p < ph.panels.extra ? ph.panels.extra : ph.panels.count;
      Index segments = most_k / k > 0 ? most_k / k : 1;
      if (segments > kind_end - p) segments = kind_end - p;
      visit(p, k, segments, recurrent ? ThisPhase::split * width : 0);
      p += segments;
    }
  }

  template <int P>
  void hidden_gradients(Index t, Range r, T* to, bool from_zero) {
    const auto& ph = phase<P>();
    product_back(ph, dgates_h, f.weights->W_h_back + ph.gates_before() * padded * padded_h, h_panels, my_panels, t, r,
                 to, from_zero);
  }

  // to (+)= the gradients of step t, times a matrix whose columns lie in `columns`; each thread takes `own` of these.
  template <class ThisPhase>
  void product_back(const ThisPhase& ph, T* dgates, const T* weights, const Panels& columns, Range own, Index t,
                    Range r, T* to, bool from_zero) {
    if (r.begin == r.end) return;
    const bool one = r.end - r.begin == 1;
    const Index to_row = columns.blocks * W;
    for (Index q = own.begin; q < own.end;) {
      const Index width = columns.width(q) * W, unit = columns.start(q) * W;
      const int panels = one && q + 1 < own.end && columns.width(q + 1) * W == width ? 2 : 1;
      const int vectors = static_cast<int>(width / W);
      const T* w = weights + unit * ThisPhase::gates * ph.padded;
      const TileRows tiles(r, vectors);
      for_each_segment_run(ph, true, kBackwardK, [&](Index p, Index k, Index segments, Index skip) {
        Tile<T> tile;
        tile.k = k, tile.segments = segments, tile.a_step = f.chunk_rows * ph.row_width(p);
        tile.w = w + ThisPhase::gates * ph.panels.start(p) * W * width;
        tile.w_panel = ThisPhase::gates * ph.padded * width;
        tile.out_row = to_row, tile.out_panel = width;
        for (Index i = 0; i < tiles.tiles; ++i) {
          const Range part = tiles.tile(i);
          for (Index b = part.begin; b < part.end; ++b)
            tile.a[b - part.begin] = dgate_row(dgates, ph, p, rows.offset(t) + b) + skip;
          tile.out = to + part.begin * to_row + unit;
          if (from_zero && p == 0) init_all(tile, vectors, zeros<T>(), 0, 0);
          else init_all<T>(tile, vectors, tile.out, to_row, width);
          fusedrnn::FUSEDRNN_ISA::run(tile, static_cast<int>(part.end - part.begin), vectors, panels);
        }
      });
      did(m, 2.0 * static_cast<double>((r.end - r.begin) * ThisPhase::gates * ph.padded * width) * panels);
      q += panels;
    }
  }

  // ---- sums over the chunk ----------------------------------------------------------------------

  // Inputs of the weight gradients, packed once for all panels of gates: [tile of inputs][row][input of the tile].
  // Taken where they lie, each row would be a cache line and a page of its own: the products then wait for memory.
  static constexpr Index kInputTile =
      tile_rows(First::gates * First::most < kMaxVectors && !Form::projects ? First::gates * First::most : kMaxVectors);

  T* packed_x() const { return f.inputs; }
  T* packed_h(int phase) const { return f.inputs + (x_panels.blocks * W + phase * padded_h) * f.chunk_rows; }

  void pack_inputs(Index begin, Index end) {
    if (!f.tokens) pack_tiles(I, packed_x(), begin, end, [&](Index t) { return f.x + rows.offset(t) * I; }, I);
    pack_tiles(R, packed_h(0), begin, end, [&](Index t) { return f.recurrent + old_row(t) * padded_h; }, padded_h);
    if constexpr (Form::projects)
      pack_tiles(H, packed_h(1), begin, end, [&](Index t) { return f.hidden + rows.offset(t) * padded; }, padded);
    if constexpr (Cell::phases == 2)
      pack_tiles(H, packed_h(1), begin, end, [&](Index t) { return f.operand + rows.offset(t) * padded; }, padded);
  }

  // Each thread packs its share of the rows; first_row(t) is the first of the chunk's rows at step t.
  template <class FirstRow>
  void pack_tiles(Index K, T* packed, Index begin, Index end, FirstRow first_row, Index stride) const {
    const TileRows tiles({0, K}, kInputTile);
    const Panels columns(blocks_of<T>(K), kColumns);
    const Range share = part_of(chunk_count, m.rank, m.team->size);
    for (Index t = begin; t < end; ++t) {
      const Index at = rows.offset(t) - chunk_from, count = rows.active(t);
      const Index from = share.begin > at ? share.begin - at : 0, to = share.end < at + count ? share.end - at : count;
      const T* row = first_row(t) + from * stride;
      for (Index b = from; b < to; ++b, row += stride) {
        const T* in = row;
        T* out = packed;
        if (f.few_rows) {
          copy_columns(in, out, columns, K, at + b);
          continue;
        }
        copy_tiles(in, out, tiles.wide, tiles.most, at + b);
        copy_tiles(in, out, tiles.tiles - tiles.wide, tiles.least, at + b);
      }
    }
  }

  // `count` tiles of `height` numbers each; `row` is the row in each of them. Nearly all tiles have one of two heights:
  // a copy of known length is a move or two.
  void copy_tiles(const T*& in, T*& out, Index count, Index height, Index row) const {
    if (height == kInputTile) return copy_tiles<kInputTile>(in, out, count, row);
    if (height == kInputTile - 1) return copy_tiles<kInputTile - 1>(in, out, count, row);
    for (Index i = 0; i < count; ++i, in += height, out += height * f.chunk_rows)
      for (Index k = 0; k < height; ++k) out[row * height + k] = in[k];
  }
  template <Index HEIGHT>
  void copy_tiles(const T*& in, T*& out, Index count, Index row) const {
    for (Index i = 0; i < count; ++i, in += HEIGHT, out += HEIGHT * f.chunk_rows)
      __builtin_memcpy(out + row * HEIGHT, in, HEIGHT * sizeof(T));
  }

  // Few rows: [panel of inputs][row][input of the panel], in whole vectors.
  static constexpr int kColumns = 3;
  void copy_columns(const T* in, T* out, const Panels& columns, Index K, Index row) const {
    for (Index q = 0; q < columns.count; ++q) {
      const Index from = columns.start(q) * W, width = columns.width(q) * W, real = K - from < width ? K - from : width;
      T* to = out + from * f.chunk_rows + row * width;
      __builtin_memcpy(to, in + from, static_cast<size_t>(real) * sizeof(T));
      zero(to + real, width - real);
    }
  }

  // Each thread takes its share of (panel, input) pairs. A block of packed inputs stays in L2 while the panels of gate
  // gradients pass by.
  template <int P>
  void weight_gradients(bool add) {
    using ThisPhase = Phase<T, Cell, P>;
    const ThisPhase& ph = phase<P>();
    const Range panels = part_of(ph.panels.count, m.rank, m.team->size);
    for (Index p = panels.begin; p < panels.end; ++p) {
      const T* da = dgate_row(ph, p, chunk_from);
      sum_columns(ph, p, da, add);
      if (f.tokens) scatter(ph, p, dgate_row(dgates_x, ph, p, chunk_from), f.dW_x + ph.weight_offset(p, I), add);
    }
    if (f.few_rows) {
      if (!f.tokens) sum_in_place(ph, dgates_x, packed_x(), I, 0, gate_of_x<ThisPhase>, f.dW_ih);
      return sum_in_place(ph, dgates_h, packed_h(P), R, ThisPhase::split, gate_of_h<ThisPhase>, f.dW_hh);
    }
    if (!f.tokens) outer_products(ph, dgates_x, packed_x(), I, 0, f.dW_x, add);
    outer_products(ph, dgates_h, packed_h(P), R, ThisPhase::split, f.dW_h, add);
  }

  // The weight gradients of few rows. In panels, putting them into torch's layout afterwards would take as long as
  // summing them. So here the inputs are the vector dimension, and a tile's sums are torch's rows: the same chains of
  // multiply-adds, in the same order.
  template <class P, class Gate>
  void sum_in_place(const P& ph, T* dgates, const T* inputs, Index K, Index skip, Gate gate, T* dw) {
    const Panels columns(blocks_of<T>(K), kColumns);
    const Index panel_parts = ph.panels.count < m.team->size ? ph.panels.count : m.team->size;
    const Index column_parts = m.team->size / panel_parts;
    if (m.rank >= panel_parts * column_parts) return;
    const Range panels = part_of(ph.panels.count, m.rank % panel_parts, panel_parts);
    const Range mine_of_columns = part_of(columns.count, m.rank / panel_parts, column_parts);
    alignas(64) T scratch[kMaxTileVectors * W];
    for (Index p = panels.begin; p < panels.end; ++p) {
      const Index width = ph.panels.width(p) * W, unit = ph.panels.start(p) * W;
      const TileRows tiles({0, H - unit < width ? H - unit : width}, kColumns);
      for (Index q = mine_of_columns.begin; q < mine_of_columns.end; ++q) {
        const Index from = columns.start(q) * W, vectors = columns.width(q), real = K - from;
        const bool whole = real >= vectors * W;
        OuterTile<T> tile;
        tile.n = chunk_count, tile.a_row = ph.row_width(p), tile.add = false;
        tile.w = inputs + from * f.chunk_rows, tile.w_row = vectors * W;
        tile.out_row = whole ? K : vectors * W;
        for (Index g = 0; g < P::gates; ++g)
          for (Index i = 0; i < tiles.tiles; ++i) {
            const Range r = tiles.tile(i);
            T* to = dw + (gate(g) * H + unit + r.begin) * K + from;
            tile.a = dgate_row(dgates, ph, p, chunk_from) + (skip + g) * width + r.begin;
            tile.out = whole ? to : scratch;
            fusedrnn::FUSEDRNN_ISA::run(tile, static_cast<int>(r.end - r.begin), static_cast<int>(vectors));
            for (Index row = 0; !whole && row < r.end - r.begin; ++row)
              __builtin_memcpy(to + row * K, scratch + row * vectors * W, static_cast<size_t>(real) * sizeof(T));
          }
        did(m, 2.0 * static_cast<double>(P::gates * width * vectors * W * chunk_count));
        if (stopped(m)) return;
      }
    }
  }

  template <class P>
  void outer_products(const P& ph, T* dgates, const T* inputs, Index K, Index skip, T* dw, bool add) {
    const TileRows tiles({0, K}, kInputTile);
    // With fewer panels than threads, threads share a panel's inputs instead.
    const Index panel_parts = ph.panels.count < m.team->size ? ph.panels.count : m.team->size;
    const Index tile_parts = m.team->size / panel_parts;
    if (m.rank >= panel_parts * tile_parts) return;
    const Range panels = part_of(ph.panels.count, m.rank % panel_parts, panel_parts);
    const Range mine_of_tiles = part_of(tiles.tiles, m.rank / panel_parts, tile_parts);
    const Index block = kInputBlockBytes / (kInputTile * chunk_count * static_cast<Index>(sizeof(T))) + 1;
    for (Index from = mine_of_tiles.begin; from < mine_of_tiles.end; from += block) {
      const Index to = from + block < mine_of_tiles.end ? from + block : mine_of_tiles.end;
      for (Index p = panels.begin; p < panels.end; ++p) {
        const Index width = ph.w_width(p);
        OuterTile<T> tile;
        tile.n = chunk_count, tile.w_row = ph.row_width(p), tile.add = add;
        tile.w = dgate_row(dgates, ph, p, chunk_from) + skip * ph.panels.width(p) * W;
        for (Index i = from; i < to; ++i) {
          const Range r = tiles.tile(i);
          tile.a = inputs + r.begin * f.chunk_rows, tile.a_row = r.end - r.begin;
          tile.out = dw + ph.weight_offset(p, K) + r.begin * width, tile.out_row = width;
          fusedrnn::FUSEDRNN_ISA::run(tile, static_cast<int>(r.end - r.begin), static_cast<int>(width / W));
        }
        did(m, 2.0 * static_cast<double>((to - from) * kInputTile * width * chunk_count));
        if (stopped(m)) return;
      }
    }
  }

  template <class P>
  void sum_columns(const P& ph, Index p, const T* da, bool add) const {
    const Index width = ph.row_width(p);
    T* db = f.db + ph.gate_offset(p, 1);
    Index v = 0;
    for (; v + kSums * W <= width; v += kSums * W) sum_columns<kSums>(db + v, da + v, width, add);
    for (; v < width; v += W) sum_columns<1>(db + v, da + v, width, add);
  }
  // Sums side by side hide an addition's latency, and read whole rows.
  static constexpr int kSums = 4;
  template <int COUNT>
  void sum_columns(T* db, const T* da, Index stride, bool add) const {
    Vec<T> sum[COUNT];
    for (int v = 0; v < COUNT; ++v) sum[v] = add ? load(db + v * W) : Vec<T>{};
    for (Index i = 0; i < chunk_count; ++i, da += stride)
      for (int v = 0; v < COUNT; ++v) sum[v] += load(da + v * W);
    for (int v = 0; v < COUNT; ++v) store(db + v * W, sum[v]);
  }

  // Peepholes and their like, in the order of the biases: chunk by chunk, in a chunk row by row.
  void unit_gradients(Index begin, Index end, bool add) const {
    constexpr int U = Cell::unit_parameters;
    const Range blocks = part_of(first.panels.blocks, m.rank, m.team->size);
    for (Index block = blocks.begin; block < blocks.end; ++block) {
      const Index unit = block * W;
      const Place at = place(first, block, chunk_from);
      Vec<T> dp[U], da[kValues], s[Cell::states], s_new[Cell::states];
      for (int i = 0; i < U; ++i) dp[i] = add ? load(f.dunits + i * padded + unit) : Vec<T>{};
      const T* from = at.dgates;
      for (Index t = begin; t < end; ++t)
        for (Index b = 0; b < rows.active(t); ++b, from += at.row) {
          for (int c = 0; c < First::columns; ++c) da[c] = load(from + c * at.column);
          for (int i = Form::projects ? 1 : 0; i < Cell::states; ++i) {
            s[i] = load(f.states[i] + (old_row(t) + b) * padded + unit);
            const T* after = Form::masks && i == 1 ? f.candidate : f.states[i];
            s_new[i] = load(after + (rows.B + rows.offset(t) + b) * padded + unit);
          }
          cell.unit_gradients(da, s, s_new, dp);
        }
      for (int i = 0; i < U; ++i) store(f.dunits + i * padded + unit, dp[i]);
    }
  }

  // Tokens: the gradient of one-hot input adds a gate row to the token's column, in row order.
  template <class P>
  void scatter(const P& ph, Index p, const T* da, T* dw, bool add) const {
    const Index width = ph.w_width(p), row_width = ph.row_width(p);
    if (!add) zero(dw, I * width);
    for (Index i = 0; i < chunk_count; ++i) {
      T* row = dw + f.tokens[chunk_from + i] * width;
      for (Index v = 0; v < width; v += W) store(row + v, load(row + v) + load(da + i * row_width + v));
    }
  }

  void input_gradients(Index t) {
    const Range share = part_of(chunk_count, m.rank, m.team->size);
    if (share.begin == share.end) return;
    Index b = share.begin;
    while (b >= rows.active(t)) b -= rows.active(t), ++t;

    alignas(64) T scratch[kMaxTileVectors * W];
    const Index block = kGradientBlockBytes / (Cell::gates * padded * static_cast<Index>(sizeof(T))) + 24;
    for (Index from = share.begin; from < share.end; from += block) {
      const Range part_rows = {from, from + block < share.end ? from + block : share.end};
      Index next_t = t, next_b = b;
      for (Index q = 0; q < x_panels.count; ++q) {
        const Index width = x_panels.width(q) * W, column = x_panels.start(q) * W;
        const int vectors = static_cast<int>(width / W);
        const Index real = I - column < width ? I - column : width;
        const TileRows tiles(part_rows, vectors);
        next_t = t, next_b = b;
        for (Index i = 0; i < tiles.tiles; ++i) {
          const Range part = tiles.tile(i);
          const Index count = part.end - part.begin;
          const bool direct = real == width && one_stride(next_t, next_b, count);
          Tile<T> tile;
          tile.out = direct ? dx_row(next_t, next_b) + column : scratch;
          tile.out_row = direct ? f.dx.batch / static_cast<Index>(sizeof(T)) : width;
          init_all(tile, vectors, zeros<T>(), 0, 0);
          input_tile<0>(tile, part, vectors, width, column);
          if constexpr (Cell::phases == 2) input_tile<1>(tile, part, vectors, width, column);
          for (Index row = 0; row < count; ++row) {
            if (!direct) put(scratch + row * width, dx_row(next_t, next_b) + column, real);
            if (++next_b == rows.active(next_t)) ++next_t, next_b = 0;
          }
        }
        did(m, 2.0 * static_cast<double>((part_rows.end - part_rows.begin) * Cell::gates * padded * width));
        if (stopped(m)) return;
      }
      t = next_t, b = next_b;
    }
  }

  T* dx_row(Index t, Index b) const {
    return reinterpret_cast<T*>(f.dx.data + rows.caller_time(t, b, f.reverse) * f.dx.time +
                                rows.caller_row(b) * f.dx.batch);
  }
  // Whether `count` rows from row b of step t on lie one stride apart in dx, so that a tile can write them itself.
  bool one_stride(Index t, Index b, Index count) const {
    if (f.accumulate || rows.order || rows.time) return false;
    return b + count <= rows.active(t) || (!f.reverse && f.dx.time == rows.B * f.dx.batch);
  }
  void put(const T* computed, T* dx, Index count) const {
    if (f.accumulate)
      for (Index k = 0; k < count; ++k) dx[k] += computed[k];
    else __builtin_memcpy(dx, computed, static_cast<size_t>(count) * sizeof(T));
  }

  template <int P>
  void input_tile(Tile<T>& tile, Range part, int vectors, Index width, Index column) const {
    using ThisPhase = Phase<T, Cell, P>;
    const ThisPhase& ph = phase<P>();
    const T* w =
        f.weights->W_x_back + ph.gates_before() * padded * x_panels.blocks * W + column * ThisPhase::gates * padded;
    for_each_segment_run(ph, false, ThisPhase::gates * padded, [&](Index p, Index k, Index segments, Index) {
      tile.k = k, tile.segments = segments, tile.a_step = f.chunk_rows * ph.row_width(p);
      tile.w = w + ThisPhase::gates * ph.panels.start(p) * W * width;
      for (Index row = part.begin; row < part.end; ++row)
        tile.a[row - part.begin] = dgate_row(dgates_x, ph, p, chunk_from + row);
      fusedrnn::FUSEDRNN_ISA::run(tile, static_cast<int>(part.end - part.begin), vectors, 1);
      init_all<T>(tile, vectors, tile.out, tile.out_row, 0);
    });
  }

  // ---- sums to torch's layout -------------------------------------------------------------------

  template <int P>
  void unpack() {
    using ThisPhase = Phase<T, Cell, P>;
    const ThisPhase& ph = phase<P>();
    const Range panels = part_of(ph.panels.count, m.rank, m.team->size);
    for (Index p = panels.begin; p < panels.end; ++p) {
      if (!f.few_rows || f.tokens)
        unpack_panel<T>(ph, p, H, gate_of_x<ThisPhase>, f.dW_x + ph.weight_offset(p, I), I, f.dW_ih);
      if (!f.few_rows) unpack_panel<T>(ph, p, H, gate_of_h<ThisPhase>, f.dW_h + ph.weight_offset(p, R), R, f.dW_hh);
      const T* db = f.db + ph.gate_offset(p, 1);
      if (f.db_ih)
        for_each_column<T>(ph, p, H, gate_of_x<ThisPhase>, [&](Index row, Index c) { f.db_ih[row] = db[c]; });
      if (f.db_hh)
        for_each_column<T>(ph, p, H, gate_of_h<ThisPhase>, [&](Index row, Index c) {
          f.db_hh[row] = db[ThisPhase::split * ph.panels.width(p) * W + c];
        });
    }
  }
};

template <class T, class Cell, class Form>
void backward(const Backward<T>& f, Member& m) {
  const FloatingPointState state;
  BackwardPass<T, Cell, Form>(f, m).run();
}

}  // namespace fusedrnn::FUSEDRNN_ISA
