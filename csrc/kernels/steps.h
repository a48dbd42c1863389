// The steps of one row of arrays over time, cut into chunks of steps that follow each other; for convolution.h and
// attention.h.
#pragma once

#include "../math/simd.h"
#include "recurrence_contract.h"

namespace fusedrnn::FUSEDRNN_ISA {

struct RowSteps {
  const uint8_t* flags;
  Index B, row;
  Index spacing;  // chunks do not cross multiples of it; 0: any chunk

  bool runs(Index t) const { return !flags || flags[t * B + row] & kRuns; }
  bool cut(Index t) const { return flags && flags[t * B + row] & kCut; }
  bool apart(Index t) const { return cut(t) || (spacing && t % spacing == 0); }
  // The end of the chunk whose first step is t, and the first step of the chunk that ends before t. The states of a
  // chunk are not cut, except before its first step.
  Index end(Index t, Index T, Index most) const {
    Index end = t + 1;
    while (end < T && end - t < most && runs(end) && !apart(end)) ++end;
    return end;
  }
  Index begin(Index t, Index most) const {
    Index begin = t - 1;
    while (begin > 0 && t - begin < most && !apart(begin) && runs(begin - 1)) --begin;
    return begin;
  }
};

// Copies a row in whole vectors and a rest; null: zeros.
template <class T>
void copy_row(const T* from, T* to, Index count) {
  for (Index i = 0; i < count; i += kLanes<T>)
    store_partial(to + i, from ? load_partial(from + i, count - i) : Vec<T>{}, count - i);
}

}  // namespace fusedrnn::FUSEDRNN_ISA
