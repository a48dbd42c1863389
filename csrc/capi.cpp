// The C API, for C and Cython: implements python/fusedrnn/include/fusedrnn.h on top of core. No exception and no Python
// object crosses the API; callers may be wrong about everything except the sizes of their arrays, so every call checks
// its arguments first. Not here: computation (core), and the Python module (module.cpp). docs/c-api.md describes the
// API for users; next, read core/forward.h.
#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <new>

#include "arrays.h"
#include "core/dispatch.h"
#include "core/stepper.h"
#include "fusedrnn.h"

struct fusedrnn_weights {
  std::shared_ptr<const fusedrnn::WeightsBase> base;
};
struct fusedrnn_tape {
  std::unique_ptr<fusedrnn::TapeBase> base;
};
struct fusedrnn_stream {
  std::unique_ptr<fusedrnn::StepRunnerBase> runner;
  std::atomic<bool> busy{false};
};

namespace fusedrnn::capi {
namespace {

// ---- errors -------------------------------------------------------------------------------------

thread_local char message[512] = "";

struct Busy {};

[[noreturn, gnu::format(printf, 1, 2)]] void invalid(const char* format, ...) {
  char text[sizeof message];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw std::invalid_argument(text);
}

int failed(int code, const char* function, const char* why) {
  std::snprintf(message, sizeof message, "%s: %s", function, why);
  return code;
}

template <class Call>
int guarded(const char* function, Call call) noexcept {
  try {
    call();
    return FUSEDRNN_OK;
  } catch (const std::invalid_argument& error) {
    return failed(FUSEDRNN_INVALID, function, error.what());
  } catch (const std::out_of_range& error) {  // a token
    return failed(FUSEDRNN_INVALID, function, error.what());
  } catch (const std::bad_alloc&) {
    return failed(FUSEDRNN_MEMORY, function, "too large, or out of memory");
  } catch (const std::length_error&) {
    return failed(FUSEDRNN_MEMORY, function, "too large");
  } catch (const Interrupted&) {
    return failed(FUSEDRNN_INTERRUPTED, function, "interrupted");
  } catch (const Busy&) {
    return failed(FUSEDRNN_BUSY, function, "the stream is in use by another thread");
  } catch (const std::exception& error) {
    return failed(FUSEDRNN_INTERNAL, function, error.what());
  } catch (...) {
    return failed(FUSEDRNN_INTERNAL, function, "unknown exception");
  }
}

// ---- structs that grow --------------------------------------------------------------------------

// The sizes of the structs in their first release: no caller has smaller ones. Never to be changed within an ABI.
template <class S>
constexpr std::size_t kFirstSize = 0;
template <>
constexpr std::size_t kFirstSize<fusedrnn_layer> = offsetof(fusedrnn_layer, b_hh) + sizeof(void*);
template <>
constexpr std::size_t kFirstSize<fusedrnn_info> = offsetof(fusedrnn_info, nbytes) + sizeof(std::size_t);
template <>
constexpr std::size_t kFirstSize<fusedrnn_forward> = offsetof(fusedrnn_forward, interrupted_argument) + sizeof(void*);
template <>
constexpr std::size_t kFirstSize<fusedrnn_backward> = offsetof(fusedrnn_backward, interrupted_argument) + sizeof(void*);

// The size that the caller's struct declares. It is read once, so that the size that was checked is the size that is
// used.
template <class S>
std::size_t size_of(const S* given) {
  if (!given) invalid("the struct of arguments is NULL");
  const std::size_t size = __atomic_load_n(&given->size, __ATOMIC_RELAXED);
  if (size < kFirstSize<S> || size > 4096)
    invalid("size is %zu; expected sizeof of the struct, %zu here", size, sizeof(S));
  return size;
}

// The caller's struct as this library knows it. Members that an older caller lacks are zero; members that only a newer
// caller has must be zero, because they would be ignored.
template <class S>
S taken(const S* given) {
  const std::size_t size = size_of(given);
  S known{};
  std::memcpy(&known, given, std::min(size, sizeof(S)));
  const char* const bytes = reinterpret_cast<const char*>(given);
  for (std::size_t k = sizeof(S); k < size; ++k)
    if (bytes[k])
      invalid("an option is set that this version of fusedrnn does not have; size is %zu, %zu here", size, sizeof(S));
  return known;
}

// ---- arrays -------------------------------------------------------------------------------------

template <class T>
T* aligned(const char* name, const void* data) {
  if (reinterpret_cast<std::uintptr_t>(data) % alignof(T))
    invalid("%s is not aligned to %zu bytes, the size of an element", name, alignof(T));
  return static_cast<T*>(const_cast<void*>(data));
}

template <class T>
T* needed(const char* name, const void* data) {
  if (!data) invalid("%s is NULL", name);
  return aligned<T>(name, data);
}

Index bytes_of(std::initializer_list<Index> sizes, Index item) {
  Index bytes = item;
  for (const Index n : sizes)
    if (__builtin_mul_overflow(bytes, n, &bytes)) throw std::bad_alloc();
  return bytes;
}

// The memory that a call reads or writes, to detect overlaps.
class Footprint {
 public:
  void add(const char* name, bool written, const void* first, Index bytes) {
    if (!first || bytes == 0) return;
    const auto begin = reinterpret_cast<std::uintptr_t>(first);
    const Region region{name, written, begin, begin + static_cast<std::uintptr_t>(bytes)};
    for (int k = 0; k < count_; ++k)
      if ((written || regions_[k].written) && region.begin < regions_[k].end && regions_[k].begin < region.end)
        invalid("%s overlaps %s", name, regions_[k].name);
    regions_[count_++] = region;
  }

