// Releasing Python's global lock (GIL) around a call, and calling back into Python, in threads that Python may end in
// the meantime. Only the bindings include this file.
//
// When the interpreter ends while a daemon thread is in a call, the thread must not get the GIL back. Up to Python 3.13
// the thread is ended by pthread_exit, which unwinds the stack like an exception: through destructors that may not
// throw, which ends the process, and through destructors of Python objects, which would run without the GIL. So the
// thread stops where it is, for the short time that the process still exists. Python 3.14 stops such threads itself.
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

#include <utility>

#if defined(__GLIBC__) && defined(__GLIBCXX__)
#include <cxxabi.h>
#define FUSEDRNN_UNWINDING_EXIT 1
#endif

#include "../core/run.h"

namespace fusedrnn::python {

namespace py = pybind11;

// Runs `call`, which may take the GIL or run Python code; does not return in a thread that Python ends.
template <class Call>
auto unless_ended(Call call) -> decltype(call()) {
#if defined(FUSEDRNN_UNWINDING_EXIT)
  try {
    return call();
  } catch (abi::__forced_unwind&) {
    for (;;) pause();  // leaving this block would end the process
  }
#else
  return call();
#endif
}

class GilReleased {
 public:
  GilReleased() : state_(PyEval_SaveThread()) {}
  ~GilReleased() {
    unless_ended([this] { PyEval_RestoreThread(state_); });
  }
  GilReleased(const GilReleased&) = delete;
  GilReleased& operator=(const GilReleased&) = delete;

 private:
  PyThreadState* state_;
};

// Checks for signals while a kernel runs without the GIL: at most every 50 ms, and only on the main thread, the only
// one on which Python handles signals. without_gil() raises the exception of the signal's handler.
class SignalWatch {
 public:
  SignalWatch();
  Interrupt interrupt() { return {main_ ? &SignalWatch::look : nullptr, this}; }

 private:
  static bool look(void* self);
  bool main_;
  long long next_;
};

// Runs `call` without the GIL; an exception of a signal handler is raised unchanged.
template <class Call>
auto without_gil(Call call) {
  SignalWatch watch;
  try {
    const GilReleased released;
    return call(watch.interrupt());
  } catch (const Interrupted&) {
    throw py::error_already_set();
  }
}

// The body of a function bound without pybind11: no C++ exception may leave it.
template <class Call>
PyObject* bound(Call call) {
  try {
    return py::object(call()).release().ptr();
  } catch (...) {
    py::detail::try_translate_exceptions();
    return nullptr;
  }
}

}  // namespace fusedrnn::python
