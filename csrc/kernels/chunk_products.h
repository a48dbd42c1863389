// The products of backward that take all rows of a chunk of steps at once: sums over the rows (the gradients of weights
// and biases), and the gradient of the input. As in products.h, all they know about a cell is the number of its gates,
// so one compiled copy serves all cells and forms, and layers without a recurrent product.
//
//   pack             rows of an operand, in the order in which the sums read them
//   bias_sums        db (+)= sum over rows of da
//   token_sums       dW[token] (+)= da, row by row
//   weight_sums      dW (+)= a^T da, in panels (unpack() converts them to torch's layout); with few rows, directly in
//                    torch's layout
//   input_gradients  dx (+)= da W_x^T
//
// Sums run over the rows in order, whatever the number of threads: no sum is split between threads.
#pragma once

#include "products.h"

namespace fusedrnn::FUSEDRNN_ISA {

// The part of L2 that a block of rows takes; blocks change no sum. Of packed inputs a half, beside a panel of
// gradients; of gate gradients three quarters, beside a weight panel.
inline Index input_block_bytes(const Team& team) { return team.l2_bytes / 2; }
inline Index gradient_block_bytes(const Team& team) { return team.l2_bytes / 4 * 3; }

// Where the gradient of the input is written, and the weights it is a product with.
template <class T>
struct InputGradients {
  Strided dx;  // the caller's (T, B, I), feature contiguous
  bool reverse, accumulate;
  Index I;
  const T* W;  // (gate columns of all phases, I in whole vectors) as packed by pack_back
};

template <class T>
class ChunkProducts {
 public:
  // A chunk has at most `room` rows, and with `few_rows` it has all rows. `vectors` is the width of the widest gate
  // panel; a tile of sums has as many inputs as a tile of that width has rows.
  inline ChunkProducts(const Rows& rows, Index room, bool few_rows, int vectors, Member& member)
      : rows_(rows), m_(member), room_(room), few_rows_(few_rows), input_tile_(tile_rows(vectors)) {}

  // Sets the current chunk: the rows of steps [begin, end).
  void start(Index begin, Index end) {
    begin_ = begin, end_ = end;
    from_ = rows_.offset(begin), count_ = rows_.offset(end) - from_;
  }
  Index from() const { return from_; }
  Index count() const { return count_; }
  template <class S>
  Range my_panels(const Phase<T, S>& phase) const {
    return part_of(phase.panels.count, m_.rank, m_.team->size);
  }

  // ---- sums over the rows

  // Packs the chunk's rows once for all gate panels: [tile of inputs][row][input of the tile] or, with few rows, [panel
  // of inputs][row][input of the panel], in whole vectors. Read in place, each row would be on a cache line and a page
  // of its own, and the products would wait for memory. Each thread packs its share of the rows. first_row(rows, t) is
  // the row of `a` that is row 0 of step t.
  // a (rows, K), `stride` apart; packed (K in whole vectors, room)
  [[gnu::noinline]] void pack(const T* a, Index K, Index stride, Index (*first_row)(const Rows&, Index),
                              T* packed) const {
    const TileRows tiles({0, K}, input_tile_);
    const Panels columns(blocks_of<T>(K), kColumns);
    const Range share = part_of(count_, m_.rank, m_.team->size);
    for (Index t = begin_; t < end_; ++t) {
      const Index at = rows_.offset(t) - from_, count = rows_.active(t);
      const Index from = share.begin > at ? share.begin - at : 0, to = share.end < at + count ? share.end - at : count;
      const T* row = a + (first_row(rows_, t) + from) * stride;
      for (Index b = from; b < to; ++b, row += stride) {
        const T* in = row;
        T* out = packed;
        if (few_rows_) {
          copy_columns(in, out, columns, K, at + b);
          continue;
        }
        copy_tiles(in, out, tiles.wide, tiles.most, at + b);
        copy_tiles(in, out, tiles.tiles - tiles.wide, tiles.least, at + b);
      }
    }
  }

  // db[column] (+)= sum over rows of da[row][column], for one panel.
  // da (gate rows), db (columns of a gate row,)
  [[gnu::noinline]] void bias_sums(const Phase<T>& phase, Index p, const GateRows<T>& da, T* db, bool add) const {
    const Index width = phase.row_width(p);
    const T* from = da.row(phase, p, from_);
    db += phase.gate_offset(p, 1);
    Index v = 0;
    for (; v + kSums * W <= width; v += kSums * W) sum_columns<kSums>(db + v, from + v, width, add);
    for (; v < width; v += W) sum_columns<1>(db + v, from + v, width, add);
  }