 private:
  struct Region {
    const char* name;
    bool written;
    std::uintptr_t begin, end;
  };
  Region regions_[12];
  int count_ = 0;
};

// A (T, B, n) array with the caller's strides, in elements.
template <class T>
Strided rows_of(Footprint& footprint, const char* name, bool written, const void* data, Index time, Index batch,
                Index steps, Index B, Index n) {
  if (!data || steps == 0 || B == 0) return {nullptr, 0, 0, sizeof(T)};
  aligned<T>(name, data);
  if (time == 0 && batch == 0) time = bytes_of({B, n}, 1), batch = n;
  // Offsets of the last step and of the last row, which may be on either side of the first.
  const Index item = sizeof(T), t = bytes_of({time, steps - 1}, item), b = bytes_of({batch, B - 1}, item);
  const Index row = bytes_of({n}, item);
  const Index before = std::min<Index>(t, 0) + std::min<Index>(b, 0),
              after = std::max<Index>(t, 0) + std::max<Index>(b, 0);
  if (written) {
    const Axis axes[] = {{steps, bytes_of({time}, item)}, {B, bytes_of({batch}, item)}};
    if (!rows_apart(axes, 2, row))
      invalid("rows of %s overlap: time stride %td, batch stride %td, rows of %td", name, time, batch, n);
  }
  footprint.add(name, written, static_cast<const char*>(data) + before, after - before + row);
  return {static_cast<char*>(const_cast<void*>(data)), time * item, batch * item, item};
}

template <class T>
T* block(Footprint& footprint, const char* name, const void* data, std::initializer_list<Index> shape) {
  if (!data) return nullptr;
  footprint.add(name, true, data, bytes_of(shape, sizeof(T)));
  return aligned<T>(name, data);
}

// Zoneout masks, (T, B, n) bytes in C order; bytes past a row's length are not read.
Strided flags(Footprint& footprint, const char* name, const unsigned char* data, const fusedrnn_forward& a,
              const std::int64_t* lengths, Index n) {
  footprint.add(name, false, data, bytes_of({a.T, a.B, n}, 1));
  for (Index t = 0; t < a.T; ++t)
    for (Index b = 0; b < a.B; ++b) {
      const unsigned char* const row = data + (t * a.B + b) * n;
      for (Index k = 0; (!lengths || t < lengths[b]) && k < n; ++k)
        if (row[k] > 1) invalid("%s[%td][%td][%td] is %d; expected 0 or 1", name, t, b, k, row[k]);
    }
  return {reinterpret_cast<char*>(const_cast<unsigned char*>(data)), a.B * n, n, 1};
}

// Arrays for outputs that the caller does not want.
class Spare {
 public:
  template <class T>
  T* instead_of(T* wanted, std::initializer_list<Index> shape) {
    if (wanted) return wanted;
    buffers_[count_] = Buffer(static_cast<std::size_t>(std::max<Index>(bytes_of(shape, sizeof(T)), 1)));
    return buffers_[count_++].template as<T>();
  }

