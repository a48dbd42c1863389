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

template <class T, class Cell>
constexpr CellKernels<T> kernels_of() {
  return {Cell::gates,           Cell::states,  Cell::phases,     Cell::split,      Cell::saved,
          Cell::unit_parameters, pack<T, Cell>, forward<T, Cell>, backward<T, Cell>};
}

template <class T>
constexpr KernelTable<T> table() {
  return {kLanes<T>,
          {kernels_of<T, RNNTanh>(), kernels_of<T, RNNRelu>(), kernels_of<T, GRUAfterCell<UsualFunctions>>(),
           kernels_of<T, GRUBeforeCell<UsualFunctions>>(), kernels_of<T, GRUSimpleCell<UsualFunctions>>(),
           kernels_of<T, LSTM>(), kernels_of<T, RNNOptions>(), kernels_of<T, GRUAfterCell<ChosenFunctions>>(),
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
