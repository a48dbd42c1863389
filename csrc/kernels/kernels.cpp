// The kernels of one ISA and one FUSEDRNN_ELEMENT, float or double: CMakeLists.txt compiles this file once for each
// pair. Cells without a recurrent matrix are in scan_kernels.cpp. It exports one table, kernels_<element>; everything
// here is in namespace fusedrnn::<isa>.
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
  CellKernels<T> k{};
  k.gates = Cell::gates, k.states = Cell::states, k.phases = Cell::phases, k.split = Cell::split;
  k.saved = Cell::saved, k.unit_parameters = Cell::unit_parameters, k.recurrent = true, k.sharing = 1;
  k.panels = panels_of<T, Cell>, k.back_panels = back_panels_of<T>, k.pack = pack<T, Cell>;
  ((k.forward[Forms::id] = forward<T, Cell, Forms>, k.backward[Forms::id] = backward<T, Cell, Forms>), ...);
  if constexpr ((Forms::normalises || ...)) k.pack_norm = pack_norm<T, Cell>;
  return k;
}

#define FUSEDRNN_KERNELS(type, text, ...) kernels_of<FUSEDRNN_ELEMENT, type, __VA_ARGS__>(),
constexpr CellKernels<FUSEDRNN_ELEMENT> recurrent_cells[] = {FUSEDRNN_RECURRENT_CELLS(FUSEDRNN_KERNELS)};
#undef FUSEDRNN_KERNELS

#define FUSEDRNN_NAME_OF(what, element) what##_##element
#define FUSEDRNN_NAME(what, element) FUSEDRNN_NAME_OF(what, element)

// In scan_kernels.cpp.
extern const CellKernels<FUSEDRNN_ELEMENT> FUSEDRNN_NAME(scan_cells, FUSEDRNN_ELEMENT)[];

extern const KernelTable<FUSEDRNN_ELEMENT> FUSEDRNN_NAME(kernels, FUSEDRNN_ELEMENT);
const KernelTable<FUSEDRNN_ELEMENT> FUSEDRNN_NAME(kernels, FUSEDRNN_ELEMENT) = {
    kLanes<FUSEDRNN_ELEMENT>,
    recurrent_cells,
    FUSEDRNN_NAME(scan_cells, FUSEDRNN_ELEMENT),
    add<FUSEDRNN_ELEMENT>,
    over_array<FUSEDRNN_ELEMENT, exp<Vec<FUSEDRNN_ELEMENT>>>,
    over_array<FUSEDRNN_ELEMENT, sigmoid<Vec<FUSEDRNN_ELEMENT>>>,
    over_array<FUSEDRNN_ELEMENT, tanh<Vec<FUSEDRNN_ELEMENT>>>};

}  // namespace fusedrnn::FUSEDRNN_ISA
