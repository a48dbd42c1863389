// h' = tanh(a) or relu(a).  Elman 1990, "Finding structure in time".
#pragma once

#include "../kernels/math.h"
#include "cell.h"

namespace fusedrnn::FUSEDRNN_ISA {

struct RNNTraits {
  static constexpr int gates = 1, states = 1, phases = 1, split = 0, saved = 0, first = 1;
  static constexpr bool carries_h = false;
  static constexpr int order[] = {0};
};

struct RNNTanh : RNNTraits {
  template <class V>
  static void forward(const V* a, const V*, V* s_new, V*) {
    s_new[0] = tanh(a[0]);
  }
  template <class V>
  static void backward(const V*, const V*, const V* s_new, const V* ds_new, V* da, V*) {
    da[0] = ds_new[0] * (Element<V>(1) - s_new[0] * s_new[0]);
  }
};

struct RNNRelu : RNNTraits {
  template <class V>
  static void forward(const V* a, const V*, V* s_new, V*) {
    s_new[0] = max(V{}, a[0]);  // zero first: a NaN survives
  }
  template <class V>
  static void backward(const V*, const V*, const V* s_new, const V* ds_new, V* da, V*) {
    da[0] = s_new[0] <= Element<V>(0) ? V{} : ds_new[0];  // this way round a NaN state lets its gradient pass
  }
};

}  // namespace fusedrnn::FUSEDRNN_ISA
