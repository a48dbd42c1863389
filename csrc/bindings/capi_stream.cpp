// The C API's streams: python/fusedrnn/include/fusedrnn.h over core/stepper.h.
#include "capi_arguments.h"

namespace fusedrnn::capi {

template <class T>
static std::unique_ptr<StepRunner<T>> make_runner(const fusedrnn_weights* const* weights, Index layers, Index B) {
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
static void in_turn(fusedrnn_stream* stream, Call call) {
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
static void step(StepRunner<T>& runner, const void* x, const std::int64_t* tokens, void* y) {
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
static void check_states(const StepRunner<T>& runner, const void* h, const void* c) {
  check_states(runner.states(), c, nullptr, "c");
  aligned<T>("h", h);
  aligned<T>("c", c);
}

template <class T>
static void read_state(const StepRunner<T>& runner, int which, void* to) {
  runner.read_state(which, static_cast<T*>(to));
}
template <class T>
static void write_state(StepRunner<T>& runner, int which, const void* from) {
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

}  // namespace fusedrnn::capi
