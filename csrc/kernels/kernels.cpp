// Compiled once per ISA (CMakeLists.txt); exports one table. Everything here lives in namespace fusedrnn::<isa>.
#include "../cells/gru.h"
#include "../cells/lstm.h"
#include "../cells/rnn.h"
#include "backward.h"
#include "forward.h"
#include "math.h"
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

// FORMS of kernels/forms.h, the first ones. Cells with options have the plain form alone: each form takes seconds to
// compile and tens of kilobytes, for every instruction set.
template <class T, class Cell, int FORMS = 1>
constexpr CellKernels<T> kernels_of() {
  CellKernels<T> k = {Cell::gates,
                      Cell::states,
                      Cell::phases,
                      Cell::split,
                      Cell::saved,
                      Cell::unit_parameters,
                      pack<T, Cell>,
                      {forward<T, Cell, Plain>},
                      {backward<T, Cell, Plain>}};
  if constexpr (FORMS >= 2) {
    k.forward[kMasked] = forward<T, Cell, Masked>;
    k.backward[kMasked] = backward<T, Cell, Masked>;
  }
  if constexpr (FORMS >= 3) {
    k.forward[kProjected] = forward<T, Cell, Projected>;
    k.backward[kProjected] = backward<T, Cell, Projected>;
  }
  return k;
}

template <class T>
constexpr KernelTable<T> table() {
  return {kLanes<T>,
          {kernels_of<T, RNNTanh, 2>(), kernels_of<T, RNNRelu, 2>(), kernels_of<T, GRUAfterCell<UsualFunctions>, 2>(),
           kernels_of<T, GRUBeforeCell<UsualFunctions>, 2>(), kernels_of<T, GRUSimpleCell<UsualFunctions>, 2>(),
           kernels_of<T, LSTM, 3>(), kernels_of<T, RNNOptions>(), kernels_of<T, GRUAfterCell<ChosenFunctions>>(),
           kernels_of<T, GRUBeforeCell<ChosenFunctions>>(), kernels_of<T, GRUSimpleCell<ChosenFunctions>>(),
           kernels_of<T, LSTMCell<ChosenFunctions, false>>(), kernels_of<T, LSTMCell<ChosenFunctions, true>>()},
          add<T>,
          over_array<T, exp<Vec<T>>>,
          over_array<T, sigmoid<Vec<T>>>,
          over_array<T, tanh<Vec<T>>>};
}

#define FUSEDRNN_NAME_OF(isa) #isa
#define FUSEDRNN_NAME(isa) FUSEDRNN_NAME_OF(isa)

extern const Kernels kernels;
const Kernels kernels = {FUSEDRNN_NAME(FUSEDRNN_ISA), table<float>(), table<double>()};

}  // namespace fusedrnn::FUSEDRNN_ISA
