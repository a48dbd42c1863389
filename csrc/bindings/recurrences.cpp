// Linear recurrences on plain arrays: scans and dense state spaces. All arrays come in running order: Python passes
// views with reversed steps for a scan from the last step to the first. python/fusedrnn/scans.py and state_spaces.py
// make the checks with messages for users.
#include <pybind11/complex.h>

#include <complex>

#include "../core/array_scan.h"
#include "../core/state_space.h"
#include "arrays.h"
#include "gil.h"

namespace fusedrnn::python {

using namespace pybind11::literals;

using FlagsPointer = std::shared_ptr<StepFlags>;

template <class T>
static bool is_complex(const py::array& a) {
  return is_native<std::complex<T>>(a);
}

// An array (T, B, H) with a contiguous last axis; strides in numbers, of which a complex element is two.
template <class T>
struct Cube {
  T* at = nullptr;
  Index time = 0, row = 0;
};
template <class T>
static Cube<T> cube(const py::array& a, Index T_, Index B, Index H, bool complex, const char* name) {
  const auto item = static_cast<py::ssize_t>(sizeof(T)) * (complex ? 2 : 1);
  if (!((complex ? is_complex<T>(a) : is_native<T>(a)) && is_aligned<T>(a) && a.ndim() == 3 && a.shape(0) == T_ &&
        a.shape(1) == B && a.shape(2) == H && (H <= 1 || a.size() == 0 || a.strides(2) == item)))
    throw std::invalid_argument(std::string(name) + ": wrong dtype, shape or layout");
  const auto number = static_cast<Index>(sizeof(T));
  return {static_cast<T*>(const_cast<void*>(a.data())), T_ > 1 ? a.strides(0) / number : 0,
          B > 1 ? a.strides(1) / number : 0};
}

// An array to be written: its rows of a step follow each other, and its steps do not overlap.
template <class T>
static Cube<T> out_cube(const py::array& a, Index T_, Index B, Index H, bool complex, const char* name) {
  const Cube<T> c = cube<T>(a, T_, B, H, complex, name);
  const Index units = H * (complex ? 2 : 1);
  if (a.size() > 0 && !(a.writeable() && (B == 1 || c.row == units) && (T_ == 1 || std::abs(c.time) >= B * units)))
    throw std::invalid_argument(std::string(name) + ": read-only, or rows that do not follow each other");
  return c;
}

// (B, H) in C order, or null for None.
template <class T>
static T* states(const py::object& o, Index B, Index H, bool complex, bool write, const char* name) {
  if (o.is_none()) return nullptr;
  const auto a = py::cast<py::array>(o);
  if (!((complex ? is_complex<T>(a) : is_native<T>(a)) && is_aligned<T>(a) && a.ndim() == 2 && a.shape(0) == B &&
        a.shape(1) == H && (a.flags() & py::array::c_style) && (!write || a.writeable())))
    throw std::invalid_argument(std::string(name) + ": wrong dtype, shape or layout");
  return static_cast<T*>(const_cast<void*>(a.data()));
}

static const std::uint8_t* bytes_of(const FlagsPointer& flags, Index T, Index B) {
  require(!flags || (flags->T() == T && flags->B() == B), "flags of another size");
  return flags ? flags->bytes() : nullptr;
}

static py::array array_of(const py::object& o) { return py::cast<py::array>(o); }

// What forward and backward have in common; `like` has the shape (T, B, H) of h.
template <class T>
static Scan<T> scan_of(const py::array& a, const py::array& like, const py::object& h_0, const FlagsPointer& flags) {
  require(like.ndim() == 3 && a.ndim() == 3, "scan: a and h have three axes");
  Scan<T> s;
  s.complex = is_complex<T>(like);
  const Index H = like.shape(2);
  s.T_ = like.shape(0), s.B = like.shape(1), s.units = H * (s.complex ? 2 : 1);
  for (int axis = 0; axis < 3; ++axis)
    require(a.shape(axis) == like.shape(axis) || a.shape(axis) == 1, "scan: a does not fit h");
  require(like.size() > 0, "scan: empty");
  const Cube<T> c = cube<T>(a, a.shape(0), a.shape(1), a.shape(2), s.complex, "a");
  s.a = c.at, s.a_time = c.time, s.a_row = c.row, s.a_unit = a.shape(2) == H ? 1 : 0;
  s.h_0 = states<T>(h_0, s.B, H, s.complex, false, "h_0");
  s.flags = bytes_of(flags, s.T_, s.B);
  return s;
}

template <class T>
static void scan_forward_typed(const py::array& a, const py::array& b, const py::object& h_0, const py::array& h,
                               const py::array& h_n, const FlagsPointer& flags) {
  Scan<T> s = scan_of<T>(a, h, h_0, flags);
  const Index H = h.shape(2);
  const Cube<T> in = cube<T>(b, s.T_, s.B, H, s.complex, "b"), out = out_cube<T>(h, s.T_, s.B, H, s.complex, "h");
  s.b = in.at, s.b_time = in.time, s.b_row = in.row;
  s.h = out.at, s.h_time = out.time;
  s.h_n = states<T>(h_n, s.B, H, s.complex, true, "h_n");
  without_gil([&](Interrupt interrupt) { run_scan(s, false, interrupt); });
}

template <class T>
static void scan_backward_typed(const py::array& a, const py::array& h, const py::object& h_0,
                                const FlagsPointer& flags, const py::object& dh, const py::object& dh_n,
                                const py::array& da, const py::array& db, const py::array& dh_0) {
  Scan<T> s = scan_of<T>(a, h, h_0, flags);
  const Index H = h.shape(2);
  const Cube<T> of_h = cube<T>(h, s.T_, s.B, H, s.complex, "h");
  require(s.B == 1 || of_h.row == s.units, "scan: rows of h do not follow each other");
  s.h = of_h.at, s.h_time = of_h.time;
  if (!dh.is_none()) {
    const Cube<T> c = cube<T>(array_of(dh), s.T_, s.B, H, s.complex, "dh");
    s.dh = c.at, s.dh_time = c.time, s.dh_row = c.row;
  }
  s.dh_n = states<T>(dh_n, s.B, H, s.complex, false, "dh_n");
  s.dh_0 = states<T>(dh_0, s.B, H, s.complex, true, "dh_0");
  const Cube<T> of_db = out_cube<T>(db, s.T_, s.B, H, s.complex, "db");
  s.db = of_db.at, s.db_time = of_db.time;
  if (a.shape(0) == 1) {
    s.a_time = 0;
    s.da = out_cube<T>(da, 1, s.B, H, s.complex, "da").at;
  } else {
    const Index sums = (s.units + kScanSum - 1) / kScanSum;
    const Cube<T> c = out_cube<T>(da, s.T_, s.B, s.a_unit ? H : sums, s.complex, "da");
    s.da = c.at, s.da_time = c.time;
    require(s.a_time != 0, "scan: a repeats its steps");
  }
  without_gil([&](Interrupt interrupt) { run_scan(s, true, interrupt); });
}

template <class Call>
static void with_number(const py::array& like, Call call) {
  if (is_native<float>(like) || is_complex<float>(like)) return call(float());
  require(is_native<double>(like) || is_complex<double>(like), "expected float32, float64, complex64 or complex128");
  call(double());
}

// ---- state spaces

template <class T>
static Matrices<T> matrices(const py::object& o, Index T_, Index B, Index rows, Index columns, bool write,
                            const char* name) {
  if (o.is_none()) return {};
  const auto a = array_of(o);
  const auto nd = a.ndim();
  const auto number = static_cast<py::ssize_t>(sizeof(T));
  bool fits = is_native<T>(a) && is_aligned<T>(a) && nd >= 2 && nd <= 4 && a.shape(nd - 2) == rows &&
              a.shape(nd - 1) == columns && (!write || a.writeable());
  fits = fits && (nd < 3 || a.shape(0) == T_) && (nd < 4 || a.shape(1) == B);
  fits = fits && (columns <= 1 || a.size() == 0 || a.strides(nd - 1) == number);
  fits = fits && (rows <= 1 || a.size() == 0 || a.strides(nd - 2) == columns * number);
  if (!fits) throw std::invalid_argument(std::string(name) + ": wrong dtype, shape or layout");
  Matrices<T> m{static_cast<T*>(const_cast<void*>(a.data())), rows, columns, 0, 0};
  // A stride of 0 means to the kernels that there is one matrix, so the stride of a single step must not be 0.
  if (nd >= 3) m.time = T_ > 1 ? a.strides(0) / number : rows * columns;
  if (nd == 4) m.row = B > 1 ? a.strides(1) / number : rows * columns;
  require(nd < 3 || m.time != 0, "state space: matrices repeat their steps");
  require(nd < 4 || m.row != 0, "state space: matrices repeat their rows");
  if (write && nd == 3) require(T_ == 1 || std::abs(m.time) >= rows * columns, "state space: gradients overlap");
  if (write && nd == 4)
    require((B == 1 || m.row == rows * columns) && (T_ == 1 || std::abs(m.time) >= B * rows * columns),
            "state space: gradients overlap");
  return m;
}

template <class T>
static void set_matrices(StateSpaceArrays<T>& s, const py::tuple& of) {
  require(of.size() == kOperands, "state space: four matrices");
  const Index rows[] = {s.n, s.n, s.p, s.p}, columns[] = {s.n, s.m, s.n, s.m};
  const char* names[] = {"A", "B", "C", "D"};
  for (std::size_t i = 0; i < kOperands; ++i)
    s.of[i] = matrices<T>(of[i], s.T_, s.B, rows[i], columns[i], false, names[i]);
  require(s.of[kA].at && s.of[kB].at && s.of[kC].at, "state space: a matrix is missing");
}

template <class T>
static std::unique_ptr<StateSpaceTape> state_space_forward_typed(const py::array& u, const py::tuple& of,
                                                                 const py::object& x_0, const py::array& y,
                                                                 const py::array& x_n, bool before,
                                                                 const FlagsPointer& flags) {
  require(u.ndim() == 3 && y.ndim() == 3 && x_n.ndim() == 2, "state space: u and y have three axes, x_n has two");
  StateSpaceArrays<T> s;
  s.T_ = u.shape(0), s.B = u.shape(1), s.m = u.shape(2), s.n = x_n.shape(1), s.p = y.shape(2);
  require(s.T_ > 0 && s.B > 0 && s.m > 0 && s.n > 0 && s.p > 0, "state space: empty");
  s.before = before;
  s.flags = flags;
  bytes_of(flags, s.T_, s.B);
  set_matrices(s, of);
  s.u = strided<T>(u, s.T_, s.B, s.m, false, "u");
  s.x_0 = states<T>(x_0, s.B, s.n, false, false, "x_0");
  const Cube<T> out = out_cube<T>(y, s.T_, s.B, s.p, false, "y");
  s.y = out.at, s.y_time = out.time;
  s.x_n = states<T>(x_n, s.B, s.n, false, true, "x_n");
  return without_gil([&](Interrupt interrupt) { return state_space_forward(s, interrupt); });
}

template <class T>
static void state_space_backward_typed(const StateSpaceTape& tape, const py::array& u, const py::tuple& of,
                                       const py::object& dy, const py::object& dx_n, const py::array& du,
                                       const py::tuple& d, const py::array& dx_0) {
  require(d.size() == kOperands, "state space: four gradients");
  StateSpaceArrays<T> s;
  s.T_ = tape.T_, s.B = tape.B, s.n = tape.n, s.m = tape.m, s.p = tape.p, s.before = tape.before;
  s.flags = tape.flags;
  set_matrices(s, of);
  s.u = strided<T>(u, s.T_, s.B, s.m, false, "u");
  if (!dy.is_none()) s.dy = strided<T>(array_of(dy), s.T_, s.B, s.p, false, "dy");
  s.dx_n = states<T>(dx_n, s.B, s.n, false, false, "dx_n");
  s.dx_0 = states<T>(dx_0, s.B, s.n, false, true, "dx_0");
  const Cube<T> out = out_cube<T>(du, s.T_, s.B, s.m, false, "du");
  s.du = out.at, s.du_time = out.time;
  for (std::size_t i = 0; i < kOperands; ++i) {
    const Matrices<T>& form = s.of[i];
    require(d[i].is_none() == !form.at, "state space: a gradient too many, or too few");
    if (!form.at) continue;
    const auto m = matrices<T>(d[i], s.T_, s.B, form.rows, form.columns, true, "gradient");
    require((m.time == 0) == (form.time == 0) && (m.row == 0) == (form.row == 0),
            "state space: a gradient is not of the form of its matrix");
    s.d[i].at = const_cast<T*>(m.at), s.d[i].time = m.time, s.d[i].row = m.row;
  }
  without_gil([&](Interrupt interrupt) { state_space_backward(tape, s, interrupt); });
}

void add_recurrences(py::module_& m) {
  py::class_<StepFlags, FlagsPointer>(m, "StepFlags", py::is_final())
      .def(py::init([](Index T, Index B, const py::object& lengths, const py::object& mask, const py::object& reset,
                       bool reverse) {
             return std::make_shared<StepFlags>(T, B, vector<std::int64_t>(lengths, B, false, "lengths"),
                                                flags(mask, {T, B}, "mask"), flags(reset, {T, B}, "reset"), reverse);
           }),
           "T"_a, "B"_a, "lengths"_a, "mask"_a, "reset"_a, "reverse"_a);
  py::class_<StateSpaceTape>(m, "StateSpaceTape", py::is_final())
      .def_property_readonly("nbytes", [](const StateSpaceTape& t) { return t.nbytes; });
  m.def("scan_sums", [](Index units) { return (units + kScanSum - 1) / kScanSum; }, "units"_a);
  m.def(
      "scan_forward",
      [](const py::array& a, const py::array& b, const py::object& h_0, const py::array& h, const py::array& h_n,
         const FlagsPointer& flags) {
        with_number(h, [&](auto zero) { scan_forward_typed<decltype(zero)>(a, b, h_0, h, h_n, flags); });
      },
      "a"_a, "b"_a, "h_0"_a, "h"_a, "h_n"_a, "flags"_a);
  m.def(
      "scan_backward",
      [](const py::array& a, const py::array& h, const py::object& h_0, const FlagsPointer& flags, const py::object& dh,
         const py::object& dh_n, const py::array& da, const py::array& db, const py::array& dh_0) {
        with_number(h,
                    [&](auto zero) { scan_backward_typed<decltype(zero)>(a, h, h_0, flags, dh, dh_n, da, db, dh_0); });
      },
      "a"_a, "h"_a, "h_0"_a, "flags"_a, "dh"_a, "dh_n"_a, "da"_a, "db"_a, "dh_0"_a);
  m.def(
      "state_space_forward",
      [](const py::array& u, const py::tuple& matrices, const py::object& x_0, const py::array& y, const py::array& x_n,
         bool before, const FlagsPointer& flags) {
        return with_dtype(dtype_of(u), [&](auto zero) {
          return state_space_forward_typed<decltype(zero)>(u, matrices, x_0, y, x_n, before, flags);
        });
      },
      "u"_a, "matrices"_a, "x_0"_a, "y"_a, "x_n"_a, "before"_a, "flags"_a);
  m.def(
      "state_space_backward",
      [](const StateSpaceTape& tape, const py::array& u, const py::tuple& matrices, const py::object& dy,
         const py::object& dx_n, const py::array& du, const py::tuple& dmatrices, const py::array& dx_0) {
        with_dtype(tape.dtype, [&](auto zero) {
          state_space_backward_typed<decltype(zero)>(tape, u, matrices, dy, dx_n, du, dmatrices, dx_0);
        });
      },
      "tape"_a, "u"_a, "matrices"_a, "dy"_a, "dx_n"_a, "du"_a, "dmatrices"_a, "dx_0"_a);
}

}  // namespace fusedrnn::python
