// Causal convolutions and linear attention. All arrays over time come in running order, as in recurrences.cpp;
// python/fusedrnn/causal_conv.py and linear_attention.py make the checks with messages for users.
#include "../core/attention.h"

#include "../core/step_flags.h"
#include "arrays.h"
#include "gil.h"

namespace fusedrnn::python {

using namespace pybind11::literals;

using FlagsPointer = std::shared_ptr<StepFlags>;

// An array (T, B, width) whose rows are contiguous, or none.
template <class T, class Number>
static Series<Number> series(const py::object& o, Index T_, Index B, Index width, const char* name) {
  if (o.is_none()) return {};
  const auto a = py::cast<py::array>(o);
  constexpr bool write = !std::is_const_v<Number>;
  const auto number = static_cast<Index>(sizeof(T));
  const Strided s = strided<T>(a, T_, B, width, write, name);
  bool fits = is_aligned<T>(a) && (width <= 1 || a.size() == 0 || s.feature == number);
  if (write && a.size() > 0)
    fits = fits && (B == 1 || s.batch == width * number) && (T_ == 1 || std::abs(s.time) >= B * width * number);
  if (!fits) throw std::invalid_argument(std::string(name) + ": rows that are not contiguous, or that overlap");
  return {reinterpret_cast<Number*>(s.data), T_ > 1 ? s.time / number : 0, B > 1 ? s.batch / number : 0};
}

// An array in C order, or null for None.
template <class T>
static T* plain(const py::object& o, std::initializer_list<Index> shape, bool write, const char* name) {
  if (o.is_none()) return nullptr;
  const auto a = py::cast<py::array>(o);
  if (!(is_native<T>(a) && is_aligned<T>(a) && a.ndim() == static_cast<py::ssize_t>(shape.size()) &&
        std::equal(shape.begin(), shape.end(), a.shape()) && (a.flags() & py::array::c_style) &&
        (!write || a.writeable())))
    throw std::invalid_argument(std::string(name) + ": wrong dtype, shape or layout");
  return static_cast<T*>(const_cast<void*>(a.data()));
}

static const std::uint8_t* bytes_of(const FlagsPointer& flags, Index T, Index B) {
  require(!flags || (flags->T() == T && flags->B() == B), "flags of another size");
  return flags ? flags->bytes() : nullptr;
}

template <class T>
static Convolution<T> convolution_of(const py::array& x, const py::array& weight, const py::object& bias,
                                     const py::object& state, bool silu, const FlagsPointer& flags) {
  require(x.ndim() == 3 && weight.ndim() == 2 && x.size() > 0 && weight.size() > 0, "convolution: empty");
  Convolution<T> c;
  c.T_ = x.shape(0), c.B = x.shape(1), c.D = x.shape(2), c.k = weight.shape(1), c.silu = silu;
  c.flags = bytes_of(flags, c.T_, c.B);
  c.x = series<T, const T>(x, c.T_, c.B, c.D, "x");
  c.weight = plain<T>(weight, {c.D, c.k}, false, "weight");
  c.bias = plain<T>(bias, {c.D}, false, "bias");
  c.state = plain<T>(state, {c.B, c.k - 1, c.D}, false, "state");
  return c;
}

template <class T>
static void convolution_forward(const py::array& x, const py::array& weight, const py::object& bias,
                                const py::object& state, bool silu, const py::array& y, const py::array& state_n,
                                const FlagsPointer& flags) {
  Convolution<T> c = convolution_of<T>(x, weight, bias, state, silu, flags);
  c.y = series<T, T>(y, c.T_, c.B, c.D, "y");
  c.state_n = plain<T>(state_n, {c.B, c.k - 1, c.D}, true, "state_n");
  without_gil([&](Interrupt interrupt) { run_convolution(c, false, interrupt); });
}

template <class T>
static void convolution_backward(const py::array& x, const py::array& weight, const py::object& bias,
                                 const py::object& state, bool silu, const py::array& dy, const py::object& dstate_n,
                                 const py::array& dx, const py::array& dweight, const py::array& dbias,
                                 const py::array& dstate, const FlagsPointer& flags) {
  Convolution<T> c = convolution_of<T>(x, weight, bias, state, silu, flags);
  c.dy = series<T, const T>(dy, c.T_, c.B, c.D, "dy");
  c.dstate_n = plain<T>(dstate_n, {c.B, c.k - 1, c.D}, false, "dstate_n");
  c.dx = series<T, T>(dx, c.T_, c.B, c.D, "dx");
  c.dweight = plain<T>(dweight, {c.D, c.k}, true, "dweight");
  c.dbias = plain<T>(dbias, {c.D}, true, "dbias");
  c.dstate = plain<T>(dstate, {c.B, c.k - 1, c.D}, true, "dstate");
  without_gil([&](Interrupt interrupt) { run_convolution(c, true, interrupt); });
}

enum Input { kQuery, kKey, kValue, kDecay, kBeta, kInputs };

// What forward and backward have in common; `like` has the shape (B, kv_heads, d_k, d_v) of the state.
template <class T>
static Attention<T> attention_of(const py::tuple& inputs, const py::object& S_0, double scale, const py::array& like,
                                 const py::object& error, const FlagsPointer& flags) {
  require(inputs.size() == kInputs && like.ndim() == 4, "attention: five inputs and a state");
  const auto q = py::cast<py::array>(inputs[kQuery]);
  Attention<T> a;
  a.B = like.shape(0), a.kv_heads = like.shape(1), a.dk = like.shape(2), a.dv = like.shape(3);
  require(like.size() > 0 && q.ndim() == 3 && q.shape(0) > 0, "attention: empty");
  a.T_ = q.shape(0), a.heads = q.shape(2) / a.dk, a.scale = static_cast<T>(scale);
  require(a.heads > 0 && a.heads % a.kv_heads == 0, "attention: heads");
  a.flags = bytes_of(flags, a.T_, a.B);
  a.q = series<T, const T>(inputs[kQuery], a.T_, a.B, a.heads * a.dk, "q");
  a.k = series<T, const T>(inputs[kKey], a.T_, a.B, a.kv_heads * a.dk, "k");
  a.v = series<T, const T>(inputs[kValue], a.T_, a.B, a.kv_heads * a.dv, "v");
  require(a.q.at && a.k.at && a.v.at, "attention: q, k and v");
  if (!inputs[kDecay].is_none()) {
    const auto decay = py::cast<py::array>(inputs[kDecay]);
    const bool per_head = decay.ndim() == 3 && decay.shape(2) == a.kv_heads;
    a.decays = per_head ? Attention<T>::kPerHead : Attention<T>::kPerKey;
    a.decay = series<T, const T>(decay, a.T_, a.B, a.kv_heads * (per_head ? 1 : a.dk), "decay");
  }
  if (!inputs[kBeta].is_none()) {
    const auto beta = py::cast<py::array>(inputs[kBeta]);
    a.beta_head = beta.ndim() == 3 && beta.shape(2) == a.kv_heads ? 1 : 0;
    a.beta = series<T, const T>(beta, a.T_, a.B, a.beta_head ? a.kv_heads : 1, "beta");
    a.error = series<T, T>(error, a.T_, a.B, a.kv_heads * a.dv, "error");
    require(a.error.at, "attention: error");
  }
  a.S_0 = plain<T>(S_0, {a.B, a.kv_heads, a.dk, a.dv}, false, "S_0");
  return a;
}

template <class T>
static void attention_forward(const py::tuple& inputs, const py::object& S_0, double scale, const py::array& o,
                              const py::array& S_n, const py::object& error, const FlagsPointer& flags) {
  Attention<T> a = attention_of<T>(inputs, S_0, scale, S_n, error, flags);
  a.o = series<T, T>(o, a.T_, a.B, a.heads * a.dv, "o");
  a.S_n = plain<T>(S_n, {a.B, a.kv_heads, a.dk, a.dv}, true, "S_n");
  without_gil([&](Interrupt interrupt) { run_attention(a, false, interrupt); });
}

template <class T>
static void attention_backward(const py::tuple& inputs, const py::object& S_0, double scale, const py::object& error,
                               const py::array& d_o, const py::object& dS_n, const py::tuple& outputs,
                               const py::array& dS_0, const FlagsPointer& flags) {
  Attention<T> a = attention_of<T>(inputs, S_0, scale, dS_0, error, flags);
  require(outputs.size() == kInputs, "attention: five gradients");
  for (std::size_t i = 0; i < kInputs; ++i)
    require(inputs[i].is_none() == outputs[i].is_none(), "attention: a gradient too many, or too few");
  a.d_o = series<T, const T>(d_o, a.T_, a.B, a.heads * a.dv, "do");
  a.dS_n = plain<T>(dS_n, {a.B, a.kv_heads, a.dk, a.dv}, false, "dS_n");
  a.dq = series<T, T>(outputs[kQuery], a.T_, a.B, a.heads * a.dk, "dq");
  a.dk_ = series<T, T>(outputs[kKey], a.T_, a.B, a.kv_heads * a.dk, "dk");
  a.dv_ = series<T, T>(outputs[kValue], a.T_, a.B, a.kv_heads * a.dv, "dv");
  a.ddecay =
      series<T, T>(outputs[kDecay], a.T_, a.B, a.kv_heads * (a.decays == Attention<T>::kPerKey ? a.dk : 1), "ddecay");
  a.dbeta = series<T, T>(outputs[kBeta], a.T_, a.B, a.beta_head ? a.kv_heads : 1, "dbeta");
  a.dS_0 = plain<T>(dS_0, {a.B, a.kv_heads, a.dk, a.dv}, true, "dS_0");
  without_gil([&](Interrupt interrupt) { run_attention(a, true, interrupt); });
}

void add_attention(py::module_& m) {
  m.def(
      "causal_conv_forward",
      [](const py::array& x, const py::array& weight, const py::object& bias, const py::object& state, bool silu,
         const py::array& y, const py::array& state_n, const FlagsPointer& flags) {
        with_dtype(dtype_of(x), [&](auto zero) {
          convolution_forward<decltype(zero)>(x, weight, bias, state, silu, y, state_n, flags);
        });
      },
      "x"_a, "weight"_a, "bias"_a, "state"_a, "silu"_a, "y"_a, "state_n"_a, "flags"_a);
  m.def(
      "causal_conv_backward",
      [](const py::array& x, const py::array& weight, const py::object& bias, const py::object& state, bool silu,
         const py::array& dy, const py::object& dstate_n, const py::array& dx, const py::array& dweight,
         const py::array& dbias, const py::array& dstate, const FlagsPointer& flags) {
        with_dtype(dtype_of(x), [&](auto zero) {
          convolution_backward<decltype(zero)>(x, weight, bias, state, silu, dy, dstate_n, dx, dweight, dbias, dstate,
                                               flags);
        });
      },
      "x"_a, "weight"_a, "bias"_a, "state"_a, "silu"_a, "dy"_a, "dstate_n"_a, "dx"_a, "dweight"_a, "dbias"_a,
      "dstate"_a, "flags"_a);
  m.def(
      "linear_attention_forward",
      [](const py::tuple& inputs, const py::object& S_0, double scale, const py::array& o, const py::array& S_n,
         const py::object& error, const FlagsPointer& flags) {
        with_dtype(dtype_of(S_n),
                   [&](auto zero) { attention_forward<decltype(zero)>(inputs, S_0, scale, o, S_n, error, flags); });
      },
      "inputs"_a, "S_0"_a, "scale"_a, "o"_a, "S_n"_a, "error"_a, "flags"_a);
  m.def(
      "linear_attention_backward",
      [](const py::tuple& inputs, const py::object& S_0, double scale, const py::object& error, const py::array& d_o,
         const py::object& dS_n, const py::tuple& outputs, const py::array& dS_0, const FlagsPointer& flags) {
        with_dtype(dtype_of(dS_0), [&](auto zero) {
          attention_backward<decltype(zero)>(inputs, S_0, scale, error, d_o, dS_n, outputs, dS_0, flags);
        });
      },
      "inputs"_a, "S_0"_a, "scale"_a, "error"_a, "do"_a, "dS_n"_a, "outputs"_a, "dS_0"_a, "flags"_a);
}

}  // namespace fusedrnn::python
