// The Python module: converts arrays to structs, allocates outputs and releases the GIL. Not here: any computation
// (core and kernels do it), checks with messages for users (python/fusedrnn/_validate.py), streams (stream.cpp), the C
// API (capi.cpp) and explain (explain.cpp). python/fusedrnn/_core.pyi describes the functions for Python; next, read
// core/forward.h.
#include <pthread.h>

#include <atomic>
#include <chrono>

#include "arrays.h"
#include "core/cpu.h"
#include "core/dispatch.h"
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

static py::array empty(const py::tuple& shape, const py::dtype& dtype) {
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
static py::array new_array(const py::dtype& dtype, const Index* sizes, int nd) {
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

// ---- weights ------------------------------------------------------------------------------------

static Activation activation_of(const py::handle& given) {
  const auto [name, alpha, beta] = py::cast<std::tuple<std::string, double, double>>(given);
  return {activation_named(name), alpha, beta};
}

static CellOptions options_of(const py::object& given) {
  CellOptions options;
  if (given.is_none()) return options;
  const auto fields = py::cast<py::tuple>(given);
  require(fields.size() == 6, "Weights: options are gate, state, output, clip, cell_clip, peephole");
  options.gate = activation_of(fields[0]);
  options.state = activation_of(fields[1]);
  options.output = activation_of(fields[2]);
  options.clip = py::cast<double>(fields[3]), options.cell_clip = py::cast<double>(fields[4]);
  require(options.clip > 0 && options.cell_clip > 0, "Weights: a clip is not positive");
  if (!fields[5].is_none()) {
    const auto peephole = py::cast<std::string>(fields[5]);
    require(peephole == "ifo" || peephole == "o_prev", "Weights: the peephole is ifo or o_prev");
    options.peephole = peephole == "ifo" ? kPeepholeIFO : kPeepholeOPrev;
  }
  return options;
}

// Parameters with one element per hidden unit: as many rows as the cell has, or only its last rows.
template <class T>
static T* unit_rows(const py::object& o, Index most, Index H, Index* rows, bool write, const char* name) {
  if (o.is_none()) return nullptr;
  const auto a = py::cast<py::array>(o);
  require(a.ndim() == 2 && a.shape(0) <= most, name);
  *rows = a.shape(0);
  return matrix<T>(a, *rows, H, nullptr, write, name);
}

// The parameters of a cell, or their gradients, by name; None means that there is no such parameter.
struct Parameters {
  py::object W_ih = py::none(), W_hh = py::none(), b_ih = py::none(), b_hh = py::none();
  py::object W_hr = py::none(), units = py::none();  // units: (rows, H), the cell's parameters per unit (peepholes)
  py::object gain_ih = py::none(), gain_hh = py::none(), gain_c = py::none(), bias_c = py::none();  // layer norm

  static Parameters of(const py::dict& given) {
    static constexpr std::pair<const char*, py::object Parameters::*> kNames[] = {
        {"W_ih", &Parameters::W_ih},       {"W_hh", &Parameters::W_hh},       {"b_ih", &Parameters::b_ih},
        {"b_hh", &Parameters::b_hh},       {"W_hr", &Parameters::W_hr},       {"units", &Parameters::units},
        {"gain_ih", &Parameters::gain_ih}, {"gain_hh", &Parameters::gain_hh}, {"gain_c", &Parameters::gain_c},
        {"bias_c", &Parameters::bias_c}};
    Parameters parameters;
    std::size_t known = 0;
    for (const auto& [name, member] : kNames)
      if (given.contains(name)) parameters.*member = given[name], ++known;
    require(known == given.size(), "parameters: an unknown name");
    return parameters;
  }
};

template <class T>
static std::shared_ptr<WeightsBase> make_weights(const Kernels& kernels, CellId cell, const Parameters& given,
                                                 bool training, const CellOptions& options, const py::tuple& zoneout,
                                                 const py::object& norm_eps) {
  const auto W_ih = py::cast<py::array>(given.W_ih), W_hh = py::cast<py::array>(given.W_hh);
  require(W_ih.ndim() == 2, "Weights: W_ih has two axes");
  const CellKernels<T>& kernel = table_of<T>(kernels).cells[cell];
  const Index I = W_ih.shape(1), rows = W_ih.shape(0), H = rows / kernel.gates;
  require(H >= 1 && I >= 1 && rows == H * kernel.gates, "Weights: the rows of W_ih are gates * hidden_size");
  Structure structure;
  if (!given.W_hr.is_none()) {
    const auto projection = py::cast<py::array>(given.W_hr);
    require(projection.ndim() == 2 && projection.shape(0) >= 1, "Weights: W_hr has two axes");
    structure.R = projection.shape(0);
  }
  const Index R = structure.R ? structure.R : H;
  RawWeights<T> raw{matrix<T>(W_ih, rows, I, nullptr, false, "W_ih"), matrix<T>(W_hh, rows, R, nullptr, false, "W_hh"),
                    vector<T>(given.b_ih, rows, false, "b_ih"), vector<T>(given.b_hh, rows, false, "b_hh")};
  raw.units = unit_rows<T>(given.units, kernel.unit_parameters, H, &raw.unit_rows, false, "units");
  if (structure.R) raw.W_hr = matrix<T>(py::cast<py::array>(given.W_hr), R, H, nullptr, false, "W_hr");
  if (!norm_eps.is_none()) {
    require(kernel.pack_norm, "Weights: this cell has no layer normalisation");
    raw.norm = {vector<T>(given.gain_ih, rows, false, "gain_ih"),
                vector<T>(given.gain_hh, rows, false, "gain_hh"),
                vector<T>(given.gain_c, H, false, "gain_c"),
                vector<T>(given.bias_c, H, false, "bias_c"),
                raw.b_ih,
                raw.b_hh,
                py::cast<double>(norm_eps)};
    require(raw.norm.gain_ih && raw.norm.gain_hh, "Weights: layer normalisation has gains for both products");
    require(kernel.states == 1 || (raw.norm.gain_c && raw.norm.bias_c),
            "Weights: layer normalisation has a gain and a bias of c");
    raw.b_ih = raw.b_hh = nullptr;  // pack_norm packs them: they are added after the normalisation
    structure.normed = true;
  }
  require(zoneout.size() == kMaxStates, "Weights: zoneout is a pair");
  for (std::size_t s = 0; s < kMaxStates; ++s) structure.zoneout[s] = py::cast<double>(zoneout[s]);
  return without_gil([&](Interrupt interrupt) -> std::shared_ptr<WeightsBase> {
    return std::make_shared<Weights<T>>(kernels, cell, options, I, H, raw, training, structure, interrupt);
  });
}

static std::shared_ptr<WeightsBase> make_weights(const std::string& cell, const Parameters& given, bool training,
                                                 const py::object& options, const py::tuple& zoneout,
                                                 const py::object& norm_eps, const WeightsBase* like) {
  const Kernels& kernels = like ? *like->kernels : current_kernels();
  return with_dtype(dtype_of(py::cast<py::array>(given.W_ih)), [&](auto zero) {
    return make_weights<decltype(zero)>(kernels, cell_named(cell), given, training, options_of(options), zoneout,
                                        norm_eps);
  });
}

// ---- forward and backward -----------------------------------------------------------------------

using WeightsPointer = std::shared_ptr<WeightsBase>;
using SchedulePointer = std::shared_ptr<Schedule>;

// The arguments for one layer and direction, as Python passes them.
struct ForwardArguments {
  WeightsPointer weights;
  py::array x;
  py::object state;  // a tuple, or None: zeros
  py::array y;
  py::tuple state_n;
  SchedulePointer schedule;
  bool reverse;
  py::object masks;
};
struct BackwardArguments {
  const TapeBase& tape;
  py::object dy;
  py::tuple dstate_n;
  py::object dx;
  bool accumulate;
  py::tuple dstate;
  py::dict dparams;
};

template <class T>
static ForwardCall<T> prepare(const ForwardArguments& given, bool training, ThreadLimit& threads) {
  const py::array& x = given.x;
  const SchedulePointer& schedule = given.schedule;
  const auto weights = std::static_pointer_cast<const Weights<T>>(given.weights);
  const Index steps = schedule->T(), B = schedule->B(), I = weights->I;
  const std::size_t states = static_cast<std::size_t>(weights->kernel().states);
  require(!training || weights->training, "forward: these weights were not packed for training");
  const bool zeros = given.state.is_none();
  const auto state = zeros ? py::tuple() : py::cast<py::tuple>(given.state);
  require((zeros || state.size() == states) && given.state_n.size() == states, "forward: wrong number of states");
  ForwardArrays<T> arrays;
  if (x.ndim() == 2 && is_native<std::int64_t>(x)) {
    require(x.shape(0) == steps && x.shape(1) == B && (x.flags() & py::array::c_style) && is_aligned<std::int64_t>(x),
            "forward: tokens are not a contiguous (T, B) array");
    arrays.tokens = static_cast<const std::int64_t*>(x.data());
  } else {
    arrays.x = strided<T>(x, steps, B, I, false, "x");
    arrays.x_direct = is_aligned<T>(x) && (I == 1 || arrays.x.feature == static_cast<Index>(sizeof(T)));
  }
  arrays.y = rows_of<T>(given.y, steps, B, weights->R, true, "y");
  for (std::size_t s = 0; s < states; ++s) {
    const Index units = weights->units(static_cast<int>(s));
    if (!zeros)
      arrays.state[s] = matrix<T>(py::cast<py::array>(state[s]), B, units, &arrays.state_stride[s], false, "state");
    arrays.state_n[s] =
        matrix<T>(py::cast<py::array>(given.state_n[s]), B, units, &arrays.state_n_stride[s], true, "state_n");
  }
  if (!given.masks.is_none()) {
    const auto masks = py::cast<py::tuple>(given.masks);
    require(training && masks.size() == 1 + kMaxStates, "forward: masks are for training: (recurrent, h, c)");
    if (!masks[0].is_none())
      arrays.recurrent_mask = matrix<T>(py::cast<py::array>(masks[0]), B, weights->R, &arrays.recurrent_mask_stride,
                                        false, "recurrent mask");
    for (std::size_t s = 0; s < states; ++s)
      if (!masks[s + 1].is_none())
        arrays.kept[s] = rows_of<bool>(py::cast<py::array>(masks[s + 1]), steps, B, weights->units(static_cast<int>(s)),
                                       false, "zoneout mask");
  }
  return ForwardCall<T>(weights, schedule, arrays, given.reverse, training, threads);
}

template <class T>
static BackwardCall<T> prepare(const BackwardArguments& given) {
  const py::object& dx = given.dx;
  require(given.tape.dtype == kDtypeOf<T>, "backward: tapes of different dtypes");
  const auto* tape = static_cast<const Tape<T>*>(&given.tape);
  const Weights<T>& weights = *tape->weights;
  const Index steps = tape->schedule->T(), B = tape->schedule->B(), I = weights.I, H = weights.H, R = weights.R;
  const Index rows = weights.kernel().gates * H;
  const std::size_t states = static_cast<std::size_t>(weights.kernel().states);
  require(given.dstate_n.size() == states && given.dstate.size() == states, "backward: wrong number of states");
  BackwardArrays<T> arrays;
  arrays.accumulate = given.accumulate;
  if (!given.dy.is_none()) arrays.dy = rows_of<T>(py::cast<py::array>(given.dy), steps, B, R, false, "dy");
  if (!dx.is_none()) {
    require(!tape->tokens, "backward: tokens have no gradient");
    arrays.dx = rows_of<T>(py::cast<py::array>(dx), steps, B, I, true, "dx");
  }
  for (std::size_t s = 0; s < states; ++s) {
    const Index units = weights.units(static_cast<int>(s));
    if (!given.dstate_n[s].is_none())
      arrays.dstate_n[s] =
          matrix<T>(py::cast<py::array>(given.dstate_n[s]), B, units, &arrays.dstate_n_stride[s], false, "dstate_n");
    arrays.dstate[s] =
        matrix<T>(py::cast<py::array>(given.dstate[s]), B, units, &arrays.dstate_stride[s], true, "dstate");
  }
  const Parameters d = Parameters::of(given.dparams);
  arrays.dW_ih = matrix<T>(py::cast<py::array>(d.W_ih), rows, I, nullptr, true, "dW_ih");
  arrays.dW_hh = matrix<T>(py::cast<py::array>(d.W_hh), rows, R, nullptr, true, "dW_hh");
  arrays.db_ih = vector<T>(d.b_ih, rows, true, "db_ih");
  arrays.db_hh = vector<T>(d.b_hh, rows, true, "db_hh");
  arrays.dunits = unit_rows<T>(d.units, weights.kernel().unit_parameters, H, &arrays.unit_rows, true, "dunits");
  require(d.W_hr.is_none() == !weights.structure.R, "backward: dW_hr is for projections");
  if (weights.structure.R) arrays.dW_hr = matrix<T>(py::cast<py::array>(d.W_hr), R, H, nullptr, true, "dW_hr");
  arrays.dgain_ih = vector<T>(d.gain_ih, rows, true, "dgain_ih");
  arrays.dgain_hh = vector<T>(d.gain_hh, rows, true, "dgain_hh");
  arrays.dgain_c = vector<T>(d.gain_c, H, true, "dgain_c");
  arrays.dbias_c = vector<T>(d.bias_c, H, true, "dbias_c");
  const bool normed = weights.structure.normed;
  require(normed || !(arrays.dgain_ih || arrays.dgain_hh || arrays.dgain_c || arrays.dbias_c),
          "backward: gradients of gains are for layer normalisation");
  require(!normed || (arrays.dgain_ih && arrays.dgain_hh && (states == 1 || (arrays.dgain_c && arrays.dbias_c))),
          "backward: a gradient of layer normalisation is missing");
  return BackwardCall<T>(*tape, arrays);
}

template <class T>
static py::list forward_typed(const std::vector<ForwardArguments>& several, Order order, bool training) {
  ThreadLimit threads;
  std::vector<ForwardCall<T>> calls;
  for (const ForwardArguments& one : several) calls.push_back(prepare<T>(one, training, threads));
  without_gil([&](Interrupt interrupt) { run_forward(calls, order, threads, interrupt); });
  py::list tapes;
  for (ForwardCall<T>& call : calls) tapes.append(py::cast(call.take_tape()));
  return tapes;
}

// Stacked calls: the x of each call is the y of the call before it.
static py::list forward(const std::vector<ForwardArguments>& several, Order order, bool training) {
  if (several.empty()) return py::list();
  const Dtype dtype = several.front().weights->dtype;
  for (const ForwardArguments& one : several)
    require(one.weights->dtype == dtype, "forward: weights of different dtypes");
  for (std::size_t i = 1; order == Order::kStacked && i < several.size(); ++i)
    require(several[i].x.is(several[i - 1].y) && several[i].schedule == several[0].schedule &&
                several[i].reverse == several[0].reverse,
            "forward_stacked: a layer does not read the one below it");
  return with_dtype(dtype, [&](auto zero) { return forward_typed<decltype(zero)>(several, order, training); });
}

// Converts calls as Python passes them: tuples of the arguments of `forward`.
static std::vector<ForwardArguments> forward_arguments(const py::list& calls) {
  std::vector<ForwardArguments> several;
  for (const py::handle& item : calls) {
    const auto c = py::cast<py::tuple>(item);
    require(c.size() == 8, "forward_all: a call has eight arguments");
    several.push_back({py::cast<WeightsPointer>(c[0]), py::cast<py::array>(c[1]), c[2], py::cast<py::array>(c[3]),
                       py::cast<py::tuple>(c[4]), py::cast<SchedulePointer>(c[5]), py::cast<bool>(c[6]), c[7]});
  }
  return several;
}

template <class T>
static void backward_typed(const std::vector<BackwardArguments>& several) {
  std::vector<BackwardCall<T>> calls;
  for (const BackwardArguments& one : several) calls.push_back(prepare<T>(one));
  without_gil([&](Interrupt interrupt) { run_backward(calls, interrupt); });
}

static void backward(const std::vector<BackwardArguments>& several) {
  if (several.empty()) return;
  with_dtype(several.front().tape.dtype, [&](auto zero) { backward_typed<decltype(zero)>(several); });
}

// For each state: its values before and after each step, zero where no step ran; then where steps ran.
template <class T>
static py::tuple read_states_typed(const Tape<T>& tape) {
  const auto T_ = tape.schedule->T(), B = tape.schedule->B();
  const auto zeros = [](const auto& shape, auto of) {
    py::array_t<decltype(of)> array(shape);
    std::fill_n(array.mutable_data(), array.size(), decltype(of)(0));
    return array;
  };
  auto ran = zeros(std::vector<py::ssize_t>{T_, B}, false);
  py::tuple before(tape.weights->kernel().states), after(before.size());
  for (std::size_t s = 0; s < before.size(); ++s) {
    const std::vector<py::ssize_t> shape{T_, B, tape.weights->units(static_cast<int>(s))};
    auto from = zeros(shape, T()), to = zeros(shape, T());
    read_states(tape, static_cast<int>(s), from.mutable_data(), to.mutable_data(), ran.mutable_data());
    before[s] = from, after[s] = to;
  }
  return py::make_tuple(before, after, ran);
}

// ---- schedules ----------------------------------------------------------------------------------

template <class T>
static void hold_typed(const Schedule& schedule, const py::array& y, bool reverse) {
  require(y.ndim() == 3, "hold: y has three axes");
  const Strided rows = rows_of<T>(y, schedule.T(), schedule.B(), y.shape(2), true, "y");
  const GilReleased released;
  hold<T>(schedule, rows, y.shape(2), reverse);
}

template <class T>
static py::array sum_held_typed(const Schedule& schedule, const py::array& dy, bool reverse) {
  require(dy.ndim() == 3, "sum_held: dy has three axes");
  const Strided rows = rows_of<T>(dy, schedule.T(), schedule.B(), dy.shape(2), false, "dy");
  py::array sums = empty(py::make_tuple(dy.shape(0), dy.shape(1), dy.shape(2)), dy.dtype());
  auto* to = static_cast<T*>(sums.mutable_data());
  {
    const GilReleased released;
    sum_held<T>(schedule, rows, to, dy.shape(2), reverse);
  }
  return sums;
}

// Whether `o` is a plain array (L, B, units) that can be read in place.
template <class T>
static bool plain_state(const py::handle& o, Index L, Index B, Index units) {
  if (Py_TYPE(o.ptr()) != py::detail::npy_api::get().PyArray_Type_) return false;
  const auto a = py::reinterpret_borrow<py::array>(o);
  return is_native<T>(a) && is_aligned<T>(a) && (a.flags() & py::array::c_style) && a.ndim() == 3 && a.shape(0) == L &&
         a.shape(1) == B && a.shape(2) == units;
}

// Bytes: up to this size, the outputs of all inner layers exist at once
static constexpr double kInnerOutputs = 64 << 20;

// The usual call of a one-directional layer in a single C++ function: with one step and one row, the way through Python
// takes longer than the kernels. Returns y and the state; or None, if x or the initial state is not a plain array of
// the right shape and Python has to look at it.
template <class T>
static py::object infer_typed(const std::vector<WeightsPointer>& layers, const py::array& x, bool batch_first,
                              const py::handle& given) {
  const auto L = static_cast<Index>(layers.size()), I = layers.front()->I, H = layers.front()->H, R = layers.front()->R;
  if (!is_native<T>(x) || x.ndim() != 3 || x.shape(2) != I || x.size() == 0) return py::none();
  const Index steps = x.shape(batch_first), B = x.shape(!batch_first), item = sizeof(T);
  const auto dtype = py::dtype::of<T>();
  const auto schedule = std::make_shared<const Schedule>(steps, B, nullptr);
  const auto weights_of = [&](std::size_t l) { return std::static_pointer_cast<const Weights<T>>(layers[l]); };
  const auto states = static_cast<std::size_t>(weights_of(0)->kernel().states);
  py::array y, states_n[kMaxStates];
  const T* initial[kMaxStates] = {};
  const bool pair = states == 2 && !given.is_none();
  if (pair && (!PyTuple_CheckExact(given.ptr()) || PyTuple_GET_SIZE(given.ptr()) != 2)) return py::none();
  for (std::size_t s = 0; s < states; ++s) {
    const Index units = s == 0 ? R : H, shape[] = {L, B, units};
    if (!given.is_none()) {
      const py::handle part = pair ? py::handle(PyTuple_GET_ITEM(given.ptr(), static_cast<Py_ssize_t>(s))) : given;
      if (!plain_state<T>(part, L, B, units)) return py::none();
      initial[s] = static_cast<const T*>(py::reinterpret_borrow<py::array>(part).data());
    }
    states_n[s] = new_array(dtype, shape, 3);
  }
  Strided input{static_cast<char*>(const_cast<void*>(x.data())), x.strides(batch_first), x.strides(!batch_first),
                x.strides(2)};
  bool direct = is_aligned<T>(x) && (I == 1 || input.feature == item);
  // Layers that may run side by side need all outputs at once. With large outputs, layers run one after the other, so
  // that there are never more than two outputs. unroll.py has the same limit.
  const bool at_once = static_cast<double>(L - 1) * static_cast<double>(steps * B * R * item) <= kInnerOutputs;
  std::vector<ForwardCall<T>> calls;
  std::vector<py::array> inner;
  ThreadLimit threads;
  const auto run = [&] {
    without_gil([&](Interrupt interrupt) { run_forward(calls, Order::kStacked, threads, interrupt); });
    calls.clear(), inner.clear();
  };
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const auto weights = weights_of(l);
    require(weights->dtype == kDtypeOf<T> && weights->H == H && weights->R == R && (l == 0 || weights->I == R),
            "infer: layers do not fit each other");
    const bool swapped = batch_first && l + 1 == layers.size();
    const Index shape[] = {swapped ? B : steps, swapped ? steps : B, R};
    const py::array output = new_array(dtype, shape, 3);
    ForwardArrays<T> arrays;
    arrays.x = input, arrays.x_direct = direct;
    arrays.y = {static_cast<char*>(const_cast<void*>(output.data())), (swapped ? 1 : B) * R * item,
                (swapped ? steps : 1) * R * item, item};
    for (std::size_t s = 0; s < states; ++s) {
      const Index units = weights->units(static_cast<int>(s));
      arrays.state_n[s] = static_cast<T*>(states_n[s].mutable_data()) + static_cast<Index>(l) * B * units;
      arrays.state_n_stride[s] = units;
      if (initial[s]) arrays.state[s] = initial[s] + static_cast<Index>(l) * B * units, arrays.state_stride[s] = units;
    }
    calls.emplace_back(weights, schedule, arrays, false, false, threads);
    if (!at_once) run();
    inner.push_back(output);
    y = output, input = arrays.y, direct = true;
  }
  if (at_once) run();
  if (states == 1) return py::make_tuple(y, states_n[0]);
  return py::make_tuple(y, py::make_tuple(states_n[0], states_n[1]));
}

static PyObject* infer_bound(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  return bound([&]() -> py::object {
    require(count == 4 && PyList_Check(arguments[0]), "infer: takes a list of weights, x, batch_first and a state");
    if (Py_TYPE(arguments[1]) != py::detail::npy_api::get().PyArray_Type_) return py::none();
    std::vector<WeightsPointer> layers;
    for (const py::handle& item : py::reinterpret_borrow<py::list>(arguments[0]))
      layers.push_back(py::cast<WeightsPointer>(item));
    require(!layers.empty(), "infer: no weights");
    const auto x = py::reinterpret_borrow<py::array>(arguments[1]);
    const bool batch_first = arguments[2] == Py_True;
    return with_dtype(layers.front()->dtype,
                      [&](auto zero) { return infer_typed<decltype(zero)>(layers, x, batch_first, arguments[3]); });
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
      const CellKernels<float>& kernel = current_kernels().f32.cells[id];
      py::list forms;
      for (int form = 0; form < kFormCount; ++form)
        if (kernel.forward[form]) forms.append(name_of(static_cast<Form>(form)));
      cells[name_of(static_cast<CellId>(id))] = py::dict(
          "gates"_a = kernel.gates, "states"_a = kernel.states, "units"_a = kernel.unit_parameters, "forms"_a = forms);
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
  const auto by_hand = [](const char* name, auto* function, const char* doc) {
    return PyMethodDef{name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL, doc};
  };
  static PyMethodDef functions[] = {
      by_hand("empty", empty_bound, "empty(shape, dtype, /)\n--\n\nAn uninitialised C-contiguous array."),
      by_hand("infer", infer_bound,
              "infer(weights, x, batch_first, state, /)\n--\n\nThe usual call of a one-way layer."),
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

  py::class_<Schedule, std::shared_ptr<Schedule>>(m, "Schedule", py::is_final())
      .def(py::init([](Index T, Index B, const py::object& lengths, const py::object& mask, const py::object& reset) {
             return std::make_shared<Schedule>(T, B, vector<std::int64_t>(lengths, B, false, "lengths"),
                                               flags(mask, {B, T}, "mask"), flags(reset, {B, T}, "reset"));
           }),
           "T"_a, "B"_a, "lengths"_a = py::none(), "mask"_a = py::none(), "reset"_a = py::none())
      .def_property_readonly("T", &Schedule::T)
      .def_property_readonly("B", &Schedule::B)
      .def_property_readonly("rows", &Schedule::row_count)
      .def(
          "hold",
          [](const Schedule& s, const py::array& y, bool reverse) {
            with_dtype(dtype_of(y), [&](auto zero) { hold_typed<decltype(zero)>(s, y, reverse); });
          },
          "y"_a, "reverse"_a)
      .def(
          "sum_held",
          [](const Schedule& s, const py::array& dy, bool reverse) {
            return with_dtype(dtype_of(dy), [&](auto zero) { return sum_held_typed<decltype(zero)>(s, dy, reverse); });
          },
          "dy"_a, "reverse"_a);

  py::class_<WeightsBase, std::shared_ptr<WeightsBase>>(m, "Weights", py::is_final())
      .def(py::init([](const std::string& cell, const py::dict& parameters, bool training, const py::object& options,
                       const py::tuple& zoneout, const py::object& norm_eps, const WeightsBase* like) {
             return make_weights(cell, Parameters::of(parameters), training, options, zoneout, norm_eps, like);
           }),
           "cell"_a, "parameters"_a, "training"_a, "options"_a = py::none(), "zoneout"_a = py::make_tuple(0.0, 0.0),
           "norm_eps"_a = py::none(), "like"_a = py::none())
      .def_property_readonly("nbytes", [](const WeightsBase& w) { return w.nbytes; })
      .def_property_readonly("isa", [](const WeightsBase& w) { return w.kernels->name; })
      .def_property_readonly("cell", [](const WeightsBase& w) { return name_of(w.cell); })
      .def_property_readonly("dtype", [](const WeightsBase& w) { return numpy_dtype(w.dtype); })
      .def_property_readonly("input_size", [](const WeightsBase& w) { return w.I; })
      .def_property_readonly("hidden_size", [](const WeightsBase& w) { return w.H; })
      .def_property_readonly("output_size", [](const WeightsBase& w) { return w.R; });

  // The fastest way to make weights: the parameters that most cells have, in torch's order.
  m.def(
      "usual_weights",
      [](const std::string& cell, const py::object& W_ih, const py::object& W_hh, const py::object& b_ih,
         const py::object& b_hh, bool training, const WeightsBase* like) {
        Parameters given;
        given.W_ih = W_ih, given.W_hh = W_hh, given.b_ih = b_ih, given.b_hh = b_hh;
        static const py::tuple& never = *new py::tuple(py::make_tuple(0.0, 0.0));
        return make_weights(cell, given, training, py::none(), never, py::none(), like);
      },
      "cell"_a, "W_ih"_a, "W_hh"_a, "b_ih"_a, "b_hh"_a, "training"_a, "like"_a = py::none());

  py::class_<TapeBase>(m, "Tape", py::is_final())
      .def_property_readonly("nbytes", [](const TapeBase& t) { return t.nbytes; })
      .def("read_states", [](const TapeBase& t) {
        return with_dtype(t.dtype,
                          [&](auto zero) { return read_states_typed(static_cast<const Tape<decltype(zero)>&>(t)); });
      });

  m.def(
      "forward",
      [](const WeightsPointer& weights, const py::array& x, const py::object& state, const py::array& y,
         const py::tuple& state_n, const SchedulePointer& schedule, bool reverse, bool training,
         const py::object& masks) -> py::object {
        return forward({{weights, x, state, y, state_n, schedule, reverse, masks}}, Order::kIndependent, training)[0];
      },
      "weights"_a, "x"_a, "state"_a, "y"_a, "state_n"_a, "schedule"_a, "reverse"_a, "training"_a,
      "masks"_a = py::none());
  m.def(
      "forward_all",
      [](const py::list& calls, bool training) {
        return forward(forward_arguments(calls), Order::kIndependent, training);
      },
      "calls"_a, "training"_a);
  m.def(
      "forward_stacked",
      [](const py::list& calls) { return forward(forward_arguments(calls), Order::kStacked, false); }, "calls"_a);
  m.def(
      "backward",
      [](const TapeBase& tape, const py::object& dy, const py::tuple& dstate_n, const py::object& dx, bool accumulate,
         const py::tuple& dstate,
         const py::dict& dparams) { backward({{tape, dy, dstate_n, dx, accumulate, dstate, dparams}}); },
      "tape"_a, "dy"_a, "dstate_n"_a, "dx"_a, "accumulate"_a, "dstate"_a, "dparams"_a);
  m.def(
      "backward_all",
      [](const py::list& calls) {
        std::vector<BackwardArguments> several;
        for (const py::handle& item : calls) {
          const auto c = py::cast<py::tuple>(item);
          require(c.size() == 7, "backward_all: a call has seven arguments");
          several.push_back({py::cast<const TapeBase&>(c[0]), c[1], py::cast<py::tuple>(c[2]), c[3],
                             py::cast<bool>(c[4]), py::cast<py::tuple>(c[5]), py::cast<py::dict>(c[6])});
        }
        backward(several);
      },
      "calls"_a);
  add_stream(m);
  add_c_api(m);
  add_explain(m);
}

}  // namespace fusedrnn::python
