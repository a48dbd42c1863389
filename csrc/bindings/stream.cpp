// The streaming step, bound without pybind11, which needs 350-470 ns per array argument, several times the step of a
// small layer. `step` is a METH_FASTCALL method that uses exact, contiguous arrays as they are; any other input passes
// once through the subclass's `_as_input`, which converts it or raises.
#include <atomic>
#include <new>

#include "../core/stepper.h"
#include "arrays.h"
#include "gil.h"

namespace fusedrnn::python {
namespace {

// Larger steps let other Python threads run; for smaller ones, releasing the GIL costs more than the step.
constexpr double kReleaseFlops = 1e6;

struct Engine {
  std::unique_ptr<StepRunnerBase> runner;
  Index B = 0, I = 0, H = 0, R = 0, L = 0;  // R: units of h and of the output
  Index units(int state) const { return state == 0 ? R : H; }
  bool release = false;
  std::atomic<bool> busy{false};
  py::object real, token;  // descriptors, compared by address: NumPy has one per built-in type
};

// The engine is set once, by the first __init__, because a step in another thread, or the code that converts its input,
// may be using it.
template <class Call>
auto with_runner(const Engine& e, Call call) {
  return with_dtype(e.runner->dtype,
                    [&](auto zero) { return call(static_cast<StepRunner<decltype(zero)>&>(*e.runner)); });
}

struct StreamObject {
  PyObject_HEAD std::atomic<Engine*> engine;
};

Engine* engine_of(PyObject* self) {
  Engine* engine = reinterpret_cast<StreamObject*>(self)->engine.load(std::memory_order_acquire);
  if (!engine) throw std::runtime_error("Stream: __init__ was not called");
  return engine;
}

// Only one thread at a time may use a stream: two would mix their states.
class Turn {
 public:
  explicit Turn(Engine& engine) : engine_(engine) {
    if (engine_.busy.exchange(true))
      throw std::runtime_error("Stream: already in use, by another thread or by the call that converts its input");
  }
  ~Turn() { engine_.busy = false; }

