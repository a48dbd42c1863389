// Tokens of a large vocabulary: core/tokens.h for NumPy arrays.
#include "../core/tokens.h"

#include "arrays.h"
#include "gil.h"

namespace fusedrnn::python {

using namespace pybind11::literals;

static py::tuple number_tokens_bound(const py::array& x, const std::shared_ptr<Schedule>& schedule, Index input_size) {
  const Index T = schedule->T(), B = schedule->B(), shape[] = {T, B};
  require(x.ndim() == 2 && is_native<std::int64_t>(x) && x.shape(0) == T && x.shape(1) == B &&
              (x.flags() & py::array::c_style) && is_aligned<std::int64_t>(x) && input_size >= 1,
          "number_tokens: tokens are not a contiguous (T, B) array");
  py::array numbers = new_array(py::dtype::of<std::int64_t>(), shape, 2);
  const auto* from = static_cast<const std::int64_t*>(x.data());
  auto* to = static_cast<std::int64_t*>(numbers.mutable_data());
  std::vector<std::int64_t> distinct;
  {
    const GilReleased released;
    distinct = number_tokens(from, to, *schedule, input_size);
  }
  const auto n = static_cast<Index>(distinct.size());
  py::array ids = new_array(py::dtype::of<std::int64_t>(), &n, 1);
  std::copy(distinct.begin(), distinct.end(), static_cast<std::int64_t*>(ids.mutable_data()));
  return py::make_tuple(ids, numbers);
}

template <class T>
static py::array take_columns_typed(const py::array& W, const py::array& ids) {
  const Index rows = W.shape(0), count = ids.shape(0), shape[] = {rows, count};
  // A copy: the ids that were checked are the ones used, whatever other threads write.
  const auto* given = static_cast<const std::int64_t*>(ids.data());
  std::vector<std::int64_t> own(static_cast<std::size_t>(count));
  for (std::size_t j = 0; j < own.size(); ++j) {
    own[j] = __atomic_load_n(given + j, __ATOMIC_RELAXED);
    require(own[j] >= 0 && own[j] < W.shape(1), "take_columns: there is no such column");
  }
  py::array taken = new_array(py::dtype::of<T>(), shape, 2);
  auto* to = static_cast<T*>(taken.mutable_data());
  const StridedMatrix from{static_cast<const char*>(W.data()), rows, W.strides(0), W.strides(1)};
  without_gil([&](Interrupt interrupt) { take_columns<T>(from, own.data(), count, to, interrupt); });
  return taken;
}

void add_tokens(py::module_& module) {
  module.def("number_tokens", &number_tokens_bound, "tokens"_a, "schedule"_a, "input_size"_a);
  module.def(
      "take_columns",
      [](const py::array& W, const py::array& ids) {
        require(W.ndim() == 2 && ids.ndim() == 1 && is_native<std::int64_t>(ids) &&
                    (ids.flags() & py::array::c_style) && is_aligned<std::int64_t>(ids),
                "take_columns: takes a matrix and contiguous ids");
        return with_dtype(dtype_of(W), [&](auto zero) { return take_columns_typed<decltype(zero)>(W, ids); });
      },
      "W"_a, "ids"_a);
}

}  // namespace fusedrnn::python