  // Token input: the gradient of a one-hot x adds a gate row to the token's column, in the order of rows; for one
  // panel.
  // da (gate rows), tokens (rows,), dW (I, gates * units) in panels
  [[gnu::noinline]] void token_sums(const Phase<T>& phase, Index p, const GateRows<T>& da, const int64_t* tokens,
                                    Index I, T* dW, bool add) const {
    const Index width = phase.w_width(p), row_width = phase.row_width(p);
    const T* from = da.row(phase, p, from_);
    dW += phase.weight_offset(p, I);
    if (!add) zero(dW, I * width);
    for (Index i = 0; i < count_; ++i) {
      T* row = dW + tokens[from_ + i] * width;
      for (Index v = 0; v < width; v += W) store(row + v, load(row + v) + load(from + i * row_width + v));
    }
  }

  // dW[k][column] (+)= sum over rows of a[row][k] da[row][column]. Few rows are a single chunk, and their sums are
  // written directly in torch's layout.
  // packed (K in whole vectors, rows), da (gate rows), dW (K, gates * units) in panels, or dW_torch (gates * H, K)
  void weight_sums(const Phase<T>& phase, Product of, const GateRows<T>& da, const T* packed, Index K, T* dW,
                   T* dW_torch, bool add) const {
    if (few_rows_) sum_in_place(phase, of, da, packed, K, dW_torch);
    else outer_products(phase, of, da, packed, K, dW, add);
  }

  // Each thread takes its share of the (panel, input) pairs. A block of packed inputs stays in L2 while all panels of
  // gate gradients are multiplied by it.
  [[gnu::noinline]] void outer_products(const Phase<T>& phase, Product of, const GateRows<T>& da, const T* packed,
                                        Index K, T* dW, bool add) const {
    const TileRows tiles({0, K}, input_tile_);
    // With fewer panels than threads, the threads of a panel divide its inputs.
    const Index panel_parts = phase.panels.count < m_.team->size ? phase.panels.count : m_.team->size;
    const Index tile_parts = m_.team->size / panel_parts;
    if (m_.rank >= panel_parts * tile_parts) return;
    const Range panels = part_of(phase.panels.count, m_.rank % panel_parts, panel_parts);
    const Range mine_of_tiles = part_of(tiles.tiles, m_.rank / panel_parts, tile_parts);
    const Index block = input_block_bytes(*m_.team) / (input_tile_ * count_ * static_cast<Index>(sizeof(T))) + 1;
    for (Index from = mine_of_tiles.begin; from < mine_of_tiles.end; from += block) {
      const Index to = from + block < mine_of_tiles.end ? from + block : mine_of_tiles.end;
      for (Index p = panels.begin; p < panels.end; ++p) {
        const Index width = phase.w_width(p);
        OuterTile<T> tile;
        tile.n = count_, tile.w_row = phase.row_width(p), tile.add = add;
        tile.w = da.row(phase, p, from_) + phase.first_column(of, p);
        for (Index i = from; i < to; ++i) {
          const Range r = tiles.tile(i);
          tile.a = packed + r.begin * room_, tile.a_row = r.end - r.begin;
          tile.out = dW + phase.weight_offset(p, K) + r.begin * width, tile.out_row = width;
          fusedrnn::FUSEDRNN_ISA::run(tile, static_cast<int>(r.end - r.begin), static_cast<int>(width / W));
        }
        did(m_, 2.0 * static_cast<double>((to - from) * input_tile_ * width * count_));
        if (stopped(m_)) return;
      }
    }
  }

  // ---- input gradients