 private:
  Engine& engine_;
};

using ArrayStruct = py::detail::PyArray_Proxy;
constexpr int kContiguous = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_,
              kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_,
              kWriteable = py::detail::npy_api::NPY_ARRAY_WRITEABLE_;

PyTypeObject* array_type() {
  static PyTypeObject* const type = py::detail::npy_api::get().PyArray_Type_;
  return type;
}

// Returns the array if it is an exact, contiguous, aligned ndarray of this descriptor and shape, else null.
const ArrayStruct* plain(PyObject* o, PyObject* descriptor, Index rows, Index columns, int flags) {
  if (Py_TYPE(o) != array_type()) return nullptr;
  const auto* a = reinterpret_cast<const ArrayStruct*>(o);
  if (a->descr != descriptor || (a->flags & flags) != flags) return nullptr;
  const int nd = columns < 0 ? 1 : 2;
  if (a->nd != nd || a->dimensions[0] != rows || (nd == 2 && a->dimensions[1] != columns)) return nullptr;
  return a;
}

bool overlap(const void* a, std::size_t a_bytes, const void* b, std::size_t b_bytes) {
  const auto p = reinterpret_cast<std::uintptr_t>(a), q = reinterpret_cast<std::uintptr_t>(b);
  return p < q + b_bytes && q < p + a_bytes;
}

void run(Engine& e, const void* x, bool tokens, void* y) {
  const auto* ids = tokens ? static_cast<const std::int64_t*>(x) : nullptr;
  with_dtype(e.runner->dtype, [&](auto zero) {
    using T = decltype(zero);
    static_cast<StepRunner<T>&>(*e.runner).step(tokens ? nullptr : static_cast<const T*>(x), ids, static_cast<T*>(y));
  });
}

std::string described(const py::object& o) {
  if (!py::isinstance<py::array>(o)) return std::string("is a ") + Py_TYPE(o.ptr())->tp_name;
  const auto a = py::reinterpret_borrow<py::array>(o);
  std::string text = "has shape " + py::cast<std::string>(py::str(a.attr("shape"))) + " and dtype " +
                     py::cast<std::string>(py::str(a.dtype()));
  if (!(a.flags() & py::array::c_style)) text += ", not contiguous";
  if (!a.writeable()) text += ", read-only";
  return text;
}

// The array that the subclass makes of an input that is not plain. None of our objects is alive during the call: if the
// thread ended there, their references would be released without the GIL.
py::object converted_input(PyObject* self, PyObject* x) {
  static PyObject* const name = PyUnicode_InternFromString("_as_input");
  PyObject* array = unless_ended([&] { return PyObject_CallMethodOneArg(self, name, x); });
  if (!array) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(array);
}

py::object step(PyObject* self, PyObject* x, PyObject* out) {
  Engine& e = *engine_of(self);
  const Turn turn(e);
  py::object converted;
  const ArrayStruct* input = plain(x, e.real.ptr(), e.B, e.I, kContiguous | kAligned);
  bool tokens = false;
  if (!input) {
    // Other float types, other strides, or tokens: the Python side checks and converts them, including the ids.
    converted = converted_input(self, x);
    input = plain(converted.ptr(), e.real.ptr(), e.B, e.I, kContiguous | kAligned);
    if (!input) {
      input = plain(converted.ptr(), e.token.ptr(), e.B, -1, kContiguous | kAligned);
      tokens = true;
    }
    require(input, "Stream: _as_input returned an array that does not fit");
  }
  py::object result;
  const ArrayStruct* output;
  if (out && out != Py_None) {
    output = plain(out, e.real.ptr(), e.B, e.R, kContiguous | kAligned | kWriteable);
    if (!output)
      throw std::invalid_argument("Stream: out " + described(py::reinterpret_borrow<py::object>(out)) +
                                  "; expected a contiguous, writable array of shape (batch_size, " +
                                  (e.R == e.H ? "hidden_size" : "proj_size") + ") = (" + std::to_string(e.B) + ", " +
                                  std::to_string(e.R) + ") and dtype " + py::cast<std::string>(py::str(e.real)));
    const std::size_t item = with_dtype(e.runner->dtype, [](auto zero) { return sizeof zero; });
    if (overlap(input->data,
                static_cast<std::size_t>(e.B * (tokens ? 1 : e.I)) * (tokens ? sizeof(std::int64_t) : item),
                output->data, static_cast<std::size_t>(e.B * e.R) * item))
      throw std::invalid_argument("Stream: out overlaps x; give an array of its own");
    result = py::reinterpret_borrow<py::object>(out);
  } else {
    result = py::array(py::reinterpret_borrow<py::dtype>(e.real), {e.B, e.R});
    output = reinterpret_cast<const ArrayStruct*>(result.ptr());
  }
  if (e.release) {
    const GilReleased released;
    run(e, input->data, tokens, output->data);
  } else {
    run(e, input->data, tokens, output->data);
  }
  return result;
}

// ---- states -------------------------------------------------------------------------------------

template <class T>
py::tuple get_state_typed(const StepRunner<T>& runner, const Engine& e) {
  py::tuple parts(static_cast<std::size_t>(runner.states()));
  for (int s = 0; s < runner.states(); ++s) {
    py::array_t<T> part({e.L, e.B, e.units(s)});
    runner.read_state(s, part.mutable_data());
    parts[static_cast<std::size_t>(s)] = part;
  }
  return parts;
}

template <class T>
void set_state_typed(StepRunner<T>& runner, const Engine& e, const py::tuple& parts) {
  require(parts.size() == static_cast<std::size_t>(runner.states()), "set_state: wrong number of states");
  for (int s = 0; s < runner.states(); ++s) {
    const auto part = py::cast<py::array>(parts[static_cast<std::size_t>(s)]);
    const Index units = e.units(s);
    require(is_native<T>(part) && part.ndim() == 3 && part.shape(0) == e.L && part.shape(1) == e.B &&
                part.shape(2) == units && (part.flags() & py::array::c_style) && is_aligned<T>(part),
            "set_state: wrong dtype, shape or layout");
    runner.write_state(s, static_cast<const T*>(part.data()));
  }
}

// The inputs of the last steps, (B, window - 1, I) for each layer; without a window nothing.
template <class T>
py::tuple get_inputs_typed(const StepRunner<T>& runner) {
  py::tuple parts(runner.window() > 1 ? runner.layers() : 0);
  for (std::size_t l = 0; l < parts.size(); ++l) {
    py::array_t<T> part({runner.B(), runner.window() - 1, runner.inputs(l)});
    runner.read_inputs(l, part.mutable_data());
    parts[l] = part;
  }
  return parts;
}

template <class T>
void set_inputs_typed(StepRunner<T>& runner, const py::tuple& parts) {
  require(parts.size() == (runner.window() > 1 ? runner.layers() : 0), "set_inputs: wrong number of layers");
  for (std::size_t l = 0; l < parts.size(); ++l) {
    const auto part = py::cast<py::array>(parts[l]);
    require(is_native<T>(part) && part.ndim() == 3 && part.shape(0) == runner.B() &&
                part.shape(1) == runner.window() - 1 && part.shape(2) == runner.inputs(l) &&
                (part.flags() & py::array::c_style) && is_aligned<T>(part),
            "set_inputs: wrong dtype, shape or layout");
    runner.write_inputs(l, static_cast<const T*>(part.data()));
  }
}

template <class T>
std::unique_ptr<StepRunner<T>> make_runner(const py::list& list, Index B, Index window) {
  std::vector<std::shared_ptr<const Weights<T>>> layers;
  for (const py::handle& item : list) {
    const auto base = py::cast<std::shared_ptr<WeightsBase>>(item);
    require(base->dtype == kDtypeOf<T>, "Stream: layers of different dtypes");
    require(layers.empty() || (base->cell == layers.back()->cell && base->H == layers.back()->H &&
                               base->R == layers.back()->R && base->I == layers.back()->R * window),
            "Stream: layers do not fit each other");
    layers.push_back(std::static_pointer_cast<const Weights<T>>(base));
  }
  require(layers.front()->I % window == 0, "Stream: the window does not fit the weights");
  return std::make_unique<StepRunner<T>>(std::move(layers), B, false, window);
}

// ---- the type -----------------------------------------------------------------------------------

PyObject* stream_new(PyTypeObject* type, PyObject*, PyObject*) {
  auto* self = reinterpret_cast<StreamObject*>(type->tp_alloc(type, 0));
  if (self) new (&self->engine) std::atomic<Engine*>(nullptr);
  return reinterpret_cast<PyObject*>(self);
}

constexpr char kInitialised[] =
    "Stream: __init__ is called again; expected one call (for another stream call frozen.stream() again)";

int stream_init(PyObject* self, PyObject* arguments, PyObject* keywords) {
  PyObject* weights;
  Py_ssize_t batch_size, window = 1;
  static const char* names[] = {"weights", "batch_size", "window", nullptr};
  if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O!n|n", const_cast<char**>(names), &PyList_Type, &weights,
                                   &batch_size, &window))
    return -1;
  PyObject* done = bound([&] {
    const auto list = py::reinterpret_borrow<py::list>(weights);
    require(!list.empty() && batch_size >= 0 && window >= 1, "Stream: no layers, or a negative batch size or window");
    auto& slot = reinterpret_cast<StreamObject*>(self)->engine;
    require(!slot, kInitialised);
    const auto first = py::cast<std::shared_ptr<WeightsBase>>(list[0]);
    auto engine = std::make_unique<Engine>();
    with_dtype(first->dtype,
               [&](auto zero) { engine->runner = make_runner<decltype(zero)>(list, batch_size, window); });
    engine->B = batch_size, engine->I = first->I / window, engine->H = first->H, engine->R = first->R,
    engine->L = static_cast<Index>(list.size());
    engine->release = with_runner(*engine, [](const auto& runner) { return runner.flops(); }) > kReleaseFlops;
    engine->real = numpy_dtype(first->dtype);
    engine->token = py::dtype::of<std::int64_t>();
    Engine* none = nullptr;
    require(slot.compare_exchange_strong(none, engine.get()), kInitialised);
    engine.release();
    return py::none();
  });
  Py_XDECREF(done);
  return done ? 0 : -1;
}

