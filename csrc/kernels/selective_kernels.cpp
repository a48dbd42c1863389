// The kernels of the selective scan for one ISA and one FUSEDRNN_ELEMENT, compiled as kernels.cpp is.
#include "selective_backward.h"

namespace fusedrnn::FUSEDRNN_ISA {

#define FUSEDRNN_TABLE_OF(element) selective_##element
#define FUSEDRNN_TABLE(element) FUSEDRNN_TABLE_OF(element)

template <class T, class F>
static void apply_each(const T* x, T* y, Index n, F f) {
  const FloatingPointState floating_point;
  for (Index i = 0; i < n; i += kLanes<T>) store_partial(y + i, f(load_partial(x + i, n - i)), n - i);
}

extern const SelectiveTable<FUSEDRNN_ELEMENT> FUSEDRNN_TABLE(FUSEDRNN_ELEMENT);
const SelectiveTable<FUSEDRNN_ELEMENT> FUSEDRNN_TABLE(FUSEDRNN_ELEMENT) = {
    kLanes<FUSEDRNN_ELEMENT>,
    selective_forward<FUSEDRNN_ELEMENT>,
    selective_backward<FUSEDRNN_ELEMENT>,
    [](const FUSEDRNN_ELEMENT* x, FUSEDRNN_ELEMENT* y, Index n) {
      apply_each(x, y, n, [](auto v) { return exp2(v); });
    },
    [](const FUSEDRNN_ELEMENT* x, FUSEDRNN_ELEMENT* y, Index n) {
      apply_each(x, y, n, [](auto v) { return softplus(v); });
    },
    [](const FUSEDRNN_ELEMENT* x, FUSEDRNN_ELEMENT* y, Index n) {
      apply_each(x, y, n, [](auto v) { return phi<FUSEDRNN_ELEMENT>(v, decaying_exp(v)); });
    },
    [](const FUSEDRNN_ELEMENT* x, FUSEDRNN_ELEMENT* y, Index n) {
      apply_each(x, y, n, [](auto v) { return unit_circle<FUSEDRNN_ELEMENT>(v).im; });
    },
};

}  // namespace fusedrnn::FUSEDRNN_ISA