  // dx[row] (+)= da[row] W over all phases; each thread computes its share of the rows.
  // da (gate rows), W and dx: InputGradients
  [[gnu::noinline]] void input_gradients(const Phase<T>* phases, int count, const GateRows<T>& da,
                                         const InputGradients<T>& to) const {
    const Range share = part_of(count_, m_.rank, m_.team->size);
    if (share.begin == share.end) return;
    Index t = begin_, b = share.begin;
    while (b >= rows_.active(t)) b -= rows_.active(t), ++t;

    const Index I = to.I;
    const Panels columns(blocks_of<T>(I), kMaxBackVectors);
    Index gate_columns = 0;
    for (int i = 0; i < count; ++i) gate_columns += phases[i].gates * phases[i].padded;
    alignas(64) T scratch[kMaxTileVectors * W];
    const Index block = gradient_block_bytes(*m_.team) / (gate_columns * static_cast<Index>(sizeof(T))) + 24;
    for (Index from = share.begin; from < share.end; from += block) {
      const Range part_rows = {from, from + block < share.end ? from + block : share.end};
      Index next_t = t, next_b = b;
      for (Index q = 0; q < columns.count; ++q) {
        const Index width = columns.width(q) * W, column = columns.start(q) * W;
        const int vectors = static_cast<int>(width / W);
        const Index real = I - column < width ? I - column : width;
        const TileRows tiles(part_rows, vectors);
        next_t = t, next_b = b;
        for (Index i = 0; i < tiles.tiles; ++i) {
          const Range part = tiles.tile(i);
          const Index n = part.end - part.begin;
          const bool direct = real == width && one_stride(to, next_t, next_b, n);
          Tile<T> tile;
          tile.out = direct ? dx_row(to, next_t, next_b) + column : scratch;
          tile.out_row = direct ? to.dx.batch / static_cast<Index>(sizeof(T)) : width;
          init_all(tile, vectors, zeros<T>(), 0, 0);
          for (int of = 0; of < count; ++of) {
            const Phase<T>& phase = phases[of];
            const T* const w = to.W + phase.gates_before * phase.padded * columns.blocks * W;
            input_tile(tile, phase, da, part, vectors, w + column * phase.gates * phase.padded);
          }
          for (Index row = 0; row < n; ++row) {
            if (!direct) put(scratch + row * width, dx_row(to, next_t, next_b) + column, real, to.accumulate);
            if (++next_b == rows_.active(next_t)) ++next_t, next_b = 0;
          }
        }
        did(m_, 2.0 * static_cast<double>((part_rows.end - part_rows.begin) * gate_columns * width));
        if (stopped(m_)) return;
      }
      t = next_t, b = next_b;
    }
  }

  // ---- to torch's layout, after the last chunk; each thread converts its panels

  // dW (K, gates * units) in panels -> dW_torch (gates * H, K)
  void unpack(const Phase<T>& phase, Product of, const T* dW, Index K, T* dW_torch) const {
    const Range panels = my_panels(phase);
    for (Index p = panels.begin; p < panels.end; ++p)
      unpack_panel(phase, p, of, dW + phase.weight_offset(p, K), K, dW_torch);
  }
  // db (columns of a gate row,) -> db_torch (gates * H,), which may be null
  [[gnu::noinline]] void unpack_bias(const Phase<T>& phase, Product of, const T* db, T* db_torch) const {
    const Range panels = my_panels(phase);
    for (Index p = panels.begin; db_torch && p < panels.end; ++p) {
      const T* from = db + phase.gate_offset(p, 1) + phase.first_column(of, p);
      for_each_column(phase, p, of, [&](Index row, Index column) { db_torch[row] = from[column]; });
    }
  }

 private:
  static constexpr Index W = kLanes<T>;

  // Copies `count` tiles of `height` numbers each; `row` is the row within each tile. Nearly all tiles have one of two
  // heights, and a copy of compile-time length is one or two moves.
  void copy_tiles(const T*& in, T*& out, Index count, Index height, Index row) const {
    constexpr Index of_four = tile_rows(4), of_three = tile_rows(3);
    if (height == of_four) return copy_tiles<of_four>(in, out, count, row);
    if (height == of_four - 1) return copy_tiles<of_four - 1>(in, out, count, row);
    if (height == of_three) return copy_tiles<of_three>(in, out, count, row);
    if (height == of_three - 1) return copy_tiles<of_three - 1>(in, out, count, row);
    for (Index i = 0; i < count; ++i, in += height, out += height * room_)
      for (Index k = 0; k < height; ++k) out[row * height + k] = in[k];
  }
  template <Index HEIGHT>
  void copy_tiles(const T*& in, T*& out, Index count, Index row) const {
    for (Index i = 0; i < count; ++i, in += HEIGHT, out += HEIGHT * room_)
      __builtin_memcpy(out + row * HEIGHT, in, HEIGHT * sizeof(T));
  }

  static constexpr int kColumns = 3;  // vectors in a panel of inputs, with few rows
  void copy_columns(const T* in, T* out, const Panels& columns, Index K, Index row) const {
    for (Index q = 0; q < columns.count; ++q) {
      const Index from = columns.start(q) * W, width = columns.width(q) * W, real = K - from < width ? K - from : width;
      T* to = out + from * room_ + row * width;
      __builtin_memcpy(to, in + from, static_cast<size_t>(real) * sizeof(T));
      zero(to + real, width - real);
    }
  }