void stream_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete reinterpret_cast<StreamObject*>(self)->engine.load();
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* stream_step(PyObject* self, PyObject* const* arguments, Py_ssize_t count, PyObject* keywords) {
  const Py_ssize_t named = keywords ? PyTuple_GET_SIZE(keywords) : 0;
  PyObject* given[2] = {count > 0 ? arguments[0] : nullptr, count > 1 ? arguments[1] : nullptr};
  for (Py_ssize_t i = 0; i < named; ++i) {
    PyObject* name = PyTuple_GET_ITEM(keywords, i);
    const int slot = PyUnicode_CompareWithASCIIString(name, "out") == 0 ? 1
                     : PyUnicode_CompareWithASCIIString(name, "x") == 0 ? 0
                                                                        : -1;
    if (slot < 0 || given[slot]) {
      PyErr_Format(PyExc_TypeError, "step() got an unexpected or repeated argument '%U'", name);
      return nullptr;
    }
    given[slot] = arguments[count + i];
  }
  if (count > 2 || !given[0]) {
    PyErr_Format(PyExc_TypeError, "step() takes x and out=None; %zd arguments were given", count + named);
    return nullptr;
  }
  return bound([&] { return step(self, given[0], given[1]); });
}

PyObject* stream_get_state(PyObject* self, PyObject*) {
  return bound([&]() -> py::object {
    Engine& e = *engine_of(self);
    const Turn turn(e);
    return with_runner(e, [&](const auto& runner) { return get_state_typed(runner, e); });
  });
}

