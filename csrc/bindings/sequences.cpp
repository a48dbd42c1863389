// Whole sequences: arrays in, calls of core/forward.h and core/backward.h, arrays out. Schedules and tapes.
#include "arrays.h"
#include "gil.h"
#include "parameters.h"

namespace fusedrnn::python {

using namespace pybind11::literals;

using WeightsPointer = std::shared_ptr<WeightsBase>;
using SchedulePointer = std::shared_ptr<Schedule>;

// The arguments for one layer and direction, as Python passes them.
struct ForwardArguments {
  WeightsPointer weights;
  py::array x;
  py::object state;  // a tuple, or None, also for a part: the own initial state
  py::array y;
  py::tuple state_n;
  SchedulePointer schedule;
  bool reverse;
  py::object masks;
  py::object initial;  // a tuple, or None, also for a part: zeros
};
struct BackwardArguments {
  const TapeBase& tape;
  py::object dy;
  py::tuple dstate_n;
  py::object dx;
  bool accumulate;
  py::tuple dstate;
  py::dict dparams;
  py::object dinitial;  // a tuple, or None
};

// A part of a tuple of `count` parts, borrowed; None if there is no tuple.
static py::handle part_of(const py::object& state, std::size_t part, std::size_t count, const char* name) {
  if (state.is_none()) return Py_None;
  require(PyTuple_Check(state.ptr()) && PyTuple_GET_SIZE(state.ptr()) == static_cast<Py_ssize_t>(count), name);
  return PyTuple_GET_ITEM(state.ptr(), static_cast<Py_ssize_t>(part));
}

template <class T>
static ForwardCall<T> prepare(const ForwardArguments& given, bool training, ThreadLimit& threads) {
  const py::array& x = given.x;
  const SchedulePointer& schedule = given.schedule;
  const auto weights = std::static_pointer_cast<const Weights<T>>(given.weights);
  const Index B = schedule->B(), I = weights->I;
  const std::size_t states = static_cast<std::size_t>(weights->kernel().states);
  require(!training || weights->training, "forward: these weights were not packed for training");
  require(given.state_n.size() == states, "forward: wrong number of states");
  ForwardArrays<T> arrays;
  if (x.ndim() == 2 && is_native<std::int64_t>(x)) {
    require(x.shape(0) == schedule->T() && x.shape(1) == schedule->columns() && (x.flags() & py::array::c_style) &&
                is_aligned<std::int64_t>(x),
            "forward: tokens are not a contiguous (T, B) array");
    arrays.tokens = static_cast<const std::int64_t*>(x.data());
  } else {
    arrays.x = strided<T>(x, *schedule, I, false, "x");
    arrays.x_direct = is_aligned<T>(x) && (I == 1 || arrays.x.feature == static_cast<Index>(sizeof(T)));
  }
  arrays.y = rows_of<T>(given.y, *schedule, weights->R, true, "y");
  for (std::size_t s = 0; s < states; ++s) {
    const Index units = weights->units(static_cast<int>(s));
    const py::handle state = part_of(given.state, s, states, "forward: wrong number of states"),
                     initial = part_of(given.initial, s, states, "forward: wrong number of own initial states");
    if (!state.is_none())
      arrays.state[s] = matrix<T>(py::cast<py::array>(state), B, units, &arrays.state_stride[s], false, "state");
    arrays.initial[s] = vector<T>(py::reinterpret_borrow<py::object>(initial), units, false, "initial");
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
        arrays.kept[s] = rows_of<bool>(py::cast<py::array>(masks[s + 1]), *schedule,
                                       weights->units(static_cast<int>(s)), false, "zoneout mask");
  }
  return ForwardCall<T>(weights, schedule, arrays, given.reverse, training, threads);
}

template <class T>
static BackwardCall<T> prepare(const BackwardArguments& given) {
  const py::object& dx = given.dx;
  require(given.tape.dtype == kDtypeOf<T>, "backward: tapes of different dtypes");
  const auto* tape = static_cast<const Tape<T>*>(&given.tape);
  const Weights<T>& weights = *tape->weights;
  const Schedule& schedule = *tape->schedule;
  const Index B = schedule.B(), I = weights.I, H = weights.H, R = weights.R;
  const Index rows = weights.kernel().gates * H;
  const std::size_t states = static_cast<std::size_t>(weights.kernel().states);
  require(given.dstate_n.size() == states && given.dstate.size() == states, "backward: wrong number of states");
  BackwardArrays<T> arrays;
  arrays.accumulate = given.accumulate;
  if (!given.dy.is_none()) arrays.dy = rows_of<T>(py::cast<py::array>(given.dy), schedule, R, false, "dy");
  if (!dx.is_none()) {
    require(!tape->tokens, "backward: tokens have no gradient");
    arrays.dx = rows_of<T>(py::cast<py::array>(dx), schedule, I, true, "dx");
  }
  for (std::size_t s = 0; s < states; ++s) {
    const Index units = weights.units(static_cast<int>(s));
    if (!given.dstate_n[s].is_none())
      arrays.dstate_n[s] =
          matrix<T>(py::cast<py::array>(given.dstate_n[s]), B, units, &arrays.dstate_n_stride[s], false, "dstate_n");
    arrays.dstate[s] =
        matrix<T>(py::cast<py::array>(given.dstate[s]), B, units, &arrays.dstate_stride[s], true, "dstate");
    const py::handle dinitial = part_of(given.dinitial, s, states, "backward: wrong number of own initial states");
    if (!dinitial.is_none())
      arrays.dinitial[s] =
          matrix<T>(py::cast<py::array>(dinitial), B, units, &arrays.dinitial_stride[s], true, "dinitial");
  }
  const Parameters d = Parameters::of(given.dparams);
  arrays.dW_ih = matrix<T>(py::cast<py::array>(d.W_ih), rows, I, nullptr, true, "dW_ih");
  require(d.W_hh.is_none() != weights.kernel().recurrent, "backward: dW_hh is for cells with a recurrent matrix");
  if (weights.kernel().recurrent)
    arrays.dW_hh = matrix<T>(py::cast<py::array>(d.W_hh), rows, R, nullptr, true, "dW_hh");
  arrays.db_ih = vector<T>(d.b_ih, rows, true, "db_ih");
  arrays.db_hh = vector<T>(d.b_hh, rows, true, "db_hh");
  arrays.dunits = unit_rows<T>(d.units, weights.kernel().unit_parameters, H / weights.kernel().sharing,
                               &arrays.unit_rows, true, "dunits");
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
    require(c.size() == 9, "forward_all: a call has nine arguments");
    several.push_back({py::cast<WeightsPointer>(c[0]), py::cast<py::array>(c[1]), c[2], py::cast<py::array>(c[3]),
                       py::cast<py::tuple>(c[4]), py::cast<SchedulePointer>(c[5]), py::cast<bool>(c[6]), c[7], c[8]});
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
  const auto T_ = tape.schedule->T(), B = tape.schedule->columns();
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
  const Strided rows = rows_of<T>(y, schedule, y.shape(2), true, "y");
  const GilReleased released;
  hold<T>(schedule, rows, y.shape(2), reverse);
}

template <class T>
static py::array sum_held_typed(const Schedule& schedule, const py::array& dy, bool reverse) {
  require(dy.ndim() == 3, "sum_held: dy has three axes");
  const Strided rows = rows_of<T>(dy, schedule, dy.shape(2), false, "dy");
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

void add_sequences(py::module_& m) {
  static PyMethodDef functions[] = {
      by_hand("infer", infer_bound,
              "infer(weights, x, batch_first, state, /)\n--\n\nThe usual call of a one-way layer."),
      {nullptr, nullptr, 0, nullptr}};
  if (PyModule_AddFunctions(m.ptr(), functions) < 0) throw py::error_already_set();
  py::class_<Schedule, std::shared_ptr<Schedule>>(m, "Schedule", py::is_final())
      .def(py::init([](Index T, Index B, const py::object& lengths, const py::object& mask, const py::object& reset) {
             return std::make_shared<Schedule>(T, B, vector<std::int64_t>(lengths, B, false, "lengths"),
                                               flags(mask, {B, T}, "mask"), flags(reset, {B, T}, "reset"));
           }),
           "T"_a, "B"_a, "lengths"_a = py::none(), "mask"_a = py::none(), "reset"_a = py::none())
      .def_static(
          "packed",
          [](const py::array& lengths, bool by_step, const py::object& mask, const py::object& reset) {
            const auto* const n = vector<std::int64_t>(lengths, lengths.size(), false, "lengths");
            std::vector<Index> own(n, n + lengths.size());  // the lengths that are added up are those that are used
            Index steps = 0;
            for (const Index length : own)
              require(length >= 0 && !__builtin_add_overflow(steps, length, &steps), "lengths: negative or too large");
            return std::make_shared<Schedule>(std::move(own), by_step ? Schedule::kByStep : Schedule::kByRow,
                                              flags(mask, {steps}, "mask"), flags(reset, {steps}, "reset"));
          },
          "lengths"_a, "by_step"_a = false, "mask"_a = py::none(), "reset"_a = py::none())
      .def_property_readonly("T", &Schedule::T)
      .def_property_readonly("B", &Schedule::B)
      .def_property_readonly("columns", &Schedule::columns)
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
         const py::object& masks, const py::object& initial) -> py::object {
        return forward({{weights, x, state, y, state_n, schedule, reverse, masks, initial}}, Order::kIndependent,
                       training)[0];
      },
      "weights"_a, "x"_a, "state"_a, "y"_a, "state_n"_a, "schedule"_a, "reverse"_a, "training"_a,
      "masks"_a = py::none(), "initial"_a = py::none());
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
         const py::tuple& dstate, const py::dict& dparams,
         const py::object& dinitial) { backward({{tape, dy, dstate_n, dx, accumulate, dstate, dparams, dinitial}}); },
      "tape"_a, "dy"_a, "dstate_n"_a, "dx"_a, "accumulate"_a, "dstate"_a, "dparams"_a, "dinitial"_a = py::none());
  m.def(
      "backward_all",
      [](const py::list& calls) {
        std::vector<BackwardArguments> several;
        for (const py::handle& item : calls) {
          const auto c = py::cast<py::tuple>(item);
          require(c.size() == 8, "backward_all: a call has eight arguments");
          several.push_back({py::cast<const TapeBase&>(c[0]), c[1], py::cast<py::tuple>(c[2]), c[3],
                             py::cast<bool>(c[4]), py::cast<py::tuple>(c[5]), py::cast<py::dict>(c[6]), c[7]});
        }
        backward(several);
      },
      "calls"_a);
}

}  // namespace fusedrnn::python