  // The weight gradients of few rows. In panels, converting the sums to torch's layout would take as long as summing
  // them. So here the inputs are the vector dimension and the rows of a tile are torch's rows; the chains of
  // multiply-adds are the same, in the same order.
  [[gnu::noinline]] void sum_in_place(const Phase<T>& phase, Product of, const GateRows<T>& da, const T* packed,
                                      Index K, T* dW) const {
    const Index H = phase.units;
    const Panels columns(blocks_of<T>(K), kColumns);
    const Index panel_parts = phase.panels.count < m_.team->size ? phase.panels.count : m_.team->size;
    const Index column_parts = m_.team->size / panel_parts;
    if (m_.rank >= panel_parts * column_parts) return;
    const Range panels = part_of(phase.panels.count, m_.rank % panel_parts, panel_parts);
    const Range mine_of_columns = part_of(columns.count, m_.rank / panel_parts, column_parts);
    alignas(64) T scratch[kMaxTileVectors * W];
    for (Index p = panels.begin; p < panels.end; ++p) {
      const Index width = phase.panels.width(p) * W, unit = phase.panels.start(p) * W;
      const T* const a = da.row(phase, p, from_) + phase.first_column(of, p);
      const TileRows tiles({0, H - unit < width ? H - unit : width}, kColumns);
      for (Index q = mine_of_columns.begin; q < mine_of_columns.end; ++q) {
        const Index from = columns.start(q) * W, vectors = columns.width(q), real = K - from;
        const bool whole = real >= vectors * W;
        OuterTile<T> tile;
        tile.n = count_, tile.a_row = phase.row_width(p), tile.add = false;
        tile.w = packed + from * room_, tile.w_row = vectors * W;
        tile.out_row = whole ? K : vectors * W;
        for (Index g = 0; g < phase.gates; ++g)
          for (Index i = 0; i < tiles.tiles; ++i) {
            const Range r = tiles.tile(i);
            T* to = dW + (phase.torch_block(of, g) * H + unit + r.begin) * K + from;
            tile.a = a + g * width + r.begin;
            tile.out = whole ? to : scratch;
            fusedrnn::FUSEDRNN_ISA::run(tile, static_cast<int>(r.end - r.begin), static_cast<int>(vectors));
            for (Index row = 0; !whole && row < r.end - r.begin; ++row)
              __builtin_memcpy(to + row * K, scratch + row * vectors * W, static_cast<size_t>(real) * sizeof(T));
          }
        did(m_, 2.0 * static_cast<double>(phase.gates * width * vectors * W * count_));
        if (stopped(m_)) return;
      }
    }
  }

  // Several sums side by side hide the latency of an addition, and read whole rows.
  static constexpr int kSums = 4;
  template <int COUNT>
  void sum_columns(T* db, const T* da, Index stride, bool add) const {
    Vec<T> sum[COUNT];
    for (int v = 0; v < COUNT; ++v) sum[v] = add ? load(db + v * W) : Vec<T>{};
    for (Index i = 0; i < count_; ++i, da += stride)
      for (int v = 0; v < COUNT; ++v) sum[v] += load(da + v * W);
    for (int v = 0; v < COUNT; ++v) store(db + v * W, sum[v]);
  }

  // Adds one phase's part to a tile of dx. w: (gates * units, the tile's columns)
  void input_tile(Tile<T>& tile, const Phase<T>& phase, const GateRows<T>& da, Range part, int vectors,
                  const T* w) const {
    for_each_segment_run(phase, phase.gates * phase.padded, [&](Index p, Index k, Index segments) {
      const Index row_width = phase.row_width(p);
      tile.k = k, tile.segments = segments, tile.a_step = room_ * row_width;
      tile.w = w + phase.gates * phase.panels.start(p) * W * vectors * W;
      const T* const a = da.row(phase, p, from_);
      for (Index row = part.begin; row < part.end; ++row) tile.a[row - part.begin] = a + row * row_width;
      fusedrnn::FUSEDRNN_ISA::run(tile, static_cast<int>(part.end - part.begin), vectors, 1);
      init_all<T>(tile, vectors, tile.out, tile.out_row, 0);
    });
  }

  T* dx_row(const InputGradients<T>& to, Index t, Index b) const {
    return caller_row<T>(rows_, to.dx, t, b, to.reverse);
  }
  // Whether `count` rows from row b of step t on are one stride apart in dx, so that a tile can write them directly.
  bool one_stride(const InputGradients<T>& to, Index t, Index b, Index count) const {
    if (to.accumulate || rows_.order || rows_.time) return false;
    return b + count <= rows_.active(t) || (!to.reverse && to.dx.time == rows_.B * to.dx.batch);
  }
  static void put(const T* computed, T* dx, Index count, bool add) {
    if (add)
      for (Index k = 0; k < count; ++k) dx[k] += computed[k];
    else __builtin_memcpy(dx, computed, static_cast<size_t>(count) * sizeof(T));
  }

  const Rows& rows_;
  Member& m_;
  const Index room_;
  const bool few_rows_;
  const Index input_tile_;
  // The steps of the chunk, its first row, and its number of rows.
  Index begin_ = 0, end_ = 0, from_ = 0, count_ = 0;
};

}  // namespace fusedrnn::FUSEDRNN_ISA
