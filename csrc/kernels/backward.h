// The backward pass of one layer in one direction over a whole sequence, backward through time:
//
//   for a chunk of steps, last to first:
//     for each step:  dgates = cell(dh + dy); dh = the part the cell passes back + dgates W_h
//     dW += [x, h]^T dgates, db += dgates, dx = dgates W_x        large products over the chunk's rows
//
// The gradients of the pre-activations live for one chunk only; the tape is never written. Sums over rows run chunk by
// chunk and, within a chunk, in the order of rows, whatever the number of threads.
#pragma once

#include "chunk_products.h"
#include "forms.h"

namespace fusedrnn::FUSEDRNN_ISA {

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
        phases{first, last},
        h_panels(blocks_of<T>(R), kMaxBackVectors),
        unit_panels(blocks_of<T>(H), kMaxBackVectors),
        padded(first.padded),
        padded_h(projection.padded),
        cell(backward.weights->options),
        chunk(rows, f.chunk_rows, f.few_rows, kVectors, member),
        dgates{f.dgates, f.chunk_rows},
        dgates_x{Form::normalises ? f.norm.dproducts_x : f.dgates, f.chunk_rows},
        dgates_h{Form::normalises ? f.norm.dproducts_h : f.dgates, f.chunk_rows},
        dprojected{f.dprojected, f.chunk_rows},
        mine(part_of(rows.B, row_rank(member), member.team->row_groups)),
        my_panels(part_of(h_panels.count, unit_rank(member), units_in_group(member))),
        my_unit_panels(part_of(unit_panels.count, unit_rank(member), units_in_group(member))) {}

  void run() {
    if (f.dx.data && !f.accumulate) zero_past_the_end<T>(rows, f.dx, f.dx_T, I, m);
    for (Index end = rows.T; end > 0;) {
      Index begin = end - 1;
      while (begin > 0 && rows.offset(end) - rows.offset(begin - 1) <= f.chunk_rows) --begin;
      start_chunk(begin, end);
      for (Index t = end - 1; t >= begin; --t) {
        if constexpr (Form::normalises) {
          if (!normed_step(t)) return;
        } else if (!step(t)) {
          return;
        }
      }
      if (!barrier(m)) return;
      pack_operands();
      if (!barrier(m)) return;
      add_chunk(begin, end, end < rows.T);
      if (!barrier(m)) return;
      end = begin;
    }
    unpack<0>();
    if constexpr (Cell::phases == 2) unpack<1>();
    if constexpr (Form::masks) add_recurrent();
    if constexpr (Form::projects) chunk.unpack(projection, kOfX, f.dW_r, H, f.dW_hr);
    if constexpr (Form::normalises) unpack_norm();
  }

 private:
  static constexpr Index W = kLanes<T>;
  static constexpr int kValues = Cell::gates + Cell::split;
  using First = CellPhase<T, Cell, 0>;
  using Last = CellPhase<T, Cell, Cell::phases - 1>;
  // The width of the widest gate panel whose weight gradients are summed.
  static constexpr int kVectors =
      Form::projects ? kMaxVectors : First::gates * static_cast<int>(widest_panel(First::gates));

  const Backward<T>& f;
  Member& m;
  const Rows& rows;
  const Index N, I, H, R;
  const First first;
  const Last last;
  const CellPhase<T, Projection, 0> projection;
  const Phase<T> phases[2];            // the same phases in the form that products take
  const Panels h_panels, unit_panels;  // panels of columns in the weights packed for backward
  const Index padded, padded_h;        // widths of the cell's states and of h
  const Cell cell;
  ChunkProducts<T> chunk;
  // Gradients of the pre-activations: for the sums of biases, for the input product, and for the recurrent product.
  GateRows<T> dgates, dgates_x, dgates_h;
  GateRows<T> dprojected;
  const Range mine, my_panels, my_unit_panels;  // this thread's batch rows and panels

  template <int P>
  const auto& phase() const {
    if constexpr (P == 0) return first;
    else return last;
  }
  Range my_rows(Index t) const { return active_rows(rows, mine, t); }
  Index old_row(Index t) const { return row_before_step(rows, t); }

