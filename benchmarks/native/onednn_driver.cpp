// oneDNN without Python: the recurrent layers of a case as a list of primitives, made once and executed n times.
// Compiled when the benchmark runs, against an installed oneDNN (its C API, version 3), and loaded by ctypes.
//
// oneDNN gets its best case: weights in the layout it chooses, reordered beforehand for inference; all buffers
// allocated beforehand; no conversion of arguments between the calls. For training, `reorder` says whether each step
// reorders the weights from, and their gradients to, the layout (gates, outputs, inputs) in which the optimizer keeps
// them.

#include <omp.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "oneapi/dnnl/dnnl_debug.h"

#if DNNL_CPU_RUNTIME != DNNL_RUNTIME_OMP
#error "the threads of this oneDNN can't be set: an OpenMP build is needed (pip install onednn-devel-cpu-gomp)"
#endif

namespace {

using dnnl::memory;
using Tag = memory::format_tag;

enum Cell { rnn_tanh, rnn_relu, gru_after, gru_before, lstm };

struct Options {
  int cell, T, B, I, H, layers, directions;
  int training, stream, reorder;
};

void check(dnnl_status_t status, const char* what) {
  if (status != dnnl_success) throw std::runtime_error(std::string(what) + ": " + dnnl_status2str(status));
}

// Memory descriptors of one layer's primitive; empty ones where a cell or a mode has no such argument.
struct Descriptors {
  memory::desc src, h, c, w_ih, w_hh, bias, dst;
};

dnnl_primitive_desc_t describe(const Options& o, const dnnl::engine& engine, const Descriptors& d,
                               const Descriptors* diff, dnnl_primitive_desc_t hint) {
  const auto direction = o.directions == 2 ? dnnl_bidirectional_concat : dnnl_unidirectional_left2right;
  const auto kind = o.training ? dnnl_forward_training : dnnl_forward_inference;
  const auto activation = o.cell == rnn_relu ? dnnl_eltwise_relu : dnnl_eltwise_tanh;
  const unsigned flags = dnnl_rnn_flags_diff_weights_overwrite;
  dnnl_primitive_desc_t pd = nullptr;
  const auto e = engine.get();
  const auto m = [](const memory::desc& desc) { return desc.get(true); };  // null if empty
  if (!diff) {
    switch (o.cell) {
      case lstm:
        check(dnnl_lstm_forward_primitive_desc_create(&pd, e, kind, direction, m(d.src), m(d.h), m(d.c), m(d.w_ih),
                                                      m(d.w_hh), nullptr, nullptr, m(d.bias), m(d.dst), m(d.h), m(d.c),
                                                      0, nullptr),
              "lstm forward");
        break;
      case gru_after:
        check(dnnl_lbr_gru_forward_primitive_desc_create(&pd, e, kind, direction, m(d.src), m(d.h), m(d.w_ih),
                                                         m(d.w_hh), m(d.bias), m(d.dst), m(d.h), 0, nullptr),
              "lbr_gru forward");
        break;
      case gru_before:
        check(dnnl_gru_forward_primitive_desc_create(&pd, e, kind, direction, m(d.src), m(d.h), m(d.w_ih), m(d.w_hh),
                                                     m(d.bias), m(d.dst), m(d.h), 0, nullptr),
              "gru forward");
        break;
      default:
        check(dnnl_vanilla_rnn_forward_primitive_desc_create(&pd, e, kind, activation, direction, m(d.src), m(d.h),
                                                             m(d.w_ih), m(d.w_hh), m(d.bias), m(d.dst), m(d.h), 0, 0.0f,
                                                             0.0f, nullptr),
              "vanilla_rnn forward");
    }
    return pd;
  }
  const Descriptors& g = *diff;
  switch (o.cell) {
    case lstm:
      check(dnnl_lstm_backward_primitive_desc_create(
                &pd, e, dnnl_backward, direction, m(d.src), m(d.h), m(d.c), m(d.w_ih), m(d.w_hh), nullptr, nullptr,
                m(d.bias), m(d.dst), m(d.h), m(d.c), m(g.src), m(g.h), m(g.c), m(g.w_ih), m(g.w_hh), nullptr, nullptr,
                m(g.bias), m(g.dst), m(g.h), m(g.c), flags, hint, nullptr),
            "lstm backward");
      break;
    case gru_after:
      check(dnnl_lbr_gru_backward_primitive_desc_create(
                &pd, e, dnnl_backward, direction, m(d.src), m(d.h), m(d.w_ih), m(d.w_hh), m(d.bias), m(d.dst), m(d.h),
                m(g.src), m(g.h), m(g.w_ih), m(g.w_hh), m(g.bias), m(g.dst), m(g.h), flags, hint, nullptr),
            "lbr_gru backward");
      break;
    case gru_before:
      check(dnnl_gru_backward_primitive_desc_create(&pd, e, dnnl_backward, direction, m(d.src), m(d.h), m(d.w_ih),
                                                    m(d.w_hh), m(d.bias), m(d.dst), m(d.h), m(g.src), m(g.h), m(g.w_ih),
                                                    m(g.w_hh), m(g.bias), m(g.dst), m(g.h), flags, hint, nullptr),
            "gru backward");
      break;
    default:
      check(dnnl_vanilla_rnn_backward_primitive_desc_create(&pd, e, dnnl_backward, activation, direction, m(d.src),
                                                            m(d.h), m(d.w_ih), m(d.w_hh), m(d.bias), m(d.dst), m(d.h),
                                                            m(g.src), m(g.h), m(g.w_ih), m(g.w_hh), m(g.bias), m(g.dst),
                                                            m(g.h), flags, 0.0f, 0.0f, hint, nullptr),
            "vanilla_rnn backward");
  }
  return pd;
}

// A primitive with its arguments, ready for dnnl_primitive_execute: no map is built in the timed loop.
struct Call {
  dnnl::primitive primitive;
  std::vector<memory> keep;
  std::vector<dnnl_exec_arg_t> arguments;

