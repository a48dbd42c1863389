// The contract between core and the kernels of the selective scan (selective_scan.h, selective_backward.h). As in
// contract.h, core allocates every array, and kernels never allocate, throw or touch Python.
//
// Letters: T steps, B rows, D channels, N states of each channel, G groups of channels that share B and C. Strides
// count numbers, of which a complex element is two, side by side. Arrays over time are in running order (as in
// recurrence_contract.h): their stride of steps is negative for a scan from the last step to the first.
#pragma once

#include "recurrence_contract.h"

namespace fusedrnn {

enum Discretization { kMamba, kZeroOrderHold, kBilinear };

inline constexpr Index kSelectiveChunk = 32;   // steps between two kept states; backward computes as many at once
inline constexpr Index kSelectivePanel = 128;  // channels whose gradients of B and C are one sum
inline constexpr Index kSelectiveTile = 4;     // states of a channel that backward computes at once
inline constexpr Index kSelectiveParts = 16;   // most sums of rows of which the gradients of parameters are made

// (T, B, D) with a contiguous last axis.
template <class T>
struct Steps {
  T* at = nullptr;
  Index time = 0, row = 0;
};

// B or C: (T, B, G, N) with contiguous last axes; or constant, (D, N).
template <class T>
struct Couplings {
  T* at = nullptr;
  Index time = 0, row = 0;
  bool constant = false;
};

template <class T>
struct SelectiveScan {
  Index T_ = 0, B = 0, D = 0, N = 0, G = 1;
  bool complex = false, softplus = false;
  Discretization rule = kMamba;
  const uint8_t* flags = nullptr;
  Steps<const T> u, delta, z;                // z may be null
  Couplings<const T> b, c;                   // complex if A is
  const T* A = nullptr;                      // (D, N)
  const T *skip = nullptr, *bias = nullptr;  // (D,), or null
  T* h = nullptr;  // (B, D, N): in: the first state; out: the last one. Backward: their gradients, the other way round
  Steps<T> y;      // forward
  T* kept =
      nullptr;  // states before each chunk, (chunks, B, blocks, N, parts of a number, lanes); may be null in forward

  // Backward only. dy may be null: zeros. Rows of the outputs follow each other.
  Steps<const T> dy;
  Steps<T> du, ddelta, dz;
  Couplings<T> db, dc;
  T *dA = nullptr, *dskip = nullptr, *dbias = nullptr;
  // Sums of the rows of each part: (parts, D, N), (parts, D, N), (parts, D, N), (parts, D), (parts, D). One part is
  // summed in place.
  Index parts = 1;
  T *dA_parts = nullptr, *db_parts = nullptr, *dc_parts = nullptr, *dskip_parts = nullptr, *dbias_parts = nullptr;
  // Sums of the channels of each panel of a group, (panels of a group, T, B, G, N). Null with one panel.
  T *db_panels = nullptr, *dc_panels = nullptr;

  T* work = nullptr;  // `work_size` numbers for each thread
  Index work_size = 0;
};

// How channels are divided: into blocks, one vector of channels of the same group, and panels, blocks of one group.
struct Channels {
  Index lanes, group, blocks_of_group, panels_of_group, blocks_of_panel;
  FUSEDRNN_INLINE Channels(Index D, Index G, Index lanes_)
      : lanes(lanes_),
        group(D / G),
        blocks_of_group((group + lanes - 1) / lanes),
        panels_of_group((group + kSelectivePanel - 1) / kSelectivePanel),
        blocks_of_panel(kSelectivePanel / lanes) {}
  FUSEDRNN_INLINE Index group_of(Index block) const { return block / blocks_of_group; }
  FUSEDRNN_INLINE Index first(Index block) const { return group_of(block) * group + block % blocks_of_group * lanes; }
  FUSEDRNN_INLINE Index count(Index block) const {
    const Index rest = group - block % blocks_of_group * lanes;
    return rest < lanes ? rest : lanes;
  }
};

// Arrays of a panel over the steps of a chunk, in backward: step sizes, slopes of softplus, inputs, gradients before
// the gate, the factor of dz, outputs before the gate, and two sums over states.
inline constexpr Index kSelectiveArrays = 8;

// Numbers of work for each thread: states and A of a panel (in backward with the gradients of both and of constant B
// and C), and arrays over the steps of a chunk, those of the general case included.
template <class T>
FUSEDRNN_INLINE Index selective_work(const SelectiveScan<T>& s, Index lanes, bool backward) {
  const Index parts = s.complex ? 2 : 1, blocks = kSelectivePanel / lanes;
  const Index of_panel = blocks * s.N * parts * lanes, of_chunk = kSelectiveChunk * lanes;
  if (!backward) return 2 * of_panel + (3 + 4 * parts) * of_chunk;
  const Index of_tile = kSelectiveTile * parts * of_chunk, before = (2 * kSelectiveChunk + 1) * kSelectiveTile * lanes;
  return 5 * of_panel + blocks * (2 * lanes + kSelectiveArrays * of_chunk) + 2 * of_tile + before * parts + of_tile +
         7 * parts * of_chunk;
}

template <class T>
struct SelectiveTable {
  int lanes;
  void (*forward)(const SelectiveScan<T>&, Member&);
  void (*backward)(const SelectiveScan<T>&, Member&);
  void (*exp2)(const T*, T*, Index);  // these, to be measured
  void (*softplus)(const T*, T*, Index);
  void (*phi)(const T*, T*, Index);
  void (*sine)(const T*, T*, Index);
};

}  // namespace fusedrnn