  void start_chunk(Index begin, Index end) {
    chunk.start(begin, end);
    dgates.from = dgates_x.from = dgates_h.from = dprojected.from = chunk.from();
  }

  // ---- one step ---------------------------------------------------------------------------------

  bool step(Index t) {
    const Range r = my_rows(t);
    if constexpr (Form::projects) {
      for (Index q = my_panels.begin; q < my_panels.end; ++q)
        for (Index j = 0; j < h_panels.width(q); ++j) differentiate_h(t, r, h_panels.start(q) + j);
      if (!sync(m)) return false;
      product_back<T>(projection, dprojected, rows.offset(t), r, f.weights->W_r_back, unit_panels, my_unit_panels,
                      f.dhidden, true, m);
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

  // Where the gates of one block of units are: `column` from gate to gate, `row` from batch row to batch row.
  struct Place {
    const T* saved;
    T* dgates;
    Index column, row;
    inline void next_row() { saved += row, dgates += row; }
  };
  template <class P>
  Place place(const P& p, Index block, Index row) const {
    const Index panel = p.panels.holding(block), within = (block - p.panels.start(panel)) * W;
    return {f.gates + p.gate_offset(panel, N) + row * p.row_width(panel) + within, dgates.row(p, panel, row) + within,
            p.panels.width(panel) * W, p.row_width(panel)};
  }
  static void load_saved(const Place& of_first, const Place& of_last, Vec<T>* save) {
    if constexpr (Cell::saved > 0)
      for (int c = 0; c < First::columns; ++c) save[c] = load(of_first.saved + c * of_first.column);
    if constexpr (Cell::phases == 2) save[Cell::first] = load(of_last.saved);
  }

  // dh and dc of one block of units at step t, including dy.
  void load_gradients(Index b, Index unit, const T* dy, Vec<T>* ds_new) const {
    for (int i = Form::projects ? 1 : 0; i < Cell::states; ++i) ds_new[i] = load(f.dstates[i] + b * padded + unit);
    if constexpr (Form::projects) ds_new[0] = load(f.dhidden + b * padded + unit);
    else ds_new[0] = with_dy(dy, unit, Form::masks ? ds_new[0] + masked_recurrent(b, unit) : ds_new[0]);
  }
  const T* dy_row(Index t, Index b) const { return f.dy.data ? caller_row<T>(rows, f.dy, t, b, f.reverse) : nullptr; }
  Vec<T> with_dy(const T* dy, Index unit, Vec<T> dh) const { return dy ? dh + load_partial(dy + unit, R - unit) : dh; }

  // ---- masked and projected forms: the part of dh that the cell passes back and the part that comes through the
  // product are kept separately, because only the second is multiplied by the mask of the recurrent product

  Vec<T> masked_recurrent(Index b, Index unit) const {
    return load(f.drecurrent + b * padded_h + unit) * load(f.masks.recurrent + b * f.masks.recurrent_row + unit);
  }
  // The share of a gradient that zoneout passes to the old state.
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

  // The gradient of the projected h, before zoneout.
  void differentiate_h(Index t, Range r, Index block) const {
    const Index unit = block * W;
    for (Index b = r.begin; b < r.end; ++b) {
      T* dh = f.dstates[0] + b * padded_h + unit;
      const Vec<T> total = with_dy(dy_row(t, b), unit, load(dh) + masked_recurrent(b, unit));
      const Vec<T> share = zone_share(0, rows.offset(t) + b, unit);
      const Index panel = projection.panels.holding(block);
      store(dprojected.row(projection, panel, rows.offset(t) + b) + (block - projection.panels.start(panel)) * W,
            (T(1) - share) * total);
      store(dh, share * total);
    }
  }

  // ---- normed form: see kernels/normed.h

  using Groups = NormGroups<Cell>;
  // Where a block of units is in all arrays with one entry per row, and in packed gains.
  struct NormPlace : Place {
    const T *input, *product;  // both products, as forward left them
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

  // `count` blocks of units starting at `block`; all blocks of a row in turn, so that neighbouring reads of dy and of
  // the states share cache lines. Block by block, each row would be on a cache line of its own, and the loop would wait
  // for memory.
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
      // dh is needed again when the gradient of the operand is known: the first phase's gate row keeps it until then.
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

  template <int P>
  void hidden_gradients(Index t, Range r, T* to, bool from_zero) {
    product_back(phases[P], dgates_h, rows.offset(t), r,
                 f.weights->W_h_back + phase<P>().gates_before * padded * padded_h, h_panels, my_panels, to, from_zero,
                 m);
  }

  // ---- sums over the chunk ----------------------------------------------------------------------

  T* packed_x() const { return f.inputs; }
  T* packed_h(int phase) const { return f.inputs + (blocks_of<T>(I) * W + phase * padded_h) * f.chunk_rows; }

  void pack_operands() {
    if (!f.tokens) chunk.pack(f.x, I, I, row_of_step, packed_x());
    chunk.pack(f.recurrent, R, padded_h, row_before_step, packed_h(0));
    if constexpr (Form::projects) chunk.pack(f.hidden, H, padded, row_of_step, packed_h(1));
    if constexpr (Cell::phases == 2) chunk.pack(f.operand, H, padded, row_of_step, packed_h(1));
  }

  // Adds the contribution of the rows of steps [begin, end). `add`: to the sums of later steps.
  void add_chunk(Index begin, Index end, bool add) {
    weight_gradients<0>(add);
    if constexpr (Cell::phases == 2) weight_gradients<1>(add);
    if constexpr (Cell::unit_parameters > 0)
      if (f.dunits) unit_gradients(begin, end, add);
    if constexpr (Form::normalises) norm_gradients(add);
    if constexpr (Form::projects) chunk.outer_products(projection, kOfX, dprojected, packed_h(1), H, f.dW_r, add);
    if (f.dx.data)
      chunk.input_gradients(phases, Cell::phases, dgates_x, {f.dx, f.reverse, f.accumulate, I, f.weights->W_x_back});
  }

  template <int P>
  void weight_gradients(bool add) {
    const Phase<T>& ph = phases[P];
    const Range panels = chunk.my_panels(ph);
    for (Index p = panels.begin; p < panels.end; ++p) {
      chunk.bias_sums(ph, p, dgates, f.db, add);
      if (f.tokens) chunk.token_sums(ph, p, dgates_x, f.tokens, I, f.dW_x, add);
    }
    if (!f.tokens) chunk.weight_sums(ph, kOfX, dgates_x, packed_x(), I, f.dW_x, f.dW_ih, add);
    chunk.weight_sums(ph, kOfH, dgates_h, packed_h(P), R, f.dW_h, f.dW_hh, add);
  }

  template <int P>
  void unpack() {
    const Phase<T>& ph = phases[P];
    if (!f.few_rows || f.tokens) chunk.unpack(ph, kOfX, f.dW_x, I, f.dW_ih);
    if (!f.few_rows) chunk.unpack(ph, kOfH, f.dW_h, R, f.dW_hh);
    chunk.unpack_bias(ph, kOfX, f.db, f.db_ih);
    chunk.unpack_bias(ph, kOfH, f.db, f.db_hh);
  }

  // Gradients of the parameters per unit (peepholes), summed in the same order as biases: chunk by chunk, and row by
  // row within a chunk.
  void unit_gradients(Index begin, Index end, bool add) const {
    constexpr int U = Cell::unit_parameters;
    const Range blocks = part_of(first.panels.blocks, m.rank, m.team->size);
    for (Index block = blocks.begin; block < blocks.end; ++block) {
      const Index unit = block * W;
      const Place at = place(first, block, chunk.from());
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
};

template <class T, class Cell, class Form>
void backward(const Backward<T>& f, Member& m) {
  const FloatingPointState state;
  BackwardPass<T, Cell, Form>(f, m).run();
}

}  // namespace fusedrnn::FUSEDRNN_ISA