  void add(int name, const memory& value) {
    if (!value.get(true)) return;
    keep.push_back(value);
    arguments.push_back({name, value.get()});
  }
  void execute(dnnl_stream_t stream) const {
    check(dnnl_primitive_execute(primitive.get(), stream, static_cast<int>(arguments.size()), arguments.data()),
          "execute");
  }
};

class Network {
 public:
  explicit Network(const Options& options) : o(options), engine(dnnl::engine::kind::cpu, 0), stream(engine) {
    std::vector<Backward> tape;
    memory x = buffer("x", 0, {o.T, o.B, o.I}, Tag::tnc);
    for (int layer = 0; layer < o.layers; ++layer) x = add_layer(layer, x, tape);
    memory dy;
    if (o.training) dy = buffer("dy", 0, {o.T, o.B, o.directions * o.H}, Tag::tnc);
    for (int layer = o.layers; layer-- > 0 && o.training;) dy = add_backward(layer, tape[layer], dy);
  }

  float* data(const std::string& name, int layer) {
    std::string key = name;
    if (o.stream && (name == "h_n" || name == "c_n") && done % 2 == 0)
      key[2] = 'e';  // even steps end where odd ones begin
    auto found = buffers.find(key + std::to_string(layer));
    return found == buffers.end() ? nullptr : static_cast<float*>(found->second.get_data_handle());
  }

  // Takes up the weights and, for a stream, the initial state.
  void begin() {
    for (const Call& call : once) call.execute(stream.get());
    for (int layer = 0; layer < o.layers && o.stream; ++layer)
      for (const char* name : {"h_", "c_"})
        if (float* start = data(std::string(name) + "0", layer)) {
          memory& even = buffers.at(std::string(name) + "e" + std::to_string(layer));
          std::memcpy(even.get_data_handle(), start, even.get_desc().get_size());
        }
    stream.wait();
    done = 0;
  }

  void run(long n) {
    for (long i = 0; i < n; ++i, ++done)
      for (const Call& call : o.stream&& done % 2 ? odd : even) call.execute(stream.get());
    stream.wait();
  }

 private:
  struct Backward {
    Descriptors given;
    memory x, h_0, c_0, h_n, c_n, w_ih, w_hh, bias, y, workspace;
    dnnl::primitive_desc_base forward;
  };

  memory buffer(const char* name, int layer, const memory::dims& dims, Tag tag) {
    memory made(memory::desc(dims, memory::data_type::f32, tag), engine);
    std::memset(made.get_data_handle(), 0, made.get_desc().get_size());
    return buffers[name + std::to_string(layer)] = made;
  }

  memory like(const memory::desc& desc) const { return memory(desc, engine); }

  // `from` in the layout `to`; the reorder goes to `where` unless the layouts agree.
  memory converted(const memory& from, const memory::desc& to, std::vector<Call>& where) {
    if (from.get_desc() == to) return from;
    memory made = like(to);
    reorder(from, made, where);
    return made;
  }

  void reorder(const memory& from, const memory& to, std::vector<Call>& where) {
    Call call{dnnl::reorder(from, to), {}, {}};
    call.add(DNNL_ARG_FROM, from);
    call.add(DNNL_ARG_TO, to);
    where.push_back(call);
  }

