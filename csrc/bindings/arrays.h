// Converts NumPy arrays to the plain pointers of core. Only the bindings include this file.
// python/fusedrnn/_validate.py makes every check that a user can run into, with a better message; the checks here only
// keep a wrong caller from reading arbitrary memory.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>

#include "../core/backward.h"
#include "../core/forward.h"
#include "../core/schedule.h"
#include "../core/strides.h"

namespace fusedrnn::python {

namespace py = pybind11;

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

template <class T>
bool is_native(const py::array& a) {
  return a.dtype().num() == py::dtype::num_of<T>() && a.dtype().byteorder() != '>';
}

inline Dtype dtype_of(const py::array& a) {
  if (is_native<double>(a)) return Dtype::kFloat64;
  require(is_native<float>(a), "expected an array of float32 or float64");
  return Dtype::kFloat32;
}

inline py::dtype numpy_dtype(Dtype dtype) {
  return with_dtype(dtype, [](auto zero) { return py::dtype::of<decltype(zero)>(); });
}

template <class T>
bool is_aligned(const py::array& a) {
  if (a.size() == 0) return true;
  if (reinterpret_cast<std::uintptr_t>(a.data()) % alignof(T)) return false;
  for (py::ssize_t d = 0; d < a.ndim(); ++d)
    if (a.shape(d) > 1 && a.strides(d) % static_cast<py::ssize_t>(alignof(T))) return false;
  return true;
}

// A (time, batch, feature) array with any strides.
template <class T>
Strided strided(const py::array& a, Index T_, Index B, Index features, bool write, const char* name) {
  if (!(is_native<T>(a) && a.ndim() == 3 && a.shape(0) == T_ && a.shape(1) == B && a.shape(2) == features))
    throw std::invalid_argument(std::string(name) + ": wrong dtype or shape");
  if (write && !a.writeable()) throw std::invalid_argument(std::string(name) + ": read-only");
  return {static_cast<char*>(const_cast<void*>(a.data())), a.strides(0), a.strides(1), a.strides(2)};
}

// The same over the steps of a schedule.
template <class T>
Strided strided(const py::array& a, const Schedule& schedule, Index features, bool write, const char* name) {
  Strided s = strided<T>(a, schedule.T(), schedule.columns(), features, write, name);
  if (schedule.packed()) s.batch = 0;
  return s;
}

// The same with a contiguous and aligned last axis.
template <class T>
Strided rows_of(const py::array& a, const Schedule& schedule, Index features, bool write, const char* name) {
  const Strided s = strided<T>(a, schedule, features, write, name);
  if (!is_aligned<T>(a) || (a.size() > 0 && features > 1 && s.feature != static_cast<Index>(sizeof(T))))
    throw std::invalid_argument(std::string(name) + ": the last axis is not contiguous");
  const Axis axes[] = {{schedule.T(), s.time}, {schedule.columns(), s.batch}};
  if (write && !rows_apart(axes, 2, features * static_cast<Index>(sizeof(T))))
    throw std::invalid_argument(std::string(name) + ": rows overlap");
  return s;
}

// Flags, or null for None. They are read as bytes, because an array of bools may hold values other than 0 and 1, which
// a C++ bool may not.
inline const std::uint8_t* flags(const py::object& given, std::initializer_list<Index> shape, const char* name) {
  if (given.is_none()) return nullptr;
  const auto a = py::cast<py::array>(given);
  require(is_native<bool>(a) && a.ndim() == static_cast<py::ssize_t>(shape.size()) &&
              std::equal(shape.begin(), shape.end(), a.shape()) && (a.flags() & py::array::c_style),
          name);
  return static_cast<const std::uint8_t*>(a.data());
}

template <class T>
T* matrix(const py::array& a, Index rows, Index columns, Index* stride, bool write, const char* name) {
  if (!(is_native<T>(a) && is_aligned<T>(a) && a.ndim() == 2 && a.shape(0) == rows && a.shape(1) == columns &&
        (columns <= 1 || rows == 0 || a.strides(1) == static_cast<py::ssize_t>(sizeof(T)))))
    throw std::invalid_argument(std::string(name) + ": wrong dtype, shape or layout");
  if (write && !a.writeable()) throw std::invalid_argument(std::string(name) + ": read-only");
  if (stride) *stride = a.strides(0) / static_cast<Index>(sizeof(T));
  else require(a.flags() & py::array::c_style, name);
  return static_cast<T*>(const_cast<void*>(a.data()));
}

template <class T>
T* vector(const py::object& o, Index n, bool write, const char* name) {
  if (o.is_none()) return nullptr;
  const auto a = py::cast<py::array>(o);
  if (!(is_native<T>(a) && is_aligned<T>(a) && a.ndim() == 1 && a.shape(0) == n && (a.flags() & py::array::c_style)))
    throw std::invalid_argument(std::string(name) + ": wrong dtype, shape or layout");
  if (write && !a.writeable()) throw std::invalid_argument(std::string(name) + ": read-only");
  return static_cast<T*>(const_cast<void*>(a.data()));
}

// From the memory pool, uninitialised; new_array() is the quicker one for small arrays.
py::array empty(const py::tuple& shape, const py::dtype& dtype);
py::array new_array(const py::dtype& dtype, const Index* sizes, int nd);

// A function of positional arguments, bound by hand: pybind11 takes longer over arguments than small calls take.
using FastFunction = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t);
inline PyMethodDef by_hand(const char* name, FastFunction function, const char* doc) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL, doc};
}

void add_weights(py::module_& module);
void add_sequences(py::module_& module);
void add_stream(py::module_& module);
void add_c_api(py::module_& module);
void add_explain(py::module_& module);
void add_recurrences(py::module_& module);
void add_selective_scan(py::module_& module);
void add_attention(py::module_& module);
void add_tokens(py::module_& module);
void add_windows(py::module_& module);

}  // namespace fusedrnn::python
