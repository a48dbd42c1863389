// The Python module: its functions that are not about weights (weights.cpp), sequences (sequences.cpp), streams
// (stream.cpp), tokens (tokens.cpp), the C API (capi.cpp) or explain (explain.cpp), and what all of these share: memory
// of outputs, signals.
// Not here: any computation (core and kernels do it), and checks with messages for users
// (python/fusedrnn/_validate.py). python/fusedrnn/_core.pyi describes the functions for Python; next, read
// sequences.cpp.
#include <pthread.h>

#include <atomic>
#include <chrono>

#include "../core/cpu.h"
#include "../core/dispatch.h"
#include "arrays.h"
#include "gil.h"

namespace fusedrnn::python {

using namespace pybind11::literals;

// ---- signals ------------------------------------------------------------------------------------

static std::atomic<unsigned long> main_thread{0};

static long long now_ms() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}

SignalWatch::SignalWatch() : main_(PyThread_get_thread_ident() == main_thread.load()), next_(now_ms() + 50) {}

bool SignalWatch::look(void* self) {
  auto* watch = static_cast<SignalWatch*>(self);
  const long long now = now_ms();
  if (now < watch->next_) return false;
  const py::gil_scoped_acquire gil;
  const bool raised = PyErr_CheckSignals() != 0;
  watch->next_ = now_ms() + 50;
  return raised;
}

// ---- arrays -------------------------------------------------------------------------------------

py::array empty(const py::tuple& shape, const py::dtype& dtype) {
  std::vector<py::ssize_t> sizes;
  std::size_t bytes = static_cast<std::size_t>(dtype.itemsize());
  for (const py::handle& n : shape) {
    sizes.push_back(py::cast<py::ssize_t>(n));
    require(sizes.back() >= 0, "empty: negative size");
    bytes = product(bytes, static_cast<std::size_t>(sizes.back()));
  }
  if (bytes < 4096) return py::array(dtype, sizes);
  auto buffer = std::make_unique<Buffer>(bytes);
  void* data = buffer->as<void>();
  const py::capsule owner(buffer.release(), [](void* b) { delete static_cast<Buffer*>(b); });
  return py::array(dtype, sizes, {}, data, owner);
}

// As empty(), but small arrays take a quarter of the time: each call of a layer needs three.
py::array new_array(const py::dtype& dtype, const Index* sizes, int nd) {
  Index bytes = dtype.itemsize();
  bool small = true;
  for (int d = 0; d < nd && small; ++d) small = sizes[d] >= 0 && sizes[d] < 4096 && (bytes *= sizes[d]) < 4096;
  if (!small) {
    py::tuple shape(static_cast<std::size_t>(nd));
    for (int d = 0; d < nd; ++d) shape[static_cast<std::size_t>(d)] = sizes[d];
    return empty(shape, dtype);
  }
  const auto& numpy = py::detail::npy_api::get();
  PyObject* array = numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, py::dtype(dtype).release().ptr(), nd,
                                                const_cast<Index*>(sizes), nullptr, nullptr, 0, nullptr);
  if (!array) throw py::error_already_set();
  return py::reinterpret_steal<py::array>(array);
}

// Bound without pybind11, like infer_bound below: pybind11 takes longer to convert the arguments than the functions
// take to run.
static PyObject* empty_bound(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  return bound([&] {
    require(count == 2 && PyTuple_Check(arguments[0]), "empty: takes a tuple and a dtype");
    const auto shape = py::reinterpret_borrow<py::tuple>(arguments[0]);
    const auto given = py::reinterpret_borrow<py::object>(arguments[1]);
    const auto dtype = py::isinstance<py::dtype>(given) ? py::dtype(given) : py::dtype::from_args(given);
    Index sizes[4];
    if (shape.size() > 4) return empty(shape, dtype);
    for (std::size_t d = 0; d < shape.size(); ++d) {
      sizes[d] = PyLong_AsSsize_t(PyTuple_GET_ITEM(shape.ptr(), static_cast<Py_ssize_t>(d)));
      if (sizes[d] == -1 && PyErr_Occurred()) throw py::error_already_set();
    }
    return new_array(dtype, sizes, static_cast<int>(shape.size()));
  });
}

// ---- activations, for accuracy tests ------------------------------------------------------------

