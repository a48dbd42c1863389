// What a step does besides applying its cell. A cell (cells/cell.h) is the maths of single units; a form describes what
// else happens to whole rows of a step. Forms are traits, so a plain layer is compiled as if no other form existed:
//
//   Plain      the recurrent product takes h
//   Masked     the recurrent product takes mask * h, and units may keep their old states (zoneout). One form serves
//              both: an unused mask is all ones and an unused rate is zero, at almost no cost
//   Projected  Masked, and h is itself a product, h = W_hr hidden, with fewer units than the cell; Sak et al. 2014
//   Normed     Masked, and the rows of both products, and of an LSTM's c, are normalised: kernels/normed.h
#pragma once

#include "layout.h"

namespace fusedrnn::FUSEDRNN_ISA {

struct Plain {
  static constexpr Form id = kPlain;
  static constexpr bool masks = false, projects = false, normalises = false;
};
struct Masked {
  static constexpr Form id = kMasked;
  static constexpr bool masks = true, projects = false, normalises = false;
};
struct Projected {
  static constexpr Form id = kProjected;
  static constexpr bool masks = true, projects = true, normalises = false;
};
struct Normed {
  static constexpr Form id = kNormed;
  static constexpr bool masks = true, projects = false, normalises = true;
};

template <class T>
struct Moments;
template <class T>
struct NormSums;
template <class Cell>
struct NormGroups;

// W_hr as the only gate of a phase whose units are the units of h and whose inputs are the cell's hidden units.
struct Projection {
  static constexpr bool recurrent = true;
  static constexpr int gates = 1, first = 1, split = 0;
  static constexpr int order[] = {0};
};

// Converts bytes, 0 or 1, to numbers.
template <class T>
inline Vec<T> load_bytes(const uint8_t* p) {
  typedef uint8_t Bytes __attribute__((vector_size(kLanes<T>)));
  Bytes bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return __builtin_convertvector(bytes, Vec<T>);
}

// The share of its old c that a unit keeps at a row's step.
template <class T>
inline Vec<T> zone_share(const Masks<T>& masks, Index row, Index unit) {
  return load_bytes<T>(masks.kept[1] + row * masks.kept_row[1] + unit) + masks.rate[1];
}

}  // namespace fusedrnn::FUSEDRNN_ISA