 private:
  Buffer buffers_[4];
  int count_ = 0;
};

struct Caller {
  int (*interrupted)(void*);
  void* argument;
  Interrupt interrupt() {
    if (!interrupted) return {};
    return {[](void* self) {
              const auto* caller = static_cast<Caller*>(self);
              return caller->interrupted(caller->argument) != 0;
            },
            this};
  }
};

// ---- weights ------------------------------------------------------------------------------------

template <class T>
std::shared_ptr<const WeightsBase> pack(const fusedrnn_layer& layer) {
  RawWeights<T> raw{needed<T>("W_ih", layer.W_ih), needed<T>("W_hh", layer.W_hh), aligned<T>("b_ih", layer.b_ih),
                    aligned<T>("b_hh", layer.b_hh)};
  const CellId cell = cell_named(layer.cell);
  const Kernels& kernels = current_kernels();  // asked once: another thread may select other kernels in the meantime
  const int states = table_of<T>(kernels).cells[cell].states;
  Structure structure;
  if (layer.proj_size) {
    if (states < 2) invalid("proj_size is %td, but %s is no LSTM; expected 0", layer.proj_size, layer.cell);
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

int weights_new(const fusedrnn_layer* given, fusedrnn_weights** weights) {
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

int weights_share(const fusedrnn_weights* weights, fusedrnn_weights** again) {
  return guarded("weights_share", [&] {
    base_of(weights);
    if (!again) invalid("there is nowhere to put the weights: NULL");
    *again = new fusedrnn_weights{weights->base};
  });
}

template <class T>
const CellKernels<T>& kernel_of(const WeightsBase& weights) {
  return static_cast<const Weights<T>&>(weights).kernel();
}

int weights_info(const fusedrnn_weights* weights, fusedrnn_info* info) {
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

void weights_free(fusedrnn_weights* weights) { delete weights; }

// ---- forward and backward -----------------------------------------------------------------------

void check_states(int states, const void* c_in, const void* c_out, const char* name) {
  if (states < 2 && (c_in || c_out)) invalid("%s is given, but this cell's only state is h", name);
}

template <class T>
void forward_typed(const std::shared_ptr<const WeightsBase>& base, const fusedrnn_forward& a, fusedrnn_tape** tape) {
  const auto weights = std::static_pointer_cast<const Weights<T>>(base);
  const Index I = weights->I, R = weights->R;
  const int states = weights->kernel().states;
  if (a.T < 0 || a.B < 0) invalid("T is %td, B is %td; expected >= 0", a.T, a.B);
  if (tape && !weights->training) invalid("a tape is wanted, but the weights were not packed for training");
  check_states(states, a.c_0, a.c_n, "c");
  check_states(states, a.zoneout_c, nullptr, "zoneout_c");
  if (!tape && (a.recurrent_mask || a.zoneout_h || a.zoneout_c))
    invalid("masks are given, but no tape is wanted: they act in training alone");
  // A copy: the lengths that were checked are the ones used, whatever other threads write to the caller's array.
  std::vector<std::int64_t> own_lengths;
  if (a.lengths) own_lengths.assign(a.lengths, a.lengths + a.B);
  const std::int64_t* const lengths = a.lengths ? own_lengths.data() : nullptr;
  for (Index b = 0; lengths && b < a.B; ++b)
    if (lengths[b] < 0 || lengths[b] > a.T)
      invalid("lengths[%td] is %lld; expected 0 to T = %td", b, static_cast<long long>(lengths[b]), a.T);
  const auto schedule = std::make_shared<const Schedule>(a.T, a.B, lengths);
  const bool any = schedule->row_count() > 0;
  if (any && !a.x && !a.tokens) invalid("x and tokens are NULL");
  if (a.x && a.tokens) invalid("x and tokens are given; expected one of them");

  Footprint footprint;
  ForwardArrays<T> arrays;
  if (a.tokens) {
    arrays.tokens = aligned<const std::int64_t>("tokens", a.tokens);
    footprint.add("tokens", false, a.tokens, bytes_of({a.T, a.B}, sizeof(std::int64_t)));
  } else {
    arrays.x = rows_of<T>(footprint, "x", false, a.x, a.x_time, a.x_batch, a.T, a.B, I);
  }
  if (a.recurrent_mask) {
    arrays.recurrent_mask = aligned<T>("recurrent_mask", a.recurrent_mask);
    arrays.recurrent_mask_stride = R;
    footprint.add("recurrent_mask", false, a.recurrent_mask, bytes_of({a.B, R}, sizeof(T)));
  }
  const unsigned char* const kept[] = {a.zoneout_h, a.zoneout_c};
  for (int s = 0; s < states; ++s) {
    const char* const name = s ? "zoneout_c" : "zoneout_h";
    if (kept[s]) arrays.kept[s] = flags(footprint, name, kept[s], a, lengths, weights->units(s));
    else if (tape && weights->structure.zoneout[s] != 0 && schedule->B() > 0)
      invalid("%s is NULL, but the weights have a rate of %g; expected the mask of this call", name,
              weights->structure.zoneout[s]);
  }
  arrays.y = rows_of<T>(footprint, "y", true, a.y, a.y_time, a.y_batch, a.T, a.B, R);
  const void* const initial[] = {a.h_0, a.c_0};
  void* const last[] = {a.h_n, a.c_n};
  Spare spare;
  for (int s = 0; s < states; ++s) {
    arrays.state[s] = aligned<T>(s ? "c_0" : "h_0", initial[s]);
    const Index n = weights->units(s);
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

int forward(const fusedrnn_weights* weights, const fusedrnn_forward* arguments, fusedrnn_tape** tape) {
  return guarded("forward", [&] {
    const Dtype dtype = base_of(weights).dtype;
    const fusedrnn_forward a = taken(arguments);
    with_dtype(dtype, [&](auto zero) { forward_typed<decltype(zero)>(weights->base, a, tape); });
  });
}

template <class T>
void backward_typed(const Tape<T>& tape, const fusedrnn_backward& a) {
  const Weights<T>& weights = *tape.weights;
  const Index T_ = tape.schedule->T(), B = tape.schedule->B(), I = weights.I, H = weights.H, R = weights.R;
  const int states = weights.kernel().states;
  const Index rows = weights.kernel().gates * H;
  check_states(states, a.dc_n, a.dc_0, "dc");
  if (tape.tokens && a.dx) invalid("dx is given, but tokens have no gradient");
  if (!weights.structure.R && a.dW_hr) invalid("dW_hr is given, but there is no projection");

  Footprint footprint;
  BackwardArrays<T> arrays;
  arrays.accumulate = a.accumulate_dx != 0;
  arrays.dy = rows_of<T>(footprint, "dy", false, a.dy, a.dy_time, a.dy_batch, T_, B, R);
  arrays.dx = rows_of<T>(footprint, "dx", true, a.dx, a.dx_time, a.dx_batch, T_, B, I);
  const void* const last[] = {a.dh_n, a.dc_n};
  void* const initial[] = {a.dh_0, a.dc_0};
  Spare spare_states, spare_weights;
  for (int s = 0; s < states; ++s) {
    arrays.dstate_n[s] = aligned<T>(s ? "dc_n" : "dh_n", last[s]);
    const Index n = weights.units(s);
    arrays.dstate[s] = spare_states.instead_of(block<T>(footprint, s ? "dc_0" : "dh_0", initial[s], {B, n}), {B, n});
    arrays.dstate_n_stride[s] = arrays.dstate_stride[s] = n;
  }
  arrays.dW_ih = spare_weights.instead_of(block<T>(footprint, "dW_ih", a.dW_ih, {rows, I}), {rows, I});
  arrays.dW_hh = spare_weights.instead_of(block<T>(footprint, "dW_hh", a.dW_hh, {rows, R}), {rows, R});
  if (weights.structure.R)
    arrays.dW_hr = spare_weights.instead_of(block<T>(footprint, "dW_hr", a.dW_hr, {R, H}), {R, H});
  arrays.db_ih = block<T>(footprint, "db_ih", a.db_ih, {rows});
  arrays.db_hh = block<T>(footprint, "db_hh", a.db_hh, {rows});
  std::vector<BackwardCall<T>> calls;
  calls.emplace_back(tape, arrays);
  Caller caller{a.interrupted, a.interrupted_argument};
  run_backward(calls, caller.interrupt());
}

int backward(const fusedrnn_tape* tape, const fusedrnn_backward* arguments) {
  return guarded("backward", [&] {
    if (!tape) invalid("tape is NULL");
    const fusedrnn_backward a = taken(arguments);
    with_dtype(tape->base->dtype,
               [&](auto zero) { backward_typed(static_cast<const Tape<decltype(zero)>&>(*tape->base), a); });
  });
}

std::size_t tape_nbytes(const fusedrnn_tape* tape) { return tape ? tape->base->nbytes : 0; }
void tape_free(fusedrnn_tape* tape) { delete tape; }

// ---- streams ------------------------------------------------------------------------------------

template <class T>
std::unique_ptr<StepRunner<T>> make_runner(const fusedrnn_weights* const* weights, Index layers, Index B) {
  std::vector<std::shared_ptr<const Weights<T>>> stack;
  for (Index l = 0; l < layers; ++l) {
    const fusedrnn_weights* const layer = weights[l];
    const WeightsBase& base = base_of(layer);
    if (base.dtype != kDtypeOf<T>) invalid("layers of different dtypes");
    if (l > 0 &&
        (base.cell != stack.back()->cell || base.H != stack.back()->H || base.R != stack.back()->R || base.I != base.R))
      invalid("layer %td is %s(%td, %td), which does not fit %s(%td, %td) below", l, name_of(base.cell), base.I, base.R,
              name_of(stack.back()->cell), stack.back()->I, stack.back()->R);
    stack.push_back(std::static_pointer_cast<const Weights<T>>(layer->base));
  }
  return std::make_unique<StepRunner<T>>(std::move(stack), B, true);  // the header promises the calling thread
}

int stream_new(const fusedrnn_weights* const* weights, std::ptrdiff_t layers, std::ptrdiff_t B,
               fusedrnn_stream** stream) {
  return guarded("stream_new", [&] {
    if (!weights || !stream) invalid("weights or stream is NULL");
    if (layers < 1 || B < 1) invalid("layers is %td, B is %td; expected >= 1", layers, B);
    auto made = std::make_unique<fusedrnn_stream>();
    with_dtype(base_of(weights[0]).dtype,
               [&](auto zero) { made->runner = make_runner<decltype(zero)>(weights, layers, B); });
    *stream = made.release();
  });
}

// Only one thread at a time may use a stream: two would mix their states.
template <class Call>
void in_turn(fusedrnn_stream* stream, Call call) {
  if (!stream) invalid("stream is NULL");
  if (stream->busy.exchange(true, std::memory_order_acquire)) throw Busy();
  struct Leave {
    std::atomic<bool>& busy;
    ~Leave() { busy.store(false, std::memory_order_release); }
  } leave{stream->busy};
  with_dtype(stream->runner->dtype,
             [&](auto zero) { call(static_cast<StepRunner<decltype(zero)>&>(*stream->runner)); });
}

template <class T>
void step(StepRunner<T>& runner, const void* x, const std::int64_t* tokens, void* y) {
  const Index B = runner.B(), I = runner.weights(0).I, R = runner.weights(0).R;
  if (!tokens) needed<T>("x", x);
  needed<T>("y", y);
  const void* const input = tokens ? static_cast<const void*>(tokens) : x;
  const auto from = reinterpret_cast<std::uintptr_t>(input), to = reinterpret_cast<std::uintptr_t>(y);
  const std::size_t read =
      static_cast<std::size_t>(B) * (tokens ? sizeof *tokens : static_cast<std::size_t>(I) * sizeof(T));
  if (from < to + static_cast<std::size_t>(B * R) * sizeof(T) && to < from + read)
    invalid("y overlaps %s", tokens ? "tokens" : "x");
  runner.step(static_cast<const T*>(x), tokens, static_cast<T*>(y));
}

int stream_step(fusedrnn_stream* stream, const void* x, void* y) {
  return guarded("stream_step", [&] { in_turn(stream, [&](auto& runner) { step(runner, x, nullptr, y); }); });
}

int stream_step_tokens(fusedrnn_stream* stream, const std::int64_t* tokens, void* y) {
  return guarded("stream_step_tokens", [&] {
    needed<std::int64_t>("tokens", tokens);
    in_turn(stream, [&](auto& runner) { step(runner, nullptr, tokens, y); });
  });
}

template <class T>
void check_states(const StepRunner<T>& runner, const void* h, const void* c) {
  check_states(runner.states(), c, nullptr, "c");
  aligned<T>("h", h);
  aligned<T>("c", c);
}

template <class T>
void read_state(const StepRunner<T>& runner, int which, void* to) {
  runner.read_state(which, static_cast<T*>(to));
}
template <class T>
void write_state(StepRunner<T>& runner, int which, const void* from) {
  runner.write_state(which, static_cast<const T*>(from));
}

int stream_get_state(fusedrnn_stream* stream, void* h, void* c) {
  return guarded("stream_get_state", [&] {
    in_turn(stream, [&](auto& runner) {
      check_states(runner, h, c);
      if (h) read_state(runner, 0, h);
      if (c) read_state(runner, 1, c);
    });
  });
}

int stream_set_state(fusedrnn_stream* stream, const void* h, const void* c) {
  return guarded("stream_set_state", [&] {
    in_turn(stream, [&](auto& runner) {
      check_states(runner, h, c);
      if (h) write_state(runner, 0, h);
      if (c) write_state(runner, 1, c);
    });
  });
}

int stream_reset(fusedrnn_stream* stream, const unsigned char* rows) {
  return guarded("stream_reset", [&] {
    in_turn(stream, [&](auto& runner) { runner.reset([&](Index b) { return !rows || rows[b]; }); });
  });
}

void stream_free(fusedrnn_stream* stream) { delete stream; }

// ---- the table ----------------------------------------------------------------------------------

int set_threads(int n) {
  return guarded("set_num_threads", [&] {
    if (n < 0) invalid("n is %d; expected >= 0", n);
    set_local_num_threads(n);
  });
}

const fusedrnn_api table = {
    sizeof(fusedrnn_api), FUSEDRNN_ABI,     FUSEDRNN_VERSION, [] { return static_cast<const char*>(message); },
    num_threads,          set_threads,      weights_new,      weights_share,
    weights_info,         weights_free,     forward,          backward,
    tape_nbytes,          tape_free,        stream_new,       stream_step,
    stream_step_tokens,   stream_get_state, stream_set_state, stream_reset,
    stream_free,
};

}  // namespace
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