template <class T>
static py::array apply_typed(const std::string& function, const py::array& x) {
  const KernelTable<T>& table = table_of<T>(current_kernels());
  void (*apply)(const T*, T*, Index) = function == "exp"       ? table.exp
                                       : function == "sigmoid" ? table.sigmoid
                                       : function == "tanh"    ? table.tanh
                                                               : nullptr;
  require(apply, "apply: the function is exp, sigmoid or tanh");
  require(x.flags() & py::array::c_style, "apply: x is not contiguous");
  py::array y(x.dtype(), std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
  const auto* from = static_cast<const T*>(x.data());
  auto* to = static_cast<T*>(y.mutable_data());
  {
    const GilReleased released;
    apply(from, to, x.size());
  }
  return y;
}

// ---- the module ---------------------------------------------------------------------------------

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "fusedrnn's compiled kernels; see _core.pyi";
  main_thread = py::cast<unsigned long>(py::module_::import("threading").attr("main_thread")().attr("ident"));
  pthread_atfork(nullptr, nullptr, [] { main_thread = PyThread_get_thread_ident(); });
  if (!dispatch_complaint().empty()) throw py::import_error(dispatch_complaint());

  m.def("available_isas", [] {
    py::list list;
    for (const Kernels* k : available_kernels()) list.append(k->name);
    return list;
  });
  m.def("cells", [] {
    py::dict cells;
    for (int id = 0; id < kCellCount; ++id) {
      const CellKernels<float>& kernel = current_kernels().f32.cell(id);
      py::list forms;
      for (int form = 0; form < kFormCount; ++form)
        if (kernel.forward[form]) forms.append(name_of(static_cast<Form>(form)));
      cells[name_of(static_cast<CellId>(id))] = py::dict(
          "gates"_a = kernel.gates, "states"_a = kernel.states, "units"_a = kernel.unit_parameters, "forms"_a = forms,
          "recurrent"_a = kernel.recurrent, "skip"_a = kernel.skip != 0, "sharing"_a = kernel.sharing);
    }
    return cells;
  });
  m.def("activations", [] {
    py::list names;
    for (int id = 0; id < kActivationCount; ++id) names.append(name_of(static_cast<ActivationId>(id)));
    return names;
  });
  m.def("current_isa", [] { return current_kernels().name; });
  m.def("set_isa", [](const std::string& name) { require(use_kernels(name), "set_isa: not available"); }, "name"_a);
  m.def("get_num_threads", &num_threads);
  m.def("set_num_threads", [](int n) { require(n >= 1, "set_num_threads: at least 1"), set_num_threads(n); }, "n"_a);
  m.def("get_local_num_threads", &local_num_threads);
  m.def(
      "set_local_num_threads",
      [](int n) { require(n >= 0, "set_local_num_threads: at least 0"), set_local_num_threads(n); }, "n"_a);
  m.def("build_info", [] {
    return py::dict("compiler"_a = __VERSION__, "openmp"_a = parallel_runtime(),
                    "l2_bytes"_a = std::to_string(l2_bytes()),
                    "assertions"_a =
#if defined(NDEBUG)
                        "off"
#else
                        "on"
#endif
    );
  });
  static PyMethodDef functions[] = {
      by_hand("empty", empty_bound, "empty(shape, dtype, /)\n--\n\nAn uninitialised C-contiguous array."),
      {nullptr, nullptr, 0, nullptr}};
  if (PyModule_AddFunctions(m.ptr(), functions) < 0) throw py::error_already_set();
  m.def("trim_pool", &trim_pool);
  m.def(
      "rows_apart",
      [](const py::array& a) {
        std::vector<Axis> axes;
        for (py::ssize_t d = 0; d + 1 < a.ndim(); ++d) axes.push_back({a.shape(d), a.strides(d)});
        return rows_apart(axes.data(), static_cast<int>(axes.size()),
                          a.ndim() ? a.shape(a.ndim() - 1) * a.itemsize() : a.itemsize());
      },
      "array"_a);
  // The message "std::bad_alloc" would not help a user.
  py::register_local_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const std::bad_alloc&) {
      PyErr_SetString(PyExc_MemoryError, "fusedrnn: what this call needs does not fit into memory");
    }
  });
  m.def(
      "apply",
      [](const std::string& function, const py::array& x) {
        return with_dtype(dtype_of(x), [&](auto zero) { return apply_typed<decltype(zero)>(function, x); });
      },
      "function"_a, "x"_a);

  add_weights(m);
  add_sequences(m);
  add_stream(m);
  add_c_api(m);
  add_explain(m);
  add_recurrences(m);
  add_selective_scan(m);
  add_attention(m);
  add_tokens(m);
  add_windows(m);
}

}  // namespace fusedrnn::python
