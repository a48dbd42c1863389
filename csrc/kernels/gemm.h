// Register tiles: the innermost loops of all matrix products. Every sum runs over k in increasing order into one
// accumulator, whatever the tile, so the bits of an element depend on its operands alone, never on batch size, tile
// shape or number of threads.
// Not here: gates, steps and threads (products.h and chunk_products.h cut their work into these tiles), or instruction
// sets (math/simd.h). Next, read products.h.
#pragma once

#include "../math/simd.h"
#include "contract.h"
#include "layout.h"

namespace fusedrnn::FUSEDRNN_ISA {

// The most rows of a tile that is `vectors` wide: as many accumulators as fit the registers beside the operands. With
// 32 registers, tiles of 6x4 and 8x3 ran at 95-99 % of the FMA rate, tiles wider than tall at 85-92 %.
constexpr int tile_rows(int vectors) {
  if (kRegisters == 32) return vectors == 4 ? 6 : vectors == 3 ? 8 : 12;
  return vectors == 4 ? 3 : vectors == 3 ? 4 : vectors == 2 ? 6 : 8;
}
inline constexpr int kMaxTileRows = 12;
inline constexpr int kMaxTileVectors = 24;  // in one tile, over all rows

// out[row][v] = init[v][row] + sum over segments s and k of a[row][s * a_step + k] * w[...][v]
template <class T>
struct Tile {
  const T* a[kMaxTileRows];   // (segments, k): operand rows
  Index k, segments, a_step;  // k elements a segment (one panel's gate columns, say); the next one is a_step further
  const T* w;                 // (segments * k, vectors): one sequential stream
  Index w_panel;              // distance to the second panel, when a tile takes two at once
  struct {
    const T* at;
    Index row, panel;   // strides; row 0: the same for all rows (a bias)
  } init[kMaxVectors];  // where the sums of each vector start
  T* out;
  Index out_row, out_panel;
  // Tall tiles prefetch `ahead_lines` cache lines from `ahead` into L2 while they compute, one line for each k.
  const char* ahead = nullptr;
  Index ahead_lines = 0;
};
inline constexpr Index kCacheLine = 64;
// With fewer tiles, nearly every k would fetch a line, and all tiles would wait for memory.
inline constexpr Index kFetchingTiles = 5;

// Sets the initial values of all vectors: consecutive vectors from `at` on.
template <class T>
inline void init_all(Tile<T>& t, int vectors, const T* at, Index row, Index panel) {
  for (int v = 0; v < vectors; ++v) t.init[v] = {at + v * kLanes<T>, row, panel};
}

// sum[r][v] += x(r) w[v]. The shorter of x and w stays in registers: with 16 registers, 3x4 sums leave only four. (With
// all of w and one x beside the sums, the compiler spills registers, at half the speed.)
template <class T, int ROWS, int VECTORS, class X>
[[gnu::always_inline]] inline void add_product(Vec<T> (&sum)[ROWS][VECTORS], X x, const T* w) {
  constexpr int W = kLanes<T>;
  if constexpr (ROWS < VECTORS) {
    Vec<T> kept[ROWS];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) kept[r] = splat(x(r));
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) {
      const Vec<T> column = load(w + v * W);
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; ++r) sum[r][v] = column * kept[r] + sum[r][v];
    }
  } else {
    Vec<T> kept[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) kept[v] = load(w + v * W);
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) {
      const Vec<T> row = splat(x(r));
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) sum[r][v] = kept[v] * row + sum[r][v];
    }
  }
}

// PANELS = 2 serves a single row: eight chains of FMAs hide their latency, four do not.
template <class T, int ROWS, int VECTORS, int PANELS, bool AHEAD = false>
void run_tile(const Tile<T>& t) {
  constexpr int W = kLanes<T>;
  Vec<T> sum[PANELS][ROWS][VECTORS];
#pragma GCC unroll 2
  for (int p = 0; p < PANELS; ++p)
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) sum[p][r][v] = load(t.init[v].at + p * t.init[v].panel + r * t.init[v].row);

  const T* a[ROWS];
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r) a[r] = t.a[r];
  const T* w = t.w;
  const Index depth = t.k, segments = t.segments, a_step = t.a_step, w_panel = t.w_panel;
  T* const out = t.out;
  const Index out_row = t.out_row, out_panel = t.out_panel;
  [[maybe_unused]] const char* ahead = t.ahead;
  [[maybe_unused]] const char* const ahead_end = ahead + t.ahead_lines * kCacheLine;
  for (Index s = 0; s < segments; ++s) {
    Index from = 0;
    if constexpr (AHEAD) {
      from = (ahead_end - ahead) / kCacheLine < depth ? (ahead_end - ahead) / kCacheLine : depth;
#pragma GCC unroll 4
      for (Index k = 0; k < from; ++k) {
        __builtin_prefetch(ahead, 0, 2);
        ahead += kCacheLine;
        add_product<T>(sum[0], [&](int r) { return a[r][k]; }, w);
        w += VECTORS * W;
      }
    }
#pragma GCC unroll 4
    for (Index k = from; k < depth; ++k) {
#pragma GCC unroll 2
      for (int p = 0; p < PANELS; ++p) {
        add_product<T>(sum[p], [&](int r) { return a[r][k]; }, w + p * w_panel);
      }
      w += VECTORS * W;
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) a[r] += a_step;
  }

