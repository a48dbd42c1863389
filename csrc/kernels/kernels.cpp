// Compiled once per ISA and FUSEDRNN_ELEMENT, float or double (CMakeLists.txt); exports one table, kernels_<element>.
// Everything here lives in namespace fusedrnn::<isa>.
#include "../cells/gru.h"
#include "../cells/lstm.h"
#include "../cells/rnn.h"
#include "math.h"
#include "normed_backward.h"
#include "normed_forward.h"
#include "pack.h"

namespace fusedrnn::FUSEDRNN_ISA {

// For accuracy tests: the function as the kernels compute it, over an array.
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

// A cell in the forms of kernels/forms.h that it has. Cells with options are never Plain: Masked costs them a few per
// cent at most, and each form takes seconds to compile and tens of kilobytes, for every instruction set.
template <class T, class Cell, class... Forms>
constexpr CellKernels<T> kernels_of() {
  CellKernels<T> k = {Cell::gates,           Cell::states,  Cell::phases, Cell::split, Cell::saved,
                      Cell::unit_parameters, panels_of<T, Cell>, back_panels_of<T>, pack<T, Cell>, nullptr, {}, {}};
  ((k.forward[Forms::id] = forward<T, Cell, Forms>, k.backward[Forms::id] = backward<T, Cell, Forms>), ...);
  if constexpr ((Forms::normalises || ...)) k.pack_norm = pack_norm<T, Cell>;
  return k;
}

template <class T>
constexpr KernelTable<T> table() {
  return {
      kLanes<T>,
      {kernels_of<T, RNNTanh, Plain, Masked>(), kernels_of<T, RNNRelu, Plain, Masked>(),
       kernels_of<T, GRUAfterCell<UsualFunctions>, Plain, Masked, Normed>(),
       kernels_of<T, GRUBeforeCell<UsualFunctions>, Plain, Masked>(),
       kernels_of<T, GRUSimpleCell<UsualFunctions>, Plain, Masked>(),
       kernels_of<T, LSTM, Plain, Masked, Projected, Normed>(), kernels_of<T, RNNOptions, Masked>(),
       kernels_of<T, GRUAfterCell<ChosenFunctions>, Masked>(), kernels_of<T, GRUBeforeCell<ChosenFunctions>, Masked>(),
       kernels_of<T, GRUSimpleCell<ChosenFunctions>, Masked>(),
       kernels_of<T, LSTMCell<ChosenFunctions, false>, Masked, Projected>(),
       kernels_of<T, LSTMCell<ChosenFunctions, true>, Masked, Projected>()},
      add<T>,
      over_array<T, exp<Vec<T>>>,
      over_array<T, sigmoid<Vec<T>>>,
      over_array<T, tanh<Vec<T>>>};
}

#define FUSEDRNN_TABLE_OF(element) kernels_##element
#define FUSEDRNN_TABLE(element) FUSEDRNN_TABLE_OF(element)

extern const KernelTable<FUSEDRNN_ELEMENT> FUSEDRNN_TABLE(FUSEDRNN_ELEMENT);
const KernelTable<FUSEDRNN_ELEMENT> FUSEDRNN_TABLE(FUSEDRNN_ELEMENT) = table<FUSEDRNN_ELEMENT>();

}  // namespace fusedrnn::FUSEDRNN_ISA