  memory add_layer(int layer, const memory& x, std::vector<Backward>& tape) {
    const auto f32 = memory::data_type::f32;
    const memory::dim D = o.directions, G = o.cell == lstm ? 4 : o.cell <= rnn_relu ? 1 : 3;
    const memory::dim inputs = layer ? D * o.H : o.I, biases = o.cell == gru_after ? 4 : G;
    Backward b;
    b.x = x;
    b.h_0 = buffer("h_0", layer, {1, D, o.B, o.H}, Tag::ldnc);
    b.h_n = buffer("h_n", layer, {1, D, o.B, o.H}, Tag::ldnc);
    memory h_e, c_e;
    if (o.stream) h_e = buffer("h_e", layer, {1, D, o.B, o.H}, Tag::ldnc);
    if (o.cell == lstm) {
      b.c_0 = buffer("c_0", layer, {1, D, o.B, o.H}, Tag::ldnc);
      b.c_n = buffer("c_n", layer, {1, D, o.B, o.H}, Tag::ldnc);
      if (o.stream) c_e = buffer("c_e", layer, {1, D, o.B, o.H}, Tag::ldnc);
    }
    b.w_ih = buffer("w_ih", layer, {1, D, inputs, G, o.H}, Tag::ldgoi);
    b.w_hh = buffer("w_hh", layer, {1, D, o.H, G, o.H}, Tag::ldgoi);
    b.bias = buffer("b", layer, {1, D, biases, o.H}, Tag::ldgo);
    b.y = buffer("y", layer, {o.T, o.B, D * o.H}, Tag::tnc);
    Descriptors& d = b.given;
    d.src = x.get_desc();
    d.h = b.h_0.get_desc();
    if (o.cell == lstm) d.c = b.c_0.get_desc();
    d.w_ih = memory::desc({1, D, inputs, G, o.H}, f32, Tag::any);
    d.w_hh = memory::desc({1, D, o.H, G, o.H}, f32, Tag::any);
    d.bias = b.bias.get_desc();
    d.dst = b.y.get_desc();
    b.forward = dnnl::primitive_desc_base();
    b.forward.reset(describe(o, engine, d, nullptr, nullptr));
    auto& packing = o.training && o.reorder ? even : once;
    const memory w_ih = converted(b.w_ih, b.forward.query_md(dnnl::query::weights_md, 0), packing);
    const memory w_hh = converted(b.w_hh, b.forward.query_md(dnnl::query::weights_md, 1), packing);
    if (o.training) b.workspace = like(b.forward.query_md(dnnl::query::workspace_md));
    const auto add = [&](std::vector<Call>& where, const memory& h, const memory& c, const memory& h_to,
                         const memory& c_to) {
      Call call{dnnl::primitive(b.forward.get()), {}, {}};
      call.add(DNNL_ARG_SRC_LAYER, x);
      call.add(DNNL_ARG_SRC_ITER, h);
      call.add(DNNL_ARG_SRC_ITER_C, c);
      call.add(DNNL_ARG_WEIGHTS_LAYER, w_ih);
      call.add(DNNL_ARG_WEIGHTS_ITER, w_hh);
      call.add(DNNL_ARG_BIAS, b.bias);
      call.add(DNNL_ARG_DST_LAYER, b.y);
      call.add(DNNL_ARG_DST_ITER, h_to);
      call.add(DNNL_ARG_DST_ITER_C, c_to);
      call.add(DNNL_ARG_WORKSPACE, b.workspace);
      where.push_back(call);
    };
    if (o.stream) {
      add(even, h_e, c_e, b.h_n, b.c_n);
      add(odd, b.h_n, b.c_n, h_e, c_e);
    } else {
      add(even, b.h_0, b.c_0, b.h_n, b.c_n);
    }
    tape.push_back(b);
    return b.y;
  }

