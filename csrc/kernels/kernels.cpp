// The kernels of one ISA and one FUSEDRNN_ELEMENT, float or double: CMakeLists.txt compiles this file once for each
// pair. It exports one table, kernels_<element>; everything here is in namespace fusedrnn::<isa>.
#include "../cells/cells.h"
#include "../math/math.h"
#include "normed_backward.h"
#include "normed_forward.h"
#include "pack.h"

namespace fusedrnn::FUSEDRNN_ISA {

// For accuracy tests: applies the kernels' own function to an array.
template <class T, Vec<T> (*F)(Vec<T>)>
void over_array(const T* x, T* y, Index n) {
  const FloatingPointState state;
  for (Index i = 0; i < n; i += kLanes<T>) store_partial(y + i, F(load_partial(x + i, n - i)), n - i);
}

template <class T>
void add(const T* x, T* y, Index n) {
  const FloatingPointState state;
  for (Index i = 0; i < n; i += kLanes<T>)
    store_partial(y + i, load_partial(y + i, n - i) + load_partial(x + i, n - i), n - i);
}

// The entry points of a cell, in the forms of kernels/forms.h that cells/cells.h lists for it.
template <class T, class Cell, class... Forms>
constexpr CellKernels<T> kernels_of() {
  CellKernels<T> k = {
      Cell::gates,        Cell::states,      Cell::phases,  Cell::split, Cell::saved, Cell::unit_parameters,
      panels_of<T, Cell>, back_panels_of<T>, pack<T, Cell>, nullptr,     {},          {}};
  ((k.forward[Forms::id] = forward<T, Cell, Forms>, k.backward[Forms::id] = backward<T, Cell, Forms>), ...);
  if constexpr ((Forms::normalises || ...)) k.pack_norm = pack_norm<T, Cell>;
  return k;
}

template <class T>
constexpr KernelTable<T> table() {
#define FUSEDRNN_KERNELS(type, text, ...) kernels_of<T, type, __VA_ARGS__>(),
  return {kLanes<T>,
          {FUSEDRNN_CELLS(FUSEDRNN_KERNELS)},
          add<T>,
          over_array<T, exp<Vec<T>>>,
          over_array<T, sigmoid<Vec<T>>>,
          over_array<T, tanh<Vec<T>>>};
#undef FUSEDRNN_KERNELS
}

#define FUSEDRNN_TABLE_OF(element) kernels_##element
#define FUSEDRNN_TABLE(element) FUSEDRNN_TABLE_OF(element)

extern const KernelTable<FUSEDRNN_ELEMENT> FUSEDRNN_TABLE(FUSEDRNN_ELEMENT);
const KernelTable<FUSEDRNN_ELEMENT> FUSEDRNN_TABLE(FUSEDRNN_ELEMENT) = table<FUSEDRNN_ELEMENT>();

}  // namespace fusedrnn::FUSEDRNN_ISA