#pragma GCC unroll 2
  for (int p = 0; p < PANELS; ++p)
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) store(out + p * out_panel + r * out_row + v * W, sum[p][r][v]);
}

// out[m][v] (+)= sum over n of a[n][m] * w[n][v], a sum of outer products: the weight gradient of one tile of inputs m.
template <class T>
struct OuterTile {
  const T* a;
  Index n, a_row;
  const T* w;
  Index w_row;
  T* out;
  Index out_row;
  bool add;
};

template <class T, int ROWS, int VECTORS>
void run_outer_tile(const OuterTile<T>& t) {
  constexpr int W = kLanes<T>;
  Vec<T> sum[ROWS][VECTORS];
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) sum[r][v] = t.add ? load(t.out + r * t.out_row + v * W) : Vec<T>{};
  const T* a = t.a;
  const T* w = t.w;
  const Index count = t.n, a_row = t.a_row, w_row = t.w_row;
#pragma GCC unroll 4
  for (Index n = 0; n < count; ++n) {
    add_product<T>(sum, [&](int r) { return a[r]; }, w);
    a += a_row;
    w += w_row;
  }
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) store(t.out + r * t.out_row + v * W, sum[r][v]);
}

// From run-time shapes to compiled ones. Prefetching is only worth while when the weights exceed a core's cache, and
// used only with many rows: then nearly all tiles have one of two heights, so only these two are compiled with it.
template <class T, int VECTORS, int ROWS = tile_rows(VECTORS)>
inline void run_rows(const Tile<T>& t, int rows) {
  if constexpr (VECTORS >= 3 && ROWS + 1 >= tile_rows(VECTORS))
    if (rows == ROWS && t.ahead_lines > 0) return run_tile<T, ROWS, VECTORS, 1, true>(t);
  if (rows == ROWS) return run_tile<T, ROWS, VECTORS, 1>(t);
  if constexpr (ROWS > 1) run_rows<T, VECTORS, ROWS - 1>(t, rows);
}

template <class T, int VECTORS, int ROWS = tile_rows(VECTORS)>
inline void run_outer_rows(const OuterTile<T>& t, int rows) {
  if (rows == ROWS) return run_outer_tile<T, ROWS, VECTORS>(t);
  if constexpr (ROWS > 1) run_outer_rows<T, VECTORS, ROWS - 1>(t, rows);
}

// Out of line: otherwise every form of every cell would contain these tables of tiles.
template <class T>
[[gnu::noinline]] void run(const Tile<T>& t, int rows, int vectors, int panels) {
  if (panels == 2) {
    switch (vectors) {
      case 1:
        return run_tile<T, 1, 1, 2>(t);
      case 2:
        return run_tile<T, 1, 2, 2>(t);
      case 3:
        return run_tile<T, 1, 3, 2>(t);
      default:
        return run_tile<T, 1, 4, 2>(t);
    }
  }
  switch (vectors) {
    case 1:
      return run_rows<T, 1>(t, rows);
    case 2:
      return run_rows<T, 2>(t, rows);
    case 3:
      return run_rows<T, 3>(t, rows);
    default:
      return run_rows<T, 4>(t, rows);
  }
}

template <class T>
[[gnu::noinline]] void run(const OuterTile<T>& t, int rows, int vectors) {
  switch (vectors) {
    case 1:
      return run_outer_rows<T, 1>(t, rows);
    case 2:
      return run_outer_rows<T, 2>(t, rows);
    case 3:
      return run_outer_rows<T, 3>(t, rows);
    default:
      return run_outer_rows<T, 4>(t, rows);
  }
}

// Gives tile i its share (`i` of `parts`) of the next `bytes` of weights to prefetch.
template <class T>
inline void fetch_ahead(Tile<T>& tile, const T* next, Index bytes, Index i, Index parts) {
  const Range lines = part_of(bytes / kCacheLine, i, parts);
  tile.ahead = reinterpret_cast<const char*>(next) + lines.begin * kCacheLine;
  tile.ahead_lines = lines.end - lines.begin;
}

// Cuts [begin, end) into tiles of nearly equal height (32 rows become 6 6 5 5 5 5, not 5 x 6 + 2).
struct TileRows {
  Index begin, count, tiles;
  Index least, most, wide;  // the two heights, and how many tiles (the first ones) have the greater
  inline TileRows(Range r, int vectors) : TileRows(r, Index{tile_rows(vectors)}) {}
  inline TileRows(Range r, Index height)
      : begin(r.begin),
        count(r.end - r.begin),
        tiles(divide_up(count, height)),
        least(tiles ? count / tiles : 0),
        most(least + 1),
        wide(count - tiles * least) {}
  inline Range tile(Index i) const {
    const Index from = begin + i * least + (i < wide ? i : wide);
    return {from, from + (i < wide ? most : least)};
  }
};

}  // namespace fusedrnn::FUSEDRNN_ISA