  memory add_backward(int layer, const Backward& b, const memory& dy) {
    Descriptors g = b.given;  // the gradients have the shapes of what they belong to
    const memory dx = buffer("dx", layer, b.x.get_desc().get_dims(), Tag::tnc);
    const memory dh_0 = buffer("dh_0", layer, b.h_0.get_desc().get_dims(), Tag::ldnc);
    const memory dh_n = buffer("dh_n", layer, b.h_0.get_desc().get_dims(), Tag::ldnc);
    memory dc_0, dc_n;
    if (o.cell == lstm) {
      dc_0 = buffer("dc_0", layer, b.c_0.get_desc().get_dims(), Tag::ldnc);
      dc_n = buffer("dc_n", layer, b.c_0.get_desc().get_dims(), Tag::ldnc);
    }
    const memory db = buffer("db", layer, b.bias.get_desc().get_dims(), Tag::ldgo);
    dnnl::primitive_desc_base pd;
    pd.reset(describe(o, engine, b.given, &g, b.forward.get()));
    auto& packing = o.reorder ? even : once;
    const memory w_ih = converted(b.w_ih, pd.query_md(dnnl::query::weights_md, 0), packing);
    const memory w_hh = converted(b.w_hh, pd.query_md(dnnl::query::weights_md, 1), packing);
    const memory dw_ih_user = buffer("dw_ih", layer, b.w_ih.get_desc().get_dims(), Tag::ldgoi);
    const memory dw_hh_user = buffer("dw_hh", layer, b.w_hh.get_desc().get_dims(), Tag::ldgoi);
    const memory dw_ih = like(pd.query_md(dnnl::query::diff_weights_md, 0));
    const memory dw_hh = like(pd.query_md(dnnl::query::diff_weights_md, 1));
    Call call{dnnl::primitive(pd.get()), {}, {}};
    call.add(DNNL_ARG_SRC_LAYER, b.x);
    call.add(DNNL_ARG_SRC_ITER, b.h_0);
    call.add(DNNL_ARG_SRC_ITER_C, b.c_0);
    call.add(DNNL_ARG_WEIGHTS_LAYER, w_ih);
    call.add(DNNL_ARG_WEIGHTS_ITER, w_hh);
    call.add(DNNL_ARG_BIAS, b.bias);
    call.add(DNNL_ARG_DST_LAYER, b.y);
    call.add(DNNL_ARG_DST_ITER, b.h_n);
    call.add(DNNL_ARG_DST_ITER_C, b.c_n);
    call.add(DNNL_ARG_WORKSPACE, b.workspace);
    call.add(DNNL_ARG_DIFF_SRC_LAYER, dx);
    call.add(DNNL_ARG_DIFF_SRC_ITER, dh_0);
    call.add(DNNL_ARG_DIFF_SRC_ITER_C, dc_0);
    call.add(DNNL_ARG_DIFF_WEIGHTS_LAYER, dw_ih);
    call.add(DNNL_ARG_DIFF_WEIGHTS_ITER, dw_hh);
    call.add(DNNL_ARG_DIFF_BIAS, db);
    call.add(DNNL_ARG_DIFF_DST_LAYER, dy);
    call.add(DNNL_ARG_DIFF_DST_ITER, dh_n);
    call.add(DNNL_ARG_DIFF_DST_ITER_C, dc_n);
    even.push_back(call);
    // Without `reorder` the gradients are brought into the user's layout only when they are asked for: see finish().
    reorder(dw_ih, dw_ih_user, o.reorder ? even : last);
    reorder(dw_hh, dw_hh_user, o.reorder ? even : last);
    return dx;
  }

 public:
  // What the timed steps leave out and the check of the outputs needs.
  void finish() {
    for (const Call& call : last) call.execute(stream.get());
    stream.wait();
  }

 private:
  Options o;
  dnnl::engine engine;
  dnnl::stream stream;
  std::map<std::string, memory> buffers;
  std::vector<Call> once, even, odd,
      last;  // before the first step; every step, or every second of a stream; at the end
  long done = 0;
};

template <class F>
int guarded(char* message, int size, F f) {
  try {
    f();
    return 0;
  } catch (const std::exception& error) {
    std::snprintf(message, static_cast<size_t>(size), "%s", error.what());
    return 1;
  }
}

}  // namespace

extern "C" {

void onednn_version(int* version) {
  const dnnl_version_t* v = dnnl_version();
  version[0] = v->major;
  version[1] = v->minor;
  version[2] = v->patch;
}

// Sets OpenMP's thread count of the calling thread and returns the one before.
int onednn_set_threads(int threads) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(threads);
  return before;
}

void* onednn_create(const int* options, char* message, int size) {
  Network* network = nullptr;
  Options o;
  static_assert(sizeof(Options) == 10 * sizeof(int), "ten ints from Python");
  std::memcpy(&o, options, sizeof o);
  guarded(message, size, [&] { network = new Network(o); });
  return network;
}

void onednn_destroy(void* network) { delete static_cast<Network*>(network); }

float* onednn_data(void* network, const char* name, int layer) {
  return static_cast<Network*>(network)->data(name, layer);
}

int onednn_begin(void* network, char* message, int size) {
  return guarded(message, size, [&] { static_cast<Network*>(network)->begin(); });
}

int onednn_run(void* network, long n, char* message, int size) {
  return guarded(message, size, [&] { static_cast<Network*>(network)->run(n); });
}

int onednn_finish(void* network, char* message, int size) {
  return guarded(message, size, [&] { static_cast<Network*>(network)->finish(); });
}
}
