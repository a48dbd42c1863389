// Inputs of a causal convolution: core/windows.h for NumPy arrays.
#include "../core/windows.h"

#include "../core/dispatch.h"
#include "arrays.h"
#include "gil.h"

namespace fusedrnn::python {

using namespace pybind11::literals;

template <class T>
static void widen_typed(const Schedule& schedule, const py::array& x, Index window, bool reverse, const py::array& wide,
                        Index I) {
  Windows<T> windows{schedule, I, window, reverse, {}, nullptr, rows_of<T>(wide, schedule, window * I, true, "wide")};
  if (x.ndim() == 2) {
    require(is_native<std::int64_t>(x) && x.shape(0) == schedule.T() && x.shape(1) == schedule.columns() &&
                (x.flags() & py::array::c_style) && is_aligned<std::int64_t>(x),
            "widen: tokens are not a contiguous (T, B) array");
    windows.tokens = static_cast<const std::int64_t*>(x.data());
  } else {
    windows.narrow = strided<T>(x, schedule, I, false, "x");
  }
  without_gil([&](Interrupt interrupt) { widen(windows, interrupt); });
}

template <class T>
static void narrow_typed(const Schedule& schedule, const py::array& dwide, Index window, bool reverse,
                         const py::array& dx, bool accumulate, Index I) {
  const Windows<T> windows{schedule,
                           I,
                           window,
                           reverse,
                           rows_of<T>(dx, schedule, I, true, "dx"),
                           nullptr,
                           rows_of<T>(dwide, schedule, window * I, false, "dwide")};
  const auto add = table_of<T>(current_kernels()).add;
  without_gil([&](Interrupt interrupt) { narrow(windows, accumulate, add, interrupt); });
}

// The numbers at a step of the narrow array, from those of the wide one.
static Index width_of(const py::array& wide, Index window) {
  require(wide.ndim() == 3 && window >= 1 && wide.shape(2) % window == 0, "a wide array has window * I numbers a step");
  return wide.shape(2) / window;
}

void add_windows(py::module_& module) {
  module.def(
      "widen",
      [](const std::shared_ptr<Schedule>& schedule, const py::array& x, Index window, bool reverse,
         const py::array& wide) {
        with_dtype(dtype_of(wide), [&](auto zero) {
          widen_typed<decltype(zero)>(*schedule, x, window, reverse, wide, width_of(wide, window));
        });
      },
      "schedule"_a, "x"_a, "window"_a, "reverse"_a, "wide"_a);
  module.def(
      "narrow",
      [](const std::shared_ptr<Schedule>& schedule, const py::array& dwide, Index window, bool reverse,
         const py::array& dx, bool accumulate) {
        with_dtype(dtype_of(dx), [&](auto zero) {
          narrow_typed<decltype(zero)>(*schedule, dwide, window, reverse, dx, accumulate, width_of(dwide, window));
        });
      },
      "schedule"_a, "dwide"_a, "window"_a, "reverse"_a, "dx"_a, "accumulate"_a);
}

}  // namespace fusedrnn::python
