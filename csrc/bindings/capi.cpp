// The C API, for C and Cython: implements python/fusedrnn/include/fusedrnn.h on top of core. No exception and no Python
// object crosses the API; callers may be wrong about everything except the sizes of their arrays, so every call checks
// its arguments first. Not here: computation (core), and the Python module (module.cpp). docs/c-api.md describes the
// API for users; next, read core/forward.h.
#include "capi_arguments.h"

namespace fusedrnn::capi {

// ---- weights ------------------------------------------------------------------------------------

template <class T>
static std::shared_ptr<const WeightsBase> pack(const fusedrnn_layer& layer) {
  const CellId cell = cell_named(layer.cell);
  const Kernels& kernels = current_kernels();  // asked once: another thread may select other kernels in the meantime
  const CellKernels<T>& kernel = table_of<T>(kernels).cell(cell);
  const int states = kernel.states;
  RawWeights<T> raw{needed<T>("W_ih", layer.W_ih), kernel.recurrent ? needed<T>("W_hh", layer.W_hh) : nullptr,
                    aligned<T>("b_ih", layer.b_ih), aligned<T>("b_hh", layer.b_hh)};
  if (!kernel.recurrent && (layer.W_hh || layer.b_hh))
    invalid("W_hh or b_hh is given, but %s has no recurrent matrix; expected NULL", layer.cell);
  if (kernel.recurrent && layer.units) invalid("units is given, but %s has no parameters per unit here", layer.cell);
  if (!kernel.recurrent && kernel.unit_parameters > 0)
    raw.units = needed<T>("units", layer.units), raw.unit_rows = kernel.unit_parameters;
  else if (layer.units) invalid("units is given, but %s has no parameters per unit", layer.cell);
  if (layer.hidden_size % kernel.sharing)
    invalid("hidden_size is %td; %s has pairs of units, which needs an even number", layer.hidden_size, layer.cell);
  if (kernel.skip && layer.input_size != layer.hidden_size)
    invalid("input_size is %td; %s takes x itself, which needs input_size = hidden_size = %td", layer.input_size,
            layer.cell, layer.hidden_size);
  Structure structure;
  if (layer.proj_size) {
    if (states < 2 || !kernel.recurrent)
      invalid("proj_size is %td, but %s is no LSTM; expected 0", layer.proj_size, layer.cell);
    if (layer.proj_size < 1 || layer.proj_size >= layer.hidden_size)
      invalid("proj_size is %td; expected less than hidden_size = %td, or 0 for none", layer.proj_size,
              layer.hidden_size);
    structure.R = layer.proj_size;
    raw.W_hr = needed<T>("W_hr", layer.W_hr);
  } else if (layer.W_hr) {
    invalid("W_hr is given, but proj_size is 0");
  }
  const double rates[] = {layer.zoneout_h, layer.zoneout_c};
  for (int s = 0; s < kMaxStates; ++s) {
    const char* const name = s ? "zoneout_c" : "zoneout_h";
    if (!(rates[s] >= 0 && rates[s] < 1)) invalid("%s is %g; expected 0 <= %s < 1", name, rates[s], name);
    if (rates[s] != 0 && s >= states) invalid("%s is %g, but this cell's only state is h", name, rates[s]);
    structure.zoneout[s] = rates[s];
  }
  return std::make_shared<Weights<T>>(kernels, cell, CellOptions{}, layer.input_size, layer.hidden_size, raw,
                                      layer.training != 0, structure);
}

static int weights_new(const fusedrnn_layer* given, fusedrnn_weights** weights) {
  return guarded("weights_new", [&] {
    const fusedrnn_layer layer = taken(given);
    if (!weights) invalid("there is nowhere to put the weights: NULL");
    if (!layer.cell) invalid("cell is NULL");
    constexpr Index kLargest = 2147483647;
    for (const auto& [name, n] :
         {std::pair("input_size", layer.input_size), std::pair("hidden_size", layer.hidden_size)})
      if (n < 1 || n > kLargest) invalid("%s is %td; expected 1 to %td", name, n, kLargest);
    if (layer.dtype != FUSEDRNN_FLOAT32 && layer.dtype != FUSEDRNN_FLOAT64)
      invalid("dtype is %d; expected FUSEDRNN_FLOAT32 or FUSEDRNN_FLOAT64", layer.dtype);
    auto made = std::make_unique<fusedrnn_weights>();
    made->base = with_dtype(layer.dtype == FUSEDRNN_FLOAT64 ? Dtype::kFloat64 : Dtype::kFloat32,
                            [&](auto zero) { return pack<decltype(zero)>(layer); });
    *weights = made.release();
  });
}

const WeightsBase& base_of(const fusedrnn_weights* weights) {
  if (!weights) invalid("weights are NULL");
  return *weights->base;
}

static int weights_share(const fusedrnn_weights* weights, fusedrnn_weights** again) {
  return guarded("weights_share", [&] {
    base_of(weights);
    if (!again) invalid("there is nowhere to put the weights: NULL");
    *again = new fusedrnn_weights{weights->base};
  });
}

template <class T>
static const CellKernels<T>& kernel_of(const WeightsBase& weights) {
  return static_cast<const Weights<T>&>(weights).kernel();
}

static int weights_info(const fusedrnn_weights* weights, fusedrnn_info* info) {
  return guarded("weights_info", [&] {
    const WeightsBase& base = base_of(weights);
    const std::size_t size = size_of(info);
    fusedrnn_info all{};
    all.size = size;
    all.cell = name_of(base.cell);
    all.isa = base.kernels->name;
    all.dtype = base.dtype == Dtype::kFloat64 ? FUSEDRNN_FLOAT64 : FUSEDRNN_FLOAT32;
    all.training = base.training;
    with_dtype(base.dtype, [&](auto zero) {
      const auto& kernel = kernel_of<decltype(zero)>(base);
      all.gates = kernel.gates, all.states = kernel.states;
    });
    all.input_size = base.I, all.hidden_size = base.H;
    all.nbytes = base.nbytes;
    all.output_size = base.R;
    std::memcpy(info, &all, std::min(size, sizeof all));
  });
}

static void weights_free(fusedrnn_weights* weights) { delete weights; }

// ---- forward and backward -----------------------------------------------------------------------

void check_states(int states, const void* c_in, const void* c_out, const char* name) {
  if (states < 2 && (c_in || c_out)) invalid("%s is given, but this cell's only state is h", name);
}

template <class T>
static void forward_typed(const std::shared_ptr<const WeightsBase>& base, const fusedrnn_forward& a,
                          fusedrnn_tape** tape) {
  const auto weights = std::static_pointer_cast<const Weights<T>>(base);
  const Index I = weights->I, R = weights->R;
  const int states = weights->kernel().states;
  if (a.T < 0 || a.B < 0) invalid("T is %td, B is %td; expected >= 0", a.T, a.B);
  if (tape && !weights->training) invalid("a tape is wanted, but the weights were not packed for training");
  check_states(states, a.c_0, a.c_n, "c");
  check_states(states, a.zoneout_c, nullptr, "zoneout_c");
  check_states(states, a.c_initial, nullptr, "c_initial");
  if (!tape && (a.recurrent_mask || a.zoneout_h || a.zoneout_c))
    invalid("masks are given, but no tape is wanted: they act in training alone");
  // A copy: the lengths that were checked are the ones used, whatever other threads write to the caller's array.
  std::vector<std::int64_t> own_lengths;
  if (a.lengths) own_lengths.assign(a.lengths, a.lengths + a.B);
  const std::int64_t* const lengths = a.lengths ? own_lengths.data() : nullptr;
  for (Index b = 0; lengths && b < a.B; ++b)
    if (lengths[b] < 0 || lengths[b] > a.T)
      invalid("lengths[%td] is %lld; expected 0 to T = %td", b, static_cast<long long>(lengths[b]), a.T);
  const bool packed = a.packed != 0;
  if (packed && !lengths && a.B > 0) invalid("lengths is NULL; packed arrays require lengths");
  Index left = a.T;
  for (const std::int64_t n : own_lengths) left = left < n ? -1 : left - n;
  if (packed && left != 0) invalid("the lengths do not sum to T = %td, as packed arrays require", a.T);
  const Index rows = packed ? 1 : a.B;
  const std::vector<std::uint8_t> mask = step_flags(a.mask, a.T, rows), reset = step_flags(a.reset, a.T, rows);
  const std::uint8_t *const masked = a.mask ? mask.data() : nullptr, *const cut = a.reset ? reset.data() : nullptr;
  const auto schedule =
      packed ? std::make_shared<const Schedule>(std::vector<Index>(own_lengths.begin(), own_lengths.end()),
                                                Schedule::kByRow, masked, cut)
             : std::make_shared<const Schedule>(a.T, a.B, lengths, masked, cut);
  const Index columns = schedule->columns();
  const bool any = schedule->row_count() > 0;
  if (any && !a.x && !a.tokens) invalid("x and tokens are NULL");
  if (a.x && a.tokens) invalid("x and tokens are given; expected one of them");

  Footprint footprint;
  ForwardArrays<T> arrays;
  if (a.tokens) {
    arrays.tokens = aligned<const std::int64_t>("tokens", a.tokens);
    footprint.add("tokens", false, a.tokens, bytes_of({a.T, columns}, sizeof(std::int64_t)));
  } else {
    arrays.x = rows_of<T>(footprint, "x", false, a.x, a.x_time, a.x_batch, *schedule, I);
  }
  if (a.recurrent_mask) {
    arrays.recurrent_mask = aligned<T>("recurrent_mask", a.recurrent_mask);
    if (!weights->kernel().recurrent) invalid("recurrent_mask is given, but this cell has no recurrent product");
    arrays.recurrent_mask_stride = R;
    footprint.add("recurrent_mask", false, a.recurrent_mask, bytes_of({a.B, R}, sizeof(T)));
  }
  const unsigned char* const kept[] = {a.zoneout_h, a.zoneout_c};
  for (int s = 0; s < states; ++s) {
    const char* const name = s ? "zoneout_c" : "zoneout_h";
    if (kept[s]) arrays.kept[s] = flags(footprint, name, kept[s], *schedule, lengths, weights->units(s));
    else if (tape && weights->structure.zoneout[s] != 0 && schedule->B() > 0)
      invalid("%s is NULL, but the weights have a rate of %g; expected the mask of this call", name,
              weights->structure.zoneout[s]);
  }
  arrays.y = rows_of<T>(footprint, "y", true, a.y, a.y_time, a.y_batch, *schedule, R);
  const void *const given[] = {a.h_0, a.c_0}, *const own[] = {a.h_initial, a.c_initial};
  void* const last[] = {a.h_n, a.c_n};
  Spare spare;
  for (int s = 0; s < states; ++s) {
    arrays.state[s] = aligned<T>(s ? "c_0" : "h_0", given[s]);
    const Index n = weights->units(s);
    const char* const name = s ? "c_initial" : "h_initial";
    arrays.initial[s] = aligned<T>(name, own[s]);
    footprint.add(name, false, own[s], bytes_of({n}, sizeof(T)));
    arrays.state_n[s] = spare.instead_of(block<T>(footprint, s ? "c_n" : "h_n", last[s], {a.B, n}), {a.B, n});
    arrays.state_stride[s] = arrays.state_n_stride[s] = n;
  }
  auto handle = tape ? std::make_unique<fusedrnn_tape>() : nullptr;
  std::vector<ForwardCall<T>> calls;
  ThreadLimit threads;
  calls.emplace_back(weights, schedule, arrays, a.reverse != 0, tape != nullptr, threads);
  Caller caller{a.interrupted, a.interrupted_argument};
  run_forward(calls, Order::kIndependent, threads, caller.interrupt());
  if (tape) {
    handle->base = calls.front().take_tape();
    *tape = handle.release();
  }
}

static int forward(const fusedrnn_weights* weights, const fusedrnn_forward* arguments, fusedrnn_tape** tape) {
  return guarded("forward", [&] {
    const Dtype dtype = base_of(weights).dtype;
    const fusedrnn_forward a = taken(arguments);
    with_dtype(dtype, [&](auto zero) { forward_typed<decltype(zero)>(weights->base, a, tape); });
  });
}

template <class T>
static void backward_typed(const Tape<T>& tape, const fusedrnn_backward& a) {
  const Weights<T>& weights = *tape.weights;
  const Index B = tape.schedule->B(), I = weights.I, H = weights.H, R = weights.R;
  const int states = weights.kernel().states;
  const Index rows = weights.kernel().gates * H;
  check_states(states, a.dc_n, a.dc_0, "dc");
  check_states(states, nullptr, a.dc_initial, "dc_initial");
  if (tape.tokens && a.dx) invalid("dx is given, but tokens have no gradient");
  if (!weights.structure.R && a.dW_hr) invalid("dW_hr is given, but there is no projection");

  Footprint footprint;
  BackwardArrays<T> arrays;
  arrays.accumulate = a.accumulate_dx != 0;
  arrays.dy = rows_of<T>(footprint, "dy", false, a.dy, a.dy_time, a.dy_batch, *tape.schedule, R);
  arrays.dx = rows_of<T>(footprint, "dx", true, a.dx, a.dx_time, a.dx_batch, *tape.schedule, I);
  const void* const last[] = {a.dh_n, a.dc_n};
  void *const initial[] = {a.dh_0, a.dc_0}, *const own[] = {a.dh_initial, a.dc_initial};
  T* down[kMaxStates] = {};
  Spare spare_states, spare_weights;
  for (int s = 0; s < states; ++s) {
    arrays.dstate_n[s] = aligned<T>(s ? "dc_n" : "dh_n", last[s]);
    const Index n = weights.units(s);
    arrays.dstate[s] = spare_states.instead_of(block<T>(footprint, s ? "dc_0" : "dh_0", initial[s], {B, n}), {B, n});
    arrays.dstate_n_stride[s] = arrays.dstate_stride[s] = arrays.dinitial_stride[s] = n;
    down[s] = block<T>(footprint, s ? "dc_initial" : "dh_initial", own[s], {n});
    if (down[s]) arrays.dinitial[s] = spare_states.instead_of<T>(nullptr, {B, n});
  }
  arrays.dW_ih = spare_weights.instead_of(block<T>(footprint, "dW_ih", a.dW_ih, {rows, I}), {rows, I});
  if (weights.kernel().recurrent)
    arrays.dW_hh = spare_weights.instead_of(block<T>(footprint, "dW_hh", a.dW_hh, {rows, R}), {rows, R});
  else if (a.dW_hh || a.db_hh) invalid("dW_hh or db_hh is given, but this cell has no recurrent matrix");
  if (weights.structure.R)
    arrays.dW_hr = spare_weights.instead_of(block<T>(footprint, "dW_hr", a.dW_hr, {R, H}), {R, H});
  arrays.db_ih = block<T>(footprint, "db_ih", a.db_ih, {rows});
  arrays.db_hh = block<T>(footprint, "db_hh", a.db_hh, {rows});
  const Index units = weights.kernel().recurrent ? 0 : weights.kernel().unit_parameters;
  if (a.dunits && units == 0) invalid("dunits is given, but this cell has no parameters per unit here");
  arrays.dunits = block<T>(footprint, "dunits", a.dunits, {units, H / weights.kernel().sharing});
  arrays.unit_rows = a.dunits ? units : 0;
  std::vector<BackwardCall<T>> calls;
  calls.emplace_back(tape, arrays);
  Caller caller{a.interrupted, a.interrupted_argument};
  run_backward(calls, caller.interrupt());
  for (int s = 0; s < states; ++s)
    for (Index b = 0, n = weights.units(s); down[s] && b < std::max<Index>(B, 1); ++b)
      for (Index k = 0; k < n; ++k) {
        if (b == 0) down[s][k] = B ? arrays.dinitial[s][k] : T(0);
        else down[s][k] += arrays.dinitial[s][b * n + k];
      }
}

static int backward(const fusedrnn_tape* tape, const fusedrnn_backward* arguments) {
  return guarded("backward", [&] {
    if (!tape) invalid("tape is NULL");
    const fusedrnn_backward a = taken(arguments);
    with_dtype(tape->base->dtype,
               [&](auto zero) { backward_typed(static_cast<const Tape<decltype(zero)>&>(*tape->base), a); });
  });
}

static std::size_t tape_nbytes(const fusedrnn_tape* tape) { return tape ? tape->base->nbytes : 0; }
static void tape_free(fusedrnn_tape* tape) { delete tape; }

// ---- the table ----------------------------------------------------------------------------------

static int set_threads(int n) {
  return guarded("set_num_threads", [&] {
    if (n < 0) invalid("n is %d; expected >= 0", n);
    set_local_num_threads(n);
  });
}

static const fusedrnn_api table = {
    sizeof(fusedrnn_api), FUSEDRNN_ABI,     FUSEDRNN_VERSION, [] { return static_cast<const char*>(message); },
    num_threads,          set_threads,      weights_new,      weights_share,
    weights_info,         weights_free,     forward,          backward,
    tape_nbytes,          tape_free,        stream_new,       stream_step,
    stream_step_tokens,   stream_get_state, stream_set_state, stream_reset,
    stream_free,
};

}  // namespace fusedrnn::capi

namespace fusedrnn::python {

void add_c_api(py::module_& module) {
  module.attr("_C_API") = py::capsule(&capi::table, FUSEDRNN_CAPSULE);
  module.def(
      "weights_capsule",
      [](const std::shared_ptr<WeightsBase>& weights) {
        auto handle = std::make_unique<fusedrnn_weights>();
        handle->base = weights;
        PyObject* capsule = PyCapsule_New(handle.get(), FUSEDRNN_WEIGHTS_CAPSULE, [](PyObject* self) {
          delete static_cast<fusedrnn_weights*>(PyCapsule_GetPointer(self, FUSEDRNN_WEIGHTS_CAPSULE));
        });
        if (!capsule) throw py::error_already_set();
        handle.release();
        return py::reinterpret_steal<py::capsule>(capsule);
      },
      py::arg("weights"));
}

}  // namespace fusedrnn::python