PyObject* stream_set_state(PyObject* self, PyObject* state) {
  return bound([&] {
    Engine& e = *engine_of(self);
    const Turn turn(e);
    const auto parts = py::cast<py::tuple>(state);
    with_runner(e, [&](auto& runner) { set_state_typed(runner, e, parts); });
    return py::none();
  });
}

PyObject* stream_get_inputs(PyObject* self, PyObject*) {
  return bound([&]() -> py::object {
    Engine& e = *engine_of(self);
    const Turn turn(e);
    return with_runner(e, [&](const auto& runner) { return get_inputs_typed(runner); });
  });
}

PyObject* stream_set_inputs(PyObject* self, PyObject* inputs) {
  return bound([&] {
    Engine& e = *engine_of(self);
    const Turn turn(e);
    const auto parts = py::cast<py::tuple>(inputs);
    with_runner(e, [&](auto& runner) { set_inputs_typed(runner, parts); });
    return py::none();
  });
}

PyObject* stream_reset_rows(PyObject* self, PyObject* rows) {
  return bound([&] {
    Engine& e = *engine_of(self);
    const Turn turn(e);
    const std::uint8_t* which = flags(py::reinterpret_borrow<py::object>(rows), {e.B}, "reset_rows");
    const auto chosen = [&](Index b) { return !which || which[b] != 0; };
    with_runner(e, [&](auto& runner) { runner.reset(chosen); });
    return py::none();
  });
}

template <class F>
PyCFunction as_method(F f) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(f));
}

PyMethodDef stream_methods[] = {
    {"step", as_method(stream_step), METH_FASTCALL | METH_KEYWORDS,
     "step(x, out=None)\n--\n\nOne step: (B, I) floats or (B,) tokens in, (B, H) out."},
    {"get_state", stream_get_state, METH_NOARGS, "get_state()\n--\n\nCopies of the states, each (L, B, H)."},
    {"set_state", stream_set_state, METH_O, "set_state(state)\n--\n\nSet all states, each (L, B, H)."},
    {"get_inputs", stream_get_inputs, METH_NOARGS,
     "get_inputs()\n--\n\nWith a window, copies of each layer's last inputs, (B, window - 1, I)."},
    {"set_inputs", stream_set_inputs, METH_O, "set_inputs(inputs)\n--\n\nSet each layer's last inputs."},
    {"reset_rows", stream_reset_rows, METH_O,
     "reset_rows(rows)\n--\n\nZero the states and last inputs of these rows; None: all."},
    {nullptr, nullptr, 0, nullptr}};

PyType_Slot stream_slots[] = {{Py_tp_new, reinterpret_cast<void*>(stream_new)},
                              {Py_tp_init, reinterpret_cast<void*>(stream_init)},
                              {Py_tp_dealloc, reinterpret_cast<void*>(stream_dealloc)},
                              {Py_tp_methods, stream_methods},
                              {0, nullptr}};

PyType_Spec stream_spec = {"fusedrnn._core.Stream", sizeof(StreamObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
                           stream_slots};

}  // namespace

void add_stream(py::module_& module) {
  PyObject* type = PyType_FromSpec(&stream_spec);
  if (!type) throw py::error_already_set();
  module.attr("Stream") = py::reinterpret_steal<py::object>(type);
}

}  // namespace fusedrnn::python
