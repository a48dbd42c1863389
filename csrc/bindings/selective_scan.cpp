// The selective scan on plain arrays. All arrays come in running order: Python passes views with reversed steps for a
// scan from the last step to the first. python/fusedrnn/selective_scan.py makes the checks with messages for users.
#include <pybind11/complex.h>

#include <complex>

#include "../core/dispatch.h"
#include "../core/selective_scan.h"
#include "arrays.h"
#include "gil.h"

namespace fusedrnn::python {
namespace {

using namespace pybind11::literals;

using FlagsPointer = std::shared_ptr<StepFlags>;

template <class T>
bool of_number(const py::array& a, bool complex) {
  return (complex ? is_native<std::complex<T>>(a) : is_native<T>(a)) && is_aligned<T>(a);
}

void fits(bool condition, const char* name) {
  if (!condition) throw std::invalid_argument(std::string("selective scan: ") + name + " has another dtype or layout");
}

template <class T>
T* data_of(const py::array& a) {
  return static_cast<T*>(const_cast<void*>(a.data()));
}

// (T, B, D) with a contiguous last axis; one that is written has rows that follow each other.
template <class T>
Steps<T> steps_of(const py::object& o, const SelectiveScan<T>& s, bool write, const char* name) {
  if (o.is_none()) return {};
  const auto a = py::cast<py::array>(o);
  const auto number = static_cast<Index>(sizeof(T));
  fits(of_number<T>(a, false) && a.ndim() == 3 && a.shape(0) == s.T_ && a.shape(1) == s.B && a.shape(2) == s.D &&
           (s.D <= 1 || a.strides(2) == number),
       name);
  const Steps<T> steps{data_of<T>(a), s.T_ > 1 ? a.strides(0) / number : 0, s.B > 1 ? a.strides(1) / number : 0};
  if (write)
    fits(a.writeable() && (s.B == 1 || steps.row == s.D) && (s.T_ == 1 || std::abs(steps.time) >= s.B * s.D), name);
  return steps;
}
template <class T>
Steps<const T> read_only(const Steps<T>& s) {
  return {s.at, s.time, s.row};
}

// (T, B, G, N) with contiguous last axes, or (D, N).
template <class T>
Couplings<T> couplings_of(const py::array& a, const SelectiveScan<T>& s, bool write, const char* name) {
  const Index parts = s.complex ? 2 : 1, item = parts * static_cast<Index>(sizeof(T));
  fits(of_number<T>(a, s.complex) && (!write || a.writeable()), name);
  if (a.ndim() == 2) {
    fits(a.shape(0) == s.D && a.shape(1) == s.N && (a.flags() & py::array::c_style), name);
    return {data_of<T>(a), 0, 0, true};
  }
  fits(a.ndim() == 4 && a.shape(0) == s.T_ && a.shape(1) == s.B && a.shape(2) == s.G && a.shape(3) == s.N &&
           (s.N == 1 || a.strides(3) == item) && (s.G == 1 || a.strides(2) == s.N * item),
       name);
  const auto number = static_cast<Index>(sizeof(T));
  const Couplings<T> c{data_of<T>(a), s.T_ > 1 ? a.strides(0) / number : 0, s.B > 1 ? a.strides(1) / number : 0, false};
  const Index row = s.G * s.N * parts;
  if (write) fits((s.B == 1 || c.row == row) && (s.T_ == 1 || std::abs(c.time) >= s.B * row), name);
  return c;
}

template <class T>
T* numbers_of(const py::object& o, std::initializer_list<Index> shape, bool complex, bool write, const char* name) {
  if (o.is_none()) return nullptr;
  const auto a = py::cast<py::array>(o);
  fits(of_number<T>(a, complex) && a.ndim() == static_cast<py::ssize_t>(shape.size()) &&
           std::equal(shape.begin(), shape.end(), a.shape()) && (a.flags() & py::array::c_style) &&
           (!write || a.writeable()),
       name);
  return data_of<T>(a);
}

struct Given {
  py::array u, delta;
  py::object z;
  py::array A, B, C;
  py::object D, bias;
};

template <class T>
SelectiveScan<T> scan_of(const Given& given) {
  SelectiveScan<T> s;
  require(given.u.ndim() == 3 && given.A.ndim() == 2 && given.u.size() > 0, "selective scan: wrong axes");
  s.T_ = given.u.shape(0), s.B = given.u.shape(1), s.D = given.u.shape(2), s.N = given.A.shape(1);
  require(s.N > 0, "selective scan: no states");
  s.complex = is_native<std::complex<T>>(given.A);
  for (const py::array& c : {given.B, given.C})
    if (c.ndim() == 4) s.G = c.shape(2);
  require(s.G > 0 && s.D % s.G == 0, "selective scan: groups do not divide channels");
  s.u = read_only(steps_of<T>(given.u, s, false, "u"));
  s.delta = read_only(steps_of<T>(given.delta, s, false, "delta"));
  s.z = read_only(steps_of<T>(given.z, s, false, "z"));
  s.A = numbers_of<T>(given.A, {s.D, s.N}, s.complex, false, "A");
  const Couplings<T> b = couplings_of<T>(given.B, s, false, "B"), c = couplings_of<T>(given.C, s, false, "C");
  s.b = {b.at, b.time, b.row, b.constant}, s.c = {c.at, c.time, c.row, c.constant};
  s.skip = numbers_of<T>(given.D, {s.D}, false, false, "D");
  s.bias = numbers_of<T>(given.bias, {s.D}, false, false, "delta_bias");
  return s;
}

template <class T>
std::unique_ptr<SelectiveTape> forward_typed(const Given& given, const py::array& h, const py::array& y,
                                             const FlagsPointer& flags, bool softplus, int rule, bool keep) {
  SelectiveScan<T> s = scan_of<T>(given);
  require(rule >= kMamba && rule <= kBilinear, "selective scan: no such discretization");
  require(!flags || (flags->T() == s.T_ && flags->B() == s.B), "selective scan: flags of another size");
  s.softplus = softplus, s.rule = static_cast<Discretization>(rule);
  s.h = numbers_of<T>(h, {s.B, s.D, s.N}, s.complex, true, "h");
  s.y = steps_of<T>(y, s, true, "y");
  return without_gil([&](Interrupt interrupt) { return selective_forward(s, flags, keep, interrupt); });
}

template <class T>
void backward_typed(const SelectiveTape& tape, const Given& given, const py::object& dy, const py::array& du,
                    const py::array& ddelta, const py::object& dz, const py::array& dA, const py::array& dB,
                    const py::array& dC, const py::array& dD, const py::array& dbias, const py::array& dh) {
  SelectiveScan<T> s = scan_of<T>(given);
  require(s.T_ == tape.T_ && s.B == tape.B && s.D == tape.D && s.N == tape.N && s.G == tape.G &&
              s.complex == tape.complex && given.z.is_none() == dz.is_none(),
          "selective scan: the tape is of other arrays");
  s.dy = read_only(steps_of<T>(dy, s, false, "dy"));
  s.du = steps_of<T>(du, s, true, "du"), s.ddelta = steps_of<T>(ddelta, s, true, "ddelta");
  s.dz = steps_of<T>(dz, s, true, "dz");
  s.dA = numbers_of<T>(dA, {s.D, s.N}, s.complex, true, "dA");
  s.db = couplings_of<T>(dB, s, true, "dB"), s.dc = couplings_of<T>(dC, s, true, "dC");
  require(s.db.constant == s.b.constant && s.dc.constant == s.c.constant, "selective scan: gradients of another form");
  s.dskip = numbers_of<T>(dD, {s.D}, false, true, "dD");
  s.dbias = numbers_of<T>(dbias, {s.D}, false, true, "ddelta_bias");
  s.h = numbers_of<T>(dh, {s.B, s.D, s.N}, s.complex, true, "dh");
  without_gil([&](Interrupt interrupt) { selective_backward(tape, s, interrupt); });
}

// ---- one step, without pybind11's conversion of arguments

using ArrayStruct = py::detail::PyArray_Proxy;

// An exact, contiguous, aligned ndarray of a descriptor and shape. `at` is null for None, which is allowed if
// `optional`.
template <class T>
bool plain(PyObject* o, std::initializer_list<Index> shape, bool optional, T*& at, int flags = 0) {
  static PyTypeObject* const type = py::detail::npy_api::get().PyArray_Type_;
  static PyObject* const descriptor = py::dtype::of<std::remove_const_t<T>>().release().ptr();
  at = nullptr;
  if (o == Py_None) return optional;
  if (Py_TYPE(o) != type) return false;
  const auto* a = reinterpret_cast<const ArrayStruct*>(o);
  flags |= py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  if (a->descr != descriptor || (a->flags & flags) != flags || a->nd != static_cast<int>(shape.size())) return false;
  int axis = 0;
  for (const Index n : shape)
    if (a->dimensions[axis++] != n) return false;
  at = reinterpret_cast<T*>(a->data);
  return true;
}

template <class T>
bool apart(const T* h, Index h_size, const T* x, Index size) {
  const auto p = reinterpret_cast<std::uintptr_t>(h), q = reinterpret_cast<std::uintptr_t>(x);
  return !x || p + size_t(h_size) * sizeof(T) <= q || q + size_t(size) * sizeof(T) <= p;
}

// The output, or null if an argument needs a look, or a conversion, by Python.
template <class T>
PyObject* step_typed(PyObject* const* given, Index B, Index D, Index N) {
  SelectiveScan<T> s;
  s.T_ = 1, s.B = B, s.D = D, s.N = N;
  const auto matrix = [&](PyObject* o, Couplings<const T>& c) {
    c.row = N;
    return plain<const T>(o, {B, N}, false, c.at);
  };
  if (!(plain<T>(given[0], {B, D, N}, false, s.h, py::detail::npy_api::NPY_ARRAY_WRITEABLE_) &&
        plain<const T>(given[1], {B, D}, false, s.u.at) && plain<const T>(given[2], {B, D}, false, s.delta.at) &&
        plain<const T>(given[3], {D, N}, false, s.A) && matrix(given[4], s.b) && matrix(given[5], s.c) &&
        plain<const T>(given[6], {D}, true, s.skip) && plain<const T>(given[7], {B, D}, true, s.z.at) &&
        plain<const T>(given[8], {D}, true, s.bias)))
    return nullptr;
  const Index n = B * D * N;
  for (const T* x : {s.u.at, s.delta.at, s.z.at})
    if (!apart<T>(s.h, n, x, B * D)) return nullptr;
  if (!(apart<T>(s.h, n, s.A, D * N) && apart<T>(s.h, n, s.b.at, B * N) && apart<T>(s.h, n, s.c.at, B * N) &&
        apart<T>(s.h, n, s.skip, D) && apart<T>(s.h, n, s.bias, D)))
    return nullptr;
  s.u.row = s.delta.row = s.z.row = s.y.row = D;
  s.softplus = given[9] == Py_True;
  const Index sizes[] = {B, D};
  py::array y = new_array(py::dtype::of<T>(), sizes, 2);
  s.y.at = static_cast<T*>(y.mutable_data());
  constexpr double kReleaseStates = 5e4;  // larger steps let other Python threads run
  if (static_cast<double>(n) < kReleaseStates) selective_forward(s, nullptr, false, {});
  else without_gil([&](Interrupt interrupt) { selective_forward(s, nullptr, false, interrupt); });
  return y.release().ptr();
}

PyObject* step(PyObject*, PyObject* const* given, Py_ssize_t count) {
  try {
    require(count == 10, "selective_scan_step: ten arguments");
    if (Py_TYPE(given[0]) != py::detail::npy_api::get().PyArray_Type_ || !PyBool_Check(given[9])) Py_RETURN_NONE;
    const auto* h = reinterpret_cast<const ArrayStruct*>(given[0]);
    if (h->nd != 3) Py_RETURN_NONE;
    const Index B = h->dimensions[0], D = h->dimensions[1], N = h->dimensions[2];
    if (B == 0 || D == 0 || N == 0) Py_RETURN_NONE;
    PyObject* y = step_typed<float>(given, B, D, N);
    if (!y) y = step_typed<double>(given, B, D, N);
    if (y) return y;
    Py_RETURN_NONE;
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  }
  return nullptr;
}

template <class Call>
auto with_numbers_of(const py::array& u, Call call) {
  return with_dtype(dtype_of(u), call);
}

}  // namespace

void add_selective_scan(py::module_& m) {
  py::class_<SelectiveTape>(m, "SelectiveTape", py::is_final())
      .def_property_readonly("nbytes", [](const SelectiveTape& t) { return t.nbytes; });
  m.def(
      "selective_scan_forward",
      [](const py::array& u, const py::array& delta, const py::object& z, const py::array& A, const py::array& B,
         const py::array& C, const py::object& D, const py::object& delta_bias, const py::array& h, const py::array& y,
         const FlagsPointer& flags, bool softplus, int rule) {
        const Given given{u, delta, z, A, B, C, D, delta_bias};
        return with_numbers_of(
            u, [&](auto zero) { return forward_typed<decltype(zero)>(given, h, y, flags, softplus, rule, true); });
      },
      "u"_a, "delta"_a, "z"_a, "A"_a, "B"_a, "C"_a, "D"_a, "delta_bias"_a, "h"_a, "y"_a, "flags"_a, "softplus"_a,
      "rule"_a);
  m.def(
      "selective_scan_backward",
      [](const SelectiveTape& tape, const py::array& u, const py::array& delta, const py::object& z, const py::array& A,
         const py::array& B, const py::array& C, const py::object& D, const py::object& delta_bias,
         const py::object& dy, const py::array& du, const py::array& ddelta, const py::object& dz, const py::array& dA,
         const py::array& dB, const py::array& dC, const py::array& dD, const py::array& dbias, const py::array& dh) {
        const Given given{u, delta, z, A, B, C, D, delta_bias};
        with_dtype(tape.dtype, [&](auto zero) {
          backward_typed<decltype(zero)>(tape, given, dy, du, ddelta, dz, dA, dB, dC, dD, dbias, dh);
        });
      },
      "tape"_a, "u"_a, "delta"_a, "z"_a, "A"_a, "B"_a, "C"_a, "D"_a, "delta_bias"_a, "dy"_a, "du"_a, "ddelta"_a, "dz"_a,
      "dA"_a, "dB"_a, "dC"_a, "dD"_a, "ddelta_bias"_a, "dh"_a);
  m.def(
      "selective_functions",
      [](const std::string& function, const py::array& x) {
        return with_numbers_of(x, [&](auto zero) {
          using T = decltype(zero);
          const SelectiveTable<T>& table = selective_of<T>(current_kernels());
          const auto apply = function == "exp2"       ? table.exp2
                             : function == "softplus" ? table.softplus
                             : function == "phi"      ? table.phi
                                                      : table.sine;
          require(x.ndim() == 1 && (x.flags() & py::array::c_style) && is_aligned<T>(x), "apply: x is not contiguous");
          const Index sizes[] = {x.shape(0)};
          py::array y = new_array(x.dtype(), sizes, 1);
          apply(static_cast<const T*>(x.data()), static_cast<T*>(y.mutable_data()), x.shape(0));
          return y;
        });
      },
      "function"_a, "x"_a);
  static PyMethodDef functions[] = {
      by_hand("selective_scan_step", step,
              "selective_scan_step(h, u, delta, A, B, C, D, z, delta_bias, softplus)\n--\n\n"
              "One step of \"mamba\" with real numbers; None if arrays need a conversion."),
      {nullptr, nullptr, 0, nullptr}};
  if (PyModule_AddFunctions(m.ptr(), functions) < 0) throw py::error_already_set();
}

}  // namespace fusedrnn::python
